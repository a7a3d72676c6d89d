//! The routes of a VirtualService, or of an HTTPRoute as Istio translates it.

use super::cluster::ServiceCluster;
use super::condition::{Condition, KnownRequest, TextMatch, Verdict};
use super::host::HostName;
use super::model::Object;
use crate::tree::{fields, get, get_text, items, to_whole_number};
use graygate::policy::document::Node;
use graygate::policy::reader::segment;

/// The routes of one resource, in the order in which a request meets them.
pub struct RouteTable<'n> {
    /// The resource.
    pub object: Object<'n>,
    /// The hosts that it is for.
    pub hosts: Vec<HostName<'n>>,
    /// The path to the first of them.
    pub hosts_path: &'static str,
    /// The gateways that it is for. `mesh` means sidecars and waypoints.
    pub gateways: Vec<&'n str>,
    /// The namespaces whose proxies see it. Empty means all.
    pub export_to: Vec<&'n str>,
    /// The routes.
    pub routes: Vec<Route<'n>>,
}

/// One route.
pub struct Route<'n> {
    /// The path to it.
    pub path: String,
    /// Its name.
    pub name: Option<&'n str>,
    /// The alternatives of its match, each a list of conditions that must all hold. Empty means every request.
    pub alternatives: Vec<Vec<Condition<'n>>>,
    /// What it does with a request.
    pub action: RouteAction<'n>,
}

/// What a route does with a request.
pub enum RouteAction<'n> {
    /// Sends it to one of these.
    Send(Vec<Destination<'n>>),
    /// Answers it by itself, by this field.
    Answer(&'static str),
    /// Leaves it to the routes of another resource.
    Delegate,
}

/// One destination of a route.
pub struct Destination<'n> {
    /// The path to it.
    pub path: String,
    /// The host.
    pub host: HostName<'n>,
    /// The subset. Empty if it is the whole service.
    pub subset: &'n str,
    /// The port, if it is set.
    pub port: Option<u32>,
    /// The weight, if it is set.
    pub weight: Option<u32>,
}

impl<'n> RouteTable<'n> {
    /// Reads a VirtualService.
    pub fn virtual_service(object: Object<'n>) -> Self {
        let spec = |key: &str| -> &'n [Node] { items(get(object.node, &["spec", key])) };
        let namespace = object.own_namespace();
        let texts = |key: &str| spec(key).iter().filter_map(as_text).collect::<Vec<_>>();
        let hosts = texts("hosts").into_iter().map(|text| HostName { text, namespace }).collect();
        let gateways = match texts("gateways") {
            names if names.is_empty() => vec!["mesh"],
            names => names,
        };
        let export_to = texts("exportTo");
        let http = spec("http").iter().enumerate();
        let routes =
            http.map(|(index, node)| Route::read(node, format!("spec.http[{index}]"), namespace)).collect();
        RouteTable { object, hosts, hosts_path: "spec.hosts", gateways, export_to, routes }
    }

    /// Returns whether sidecars and waypoints have the routes, or else whether gateways have them.
    pub fn is_for(&self, at_gateway: bool) -> bool {
        self.gateways.iter().any(|name| (*name == "mesh") != at_gateway)
    }

    /// Returns whether proxies in this namespace see the routes. `None` means all namespaces.
    pub fn is_exported_to(&self, namespace: Option<&str>) -> bool {
        let own = self.object.own_namespace();
        self.export_to.is_empty()
            || self.export_to.iter().any(|name| match *name {
                "*" => true,
                "." => namespace.is_none() || own.is_none() || own == namespace,
                name => namespace.is_none_or(|namespace| name == namespace),
            })
    }

    /// Returns all destinations.
    pub fn destinations(&self) -> impl Iterator<Item = &Destination<'n>> {
        self.routes.iter().flat_map(|route| route.destinations())
    }
}

