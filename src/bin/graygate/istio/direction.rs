//! The directions in which the filter can see requests in a mesh, and the limits on a policy in each.

use std::net::IpAddr;

use clap::ValueEnum;
use graygate::policy::document::Node;
use graygate::policy::probe::Basis;
use graygate::policy::problem::Problem;
use graygate::policy::reader::segment;
use graygate::policy::{Mode, Policy};

use crate::tree::get;

/// The requests that the filter sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Direction {
    /// Those that come to a sidecar's own app
    Inbound,
    /// Those that a sidecar's app sends to others
    Outbound,
    /// Those that come to a gateway
    Gateway,
    /// Those that come to the services of a waypoint
    Waypoint,
}

impl Direction {
    /// Returns the direction's name on the command line and in names of resources.
    pub fn name(self) -> &'static str {
        match self {
            Direction::Inbound => "inbound",
            Direction::Outbound => "outbound",
            Direction::Gateway => "gateway",
            Direction::Waypoint => "waypoint",
        }
    }

    /// Returns the mode that adds a WasmPlugin or TrafficExtension in this direction. For Istio, a gateway is always a
    /// client and a waypoint is always a server.
    pub fn mode(self) -> &'static str {
        match self {
            Direction::Inbound | Direction::Waypoint => "SERVER",
            Direction::Outbound | Direction::Gateway => "CLIENT",
        }
    }

    /// Returns the context in which an EnvoyFilter finds listeners, routes and clusters of this direction. A waypoint
    /// uses the inbound one, as nothing reads the context that Istio names after it.
    pub fn context(self) -> &'static str {
        match self {
            Direction::Inbound | Direction::Waypoint => "SIDECAR_INBOUND",
            Direction::Outbound => "SIDECAR_OUTBOUND",
            Direction::Gateway => "GATEWAY",
        }
    }
}

/// Returns a problem with the value at `path`, worded like the problems of a policy.
pub fn refused(path: impl Into<String>, value: &str, reason: &str, allowed: &str) -> Problem {
    let message = format!("{value} is not allowed there: {reason}; allowed: {allowed}");
    Problem { path: path.into(), message }
}

/// Returns the problems of a policy in `direction`. `document` is the document that the policy was compiled from.
pub fn problems(direction: Direction, document: &Node, policy: &Policy) -> Vec<Problem> {
    let mut problems = Vec::new();
    if let (Direction::Inbound, Some(releases)) = (direction, get(document, &["releases"]))
        && !policy.releases.is_empty()
    {
        let reason = "inbound, all requests go to the one app, whatever version they are given";
        problems.push(refused("releases", &releases.to_string(), reason, "outbound, gateway, waypoint"));
    }
    if let (Direction::Outbound, Some(probes)) = (direction, get(document, &["probes"]))
        && !policy.probes.is_empty()
    {
        let reason =
            "outbound, what the app asks other services for by these paths would be answered in their stead";
        problems.push(refused("probes", &probes.to_string(), reason, "inbound, gateway, waypoint"));
    }
    problems.extend(uncallable_clusters(policy));
    problems
}

/// Returns a problem for each upstream that the filter calls and whose cluster has no address to call. The filter calls
/// an upstream for a `readinessProbe`, and for a probe whose `passThrough` names it.
fn uncallable_clusters(policy: &Policy) -> impl Iterator<Item = Problem> {
    let is_passed_to = |id| {
        let is_to = |basis: &Basis| matches!(basis, Basis::App(rule) if rule.upstream == Some(id));
        policy.probes.endpoints.iter().any(|probe| is_to(&probe.basis))
    };
    let called = policy.upstream_ids().filter_map(move |(id, upstream)| {
        let what = if upstream.check.is_some() { "a readinessProbe" } else { "a call for passThrough" };
        (upstream.check.is_some() || is_passed_to(id)).then_some((upstream, what))
    });
    called.filter_map(|(upstream, what)| {
        let reason = match upstream.cluster.as_str() {
            name if name.starts_with("inbound|") => {
                format!("it takes the address from the connection that a request came by, and {what} comes by none")
            }
            "PassthroughCluster" | "InboundPassthroughCluster" => {
                format!("it sends a request to where it was going, and {what} goes nowhere by itself")
            }
            "BlackHoleCluster" => "it has no host".to_owned(),
            _ => return None,
        };
        let path = format!("upstreams{}.cluster", segment("upstreams", &upstream.name));
        let allowed = "outbound|PORT|SUBSET|HOST, agent, or a cluster with an address of its own, as --callout CLUSTER=IP:PORT adds it";
        Some(refused(path, &format!("{:?}", upstream.cluster), &reason, allowed))
    })
}

/// Returns a problem if a restriction to ports would keep the filter out of every listener.
pub fn port_problem(direction: Direction, path: &str, ports: &[u32]) -> Option<Problem> {
    let first = ports.first().filter(|_| direction == Direction::Waypoint)?;
    let reason = "a waypoint's listener has port 0, so no port ever matches";
    Some(refused(path, &first.to_string(), reason, "none at a waypoint"))
}

