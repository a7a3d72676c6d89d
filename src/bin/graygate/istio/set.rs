//! `graygate check --istio` checks manifests that are applied together, and reports the problems of those that add
//! graygate, and of the routes that their releases need.

use std::path::PathBuf;

use super::direction::{self, Direction};
use super::findings::Findings;
use super::model::{Filter, FilterPolicy, ListenerScope, Object, ProxySelector, Resource};
use super::module_source::Allowed;
use super::overlap::{self, MeshFacts};
use super::placed_release::Proxies;
use super::routing::Routing;
use super::source::{self, Sources};
use super::waypoint::Waypoints;
use super::{
    host_rule, mesh_wide, namesake, patched_release, probe_place, read, release_routes, strategy,
    upstream_cluster,
};
use crate::failure::{Failure, print_error, print_line};
use crate::source::display_name;
use crate::tree::get_text;
use crate::warning;

/// The manifests that are applied together.
struct ManifestSet<'n> {
    resources: Vec<Resource>,
    objects: Vec<Object<'n>>,
    gateways: Vec<Gateway>,
    routing: Routing<'n>,
    root: &'n str,
}

/// A Gateway of the Gateway API. Its class tells whether it is a waypoint.
struct Gateway {
    namespace: String,
    name: String,
    class: String,
}

/// Checks the manifests in these files and directories. `root` is the root namespace of the mesh.
pub fn check(paths: &[PathBuf], root: &str, allowed: &[Allowed]) -> Result<(), Failure> {
    let mut sources = Sources::default();
    let mut findings = Findings::default();
    for path in paths {
        sources.read(path, &mut findings)?;
    }
    let set = ManifestSet::of(sources.objects(), root, &mut findings);
    let names = paths.iter().map(|path| display_name(path)).collect::<Vec<_>>().join(", ");
    for resource in &set.resources {
        for filter in &resource.filters {
            strategy::check(resource, filter, allowed, &mut findings);
            for problem in filter.module.iter().flat_map(|module| module.problems(allowed)) {
                findings.problem(format!("{}: {resource}: {problem}", resource.file));
            }
            for problem in set.filter_problems(resource, filter) {
                findings.problem(format!("{}: {resource}: {problem}", resource.file));
            }
            set.check_traffic(resource, filter, &mut findings);
        }
    }
    for problem in set.pair_problems() {
        findings.problem(problem);
    }
    let Findings { mut problems, notes } = findings;
    if problems.is_empty() && set.resources.is_empty() {
        problems.push(format!(
            "{names}: no resource of graygate; looked for WasmPlugin, TrafficExtension and EnvoyFilter with the plugin name, root_id or module graygate"
        ));
    }
    for note in &notes {
        print_error(&format!("note: {note}"));
    }
    if problems.is_empty() {
        return print_line(&format!("{names}: {}: no problems", set.summary()));
    }
    for problem in &problems {
        print_error(problem);
    }
    print_error(&format!(
        "{names}: {} problem{}",
        problems.len(),
        if problems.len() == 1 { "" } else { "s" }
    ));
    if sources.kustomizations > 0 {
        print_error(&format!(
            "{names}: has kustomizations, of which each is a set by itself: kubectl kustomize DIR | graygate check --istio -"
        ));
    }
    Err(Failure::Problems)
}

impl<'n> ManifestSet<'n> {
    fn of(mut objects: Vec<Object<'n>>, root: &'n str, findings: &mut Findings) -> Self {
        objects.retain(|object| {
            let is_read = read::has_kind(object) || Routing::has_kind(object);
            let is_template = is_read && source::is_template(object.node);
            if is_template {
                source::note_template(object.file, findings);
            }
            !is_template
        });
        let routing = Routing::read(&objects, root);
        let mut set =
            ManifestSet { resources: Vec::new(), objects: Vec::new(), gateways: Vec::new(), routing, root };
        for object in &objects {
            if (object.group, object.kind) == ("gateway.networking.k8s.io", "Gateway") {
                let class = get_text(object.node, &["spec", "gatewayClassName"]).unwrap_or_default();
                set.gateways.push(Gateway {
                    namespace: object.namespace.to_owned(),
                    name: object.name.to_owned(),
                    class: class.to_owned(),
                });
            }
            let resource = read::resource(object);
            if resource.is_some() || Routing::has_kind(object) {
                source::report_repeated_keys(object, findings);
            }
            set.resources.extend(resource);
        }
        set.objects = objects;
        set
    }

    /// Checks whether the policy's probes, clusters and releases can work where the filter is.
    fn check_traffic(&self, resource: &Resource, filter: &Filter, findings: &mut Findings) {
        for of in filter.compiled() {
            self.check_traffic_of(resource, filter, &of, findings);
        }
    }

