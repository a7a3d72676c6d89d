//! The routes that follow a policy, in the order in which they must stand.

use graygate::policy::Policy;
use graygate::policy::document::Node;
use graygate::policy::gate::Fallback;
use graygate::policy::release::Release;
use graygate::policy::release::steer::Steer;
use graygate::value::baggage;

use super::{hop, listener};
use crate::tree::{list, number, object, text};

/// The virtual hosts of several policies, or the routes of one.
pub struct VirtualHosts {
    /// The virtual hosts.
    pub nodes: Vec<Node>,
    /// What the routes cannot express.
    pub warnings: Vec<String>,
}

/// Returns one virtual host for each policy.
///
/// The routes of a policy are for its hosts alone. A client's steer header is removed only there, and would lead anywhere
/// on another host. Requests for no policy's hosts go to the default cluster.
pub fn virtual_hosts(policies: &[&Policy], default_cluster: Option<&str>) -> VirtualHosts {
    let mut found = VirtualHosts { nodes: Vec::new(), warnings: Vec::new() };
    let mut taken: Vec<String> = Vec::new();
    for policy in policies {
        let mut domains = domains(policy);
        domains.retain(|domain| !taken.contains(domain));
        taken.extend(domains.iter().cloned());
        let routes = routes(policy, default_cluster, &mut found.warnings);
        if !domains.is_empty() {
            found.nodes.push(listener::virtual_host(&policy.name, domains, routes));
        }
    }
    if !taken.iter().any(|domain| domain == "*") {
        let other = default_route(default_cluster);
        found.nodes.push(listener::virtual_host("no-policy", ["*".to_owned()], vec![other]));
    }
    found
}

/// Returns the domains of a policy's hosts, without ports, which route tables ignore.
pub fn domains(policy: &Policy) -> Vec<String> {
    if policy.hosts.are_all() {
        return vec!["*".to_owned()];
    }
    let names = policy.hosts.names().iter().cloned();
    let endings = policy.hosts.endings().iter().map(|ending| format!("*{ending}"));
    let mut domains: Vec<String> = Vec::new();
    for host in names.chain(endings) {
        let domain = without_port(&host).to_owned();
        if !domains.contains(&domain) {
            domains.push(domain);
        }
    }
    domains
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        // An IPv6 address has more colons, and none after its bracket.
        Some((name, port)) if !port.contains(']') => name,
        _ => host,
    }
}

/// Returns the routes of a policy. The last one is for requests that nothing leads elsewhere.
fn routes(policy: &Policy, default_cluster: Option<&str>, warnings: &mut Vec<String>) -> Vec<Node> {
    let mut routes = Vec::new();
    if !policy.probes.grpc_services.is_empty() {
        routes.push(hop::route());
    }
    // A request that a gate sends elsewhere gets no version, so these routes come first.
    routes.extend(fallback_routes(policy));
    let mut cluster_headers: Vec<&str> = Vec::new();
    for (index, release) in policy.releases.iter().enumerate() {
        let name = format!("graygate-{}", release.name);
        match &release.steer {
            Steer::ClusterHeader(header) if cluster_headers.contains(&header.as_str()) => {}
            Steer::ClusterHeader(header) => {
                cluster_headers.push(header);
                routes.push(cluster_header_route(&name, header));
            }
            Steer::Header(_) | Steer::FilterState(_) | Steer::Baggage(_) => {
                routes.extend(version_routes(policy, index, release, warnings));
            }
            Steer::RandomValueHeader(_) if release.versions.is_empty() => warnings.push(format!(
                "releases[{index}]: release {} lists no versions, so its route is not printed. Write the route with its weighted_clusters yourself",
                release.name
            )),
            Steer::RandomValueHeader(header) => routes.push(weighted_route(&name, release, header)),
        }
    }
    routes.push(default_route(default_cluster.or_else(|| default_cluster_of(policy))));
    routes
}

/// Returns one route for each cluster that gates fall back to.
///
/// Each matches the name of its cluster. A route for any name would let clients reach every cluster of the proxy in shadow,
/// because the filter then does not remove the header from their requests.
fn fallback_routes(policy: &Policy) -> Vec<Node> {
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for gate in &policy.gates {
        if let Some(Fallback::Upstream { upstream, header }) = &gate.fallback
            && let Some(upstream) = policy.upstream(*upstream)
            && !seen.contains(&(header, &upstream.cluster))
        {
            seen.push((header, &upstream.cluster));
        }
    }
    let route = |(header, cluster)| {
        let exact = object([("exact", text(cluster))]);
        let condition = object([("name", text(header)), ("string_match", exact)]);
        object([
            ("name", text("graygate-fallback")),
            ("match", object([("prefix", text("/")), ("headers", list([condition]))])),
            ("route", object([("cluster", text(cluster))])),
        ])
    };
    seen.into_iter().map(route).collect()
}

