//! The rule that releases and gates are for some hosts.
//!
//! Outbound, and at gateways and waypoints, the filter sees requests for all hosts. A `match` that names none is for every
//! service of a mesh. Without a `match`, a gate goes by the routes, and a release by the hosts of its clusters. Requests at
//! a gateway are not for these hosts, so a release there must name those of the Gateway. Inbound, all requests are for the
//! app, but their routes lead to clusters that no filter can call.

use graygate::policy::Policy;
use graygate::policy::document::Node;
use graygate::policy::problem::Problem;
use graygate::policy::release::Release;
use graygate::value::authority::Authority;
use graygate::value::host;

use super::direction::Direction;
use crate::tree::{get, items};

/// Returns a problem for each release and gate that is for every host. `gateway_hosts` are those of the Gateways, as far as
/// they are known.
pub fn problems(
    direction: Direction,
    document: &Node,
    policy: &Policy,
    gateway_hosts: &[String],
) -> Vec<Problem> {
    if direction == Direction::Inbound {
        return gates_of_no_route(policy);
    }
    let of_policy = named_hosts(document);
    let is_limited = !of_policy.is_empty();
    let gateway_hosts = if is_limited { &of_policy } else { gateway_hosts };
    let has_match = |list: &str, index: usize| {
        let item = items(get(document, &[list])).get(index);
        !items(item.and_then(|item| get(item, &["match"]))).is_empty()
    };
    let at_gateway = direction == Direction::Gateway;
    let mut problems = Vec::new();
    for (index, release) in policy.releases.iter().enumerate() {
        let path = format!("releases[{index}]");
        let clusters = release.versions.iter().map(|version| version.cluster.as_str());
        let of_clusters = hosts_of(clusters);
        let known = if at_gateway { gateway_hosts } else { &of_clusters };
        let hosts = listed(known);
        let entry = format!("match: [{{hosts: {hosts}}}]");
        if has_match("releases", index) {
            if !is_limited && !release.matches.name_hosts() {
                let is_implied = !at_gateway && names_hosts(release);
                let instead = if is_implied {
                    ", or remove match to act on the hosts of the versions' clusters"
                } else {
                    ""
                };
                problems.push(Problem {
                    path: format!("{path}.match"),
                    message: format!(
                        "names no host, so requests to every host get a version of {}. Add hosts: {hosts} to each entry{instead}.",
                        release.name
                    ),
                });
            }
        } else if at_gateway {
            problems.push(Problem {
                path,
                message: format!(
                    "has no match, so it would act on the hosts of its versions' clusters. A gateway's requests are for the hosts of its Gateway. Add {entry} with those."
                ),
            });
        } else if is_limited && names_hosts(release) && !acts_for(policy, release) {
            problems.push(Problem {
                path,
                message: format!(
                    "has no match, and acts on the hosts of its versions' clusters, {}, which are not in hosts of the policy, {}; allowed: {} in hosts, or a match with hosts: {}",
                    of_clusters.join(", "),
                    of_policy.join(", "),
                    of_clusters.join(", "),
                    listed(&of_policy)
                ),
            });
        } else if !is_limited && !names_hosts(release) {
            problems.push(Problem {
                path,
                message: format!(
                    "has no match, so requests to every host get a version of {}. Only clusters of Istio have a host in their names. Add {entry}, or use such clusters.",
                    release.name
                ),
            });
        }
    }
    for (index, gate) in policy.gates.iter().enumerate() {
        if is_limited || !has_match("gates", index) || gate.matches.name_hosts() {
            continue;
        }
        let upstream = policy.name_of(gate.upstream);
        let cluster = policy.upstream(gate.upstream).map_or("", |upstream| upstream.cluster.as_str());
        let of_cluster = hosts_of([cluster]);
        let known = if at_gateway { gateway_hosts } else { &of_cluster };
        problems.push(Problem {
            path: format!("gates[{index}].match"),
            message: format!(
                "names no host, so requests to every host are stopped while {upstream} is not ready. Add hosts: {} to each entry, or remove match to act on the requests whose route leads to {upstream}.",
                listed(known)
            ),
        });
    }
    problems
}

/// Returns `hosts` of a policy. Empty means every host.
fn named_hosts(document: &Node) -> Vec<String> {
    let hosts = items(get(document, &["hosts"])).iter();
    hosts
        .filter_map(|host| match host {
            Node::Text(text) => Some(text.clone()),
            _ => None,
        })
        .collect()
}

/// Returns whether requests for any host of the release's clusters are for the policy.
fn acts_for(policy: &Policy, release: &Release) -> bool {
    let hosts = release.versions.iter().filter_map(|version| host::of_cluster(&version.cluster));
    let mut names = hosts.flat_map(|name| [name, host::shortest(name)]);
    names.any(|name| policy.hosts.include(&Authority::of(name.as_bytes())))
}

/// Returns a problem for each gate of a sidecar's own app that goes by the route, and whose cluster no route leads to.
fn gates_of_no_route(policy: &Policy) -> Vec<Problem> {
    let gates = policy.gates.iter().enumerate().filter(|(_, gate)| gate.matches.is_empty());
    let found = gates.filter_map(|(index, gate)| {
        let cluster = &policy.upstream(gate.upstream)?.cluster;
        (!cluster.starts_with("inbound|")).then(|| Problem {
            path: format!("gates[{index}]"),
            message: format!(
                "has no match, and no inbound route leads to {cluster:?}, so the gate would stop no request. Istio's routes to the app lead to inbound|PORT||. Add match: [{{hosts: [\"*\"]}}] for every request to the app."
            ),
        })
    });
    found.collect()
}

