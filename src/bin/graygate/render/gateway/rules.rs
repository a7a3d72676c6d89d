//! The rules of the HTTPRoute that follows a policy.
//!
//! Envoy Gateway makes one cluster for each rule, and names it by the rule's number. So each cluster of the policy has one
//! rule, and the policy gets the names. The rules have the order of the policy's upstreams, and the rule for probes comes
//! last. So an upstream that is added at the end moves no other name. The order decides nothing else: a request meets the
//! rule whose match says most.

use core::net::IpAddr;

use graygate::policy::Policy;
use graygate::policy::document::Node;
use graygate::policy::gate::Fallback;
use graygate::policy::probe::GRPC_HEALTH;
use graygate::policy::problem::Problem;
use graygate::policy::reader::segment;
use graygate::policy::release::Release;
use graygate::policy::release::steer::Steer;
use graygate::policy::release::version::Version;
use graygate::policy::upstream::Upstream;
use graygate::value::baggage;

use super::super::envoy::route;
use super::backend::{Backend, ServicePort};
use crate::gateway::cluster::{self, GatewayCluster};
use crate::tree::{get_mut, list, object, or_null, set, text};

/// The most rules that an HTTPRoute may have.
const MAX_RULES: usize = 16;
/// The most hosts that an HTTPRoute may have.
const MAX_HOSTS: usize = 16;
/// The most matches that a rule may have.
const MAX_MATCHES: usize = 64;
/// A regular expression that no text matches, also not the empty one.
const NOTHING: &str = r"[^\s\S]";

/// A rule of the route.
struct RouteRule {
    /// What it is for.
    about: String,
    matches: Vec<Node>,
    service: Option<ServicePort>,
}

/// The rules for one policy.
pub struct Rules<'a> {
    policy: &'a Policy,
    /// The namespace and the name of the route.
    route: (&'a str, &'a str),
    rules: Vec<RouteRule>,
    /// The clusters of the policy with their new names.
    names: Vec<(&'a str, String)>,
}

impl<'a> Rules<'a> {
    /// Makes the rules of a policy for the route of this namespace and name.
    ///
    /// # Errors
    ///
    /// Returns a problem for each cluster whose Service is not known, and for each release that no rule can follow.
    pub fn of(
        policy: &'a Policy,
        backends: &[Backend],
        route: (&'a str, &'a str),
    ) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut clusters: Vec<(&'a str, ServicePort)> = Vec::new();
        let mut seen: Vec<&str> = Vec::new();
        for upstream in &policy.upstreams {
            let cluster = upstream.cluster.as_str();
            // A name that Envoy Gateway gives is that of a route of your own.
            if seen.contains(&cluster) || GatewayCluster::parse(cluster).is_some() {
                continue;
            }
            seen.push(cluster);
            let given = backends.iter().find(|backend| backend.cluster == cluster);
            match given.map(|backend| backend.service.clone()).or_else(|| ServicePort::of_istio(cluster)) {
                Some(service) => clusters.push((cluster, service)),
                None => problems.push(Problem {
                    path: format!("upstreams{}.cluster", segment("upstreams", &upstream.name)),
                    message: format!(
                        "{cluster:?}: its Service is not known. Add --backend '{cluster}=SERVICE:PORT'"
                    ),
                }),
            }
        }
        problems.extend(unroutable(policy));
        let names: Vec<(&str, String)> = clusters
            .iter()
            .enumerate()
            .map(|(number, (name, _))| (*name, cluster::of_rule(route.0, route.1, number)))
            .collect();
        let mut rules = Rules { policy, route, rules: Vec::new(), names };
        problems.extend(rules.conflicts());
        for (cluster, service) in clusters {
            let rule = rules.rule(cluster, service);
            rules.rules.push(rule);
        }
        rules.rules.extend(rules.probe_rule());
        problems.extend(rules.excess());
        if problems.is_empty() { Ok(rules) } else { Err(problems) }
    }

