//! Manifests: Kubernetes objects with comments, and the parts that all of them have.

use graygate::policy::document::Node;
use graygate::policy::module::ModuleKind;

use crate::failure::Failure;
use crate::tree::{self, list, number, object, or_null, text};

/// One document of the output.
pub struct Manifest {
    /// The comments above the object. They tell what it is, when to use it, and why it is as it is.
    pub comments: Vec<String>,
    /// The Kubernetes object.
    pub object: Node,
}

/// The longest line of a comment, in bytes without the `# `.
const MAX_COMMENT_LINE: usize = 110;

impl Manifest {
    /// Writes the document as YAML, with its comments above the object.
    pub fn yaml(&self) -> Result<String, Failure> {
        let mut yaml = String::from("---\n") + &comment_lines(&self.comments);
        yaml.push_str(&tree::write(&self.object)?);
        if !yaml.ends_with('\n') {
            yaml.push('\n');
        }
        Ok(yaml)
    }
}

/// Returns the comments as lines of YAML.
pub fn comment_lines(comments: &[String]) -> String {
    comments.iter().flat_map(|comment| wrap(comment)).map(|line| format!("# {line}\n")).collect()
}

fn wrap(comment: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in comment.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.len() + 1 + word.len() <= MAX_COMMENT_LINE => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// The proxies that a resource applies to.
pub enum Selection {
    /// All proxies of its namespace. In the root namespace, all proxies of the mesh.
    All,
    /// The proxies of Pods with these labels.
    Labels(Vec<(String, String)>),
    /// The proxies of these Gateways and Services.
    Targets(Vec<(TargetKind, String)>),
}

/// The kind of object that a resource may be attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetKind {
    /// A Gateway of the Gateway API. A waypoint is one, too.
    Gateway,
    /// A Service with a waypoint.
    Service,
    /// A route of the Gateway API. Only Envoy Gateway attaches resources to it.
    HttpRoute,
}

impl TargetKind {
    /// Returns the API group and the kind.
    pub fn reference(self) -> (&'static str, &'static str) {
        match self {
            TargetKind::Gateway => ("gateway.networking.k8s.io", "Gateway"),
            TargetKind::Service => ("", "Service"),
            TargetKind::HttpRoute => ("gateway.networking.k8s.io", "HTTPRoute"),
        }
    }
}

impl Selection {
    fn labels(&self) -> Option<Node> {
        match self {
            Selection::Labels(labels) => {
                Some(Node::Object(labels.iter().map(|(key, value)| (key.clone(), text(value))).collect()))
            }
            _ => None,
        }
    }

    fn targets(&self) -> Option<Node> {
        let Selection::Targets(targets) = self else {
            return None;
        };
        Some(list(targets.iter().map(|(kind, name)| {
            let (group, kind) = kind.reference();
            object([("group", text(group)), ("kind", text(kind)), ("name", text(name))])
        })))
    }

    /// Returns the fields `selector` and `targetRefs` of a WasmPlugin.
    pub fn of_plugin(&self) -> [(&'static str, Node); 2] {
        let selector = self.labels().map(|labels| object([("matchLabels", labels)]));
        [("selector", or_null(selector)), ("targetRefs", or_null(self.targets()))]
    }

    /// Returns the fields `workloadSelector` and `targetRefs` of an EnvoyFilter.
    pub fn of_envoy_filter(&self) -> [(&'static str, Node); 2] {
        let selector = self.labels().map(|labels| object([("labels", labels)]));
        [("workloadSelector", or_null(selector)), ("targetRefs", or_null(self.targets()))]
    }
}

/// The identity of an object: what its `metadata` has.
#[derive(Clone)]
pub struct Identity {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.namespace`.
    pub namespace: String,
    /// The part of the policy that it belongs to, by the name of its direction.
    pub component: &'static str,
    /// The revision of the control plane that reads it. If absent, all revisions do.
    pub revision: Option<String>,
    /// The module that it adds to proxies, if it adds one.
    pub module: Option<ModuleKind>,
}

impl Identity {
    /// Returns the identity of another object of the same part, with this suffix in its name.
    pub fn with_suffix(&self, suffix: &str) -> Identity {
        Identity { name: format!("{}-{suffix}", self.name), module: None, ..self.clone() }
    }

    /// Returns the identity without the label of a revision.
    pub fn for_all_revisions(&self) -> Identity {
        Identity { revision: None, ..self.clone() }
    }

    /// Returns the object's `metadata`.
    ///
    /// The labels are those that Kubernetes recommends. `check` reads the component if nothing else tells a gateway
    /// from a sidecar. The label of the module lets kustomize replace the URL of each.
    pub fn metadata(&self) -> Node {
        let labels = object([
            ("app.kubernetes.io/name", text("graygate")),
            ("app.kubernetes.io/component", text(self.component)),
            ("graygate/module", or_null(self.module.map(|module| text(module.name())))),
            ("istio.io/rev", or_null(self.revision.as_deref().map(text))),
        ]);
        object([("name", text(&self.name)), ("namespace", text(&self.namespace)), ("labels", labels)])
    }
}

/// Returns an EnvoyFilter with these patches. It always has a priority, because relative operations have no defined
/// order without one.
pub fn envoy_filter(
    identity: &Identity,
    selection: &Selection,
    priority: Option<i32>,
    patches: Vec<Node>,
) -> Node {
    let [selector, targets] = selection.of_envoy_filter();
    let priority = ("priority", number(priority.unwrap_or(10)));
    let spec = object([selector, targets, priority, ("configPatches", list(patches))]);
    object([
        ("apiVersion", text("networking.istio.io/v1alpha3")),
        ("kind", text("EnvoyFilter")),
        ("metadata", identity.metadata()),
        ("spec", spec),
    ])
}

/// Returns one patch of an EnvoyFilter.
pub fn patch(apply_to: &str, matched: Node, operation: &str, value: Node) -> Node {
    object([
        ("applyTo", text(apply_to)),
        ("match", matched),
        ("patch", object([("operation", text(operation)), ("value", value)])),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_are_wrapped_between_words() {
        let comment = "word ".repeat(50);
        let lines = wrap(&comment);
        assert_eq!(lines.len(), 3);
        assert!(lines.iter().all(|line| line.len() <= MAX_COMMENT_LINE));
        assert_eq!(lines.join(" "), comment.trim());
    }
}
