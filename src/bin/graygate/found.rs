//! Finds the policies in a file: a policy by itself, in the configuration of Envoy, in the manifests of Istio, or in the
//! resources of Envoy Gateway.

use std::cell::OnceCell;
use std::ops::Range;

use graygate::policy::document::Node;
use graygate::policy::keys;
use graygate::policy::problem::Position;
use graygate::policy::spelling::nearest;

use crate::embedded::Embedded;
use crate::envoy::WasmConfig;
use crate::gateway::set as gateway;
use crate::istio::model::Object;
use crate::istio::module_source::ModuleSource;
use crate::istio::{read, source as manifests};
use crate::marks::{Marks, steps_of};
use crate::source::Source;
use crate::syntax;
use crate::tree::{fields, get, get_field, get_text, items};

/// The keys of a policy that hold its parts. Few other documents have two of them.
const SECTIONS: [&str; 5] = ["upstreams", "probes", "releases", "gates", "policies"];

/// Says what a policy is, to those who gave none.
pub const WANTED: &str = "A policy has a name and upstreams, probes, releases or gates. It is a file by itself, or in a Wasm filter of Envoy, Istio or Envoy Gateway.";

/// A place in a file's documents.
#[derive(Clone, Debug, Default)]
pub struct At {
    /// The index of the document in the file.
    pub document: usize,
    /// Leads from the document to the value: each step is an index among siblings.
    pub steps: Vec<usize>,
}

/// What holds a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyHolder {
    /// The file itself.
    File,
    /// The configuration of Envoy.
    Envoy,
    /// A manifest of Istio.
    Manifest,
    /// A resource for Envoy Gateway.
    Gateway,
}

/// A resource for Envoy Gateway, which is checked together with others.
#[derive(Debug)]
pub struct GatewayObject {
    /// Where it is.
    pub at: At,
    /// The object.
    pub node: Node,
}

/// A document of one policy or of several.
#[derive(Debug)]
pub struct FoundPolicy {
    /// Where it is.
    pub at: At,
    /// What holds it.
    pub holder: PolicyHolder,
    /// The document.
    pub node: Node,
    /// The string that is the document, if it is one.
    pub text: Option<String>,
    /// The module that what holds it names, if it does.
    pub module: Option<ModuleSource>,
}

/// A problem with what holds a policy.
#[derive(Debug)]
pub struct HolderProblem {
    /// Where it is.
    pub at: At,
    /// The offset in the string there, if the problem is inside it.
    pub inside: Option<(String, usize)>,
    /// The path to the value. Empty for the file as a whole.
    pub path: String,
    /// What is wrong, and how to mend it.
    pub message: String,
}

/// What was found in a file.
#[derive(Debug, Default)]
pub struct FileContents {
    /// The policies.
    pub policies: Vec<FoundPolicy>,
    /// The problems with what holds them.
    pub problems: Vec<HolderProblem>,
    /// Manifests that are templates, by kind and name.
    pub templates: Vec<String>,
    /// The resources for Envoy Gateway.
    pub gateway: Vec<GatewayObject>,
    /// What else is there, in words.
    pub others: Vec<String>,
    is_named: bool,
}

impl FileContents {
    /// Finds the policies in the documents of a file, as [`syntax::parse`] returns them. If the user names the file, a value
    /// that has little of a policy is one, too.
    pub fn of(documents: Vec<(usize, Node)>, is_named: bool) -> Self {
        let mut contents = FileContents { is_named, ..FileContents::default() };
        for (document, node) in documents {
            contents.add(document, node);
        }
        let mut alone = contents.policies.iter().filter(|found| found.holder == PolicyHolder::File);
        if let (Some(_), Some(second)) = (alone.next(), alone.next()) {
            let message = "a second policy. A file has one. Put several into one list: policies: [{name: …}, {name: …}]";
            contents.problem(second.at.clone(), "", message);
        }
        contents
    }

