//! Resources in manifests that add graygate to proxies.

use core::fmt;

use graygate::policy::Policy;
use graygate::policy::document::Node;
use graygate::policy::problem::Problems;
use graygate::policy::set::{self, PolicySet};

use super::direction::Direction;
use super::module_source::ModuleSource;
use crate::tree::{fields, get, get_text, items};

/// A WasmPlugin, TrafficExtension or EnvoyFilter that adds graygate.
pub struct Resource {
    /// The file that holds it.
    pub file: String,
    /// The kind.
    pub kind: &'static str,
    /// The namespace. `default` if it has none.
    pub namespace: String,
    /// Whether the manifest has the namespace.
    pub has_namespace: bool,
    /// The name.
    pub name: String,
    /// The revision of the control plane that reads it. If absent, all revisions do.
    pub revision: Option<String>,
    /// The proxies that it applies to.
    pub selector: ProxySelector,
    /// The filters that it adds. Only an EnvoyFilter may add more than one.
    pub filters: Vec<Filter>,
}

/// The proxies that a resource applies to.
#[derive(Debug, PartialEq, Eq)]
pub enum ProxySelector {
    /// The proxies of Pods with all these labels. No labels mean all Pods of the namespace.
    Labels(Vec<(String, String)>),
    /// The proxies of these objects, by kind and name.
    Targets(Vec<(String, String)>),
}

/// One occurrence of the filter in a resource.
pub struct Filter {
    /// The path to its policy.
    pub path: String,
    /// The policy, or why it cannot be read.
    pub policy: Result<Node, String>,
    /// Whether it has a field for the policy.
    pub has_policy: bool,
    /// The ID of its VM. All VMs of a proxy with the same ID share their state.
    pub vm_id: String,
    /// The path to the field that says what happens to requests if the filter fails, and the field's value.
    pub fail: (String, Option<Node>),
    /// Where proxies get the module. Empty if the filter names none.
    pub module: Option<ModuleSource>,
    /// Whether it changes some fields of a filter that something else adds.
    pub is_partial: bool,
    /// The listeners that it is added to. Empty if it has a listener of its own.
    pub scopes: Vec<ListenerScope>,
    /// The directions whose rules apply to its policy.
    pub directions: Vec<Direction>,
    /// Whether the resource also adds the listener.
    pub own_listener: bool,
}

/// One of the policies of a filter.
pub struct FilterPolicy<'f> {
    /// The path to it.
    pub path: String,
    /// Its document.
    pub document: &'f Node,
    /// The policy that the document compiles to.
    pub policy: Policy,
}

impl Filter {
    /// Returns the compiled policies of the filter's document.
    ///
    /// # Errors
    ///
    /// Returns all problems of the document.
    pub fn compile<'f>(&self, document: &'f Node) -> Result<Vec<FilterPolicy<'f>>, Problems> {
        let policies = PolicySet::from_document(document)?.policies;
        let documents = set::documents(document).into_iter().zip(policies);
        let named = documents.map(|((part, document), policy)| {
            let path = if part.is_empty() { self.path.clone() } else { format!("{}.{part}", self.path) };
            FilterPolicy { path, document, policy }
        });
        Ok(named.collect())
    }

    /// Returns the compiled policies, or none if the document has problems.
    pub fn compiled(&self) -> Vec<FilterPolicy<'_>> {
        self.policy.as_ref().ok().and_then(|document| self.compile(document).ok()).unwrap_or_default()
    }
}

/// Listeners of one direction.
pub struct ListenerScope {
    /// The direction.
    pub direction: Direction,
    /// The path to the match that sets the direction.
    pub path: String,
    /// Whether the match sets the direction, rather than leaving it to the default.
    pub explicit: bool,
    /// The ports of the listeners. Empty means all.
    pub ports: Vec<u32>,
    /// A condition on the proxies, which a patch of an EnvoyFilter may have.
    pub proxies: Option<Node>,
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// A Kubernetes object.
#[derive(Clone, Copy)]
pub struct Object<'n> {
    /// The file that holds it.
    pub file: &'n str,
    /// The whole object.
    pub node: &'n Node,
    /// The API group: `apiVersion` without the version.
    pub group: &'n str,
    /// `kind`.
    pub kind: &'n str,
    /// `metadata.namespace`, or `default`.
    pub namespace: &'n str,
    /// `metadata.name`.
    pub name: &'n str,
}

impl<'n> Object<'n> {
    /// Returns the objects in a document. A `List` has several, and a document that is not an object has none.
    pub fn all(node: &'n Node, file: &'n str) -> Vec<Object<'n>> {
        let (Some(api_version), Some(kind)) = (get_text(node, &["apiVersion"]), get_text(node, &["kind"]))
        else {
            return Vec::new();
        };
        if kind == "List" {
            return items(get(node, &["items"])).iter().flat_map(|item| Object::all(item, file)).collect();
        }
        let Some(name) = get_text(node, &["metadata", "name"]) else {
            return Vec::new();
        };
        let namespace = get_text(node, &["metadata", "namespace"]).unwrap_or("default");
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        vec![Object { file, node, group, kind, namespace, name }]
    }

    /// Returns the namespace, if the manifest has it.
    pub fn own_namespace(&self) -> Option<&'n str> {
        get_text(self.node, &["metadata", "namespace"])
    }

    /// Returns the value of a label.
    pub fn label(&self, key: &str) -> Option<&'n str> {
        get_text(self.node, &["metadata", "labels", key])
    }

    /// Returns the component label, which `render` sets to the direction.
    pub fn component(&self) -> Option<&'n str> {
        self.label("app.kubernetes.io/component")
    }

    /// Returns the proxies that the object applies to.
    pub fn selector(&self) -> ProxySelector {
        let single = get(self.node, &["spec", "targetRef"]);
        let refs = items(get(self.node, &["spec", "targetRefs"])).iter().chain(single);
        let targets: Vec<(String, String)> = refs
            .filter_map(|node| {
                Some((get_text(node, &["kind"])?.to_owned(), get_text(node, &["name"])?.to_owned()))
            })
            .collect();
        if !targets.is_empty() {
            return ProxySelector::Targets(targets);
        }
        let labels = get(self.node, &["spec", "selector", "matchLabels"])
            .or_else(|| get(self.node, &["spec", "workloadSelector", "labels"]));
        let pair = |(key, value): &(String, Node)| match value {
            Node::Text(value) => (key.clone(), value.clone()),
            other => (key.clone(), other.to_string()),
        };
        ProxySelector::Labels(labels.map(fields).unwrap_or_default().iter().map(pair).collect())
    }
}

impl fmt::Display for Object<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

impl ProxySelector {
    /// Returns whether the proxies are known to be gateways: by a target, or by the labels of Istio's or the Gateway
    /// API's gateways.
    pub fn is_gateway(&self) -> bool {
        match self {
            ProxySelector::Labels(labels) => labels
                .iter()
                .any(|(key, value)| key == GATEWAY_NAME || key == "istio" && value.contains("gateway")),
            ProxySelector::Targets(_) => true,
        }
    }
}

/// The label on Pods of a Gateway of the Gateway API. Its value is the Gateway's name.
pub const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";
