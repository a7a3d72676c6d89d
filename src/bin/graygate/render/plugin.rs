//! The filter as a WasmPlugin, and as a TrafficExtension, which has the same in other places.

use graygate::policy::document::Node;

use super::fail::Fail;
use super::manifest::{Identity, Selection};
use super::module::Module;
use super::part::Part;
use crate::istio::direction::Direction;
use crate::tree::{list, number, object, some, text};

/// What both take.
pub struct Plugin<'a> {
    /// Who it is.
    pub identity: &'a Identity,
    /// Which proxies it is for.
    pub selection: &'a Selection,
    /// What it does, and where.
    pub part: &'a Part,
    /// Where the module is.
    pub module: &'a Module,
    /// What becomes of requests without it.
    pub fail: Fail,
    /// The ports whose requests it sees; empty: all.
    pub ports: &'a [u32],
    /// Its place among others of the phase.
    pub priority: Option<i32>,
}

impl Plugin<'_> {
    /// As a WasmPlugin.
    pub fn wasm_plugin(&self) -> Node {
        let [selector, targets] = self.selection.of_plugin();
        let [url, sha256, secret, fail, name, config] = self.module_fields();
        let [phase, priority, matched] = self.direction_fields();
        let spec =
            object([selector, targets, url, sha256, secret, phase, priority, fail, name, matched, config]);
        self.resource("WasmPlugin", spec)
    }

    /// As a TrafficExtension.
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
            ("sha256", some(self.module.sha256.as_deref().map(text))),
            ("imagePullSecret", some(self.module.secret.as_deref().map(text))),
            ("failStrategy", text(self.fail.strategy())),
            ("pluginName", text("graygate")),
            ("pluginConfig", self.part.document.clone()),
        ]
    }

    /// Inbound it comes before JWT and RBAC, so that a probe needs no rule of theirs. Elsewhere it comes as late as can
    /// be, so that it sees what the router will.
    fn direction_fields(&self) -> [(&'static str, Node); 3] {
        let direction = self.part.direction;
        let phase = (direction == Direction::Inbound).then(|| text("AUTHN"));
        let ports = self.ports.iter().map(|port| object([("number", number(*port))]));
        let ports = (!self.ports.is_empty()).then(|| list(ports));
        let matched = object([("mode", text(direction.mode())), ("ports", some(ports))]);
        [("phase", some(phase)), ("priority", some(self.priority.map(number))), ("match", list([matched]))]
    }
}
