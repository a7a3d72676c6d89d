//! Reads an HTTPRoute as Envoy Gateway does: by rules with numbers.

use graygate::policy::document::Node;

use super::path_match::RouteMatch;
use crate::istio::model::Object;
use crate::tree::{get, get_text, items};

/// An HTTPRoute.
pub struct GatewayRoute<'n> {
    /// The object.
    pub object: Object<'n>,
    /// The hosts that it is for. Empty means all.
    pub hostnames: Vec<&'n str>,
    /// The rules.
    pub rules: Vec<GatewayRule<'n>>,
}

/// A rule of an HTTPRoute.
pub struct GatewayRule<'n> {
    /// The name, if it has one.
    pub name: Option<&'n str>,
    /// The matches.
    pub matches: Vec<RouteMatch<'n>>,
    /// The number of backends.
    pub backends: usize,
    /// Whether a backend has filters, so that each backend has a cluster of its own.
    pub has_backend_filters: bool,
}

impl<'n> GatewayRoute<'n> {
    /// Reads an object, if it is an HTTPRoute.
    pub fn read(object: Object<'n>) -> Option<Self> {
        if (object.group, object.kind) != ("gateway.networking.k8s.io", "HTTPRoute") {
            return None;
        }
        let text = |node: &'n Node| match node {
            Node::Text(text) => Some(text.as_str()),
            _ => None,
        };
        let hostnames = items(get(object.node, &["spec", "hostnames"])).iter().filter_map(text).collect();
        let rules = items(get(object.node, &["spec", "rules"])).iter().map(|rule| {
            let backends = items(get(rule, &["backendRefs"]));
            GatewayRule {
                name: get_text(rule, &["name"]),
                matches: RouteMatch::all(rule),
                backends: backends.len(),
                has_backend_filters: backends
                    .iter()
                    .any(|backend| !items(get(backend, &["filters"])).is_empty()),
            }
        });
        Some(GatewayRoute { object, hostnames, rules: rules.collect() })
    }

    /// Returns whether it is attached to this Gateway.
    pub fn is_attached(&self, namespace: &str, gateway: &str) -> bool {
        items(get(self.object.node, &["spec", "parentRefs"])).iter().any(|parent| {
            let kind = get_text(parent, &["kind"]).unwrap_or("Gateway");
            let own = get_text(parent, &["namespace"]).unwrap_or(self.object.namespace);
            kind == "Gateway" && get_text(parent, &["name"]) == Some(gateway) && own == namespace
        })
    }
}