    fn add(&mut self, document: usize, node: Node) {
        let at = |steps: &[usize]| At { document, steps: steps.to_vec() };
        if get_text(&node, &["apiVersion"]).is_some() || get(&node, &["kind"]).is_some() {
            return self.add_objects(document, &node, &mut Vec::new());
        }
        let filters = WasmConfig::all(&node, "");
        let (policies, unknown): (Vec<_>, Vec<_>) = filters.iter().partition(|filter| holds_policy(filter));
        for filter in &policies {
            self.add_filter(document, &filter.steps, filter, PolicyHolder::Envoy);
        }
        if !policies.is_empty() {
            return;
        }
        if !unknown.is_empty() {
            self.others.push("an Envoy configuration whose Wasm filters are not graygate. A filter is graygate if its name, root_id or module is, or if its configuration is a policy".to_owned());
        } else if is_policy(&node) || self.is_named && is_meant_as_policy(&node) {
            let holder = PolicyHolder::File;
            self.policies.push(FoundPolicy { at: at(&[]), holder, node, text: None, module: None });
        } else {
            if let Some(index) = items(Some(&node)).iter().position(is_policy) {
                self.problem(at(&[index]), "", "a policy in a list. A file has one policy by itself, or several in a list: policies: [{name: …}, {name: …}]");
            }
            self.others.push(describe(&node));
        }
    }

    /// Adds the policies in a manifest, or in a list of them.
    fn add_objects(&mut self, document: usize, node: &Node, steps: &mut Vec<usize>) {
        if get_text(node, &["kind"]) == Some("List") {
            let position = fields(node).iter().position(|(key, _)| key == "items").unwrap_or_default();
            for (index, item) in items(get(node, &["items"])).iter().enumerate() {
                steps.extend([position, index]);
                self.add_objects(document, item, steps);
                steps.truncate(steps.len() - 2);
            }
            return;
        }
        let objects = Object::all(node, "");
        if let Some(object) = objects.first().filter(|object| gateway::has_kind(object)) {
            return self.add_gateway(document, object, steps);
        }
        let Some(object) = objects.first().filter(|object| read::has_kind(object)) else {
            return self.others.push(describe(node));
        };
        if manifests::is_template(node) {
            return self.templates.push(object.to_string());
        }
        let Some(resource) = read::resource(object) else {
            return self.others.push(format!("a {object} that is not graygate's"));
        };
        if object.kind == "EnvoyFilter" {
            for filter in WasmConfig::all(node, "").into_iter().filter(holds_policy) {
                let steps: Vec<usize> = steps.iter().chain(&filter.steps).copied().collect();
                self.add_filter(document, &steps, &filter, PolicyHolder::Manifest);
            }
            return;
        }
        for filter in resource.filters {
            let steps = steps.iter().copied().chain(steps_of(node, &filter.path)).collect();
            let at = At { document, steps };
            match filter.policy {
                Ok(node) => self.policies.push(FoundPolicy {
                    at,
                    holder: PolicyHolder::Manifest,
                    node,
                    text: None,
                    module: filter.module,
                }),
                Err(message) => self.problem(at, &filter.path, &message),
            }
        }
    }

    /// Adds a resource for Envoy Gateway, and its policies.
    fn add_gateway(&mut self, document: usize, object: &Object<'_>, steps: &[usize]) {
        let node = object.node;
        let filters = gateway::filters(object);
        if manifests::is_template(node) {
            if !filters.is_empty() {
                self.templates.push(object.to_string());
            }
            return;
        }
        if filters.is_empty() {
            self.others.push(describe(node));
        }
        for filter in filters {
            let path = filter.config_path();
            let steps = steps.iter().copied().chain(steps_of(node, &path)).collect();
            let at = At { document, steps };
            match filter.config() {
                Ok(node) => self.policies.push(FoundPolicy {
                    at,
                    holder: PolicyHolder::Gateway,
                    node: node.clone(),
                    text: None,
                    module: filter.module(),
                }),
                Err(message) => self.problem(at, &path, &message),
            }
        }
        let at = At { document, steps: steps.to_vec() };
        self.gateway.push(GatewayObject { at, node: node.clone() });
    }