    /// Returns no rules, for a route of the user's own. Its clusters have the names that Envoy Gateway gives.
    ///
    /// # Errors
    ///
    /// Returns a problem for each cluster of another name.
    pub fn of_own(policy: &'a Policy, route: (&'a str, &'a str)) -> Result<Self, Vec<Problem>> {
        let others =
            policy.upstreams.iter().filter(|upstream| GatewayCluster::parse(&upstream.cluster).is_none());
        let problem = |upstream: &Upstream| Problem {
            path: format!("upstreams{}.cluster", segment("upstreams", &upstream.name)),
            message: format!(
                "{:?}: Envoy Gateway names the clusters of your route otherwise; allowed: {}, with the number of the rule that leads there, from 0",
                upstream.cluster,
                cluster::of_rule(route.0, route.1, 0)
            ),
        };
        let problems: Vec<Problem> = others.map(problem).collect();
        let rules = Rules { policy, route, rules: Vec::new(), names: Vec::new() };
        if problems.is_empty() { Ok(rules) } else { Err(problems) }
    }

    /// Returns whether there are any.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Returns the `rules` of the route.
    pub fn node(&self) -> Node {
        list(self.rules.iter().map(|rule| {
            let backend = rule.service.as_ref().map(|service| list([service.reference(self.route.0)]));
            object([("matches", list(rule.matches.iter().cloned())), ("backendRefs", or_null(backend))])
        }))
    }

    /// Returns a sentence for each rule.
    pub fn comments(&self) -> Vec<String> {
        let about = self.rules.iter().enumerate();
        about.map(|(number, rule)| format!("Rule {number}: {}.", rule.about)).collect()
    }

    /// Returns the policy's document with the names of the clusters.
    pub fn renamed(&self, document: &Node) -> Node {
        let mut document = document.clone();
        for upstream in &self.policy.upstreams {
            let renamed = self.names.iter().find(|(cluster, _)| *cluster == upstream.cluster);
            if let (Some(node), Some((_, name))) =
                (get_mut(&mut document, &["upstreams", &upstream.name]), renamed)
            {
                set(node, "cluster", text(name));
            }
        }
        document
    }

    /// Returns the namespaces of Services that are not in the route's own.
    pub fn other_namespaces(&self) -> Vec<&str> {
        let services = self.rules.iter().filter_map(|rule| rule.service.as_ref());
        let mut found: Vec<&str> = Vec::new();
        for namespace in services.filter_map(|service| service.namespace.as_deref()) {
            if namespace != self.route.0 && !found.contains(&namespace) {
                found.push(namespace);
            }
        }
        found
    }

