//! Reads an EnvoyFilter. A patch may hold the filter itself, or may refer to it by the name of another patch.

use graygate::policy::document::Node;

use super::direction::Direction;
use super::model::{Filter, ListenerScope, Object, ProxySelector};
use crate::envoy::WasmConfig;
use crate::syntax;
use crate::tree::{fields, get, get_field, get_field_text, get_text, is_field, items, to_whole_number};

/// Returns every graygate filter in the patches.
pub fn filters(object: &Object<'_>, selector: &ProxySelector) -> Vec<Filter> {
    let patches = items(get(object.node, &["spec", "configPatches"]));
    let mut filters = Vec::new();
    for (index, patch) in patches.iter().enumerate() {
        let Some(value) = get(patch, &["patch", "value"]) else {
            continue;
        };
        let operation = get_text(patch, &["patch", "operation"]);
        if operation == Some("REMOVE") {
            continue;
        }
        let is_change =
            operation == Some("MERGE") || operation == Some("REPLACE") && is_own_filter(patch, value);
        let path = format!("spec.configPatches[{index}]");
        let directions = directions(patch, selector);
        let scopes = match get_text(patch, &["applyTo"]) {
            // It changes a present filter and adds none.
            _ if is_change => Vec::new(),
            Some("HTTP_FILTER") => scopes(patch, &path, selector),
            Some("EXTENSION_CONFIG") => referring_scopes(patches, get_text(value, &["name"]), selector),
            // A listener that a patch adds cannot hold a filter of another resource.
            _ => Vec::new(),
        };
        let directions =
            if scopes.is_empty() { directions } else { scopes.iter().map(|scope| scope.direction).collect() };
        let found = WasmConfig::all(value, &format!("{path}.patch.value"));
        let found = found.into_iter().filter(WasmConfig::is_graygate);
        let scopes = std::iter::once(scopes).chain(std::iter::repeat_with(Vec::new));
        for (config, scopes) in found.zip(scopes) {
            let own_listener = get_text(patch, &["applyTo"]) == Some("LISTENER");
            let is_partial = operation == Some("MERGE");
            filters.push(Filter { own_listener, is_partial, ..read_filter(&config, scopes, &directions) });
        }
    }
    filters
}

/// Returns whether the patch finds a filter of graygate by name, so that what it puts there takes that one's place.
fn is_own_filter(patch: &Node, value: &Node) -> bool {
    let name = get_text(patch, &["match", "listener", "filterChain", "filter", "subFilter", "name"]);
    name.is_some_and(|name| name.contains("graygate") || Some(name) == get_text(value, &["name"]))
}

/// Returns the listeners whose patches refer to the filter by this name.
fn referring_scopes(patches: &[Node], name: Option<&str>, selector: &ProxySelector) -> Vec<ListenerScope> {
    let refers = |patch: &Node| {
        get_text(patch, &["applyTo"]) == Some("HTTP_FILTER")
            && get_field(patch, &["patch", "value", "config_discovery"]).is_some()
            && get_text(patch, &["patch", "value", "name"]) == name
    };
    let referring = patches.iter().enumerate().filter(|(_, patch)| refers(patch));
    referring
        .flat_map(|(index, patch)| scopes(patch, &format!("spec.configPatches[{index}]"), selector))
        .collect()
}

fn directions(patch: &Node, selector: &ProxySelector) -> Vec<Direction> {
    let inbound =
        if matches!(selector, ProxySelector::Targets(_)) { Direction::Waypoint } else { Direction::Inbound };
    match get_text(patch, &["match", "context"]) {
        Some("SIDECAR_INBOUND") => vec![inbound],
        Some("SIDECAR_OUTBOUND") => vec![Direction::Outbound],
        Some("GATEWAY") => vec![Direction::Gateway],
        // An absent context means any.
        _ if inbound == Direction::Waypoint => vec![Direction::Gateway, Direction::Waypoint],
        _ if selector.is_gateway() => vec![Direction::Gateway],
        _ => vec![Direction::Inbound, Direction::Outbound, Direction::Gateway],
    }
}

fn scopes(patch: &Node, path: &str, selector: &ProxySelector) -> Vec<ListenerScope> {
    let port = get(patch, &["match", "listener", "portNumber"]).and_then(to_whole_number);
    // A proxy match without a condition means any proxy.
    let proxies = get(patch, &["match", "proxy"])
        .filter(|proxy| fields(proxy).iter().any(|(_, value)| !is_empty(value)));
    let scope = |direction| ListenerScope {
        direction,
        path: format!("{path}.match.context"),
        explicit: get(patch, &["match", "context"]).is_some(),
        ports: port.into_iter().filter(|port| *port != 0).collect(),
        proxies: proxies.cloned(),
    };
    directions(patch, selector).into_iter().map(scope).collect()
}

fn is_empty(value: &Node) -> bool {
    matches!(value, Node::Null)
        || matches!(value, Node::Text(text) if text.is_empty())
        || *value == Node::Object(Vec::new())
}

fn read_filter(config: &WasmConfig<'_>, scopes: Vec<ListenerScope>, directions: &[Direction]) -> Filter {
    let policy =
        config.policy_text().and_then(|text| syntax::parse_json(text).map_err(|problem| problem.message));
    let field = |key: &str| fields(config.node).iter().find(|(name, _)| is_field(name, key));
    let fail = field("failure_policy").or_else(|| field("fail_open"));
    let fail_key = fail.map_or("failure_policy", |(name, _)| name);
    let mut directions = directions.to_vec();
    directions.sort_unstable();
    directions.dedup();
    Filter {
        has_policy: get_field(config.node, &["configuration"]).is_some(),
        policy,
        vm_id: get_field_text(config.node, &["vm_config", "vm_id"]).unwrap_or_default().to_owned(),
        fail: (format!("{}.{fail_key}", config.path), fail.map(|(_, value)| value.clone())),
        module: config.module(),
        path: format!("{}.configuration.value", config.path),
        scopes,
        directions,
        own_listener: false,
        is_partial: false,
    }
}