/// Returns whether the names of all clusters of the versions have a host.
fn names_hosts(release: &Release) -> bool {
    !release.versions.is_empty()
        && release.versions.iter().all(|version| host::of_cluster(&version.cluster).is_some())
}

/// Returns the hosts in the names of clusters, each once.
fn hosts_of<'c>(clusters: impl IntoIterator<Item = &'c str>) -> Vec<String> {
    let mut hosts: Vec<String> = clusters
        .into_iter()
        .filter_map(host::of_cluster)
        .map(|name| host::shortest(name).to_owned())
        .collect();
    hosts.sort_unstable();
    hosts.dedup();
    hosts
}

/// Returns a list of hosts, ready to paste.
fn listed(hosts: &[String]) -> String {
    if hosts.is_empty() { "[HOST]".to_owned() } else { format!("[{}]", hosts.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const CLUSTER: &str = "outbound|9080|v1|reviews.shop.svc.cluster.local";

    fn found(direction: Direction, release: Value, gate: Value, cluster: &str, more: Value) -> Vec<String> {
        let version = json!({"name": "v1", "upstream": "v1", "weight": 1, "default": true});
        let mut document = json!({"name": "a", "upstreams": {"v1": {"cluster": cluster}},
            "releases": [{"name": "r", "steer": {"header": "x-v"}, "versions": [version]}], "gates": [{"upstream": "v1"}]});
        for (list, value) in [("releases", release), ("gates", gate)] {
            document[list][0].as_object_mut().unwrap().extend(value.as_object().unwrap().clone());
        }
        if more != Value::Null {
            document["hosts"] = more;
        }
        let document: Node = serde_json::from_value(document).unwrap();
        let policy = Policy::from_document(&document).unwrap();
        problems(direction, &document, &policy, &["www.example.com".to_owned()])
            .iter()
            .map(Problem::to_string)
            .collect()
    }

    #[test]
    fn a_match_without_a_host_is_a_problem_except_inbound_and_in_a_policy_with_hosts() {
        let wide = || json!({"match": [{"uri": {"prefix": "/"}}]});
        for (direction, host) in [
            (Direction::Outbound, "reviews.shop"),
            (Direction::Waypoint, "reviews.shop"),
            (Direction::Gateway, "www.example.com"),
        ] {
            let found = found(direction, wide(), wide(), CLUSTER, Value::Null);
            assert_eq!(found.len(), 2, "{found:?}");
            for (problem, path) in found.iter().zip(["releases[0].match: ", "gates[0].match: "]) {
                assert!(
                    problem.starts_with(path) && problem.contains(&format!("hosts: [{host}]")),
                    "{problem}"
                );
            }
        }
        assert!(found(Direction::Inbound, wide(), wide(), CLUSTER, Value::Null).is_empty());
        assert!(found(Direction::Outbound, wide(), wide(), CLUSTER, json!(["reviews.shop"])).is_empty());
        let named = || json!({"match": [{"hosts": ["reviews.shop"], "uri": {"prefix": "/"}}]});
        assert!(found(Direction::Gateway, named(), named(), CLUSTER, Value::Null).is_empty());
    }

    #[test]
    fn a_release_without_a_match_must_act_on_hosts_of_the_policy() {
        for (direction, hosts, words) in [
            (Direction::Outbound, json!(["reviews.shop"]), None),
            (Direction::Waypoint, json!(["*.shop"]), None),
            (Direction::Outbound, json!(["*.shop.svc.cluster.local"]), None),
            (Direction::Outbound, json!(["www.example.com"]), Some("a match with hosts: [www.example.com]")),
            (Direction::Gateway, json!(["www.example.com"]), Some("match: [{hosts: [www.example.com]}]")),
        ] {
            let found = found(direction, json!({}), json!({}), CLUSTER, hosts);
            match words {
                None => assert!(found.is_empty(), "{found:?}"),
                Some(words) => assert!(matches!(&found[..], [one] if one.contains(words)), "{found:?}"),
            }
        }
    }

    #[test]
    fn without_a_match_a_gate_goes_by_the_routes_and_a_release_by_the_hosts_of_its_clusters() {
        for cluster in [CLUSTER, "inbound-vip|9080|http/v1|reviews.shop.svc.cluster.local"] {
            for direction in [Direction::Outbound, Direction::Waypoint] {
                assert!(found(direction, json!({}), json!({}), cluster, Value::Null).is_empty(), "{cluster}");
            }
        }
        for (direction, cluster, words) in [
            (Direction::Outbound, "mine", "Only clusters of Istio have a host in their names"),
            (Direction::Waypoint, "mine", "match: [{hosts: [HOST]}]"),
            (Direction::Gateway, CLUSTER, "Add match: [{hosts: [www.example.com]}] with those."),
        ] {
            let found = found(direction, json!({}), json!({}), cluster, Value::Null);
            assert!(matches!(&found[..], [problem] if problem.contains(words)), "{found:?}");
        }
    }

    #[test]
    fn inbound_a_gate_without_a_match_is_refused_unless_its_cluster_is_that_of_the_route() {
        for cluster in ["graygate-app", "agent", CLUSTER] {
            let found = found(Direction::Inbound, json!({}), json!({}), cluster, Value::Null);
            let is_named = |problem: &String| problem.starts_with("gates[0]: ") && problem.contains(cluster);
            assert!(matches!(&found[..], [problem] if is_named(problem)), "{found:?}");
        }
        assert!(found(Direction::Inbound, json!({}), json!({}), "inbound|8080||", Value::Null).is_empty());
    }
}