    fn add_filter(
        &mut self,
        document: usize,
        steps: &[usize],
        filter: &WasmConfig<'_>,
        holder: PolicyHolder,
    ) {
        let at = |path: &str| At {
            document,
            steps: steps.iter().copied().chain(steps_of(filter.node, path)).collect(),
        };
        let text = match filter.policy_text() {
            Ok(text) => text,
            // A patch that changes some fields of a filter need not have a policy.
            Err(_) if holder == PolicyHolder::Manifest && !has_configuration(filter) => return,
            Err(message) => {
                let path = format!("{}.configuration", filter.path);
                return self.problem(at("configuration"), &path, &message);
            }
        };
        let at = at("configuration.value");
        match syntax::parse_json(text) {
            Ok(node) => {
                let (text, module) = (Some(text.to_owned()), filter.module());
                self.policies.push(FoundPolicy { at, holder, node, text, module });
            }
            Err(problem) => self.problems.push(HolderProblem {
                at,
                inside: Some((text.to_owned(), problem.at)),
                path: format!("{}.configuration.value", filter.path),
                message: not_json(text).unwrap_or(problem.message),
            }),
        }
    }

    fn problem(&mut self, at: At, path: &str, message: &str) {
        self.problems.push(HolderProblem {
            at,
            inside: None,
            path: path.to_owned(),
            message: message.to_owned(),
        });
    }

    /// Says what the file has instead of a policy.
    pub fn nothing_found(&self) -> String {
        match self.others.as_slice() {
            [] => "no policy: the file is empty, or has only comments. Write one: graygate init".to_owned(),
            [other] => format!("no policy: the file has {other}. {WANTED}"),
            [other, ..] => format!(
                "no policy in {} documents, the first of which is {other}. {WANTED}",
                self.others.len()
            ),
        }
    }

    /// Returns whether nothing of graygate was found.
    pub fn is_empty(&self) -> bool {
        self.policies.is_empty() && self.problems.is_empty() && self.templates.is_empty()
    }
}

/// Says that a string is YAML, if it is a policy in YAML.
fn not_json(text: &str) -> Option<String> {
    if text.trim().is_empty() {
        return Some("an empty string. Write the policy as JSON.".to_owned());
    }
    let node: Node = serde_saphyr::from_str_with_options(text, syntax::yaml_options()).ok()?;
    let is_yaml = is_policy(&node) && !text.trim_start().starts_with('{');
    is_yaml.then(|| {
        "a policy in YAML. The filter reads JSON: graygate render --kind envoy FILE writes it.".to_owned()
    })
}

fn has_configuration(filter: &WasmConfig<'_>) -> bool {
    fields(filter.node).iter().any(|(key, _)| key == "configuration")
}

/// Returns whether the filter is graygate, or has a configuration that is a policy.
fn holds_policy(filter: &WasmConfig<'_>) -> bool {
    filter.is_graygate()
        || filter.policy_text().is_ok_and(|text| syntax::parse_json(text).is_ok_and(|node| is_policy(&node)))
}

/// Returns whether a value is meant as a policy, or as a document of several. It may have mistakes.
fn is_policy(node: &Node) -> bool {
    if get(node, &["apiVersion"]).is_some() || get(node, &["kind"]).is_some() {
        return false;
    }
    let has = |known: &str| fields(node).iter().any(|(key, _)| key == known);
    let known = fields(node).iter().filter(|(key, _)| is_known(key)).count();
    match get(node, &["policies"]) {
        Some(list) => items(Some(list)).iter().any(is_policy),
        None => known > 1 && SECTIONS.iter().any(|section| has(section)),
    }
}

fn is_known(key: &str) -> bool {
    keys::POLICY.has(key)
}

