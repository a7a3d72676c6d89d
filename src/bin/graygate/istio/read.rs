//! Reading whatever resource of ours an object is.

use super::model::{Filter, Object, Reach, Resource};
use super::{envoy_filter, plugin};

/// Reads a resource, if it is one of ours.
pub fn resource(object: &Object<'_>, file: &str) -> Option<Resource> {
    let (kind, filters_of): (_, fn(&Object<'_>, &Reach) -> Vec<Filter>) = match (object.group, object.kind) {
        ("extensions.istio.io", "WasmPlugin") => ("WasmPlugin", plugin::wasm_plugin),
        ("extensions.istio.io", "TrafficExtension") => ("TrafficExtension", plugin::traffic_extension),
        ("networking.istio.io", "EnvoyFilter") => ("EnvoyFilter", envoy_filter::filters),
        _ => return None,
    };
    let reach = object.reach();
    let filters = filters_of(object, &reach);
    (!filters.is_empty()).then(|| Resource {
        file: file.to_owned(),
        kind,
        namespace: object.namespace.to_owned(),
        name: object.name.to_owned(),
        revision: object.label("istio.io/rev").map(str::to_owned),
        reach,
        filters,
    })
}
