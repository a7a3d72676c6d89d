//! The resources of a set that decide where a request goes.

use super::cluster::ServiceCluster;
use super::host::HostName;
use super::http_route;
use super::model::Object;
use super::patched_route::{self, RoutePatch};
use super::route::RouteTable;
use super::subset::DestinationRule;
use crate::tree::{get, items, to_whole_number};
use graygate::policy::Policy;
use graygate::policy::document::Node;

/// The resources of a set that decide where a request goes.
pub struct Routing<'n> {
    /// The routes of VirtualServices and HTTPRoutes.
    pub tables: Vec<RouteTable<'n>>,
    /// The DestinationRules.
    pub rules: Vec<DestinationRule<'n>>,
    /// The Services and ServiceEntries.
    pub services: Vec<KnownService<'n>>,
    /// The routes that EnvoyFilters add or change.
    pub patches: Vec<RoutePatch<'n>>,
    /// The root namespace of the mesh.
    pub root: &'n str,
}

/// A Service or ServiceEntry.
pub struct KnownService<'n> {
    /// Its hosts.
    pub hosts: Vec<HostName<'n>>,
    /// Its ports.
    pub ports: Vec<u32>,
}

impl<'n> Routing<'n> {
    /// Reads the resources among these objects.
    pub fn read(objects: &[Object<'n>], root: &'n str) -> Self {
        let mut routing = Routing {
            tables: Vec::new(),
            rules: Vec::new(),
            services: Vec::new(),
            patches: Vec::new(),
            root,
        };
        for object in objects {
            match (object.group, object.kind) {
                ("networking.istio.io", "VirtualService") => {
                    routing.tables.push(RouteTable::virtual_service(*object));
                }
                ("gateway.networking.k8s.io", "HTTPRoute") => routing.tables.push(http_route::read(*object)),
                ("networking.istio.io", "DestinationRule") => {
                    routing.rules.push(DestinationRule::read(*object));
                }
                ("networking.istio.io", "EnvoyFilter") => {
                    routing.patches.extend(patched_route::read(object));
                }
                ("networking.istio.io", "ServiceEntry") | ("", "Service") => {
                    routing.services.push(KnownService::read(object));
                }
                _ => {}
            }
        }
        routing
    }

    /// Returns whether objects of this kind are read.
    pub fn has_kind(object: &Object<'_>) -> bool {
        let kinds = ["VirtualService", "DestinationRule", "HTTPRoute", "ServiceEntry"];
        ["networking.istio.io", "gateway.networking.k8s.io"].contains(&object.group)
            && kinds.contains(&object.kind)
    }

    /// Returns all hosts that the resources name, save wildcards.
    pub fn known_hosts(&self) -> Vec<HostName<'n>> {
        let hosts = self.tables.iter().flat_map(|table| table.hosts.iter().copied());
        let destinations =
            self.tables.iter().flat_map(RouteTable::destinations).map(|destination| destination.host);
        let rules = self.rules.iter().map(|rule| rule.host);
        let services = self.services.iter().flat_map(|service| service.hosts.iter().copied());
        let all = services.chain(rules).chain(destinations).chain(hosts);
        all.filter(|host| !host.text.contains('*')).collect()
    }

    /// Returns the hosts of the routes by which gateways lead to the clusters of a policy.
    pub fn gateway_hosts(&self, policy: &Policy) -> Vec<String> {
        let clusters =
            || policy.upstreams.iter().filter_map(|upstream| ServiceCluster::parse(&upstream.cluster));
        let leads_there = |table: &&RouteTable<'_>| {
            let mut destinations = table.destinations();
            destinations.any(|destination| clusters().any(|cluster| destination.host.means(cluster.host)))
        };
        let tables = self.tables.iter().filter(|table| table.is_for(true)).filter(leads_there);
        let mut hosts: Vec<String> =
            tables.flat_map(|table| &table.hosts).map(|host| host.text.to_owned()).collect();
        hosts.sort_unstable();
        hosts.dedup();
        hosts
    }

    /// Returns the ports of a host, if the set has its Service or ServiceEntry.
    pub fn ports(&self, host: &str) -> Option<&[u32]> {
        let service =
            self.services.iter().find(|service| service.hosts.iter().any(|name| name.means(host)))?;
        (!service.ports.is_empty()).then_some(&service.ports)
    }
}

impl<'n> KnownService<'n> {
    fn read(object: &Object<'n>) -> Self {
        let namespace = object.own_namespace();
        let hosts = if object.kind == "Service" {
            vec![HostName { text: object.name, namespace }]
        } else {
            let names = items(get(object.node, &["spec", "hosts"])).iter();
            names
                .filter_map(|node| match node {
                    Node::Text(text) => Some(HostName { text, namespace }),
                    _ => None,
                })
                .collect()
        };
        let key = if object.kind == "Service" { "port" } else { "number" };
        let ports = items(get(object.node, &["spec", "ports"])).iter();
        KnownService { hosts, ports: ports.filter_map(|port| to_whole_number(get(port, &[key])?)).collect() }
    }
}
