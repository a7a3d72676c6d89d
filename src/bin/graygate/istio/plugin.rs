//! Reads a WasmPlugin or TrafficExtension.

use graygate::policy::document::Node;

use super::direction::Direction;
use super::model::{Filter, ListenerScope, Object, ProxySelector};
use super::module_source::ModuleSource;
use crate::envoy::is_graygate_module;
use crate::tree::{get, get_text, items, to_whole_number};

/// Returns the filter of a WasmPlugin, if it is graygate.
pub fn wasm_plugin(object: &Object<'_>, selector: &ProxySelector) -> Vec<Filter> {
    read_filter(object, selector, "spec").into_iter().collect()
}

/// Returns the filter of a TrafficExtension, if it is graygate.
pub fn traffic_extension(object: &Object<'_>, selector: &ProxySelector) -> Vec<Filter> {
    read_filter(object, selector, "spec.wasm").into_iter().collect()
}

/// Reads the filter. The fields that name the module are at `path`. The other fields are in `spec` for both kinds.
fn read_filter(object: &Object<'_>, selector: &ProxySelector, path: &str) -> Option<Filter> {
    let keys: Vec<&str> = path.split('.').collect();
    let wasm = get(object.node, &keys)?;
    let has_plugin_name = get_text(wasm, &["pluginName"]) == Some("graygate");
    if !has_plugin_name && !get_text(wasm, &["url"]).is_some_and(is_graygate_module) {
        return None;
    }
    let policy = get(wasm, &["pluginConfig"]).cloned();
    let scopes = read_scopes(object, selector);
    let mut directions: Vec<Direction> = scopes.iter().map(|scope| scope.direction).collect();
    // A resource by labels in mode CLIENT may apply to sidecars and gateways. Only the rules for sidecars count then,
    // as they allow less.
    if directions.contains(&Direction::Outbound) {
        directions.retain(|direction| *direction != Direction::Gateway);
    }
    directions.sort_unstable();
    directions.dedup();
    Some(Filter {
        own_listener: false,
        is_partial: false,
        module: get_text(wasm, &["url"]).map(|url| ModuleSource {
            path: format!("{path}.url"),
            url: url.to_owned(),
            digest_path: format!("{path}.sha256"),
            digest: get(wasm, &["sha256"]).cloned(),
        }),
        path: format!("{path}.pluginConfig"),
        has_policy: policy.is_some(),
        policy: policy.ok_or_else(|| "missing; add a policy".to_owned()),
        // A plugin cannot set a VM ID.
        vm_id: String::new(),
        fail: (format!("{path}.failStrategy"), get(wasm, &["failStrategy"]).cloned()),
        scopes,
        directions,
    })
}

fn read_scopes(object: &Object<'_>, selector: &ProxySelector) -> Vec<ListenerScope> {
    let matches = items(get(object.node, &["spec", "match"]));
    if matches.is_empty() {
        return scopes_of_match(object, selector, "spec.match", &Node::Null);
    }
    let matches = matches.iter().enumerate();
    matches
        .flat_map(|(index, item)| scopes_of_match(object, selector, &format!("spec.match[{index}]"), item))
        .collect()
}

/// Returns the listeners of one item of `match`.
fn scopes_of_match(
    object: &Object<'_>,
    selector: &ProxySelector,
    path: &str,
    item: &Node,
) -> Vec<ListenerScope> {
    let mode = get_text(item, &["mode"]);
    let (client, server) = match mode {
        Some("CLIENT") => (true, false),
        Some("SERVER") => (false, true),
        _ => (true, true),
    };
    let has_targets = matches!(selector, ProxySelector::Targets(_));
    let only_gateways = selector.is_gateway() || object.component() == Some("gateway");
    // Among the targets of a resource, a server is always a waypoint.
    let directions = [
        (server && !only_gateways, Direction::Inbound),
        (client && !only_gateways, Direction::Outbound),
        (client, Direction::Gateway),
        (server && has_targets, Direction::Waypoint),
    ];
    let ports: Vec<u32> = items(get(item, &["ports"]))
        .iter()
        .filter_map(|port| to_whole_number(get(port, &["number"])?))
        .collect();
    let scope = |direction| ListenerScope {
        direction,
        path: path.to_owned(),
        explicit: mode.is_some_and(|mode| mode == "CLIENT" || mode == "SERVER"),
        ports: ports.clone(),
        proxies: None,
    };
    directions.into_iter().filter(|(applies, _)| *applies).map(|(_, direction)| scope(direction)).collect()
}
