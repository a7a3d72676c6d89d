//! A manifest: a Kubernetes object, and what it says of itself.

use graygate::policy::document::Node;

use crate::failure::Failure;
use crate::tree::{self, list, number, object, some, text};

/// One document of the output.
pub struct Manifest {
    /// What it is, when to use it, and why it is as it is; a comment each.
    pub comments: Vec<String>,
    /// The object.
    pub object: Node,
}

/// The widest line of a comment.
const WIDTH: usize = 110;

impl Manifest {
    /// The document, with its comments above it.
    pub fn yaml(&self) -> Result<String, Failure> {
        let mut yaml = String::from("---\n");
        for comment in &self.comments {
            for line in lines(comment) {
                yaml.push_str(&format!("# {line}\n"));
            }
        }
        yaml.push_str(&tree::write(&self.object)?);
        if !yaml.ends_with('\n') {
            yaml.push('\n');
        }
        Ok(yaml)
    }
}

fn lines(comment: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in comment.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.len() + 1 + word.len() <= WIDTH => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// Which proxies a resource is for.
pub enum Selection {
    /// All of its namespace; in the root namespace all of the mesh.
    All,
    /// Those of the Pods with these labels.
    Labels(Vec<(String, String)>),
    /// Those of these Gateways and Services.
    Targets(Vec<(TargetKind, String)>),
}

/// What a resource may be attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetKind {
    /// A Gateway of the Gateway API, which a waypoint is as well.
    Gateway,
    /// A Service with a waypoint.
    Service,
}

impl Selection {
    /// The labels as an object.
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
            let (group, kind) = match kind {
                TargetKind::Gateway => ("gateway.networking.k8s.io", "Gateway"),
                TargetKind::Service => ("", "Service"),
            };
            object([("group", text(group)), ("kind", text(kind)), ("name", text(name))])
        })))
    }

    /// `selector` and `targetRefs`, as a WasmPlugin has them.
    pub fn of_plugin(&self) -> [(&'static str, Node); 2] {
        let selector = self.labels().map(|labels| object([("matchLabels", labels)]));
        [("selector", some(selector)), ("targetRefs", some(self.targets()))]
    }

    /// `workloadSelector` and `targetRefs`, as an EnvoyFilter has them.
    pub fn of_envoy_filter(&self) -> [(&'static str, Node); 2] {
        let selector = self.labels().map(|labels| object([("labels", labels)]));
        [("workloadSelector", some(selector)), ("targetRefs", some(self.targets()))]
    }
}

/// Who an object is.
#[derive(Clone)]
pub struct Identity {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.namespace`.
    pub namespace: String,
    /// Which part of the policy it belongs to.
    pub component: &'static str,
    /// The revision of the control plane that it is for, if it is for one alone.
    pub revision: Option<String>,
}

impl Identity {
    /// Another object of the same part.
    pub fn beside(&self, suffix: &str) -> Identity {
        Identity { name: format!("{}-{suffix}", self.name), ..self.clone() }
    }

    /// The same object, for whichever revision.
    pub fn for_all_revisions(&self) -> Identity {
        Identity { revision: None, ..self.clone() }
    }

    /// The object's `metadata`. The labels are Kubernetes' own words for what a thing is; `check` reads the component
    /// where nothing else tells a gateway from a sidecar.
    pub fn metadata(&self) -> Node {
        let labels = object([
            ("app.kubernetes.io/name", text("graygate")),
            ("app.kubernetes.io/component", text(self.component)),
            ("istio.io/rev", some(self.revision.as_deref().map(text))),
        ]);
        object([("name", text(&self.name)), ("namespace", text(&self.namespace)), ("labels", labels)])
    }
}

/// An EnvoyFilter of these patches. A priority is always there: without one, what is relative has no defined order.
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

/// One patch of an EnvoyFilter.
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
    fn comments_are_broken_between_words() {
        let comment = "word ".repeat(50);
        let lines = lines(&comment);
        assert_eq!(lines.len(), 3);
        assert!(lines.iter().all(|line| line.len() <= WIDTH));
        assert_eq!(lines.join(" "), comment.trim());
    }
}