    /// Returns the cluster of the requests that nothing leads elsewhere. A policy that only has probes takes no other requests
    /// from your own routes.
    fn default_cluster(&self) -> Option<&'a str> {
        let only_probes = self.policy.releases.is_empty() && self.policy.gates.is_empty();
        route::default_cluster_of(self.policy).filter(|_| !only_probes)
    }

    fn name_of(&self, cluster: &str) -> &str {
        self.names.iter().find(|(known, _)| *known == cluster).map_or("", |(_, name)| name)
    }

    fn rule(&self, cluster: &str, service: ServicePort) -> RouteRule {
        let mut about: Vec<String> = Vec::new();
        let mut matches = Vec::new();
        let is_default = self.default_cluster() == Some(cluster);
        for header in fallback_headers(self.policy, cluster) {
            about.push(format!("what a gate sends to {cluster}"));
            matches.push(headers(header, "Exact", self.name_of(cluster)));
        }
        for (release, version) in versions(self.policy) {
            if version.cluster != cluster {
                continue;
            }
            about.push(format!("version {} of release {}", version.name, release.name));
            let condition = self.condition(release, version).filter(|_| !is_default);
            matches.extend(condition.map(|(header, kind, value)| headers(header, kind, &value)));
        }
        if is_default {
            about.push("all requests that no other rule takes".to_owned());
            let everything = object([("type", text("PathPrefix")), ("value", text("/"))]);
            matches.push(object([("path", everything)]));
        }
        if matches.is_empty() {
            about.push(format!(
                "no request matches it. Without it, the checks of {cluster} would have no cluster"
            ));
            matches.push(headers("x-graygate-none", "RegularExpression", NOTHING));
        }
        RouteRule { about: about.join(", and "), matches, service: Some(service) }
    }

    /// Returns the header, the kind of the match and the value by which routes know the requests of a version.
    fn condition(&self, release: &'a Release, version: &Version) -> Option<(&'a str, &'static str, String)> {
        match &release.steer {
            Steer::Header(header) => Some((header, "Exact", version.name.clone())),
            Steer::ClusterHeader(header) => {
                Some((header, "Exact", self.name_of(&version.cluster).to_owned()))
            }
            Steer::Baggage(key) => {
                Some((baggage::HEADER, "RegularExpression", baggage::pattern(key, &version.name)))
            }
            Steer::RandomValueHeader(_) | Steer::FilterState(_) => None,
        }
    }

    /// Returns the rule for the paths of probes. The filter is on by route, and a path without a route is 404.
    fn probe_rule(&self) -> Option<RouteRule> {
        let paths = probe_paths(self.policy);
        if paths.is_empty() {
            return None;
        }
        let exact =
            |path: &String| object([("path", object([("type", text("Exact")), ("value", text(path))]))]);
        let service = route::default_cluster_of(self.policy).and_then(|cluster| {
            let position = self.names.iter().position(|(known, _)| *known == cluster)?;
            self.rules.get(position)?.service.clone()
        });
        let absent = match service {
            Some(_) => "they reach the Service",
            None => "Envoy responds 500",
        };
        let about = format!("the paths of the probes. The filter answers them. While it is absent, {absent}");
        Some(RouteRule { about, matches: paths.iter().map(exact).collect(), service })
    }

    /// Reports two versions whose requests look alike and that have different clusters.
    fn conflicts(&self) -> Vec<Problem> {
        let mut known: Vec<((&str, String), &Release, &Version)> = Vec::new();
        let mut problems = Vec::new();
        for (release, version) in versions(self.policy) {
            let Some((header, _, value)) = self.condition(release, version) else {
                continue;
            };
            let key = (header, value);
            match known.iter().find(|(other, ..)| *other == key) {
                Some((_, other, namesake)) if namesake.cluster != version.cluster => problems.push(Problem {
                    path: format!("releases[{}].steer", self.index_of(release)),
                    message: format!(
                        "release {} steers like release {}, and both have a version {} with clusters of their own, so no rule can tell them apart. Use another header",
                        release.name, other.name, version.name
                    ),
                }),
                _ => known.push((key, release, version)),
            }
        }
        problems
    }

    fn index_of(&self, release: &Release) -> usize {
        self.policy.releases.iter().position(|other| other.name == release.name).unwrap_or_default()
    }

    /// Reports more rules or matches than a route may have.
    fn excess(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if self.rules.len() > MAX_RULES {
            let clusters = MAX_RULES - usize::from(!probe_paths(self.policy).is_empty());
            problems.push(Problem {
                path: "upstreams".to_owned(),
                message: format!(
                    "{} clusters need {} rules, and an HTTPRoute has at most {MAX_RULES}; allowed: {clusters} clusters. Divide the policy into several with hosts of their own",
                    self.names.len(),
                    self.rules.len()
                ),
            });
        }
        problems.extend(host_problem(self.policy));
        let wide = self.rules.iter().find(|rule| rule.matches.len() > MAX_MATCHES);
        problems.extend(wide.map(|rule| Problem {
            path: "probes".to_owned(),
            message: format!(
                "a rule would have {} matches, and an HTTPRoute allows {MAX_MATCHES} in each. Use fewer paths or versions",
                rule.matches.len()
            ),
        }));
        problems
    }
}

/// Returns the paths that the filter answers, each once.
pub fn probe_paths(policy: &Policy) -> Vec<String> {
    let probes = &policy.probes;
    let endpoints = probes.endpoints.iter().map(|probe| probe.path.clone());
    let drain = probes.drain_path().map(str::to_owned);
    let status = probes.status.iter().map(|page| page.path.clone());
    let grpc = (!probes.grpc_services.is_empty()).then(|| format!("{GRPC_HEALTH}Check"));
    endpoints.chain(drain).chain(status).chain(grpc).collect()
}

