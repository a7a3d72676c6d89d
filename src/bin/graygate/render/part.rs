//! Splits a policy into parts, one for each direction in which it does something.
//!
//! - Probes are inbound, as they are for the app itself. Outbound, they would answer requests of the app to other services.
//! - Releases are outbound, as a version is a choice between clusters.
//! - Gates are where the cluster of their upstream is. A gate on the upstream of a version is always outbound, whatever its
//!   cluster is called, as requests get no version inbound.

use graygate::policy::document::Node;
use graygate::policy::gate::Fallback;
use graygate::policy::module::ModuleKind;
use graygate::policy::problem::Problems;
use graygate::policy::upstream::UpstreamId;
use graygate::policy::{Policy, probe};

use crate::istio::direction::Direction;
use crate::tree::{fields, items, list, object, set, text};

/// The parts of all policies for one direction. They are the document of one plugin.
pub struct Bundle {
    /// The direction of the parts.
    pub direction: Direction,
    /// The parts, in the order of the policies.
    pub parts: Vec<Part>,
    /// The document of the plugin.
    pub document: Node,
}

impl Bundle {
    /// Returns the policies.
    pub fn policies(&self) -> Vec<&Policy> {
        self.parts.iter().map(|part| &part.policy).collect()
    }

    /// Returns whether a policy sends checks to this cluster.
    pub fn is_checked(&self, cluster: &str) -> bool {
        let mut upstreams = self.parts.iter().flat_map(|part| &part.policy.upstreams);
        upstreams.any(|upstream| upstream.cluster == cluster && upstream.check.is_some())
    }
}

/// The part of a policy for one direction.
pub struct Part {
    /// The file that the policy is from.
    pub file: String,
    /// The name of the whole policy.
    pub policy_name: String,
    /// The direction of the part.
    pub direction: Direction,
    /// The document of the part, with the values that the user wrote.
    pub document: Node,
    /// The policy that the document compiles to.
    pub policy: Policy,
}

impl Part {
    /// Returns whether the part has this key of the whole policy, which only the full module can serve. A part may have fewer
    /// gates, so their places differ.
    pub fn needs_full(&self, key: &str) -> bool {
        let name = |key: &str| match key.strip_prefix("gates[").and_then(|key| key.split_once(']')) {
            Some((_, rest)) => rest.to_owned(),
            None => key.to_owned(),
        };
        ModuleKind::Requests.missing(&self.policy).iter().any(|own| name(own) == name(key))
    }
}

/// Returns the parts of the policy, inbound first. Returns the whole policy as one part if a direction is given.
///
/// If there are two parts, each has its direction in its name. Policies with the same name in one proxy share their
/// state, and take each other for another version of themselves. The part without a drain would then end the other's
/// drain.
///
/// # Errors
///
/// Returns the problems of the policy.
pub fn parts(direction: Option<Direction>, file: &str, document: &Node) -> Result<Vec<Part>, Problems> {
    let policy = Policy::from_document(document)?;
    let (file, policy_name) = (file.to_owned(), policy.name.clone());
    if let Some(direction) = direction {
        return Ok(vec![Part { file, policy_name, direction, document: document.clone(), policy }]);
    }
    let mut parts: Vec<Part> = Vec::new();
    for direction in [Direction::Inbound, Direction::Outbound] {
        // Compiles once with all upstreams, to find out which of them the part refers to.
        let complete = Policy::from_document(&document_for(direction, document, &policy, &|_| true))?;
        if is_idle(&complete) {
            continue;
        }
        let used: Vec<&str> = references(&complete).map(|id| complete.name_of(id)).collect();
        let document = document_for(direction, document, &policy, &|name| used.contains(&name));
        let policy = Policy::from_document(&document)?;
        let (file, policy_name) = (file.clone(), policy_name.clone());
        parts.push(Part { file, policy_name, direction, document, policy });
    }
    if parts.len() > 1 {
        for part in &mut parts {
            set(&mut part.document, "name", text(format!("{policy_name}-{}", part.direction.name())));
            part.policy = Policy::from_document(&part.document)?;
        }
    }
    Ok(parts)
}

