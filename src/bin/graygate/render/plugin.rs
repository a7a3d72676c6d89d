//! Renders the filter as a WasmPlugin, or as a TrafficExtension, which has the same fields in other places.

use graygate::policy::document::Node;

use super::fail::FailurePolicy;
use super::manifest::{Identity, Selection};
use super::module::Module;
use super::part::Bundle;
use crate::istio::direction::Direction;
use crate::tree::{list, number, object, or_null, text};

/// What a resource that adds the filter holds, whatever its kind.
pub struct Plugin<'a> {
    /// The identity of the resource.
    pub identity: &'a Identity,
    /// The proxies that it applies to.
    pub selection: &'a Selection,
    /// The parts of the policies.
    pub bundle: &'a Bundle,
    /// The module of the filter.
    pub module: &'a Module,
    /// What happens to requests if the filter fails.
    pub fail: FailurePolicy,
    /// The ports whose requests the filter sees. Empty means all.
    pub ports: &'a [u32],
    /// The order among other resources: in a plugin among those of its phase, in an EnvoyFilter among all.
    pub priority: Option<i32>,
}

impl Plugin<'_> {
    /// Returns the WasmPlugin.
    pub fn wasm_plugin(&self) -> Node {
        let [selector, targets] = self.selection.of_plugin();
        let [url, sha256, secret, fail, name, config] = self.module_fields();
        let [phase, priority, matched] = self.direction_fields();
        let spec =
            object([selector, targets, url, sha256, secret, phase, priority, fail, name, matched, config]);
        self.resource("WasmPlugin", spec)
    }

    /// Returns the TrafficExtension.
    pub fn traffic_extension(&self) -> Node {
        let [selector, targets] = self.selection.of_plugin();
        let [phase, priority, matched] = self.direction_fields();
        let wasm = ("wasm", object(self.module_fields()));
        self.resource("TrafficExtension", object([selector, targets, phase, priority, matched, wasm]))
    }

    fn resource(&self, kind: &str, spec: Node) -> Node {
        object([
            ("apiVersion", text("extensions.istio.io/v1alpha1")),
            ("kind", text(kind)),
            ("metadata", self.identity.metadata()),
            ("spec", spec),
        ])
    }

    fn module_fields(&self) -> [(&'static str, Node); 6] {
        [
            ("url", text(&self.module.url)),
            ("sha256", or_null(self.module.sha256.as_deref().map(text))),
            ("imagePullSecret", or_null(self.module.secret.as_deref().map(text))),
            ("failStrategy", text(self.fail.strategy())),
            ("pluginName", text("graygate")),
            ("pluginConfig", self.bundle.document.clone()),
        ]
    }

    /// Returns the fields that depend on the direction. Inbound, the filter comes before JWT and RBAC filters, so that
    /// probes need no rule there. In other directions it comes last, so that it sees requests as the router will.
    fn direction_fields(&self) -> [(&'static str, Node); 3] {
        let direction = self.bundle.direction;
        let phase = (direction == Direction::Inbound).then(|| text("AUTHN"));
        let ports = self.ports.iter().map(|port| object([("number", number(*port))]));
        let ports = (!self.ports.is_empty()).then(|| list(ports));
        let matched = object([("mode", text(direction.mode())), ("ports", or_null(ports))]);
        [
            ("phase", or_null(phase)),
            ("priority", or_null(self.priority.map(number))),
            ("match", list([matched])),
        ]
    }
}
