//! Reads resources that add graygate, of whatever kind.

use super::model::{Filter, Object, ProxySelector, Resource};
use super::{envoy_filter, plugin};

/// Returns whether objects of this kind may add graygate.
pub fn has_kind(object: &Object<'_>) -> bool {
    ["WasmPlugin", "TrafficExtension", "EnvoyFilter"].contains(&object.kind)
}

/// Reads a resource. Returns `None` if it does not add graygate.
pub fn resource(object: &Object<'_>) -> Option<Resource> {
    let (kind, filters_of): (_, fn(&Object<'_>, &ProxySelector) -> Vec<Filter>) =
        match (object.group, object.kind) {
            ("extensions.istio.io", "WasmPlugin") => ("WasmPlugin", plugin::wasm_plugin),
            ("extensions.istio.io", "TrafficExtension") => ("TrafficExtension", plugin::traffic_extension),
            ("networking.istio.io", "EnvoyFilter") => ("EnvoyFilter", envoy_filter::filters),
            _ => return None,
        };
    let selector = object.selector();
    let filters = filters_of(object, &selector);
    (!filters.is_empty()).then(|| Resource {
        file: object.file.to_owned(),
        kind,
        namespace: object.namespace.to_owned(),
        has_namespace: object.own_namespace().is_some(),
        name: object.name.to_owned(),
        revision: object.label("istio.io/rev").map(str::to_owned),
        selector,
        filters,
    })
}
