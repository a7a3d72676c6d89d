//! A resource that puts graygate somewhere, as it stands in a manifest.

use core::fmt;

use graygate::policy::Policy;
use graygate::policy::document::Node;

use super::direction::Direction;
use crate::tree::{fields, get, get_text, items};

/// A WasmPlugin, TrafficExtension or EnvoyFilter of ours.
pub struct Resource {
    /// The file that it is in.
    pub file: String,
    /// Its kind.
    pub kind: &'static str,
    /// Its namespace; `default`, where it has none.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The revision of the control plane that reads it; absent: all.
    pub revision: Option<String>,
    /// Which proxies it is for.
    pub reach: Reach,
    /// What it puts there; more than one only by an EnvoyFilter.
    pub filters: Vec<Filter>,
}

/// Which proxies a resource is for.
#[derive(Debug, PartialEq, Eq)]
pub enum Reach {
    /// Those of the Pods with these labels; none: all of the namespace.
    Labels(Vec<(String, String)>),
    /// Those of these objects, by kind and name.
    Targets(Vec<(String, String)>),
}

/// The filter, once.
pub struct Filter {
    /// Where its policy stands.
    pub path: String,
    /// The policy, or why it is none.
    pub policy: Result<Node, String>,
    /// The id of its VM. What is known is shared by all VMs of one id.
    pub vm: String,
    /// The field that says what becomes of requests without the filter, and what it says.
    pub fail: (String, Option<Node>),
    /// The listeners that it is in; none, where it is in one of its own.
    pub scopes: Vec<ListenerScope>,
    /// The directions by whose rules its policy goes.
    pub directions: Vec<Direction>,
    /// Whether it comes with a listener of its own.
    pub own_listener: bool,
}

impl Filter {
    /// The policy, if it has no problems.
    pub fn compiled(&self) -> Option<Policy> {
        Policy::from_document(self.policy.as_ref().ok()?).ok()
    }
}

/// Listeners of one direction.
pub struct ListenerScope {
    /// The direction.
    pub direction: Direction,
    /// Where the mode stands that says so.
    pub path: String,
    /// Whether the mode was written.
    pub written: bool,
    /// The ports; empty: all.
    pub ports: Vec<u32>,
    /// Which proxies alone, as an EnvoyFilter's patch may say.
    pub proxies: Option<Node>,
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// What every object of Kubernetes says of itself.
pub struct Object<'n> {
    /// The whole of it.
    pub node: &'n Node,
    /// `apiVersion` without the version.
    pub group: &'n str,
    /// `kind`.
    pub kind: &'n str,
    /// `metadata.namespace`, or `default`.
    pub namespace: &'n str,
    /// `metadata.name`.
    pub name: &'n str,
}

impl<'n> Object<'n> {
    /// The objects in a document: one, those of a `List`, or none, where it is something else.
    pub fn all(node: &'n Node) -> Vec<Object<'n>> {
        let (Some(api), Some(kind)) = (get_text(node, &["apiVersion"]), get_text(node, &["kind"])) else {
            return Vec::new();
        };
        if kind == "List" {
            return items(get(node, &["items"])).iter().flat_map(Object::all).collect();
        }
        let Some(name) = get_text(node, &["metadata", "name"]) else {
            return Vec::new();
        };
        let namespace = get_text(node, &["metadata", "namespace"]).unwrap_or("default");
        let group = api.split_once('/').map_or("", |(group, _)| group);
        vec![Object { node, group, kind, namespace, name }]
    }

    /// The label by this name.
    pub fn label(&self, key: &str) -> Option<&'n str> {
        get_text(self.node, &["metadata", "labels", key])
    }

    /// The component that a rendered resource says it is.
    pub fn component(&self) -> Option<&'n str> {
        self.label("app.kubernetes.io/component")
    }

    /// Which proxies it is for.
    pub fn reach(&self) -> Reach {
        let one = get(self.node, &["spec", "targetRef"]);
        let refs = items(get(self.node, &["spec", "targetRefs"])).iter().chain(one);
        let targets: Vec<(String, String)> = refs
            .filter_map(|node| {
                Some((get_text(node, &["kind"])?.to_owned(), get_text(node, &["name"])?.to_owned()))
            })
            .collect();
        if !targets.is_empty() {
            return Reach::Targets(targets);
        }
        let labels = get(self.node, &["spec", "selector", "matchLabels"])
            .or_else(|| get(self.node, &["spec", "workloadSelector", "labels"]));
        let pair = |(key, value): &(String, Node)| match value {
            Node::Text(value) => (key.clone(), value.clone()),
            other => (key.clone(), other.to_string()),
        };
        Reach::Labels(labels.map(fields).unwrap_or_default().iter().map(pair).collect())
    }
}

impl Reach {
    /// Whether these are known to be the proxies of gateways: by the labels that Istio's and the Gateway API's have.
    pub fn is_gateway(&self) -> bool {
        match self {
            Reach::Labels(labels) => labels
                .iter()
                .any(|(key, value)| key == GATEWAY_NAME || key == "istio" && value.contains("gateway")),
            Reach::Targets(_) => true,
        }
    }
}

/// The label of the Pods of a Gateway of the Gateway API.
pub const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";

/// Whether a module at this address is ours by its name.
pub fn is_ours(url: &str) -> bool {
    url.rsplit('/').next().is_some_and(|name| name.starts_with("graygate"))
}
