//! The filter as an EnvoyFilter, for what a plugin has no field for: a VM id, and a place before all other filters.

use graygate::policy::document::Node;

use super::fail::Fail;
use super::manifest::{self, patch};
use super::plugin::Plugin;
use super::version::IstioVersion;
use crate::failure::Failure;
use crate::istio::direction::Direction;
use crate::tree::{list, number, object, some, text};

const WASM: &str = "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm";
const RBAC: &str = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC";
const CONNECTION_MANAGER: &str = "envoy.filters.network.http_connection_manager";

/// The resource. A module in the proxy's own files stands in the filter itself; any other is a resource of its own,
/// which the agent beside the proxy sees, so that it is the one to fetch the module.
pub fn envoy_filter(plugin: &Plugin<'_>, version: IstioVersion) -> Result<Node, Failure> {
    let config = wasm(plugin, version)?;
    let name = &plugin.identity.name;
    let mut patches = Vec::new();
    let filter = if plugin.module.path().is_some() {
        object([("name", text("graygate")), ("typed_config", config)])
    } else {
        let resource = object([("name", text(name)), ("typed_config", config)]);
        patches.push(patch("EXTENSION_CONFIG", Node::Null, "ADD", resource));
        discovered(name)
    };
    // No port, or one patch for each.
    let ports: Vec<Option<u32>> = match plugin.ports {
        [] => vec![None],
        ports => ports.iter().copied().map(Some).collect(),
    };
    for port in ports {
        let (operation, matched) = at(plugin.part.direction, port);
        patches.push(patch("HTTP_FILTER", matched, operation, filter.clone()));
    }
    Ok(manifest::envoy_filter(plugin.identity, plugin.selection, plugin.priority, patches))
}

/// The filter's own configuration.
fn wasm(plugin: &Plugin<'_>, version: IstioVersion) -> Result<Node, Failure> {
    let policy = serde_json::to_string_pretty(&plugin.part.document)
        .map_err(|error| Failure::Usage(format!("the policy can't be written as JSON: {error}")))?;
    let code = match plugin.module.path() {
        Some(path) => object([("local", object([("filename", text(path))]))]),
        None => {
            // Envoy wants a cluster, which the agent takes no notice of.
            let uri = object([
                ("uri", text(&plugin.module.url)),
                ("cluster", text("graygate-unused")),
                ("timeout", text("10s")),
            ]);
            let sha256 = some(plugin.module.sha256.as_deref().map(text));
            object([("remote", object([("http_uri", uri), ("sha256", sha256)]))])
        }
    };
    // Proxies of 1.24 only know the older field, and that a filter fails closed if it is not there.
    let (policy_field, open_field) = match (version >= IstioVersion::FAILURE_POLICY, plugin.fail) {
        (true, fail) => (text(fail.policy()), Node::Null),
        (false, Fail::Open) => (Node::Null, Node::Bool(true)),
        (false, _) => (Node::Null, Node::Null),
    };
    let config = object([
        // Tells the plugins of one proxy apart.
        ("name", text(&plugin.identity.name)),
        ("root_id", text("graygate")),
        ("failure_policy", policy_field),
        ("fail_open", open_field),
        (
            "configuration",
            object([
                ("@type", text("type.googleapis.com/google.protobuf.StringValue")),
                ("value", text(policy)),
            ]),
        ),
        (
            "vm_config",
            object([("vm_id", text("graygate")), ("runtime", text("envoy.wasm.runtime.v8")), ("code", code)]),
        ),
    ]);
    Ok(object([("@type", text(WASM)), ("config", config)]))
}

/// The filter in a listener whose configuration comes by that name. The agent puts an RBAC filter in its place when it
/// can't fetch the module; and the listener waits for it, or else it would answer 500 in the meantime.
fn discovered(name: &str) -> Node {
    let source = object([
        ("ads", Node::Object(Vec::new())),
        ("resource_api_version", text("V3")),
        ("initial_fetch_timeout", text("0s")),
    ]);
    let discovery = object([("config_source", source), ("type_urls", list([WASM, RBAC].map(text)))]);
    object([("name", text(name)), ("config_discovery", discovery)])
}

/// Inbound it is the first of all. Elsewhere it is right before the router, so that what it sees of a request is what
/// the router will.
fn at(direction: Direction, port: Option<u32>) -> (&'static str, Node) {
    let first = direction == Direction::Inbound;
    let router = object([("name", text("envoy.filters.http.router"))]);
    let manager =
        object([("name", text(CONNECTION_MANAGER)), ("subFilter", if first { Node::Null } else { router })]);
    // A waypoint has other listeners, which only end and begin its tunnels.
    let name = (direction == Direction::Waypoint).then(|| text("main_internal"));
    let listener = object([
        ("name", some(name)),
        ("portNumber", some(port.map(number))),
        ("filterChain", object([("filter", manager)])),
    ]);
    let matched = object([("context", text(direction.context())), ("listener", listener)]);
    (if first { "INSERT_FIRST" } else { "INSERT_BEFORE" }, matched)
}
