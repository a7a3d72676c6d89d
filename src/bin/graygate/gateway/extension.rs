//! Reads an EnvoyExtensionPolicy, and checks what it says of the module and of a filter that fails.

use graygate::policy::Policy;
use graygate::policy::document::Node;
use graygate::policy::set::{self, PolicySet};
use graygate::policy::spelling::nearest;

use super::findings::GatewayFindings;
use crate::envoy::is_graygate_module;
use crate::istio::model::Object;
use crate::istio::module_source::ModuleSource;
use crate::tree::{fields, get, get_text, items};

/// The group of the resources of Envoy Gateway.
pub const GROUP: &str = "gateway.envoyproxy.io";

/// The fields of an item of `wasm`.
const FIELDS: [&str; 6] = ["name", "rootID", "code", "config", "failOpen", "env"];

/// An item of `wasm` that is graygate.
pub struct WasmItem<'n> {
    /// The path to it.
    pub path: String,
    /// The item.
    pub node: &'n Node,
}

/// A policy of a filter, with the path to its document.
pub struct ExtensionPolicy {
    /// The path.
    pub path: String,
    /// The policy.
    pub policy: Policy,
}

/// What a policy of Envoy Gateway is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TargetRef<'n> {
    /// The kind.
    pub kind: &'n str,
    /// The name.
    pub name: &'n str,
    /// A listener of a Gateway, or a rule of a route.
    pub section: Option<&'n str>,
}

/// Returns the items of `wasm` in an EnvoyExtensionPolicy that are graygate.
pub fn filters<'n>(object: &Object<'n>) -> Vec<WasmItem<'n>> {
    if (object.group, object.kind) != (GROUP, "EnvoyExtensionPolicy") {
        return Vec::new();
    }
    let wasm = items(get(object.node, &["spec", "wasm"])).iter().enumerate();
    let items = wasm.map(|(index, node)| WasmItem { path: format!("spec.wasm[{index}]"), node });
    items.filter(WasmItem::is_graygate).collect()
}

/// Returns what the resource is attached to by name.
pub fn targets<'n>(object: &Object<'n>) -> Vec<TargetRef<'n>> {
    let single = get(object.node, &["spec", "targetRef"]);
    let refs = items(get(object.node, &["spec", "targetRefs"])).iter().chain(single);
    let target = |node: &'n Node| {
        let (kind, name) = (get_text(node, &["kind"])?, get_text(node, &["name"])?);
        Some(TargetRef { kind, name, section: get_text(node, &["sectionName"]) })
    };
    refs.filter_map(target).collect()
}

impl<'n> WasmItem<'n> {
    fn is_graygate(&self) -> bool {
        let name = get_text(self.node, &["name"]).unwrap_or_default();
        name == "graygate"
            || name.starts_with("graygate-")
            || get_text(self.node, &["rootID"]) == Some("graygate")
            || self.module().is_some_and(|module| is_graygate_module(&module.url))
    }

    /// Returns where Envoy Gateway gets the module.
    pub fn module(&self) -> Option<ModuleSource> {
        let code = get(self.node, &["code"])?;
        let source = ["image", "http"].into_iter().find_map(|kind| Some((kind, get(code, &[kind])?)));
        let (kind, source) = source?;
        Some(ModuleSource {
            path: format!("{}.code.{kind}.url", self.path),
            url: get_text(source, &["url"])?.to_owned(),
            digest_path: format!("{}.code.{kind}.sha256", self.path),
            digest: get(source, &["sha256"]).cloned(),
        })
    }

    /// Returns the path to the document of the policies.
    pub fn config_path(&self) -> String {
        format!("{}.config", self.path)
    }

    /// Returns the document of the policies.
    ///
    /// # Errors
    ///
    /// Returns why there is none.
    pub fn config(&self) -> Result<&'n Node, String> {
        match get(self.node, &["config"]) {
            None => Err("missing. Add the policy as an object: config: {name: …}".to_owned()),
            Some(Node::Text(_)) => Err("a string, which reaches the filter in quotes. Write the policy as an object: config: {name: …}".to_owned()),
            Some(node) => Ok(node),
        }
    }

    /// Returns the policies, or none if the document has problems.
    pub fn policies(&self) -> Vec<ExtensionPolicy> {
        let Some((node, set)) =
            self.config().ok().and_then(|node| Some((node, PolicySet::from_document(node).ok()?)))
        else {
            return Vec::new();
        };
        let paths = set::documents(node).into_iter().map(|(part, _)| match part.as_str() {
            "" => self.config_path(),
            part => format!("{}.{part}", self.config_path()),
        });
        paths.zip(set.policies).map(|(path, policy)| ExtensionPolicy { path, policy }).collect()
    }

    /// Checks the fields of the item.
    pub fn check(&self, object: usize, findings: &mut GatewayFindings) {
        self.check_fields(object, findings);
        let path = format!("{}.failOpen", self.path);
        let absent = "while the module cannot be fetched, every request gets 500, and after a VM has failed, its worker responds 503 until the policy changes or the proxy restarts";
        match get(self.node, &["failOpen"]) {
            Some(Node::Bool(true)) => findings.note(object, path, "true: while the module cannot be fetched, or its VM has failed, requests pass as if the filter were absent. Envoy Gateway has no FAIL_RELOAD, so a VM that has failed stays away until the policy changes or the proxy restarts.".to_owned()),
            Some(Node::Bool(false)) => findings.warning(object, path, format!("false: {absent}. Write true, so that requests pass then. Envoy Gateway has no FAIL_RELOAD.")),
            Some(other) => findings.problem(object, path, format!("{other} is not allowed there; allowed: true, false")),
            None => findings.warning(object, self.path.clone(), format!("failOpen: missing, which means false: {absent}. Write failOpen: true, so that requests pass then. Envoy Gateway has no FAIL_RELOAD.")),
        }
        if let Some(module) = self.module() {
            let is_pinned = module.url.contains("@sha256:") || module.digest.is_some();
            if !is_pinned {
                findings.warning(object, module.path.clone(), format!("{:?}: without sha256, Envoy Gateway takes whatever is there at the time. Add sha256 beside it: of an image the digest that `make image` prints, of a file its 64 digits", module.url));
            }
        } else {
            findings.problem(object, self.path.clone(), "code: names no module, so Envoy Gateway refuses the resource; allowed: code: {type: Image, image: {url: REGISTRY/NAME:TAG, sha256: HEX}}, or {type: HTTP, http: {url: URL, sha256: HEX}}".to_owned());
        }
        findings.note(object, self.config_path(), "a changed policy changes the listener, so Envoy drains its connections, and closes them after the drain timeout: 60 seconds, unless spec.shutdown.drainTimeout of the EnvoyProxy says otherwise.".to_owned());
    }

    fn check_fields(&self, object: usize, findings: &mut GatewayFindings) {
        for (key, _) in fields(self.node).iter().filter(|(key, _)| !FIELDS.contains(&key.as_str())) {
            let path = format!("{}.{key}", self.path);
            let hint = match key.as_str() {
                "failStrategy" | "failurePolicy" | "failure_policy" => {
                    ". Envoy Gateway has no FAIL_RELOAD. Write failOpen: true".to_owned()
                }
                "pluginConfig" | "configuration" => ". Write config".to_owned(),
                key => {
                    nearest(key, &FIELDS).map(|near| format!("; did you mean {near:?}?")).unwrap_or_default()
                }
            };
            findings.problem(
                object,
                path,
                format!("an EnvoyExtensionPolicy has no such field; allowed: {}{hint}", FIELDS.join(", ")),
            );
        }
    }
}