    fn check_traffic_of(
        &self,
        resource: &Resource,
        filter: &Filter,
        of: &FilterPolicy<'_>,
        findings: &mut Findings,
    ) {
        let FilterPolicy { path, document: of_policy, policy } = of;
        let start = format!("{}: {resource}: {path}", resource.file);
        probe_place::check(&start, filter, policy, &self.objects, findings);
        if let Some(warning) = warning::probes_warning(policy) {
            findings.note(format!("{start}: {warning}"));
        }
        mesh_wide::check(resource, &start, (of_policy, policy), self.root, findings);
        let labels: &[(String, String)] = match &resource.selector {
            ProxySelector::Labels(labels) => labels,
            ProxySelector::Targets(_) => &[],
        };
        // In the root namespace, labels apply to all namespaces.
        let is_anywhere = !resource.has_namespace
            || resource.namespace == self.root && matches!(resource.selector, ProxySelector::Labels(_));
        let namespace = (!is_anywhere).then_some(resource.namespace.as_str());
        let wrong = upstream_cluster::check(policy, &self.routing, &start, namespace, findings);
        patched_release::note_fallbacks(policy, &self.routing, &start, findings);
        let name = format!("{resource} in {}", resource.file);
        for direction in &filter.directions {
            if *direction != Direction::Inbound {
                let with_gateways = *direction == Direction::Outbound
                    && filter.scopes.iter().any(|scope| scope.direction == Direction::Gateway);
                let proxies = Proxies { direction: *direction, with_gateways, namespace, labels };
                let routed = (&self.routing, wrong.as_slice());
                release_routes::check(of_policy, policy, proxies, routed, (&start, &name), findings);
            }
        }
    }

    /// Returns the problems of one filter on its own.
    fn filter_problems(&self, resource: &Resource, filter: &Filter) -> Vec<String> {
        let mut problems = Vec::new();
        let policy_path = &filter.path;
        match filter.policy.as_ref().map(|document| filter.compile(document)) {
            // A patch of a present filter need not have a policy.
            Err(_) if filter.is_partial && !filter.has_policy => {}
            Err(why) => problems.push(format!("{policy_path}: {why}")),
            Ok(Err(found)) => problems.extend(found.iter().map(|problem| match problem.path.as_str() {
                "" => format!("{policy_path}: {}", problem.message),
                _ => format!("{policy_path}.{problem}"),
            })),
            Ok(Ok(policies)) => {
                for policy in &policies {
                    let unserved = filter.module.iter().flat_map(|module| module.unserved(&policy.policy));
                    problems.extend(unserved.map(|problem| format!("{}.{problem}", policy.path)));
                    problems.extend(self.direction_problems(filter, policy));
                }
            }
        }
        if filter.scopes.is_empty() && resource.kind != "EnvoyFilter" {
            problems.push("spec.match: no mode of it ever applies, as the labels are a gateway's, which is always a client; allowed: CLIENT".to_owned());
        }
        if let ("EnvoyFilter", ProxySelector::Targets(targets)) = (resource.kind, &resource.selector)
            && let Some((kind, name)) = targets.iter().find(|(kind, _)| kind.starts_with("Service"))
        {
            problems.push(format!("spec.targetRefs: {kind} {name} is not allowed there: Istio attaches no EnvoyFilter to it, so it has no effect. Attach it to the Gateway of its waypoint."));
        }
        for scope in &filter.scopes {
            let path = scope.path.strip_suffix(".match.context").map_or_else(
                || format!("{}.ports", scope.path),
                |patch| format!("{patch}.match.listener.portNumber"),
            );
            if scope.explicit {
                problems.extend(
                    direction::port_problem(scope.direction, &path, &scope.ports)
                        .map(|problem| problem.to_string()),
                );
            }
            problems.extend(self.mode_problem(resource, scope));
        }
        problems.dedup();
        problems
    }

    /// Returns the problems of the policy in the filter's directions.
    fn direction_problems(&self, filter: &Filter, of: &FilterPolicy<'_>) -> Vec<String> {
        let FilterPolicy { path, document, policy } = of;
        let mut problems = Vec::new();
        if filter.own_listener && filter.directions.contains(&Direction::Inbound) {
            let of_sources = direction::source_problems(policy);
            problems.extend(of_sources.iter().map(|problem| format!("{path}.{problem}")));
        }
        for direction in &filter.directions {
            let mut found = direction::problems(*direction, document, policy);
            // What comes to a listener of the filter's own is for the filter.
            if !filter.own_listener {
                let hosts = self.routing.gateway_hosts(policy);
                found.extend(host_rule::problems(*direction, document, policy, &hosts));
            }
            for problem in found {
                let problem = format!("{path}.{problem}");
                if !problems.contains(&problem) {
                    problems.push(problem);
                }
            }
        }
        problems
    }

