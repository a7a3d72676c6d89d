//! Renders the routes that follow a release. Each way to steer has its own resources of Istio that read what the filter
//! writes.

use graygate::policy::Policy;
use graygate::policy::document::Node;
use graygate::policy::release::Release;
use graygate::policy::release::steer::Steer;
use graygate::value::baggage;

use super::manifest::{self, Identity, Manifest, Selection, patch};
use crate::istio::cluster::ServiceCluster;
use crate::istio::direction::Direction;
use crate::tree::{list, number, object, or_null, text};

/// The versions of a release as subsets of one port of one host.
struct Subsets<'p> {
    port: u16,
    host: &'p str,
    /// The subset of each version. Empty if the version is the whole host.
    names: Vec<&'p str>,
}

impl<'p> Subsets<'p> {
    /// Finds the subsets by the names of the clusters. Returns `None` unless all are Istio's own, of one host and port.
    fn of(direction: Direction, release: &'p Release) -> Option<Self> {
        let clusters = release.versions.iter().map(|version| ServiceCluster::parse(&version.cluster));
        let clusters: Vec<ServiceCluster<'_>> = clusters.collect::<Option<_>>()?;
        let ServiceCluster { port, host, .. } = *clusters.first()?;
        let is_waypoint = direction == Direction::Waypoint;
        let is_same = |cluster: &ServiceCluster<'_>| {
            cluster.port == port && cluster.host == host && cluster.is_waypoint == is_waypoint
        };
        clusters.iter().all(is_same).then(|| Subsets {
            port,
            host,
            names: clusters.iter().map(|cluster| cluster.subset).collect(),
        })
    }

    fn destination(&self, version: usize) -> Node {
        let subset = self.names.get(version).filter(|name| !name.is_empty());
        object([("host", text(self.host)), ("subset", or_null(subset.map(|name| text(*name))))])
    }

    /// Returns the match of an EnvoyFilter for the service's routes, or for the one with this name. A waypoint has a
    /// route table for each service and port, in which all virtual hosts have the same name.
    fn route_match(&self, direction: Direction, route: Option<&str>) -> Node {
        let (table, vhost) = match direction {
            Direction::Waypoint => (
                Some(format!("inbound-vip|{}|http|{}", self.port, self.host)),
                format!("inbound|http|{}", self.port),
            ),
            _ => (None, format!("{}:{}", self.host, self.port)),
        };
        let route = route.map(|name| object([("name", text(name))]));
        let vhost = object([("name", text(vhost)), ("route", or_null(route))]);
        object([
            ("context", text(direction.context())),
            ("routeConfiguration", object([("name", or_null(table.map(text))), ("vhost", vhost)])),
        ])
    }
}

/// Renders the routes of one release.
pub struct Routes<'a> {
    /// The identity of the resources.
    pub identity: &'a Identity,
    /// The proxies whose routes an EnvoyFilter changes.
    pub selection: &'a Selection,
    /// The direction of the filter.
    pub direction: Direction,
    /// The `priority` of an EnvoyFilter.
    pub priority: Option<i32>,
}

