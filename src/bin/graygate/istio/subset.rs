//! The subsets of hosts, which DestinationRules define.

use super::host::{HostName, ServiceName};
use super::model::Object;
use crate::tree::{get, get_text, items};
use graygate::policy::document::Node;

/// A DestinationRule.
pub struct DestinationRule<'n> {
    /// The resource.
    pub object: Object<'n>,
    /// The host that it is for.
    pub host: HostName<'n>,
    /// The names of its subsets.
    pub subsets: Vec<&'n str>,
    /// The namespaces whose proxies see it. Empty means all.
    export_to: Vec<&'n str>,
}

impl<'n> DestinationRule<'n> {
    /// Reads a DestinationRule.
    pub fn read(object: Object<'n>) -> Self {
        let text = get_text(object.node, &["spec", "host"]).unwrap_or_default();
        let subsets = items(get(object.node, &["spec", "subsets"])).iter();
        let export_to = items(get(object.node, &["spec", "exportTo"])).iter();
        DestinationRule {
            host: HostName { text, namespace: object.own_namespace() },
            subsets: subsets.filter_map(|subset| get_text(subset, &["name"])).collect(),
            export_to: export_to
                .filter_map(|node| match node {
                    Node::Text(text) => Some(text.as_str()),
                    _ => None,
                })
                .collect(),
            object,
        }
    }

    fn is_in(&self, namespace: &str) -> bool {
        self.object.own_namespace().is_none_or(|own| own == namespace)
    }

    fn is_exported_to(&self, namespace: Option<&str>) -> bool {
        let is_own = self.object.own_namespace() == namespace;
        self.export_to.is_empty()
            || namespace.is_none()
            || self
                .export_to
                .iter()
                .any(|name| *name == "*" || Some(*name) == namespace || *name == "." && is_own)
    }
}

/// Returns the rules that proxies in this namespace use for a host. `None` means proxies in all namespaces.
///
/// Istio looks in the proxy's namespace, then in the Service's, then in the root namespace. It merges the rules of the
/// first of them that has any, if they are for the same host.
pub fn rules_for<'r, 'n>(
    rules: &'r [DestinationRule<'n>],
    host: &str,
    namespace: Option<&str>,
    root: &str,
) -> Vec<&'r DestinationRule<'n>> {
    let service = ServiceName::of(host).map(|service| service.namespace);
    let own = namespace.filter(|namespace| *namespace != root);
    let steps = [own.map(|own| (own, false)), service.map(|service| (service, true)), Some((root, true))];
    for (step, must_export) in steps.into_iter().flatten() {
        let found: Vec<_> = rules
            .iter()
            .filter(|rule| rule.is_in(step) && rule.host.means(host))
            .filter(|rule| !must_export || rule.is_exported_to(namespace))
            .collect();
        if let Some(rank) = found.iter().map(|rule| rule.host.rank()).max() {
            return found.into_iter().filter(|rule| rule.host.rank() == rank).collect();
        }
    }
    // The namespace of a host that is no Service is not known.
    if service.is_none() { rules.iter().filter(|rule| rule.host.means(host)).collect() } else { Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const HOST: &str = "reviews.shop.svc.cluster.local";

    /// Returns the names of the rules that proxies in a namespace use.
    fn used(rules: &[serde_json::Value], namespace: Option<&str>) -> Vec<String> {
        let nodes: Vec<Node> =
            rules.iter().map(|rule| serde_json::from_value(rule.clone()).unwrap()).collect();
        let rules: Vec<_> =
            nodes.iter().flat_map(|node| Object::all(node, "f")).map(DestinationRule::read).collect();
        let found = rules_for(&rules, HOST, namespace, "istio-system");
        found.iter().map(|rule| rule.object.name.to_owned()).collect()
    }

    fn rule(name: &str, namespace: &str, host: &str, export_to: serde_json::Value) -> serde_json::Value {
        json!({
            "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
            "metadata": {"name": name, "namespace": namespace}, "spec": {"host": host, "exportTo": export_to},
        })
    }

    #[test]
    fn the_rules_of_the_callers_namespace_come_before_those_of_the_service_and_of_the_root() {
        let all = json!([]);
        let rules = [
            rule("client", "client", HOST, all.clone()),
            rule("service", "shop", "reviews", all.clone()),
            rule("wide", "shop", "*.shop.svc.cluster.local", all.clone()),
            rule("root", "istio-system", HOST, all.clone()),
            rule("elsewhere", "elsewhere", HOST, all),
        ];
        assert_eq!(used(&rules, Some("client")), ["client"]);
        assert_eq!(used(&rules, Some("other")), ["service"]);
        assert_eq!(used(&rules, None), ["service"]);
        assert_eq!(used(&rules[3..], Some("other")), ["root"]);
        assert!(used(&rules[4..], Some("other")).is_empty());
    }

    #[test]
    fn a_rule_that_is_not_exported_counts_only_in_its_own_namespace() {
        let rules = [rule("service", "shop", HOST, json!(["."]))];
        assert_eq!(used(&rules, Some("shop")), ["service"]);
        assert!(used(&rules, Some("other")).is_empty());
        assert_eq!(used(&[rule("service", "shop", HOST, json!(["other"]))], Some("other")), ["service"]);
    }
}
