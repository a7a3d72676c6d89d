//! The schemas of Istio's resources that hold a policy. They describe the policy, and leave the rest to Istio's own schemas.

use graygate::policy::document::Node;

use super::parts::strings;
use crate::tree::{object, text};

/// Returns the schema of a WasmPlugin.
pub fn wasm_plugin(policy: Node) -> Node {
    resource("extensions.istio.io/v1alpha1", "WasmPlugin", plugin(policy))
}

/// Returns the schema of a TrafficExtension.
pub fn traffic_extension(policy: Node) -> Node {
    let spec = object([
        ("type", text("object")),
        ("required", strings(["wasm"])),
        ("properties", object([("wasm", plugin(policy))])),
    ]);
    resource("extensions.istio.io/v1alpha1", "TrafficExtension", spec)
}

fn resource(version: &str, kind: &str, spec: Node) -> Node {
    object([
        ("type", text("object")),
        ("required", strings(["apiVersion", "kind", "spec"])),
        (
            "properties",
            object([
                ("apiVersion", object([("const", text(version))])),
                ("kind", object([("const", text(kind))])),
                ("metadata", object([("type", text("object"))])),
                ("spec", spec),
            ]),
        ),
    ])
}

/// Returns the schema of what is common to the resources: where the module is, and the policy.
fn plugin(policy: Node) -> Node {
    let strategy = object([
        (
            "description",
            text(
                "What requests get while the module cannot run. The default, FAIL_CLOSE, would deny every request.",
            ),
        ),
        ("enum", strings(["FAIL_OPEN", "FAIL_RELOAD"])),
    ]);
    object([
        ("type", text("object")),
        ("required", strings(["url", "failStrategy", "pluginConfig"])),
        (
            "properties",
            object([
                ("url", object([("type", text("string"))])),
                ("sha256", object([("type", text("string"))])),
                ("pluginName", object([("type", text("string"))])),
                ("failStrategy", strategy),
                ("pluginConfig", policy),
            ]),
        ),
    ])
}