    /// Returns a problem if the mode never applies to one of the targets. A gateway is always a client, and a waypoint
    /// is always a server.
    fn mode_problem(&self, resource: &Resource, scope: &ListenerScope) -> Option<String> {
        let ProxySelector::Targets(targets) = &resource.selector else {
            return None;
        };
        if !scope.explicit || resource.kind == "EnvoyFilter" {
            return None;
        }
        targets.iter().filter(|(kind, _)| kind == "Gateway").find_map(|(_, name)| {
            let known = self.gateways.iter().find(|known| known.name == *name && known.namespace == resource.namespace);
            let is_waypoint = match known {
                Some(gateway) => gateway.class.contains("waypoint"),
                None => name.contains("waypoint"),
            };
            let (mode, kind, allowed) = match (scope.direction, is_waypoint) {
                (Direction::Waypoint, false) => ("SERVER", "gateway, which is always a client", "CLIENT; SERVER, if its Gateway has a class for waypoints and is in the same set"),
                (Direction::Gateway, true) => ("CLIENT", "waypoint, which is always a server", "SERVER"),
                _ => return None,
            };
            Some(format!("{}.mode: {mode} is not allowed there: Gateway {name} is a {kind}, so it never applies; allowed: {allowed}", scope.path))
        })
    }

    /// Returns the problems between two filters, for each pair of resources and within each EnvoyFilter.
    fn pair_problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let waypoints = Waypoints::read(&self.objects);
        let mesh = MeshFacts { root: self.root, waypoints: &waypoints };
        for (index, one) in self.resources.iter().enumerate() {
            problems.extend(overlapping_patches(one));
            for two in self.resources.iter().skip(index + 1) {
                let same = one.kind == two.kind && one.namespace == two.namespace && one.name == two.name;
                if same {
                    problems.push(format!(
                        "{}: {one}: {} has the same resource, so only the one applied last counts. Keep one.",
                        one.file, two.file
                    ));
                    continue;
                }
                let pairs: Vec<_> = one
                    .filters
                    .iter()
                    .flat_map(|filter| two.filters.iter().map(move |other| ((one, filter), (two, other))))
                    .collect();
                let mut scopes =
                    pairs.iter().filter_map(|(one, two)| overlap::shared_scope(*one, *two, mesh));
                if let Some(scope) = scopes.next() {
                    problems.push(format!(
                        "{}: {one}: {two} in {} puts graygate into the same {} listeners, so each request meets it twice. Keep one, or set labels, ports, a mode or a revision (istio.io/rev) by which no proxy has both.",
                        one.file,
                        two.file,
                        scope.direction.name()
                    ));
                    continue;
                }
                let mut conflicts =
                    pairs.iter().filter_map(|(one, two)| namesake::conflict(*one, *two, mesh));
                if let Some(why) = conflicts.next() {
                    problems.push(format!(
                        "{}: {one}: {two} in {} may be in the same proxies, where policies of one name share what they know: {why}. Give each a name of its own.",
                        one.file, two.file
                    ));
                }
            }
        }
        problems
    }

    fn summary(&self) -> String {
        let count = |kind: &str| {
            let count = self.resources.iter().filter(|resource| resource.kind == kind).count();
            (count > 0).then(|| format!("{count} {kind}{}", if count == 1 { "" } else { "s" }))
        };
        let counts: Vec<String> =
            ["WasmPlugin", "TrafficExtension", "EnvoyFilter"].into_iter().filter_map(count).collect();
        counts.join(", ")
    }
}

/// Returns a problem if two patches of one EnvoyFilter add the filter to the same listeners. Overlapping matches of a
/// plugin are no problem, as a plugin is added to each listener once.
fn overlapping_patches(resource: &Resource) -> Option<String> {
    if resource.kind != "EnvoyFilter" {
        return None;
    }
    let scopes: Vec<&ListenerScope> = resource.filters.iter().flat_map(|filter| &filter.scopes).collect();
    let mut pairs = scopes
        .iter()
        .enumerate()
        .flat_map(|(index, scope)| scopes.iter().skip(index + 1).map(move |other| (scope, other)));
    let (scope, other) = pairs.find(|(scope, other)| overlap::share_listeners(scope, other))?;
    Some(format!(
        "{}: {resource}: {} and {} put graygate into the same {} listeners, so each request meets it twice. Keep one.",
        resource.file,
        scope.path,
        other.path,
        scope.direction.name()
    ))
}