/// Puts the parts of each direction together. Each document says what happens if it is wrong. `is_list` is whether it has
/// the form for several policies.
pub fn bundles(parts: Vec<Part>, is_list: bool, on_wrong_policy: &str) -> Vec<Bundle> {
    let mut bundles: Vec<Bundle> = Vec::new();
    for part in parts {
        match bundles.iter_mut().find(|bundle| bundle.direction == part.direction) {
            Some(bundle) => bundle.parts.push(part),
            None => {
                bundles.push(Bundle { direction: part.direction, parts: vec![part], document: Node::Null });
            }
        }
    }
    bundles.sort_by_key(|bundle| bundle.direction);
    for bundle in &mut bundles {
        let documents = || bundle.parts.iter().map(|part| part.document.clone());
        let mut document = match documents().next() {
            Some(document) if !is_list => document,
            _ => object([("policies", list(documents()))]),
        };
        set(&mut document, "onWrongPolicy", text(on_wrong_policy));
        bundle.document = document;
    }
    bundles
}

/// Returns whether the policy has no effect on any request.
pub fn is_idle(policy: &Policy) -> bool {
    policy.probes.is_empty() && policy.releases.is_empty() && policy.gates.is_empty()
}

/// Returns the upstreams that probes, releases and gates refer to. May return an upstream more than once.
pub fn references(policy: &Policy) -> impl Iterator<Item = UpstreamId> + '_ {
    let checks = policy.probes.endpoints.iter().filter_map(probe::Probe::checks);
    let components = checks.flat_map(|checks| &checks.components).map(|component| component.upstream);
    let versions =
        policy.releases.iter().flat_map(|release| &release.versions).map(|version| version.upstream);
    let gates = policy.gates.iter().flat_map(|gate| {
        let fallback = match &gate.fallback {
            Some(Fallback::Upstream { upstream, .. }) => Some(*upstream),
            Some(Fallback::Answer(_)) | None => None,
        };
        [Some(gate.upstream), fallback].into_iter().flatten()
    });
    let drain = policy.probes.drain.iter().filter_map(|drain| drain.also_when);
    components.chain(versions).chain(gates).chain(drain)
}

