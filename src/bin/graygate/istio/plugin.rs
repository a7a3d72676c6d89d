//! Reading a WasmPlugin or TrafficExtension.

use graygate::policy::document::Node;

use super::direction::Direction;
use super::model::{Filter, ListenerScope, Object, Reach, is_ours};
use crate::tree::{get, get_text, items, whole};

/// The filter of a WasmPlugin, if it is ours.
pub fn wasm_plugin(object: &Object<'_>, reach: &Reach) -> Vec<Filter> {
    filter(object, reach, "spec").into_iter().collect()
}

/// The filter of a TrafficExtension, if it is ours.
pub fn traffic_extension(object: &Object<'_>, reach: &Reach) -> Vec<Filter> {
    filter(object, reach, "spec.wasm").into_iter().collect()
}

/// What stands at `at` says which module it is; what is around it in `spec` is the same for both kinds.
fn filter(object: &Object<'_>, reach: &Reach, at: &str) -> Option<Filter> {
    let keys: Vec<&str> = at.split('.').collect();
    let wasm = get(object.node, &keys)?;
    let named = get_text(wasm, &["pluginName"]) == Some("graygate");
    if !named && !get_text(wasm, &["url"]).is_some_and(is_ours) {
        return None;
    }
    let policy = get(wasm, &["pluginConfig"]).cloned();
    let scopes = scopes(object, reach);
    let mut directions: Vec<Direction> = scopes.iter().map(|scope| scope.direction).collect();
    // One by labels in mode CLIENT is at gateways, too; what is allowed there is less at sidecars.
    if directions.contains(&Direction::Outbound) {
        directions.retain(|direction| *direction != Direction::Gateway);
    }
    directions.sort_unstable();
    directions.dedup();
    Some(Filter {
        own_listener: false,
        path: format!("{at}.pluginConfig"),
        policy: policy.ok_or_else(|| "missing; allowed: a policy".to_owned()),
        // No plugin has one of its own.
        vm: String::new(),
        fail: (format!("{at}.failStrategy"), get(wasm, &["failStrategy"]).cloned()),
        scopes,
        directions,
    })
}

fn scopes(object: &Object<'_>, reach: &Reach) -> Vec<ListenerScope> {
    let matches = items(get(object.node, &["spec", "match"]));
    if matches.is_empty() {
        return scopes_of(object, reach, "spec.match", &Node::Null);
    }
    let scopes = matches.iter().enumerate();
    scopes.flat_map(|(index, one)| scopes_of(object, reach, &format!("spec.match[{index}]"), one)).collect()
}

fn scopes_of(object: &Object<'_>, reach: &Reach, path: &str, one: &Node) -> Vec<ListenerScope> {
    let mode = get_text(one, &["mode"]);
    let (client, server) = match mode {
        Some("CLIENT") => (true, false),
        Some("SERVER") => (false, true),
        _ => (true, true),
    };
    let attached = matches!(reach, Reach::Targets(_));
    let gateways = reach.is_gateway() || object.component() == Some("gateway");
    // At what is attached to a Gateway, a server is a waypoint.
    let directions = [
        (server && !gateways, Direction::Inbound),
        (client && !gateways, Direction::Outbound),
        (client, Direction::Gateway),
        (server && attached, Direction::Waypoint),
    ];
    let ports: Vec<u32> =
        items(get(one, &["ports"])).iter().filter_map(|port| whole(get(port, &["number"])?)).collect();
    let scope = |direction| ListenerScope {
        direction,
        path: path.to_owned(),
        written: mode.is_some_and(|mode| mode == "CLIENT" || mode == "SERVER"),
        ports: ports.clone(),
        proxies: None,
    };
    directions.into_iter().filter(|(there, _)| *there).map(|(_, direction)| scope(direction)).collect()
}