/// Returns whether a value is a policy if the user says so. Most of its keys may be missing or misspelt.
fn is_meant_as_policy(node: &Node) -> bool {
    if is_of_envoy(node) {
        return false;
    }
    let names: Vec<&str> =
        keys::POLICY.keys.iter().chain(keys::DOCUMENT.keys).map(|spec| spec.name).collect();
    fields(node).iter().any(|(key, _)| names.contains(&key.as_str()) || nearest(key, &names).is_some())
}

/// Describes a value that is not a policy.
fn describe(node: &Node) -> String {
    if let Some(kind) = get_text(node, &["kind"]) {
        return format!("a Kubernetes {kind}");
    }
    match node {
        Node::Object(_) if is_of_envoy(node) => "an Envoy configuration without a Wasm filter, which may be in a file of its own that config_discovery names".to_owned(),
        Node::Object(entries) if entries.is_empty() => "an object without keys".to_owned(),
        Node::Object(entries) => {
            let names: Vec<String> =
                entries.iter().take(3).map(|(key, _)| format!("{:?}", short(key))).collect();
            let more = if entries.len() > 3 { ", …" } else { "" };
            format!("an object with the keys {}{more}", names.join(", "))
        }
        Node::List(_) => "a list".to_owned(),
        Node::Text(_) => "a string".to_owned(),
        Node::Bool(_) | Node::Integer(_) | Node::Number(_) => format!("the value {node}"),
        Node::Null => "nothing".to_owned(),
    }
}

/// Returns whether an object has a key that only configurations of Envoy have.
fn is_of_envoy(node: &Node) -> bool {
    const KEYS: [&str; 8] = [
        "@type",
        "static_resources",
        "dynamic_resources",
        "resources",
        "configs",
        "filter_chains",
        "typed_config",
        "address",
    ];
    KEYS.iter().any(|key| get_field(node, &[key]).is_some())
}

fn short(key: &str) -> String {
    key.chars().take(40).collect()
}

/// Finds the ranges of problems in a file. Parses the file again, with marks, when it is first asked.
pub struct Placer<'s> {
    source: &'s Source,
    marks: OnceCell<Vec<Marks>>,
}

impl<'s> Placer<'s> {
    /// Returns a placer for a file.
    pub fn new(source: &'s Source) -> Self {
        Self { source, marks: OnceCell::new() }
    }

    fn range(&self, at: &At) -> Option<Range<usize>> {
        let marks = self.marks.get_or_init(|| Marks::read(&self.source.text));
        Some(marks.get(at.document)?.at(&at.steps).value.clone())
    }

    /// Returns the range of a problem with what holds a policy.
    pub fn holder_range(&self, problem: &HolderProblem) -> Option<Range<usize>> {
        let range = self.range(&problem.at)?;
        let inside = problem.inside.as_ref().and_then(|(text, offset)| {
            Embedded::new(&self.source.text, range.clone(), text)?.range(*offset..*offset)
        });
        Some(inside.unwrap_or(range))
    }

    /// Returns the range of the value at a path of a resource for Envoy Gateway.
    pub fn object_range(&self, found: &GatewayObject, path: &str) -> Option<Range<usize>> {
        let GatewayObject { at, node } = found;
        let steps = at.steps.iter().copied().chain(steps_of(node, path)).collect();
        self.range(&At { document: at.document, steps })
    }

    /// Returns the ranges of positions in a policy.
    pub fn ranges(&self, found: &FoundPolicy, positions: &[Position]) -> Vec<Option<Range<usize>>> {
        let Some(text) = &found.text else {
            let marks = self.marks.get_or_init(|| Marks::read(&self.source.text));
            let root = marks.get(found.at.document).map(|marks| marks.at(&found.at.steps));
            return positions.iter().map(|position| Some(root?.range(position))).collect();
        };
        let string = self.range(&found.at);
        let inner = Marks::read(text);
        let embedded = string.clone().and_then(|string| Embedded::new(&self.source.text, string, text));
        let place = |position| embedded.as_ref()?.range(inner.first()?.range(position));
        positions.iter().map(|position| place(position).or_else(|| string.clone())).collect()
    }
}
