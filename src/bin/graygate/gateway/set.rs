//! Checks resources for Envoy Gateway that are applied together: the policies, the routes and the proxies.

use super::extension;
use super::findings::{GatewayFinding, GatewayFindings};
use super::route::GatewayRoute;
use super::{placement, probe_routes, proxy, version_routes};
use crate::istio::model::Object;

/// Returns whether objects of this kind are looked at.
pub fn has_kind(object: &Object<'_>) -> bool {
    matches!(
        (object.group, object.kind),
        (extension::GROUP, "EnvoyExtensionPolicy" | "EnvoyProxy")
            | ("gateway.networking.k8s.io", "HTTPRoute")
    )
}

/// Returns the items of `wasm` that are graygate. See [`extension::filters`].
pub fn filters<'n>(object: &Object<'n>) -> Vec<extension::WasmItem<'n>> {
    extension::filters(object)
}

/// Returns what is wrong with the objects, or worth knowing. Returns nothing if none adds graygate.
pub fn check(objects: &[Object<'_>]) -> Vec<GatewayFinding> {
    let mut findings = GatewayFindings::default();
    let routes: Vec<GatewayRoute<'_>> =
        objects.iter().filter_map(|object| GatewayRoute::read(*object)).collect();
    let proxies = || objects.iter().enumerate().filter(|(_, object)| proxy::is_proxy(object));
    let merged = proxies().next().map(|_| proxies().any(|(_, object)| proxy::merges_backends(object)));
    let mut is_used = false;
    for (index, object) in objects.iter().enumerate() {
        let filters = extension::filters(object);
        if filters.is_empty() {
            continue;
        }
        is_used = true;
        let placement = placement::find((index, object), &routes, &mut findings);
        placement::check_rivals((index, object), objects, &routes, &mut findings);
        for filter in &filters {
            filter.check(index, &mut findings);
            for policy in &filter.policies() {
                probe_routes::check(index, policy, &placement, &mut findings);
                version_routes::check(index, policy, (&placement, &routes), merged, &mut findings);
            }
        }
    }
    if is_used {
        for (index, object) in proxies() {
            proxy::check(index, object, &mut findings);
        }
    }
    findings.0
}

#[cfg(test)]
mod tests;
