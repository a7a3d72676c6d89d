//! Reads an HTTPRoute of the Gateway API.
//!
//! Its rules are not met in their order: an exact path comes before a prefix, a longer prefix before a shorter one, then a
//! method, then the match with more headers, then the one with more query parameters.

use core::cmp::Reverse;

use graygate::policy::document::Node;

use super::condition::{Condition, TextMatch};
use super::host::HostName;
use super::model::Object;
use super::route::{Destination, Route, RouteAction, RouteTable};
use crate::tree::{get, get_text, items, to_whole_number};

/// The place of a match among others. The smallest comes first.
type Rank = (Reverse<u8>, Reverse<usize>, Reverse<bool>, Reverse<usize>, Reverse<usize>);

/// Returns the routes of an HTTPRoute.
pub fn read(object: Object<'_>) -> RouteTable<'_> {
    let own = object.own_namespace();
    let mut gateways = Vec::new();
    let mut hosts = Vec::new();
    for parent in items(get(object.node, &["spec", "parentRefs"])) {
        let name = get_text(parent, &["name"]).unwrap_or_default();
        match get_text(parent, &["kind"]) {
            Some("Service") => {
                gateways.push("mesh");
                hosts.push(HostName { text: name, namespace: get_text(parent, &["namespace"]).or(own) });
            }
            Some("ServiceEntry") => {}
            _ => {
                gateways.push(name);
                let names = items(get(object.node, &["spec", "hostnames"])).iter();
                hosts.extend(names.filter_map(|node| match node {
                    Node::Text(text) => Some(HostName { text, namespace: own }),
                    _ => None,
                }));
            }
        }
    }
    // Without a name, it is for every host of its gateways.
    if hosts.is_empty() && !gateways.is_empty() {
        hosts.push(HostName { text: "*", namespace: own });
    }
    let mut ranked: Vec<(Rank, Route<'_>)> = Vec::new();
    for (index, rule) in items(get(object.node, &["spec", "rules"])).iter().enumerate() {
        let path = format!("spec.rules[{index}]");
        let matches = items(get(rule, &["matches"]));
        if matches.is_empty() {
            ranked.push((rank(&Node::Null), route(rule, &path, own, Vec::new())));
        }
        for (index, item) in matches.iter().enumerate() {
            let conditions = conditions(item, &format!("{path}.matches[{index}]"));
            ranked.push((rank(item), route(rule, &path, own, vec![conditions])));
        }
    }
    ranked.sort_by_key(|(rank, _)| *rank);
    let routes = ranked.into_iter().map(|(_, route)| route).collect();
    RouteTable { object, hosts, hosts_path: "spec.parentRefs", gateways, export_to: Vec::new(), routes }
}

fn rank(item: &Node) -> Rank {
    let path = get_text(item, &["path", "value"]).unwrap_or("/");
    let kind = match get_text(item, &["path", "type"]) {
        Some("Exact") => 2,
        Some("RegularExpression") => 0,
        _ => 1,
    };
    let count = |key| items(get(item, &[key])).len();
    let has_method = get(item, &["method"]).is_some();
    (
        Reverse(kind),
        Reverse(path.len()),
        Reverse(has_method),
        Reverse(count("headers")),
        Reverse(count("queryParams")),
    )
}

fn route<'n>(
    rule: &'n Node,
    path: &str,
    own: Option<&'n str>,
    alternatives: Vec<Vec<Condition<'n>>>,
) -> Route<'n> {
    let filters = items(get(rule, &["filters"]));
    let is_redirect = filters.iter().any(|filter| get(filter, &["requestRedirect"]).is_some());
    let backends = items(get(rule, &["backendRefs"])).iter().enumerate();
    let destinations = backends.map(|(index, backend)| Destination {
        path: format!("{path}.backendRefs[{index}]"),
        host: HostName {
            text: get_text(backend, &["name"]).unwrap_or_default(),
            namespace: get_text(backend, &["namespace"]).or(own),
        },
        subset: "",
        port: get(backend, &["port"]).and_then(to_whole_number),
        weight: Some(get(backend, &["weight"]).and_then(to_whole_number).unwrap_or(1)),
    });
    let action = if is_redirect {
        RouteAction::Answer("requestRedirect")
    } else {
        RouteAction::Send(destinations.collect())
    };
    Route { path: path.to_owned(), name: get_text(rule, &["name"]), alternatives, action }
}

fn conditions<'n>(item: &'n Node, path: &str) -> Vec<Condition<'n>> {
    let text_match = |node: &'n Node, prefix: &str| {
        let value = get_text(node, &["value"]).unwrap_or_default();
        match get_text(node, &["type"]) {
            Some("RegularExpression") => TextMatch::Regex(value),
            Some(kind) if kind == prefix => TextMatch::Prefix(value),
            _ => TextMatch::Exact(value),
        }
    };
    let mut conditions = Vec::new();
    if let Some(uri) = get(item, &["path"]) {
        let text = match get_text(uri, &["type"]) {
            None => TextMatch::Prefix(get_text(uri, &["value"]).unwrap_or("/")),
            Some(_) => text_match(uri, "PathPrefix"),
        };
        conditions.push(Condition::Uri { text, ignore_case: false });
    }
    for (index, header) in items(get(item, &["headers"])).iter().enumerate() {
        conditions.push(Condition::Header {
            path: format!("{path}.headers[{index}]"),
            name: get_text(header, &["name"]).unwrap_or_default(),
            text: text_match(header, ""),
            negated: false,
        });
    }
    conditions.extend(get_text(item, &["method"]).map(|method| Condition::Method(TextMatch::Exact(method))));
    conditions.extend(items(get(item, &["queryParams"])).iter().map(|_| Condition::Other));
    conditions
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rules_are_met_by_path_then_method_then_number_of_headers() {
        let backend = |name: &str| json!([{"name": name, "port": 80}]);
        let node: Node = serde_json::from_value(json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": {"name": "r", "namespace": "shop"},
            "spec": {"parentRefs": [{"kind": "Service", "group": "", "name": "a"}], "rules": [
                {"backendRefs": backend("all")},
                {"matches": [{"headers": [{"name": "x-v", "value": "v2"}]}], "backendRefs": backend("header")},
                {"matches": [{"path": {"type": "PathPrefix", "value": "/api"}}], "backendRefs": backend("prefix")},
                {"matches": [{"path": {"type": "Exact", "value": "/a"}}], "backendRefs": backend("exact")},
            ]},
        }))
        .unwrap();
        let table = read(Object::all(&node, "f").remove(0));
        let order: Vec<&str> = table.destinations().map(|destination| destination.host.text).collect();
        assert_eq!(order, ["exact", "prefix", "header", "all"]);
        assert!(table.is_for(false) && !table.is_for(true));
        assert!(table.hosts.iter().any(|host| host.means("a.shop.svc.cluster.local")));
    }
}
