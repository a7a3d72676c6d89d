//! `graygate check --istio`: manifests that are applied together, and what is wrong with ours among them.

use std::io::Read;
use std::path::{Path, PathBuf};

use graygate::policy::Policy;
use graygate::policy::document::Node;

use super::direction::{self, Direction};
use super::model::{Filter, ListenerScope, Object, Reach, Resource};
use super::{namesake, overlap, read};
use crate::failure::Failure;
use crate::tree::{get_text, read_all};

/// What was read.
struct Set {
    resources: Vec<Resource>,
    gateways: Vec<Gateway>,
    problems: Vec<String>,
    /// How many directories are kustomizations, each of which is a set by itself once it is built.
    kustomizations: usize,
}

/// A Gateway of the Gateway API. Only its class tells a waypoint from a gateway.
struct Gateway {
    namespace: String,
    name: String,
    class: String,
}

/// Runs the check.
pub fn check(paths: &[PathBuf], root: &str) -> Result<(), Failure> {
    let mut set =
        Set { resources: Vec::new(), gateways: Vec::new(), problems: Vec::new(), kustomizations: 0 };
    for path in paths {
        set.read(path)?;
    }
    let named: Vec<String> = paths.iter().map(|path| name(path)).collect();
    let named = named.join(", ");
    let mut problems = core::mem::take(&mut set.problems);
    for resource in &set.resources {
        let found = resource.filters.iter().flat_map(|filter| set.judge(resource, filter));
        problems.extend(found.map(|problem| format!("{}: {resource}: {problem}", resource.file)));
    }
    problems.extend(set.pairs(root));
    if problems.is_empty() && set.resources.is_empty() {
        problems.push(format!(
            "{named}: no resource of graygate; looked for WasmPlugin, TrafficExtension and EnvoyFilter with the plugin name, root_id or module graygate"
        ));
    }
    if problems.is_empty() {
        return crate::failure::say(&format!("{named}: {}: no problems", set.summary()));
    }
    for problem in &problems {
        eprintln!("{problem}");
    }
    eprintln!("{named}: {} problem{}", problems.len(), if problems.len() == 1 { "" } else { "s" });
    if set.kustomizations > 0 {
        eprintln!(
            "{named}: has kustomizations, of which each is a set by itself: kubectl kustomize DIR | graygate check --istio -"
        );
    }
    Err(Failure::Problems)
}

fn name(path: &Path) -> String {
    if path.as_os_str() == "-" { "standard input".to_owned() } else { path.display().to_string() }
}

