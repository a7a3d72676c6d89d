//! Reading an EnvoyFilter: a patch may bring the filter itself, or a listener may take it by the name of another patch.

use graygate::policy::document::Node;
use graygate::policy::reader::segment;

use super::direction::Direction;
use super::model::{Filter, ListenerScope, Object, Reach, is_ours};
use crate::tree::{fields, get, get_text, items, whole};

const WASM: &str = "envoy.extensions.filters.http.wasm.v3.Wasm";

/// All that the patches bring.
pub fn filters(object: &Object<'_>, reach: &Reach) -> Vec<Filter> {
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
        let path = format!("spec.configPatches[{index}]");
        let directions = directions(patch, reach);
        let scopes = match get_text(patch, &["applyTo"]) {
            // That changes a filter that is there.
            _ if operation == Some("MERGE") => Vec::new(),
            Some("HTTP_FILTER") => scopes(patch, &path, reach),
            Some("EXTENSION_CONFIG") => discovering(patches, get_text(value, &["name"]), reach),
            // A listener that a patch brings is nobody else's.
            _ => Vec::new(),
        };
        let directions =
            if scopes.is_empty() { directions } else { scopes.iter().map(|scope| scope.direction).collect() };
        let mut found = Vec::new();
        find(value, &format!("{path}.patch.value"), &mut found);
        let scopes = std::iter::once(scopes).chain(std::iter::repeat_with(Vec::new));
        for ((path, config), scopes) in found.into_iter().zip(scopes) {
            let own_listener = get_text(patch, &["applyTo"]) == Some("LISTENER");
            filters.push(Filter { own_listener, ..filter(path, config, scopes, &directions) });
        }
    }
    filters
}

/// The listeners that take the filter by this name.
fn discovering(patches: &[Node], name: Option<&str>, reach: &Reach) -> Vec<ListenerScope> {
    let takes = |patch: &Node| {
        get_text(patch, &["applyTo"]) == Some("HTTP_FILTER")
            && get(patch, &["patch", "value", "config_discovery"]).is_some()
            && get_text(patch, &["patch", "value", "name"]) == name
    };
    let taking = patches.iter().enumerate().filter(|(_, patch)| takes(patch));
    taking.flat_map(|(index, patch)| scopes(patch, &format!("spec.configPatches[{index}]"), reach)).collect()
}

fn directions(patch: &Node, reach: &Reach) -> Vec<Direction> {
    let inbound = if matches!(reach, Reach::Targets(_)) { Direction::Waypoint } else { Direction::Inbound };
    match get_text(patch, &["match", "context"]) {
        Some("SIDECAR_INBOUND") => vec![inbound],
        Some("SIDECAR_OUTBOUND") => vec![Direction::Outbound],
        Some("GATEWAY") => vec![Direction::Gateway],
        // Absent is any.
        _ if inbound == Direction::Waypoint => vec![Direction::Gateway, Direction::Waypoint],
        _ if reach.is_gateway() => vec![Direction::Gateway],
        _ => vec![Direction::Inbound, Direction::Outbound, Direction::Gateway],
    }
}

fn scopes(patch: &Node, path: &str, reach: &Reach) -> Vec<ListenerScope> {
    let port = get(patch, &["match", "listener", "portNumber"]).and_then(whole);
    // Without a condition it is any.
    let proxies = get(patch, &["match", "proxy"])
        .filter(|proxy| fields(proxy).iter().any(|(_, value)| !is_empty(value)));
    let scope = |direction| ListenerScope {
        direction,
        path: format!("{path}.match.context"),
        written: get(patch, &["match", "context"]).is_some(),
        ports: port.into_iter().filter(|port| *port != 0).collect(),
        proxies: proxies.cloned(),
    };
    directions(patch, reach).into_iter().map(scope).collect()
}

fn is_empty(value: &Node) -> bool {
    matches!(value, Node::Null)
        || matches!(value, Node::Text(text) if text.is_empty())
        || *value == Node::Object(Vec::new())
}

/// Finds the configurations of our filter anywhere in a patch's value, with where each stands.
fn find<'n>(node: &'n Node, path: &str, found: &mut Vec<(String, &'n Node)>) {
    let is_wasm = |key: &str| get_text(node, &[key]).is_some_and(|name| name.ends_with(WASM));
    let inner = if is_wasm("@type") {
        Some((get(node, &["config"]), format!("{path}.config")))
    } else if is_wasm("type_url") {
        Some((get(node, &["value", "config"]), format!("{path}.value.config")))
    } else {
        None
    };
    if let Some((config, path)) = inner {
        found.extend(config.filter(|config| is_graygate(config)).map(|config| (path, config)));
        return;
    }
    match node {
        Node::Object(entries) => {
            for (key, value) in entries {
                find(value, &format!("{path}{}", segment(path, key)), found);
            }
        }
        Node::List(list) => {
            for (index, value) in list.iter().enumerate() {
                find(value, &format!("{path}[{index}]"), found);
            }
        }
        _ => {}
    }
}

fn is_graygate(config: &Node) -> bool {
    let code = ["vm_config", "code"];
    let file = get(config, &code).and_then(|code| get_text(code, &["local", "filename"]));
    let uri = get(config, &code).and_then(|code| get_text(code, &["remote", "http_uri", "uri"]));
    ["root_id", "name"].iter().any(|key| get_text(config, &[key]) == Some("graygate"))
        || file.into_iter().chain(uri).any(is_ours)
}

fn filter(path: String, config: &Node, scopes: Vec<ListenerScope>, directions: &[Direction]) -> Filter {
    let policy = match get(config, &["configuration", "value"]) {
        Some(Node::Text(text)) => {
            serde_json::from_str(text).map_err(|error| format!("not a JSON document: {error}"))
        }
        Some(_) => {
            Err("not a string; allowed: the policy as JSON in a google.protobuf.StringValue".to_owned())
        }
        None => Err("missing; allowed: the policy as JSON".to_owned()),
    };
    let fail = ["failure_policy", "fail_open"].iter().find_map(|key| get(config, &[key])).cloned();
    let mut directions = directions.to_vec();
    directions.sort_unstable();
    directions.dedup();
    Filter {
        policy,
        vm: get_text(config, &["vm_config", "vm_id"]).unwrap_or_default().to_owned(),
        fail: (format!("{path}.failure_policy"), fail),
        path: format!("{path}.configuration.value"),
        scopes,
        directions,
        own_listener: false,
    }
}
