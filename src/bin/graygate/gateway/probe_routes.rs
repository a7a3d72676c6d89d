//! Checks that each path of a probe has a route. The filter is on by route, and Envoy responds 404 to a path without one.

use graygate::policy::Policy;
use graygate::policy::probe::{GRPC_HEALTH, ProbeKind};
use graygate::policy::reader::segment;

use super::extension::ExtensionPolicy;
use super::findings::GatewayFindings;
use super::placement::Placement;

/// A path that the filter answers.
struct ProbePath {
    /// The path to it in the policy.
    key: String,
    method: &'static str,
    path: String,
}

/// Reports the paths of a policy that no rule takes. `object` is the index of the resource with the policy.
pub fn check(
    object: usize,
    of: &ExtensionPolicy,
    placement: &Placement<'_, '_>,
    findings: &mut GatewayFindings,
) {
    if placement.is_partial {
        return;
    }
    let names: Vec<String> = placement.routes.iter().map(|placed| placed.route.object.to_string()).collect();
    for ProbePath { key, method, path } in paths(&of.policy) {
        let takes = |placed: &&super::placement::PlacedRoute<'_, '_>| {
            placed.rules().any(|(_, rule)| rule.matches.iter().any(|item| item.takes_all(method, &path)))
        };
        let taking: Vec<_> = placement.routes.iter().filter(takes).collect();
        let at = format!("{}.probes.{key}", of.path);
        if taking.is_empty() {
            findings.problem(object, at, format!("{path:?}: no rule of {} takes each {method} of this path. The filter is on by route, so Envoy responds 404. Add a rule with matches: [{{path: {{type: Exact, value: {path}}}}}]", names.join(", ")));
        } else if of.policy.hosts.are_all()
            && let Some(placed) = taking.first()
            && taking.iter().all(|placed| !placed.route.hostnames.is_empty())
        {
            findings.warning(object, at, format!("{path:?}: {} is for {} alone, so a probe with another host is 404, such as that of a load balancer, which sends an IP address. Put the rule into an HTTPRoute without hostnames", placed.route.object, placed.route.hostnames.join(", ")));
        }
    }
}

/// Returns the paths that the filter answers, by their keys below `probes`.
fn paths(policy: &Policy) -> Vec<ProbePath> {
    let probes = &policy.probes;
    let mut found = Vec::new();
    for probe in &probes.endpoints {
        let key = match probe.kind {
            ProbeKind::Group => format!("groups{}.path", segment("groups", &probe.name)),
            _ => format!("{}.path", probe.name),
        };
        found.push(ProbePath { key, method: "GET", path: probe.path.clone() });
    }
    let path =
        |key: &str, method, path: &str| ProbePath { key: key.to_owned(), method, path: path.to_owned() };
    found.extend(probes.drain_path().map(|drain| path("drain.path", "POST", drain)));
    found.extend(probes.status.iter().map(|page| path("status.path", "GET", &page.path)));
    if !probes.grpc_services.is_empty() {
        found.push(path("grpc", "POST", &format!("{GRPC_HEALTH}Check")));
    }
    found
}
