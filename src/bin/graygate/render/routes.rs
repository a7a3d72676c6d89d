//! Routes that do as a release says: for each way to steer the resources of Istio that read it.

use graygate::policy::Policy;
use graygate::policy::document::Node;
use graygate::policy::release::Release;
use graygate::policy::release::steer::Steer;

use super::manifest::{self, Identity, Manifest, Selection, patch};
use crate::istio::direction::Direction;
use crate::tree::{list, number, object, some, text};

/// Where the versions of a release are: subsets of one port of one host.
struct Subsets<'p> {
    port: &'p str,
    host: &'p str,
    /// One for each version; empty where a version is the host as a whole.
    names: Vec<&'p str>,
}

/// The parts of a name that Istio gives to a cluster of a service.
fn parts(direction: Direction, cluster: &str) -> Option<(&str, &str, &str)> {
    let start = if direction == Direction::Waypoint { "inbound-vip|" } else { "outbound|" };
    let mut parts = cluster.strip_prefix(start)?.splitn(3, '|');
    let (port, subset, host) = (parts.next()?, parts.next()?, parts.next()?);
    let subset = match (direction, subset) {
        (Direction::Waypoint, "http") => "",
        (Direction::Waypoint, subset) => subset.strip_prefix("http/")?,
        (_, subset) => subset,
    };
    let whole = port.parse::<u16>().is_ok() && !host.is_empty() && !host.contains('|');
    whole.then_some((port, subset, host))
}

impl<'p> Subsets<'p> {
    /// From the clusters' names, if all are Istio's own and of one host and port.
    fn of(direction: Direction, release: &'p Release) -> Option<Self> {
        let parts = release.versions.iter().map(|version| parts(direction, &version.cluster));
        let parts: Vec<_> = parts.collect::<Option<_>>()?;
        let (port, _, host) = *parts.first()?;
        let same = parts.iter().all(|(other, _, name)| *other == port && *name == host);
        same.then(|| Subsets { port, host, names: parts.into_iter().map(|(_, subset, _)| subset).collect() })
    }

    fn destination(&self, version: usize) -> Node {
        let subset = self.names.get(version).filter(|name| !name.is_empty());
        object([("host", text(self.host)), ("subset", some(subset.map(|name| text(*name))))])
    }

    /// What tells the routes of the service among all of a proxy, with more to say of them. A waypoint has a table for
    /// each service and port, in which all virtual hosts have the same name.
    fn routes(&self, direction: Direction, route: Option<&str>) -> Node {
        let (table, vhost) = match direction {
            Direction::Waypoint => (
                Some(format!("inbound-vip|{}|http|{}", self.port, self.host)),
                format!("inbound|http|{}", self.port),
            ),
            _ => (None, format!("{}:{}", self.host, self.port)),
        };
        let route = route.map(|name| object([("name", text(name))]));
        let vhost = object([("name", text(vhost)), ("route", some(route))]);
        object([
            ("context", text(direction.context())),
            ("routeConfiguration", object([("name", some(table.map(text))), ("vhost", vhost)])),
        ])
    }
}

/// The routes of one release.
pub struct Routes<'a> {
    /// Who its resources are.
    pub identity: &'a Identity,
    /// Whose routes an EnvoyFilter changes.
    pub selection: &'a Selection,
    /// Where the filter is.
    pub direction: Direction,
    /// `priority` of an EnvoyFilter.
    pub priority: Option<i32>,
}