impl<'n> Route<'n> {
    fn read(node: &'n Node, path: String, namespace: Option<&'n str>) -> Self {
        let matches = items(get(node, &["match"])).iter().enumerate();
        let alternatives =
            matches.map(|(index, item)| read_conditions(item, &format!("{path}.match[{index}]"))).collect();
        let has = |key: &str| get(node, &[key]).is_some();
        let action = if has("redirect") {
            RouteAction::Answer("redirect")
        } else if has("directResponse") {
            RouteAction::Answer("directResponse")
        } else if has("delegate") {
            RouteAction::Delegate
        } else {
            let route = items(get(node, &["route"])).iter().enumerate();
            RouteAction::Send(
                route
                    .map(|(index, item)| Destination {
                        path: format!("{path}.route[{index}].destination"),
                        host: HostName {
                            text: get_text(item, &["destination", "host"]).unwrap_or_default(),
                            namespace,
                        },
                        subset: get_text(item, &["destination", "subset"]).unwrap_or_default(),
                        port: get(item, &["destination", "port", "number"]).and_then(to_whole_number),
                        weight: get(item, &["weight"]).and_then(to_whole_number),
                    })
                    .collect(),
            )
        };
        Route { name: get_text(node, &["name"]), alternatives, action, path }
    }

    /// Returns whether the route takes the requests.
    pub fn verdict(&self, request: &KnownRequest<'_>) -> Verdict {
        let of = |conditions: &Vec<Condition<'_>>| {
            conditions.iter().map(|condition| condition.verdict(request)).min().unwrap_or(Verdict::Always)
        };
        if self.alternatives.is_empty() {
            return Verdict::Always;
        }
        self.alternatives.iter().map(of).max().unwrap_or(Verdict::Never)
    }

    /// Returns the destinations that get requests.
    pub fn destinations(&self) -> impl Iterator<Item = &Destination<'n>> {
        let all: &[Destination<'n>] = match &self.action {
            RouteAction::Send(all) => all,
            RouteAction::Answer(_) | RouteAction::Delegate => &[],
        };
        all.iter().filter(|destination| all.len() == 1 || destination.weight.unwrap_or(0) > 0)
    }

    /// Returns the conditions on headers.
    pub fn header_conditions(&self) -> impl Iterator<Item = (&str, &'n str, TextMatch<'n>)> {
        self.alternatives.iter().flatten().filter_map(|condition| match condition {
            Condition::Header { path, name, text, negated: false } => Some((path.as_str(), *name, *text)),
            _ => None,
        })
    }
}

impl Destination<'_> {
    /// Returns whether requests go to this cluster.
    pub fn is(&self, cluster: &ServiceCluster<'_>) -> bool {
        self.host.means(cluster.host)
            && self.subset == cluster.subset
            && self.port.is_none_or(|port| port == u32::from(cluster.port))
    }
}

fn as_text(node: &Node) -> Option<&str> {
    match node {
        Node::Text(text) => Some(text),
        _ => None,
    }
}

/// Reads one entry of a VirtualService's `match`.
fn read_conditions<'n>(item: &'n Node, path: &str) -> Vec<Condition<'n>> {
    let ignore_case = get(item, &["ignoreUriCase"]) == Some(&Node::Bool(true));
    let mut conditions = Vec::new();
    for (key, value) in fields(item) {
        match key.as_str() {
            "name" | "ignoreUriCase" | "statPrefix" => {}
            "headers" | "withoutHeaders" => {
                let inner = format!("{path}.{key}");
                conditions.extend(fields(value).iter().map(|(name, condition)| Condition::Header {
                    path: format!("{inner}{}", segment(&inner, name)),
                    name,
                    text: TextMatch::read(condition),
                    negated: key == "withoutHeaders",
                }));
            }
            "uri" => conditions.push(Condition::Uri { text: TextMatch::read(value), ignore_case }),
            "method" => conditions.push(Condition::Method(TextMatch::read(value))),
            "port" => conditions.push(to_whole_number(value).map_or(Condition::Other, Condition::Port)),
            "gateways" => {
                conditions.push(Condition::Gateways(items(Some(value)).iter().filter_map(as_text).collect()))
            }
            "sourceLabels" => conditions.push(Condition::SourceLabels(
                fields(value)
                    .iter()
                    .filter_map(|(key, value)| Some((key.as_str(), as_text(value)?)))
                    .collect(),
            )),
            "sourceNamespace" => {
                conditions.push(as_text(value).map_or(Condition::Other, Condition::SourceNamespace));
            }
            _ => conditions.push(Condition::Other),
        }
    }
    conditions
}
