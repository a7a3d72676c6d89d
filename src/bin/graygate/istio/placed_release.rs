//! A release at the proxies that have it, and the routes that its requests meet.

use graygate::policy::document::Node;
use graygate::policy::release::Release;
use graygate::policy::release::version::Version;
use graygate::policy::spelling::nearest;

use super::cluster::ServiceCluster;
use super::direction::Direction;
use super::findings::Findings;
use super::host::{self, HostName};
use super::host_condition::HostCondition;
use super::route::RouteTable;
use super::routing::Routing;

/// The proxies that have a filter.
#[derive(Clone, Copy)]
pub struct Proxies<'a> {
    /// The direction of the filter.
    pub direction: Direction,
    /// Whether gateways are among them, if the direction is outbound.
    pub with_gateways: bool,
    /// Their namespace. `None` if they may be in any.
    pub namespace: Option<&'a str>,
    /// The labels that all of them have.
    pub labels: &'a [(String, String)],
}

/// One release at its place, with all that its routes are checked against.
pub struct PlacedRelease<'a> {
    /// The release.
    pub release: &'a Release,
    /// The clusters of its versions, in their order.
    pub clusters: Vec<ServiceCluster<'a>>,
    /// The alternatives of its `match`.
    pub alternatives: &'a [Node],
    /// The hosts that it names.
    pub hosts: HostCondition<'a>,
    /// The proxies.
    pub proxies: Proxies<'a>,
    /// The routes.
    pub routing: &'a Routing<'a>,
    /// The beginning of each line about it: file, resource and path.
    pub start: String,
    /// The release as other lines name it.
    pub label: String,
}

impl<'a> PlacedRelease<'a> {
    /// Returns the versions with their clusters.
    pub fn versions(&self) -> impl Iterator<Item = (&'a Version, &ServiceCluster<'a>)> {
        self.release.versions.iter().zip(&self.clusters)
    }

    fn is_at_gateway(&self) -> bool {
        self.proxies.direction == Direction::Gateway
    }

    /// Returns whether the release is for hosts that only gateways have routes for, and not for those of its clusters.
    pub fn is_of_gateways(&self) -> bool {
        let names = |host: &&str| HostName { text: host, namespace: None }.names();
        let is_public = self.hosts.is_given()
            && !self.cluster_hosts().iter().map(names).any(|names| self.hosts.accepts(&names));
        let tables =
            || self.routing.tables.iter().filter(|table| self.leads_here(table) && self.acts_on(table));
        is_public && tables().any(|table| table.is_for(true)) && !tables().any(|table| table.is_for(false))
    }