/// Returns the part of the document for `direction`, with the upstreams whose names `keep` accepts.
fn document_for(direction: Direction, document: &Node, policy: &Policy, keep: &dyn Fn(&str) -> bool) -> Node {
    let is_inbound = direction == Direction::Inbound;
    let gates: Vec<Node> = policy
        .gates
        .iter()
        .zip(items(crate::tree::get(document, &["gates"])))
        .filter(|(gate, _)| {
            let cluster = policy.upstream(gate.upstream).map_or("", |upstream| upstream.cluster.as_str());
            let mut versions = policy.releases.iter().flat_map(|release| &release.versions);
            let is_outbound =
                cluster.starts_with("outbound|") || versions.any(|version| version.upstream == gate.upstream);
            is_outbound != is_inbound
        })
        .map(|(_, node)| node.clone())
        .collect();
    let field = |(key, value): &(String, Node)| {
        let value = match key.as_str() {
            "probes" if !is_inbound => return None,
            "releases" if is_inbound => return None,
            "gates" | "maxGatedPercent" if gates.is_empty() => return None,
            "gates" => Node::List(gates.clone()),
            "upstreams" => {
                let kept: Vec<_> = fields(value).iter().filter(|(name, _)| keep(name)).cloned().collect();
                if kept.is_empty() {
                    return None;
                }
                Node::Object(kept)
            }
            _ => value.clone(),
        };
        Some((key.clone(), value))
    };
    Node::Object(fields(document).iter().filter_map(field).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn split(policy: serde_json::Value) -> Vec<(Direction, serde_json::Value)> {
        let document: Node = serde_json::from_value(policy).unwrap();
        let parts = parts(None, "policy.yaml", &document).unwrap();
        parts
            .into_iter()
            .map(|part| (part.direction, serde_json::to_value(&part.document).unwrap()))
            .collect()
    }

    #[test]
    fn each_part_has_the_sections_of_its_direction_and_the_upstreams_they_refer_to() {
        let version = |name: &str, default: bool| json!({"name": name, "upstream": name, "weight": 50, "default": default});
        let release = json!({"name": "r", "steer": {"header": "x-v"}, "versions": [version("v1", true), version("v2", false)]});
        let probes = json!({
            "startup": {"path": "/startupz", "checks": [{"upstream": "db"}]},
            "groups": {"deep": {"path": "/deepz", "checks": [{"upstream": "v1"}]}},
            "drain": {"alsoWhen": {"upstream": "envoy"}},
        });
        let fallback = json!({"upstream": "spare", "clusterHeader": "x-c"});
        let inner = json!({"upstream": "app", "fallback": fallback});
        let outer = json!({"upstream": "search"});
        let cluster = |name: &str| json!({"cluster": name});
        let checked =
            json!({"cluster": "prometheus_stats", "readinessProbe": {"httpGet": {"path": "/ready"}}});
        let policy = json!({
            "name": "a", "mode": "shadow", "rollout": {"percent": 5},
            "upstreams": {
                "app": cluster("app"), "spare": cluster("outbound|80||spare"), "db": cluster("db"),
                "search": cluster("outbound|80||search"), "v1": cluster("outbound|80|v1|s"),
                "v2": cluster("outbound|80|v2|s"), "envoy": checked, "unused": cluster("x"),
            },
            "probes": probes, "releases": [release], "gates": [outer, inner], "maxGatedPercent": 50,
        });
        let found = split(policy);
        let inbound = json!({
            "name": "a-inbound", "mode": "shadow", "rollout": {"percent": 5},
            "upstreams": {"app": cluster("app"), "spare": cluster("outbound|80||spare"), "db": cluster("db"), "v1": cluster("outbound|80|v1|s"), "envoy": checked},
            "probes": probes, "gates": [inner], "maxGatedPercent": 50,
        });
        let outbound = json!({
            "name": "a-outbound", "mode": "shadow", "rollout": {"percent": 5},
            "upstreams": {"search": cluster("outbound|80||search"), "v1": cluster("outbound|80|v1|s"), "v2": cluster("outbound|80|v2|s")},
            "releases": [release], "gates": [outer], "maxGatedPercent": 50,
        });
        assert_eq!(found, [(Direction::Inbound, inbound), (Direction::Outbound, outbound)]);
    }

    #[test]
    fn a_gate_on_the_upstream_of_a_version_is_outbound_whatever_its_cluster() {
        let release = json!({
            "name": "r", "steer": {"header": "x-v"},
            "versions": [{"name": "v1", "upstream": "v1", "weight": 1, "default": true}],
        });
        let found = split(json!({
            "name": "a", "upstreams": {"v1": {"cluster": "of-my-own"}, "app": {"cluster": "app"}},
            "releases": [release], "gates": [{"upstream": "v1"}, {"upstream": "app"}],
        }));
        let gates: Vec<_> =
            found.iter().map(|(direction, part)| (*direction, part["gates"].clone())).collect();
        let inbound = (Direction::Inbound, json!([{"upstream": "app"}]));
        assert_eq!(gates, [inbound, (Direction::Outbound, json!([{"upstream": "v1"}]))]);
    }

    #[test]
    fn a_direction_without_an_effect_has_no_part() {
        let probes = json!({"name": "a", "probes": {"liveness": {"path": "/livez"}}, "maxGatedPercent": 50});
        let bare = json!({"name": "a", "probes": {"liveness": {"path": "/livez"}}});
        assert_eq!(split(probes), [(Direction::Inbound, bare)]);
        assert_eq!(split(json!({"name": "a", "upstreams": {"u": {"cluster": "u"}}})), []);
    }
}