impl Routes<'_> {
    /// The service that a release divides, if its routes can be had.
    pub fn host<'p>(&self, release: &'p Release) -> Option<&'p str> {
        Subsets::of(self.direction, release).map(|subsets| subsets.host)
    }

    /// The manifests of a release, or why there are none.
    pub fn of(&self, release: &Release) -> Result<Vec<Manifest>, &'static str> {
        if release.versions.is_empty() {
            return Err("it has no versions, so that only the routes know them");
        }
        let subsets = Subsets::of(self.direction, release).ok_or(match self.direction {
            Direction::Waypoint => {
                "the clusters of its versions are not all inbound-vip|PORT|http/SUBSET|HOST of one port of one host"
            }
            _ => "the clusters of its versions are not all outbound|PORT|SUBSET|HOST of one port of one host",
        })?;
        if self.direction == Direction::Waypoint && matches!(release.steer, Steer::RandomValueHeader(_)) {
            return Err("what a VirtualService makes of a waypoint's routes no EnvoyFilter can change");
        }
        let mut manifests = Vec::new();
        manifests.extend(self.destination_rule(&subsets));
        match &release.steer {
            Steer::Header(header) => manifests.push(self.by_header(release, &subsets, header)),
            Steer::ClusterHeader(header) => manifests.push(self.by_cluster(&subsets, header)),
            Steer::RandomValueHeader(header) => {
                if release.versions.iter().filter(|version| version.weight > 0).count() < 2 {
                    return Err(
                        "only one of its versions has a weight, and a route to one cluster takes no number",
                    );
                }
                let sum: u64 = release.versions.iter().map(|version| u64::from(version.weight)).sum();
                if i32::try_from(sum).is_err() {
                    return Err("the sum of its weights is more than a VirtualService's may be, 2147483647");
                }
                manifests.extend(self.by_number(release, &subsets, header));
            }
            Steer::FilterState(_) => {
                return Err("no resource of Istio makes a route that reads filter state");
            }
        }
        Ok(manifests)
    }

    /// Without the label of a revision: a route that other revisions can't read would be taken from their proxies.
    fn resource(&self, kind: &str, spec: Node) -> Node {
        object([
            ("apiVersion", text("networking.istio.io/v1")),
            ("kind", text(kind)),
            ("metadata", self.identity.for_all_revisions().metadata()),
            ("spec", spec),
        ])
    }

    fn destination_rule(&self, subsets: &Subsets<'_>) -> Option<Manifest> {
        let mut names: Vec<&str> = subsets.names.iter().copied().filter(|name| !name.is_empty()).collect();
        names.sort_unstable();
        names.dedup();
        if names.is_empty() {
            return None;
        }
        let subset =
            |name: &str| object([("name", text(name)), ("labels", object([("version", text(name))]))]);
        let spec = object([("host", text(subsets.host)), ("subsets", list(names.into_iter().map(subset)))]);
        let comments = vec![format!(
            "The versions of {} by the label \"version\" of their Pods. Without these subsets Istio makes no clusters of the names that the policy has. If the host has a DestinationRule already, add the subsets there: a second one takes no effect, or only in part.",
            subsets.host
        )];
        Some(Manifest { comments, object: self.resource("DestinationRule", spec) })
    }

    fn virtual_service(&self, subsets: &Subsets<'_>, http: Vec<Node>, what: &str) -> Manifest {
        let spec = object([("hosts", list([text(subsets.host)])), ("http", list(http))]);
        let comments = vec![format!(
            "{what} Of all VirtualServices for a host one takes effect: if {} has one already, put these routes first in it.",
            subsets.host
        )];
        Manifest { comments, object: self.resource("VirtualService", spec) }
    }

    fn by_header(&self, release: &Release, subsets: &Subsets<'_>, header: &str) -> Manifest {
        let mut order: Vec<usize> =
            (0..release.versions.len()).filter(|index| *index != release.default).collect();
        order.push(release.default);
        let routes = order.into_iter().filter_map(|index| {
            let version = release.versions.get(index)?;
            let headers = object([("headers", object([(header, object([("exact", text(&version.name))]))]))]);
            let matched = (index != release.default).then(|| list([headers]));
            let route = object([("destination", subsets.destination(index))]);
            Some(object([
                ("name", text(format!("graygate-{}-{}", release.name, version.name))),
                ("match", some(matched)),
                ("route", list([route])),
            ]))
        });
        let what = format!(
            "The route of each version of release {}, by {header}, which the filter sets; the default version comes last and takes all else, also while the filter is not there.",
            release.name
        );
        self.virtual_service(subsets, routes.collect(), &what)
    }

    /// A route by the name of a cluster.
    fn by_cluster(&self, subsets: &Subsets<'_>, header: &str) -> Manifest {
        let matched = subsets.routes(self.direction, None);
        let present = object([("name", text(header)), ("present_match", Node::Bool(true))]);
        let value = object([
            ("name", text("graygate-cluster-header")),
            ("match", object([("prefix", text("/")), ("headers", list([present]))])),
            ("route", object([("cluster_header", text(header)), ("timeout", text("0s"))])),
        ]);
        let patches = vec![patch("HTTP_ROUTE", matched, "INSERT_FIRST", value)];
        let object = manifest::envoy_filter(self.identity, self.selection, self.priority, patches);
        let mut comments = vec![format!(
            "A first route of {}, to the cluster that {header} names, which the filter sets. It has nothing of what a VirtualService says of the host: no retries, no timeout, no faults.",
            subsets.host
        )];
        if self.direction == Direction::Waypoint {
            comments.push("At a waypoint it is there only while the host has no VirtualService.".to_owned());
        }
        Manifest { comments, object }
    }

    /// Weights in a route, and the number that picks among them. The order of versions is the policy's: the number
    /// means the same to both.
    fn by_number(&self, release: &Release, subsets: &Subsets<'_>, header: &str) -> [Manifest; 2] {
        let name = format!("graygate-{}", release.name);
        let routes = release.versions.iter().enumerate().map(|(index, version)| {
            object([("destination", subsets.destination(index)), ("weight", number(version.weight))])
        });
        let route = object([("name", text(&name)), ("route", list(routes))]);
        let what = format!(
            "The weights of release {}. The route decides, by the number that the filter gives it: change weights here and in the policy alike, and keep the versions in this order.",
            release.name
        );
        let weights = self.virtual_service(subsets, vec![route], &what);
        let matched = subsets.routes(self.direction, Some(&name));
        let clusters = object([("header_name", text(header))]);
        let value = object([("route", object([("weighted_clusters", clusters)]))]);
        let patches = vec![patch("HTTP_ROUTE", matched, "MERGE", value)];
        let object = manifest::envoy_filter(self.identity, self.selection, self.priority, patches);
        let comments = vec![format!(
            "Makes that route of the VirtualService above pick by {header} instead of by chance. It is for this route alone: in one to a single cluster it would take the cluster's place."
        )];
        [weights, Manifest { comments, object }]
    }
}

/// What the policy's routes must read by themselves, where no manifest is printed for it.
pub fn unread(policy: &Policy, release: &Release) -> Option<String> {
    let needs = match &release.steer {
        Steer::Header(_) => return None,
        Steer::ClusterHeader(header) => format!("a route with cluster_header: {header}"),
        Steer::RandomValueHeader(header) => format!("a route with weighted_clusters.header_name: {header}"),
        Steer::FilterState(object) => format!("a route with a match on the filter state {object}"),
    };
    let index = policy.releases.iter().position(|other| other.name == release.name)?;
    Some(format!("releases[{index}].steer: takes effect only by {needs}, which no VirtualService makes"))
}