/// Returns the cluster of requests that nothing leads elsewhere, unless an option names it.
pub fn default_cluster_of(policy: &Policy) -> Option<&str> {
    let mut releases = policy.releases.iter();
    let version = releases.find_map(|release| release.versions.get(release.default));
    let gated = || policy.gates.first().and_then(|gate| policy.upstream(gate.upstream));
    let upstream = || gated().or(policy.upstreams.first()).map(|upstream| upstream.cluster.as_str());
    version.map(|version| version.cluster.as_str()).or_else(upstream)
}

fn default_route(cluster: Option<&str>) -> Node {
    let matched = ("match", object([("prefix", text("/"))]));
    match cluster {
        Some(cluster) => object([matched, ("route", object([("cluster", text(cluster))]))]),
        None => object([matched, ("direct_response", object([("status", number(404))]))]),
    }
}

/// Returns one route for each version, by its name in the header, in filter state or in `baggage`.
fn version_routes(policy: &Policy, index: usize, release: &Release, warnings: &mut Vec<String>) -> Vec<Node> {
    let mut routes = Vec::new();
    for version in &release.versions {
        // An earlier release may steer alike. Its route to a version of this name comes first.
        let earlier = policy.releases.iter().take(index).filter(|other| other.steer == release.steer);
        let mut namesakes = earlier
            .flat_map(|other| other.versions.iter().map(move |version| (other, version)))
            .filter(|(_, other)| other.name == version.name);
        if let Some((other, namesake)) = namesakes.next() {
            if namesake.cluster != version.cluster {
                warnings.push(format!(
                    "releases[{index}].steer: release {} steers like release {}, and both have a version {} with clusters of their own, so no route can tell them apart. Use another header",
                    release.name, other.name, version.name
                ));
            }
            continue;
        }
        let exact = object([("exact", text(&version.name))]);
        let condition = match &release.steer {
            Steer::FilterState(key) => {
                ("filter_state", object([("key", text(key)), ("string_match", exact)]))
            }
            Steer::Baggage(member) => {
                let regex = object([("regex", text(baggage::pattern(member, &version.name)))]);
                let matched = object([("safe_regex", regex)]);
                ("headers", object([("name", text(baggage::HEADER)), ("string_match", matched)]))
            }
            steer => {
                let header = steer.header().unwrap_or_default();
                ("headers", object([("name", text(header)), ("string_match", exact)]))
            }
        };
        let (key, condition) = condition;
        routes.push(object([
            ("name", text(format!("graygate-{}-{}", release.name, version.name))),
            ("match", object([("prefix", text("/")), (key, list([condition]))])),
            ("route", object([("cluster", text(&version.cluster))])),
        ]));
    }
    routes
}

/// Returns the route that takes its cluster from a header.
fn cluster_header_route(name: &str, header: &str) -> Node {
    let action = object([("cluster_header", text(header))]);
    object([("name", text(name)), ("match", if_present(header)), ("route", action)])
}

/// Returns the route that picks a cluster by the number in a header. It has the versions in the policy's order, so that a
/// number picks the same version for the route and for the filter.
fn weighted_route(name: &str, release: &Release, header: &str) -> Node {
    let clusters = release
        .versions
        .iter()
        .map(|version| object([("name", text(&version.cluster)), ("weight", number(version.weight))]));
    let weighted = object([("clusters", list(clusters)), ("header_name", text(header))]);
    let action = object([("weighted_clusters", weighted)]);
    object([("name", text(name)), ("match", if_present(header)), ("route", action)])
}

fn if_present(header: &str) -> Node {
    let condition = object([("name", text(header)), ("present_match", Node::Bool(true))]);
    object([("prefix", text("/")), ("headers", list([condition]))])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_no_part_of_a_domain() {
        for (host, domain) in
            [("a.b", "a.b"), ("a.b:80", "a.b"), ("*.b:80", "*.b"), ("[::1]", "[::1]"), ("[::1]:80", "[::1]")]
        {
            assert_eq!(without_port(host), domain);
        }
    }
}