fn versions(policy: &Policy) -> impl Iterator<Item = (&Release, &Version)> {
    policy.releases.iter().flat_map(|release| release.versions.iter().map(move |version| (release, version)))
}

/// Returns the headers by which gates send requests to this cluster.
fn fallback_headers<'p>(policy: &'p Policy, cluster: &str) -> Vec<&'p str> {
    let mut found: Vec<&str> = Vec::new();
    for gate in &policy.gates {
        if let Some(Fallback::Upstream { upstream, header }) = &gate.fallback
            && policy.upstream(*upstream).is_some_and(|upstream| upstream.cluster == cluster)
            && !found.contains(&header.as_str())
        {
            found.push(header);
        }
    }
    found
}

fn headers(name: &str, kind: &str, value: &str) -> Node {
    let kind = (kind != "Exact").then(|| text(kind));
    let header = object([("type", or_null(kind)), ("name", text(name)), ("value", text(value))]);
    object([("headers", list([header]))])
}

/// Returns the hosts that the route is for. Empty means all.
pub fn hostnames(policy: &Policy) -> Vec<String> {
    if policy.hosts.are_all() { Vec::new() } else { route::domains(policy) }
}

/// Reports hosts that an HTTPRoute cannot have.
fn host_problem(policy: &Policy) -> Option<Problem> {
    let hosts = hostnames(policy);
    let is_address = |host: &&String| host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    let message = match hosts.iter().find(is_address) {
        Some(host) => format!("{host:?}: an HTTPRoute has no IP address among its hostnames. Remove it"),
        None if hosts.len() > MAX_HOSTS => format!(
            "{} hostnames, and an HTTPRoute has at most {MAX_HOSTS}. A name of a Service stands for several. Divide the policy, or use a wildcard",
            hosts.len()
        ),
        None => return None,
    };
    Some(Problem { path: "hosts".to_owned(), message })
}