    /// Returns the different hosts of the clusters.
    pub fn cluster_hosts(&self) -> Vec<&'a str> {
        let mut hosts: Vec<&str> = Vec::new();
        for cluster in &self.clusters {
            if !hosts.contains(&cluster.host) {
                hosts.push(cluster.host);
            }
        }
        hosts
    }

    /// Returns whether any destination of the routes is a host of the clusters.
    fn leads_here(&self, table: &RouteTable<'_>) -> bool {
        let hosts = self.cluster_hosts();
        table.destinations().any(|destination| {
            hosts.iter().any(|host| destination.host.means(host) || destination.host.is_cut(host))
        })
    }

    /// Returns whether the release acts on requests for a host of the routes.
    fn acts_on(&self, table: &RouteTable<'_>) -> bool {
        let hosts = self.cluster_hosts();
        if self.alternatives.is_empty() {
            let names = |host: &str| HostName { text: host, namespace: None }.names();
            let acted_on = |host: &&&str| self.hosts.accepts(&names(host));
            let mut own = hosts.iter().filter(acted_on);
            return self.is_at_gateway() || own.any(|host| table.hosts.iter().any(|name| name.means(host)));
        }
        table.hosts.iter().any(|name| {
            let is_wildcard = name.text.starts_with('*');
            let full = |host: &&&str| name.means(host);
            match hosts.iter().find(full).filter(|_| is_wildcard) {
                Some(host) => self.hosts.accepts(&HostName { text: host, namespace: None }.names()),
                None if is_wildcard => self.hosts.names().iter().any(|host| name.means(host)),
                None => self.hosts.accepts(&name.names()),
            }
        })
    }

    /// Returns the routes that the release's requests meet. Reports why there are none, or notes it. `header` is what the
    /// release steers by, if routes match on it.
    pub fn tables(&self, header: Option<&str>, findings: &mut Findings) -> Vec<&'a RouteTable<'a>> {
        let at_gateway = self.is_at_gateway();
        let all: Vec<&RouteTable<'_>> = self
            .routing
            .tables
            .iter()
            .filter(|table| self.leads_here(table) || self.is_of_cluster_host(table))
            .collect();
        let mut found: Vec<&RouteTable<'_>> =
            all.iter().copied().filter(|table| self.acts_on(table)).collect();
        if at_gateway {
            found.retain(|table| table.is_for(true));
            // Of the routes to a service, those by the header are the release's.
            let reads = |table: &&RouteTable<'_>| header.is_some_and(|header| reads_header(table, header));
            if !self.hosts.is_given() && found.iter().any(reads) {
                found.retain(|table| reads(table));
            }
        } else if found.iter().any(|table| !is_wildcard(table)) {
            found.retain(|table| !is_wildcard(table));
        }
        let seen = |table: &&RouteTable<'_>| {
            table.is_for(at_gateway) && table.is_exported_to(self.proxies.namespace)
        };
        let visible: Vec<&RouteTable<'_>> = found.iter().copied().filter(|table| seen(table)).collect();
        self.report_rivals(&visible, findings);
        if !visible.is_empty() {
            return visible;
        }
        if let Some(table) = found.first() {
            self.report_unseen(table, findings);
            return Vec::new();
        }
        let reads = |table: &&&RouteTable<'_>| {
            header.is_none_or(|header| reads_header(table, header)) && table.is_for(at_gateway)
        };
        match all.iter().find(reads) {
            Some(table) if header.is_some() => {
                self.report_other_host(table, findings);
                vec![table]
            }
            _ => {
                let hosts = match self.hosts.names() {
                    names if names.is_empty() => self.cluster_hosts(),
                    names => names,
                };
                findings.note(format!(
                    "{}: its routes were not checked: the set has no VirtualService or HTTPRoute for {}{}",
                    self.start,
                    hosts.join(", "),
                    if at_gateway { " at a gateway" } else { "" }
                ));
                Vec::new()
            }
        }
    }

    /// Returns whether the routes are for a host of the clusters, or would be if its name were complete.
    fn is_of_cluster_host(&self, table: &RouteTable<'_>) -> bool {
        let hosts = self.cluster_hosts();
        table.hosts.iter().any(|name| hosts.iter().any(|host| name.means(host) || name.is_cut(host)))
    }

    /// Reports two VirtualServices for one host, of which a sidecar uses one.
    fn report_rivals(&self, tables: &[&RouteTable<'_>], findings: &mut Findings) {
        if self.is_at_gateway() {
            return;
        }
        let services: Vec<_> = tables.iter().filter(|table| table.object.kind == "VirtualService").collect();
        for (index, one) in services.iter().enumerate() {
            for two in services.iter().skip(index + 1) {
                let same = |name: &&HostName<'_>| {
                    two.hosts.iter().any(|other| other.plain() == name.plain()) && !name.text.starts_with('*')
                };
                let is_one =
                    (one.object.namespace, one.object.name) == (two.object.namespace, two.object.name);
                if is_one {
                    findings.problem(format!(
                        "{}: {}: {} has the same resource, so only the one applied last counts. Keep one.",
                        one.object.file, one.object, two.object.file
                    ));
                } else if let Some(name) = one.hosts.iter().find(same) {
                    findings.problem(format!(
                        "{}: {}: spec.hosts: {} in {} is for {} as well, and Istio uses only the older one. Put the routes of both into one.",
                        one.object.file, one.object, two.object, two.object.file, name.text
                    ));
                }
            }
        }
    }

    /// Reports routes for the release's host that its proxies do not have.
    fn report_unseen(&self, table: &RouteTable<'_>, findings: &mut Findings) {
        let start = format!("{}: {}", table.object.file, table.object);
        if !table.is_for(self.is_at_gateway()) {
            let (who, add) = match self.proxies.direction {
                Direction::Gateway => ("gateways", "the Gateway's name"),
                _ => ("sidecars and waypoints", "mesh"),
            };
            findings.problem(format!(
                "{start}: spec.gateways: {}, so {who} do not have these routes, and {} has no effect there. Add {add} as well",
                table.gateways.join(", "),
                self.label
            ));
        } else if let Some(namespace) = self.proxies.namespace {
            findings.problem(format!(
                "{start}: spec.exportTo: {}, so proxies in {namespace} do not have these routes, and {} has no effect there. Add {namespace} as well",
                table.export_to.join(", "),
                self.label
            ));
        }
    }

    /// Reports routes to the release's clusters that are for a host on which it does not act.
    fn report_other_host(&self, table: &RouteTable<'_>, findings: &mut Findings) {
        let hosts = self.cluster_hosts();
        let start = format!("{}: {}: {}", table.object.file, table.object, table.hosts_path);
        let cut = table
            .hosts
            .iter()
            .find_map(|name| hosts.iter().find(|host| name.is_cut(host)).map(|host| (name.text, *host)));
        if let Some((text, host)) = cut {
            findings.problem(format!(
                "{start}: {text:?} is taken as it stands, as Istio completes only a name without a dot, so {} gets none of these routes. Write {host:?}",
                self.label
            ));
            return;
        }
        let accepted: Vec<String> = match self.hosts.names() {
            names if names.is_empty() => hosts.iter().map(|host| host::plain(host)).collect(),
            names => names.iter().map(|name| host::plain(name)).collect(),
        };
        let near = table
            .hosts
            .iter()
            .find_map(|name| host::misspelt(&name.plain(), &accepted).map(|near| (name.text, near)));
        let names: Vec<&str> = table.hosts.iter().map(|name| name.text).collect();
        match near {
            Some((text, near)) => findings.problem(format!(
                "{start}: {text:?} is no host of {}, whose requests are for {}; did you mean {near:?}?",
                self.label,
                accepted.join(", ")
            )),
            None => findings.problem(format!(
                "{}.match: the routes to its versions, of {} in {}, are for {}, and the release takes no request for them. Write hosts: [{}]",
                self.start,
                table.object,
                table.object.file,
                names.join(", "),
                table.hosts.iter().map(HostName::plain).collect::<Vec<_>>().join(", ")
            )),
        }
    }
}

fn is_wildcard(table: &RouteTable<'_>) -> bool {
    table.hosts.iter().all(|name| name.text.starts_with('*'))
}

/// Returns whether a route has a condition on the header, or on one that is a misspelling of it.
fn reads_header(table: &RouteTable<'_>, header: &str) -> bool {
    let conditions = table.routes.iter().flat_map(|route| route.header_conditions());
    conditions
        .map(|(_, name, _)| name)
        .any(|name| name.eq_ignore_ascii_case(header) || nearest(name, &[header]).is_some())
}
