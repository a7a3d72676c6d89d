//! Renders the filter as an EnvoyFilter. It can set what a plugin has no field for: a VM ID, and a place before all
//! other filters.

use graygate::policy::document::Node;

use super::fail::FailurePolicy;
use super::manifest::{self, patch};
use super::plugin::Plugin;
use super::version::IstioVersion;
use crate::failure::Failure;
use crate::istio::direction::Direction;
use crate::tree::{list, number, object, or_null, text};

/// The type of the Wasm filter's configuration.
pub const WASM: &str = "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm";
/// The type of the filter that Istio's agent sends in place of a module that it cannot fetch.
const RBAC: &str = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC";
const CONNECTION_MANAGER: &str = "envoy.filters.network.http_connection_manager";

/// Returns the EnvoyFilter.
///
/// A module in the proxy's own files is named in the filter itself. For any other module, the configuration is an
/// extension resource that the filter discovers. Istio's agent sees that resource and fetches the module.
pub fn envoy_filter(plugin: &Plugin<'_>, version: IstioVersion) -> Result<Node, Failure> {
    let (filter, extension) = filter(plugin, version, Some("graygate"))?;
    let mut patches: Vec<Node> = extension.into_iter().collect();
    // Adds one patch for each port, or one for all ports.
    let ports: Vec<Option<u32>> = match plugin.ports {
        [] => vec![None],
        ports => ports.iter().copied().map(Some).collect(),
    };
    for port in ports {
        let (operation, matched) = place(plugin.bundle.direction, port);
        patches.push(patch("HTTP_FILTER", matched, operation, filter.clone()));
    }
    Ok(manifest::envoy_filter(plugin.identity, plugin.selection, plugin.priority, patches))
}

/// Returns the filter, and the patch that adds the extension resource that it discovers, if it does.
pub fn filter(
    plugin: &Plugin<'_>,
    version: IstioVersion,
    vm_id: Option<&str>,
) -> Result<(Node, Option<Node>), Failure> {
    let config = wasm_config(plugin, version, vm_id)?;
    if plugin.module.path().is_some() {
        return Ok((object([("name", text("graygate")), ("typed_config", config)]), None));
    }
    let name = &plugin.identity.name;
    let resource = object([("name", text(name)), ("typed_config", config)]);
    Ok((discovering_filter(name), Some(patch("EXTENSION_CONFIG", Node::Null, "ADD", resource))))
}

/// Returns the configuration of the Wasm filter.
fn wasm_config(plugin: &Plugin<'_>, version: IstioVersion, vm_id: Option<&str>) -> Result<Node, Failure> {
    let policy = serde_json::to_string_pretty(&plugin.bundle.document)
        .map_err(|error| Failure::Usage(format!("the policy can't be written as JSON: {error}")))?;
    let code = match plugin.module.path() {
        Some(path) => object([("local", object([("filename", text(path))]))]),
        None => {
            // Envoy requires a cluster, but the agent ignores it.
            let uri = object([
                ("uri", text(&plugin.module.url)),
                ("cluster", text("graygate-unused")),
                ("timeout", text("10s")),
            ]);
            let sha256 = or_null(plugin.module.sha256.as_deref().map(text));
            object([("remote", object([("http_uri", uri), ("sha256", sha256)]))])
        }
    };
    // Proxies of Istio 1.24 only know the older field `fail_open`. Without it, a filter fails closed.
    let (policy_field, open_field) = match (version >= IstioVersion::FAILURE_POLICY, plugin.fail) {
        (true, fail) => (text(fail.policy()), Node::Null),
        (false, FailurePolicy::Open) => (Node::Null, Node::Bool(true)),
        (false, _) => (Node::Null, Node::Null),
    };
    let config = object([
        // The name tells the Wasm filters of one proxy apart.
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
            object([
                ("vm_id", or_null(vm_id.map(text))),
                ("runtime", text("envoy.wasm.runtime.v8")),
                ("code", code),
            ]),
        ),
    ]);
    Ok(object([("@type", text(WASM)), ("config", config)]))
}

/// Returns a filter that discovers its configuration by this name.
///
/// The agent sends an RBAC filter instead if it cannot fetch the module, so that type is allowed. The listener waits
/// for the configuration, as it would respond with 500 until then.
fn discovering_filter(name: &str) -> Node {
    let source = object([
        ("ads", Node::Object(Vec::new())),
        ("resource_api_version", text("V3")),
        ("initial_fetch_timeout", text("0s")),
    ]);
    let discovery = object([("config_source", source), ("type_urls", list([WASM, RBAC].map(text)))]);
    object([("name", text(name)), ("config_discovery", discovery)])
}

/// Returns the operation and the match that put the filter in its place. Inbound, it is the first filter. In other
/// directions it is the last before the router, so that it sees requests as the router will.
fn place(direction: Direction, port: Option<u32>) -> (&'static str, Node) {
    let is_first = direction == Direction::Inbound;
    let router = object([("name", text("envoy.filters.http.router"))]);
    let manager = object([
        ("name", text(CONNECTION_MANAGER)),
        ("subFilter", if is_first { Node::Null } else { router }),
    ]);
    // The other listeners of a waypoint only terminate and open its tunnels.
    let name = (direction == Direction::Waypoint).then(|| text("main_internal"));
    let listener = object([
        ("name", or_null(name)),
        ("portNumber", or_null(port.map(number))),
        ("filterChain", object([("filter", manager)])),
    ]);
    let matched = object([("context", text(direction.context())), ("listener", listener)]);
    (if is_first { "INSERT_FIRST" } else { "INSERT_BEFORE" }, matched)
}
