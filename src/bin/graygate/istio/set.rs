//! `graygate check --istio` checks manifests that are applied together, and reports the problems of those that add
//! graygate.

use std::io::Read;
use std::path::{Path, PathBuf};

use graygate::policy::Policy;
use graygate::policy::document::Node;

use super::direction::{self, Direction};
use super::model::{Filter, ListenerScope, Object, ProxySelector, Resource};
use super::{namesake, overlap, read};
use crate::failure::Failure;
use crate::tree::{get_text, read_all};

/// The manifests that are applied together.
struct ManifestSet {
    resources: Vec<Resource>,
    gateways: Vec<Gateway>,
    problems: Vec<String>,
    /// The number of kustomizations. Each one is a set of its own once it is built.
    kustomizations: usize,
}

/// A Gateway of the Gateway API. Its class tells whether it is a waypoint.
struct Gateway {
    namespace: String,
    name: String,
    class: String,
}

/// Checks the manifests in these files and directories. `root` is the root namespace of the mesh.
pub fn check(paths: &[PathBuf], root: &str) -> Result<(), Failure> {
    let mut set =
        ManifestSet { resources: Vec::new(), gateways: Vec::new(), problems: Vec::new(), kustomizations: 0 };
    for path in paths {
        set.read(path)?;
    }
    let sources = paths.iter().map(|path| display_name(path)).collect::<Vec<_>>().join(", ");
    let mut problems = core::mem::take(&mut set.problems);
    for resource in &set.resources {
        let found = resource.filters.iter().flat_map(|filter| set.filter_problems(resource, filter));
        problems.extend(found.map(|problem| format!("{}: {resource}: {problem}", resource.file)));
    }
    problems.extend(set.pair_problems(root));
    if problems.is_empty() && set.resources.is_empty() {
        problems.push(format!(
            "{sources}: no resource of graygate; looked for WasmPlugin, TrafficExtension and EnvoyFilter with the plugin name, root_id or module graygate"
        ));
    }
    if problems.is_empty() {
        return crate::failure::print_line(&format!("{sources}: {}: no problems", set.summary()));
    }
    for problem in &problems {
        eprintln!("{problem}");
    }
    eprintln!("{sources}: {} problem{}", problems.len(), if problems.len() == 1 { "" } else { "s" });
    if set.kustomizations > 0 {
        eprintln!(
            "{sources}: has kustomizations, of which each is a set by itself: kubectl kustomize DIR | graygate check --istio -"
        );
    }
    Err(Failure::Problems)
}

fn display_name(path: &Path) -> String {
    if path.as_os_str() == "-" { "standard input".to_owned() } else { path.display().to_string() }
}

impl ManifestSet {
    /// Reads a file, standard input, or all YAML and JSON files in and below a directory.
    fn read(&mut self, path: &Path) -> Result<(), Failure> {
        let usage = |error: std::io::Error| Failure::Usage(format!("{}: {error}", path.display()));
        if path.as_os_str() == "-" {
            let mut text = Vec::new();
            std::io::stdin().read_to_end(&mut text).map_err(usage)?;
            self.add(&display_name(path), &text);
            return Ok(());
        }
        if !path.is_dir() {
            let text = std::fs::read(path).map_err(usage)?;
            self.add(&display_name(path), &text);
            return Ok(());
        }
        let entries = std::fs::read_dir(path).map_err(usage)?;
        let mut entries: Vec<PathBuf> =
            entries.map(|entry| Ok(entry?.path())).collect::<Result<_, _>>().map_err(usage)?;
        entries.sort();
        for entry in entries {
            let hidden = entry.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
            let extension = entry.extension().and_then(|extension| extension.to_str());
            // A symbolic link may lead to a directory above this one.
            let read = match extension {
                _ if hidden => false,
                _ if entry.is_dir() => !entry.is_symlink(),
                extension => matches!(extension, Some("yaml" | "yml" | "json")),
            };
            if entry.file_stem().is_some_and(|name| name.eq_ignore_ascii_case("kustomization")) {
                self.kustomizations += 1;
            } else if read {
                self.read(&entry)?;
            }
        }
        Ok(())
    }