impl Set {
    /// Reads a file, standard input, or all YAML and JSON files in and below a directory.
    fn read(&mut self, path: &Path) -> Result<(), Failure> {
        let usage = |error: std::io::Error| Failure::Usage(format!("{}: {error}", path.display()));
        if path.as_os_str() == "-" {
            let mut text = Vec::new();
            std::io::stdin().read_to_end(&mut text).map_err(usage)?;
            self.take(&name(path), &text);
            return Ok(());
        }
        if !path.is_dir() {
            let text = std::fs::read(path).map_err(usage)?;
            self.take(&name(path), &text);
            return Ok(());
        }
        let entries = std::fs::read_dir(path).map_err(usage)?;
        let mut entries: Vec<PathBuf> =
            entries.map(|entry| Ok(entry?.path())).collect::<Result<_, _>>().map_err(usage)?;
        entries.sort();
        for entry in entries {
            let hidden = entry.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
            let extension = entry.extension().and_then(|extension| extension.to_str());
            // What a link leads to may be above this directory.
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

    /// Takes what is ours of a file, and passes over all else.
    fn take(&mut self, file: &str, text: &[u8]) {
        let text = core::str::from_utf8(text).map_err(|error| error.to_string());
        let documents = match text.and_then(read_all) {
            Ok(documents) => documents,
            Err(error) => return self.problems.push(format!("{file}: not YAML or JSON: {error}")),
        };
        for object in documents.iter().flat_map(Object::all) {
            if (object.group, object.kind) == ("gateway.networking.k8s.io", "Gateway") {
                let class = get_text(object.node, &["spec", "gatewayClassName"]).unwrap_or_default();
                let (namespace, name) = (object.namespace.to_owned(), object.name.to_owned());
                self.gateways.push(Gateway { namespace, name, class: class.to_owned() });
            }
            self.resources.extend(read::resource(&object, file));
        }
    }

    /// What is wrong with one filter by itself.
    fn judge(&self, resource: &Resource, filter: &Filter) -> Vec<String> {
        let mut problems = Vec::new();
        let (path, fail) = &filter.fail;
        let (words, allowed): ([&str; 3], _) = match resource.kind {
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
            // The two kinds have different words for closing.
            Some(Node::Text(word)) if !words.contains(&word.as_str()) => {
                problems.push(format!("{path}: {word} is not allowed; allowed: {allowed}"));
            }
            Some(_) => {}
        }
        let at = &filter.path;
        match filter.policy.as_ref().map(|document| (document, Policy::from_document(document))) {
            Err(why) => problems.push(format!("{at}: {why}")),
            Ok((_, Err(found))) => problems.extend(found.iter().map(|problem| match problem.path.as_str() {
                "" => format!("{at}: {}", problem.message),
                _ => format!("{at}.{problem}"),
            })),
            Ok((document, Ok(policy))) => problems.extend(placed(filter, document, &policy)),
        }
        for scope in &filter.scopes {
            let path = scope.path.strip_suffix(".match.context").map_or_else(
                || format!("{}.ports", scope.path),
                |patch| format!("{patch}.match.listener.portNumber"),
            );
            if scope.written {
                problems.extend(
                    direction::ports(scope.direction, &path, &scope.ports).map(|problem| problem.to_string()),
                );
            }
            problems.extend(self.misses(resource, scope.direction, scope.written, &scope.path));
        }
        problems.dedup();
        problems
    }

    /// A mode in which nothing ever is at the targets: a gateway is always a client, a waypoint a server.
    fn misses(&self, resource: &Resource, direction: Direction, written: bool, path: &str) -> Option<String> {
        let Reach::Targets(targets) = &resource.reach else {
            return None;
        };
        if !written || resource.kind == "EnvoyFilter" {
            return None;
        }
        targets.iter().filter(|(kind, _)| kind == "Gateway").find_map(|(_, name)| {
            let known = self.gateways.iter().find(|known| known.name == *name && known.namespace == resource.namespace);
            let waypoint = match known {
                Some(gateway) => gateway.class.contains("waypoint"),
                None => name.contains("waypoint"),
            };
            let (mode, is, allowed) = match (direction, waypoint) {
                (Direction::Waypoint, false) => ("SERVER", "gateway, which is always a client", "CLIENT; SERVER, if its Gateway has a class for waypoints and is in the same set"),
                (Direction::Gateway, true) => ("CLIENT", "waypoint, which is always a server", "SERVER"),
                _ => return None,
            };
            Some(format!("{path}.mode: {mode} is not allowed there: Gateway {name} is a {is}, so it never applies; allowed: {allowed}"))
        })
    }

    /// Two that are in the way of each other, each two once.
    fn pairs(&self, root: &str) -> Vec<String> {
        let mut problems = Vec::new();
        for (index, one) in self.resources.iter().enumerate() {
            problems.extend(within(one));
            for two in self.resources.iter().skip(index + 1) {
                let same = one.kind == two.kind && one.namespace == two.namespace && one.name == two.name;
                if same {
                    problems.push(format!(
                        "{}: {one}: {} has the same resource, so that only the one applied last counts; allowed: one",
                        one.file, two.file
                    ));
                    continue;
                }
                let both: Vec<_> = one
                    .filters
                    .iter()
                    .flat_map(|filter| two.filters.iter().map(move |other| ((one, filter), (two, other))))
                    .collect();
                let mut scopes = both.iter().filter_map(|(one, two)| overlap::between(*one, *two, root));
                if let Some(scope) = scopes.next() {
                    problems.push(format!(
                        "{}: {one}: {two} in {} puts graygate into the same {} listeners, so that each request meets it twice; allowed: one of the two, or labels, ports, a mode or a revision (istio.io/rev) by which no proxy has both",
                        one.file,
                        two.file,
                        scope.direction.name()
                    ));
                    continue;
                }
                let mut namesakes = both.iter().filter_map(|(one, two)| namesake::between(*one, *two, root));
                if let Some(why) = namesakes.next() {
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

/// What of the policy can't be where the filter is.
fn placed(filter: &Filter, document: &Node, policy: &Policy) -> Vec<String> {
    let mut problems = Vec::new();
    if filter.own_listener && filter.directions.contains(&Direction::Inbound) {
        problems.extend(direction::drain(policy).map(|problem| format!("{}.{problem}", filter.path)));
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

/// Patches of one EnvoyFilter that are in the way of each other, be it that both bring the filter or take it by name.
/// What a plugin's matches have in common it is in once.
fn within(resource: &Resource) -> Option<String> {
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
