//! Checks the clusters that a policy names, and that the rules lead the requests of each version to its cluster.
//!
//! Envoy Gateway names the cluster of a rule by the rule's number, so an edit of the rules moves the names.

use graygate::policy::Policy;
use graygate::policy::reader::segment;
use graygate::policy::release::Release;
use graygate::policy::release::steer::Steer;
use graygate::policy::release::version::Version;
use graygate::policy::upstream::Upstream;

use super::cluster::{self, GatewayCluster};
use super::extension::ExtensionPolicy;
use super::findings::GatewayFindings;
use super::path_match::{PathMatch, RouteMatch};
use super::placement::Placement;
use super::route::GatewayRoute;

/// A rule that requests of a version meet.
struct MetRule<'a, 'n> {
    route: &'a GatewayRoute<'n>,
    number: usize,
    /// Whether it matches the header of the version.
    is_by_header: bool,
}

/// Checks one policy. `object` is the index of the resource with the policy. `merged` is whether an EnvoyProxy has
/// `mergeBackends`, if the files have one.
pub fn check(
    object: usize,
    of: &ExtensionPolicy,
    (placement, routes): (&Placement<'_, '_>, &[GatewayRoute<'_>]),
    merged: Option<bool>,
    findings: &mut GatewayFindings,
) {
    let mut wrong: Vec<&str> = Vec::new();
    for upstream in &of.policy.upstreams {
        let path = format!("{}.upstreams{}.cluster", of.path, segment("upstreams", &upstream.name));
        if check_cluster(object, path, upstream, (routes, merged), findings) {
            wrong.push(&upstream.cluster);
        }
    }
    for (index, release) in of.policy.releases.iter().enumerate() {
        let path = format!("{}.releases[{index}]", of.path);
        match &release.steer {
            Steer::RandomValueHeader(_) | Steer::FilterState(_) => findings.warning(
                object,
                format!("{path}.steer"),
                "no rule of an HTTPRoute reads it, so all versions get the same requests unless an EnvoyPatchPolicy changes the routes; allowed: header, clusterHeader, baggage".to_owned(),
            ),
            Steer::Header(_) | Steer::ClusterHeader(_) | Steer::Baggage(_) => {
                if merged != Some(true) && !placement.is_partial {
                    for index in 0..release.versions.len() {
                        check_version(object, of, (release, index), (placement, &wrong), findings);
                    }
                }
            }
        }
    }
}

/// Checks the name of a cluster. Returns whether it is wrong, or not known.
fn check_cluster(
    object: usize,
    path: String,
    upstream: &Upstream,
    (routes, merged): (&[GatewayRoute<'_>], Option<bool>),
    findings: &mut GatewayFindings,
) -> bool {
    let cluster = &upstream.cluster;
    let (kind, namespace, name, number, backend) = match GatewayCluster::parse(cluster) {
        None => {
            findings.warning(object, path, format!("{cluster:?}: Envoy Gateway makes no cluster of this name. It names them httproute/NAMESPACE/NAME/rule/NUMBER. Write that of the rule that leads there, unless an EnvoyPatchPolicy adds yours"));
            return true;
        }
        Some(GatewayCluster::Merged) => {
            if merged == Some(false) {
                findings.problem(object, path, format!("{cluster:?}: Envoy Gateway has clusters of such names only with spec.mergeBackends of the EnvoyProxy; allowed: httproute/NAMESPACE/NAME/rule/NUMBER"));
            }
            return merged == Some(false);
        }
        Some(GatewayCluster::Rule { kind, namespace, name, rule, backend }) => {
            (kind, namespace, name, rule, backend)
        }
    };
    if merged == Some(true) {
        findings.problem(object, path, format!("{cluster:?}: the EnvoyProxy has mergeBackends, with which Envoy Gateway names clusters by their backend; allowed: service/NAMESPACE/NAME/PORT"));
        return true;
    }
    if kind != "httproute" {
        return false;
    }
    let is_named = |route: &&GatewayRoute<'_>| route.object.name == name;
    let is_here = |route: &&GatewayRoute<'_>| {
        route.object.own_namespace().is_none_or(|own| own == namespace) && is_named(route)
    };
    let Some(route) = routes.iter().find(is_here) else {
        match routes.iter().find(is_named) {
            Some(other) => findings.problem(
                object,
                path,
                format!(
                    "{cluster:?}: {} in {} is in another namespace; allowed: {}",
                    other.object,
                    other.object.file,
                    cluster::of_rule(other.object.namespace, name, number)
                ),
            ),
            None => findings.note(
                object,
                path,
                format!("{cluster:?}: not checked, as no file has HTTPRoute {namespace}/{name}"),
            ),
        }
        return true;
    };
    let rule = route.rules.get(number);
    let of_route = format!("{} in {}", route.object, route.object.file);
    match rule {
        None => {
            let last = route.rules.len().saturating_sub(1);
            let allowed = if route.rules.is_empty() {
                "none".to_owned()
            } else {
                format!("httproute/{namespace}/{name}/rule/0 to {last}")
            };
            findings.problem(
                object,
                path,
                format!(
                    "{cluster:?}: {of_route} has {} rules, which are counted from 0; allowed: {allowed}",
                    route.rules.len()
                ),
            );
            true
        }
        Some(rule) if rule.backends == 0 => {
            findings.problem(object, path, format!("{cluster:?}: rule {number} of {of_route} has no backendRefs, so Envoy Gateway makes no cluster for it. Add its Service there, or write the cluster of another rule"));
            true
        }
        Some(rule) if rule.has_backend_filters && backend.is_none() => {
            findings.problem(object, path, format!("{cluster:?}: rule {number} of {of_route} has filters in a backendRef, so Envoy Gateway makes a cluster for each backend; allowed: {cluster}/backend/0 to {}", rule.backends - 1));
            true
        }
        Some(_) => false,
    }
}

fn check_version(
    object: usize,
    of: &ExtensionPolicy,
    (release, index): (&Release, usize),
    (placement, wrong): (&Placement<'_, '_>, &[&str]),
    findings: &mut GatewayFindings,
) {
    let Some(version) = release.versions.get(index) else {
        return;
    };
    if wrong.contains(&version.cluster.as_str()) {
        return;
    }
    let Some((header, value)) = written(release, version) else {
        return;
    };
    let met = met_rules(&of.policy, placement, header, &value);
    if met.iter().any(|met| met.is_of(&version.cluster)) {
        return;
    }
    let upstream = of.policy.name_of(version.upstream);
    let cluster_path = format!("{}.upstreams{}.cluster", of.path, segment("upstreams", upstream));
    let by_header = met.iter().find(|met| met.is_by_header);
    match by_header.or_else(|| met.first().filter(|_| index == release.default)) {
        Some(met) => findings.problem(object, cluster_path, format!(
            "{:?}: the requests of version {} ({header}: {value}) meet rule {} of {} in {}. Envoy Gateway names clusters by the number of the rule; allowed: {}",
            version.cluster,
            version.name,
            met.number,
            met.route.object,
            met.route.object.file,
            met.cluster()
        )),
        None => {
            let position = of.policy.releases.iter().position(|other| other.name == release.name);
            let path = format!("{}.releases[{}].versions[{index}]", of.path, position.unwrap_or_default());
            let names: Vec<String> = placement.routes.iter().map(|placed| placed.route.object.to_string()).collect();
            findings.problem(object, path, format!(
                "{}: no rule of {} matches {header}: {value}, so the requests of this version go where those without the header go. Add a rule with matches: [{{headers: [{{name: {header}, value: {value}}}]}}]",
                version.name,
                names.join(", ")
            ));
        }
    }
}

/// Returns the header that the filter writes for a version, and its value.
fn written<'r>(release: &'r Release, version: &Version) -> Option<(&'r str, String)> {
    let header = release.steer.written_header()?;
    let value = match release.steer.member() {
        Some(key) => format!("{key}={}", version.name),
        None => release.steer.value(version)?.to_owned(),
    };
    Some((header, value))
}

/// Returns the rules that requests with this header meet, one for each condition on the path.
fn met_rules<'a, 'n>(
    policy: &Policy,
    placement: &Placement<'a, 'n>,
    header: &str,
    value: &str,
) -> Vec<MetRule<'a, 'n>> {
    let mut met: Vec<MetRule<'a, 'n>> = Vec::new();
    let mut paths: Vec<(PathMatch<'n>, usize)> = Vec::new();
    for placed in &placement.routes {
        for (number, rule) in placed.rules() {
            for item in rule.matches.iter().filter(|item| can_take(policy, item, header, value)) {
                let is_by_header = !item.headers.is_empty();
                let new = MetRule { route: placed.route, number, is_by_header };
                let same = paths.iter().find(|(path, _)| *path == item.path).map(|(_, place)| *place);
                match same {
                    None => {
                        paths.push((item.path, met.len()));
                        met.push(new);
                    }
                    // Of two matches for one path, the one with a header comes first, and else the one that stands first.
                    Some(place) => {
                        if let Some(known) =
                            met.get_mut(place).filter(|known| is_by_header && !known.is_by_header)
                        {
                            *known = new;
                        }
                    }
                }
            }
        }
    }
    met
}

/// Returns whether a match may take requests that have this header. Those for the paths of probes are answered before.
fn can_take(policy: &Policy, item: &RouteMatch<'_>, header: &str, value: &str) -> bool {
    let is_probe = matches!(item.path, PathMatch::Exact(path) if policy.probes.endpoints.iter().any(|probe| probe.path == path));
    !is_probe
        && item.headers.iter().all(|condition| condition.is_on(header) && condition.takes(value))
        && !item.has_query
}

impl MetRule<'_, '_> {
    fn is_of(&self, cluster: &str) -> bool {
        let Some(GatewayCluster::Rule { namespace, name, rule, .. }) = GatewayCluster::parse(cluster) else {
            return false;
        };
        let object = &self.route.object;
        rule == self.number
            && name == object.name
            && object.own_namespace().is_none_or(|own| own == namespace)
    }

    fn cluster(&self) -> String {
        let namespace = self.route.object.own_namespace().unwrap_or("NAMESPACE");
        cluster::of_rule(namespace, self.route.object.name, self.number)
    }
}
