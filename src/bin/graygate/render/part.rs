//! The parts of a policy: one for each direction in which it does something.
//!
//! Probes are the app's own, so they go inbound; outbound they would answer what the app asks other services for. A
//! version is chosen where a cluster is, which is outbound. A gate stands before the cluster that it is on; that of a
//! version is outbound by any name, as requests get no version inbound.

use graygate::policy::document::Node;
use graygate::policy::gate::Fallback;
use graygate::policy::problem::Problems;
use graygate::policy::upstream::UpstreamId;
use graygate::policy::{Policy, probe};

use crate::istio::direction::Direction;
use crate::tree::{fields, items, set, text};

/// What of a policy is for one direction.
pub struct Part {
    /// The name of the policy that it is a part of.
    pub whole: String,
    /// Where it is.
    pub direction: Direction,
    /// What the user wrote of it.
    pub document: Node,
    /// What that means.
    pub policy: Policy,
}

/// The parts of the policy, inbound first; the whole of it, if a direction is given.
///
/// Two parts have names of their own, with the direction in it: in one proxy, policies of one name share what they know,
/// and take each other for an older or newer one of themselves. The part without a drain would end the other's.
pub fn parts(direction: Option<Direction>, document: &Node) -> Result<Vec<Part>, Problems> {
    let policy = Policy::from_document(document)?;
    let whole = policy.name.clone();
    if let Some(direction) = direction {
        return Ok(vec![Part { whole, direction, document: document.clone(), policy }]);
    }
    let mut parts: Vec<Part> = Vec::new();
    for direction in [Direction::Inbound, Direction::Outbound] {
        // The references can be asked for once they have a meaning, and then say which upstreams to keep.
        let meant = Policy::from_document(&only(document, &policy, direction, &|_| true))?;
        if is_idle(&meant) {
            continue;
        }
        let used: Vec<&str> = references(&meant).map(|id| meant.name_of(id)).collect();
        let document = only(document, &policy, direction, &|name| used.contains(&name));
        let policy = Policy::from_document(&document)?;
        parts.push(Part { whole: whole.clone(), direction, document, policy });
    }
    if parts.len() > 1 {
        for part in &mut parts {
            set(&mut part.document, "name", text(format!("{whole}-{}", part.direction.name())));
            part.policy = Policy::from_document(&part.document)?;
        }
    }
    Ok(parts)
}

/// Whether the policy does nothing to any request.
pub fn is_idle(policy: &Policy) -> bool {
    policy.probes.is_empty() && policy.releases.is_empty() && policy.gates.is_empty()
}

/// The upstreams that something of the policy refers to.
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
    components.chain(versions).chain(gates)
}

/// What of the document is for `direction`, with the upstreams that are to be kept.
fn only(document: &Node, policy: &Policy, direction: Direction, keep: &dyn Fn(&str) -> bool) -> Node {
    let inbound = direction == Direction::Inbound;
    let gates: Vec<Node> = policy
        .gates
        .iter()
        .zip(items(crate::tree::get(document, &["gates"])))
        .filter(|(gate, _)| {
            let cluster = policy.upstream(gate.upstream).map_or("", |upstream| upstream.cluster.as_str());
            let mut versions = policy.releases.iter().flat_map(|release| &release.versions);
            let outbound =
                cluster.starts_with("outbound|") || versions.any(|version| version.upstream == gate.upstream);
            outbound != inbound
        })
        .map(|(_, node)| node.clone())
        .collect();
    let field = |(key, value): &(String, Node)| {
        let value = match key.as_str() {
            "probes" if !inbound => return None,
            "releases" if inbound => return None,
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
        let parts = parts(None, &document).unwrap();
        parts
            .into_iter()
            .map(|part| (part.direction, serde_json::to_value(&part.document).unwrap()))
            .collect()
    }

    #[test]
    fn each_direction_gets_what_is_its_own_and_what_that_refers_to() {
        let version = |name: &str, default: bool| json!({"name": name, "upstream": name, "weight": 50, "default": default});
        let release = json!({"name": "r", "steer": {"header": "x-v"}, "versions": [version("v1", true), version("v2", false)]});
        let probes = json!({
            "startup": {"path": "/startupz", "checks": [{"upstream": "db"}]},
            "groups": {"deep": {"path": "/deepz", "checks": [{"upstream": "v1"}]}},
        });
        let fallback = json!({"upstream": "spare", "clusterHeader": "x-c"});
        let inner = json!({"upstream": "app", "fallback": fallback});
        let outer = json!({"upstream": "search"});
        let cluster = |name: &str| json!({"cluster": name});
        let policy = json!({
            "name": "a", "mode": "shadow", "rollout": {"percent": 5},
            "upstreams": {
                "app": cluster("app"), "spare": cluster("outbound|80||spare"), "db": cluster("db"),
                "search": cluster("outbound|80||search"), "v1": cluster("outbound|80|v1|s"),
                "v2": cluster("outbound|80|v2|s"), "unused": cluster("x"),
            },
            "probes": probes, "releases": [release], "gates": [outer, inner], "maxGatedPercent": 50,
        });
        let found = split(policy);
        let inbound = json!({
            "name": "a-inbound", "mode": "shadow", "rollout": {"percent": 5},
            "upstreams": {"app": cluster("app"), "spare": cluster("outbound|80||spare"), "db": cluster("db"), "v1": cluster("outbound|80|v1|s")},
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
    fn a_gate_on_a_version_is_outbound_whatever_its_cluster_is_called() {
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
    fn a_direction_with_nothing_to_do_has_no_part() {
        let probes = json!({"name": "a", "probes": {"liveness": {"path": "/livez"}}, "maxGatedPercent": 50});
        let bare = json!({"name": "a", "probes": {"liveness": {"path": "/livez"}}});
        assert_eq!(split(probes), [(Direction::Inbound, bare)]);
        assert_eq!(split(json!({"name": "a", "upstreams": {"u": {"cluster": "u"}}})), []);
    }
}