/// Returns a problem for each path that every peer could use although it is not for all, at a listener that the filter adds
/// to a sidecar: the drain switch and the status page.
///
/// If Istio has no listener for inbound traffic, it forwards the traffic to its port. The source address is then always
/// 127.0.0.6, whoever the client is.
pub fn source_problems(policy: &Policy) -> Vec<Problem> {
    let forwarded_source = IpAddr::from([127, 0, 0, 6]);
    let drain = policy.probes.drain.iter().filter(|drain| drain.path.is_some());
    let drain = drain.map(|drain| ("probes.drain.from", &drain.from));
    let paths = drain.chain(policy.probes.status.iter().map(|page| ("probes.status.from", &page.from)));
    let problems = paths.filter_map(|(path, from)| {
        let too_wide = from.iter().find(|block| block.contains(&forwarded_source))?;
        let reason = "a listener of a sidecar's own gets what all peers send to its port from 127.0.0.6";
        Some(refused(path, &format!("\"{too_wide}\""), reason, "\"127.0.0.1/32\", \"::1/128\""))
    });
    problems.collect()
}

/// Returns a warning if the policy's mode keeps the filter from answering its probes. `own_listener` is whether nothing is
/// behind the filter that would answer them instead.
pub fn off_warning(policy: &Policy, own_listener: bool) -> Option<String> {
    if policy.mode != Mode::Off || policy.probes.is_empty() {
        return None;
    }
    let effect = match own_listener {
        true => "nothing else on this listener answers them, so they fail and the kubelet restarts the Pods",
        false => "they go on to what is behind the filter, such as the app",
    };
    let remedy = "Write shadow to stop releases and gates only, or aim the probes elsewhere first";
    Some(format!("mode: off: the filter does not answer the policy's probes; {effect}. {remedy}."))
}

/// Explains why Istio does not make this cluster in this direction, if the cluster belongs to another direction.
pub fn wrong_direction(direction: Direction, cluster: &str) -> Option<&'static str> {
    match (direction, cluster.split_once('|')) {
        (Direction::Waypoint, Some(("outbound", _))) => Some(
            "a waypoint's routes lead to inbound-vip|PORT|http/SUBSET|HOST; it has outbound|PORT|SUBSET|HOST only for services that are not behind it, where something refers to them",
        ),
        (Direction::Inbound | Direction::Outbound | Direction::Gateway, Some(("inbound-vip", _))) => {
            Some("only a waypoint has such clusters")
        }
        _ => None,
    }
}

/// Returns whether Istio itself makes this cluster.
pub fn is_istio_cluster(cluster: &str) -> bool {
    ["outbound|", "inbound-vip|"].iter().any(|start| cluster.starts_with(start))
        || ["agent", "prometheus_stats", "xds-grpc"].contains(&cluster)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Returns the paths of the problems of a policy in a direction.
    fn problem_paths(direction: Direction, policy: serde_json::Value) -> Vec<String> {
        let document: Node = serde_json::from_value(policy).unwrap();
        let policy = Policy::from_document(&document).unwrap();
        problems(direction, &document, &policy).into_iter().map(|problem| problem.path).collect()
    }

    #[test]
    fn probes_are_refused_outbound_and_releases_are_refused_inbound() {
        let probes = json!({"name": "a", "probes": {"liveness": {"path": "/livez"}}});
        let releases = json!({"name": "a", "upstreams": {"u": {"cluster": "u"}}, "releases": [{
            "name": "r", "steer": {"header": "x-v"}, "versions": [{"name": "v", "upstream": "u", "weight": 1, "default": true}]}]});
        assert_eq!(problem_paths(Direction::Outbound, probes.clone()), ["probes"]);
        assert_eq!(problem_paths(Direction::Inbound, releases.clone()), ["releases"]);
        for direction in [Direction::Gateway, Direction::Waypoint] {
            assert!(problem_paths(direction, probes.clone()).is_empty());
            assert!(problem_paths(direction, releases.clone()).is_empty());
        }
        assert!(problem_paths(Direction::Inbound, probes).is_empty());
        assert!(problem_paths(Direction::Outbound, releases).is_empty());
    }

    #[test]
    fn a_check_and_a_probe_that_passes_through_need_a_cluster_with_an_address() {
        let with = |cluster: &str| {
            let upstream = json!({"cluster": cluster, "readinessProbe": {"httpGet": {}}});
            problem_paths(Direction::Gateway, json!({"name": "a", "upstreams": {"u.1": upstream}}))
        };
        for cluster in
            ["inbound|8080||", "PassthroughCluster", "InboundPassthroughCluster", "BlackHoleCluster"]
        {
            assert_eq!(with(cluster), ["upstreams[\"u.1\"].cluster"], "{cluster}");
        }
        for cluster in ["outbound|80||a.b", "inbound-vip|80|http|a.b", "agent", "mine"] {
            assert!(with(cluster).is_empty(), "{cluster}");
        }
        let through = json!({"path": "/livez", "passThrough": {"cacheSeconds": 2, "upstream": "u"}});
        for (cluster, refused) in [("inbound|8080||", true), ("mine", false)] {
            let passed_to = json!({
                "name": "a", "upstreams": {"u": {"cluster": cluster}}, "probes": {"liveness": through},
            });
            assert_eq!(!problem_paths(Direction::Inbound, passed_to).is_empty(), refused, "{cluster}");
        }
        let unchecked = json!({"name": "a", "upstreams": {"u": {"cluster": "inbound|8080||"}}});
        assert!(problem_paths(Direction::Inbound, unchecked).is_empty());
    }
}
