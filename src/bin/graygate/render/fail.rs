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
            Direction::Inbound => "probes reach the app and get its own answers",
            Direction::Outbound => {
                "everybody gets the version of the route without a header, and no gate holds"
            }
            Direction::Gateway | Direction::Waypoint => {
                "probes go on by the routes, everybody gets the version of the route without a header, and no gate holds"
            }
        };
        match self {
            FailurePolicy::Open => format!(
                "{name}: while the module can't be fetched, or its VM has failed, requests pass as if there were no graygate: {consequence}."
            ),
            FailurePolicy::Reload => format!(
                "{name}: a new VM replaces one that has failed, for the requests that follow. While the module can't be fetched, each request is denied all the same. Use it once the module is sure to be there."
            ),
            FailurePolicy::Closed => format!(
                "{name}: better no answer than one without the policy. While the module can't be fetched, or its VM has failed, each request is denied, in the second case until the plugin changes or the proxy restarts."
            ),
        }
    }
}
