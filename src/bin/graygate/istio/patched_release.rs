//! Checks releases that steer by a header which only a route of an EnvoyFilter reads.

use graygate::policy::Policy;
use graygate::policy::gate::Fallback;
use graygate::policy::spelling::nearest;

use super::findings::Findings;
use super::patched_route::RoutePatch;
use super::placed_release::PlacedRelease;
use super::route::{Route, RouteAction};
use super::route_walk::destination_of;
use super::routing::Routing;

/// Checks that a route follows the header that names the cluster.
pub fn check_cluster_header(placed: &PlacedRelease<'_>, header: &str, findings: &mut Findings) {
    let key = "cluster_header";
    patch_for(placed, (key, header), |patch| patch.cluster_header, findings);
}

/// Checks that the routes with weights pick by the header's number, and have the policy's versions and weights.
pub fn check_weights(placed: &PlacedRelease<'_>, header: &str, findings: &mut Findings) {
    let key = "weighted_clusters.header_name";
    let Some(patch) = patch_for(placed, (key, header), |patch| patch.weight_header, findings) else {
        return;
    };
    if placed.clusters.is_empty() {
        return;
    }
    for table in placed.tables(None, findings) {
        let named: Vec<&Route<'_>> = match patch.route {
            None => table.routes.iter().collect(),
            Some(name) => table.routes.iter().filter(|route| route.name == Some(name)).collect(),
        };
        if let (Some(name), true) = (patch.route, named.is_empty()) {
            let names: Vec<&str> = table.routes.iter().filter_map(|route| route.name).collect();
            let hint = nearest(name, &names).map(|near| format!("; did you mean {near:?}?"));
            findings.problem(format!(
                "{}: {}: {}: {} in {} has no route named {name:?}, so its weights pick by chance and not by {header} of {}; allowed: {}{}",
                patch.object.file,
                patch.object,
                patch.path.replace(".patch.value.route", ".match.routeConfiguration.vhost.route.name"),
                table.object,
                table.object.file,
                placed.label,
                if names.is_empty() { "a name for that route".to_owned() } else { names.join(", ") },
                hint.unwrap_or_default()
            ));
        }
        for route in named {
            if let Some(problem) = weights_problem(placed, route) {
                findings
                    .problem(format!("{}: {}: {}: {problem}", table.object.file, table.object, route.path));
            }
        }
    }
}

/// Notes fallbacks of gates to another upstream that no route in the set follows.
pub fn note_fallbacks(policy: &Policy, routing: &Routing<'_>, start: &str, findings: &mut Findings) {
    for (index, gate) in policy.gates.iter().enumerate() {
        let Some(Fallback::Upstream { header, .. }) = &gate.fallback else {
            continue;
        };
        let reads = |patch: &RoutePatch<'_>| {
            patch.cluster_header.is_some_and(|name| name.eq_ignore_ascii_case(header))
        };
        if !routing.patches.iter().any(reads) {
            findings.note(format!(
                "{start}.gates[{index}].fallback: its route was not checked: the set has no EnvoyFilter with cluster_header: {header}, without which it has no effect"
            ));
        }
    }
}

/// Explains how the destinations of a route differ from the versions of the release.
fn weights_problem(placed: &PlacedRelease<'_>, route: &Route<'_>) -> Option<String> {
    let RouteAction::Send(destinations) = &route.action else {
        return None;
    };
    let is_same = destinations.len() == placed.clusters.len()
        && destinations.iter().zip(placed.versions()).all(|(destination, (version, cluster))| {
            destination.is(cluster) && destination.weight.unwrap_or(0) == version.weight
        });
    if is_same {
        return None;
    }
    let wanted: Vec<String> = placed
        .versions()
        .map(|(version, cluster)| {
            format!("{{destination: {}, weight: {}}}", destination_of(cluster), version.weight)
        })
        .collect();
    Some(format!(
        "its destinations are not the versions of {}, in their order and with their weights, so the filter and the route pick different versions. Write route: [{}]",
        placed.label,
        wanted.join(", ")
    ))
}

/// Returns the patch that reads the header. Reports one that reads another header, and notes it if there is none.
fn patch_for<'a>(
    placed: &PlacedRelease<'a>,
    (key, header): (&str, &str),
    read: impl Fn(&RoutePatch<'a>) -> Option<&'a str>,
    findings: &mut Findings,
) -> Option<&'a RoutePatch<'a>> {
    let hosts = placed.cluster_hosts();
    let fits = |patch: &&RoutePatch<'_>| {
        patch.virtual_host.is_none_or(|name| hosts.iter().any(|host| name.split(':').next() == Some(host)))
    };
    let patches: Vec<&RoutePatch<'_>> =
        placed.routing.patches.iter().filter(|patch| read(patch).is_some()).collect();
    let reads = |patch: &&&RoutePatch<'a>| read(patch).is_some_and(|name| name.eq_ignore_ascii_case(header));
    if let Some(patch) = patches.iter().find(|patch| reads(patch) && (hosts.is_empty() || fits(patch))) {
        return Some(patch);
    }
    if let Some(patch) = patches.iter().find(reads) {
        let name = patch.virtual_host.unwrap_or_default();
        let path = patch.path.replace(".patch.value.route", ".match.routeConfiguration.vhost.name");
        let allowed: Vec<String> = placed
            .clusters
            .iter()
            .map(|cluster| format!("{}:{}", cluster.host, cluster.port))
            .take(1)
            .collect();
        findings.problem(format!(
            "{}: {}: {path}: {name:?} is not among the hosts of {}, so no route reads {header}; allowed: {}",
            patch.object.file,
            patch.object,
            placed.label,
            allowed.join(", ")
        ));
        return None;
    }
    let near =
        patches.iter().find(|patch| read(patch).is_some_and(|name| nearest(name, &[header]).is_some()));
    match near {
        Some(patch) => findings.problem(format!(
            "{}: {}: {}.{key}: {:?} is not the header of {}; did you mean {header:?}?",
            patch.object.file,
            patch.object,
            patch.path,
            read(patch).unwrap_or_default(),
            placed.label
        )),
        None => findings.note(format!(
            "{}.steer: its routes were not checked: the set has no EnvoyFilter with {key}: {header}, without which it has no effect",
            placed.start
        )),
    }
    None
}
