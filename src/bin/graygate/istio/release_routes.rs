//! Checks that the routes of a set lead each version of a release to its cluster.
//!
//! The check follows a request of each version through the routes, as Istio would: the first route that takes it decides.
//! What is known of the request is what the filter writes, the release's `match`, and the proxies that send it.

use graygate::policy::Policy;
use graygate::policy::document::Node;
use graygate::policy::reader::segment;
use graygate::policy::release::steer::Steer;
use graygate::policy::release::version::Version;

use super::cluster::ServiceCluster;
use super::direction::{self, Direction};
use super::findings::Findings;
use super::host_condition::HostCondition;
use super::patched_release;
use super::placed_release::{PlacedRelease, Proxies};
use super::route::RouteTable;
use super::route_walk::{Traveler, Walked, request};
use super::routing::Routing;
use crate::tree::{get, items};

/// Checks the routes of all releases of a policy. `start` begins each line with the file, the resource and the path to the
/// policy. `resource` names the resource in lines about other resources. A release with one of the `wrong` clusters is left
/// out, as its routes would be held against a mistake.
pub fn check(
    document: &Node,
    policy: &Policy,
    proxies: Proxies<'_>,
    (routing, wrong): (&Routing<'_>, &[String]),
    (start, resource): (&str, &str),
    findings: &mut Findings,
) {
    let nodes = items(get(document, &["releases"]));
    for (index, (release, node)) in policy.releases.iter().zip(nodes).enumerate() {
        let start = format!("{start}.releases[{index}]");
        let mut clusters = Vec::new();
        for version in &release.versions {
            let upstream = policy.name_of(version.upstream);
            if let Some(why) = direction::wrong_direction(proxies.direction, &version.cluster) {
                let path = format!("upstreams{}.cluster", segment("upstreams", upstream));
                findings.problem(format!(
                    "{start}: version {}: {path}: {:?}: {why}",
                    version.name, version.cluster
                ));
            }
            clusters.extend(ServiceCluster::parse(&version.cluster));
        }
        if release.versions.iter().any(|version| wrong.contains(&version.cluster)) {
            continue;
        }
        let other = release.versions.iter().find(|version| ServiceCluster::parse(&version.cluster).is_none());
        if let Some(version) = other {
            findings.note(format!(
                "{start}: its routes were not checked: cluster {:?} of version {} is none of Istio's for a service",
                version.cluster, version.name
            ));
            continue;
        }
        let mut placed = PlacedRelease {
            release,
            clusters,
            alternatives: items(get(node, &["match"])),
            hosts: HostCondition::read(document, node),
            proxies,
            routing,
            label: format!("release {} ({resource})", release.name),
            start,
        };
        if proxies.with_gateways && placed.is_of_gateways() {
            placed.proxies.direction = Direction::Gateway;
        }
        check_release(&placed, findings);
    }
}

fn check_release(placed: &PlacedRelease<'_>, findings: &mut Findings) {
    match &placed.release.steer {
        steer @ (Steer::Header(_) | Steer::Baggage(_)) => {
            let header = steer.written_header().unwrap_or_default();
            for table in placed.tables(Some(header), findings) {
                check_table(placed, table, header, findings);
            }
        }
        Steer::ClusterHeader(header) => patched_release::check_cluster_header(placed, header, findings),
        Steer::RandomValueHeader(header) => patched_release::check_weights(placed, header, findings),
        Steer::FilterState(object) => findings.note(format!(
            "{}.steer: its routes were not checked: no resource of Istio reads the filter state {object}",
            placed.start
        )),
    }
}

/// Returns values that the filter may write for a version: alone, and beside what others have in `baggage`.
fn written(placed: &PlacedRelease<'_>, version: &Version) -> Vec<String> {
    match placed.release.steer.member() {
        Some(key) => {
            let member = format!("{key}={}", version.name);
            vec![member.clone(), format!("{key}-id=1;p=2, {member};p=3 ,\tid={}", version.name)]
        }
        None => vec![version.name.clone()],
    }
}

/// Follows the requests of each version through the routes, and reports those that go elsewhere.
fn check_table(placed: &PlacedRelease<'_>, table: &RouteTable<'_>, header: &str, findings: &mut Findings) {
    let whole = [None];
    let alternatives: Vec<Option<&Node>> = placed.alternatives.iter().map(Some).collect();
    let alternatives = if alternatives.is_empty() { &whole[..] } else { &alternatives[..] };
    let values: Vec<Vec<String>> = placed.versions().map(|(version, _)| written(placed, version)).collect();
    let mut walks = Vec::new();
    for ((version, cluster), values) in placed.versions().zip(&values) {
        for alternative in alternatives {
            let request = request(placed, header, values, *alternative);
            walks.push((version, cluster, request, Walked::through(&table.routes, &request)));
        }
    }
    let traveler = |version, cluster, request| Traveler { placed, table, header, version, cluster, request };
    // A route that is to blame for one version is not reported again for another.
    let mut blamed: Vec<&str> = Vec::new();
    for (version, cluster, request, walked) in &walks {
        blamed.extend(traveler(version, cluster, request).report_end(walked, findings));
    }
    for (version, cluster, request, walked) in &walks {
        traveler(version, cluster, request).report_detours(walked, &blamed, findings);
    }
}
