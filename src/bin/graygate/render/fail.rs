//! What happens to requests while the module is missing or its VM has failed.

use clap::ValueEnum;

use super::options::ManifestKind;
use super::version::IstioVersion;
use crate::istio::direction::Direction;

/// The value of `--fail`. The comments on its variants are the text of `--help`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FailurePolicy {
    /// Requests pass as if there were no filter
    Open,
    /// A new VM replaces one that failed
    Reload,
    /// Requests are refused
    Closed,
}

impl FailurePolicy {
    /// Returns the `failStrategy` of a WasmPlugin or TrafficExtension.
    pub fn strategy(self) -> &'static str {
        match self {
            FailurePolicy::Open => "FAIL_OPEN",
            FailurePolicy::Reload => "FAIL_RELOAD",
            FailurePolicy::Closed => "FAIL_CLOSE",
        }
    }

    /// Returns the `failure_policy` of Envoy's own configuration.
    pub fn policy(self) -> &'static str {
        match self {
            FailurePolicy::Open => "FAIL_OPEN",
            FailurePolicy::Reload => "FAIL_RELOAD",
            FailurePolicy::Closed => "FAIL_CLOSED",
        }
    }

    /// Returns the first version of Istio that supports it, in a plugin or in an EnvoyFilter.
    pub fn since(self, is_plugin: bool) -> IstioVersion {
        match (self, is_plugin) {
            (FailurePolicy::Reload, true) => IstioVersion::FAIL_RELOAD,
            (FailurePolicy::Reload, false) => IstioVersion::FAILURE_POLICY,
            _ => IstioVersion::OLDEST,
        }
    }

    /// Explains the choice, for the comment above the manifest.
    pub fn reason(self, direction: Direction, kind: ManifestKind) -> String {
        let name = if kind == ManifestKind::Envoyfilter { self.policy() } else { self.strategy() };
        let consequence = match direction {
            Direction::Inbound => "probes reach the app, which answers them itself",
            Direction::Outbound => {
                "all users get the version of the route without a header, and gates have no effect"
            }
            Direction::Gateway | Direction::Waypoint => {
                "probes follow the routes, all users get the version of the route without a header, and gates have no effect"
            }
        };
        match self {
            FailurePolicy::Open => format!(
                "{name}: while the module cannot be fetched, or its VM has failed, requests pass as if the filter were absent: {consequence}."
            ),
            FailurePolicy::Reload => format!(
                "{name}: a new VM replaces one that has failed, for the requests that follow. While the module cannot be fetched, every request is still denied. Use it once every proxy is sure to get the module."
            ),
            FailurePolicy::Closed => format!(
                "{name}: while the module cannot be fetched, every request is denied. After its VM has failed, every request is denied until the plugin changes or the proxy restarts."
            ),
        }
    }
}