/// Reports releases that steer by what no rule of an HTTPRoute can read.
fn unroutable(policy: &Policy) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (index, release) in policy.releases.iter().enumerate() {
        let reason = match &release.steer {
            Steer::RandomValueHeader(_) => "an HTTPRoute picks among weights by chance, and not by a header",
            Steer::FilterState(_) => "an HTTPRoute cannot read filter state",
            Steer::Header(_) | Steer::ClusterHeader(_) | Steer::Baggage(_) => continue,
        };
        problems.push(Problem {
            path: format!("releases[{index}].steer"),
            message: format!("{reason}; allowed: header, clusterHeader, baggage"),
        });
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::super::backend::parse_backend;
    use super::*;
    use serde_json::json;

    fn release(steer: serde_json::Value) -> serde_json::Value {
        json!({"name": "reviews", "steer": steer, "versions": [
            {"name": "v1", "upstream": "one", "weight": 90, "default": true},
            {"name": "v2", "upstream": "two", "weight": 10}]})
    }

    fn policy(extra: serde_json::Value) -> (Node, Policy) {
        let mut policy = json!({
            "name": "reviews",
            "upstreams": {"one": {"cluster": "v1"}, "two": {"cluster": "v2"}},
            "releases": [release(json!({"header": "x-v"}))],
        });
        for (key, value) in extra.as_object().unwrap() {
            policy[key] = value.clone();
        }
        let node: Node = serde_json::from_value(policy).unwrap();
        let policy = Policy::from_document(&node).unwrap();
        (node, policy)
    }

    fn backends(clusters: &[&str]) -> Vec<Backend> {
        clusters.iter().map(|cluster| parse_backend(&format!("{cluster}={cluster}:80")).unwrap()).collect()
    }

    /// Returns the rules as JSON.
    fn rules(extra: serde_json::Value, clusters: &[&str]) -> Result<serde_json::Value, Vec<String>> {
        let (_, policy) = policy(extra);
        let rules = Rules::of(&policy, &backends(clusters), ("shop", "route"));
        rules
            .map(|rules| serde_json::to_value(rules.node()).unwrap())
            .map_err(|problems| problems.iter().map(Problem::to_string).collect())
    }

    #[test]
    fn each_version_has_a_rule_by_its_header_and_the_default_takes_the_rest() {
        let found = rules(json!({}), &["v1", "v2"]).unwrap();
        assert_eq!(found[0]["matches"], json!([{"path": {"type": "PathPrefix", "value": "/"}}]));
        assert_eq!(found[0]["backendRefs"], json!([{"name": "v1", "port": 80}]));
        assert_eq!(found[1]["matches"], json!([{"headers": [{"name": "x-v", "value": "v2"}]}]));
        assert_eq!(found[1]["backendRefs"], json!([{"name": "v2", "port": 80}]));
        assert_eq!(found.as_array().unwrap().len(), 2);
    }

    #[test]
    fn the_policy_gets_the_names_of_the_clusters_of_its_rules() {
        let (node, policy) = policy(json!({}));
        let backends = backends(&["v1", "v2"]);
        let rules = Rules::of(&policy, &backends, ("shop", "route")).unwrap();
        let renamed = Policy::from_document(&rules.renamed(&node)).unwrap();
        let clusters: Vec<&str> =
            renamed.upstreams.iter().map(|upstream| upstream.cluster.as_str()).collect();
        assert_eq!(clusters, ["httproute/shop/route/rule/0", "httproute/shop/route/rule/1"]);
    }

    #[test]
    fn the_rule_for_probes_comes_last_so_that_it_moves_no_cluster() {
        let probes = json!({"probes": {
            "liveness": {"path": "/livez"}, "readiness": {"path": "/readyz", "checks": [{"upstream": "one"}]},
            "drain": {"path": "/drainz"}, "status": {"path": "/statusz"}, "grpc": {"services": [""]}}});
        let found = rules(probes, &["v1", "v2"]).unwrap();
        let paths: Vec<&str> = found[2]["matches"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item["path"]["value"].as_str().unwrap())
            .collect();
        assert_eq!(paths, ["/livez", "/readyz", "/drainz", "/statusz", "/grpc.health.v1.Health/Check"]);
        assert_eq!(found[2]["backendRefs"], json!([{"name": "v1", "port": 80}]));
        assert_eq!(found.as_array().unwrap().len(), 3);
    }

    #[test]
    fn a_policy_of_probes_alone_takes_no_other_request() {
        let probes = json!({"releases": [], "probes": {"liveness": {"path": "/livez"}}});
        let found = rules(probes, &["v1", "v2"]).unwrap();
        let text = found.to_string();
        assert!(!text.contains("PathPrefix") && text.contains("/livez"), "{text}");
    }

    #[test]
    fn a_checked_upstream_that_no_request_goes_to_has_a_rule_that_nothing_matches() {
        let upstreams = json!({"upstreams": {
            "one": {"cluster": "v1"}, "two": {"cluster": "v2"}, "x-db": {"cluster": "db"}}});
        let found = rules(upstreams, &["v1", "v2", "db"]).unwrap();
        let header = &found[2]["matches"][0]["headers"][0];
        assert_eq!(
            (header["type"].as_str(), header["value"].as_str()),
            (Some("RegularExpression"), Some(NOTHING))
        );
    }

    #[test]
    fn headers_with_the_name_of_a_cluster_match_the_name_that_envoy_gateway_gives() {
        let cluster_header = json!({"releases": [release(json!({"clusterHeader": "x-c"}))]});
        let found = rules(cluster_header, &["v1", "v2"]).unwrap();
        let expected = json!([{"name": "x-c", "value": "httproute/shop/route/rule/1"}]);
        assert_eq!(found[1]["matches"][0]["headers"], expected);
        let gate = json!({
            "upstreams": {"one": {"cluster": "v1"}, "two": {"cluster": "v2"}, "x-static": {"cluster": "static"}},
            "gates": [{"upstream": "one", "fallback": {"upstream": "x-static", "clusterHeader": "x-f"}}]});
        let found = rules(gate, &["v1", "v2", "static"]).unwrap();
        let expected = json!([{"name": "x-f", "value": "httproute/shop/route/rule/2"}]);
        assert_eq!(found[2]["matches"][0]["headers"], expected);
    }

    #[test]
    fn what_no_rule_can_follow_is_refused_and_says_what_to_do() {
        let steer = |steer| rules(json!({"releases": [release(steer)]}), &["v1", "v2"]).unwrap_err();
        assert_eq!(
            steer(json!({"randomValueHeader": "x-r"})),
            [
                "releases[0].steer: an HTTPRoute picks among weights by chance, and not by a header; allowed: header, clusterHeader, baggage"
            ]
        );
        assert_eq!(
            steer(json!({"filterState": "envoy.string"})),
            [
                "releases[0].steer: an HTTPRoute cannot read filter state; allowed: header, clusterHeader, baggage"
            ]
        );
        assert_eq!(
            rules(json!({}), &["v1"]).unwrap_err(),
            ["upstreams.two.cluster: \"v2\": its Service is not known. Add --backend 'v2=SERVICE:PORT'"]
        );
    }

    #[test]
    fn more_clusters_than_a_route_has_rules_are_refused() {
        let names: Vec<String> = (0..17).map(|number| format!("c{number}")).collect();
        let upstreams: serde_json::Map<_, _> =
            names.iter().map(|name| (name.clone(), json!({"cluster": name}))).collect();
        let clusters: Vec<&str> = names.iter().map(String::as_str).collect();
        let extra = json!({"upstreams": upstreams, "releases": [], "gates": [{"upstream": "c0"}]});
        let problems = rules(extra, &clusters).unwrap_err();
        assert_eq!(problems.len(), 1);
        assert!(
            problems[0].contains("17 clusters need 17 rules, and an HTTPRoute has at most 16"),
            "{problems:?}"
        );
    }

    #[test]
    fn hosts_that_a_route_cannot_have_are_refused() {
        let hosts = |hosts: &[&str]| {
            let found = rules(json!({"hosts": hosts}), &["v1", "v2"]);
            found.err().map(|problems| problems.join(" "))
        };
        assert_eq!(hosts(&["www.example.com", "*.example.org"]), None);
        assert_eq!(
            hosts(&["10.0.0.1"]).as_deref(),
            Some("hosts: \"10.0.0.1\": an HTTPRoute has no IP address among its hostnames. Remove it")
        );
        let many: Vec<String> = (0..17).map(|number| format!("h{number}.example.com")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(hosts(&many).unwrap().starts_with("hosts: 17 hostnames, and an HTTPRoute has at most 16"));
    }

    #[test]
    fn two_releases_that_look_alike_are_refused() {
        let mut second = release(json!({"header": "x-v"}));
        second["name"] = json!("other");
        second["match"] = json!([{"uri": {"prefix": "/b"}}]);
        second["versions"][0]["upstream"] = json!("three");
        let extra = json!({
            "upstreams": {"one": {"cluster": "v1"}, "two": {"cluster": "v2"}, "three": {"cluster": "v3"}},
            "releases": [release(json!({"header": "x-v"})), second]});
        let problems = rules(extra, &["v1", "v2", "v3"]).unwrap_err();
        assert!(
            problems[0].starts_with("releases[1].steer: release other steers like release reviews"),
            "{problems:?}"
        );
    }

    #[test]
    fn a_cluster_of_your_own_route_keeps_its_name() {
        let own = json!({"upstreams": {
            "one": {"cluster": "httproute/shop/mine/rule/0"}, "two": {"cluster": "httproute/shop/mine/rule/1"}}});
        let (node, policy) = policy(own);
        let rules = Rules::of(&policy, &[], ("shop", "route")).unwrap();
        assert!(rules.is_empty());
        assert_eq!(rules.renamed(&node), node);
    }
}