impl Routes<'_> {
    /// Returns the host of the service that a release divides, if routes can be rendered for it.
    pub fn host<'p>(&self, release: &'p Release) -> Option<&'p str> {
        Subsets::of(self.direction, release).map(|subsets| subsets.host)
    }

    /// Returns the manifests of a release.
    ///
    /// # Errors
    ///
    /// Returns the reason if no routes can be rendered.
    pub fn manifests(&self, release: &Release) -> Result<Vec<Manifest>, &'static str> {
        if release.versions.is_empty() {
            return Err("it has no versions, so only your own routes know them");
        }
        let subsets = Subsets::of(self.direction, release).ok_or(match self.direction {
            Direction::Waypoint => {
                "the clusters of its versions are not all inbound-vip|PORT|http/SUBSET|HOST of one port of one host"
            }
            _ => "the clusters of its versions are not all outbound|PORT|SUBSET|HOST of one port of one host",
        })?;
        if self.direction == Direction::Waypoint && matches!(release.steer, Steer::RandomValueHeader(_)) {
            return Err("an EnvoyFilter cannot change the routes that a VirtualService makes for a waypoint");
        }
        let mut manifests = Vec::new();
        manifests.extend(self.destination_rule(&subsets));
        match &release.steer {
            Steer::Header(_) | Steer::Baggage(_) => manifests.push(self.version_routes(release, &subsets)),
            Steer::ClusterHeader(header) => manifests.push(self.cluster_header_route(&subsets, header)),
            Steer::RandomValueHeader(header) => {
                if release.versions.iter().filter(|version| version.weight > 0).count() < 2 {
                    return Err(
                        "only one of its versions has a weight, and a route to one cluster ignores the number",
                    );
                }
                let sum: u64 = release.versions.iter().map(|version| u64::from(version.weight)).sum();
                if i32::try_from(sum).is_err() {
                    return Err(
                        "the sum of its weights exceeds 2147483647, the most that a VirtualService allows",
                    );
                }
                manifests.extend(self.weighted_route(release, &subsets, header));
            }
            Steer::FilterState(_) => {
                return Err("no resource of Istio can make a route that reads filter state");
            }
        }
        Ok(manifests)
    }

    /// Returns a resource without the label of a revision. With it, other revisions could not read the route, and would
    /// remove it from their proxies.
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
            "The versions of {} by the label \"version\" of their Pods. Without these subsets, Istio has no clusters of the names in the policy. If the host already has a DestinationRule, add the subsets there, because a second one has no effect, or only a partial one.",
            subsets.host
        )];
        Some(Manifest { comments, object: self.resource("DestinationRule", spec) })
    }

    fn virtual_service(&self, subsets: &Subsets<'_>, http: Vec<Node>, description: &str) -> Manifest {
        let spec = object([("hosts", list([text(subsets.host)])), ("http", list(http))]);
        let comments = vec![format!(
            "{description} Only one VirtualService per host has effect. If {} already has one, put these routes first in it.",
            subsets.host
        )];
        Manifest { comments, object: self.resource("VirtualService", spec) }
    }

    /// Returns one route for each version, by the steer header or by the member of `baggage`. The default version comes
    /// last, as its route has no match.
    fn version_routes(&self, release: &Release, subsets: &Subsets<'_>) -> Manifest {
        let header = release.steer.written_header().unwrap_or_default();
        let mut order: Vec<usize> =
            (0..release.versions.len()).filter(|index| *index != release.default).collect();
        order.push(release.default);
        let routes = order.into_iter().filter_map(|index| {
            let version = release.versions.get(index)?;
            let condition = match release.steer.member() {
                Some(key) => object([("regex", text(baggage::pattern(key, &version.name)))]),
                None => object([("exact", text(&version.name))]),
            };
            let headers = object([("headers", object([(header, condition)]))]);
            let matched = (index != release.default).then(|| list([headers]));
            let route = object([("destination", subsets.destination(index))]);
            Some(object([
                ("name", text(format!("graygate-{}-{}", release.name, version.name))),
                ("match", or_null(matched)),
                ("route", list([route])),
            ]))
        });
        let by = match release.steer.member() {
            Some(key) => format!("the member {key} of the header {header}"),
            None => format!("the header {header}"),
        };
        let description = format!(
            "One route for each version of release {}, by {by}, which the filter sets. The route of the default version comes last and takes all other requests, also while the filter is absent.",
            release.name
        );
        self.virtual_service(subsets, routes.collect(), &description)
    }

    /// Returns a route to the cluster that the steer header names.
    fn cluster_header_route(&self, subsets: &Subsets<'_>, header: &str) -> Manifest {
        let matched = subsets.route_match(self.direction, None);
        let present = object([("name", text(header)), ("present_match", Node::Bool(true))]);
        let value = object([
            ("name", text("graygate-cluster-header")),
            ("match", object([("prefix", text("/")), ("headers", list([present]))])),
            ("route", object([("cluster_header", text(header)), ("timeout", text("0s"))])),
        ]);
        let patches = vec![patch("HTTP_ROUTE", matched, "INSERT_FIRST", value)];
        let object = manifest::envoy_filter(self.identity, self.selection, self.priority, patches);
        let mut comments = vec![format!(
            "The first route of {}. It leads to the cluster that the header {header} names, which the filter sets. It has none of the settings of a VirtualService for the host: no retries, no timeout, no faults.",
            subsets.host
        )];
        if self.direction == Direction::Waypoint {
            comments.push(
                "At a waypoint, this route exists only while the host has no VirtualService.".to_owned(),
            );
        }
        Manifest { comments, object }
    }

    /// Returns a route with weights, and a patch that lets the number in the steer header pick among them. The versions
    /// are in the policy's order, so that the number picks the same version for the route and for the filter.
    fn weighted_route(&self, release: &Release, subsets: &Subsets<'_>, header: &str) -> [Manifest; 2] {
        let name = format!("graygate-{}", release.name);
        let routes = release.versions.iter().enumerate().map(|(index, version)| {
            object([("destination", subsets.destination(index)), ("weight", number(version.weight))])
        });
        let route = object([("name", text(&name)), ("route", list(routes))]);
        let description = format!(
            "The weights of release {}. The route decides by the number that the filter sets. If you change weights, change them here and in the policy, and keep the versions in this order.",
            release.name
        );
        let weights = self.virtual_service(subsets, vec![route], &description);
        let matched = subsets.route_match(self.direction, Some(&name));
        let clusters = object([("header_name", text(header))]);
        let value = object([("route", object([("weighted_clusters", clusters)]))]);
        let patches = vec![patch("HTTP_ROUTE", matched, "MERGE", value)];
        let object = manifest::envoy_filter(self.identity, self.selection, self.priority, patches);
        let comments = vec![format!(
            "Makes this route of the VirtualService above pick by the header {header} instead of at random. It must match only this route, because it would replace the cluster of a route to a single one."
        )];
        [weights, Manifest { comments, object }]
    }
}

/// Returns a warning if a release takes effect only by a route that no VirtualService can make.
pub fn missing_route_warning(policy: &Policy, release: &Release) -> Option<String> {
    let needed_route = match &release.steer {
        Steer::Header(_) | Steer::Baggage(_) => return None,
        Steer::ClusterHeader(header) => format!("a route with cluster_header: {header}"),
        Steer::RandomValueHeader(header) => format!("a route with weighted_clusters.header_name: {header}"),
        Steer::FilterState(object) => format!("a route with a match on the filter state {object}"),
    };
    let index = policy.releases.iter().position(|other| other.name == release.name)?;
    Some(format!(
        "releases[{index}].steer: needs {needed_route}, which a VirtualService cannot express. --routes prints it where Istio can have it"
    ))
}