    /// Adds the resources and Gateways in a file, and ignores all other objects.
    fn add(&mut self, file: &str, text: &[u8]) {
        let text = core::str::from_utf8(text).map_err(|error| error.to_string());
        let documents = match text.and_then(read_all) {
            Ok(documents) => documents,
            Err(error) => return self.problems.push(format!("{file}: not YAML or JSON: {error}")),
        };
        for object in documents.iter().flat_map(Object::all) {
            if (object.group, object.kind) == ("gateway.networking.k8s.io", "Gateway") {
                let class = get_text(object.node, &["spec", "gatewayClassName"]).unwrap_or_default();
                self.gateways.push(Gateway {
                    namespace: object.namespace.to_owned(),
                    name: object.name.to_owned(),
                    class: class.to_owned(),
                });
            }
            self.resources.extend(read::resource(&object, file));
        }
    }

    /// Returns the problems of one filter on its own.
    fn filter_problems(&self, resource: &Resource, filter: &Filter) -> Vec<String> {
        let mut problems = Vec::new();
        let (path, fail) = &filter.fail;
        let (strategies, allowed): ([&str; 3], _) = match resource.kind {
            "EnvoyFilter" => (
                ["FAIL_OPEN", "FAIL_RELOAD", "FAIL_CLOSED"],
                "FAIL_OPEN, FAIL_RELOAD, FAIL_CLOSED; for Istio 1.24 fail_open",
            ),
            _ => (["FAIL_OPEN", "FAIL_RELOAD", "FAIL_CLOSE"], "FAIL_OPEN, FAIL_RELOAD, FAIL_CLOSE"),
        };
        match fail {
            None => problems.push(format!(
                "{path}: missing, so that no request passes while the module is not there or its VM has failed; allowed: {allowed}"
            )),
            // A plugin has FAIL_CLOSE where an EnvoyFilter has FAIL_CLOSED.
            Some(Node::Text(strategy)) if !strategies.contains(&strategy.as_str()) => {
                problems.push(format!("{path}: {strategy} is not allowed; allowed: {allowed}"));
            }
            Some(_) => {}
        }
        let policy_path = &filter.path;
        match filter.policy.as_ref().map(|document| (document, Policy::from_document(document))) {
            Err(why) => problems.push(format!("{policy_path}: {why}")),
            Ok((_, Err(found))) => problems.extend(found.iter().map(|problem| match problem.path.as_str() {
                "" => format!("{policy_path}: {}", problem.message),
                _ => format!("{policy_path}.{problem}"),
            })),
            Ok((document, Ok(policy))) => problems.extend(direction_problems(filter, document, &policy)),
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
    fn pair_problems(&self, root: &str) -> Vec<String> {
        let mut problems = Vec::new();
        for (index, one) in self.resources.iter().enumerate() {
            problems.extend(overlapping_patches(one));
            for two in self.resources.iter().skip(index + 1) {
                let same = one.kind == two.kind && one.namespace == two.namespace && one.name == two.name;
                if same {
                    problems.push(format!(
                        "{}: {one}: {} has the same resource, so that only the one applied last counts; allowed: one",
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
                    pairs.iter().filter_map(|(one, two)| overlap::shared_scope(*one, *two, root));
                if let Some(scope) = scopes.next() {
                    problems.push(format!(
                        "{}: {one}: {two} in {} puts graygate into the same {} listeners, so that each request meets it twice; allowed: one of the two, or labels, ports, a mode or a revision (istio.io/rev) by which no proxy has both",
                        one.file,
                        two.file,
                        scope.direction.name()
                    ));
                    continue;
                }
                let mut conflicts =
                    pairs.iter().filter_map(|(one, two)| namesake::conflict(*one, *two, root));
                if let Some(why) = conflicts.next() {
                    problems.push(format!(
                        "{}: {one}: {two} in {} may be in the same proxies, where policies of one name share what they know: {why}; allowed: a name of its own for each",
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

/// Returns the problems of the policy in the filter's directions.
fn direction_problems(filter: &Filter, document: &Node, policy: &Policy) -> Vec<String> {
    let mut problems = Vec::new();
    if filter.own_listener && filter.directions.contains(&Direction::Inbound) {
        problems.extend(direction::drain_problem(policy).map(|problem| format!("{}.{problem}", filter.path)));
    }
    for direction in &filter.directions {
        for problem in direction::problems(*direction, document, policy) {
            let problem = format!("{}.{problem}", filter.path);
            if !problems.contains(&problem) {
                problems.push(problem);
            }
        }
    }
    problems
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
        "{}: {resource}: {} and {} put graygate into the same {} listeners, so that each request meets it twice; allowed: one of the two",
        resource.file,
        scope.path,
        other.path,
        scope.direction.name()
    ))
}
