//! Clusters that `render` adds for readiness checks, if Istio has no cluster that a check can be sent to.

use core::net::SocketAddr;

use graygate::policy::Policy;
use graygate::policy::check::CheckCall;
use graygate::policy::document::Node;

use super::envoy::cluster::{self, Endpoint};
use super::manifest::{self, Identity, Selection, patch};
use crate::istio::direction::Direction;
use crate::tree::{object, text};

/// A cluster to add, from `--callout CLUSTER=IP:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Callout {
    /// The cluster's name.
    pub cluster: String,
    /// The address of its only endpoint.
    pub address: SocketAddr,
}

/// Parses the value of `--callout`. The name of the cluster may have any character but `=`.
pub fn parse_callout(text: &str) -> Result<Callout, String> {
    let parts = text.split_once('=').filter(|(cluster, _)| !cluster.is_empty());
    let parsed = parts.and_then(|(cluster, address)| Some((cluster, address.parse::<SocketAddr>().ok()?)));
    let (cluster, address) = parsed
        .filter(|(_, address)| address.port() != 0)
        .ok_or("allowed: CLUSTER=IP:PORT, such as app=127.0.0.1:8080 or app=[::1]:8080")?;
    Ok(Callout { cluster: cluster.to_owned(), address })
}

/// Returns the EnvoyFilter that adds the clusters.
pub fn envoy_filter(
    identity: &Identity,
    selection: &Selection,
    direction: Direction,
    policies: &[&Policy],
    callouts: &[&Callout],
) -> Node {
    let patches = callouts.iter().map(|callout| {
        let matched = object([("context", text(direction.context()))]);
        patch("CLUSTER", matched, "ADD", cluster_of(callout, speaks_grpc(policies, &callout.cluster)))
    });
    manifest::envoy_filter(identity, selection, None, patches.collect())
}

/// Returns whether a policy checks this cluster by gRPC, which needs HTTP/2.
pub fn speaks_grpc(policies: &[&Policy], cluster: &str) -> bool {
    policies
        .iter()
        .flat_map(|policy| &policy.upstreams)
        .filter(|upstream| upstream.cluster == cluster)
        .any(|upstream| upstream.check.as_ref().is_some_and(|check| matches!(check.call, CheckCall::Grpc(_))))
}

fn cluster_of(callout: &Callout, http2: bool) -> Node {
    let (host, port) = (callout.address.ip().to_string(), callout.address.port());
    let endpoint = Endpoint { cluster: callout.cluster.clone(), host, port };
    cluster::cluster(&callout.cluster, &[&endpoint], http2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_callout_is_a_cluster_name_and_an_address_with_a_port() {
        let callout = parse_callout("outbound|80||a=[::1]:8080").unwrap();
        assert_eq!(
            (callout.cluster.as_str(), callout.address.to_string().as_str()),
            ("outbound|80||a", "[::1]:8080")
        );
        for text in ["app", "=127.0.0.1:80", "app=", "app=localhost:80", "app=127.0.0.1", "app=127.0.0.1:0"] {
            assert!(parse_callout(text).is_err(), "{text}");
        }
    }
}
