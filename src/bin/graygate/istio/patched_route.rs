//! Routes that an EnvoyFilter adds or changes, as far as they read what a release steers by.

use super::model::Object;
use crate::tree::{get, get_field, get_field_text, get_text, items};

/// A patch of a route.
pub struct RoutePatch<'n> {
    /// The EnvoyFilter.
    pub object: Object<'n>,
    /// The path to the patched value.
    pub path: String,
    /// The header that names the cluster.
    pub cluster_header: Option<&'n str>,
    /// The header whose number picks among weighted clusters.
    pub weight_header: Option<&'n str>,
    /// The virtual host, such as `reviews.shop.svc.cluster.local:9080`. `None` means any.
    pub virtual_host: Option<&'n str>,
    /// The name of the route that is changed. `None` means any.
    pub route: Option<&'n str>,
}

/// Returns the patches of an EnvoyFilter that read a header to pick a cluster.
pub fn read<'n>(object: &Object<'n>) -> Vec<RoutePatch<'n>> {
    let patches = items(get(object.node, &["spec", "configPatches"])).iter().enumerate();
    let read = patches.map(|(index, patch)| {
        let value = get(patch, &["patch", "value"]);
        let matched = ["match", "routeConfiguration", "vhost"];
        let virtual_host = get(patch, &matched);
        RoutePatch {
            object: *object,
            path: format!("spec.configPatches[{index}].patch.value.route"),
            cluster_header: value.and_then(|value| get_field_text(value, &["route", "cluster_header"])),
            weight_header: value
                .and_then(|value| get_field(value, &["route", "weighted_clusters"]))
                .and_then(|weighted| get_field_text(weighted, &["header_name"])),
            virtual_host: virtual_host.and_then(|host| get_text(host, &["name"])),
            route: virtual_host.and_then(|host| get_text(host, &["route", "name"])),
        }
    });
    read.filter(|patch| patch.cluster_header.is_some() || patch.weight_header.is_some()).collect()
}
