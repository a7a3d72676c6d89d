//! Checks the clusters that a policy names against the Services, routes and subsets of a set.

use graygate::policy::Policy;
use graygate::policy::reader::segment;
use graygate::policy::spelling::nearest;

use super::cluster::ServiceCluster;
use super::findings::Findings;
use super::host::{self, HostName};
use super::route::RouteTable;
use super::routing::Routing;
use super::subset::rules_for;

/// Reports hosts, ports and subsets of clusters that do not exist. `start` begins each line. `namespace` is the namespace
/// of the proxies, if they have one. Returns the clusters whose host is wrong.
pub fn check(
    policy: &Policy,
    routing: &Routing<'_>,
    start: &str,
    namespace: Option<&str>,
    findings: &mut Findings,
) -> Vec<String> {
    let mut wrong = Vec::new();
    let known = routing.known_hosts();
    let plain: Vec<String> = known.iter().map(HostName::plain).collect();
    let mut unseen: Vec<(String, Vec<String>)> = Vec::new();
    for upstream in &policy.upstreams {
        let Some(cluster) = ServiceCluster::parse(&upstream.cluster) else {
            continue;
        };
        let path = format!("{start}.upstreams{}.cluster", segment("upstreams", &upstream.name));
        if let Some(problem) = host_problem(&cluster, &known, &plain) {
            findings.problem(format!("{path}: {problem}"));
            wrong.push(upstream.cluster.clone());
            continue;
        }
        if let Some(near) = host::misspelt(cluster.host, &plain) {
            let line = format!(
                "{path}: \"{cluster}\": no resource in the set names {}; did you mean {near:?}?",
                cluster.host
            );
            if fits(&cluster, near, policy, routing) {
                findings.problem(line);
                wrong.push(upstream.cluster.clone());
                continue;
            }
            findings.note(line);
        }
        if let Some(ports) =
            routing.ports(cluster.host).filter(|ports| !ports.contains(&u32::from(cluster.port)))
        {
            let allowed: Vec<String> = ports.iter().map(u32::to_string).collect();
            findings.problem(format!(
                "{path}: {:?}: {} has no port {}; allowed: {}",
                upstream.cluster,
                cluster.host,
                cluster.port,
                allowed.join(", ")
            ));
        }
        if cluster.subset.is_empty() {
            continue;
        }
        let rules = rules_for(&routing.rules, cluster.host, namespace, routing.root);
        let Some(rule) = rules.first() else {
            match unseen.iter_mut().find(|(host, _)| host == cluster.host) {
                Some((_, subsets)) => subsets.push(cluster.subset.to_owned()),
                None => unseen.push((cluster.host.to_owned(), vec![cluster.subset.to_owned()])),
            }
            continue;
        };
        let subsets: Vec<&str> = rules.iter().flat_map(|rule| rule.subsets.iter().copied()).collect();
        if !subsets.contains(&cluster.subset) {
            let hint = nearest(cluster.subset, &subsets).map(|near| format!("; did you mean {near:?}?"));
            let allowed = if subsets.is_empty() { "none".to_owned() } else { subsets.join(", ") };
            findings.problem(format!(
                "{path}: {:?}: {} in {} has no subset {:?} of {}, so Istio makes no such cluster and requests for it get 503; allowed: {allowed}, or add the subset there{}",
                upstream.cluster,
                rule.object,
                rule.object.file,
                cluster.subset,
                cluster.host,
                hint.unwrap_or_default()
            ));
        }
    }
    for (host, mut subsets) in unseen {
        subsets.dedup();
        let (noun, verb) = if subsets.len() == 1 { ("subset", "was") } else { ("subsets", "were") };
        findings.note(format!(
            "{start}.upstreams: {noun} {} of {host} {verb} not checked: the set has no DestinationRule for it that these proxies use",
            subsets.join(", ")
        ));
    }
    wrong
}

/// Explains what is wrong with the host of a cluster, as far as the set tells.
fn host_problem(cluster: &ServiceCluster<'_>, known: &[HostName<'_>], plain: &[String]) -> Option<String> {
    let host = cluster.host;
    if known.iter().any(|name| name.text == host && host.contains('.')) {
        return None;
    }
    let named = ServiceCluster { host: "HOST", ..*cluster }.to_string();
    let cut = known.iter().zip(plain).find(|(name, plain)| {
        let text = host.strip_suffix(".svc").unwrap_or(host);
        let is_service = !name.text.contains('.') || name.text.contains(".svc.");
        is_service && (*plain == text || plain.split_once('.').is_some_and(|(name, _)| name == text))
    });
    if let Some((_, plain)) = cut {
        return Some(format!(
            "\"{cluster}\": Istio names clusters by the full name of a host; allowed: {}",
            named.replace("HOST", &format!("{plain}.svc.cluster.local"))
        ));
    }
    if !host.contains('.') {
        let full = format!("{host}.NAMESPACE.svc.cluster.local");
        return Some(format!(
            "\"{cluster}\": Istio names clusters by the full name of a host; allowed: {}",
            named.replace("HOST", &full)
        ));
    }
    None
}

/// Returns whether the set has what the cluster would be with this host: the same subset, or a cluster of the same policy.
/// Else the host may be of a service of its own, whose name only looks alike.
fn fits(cluster: &ServiceCluster<'_>, near: &str, policy: &Policy, routing: &Routing<'_>) -> bool {
    let is_near = |host: &HostName<'_>| host.plain() == near;
    let has_subset = |subset: &str| !subset.is_empty() && subset == cluster.subset;
    let mut rules = routing.rules.iter().filter(|rule| is_near(&rule.host));
    let mut destinations = routing.tables.iter().flat_map(RouteTable::destinations);
    let mut others = policy.upstreams.iter().filter_map(|upstream| ServiceCluster::parse(&upstream.cluster));
    rules.any(|rule| rule.subsets.iter().any(|subset| has_subset(subset)))
        || destinations.any(|destination| is_near(&destination.host) && has_subset(destination.subset))
        || others.any(|other| host::plain(other.host) == near)
}
