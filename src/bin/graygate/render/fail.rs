//! What becomes of requests while the module is not there or its VM has failed.

use clap::ValueEnum;

use super::options::ManifestKind;
use super::version::IstioVersion;
use crate::istio::direction::Direction;

/// One way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Fail {
    /// They pass as if there were no filter
    Open,
    /// A VM that failed is made anew
    Reload,
    /// None passes
    Closed,
}

impl Fail {
    /// `failStrategy` of a WasmPlugin.
    pub fn strategy(self) -> &'static str {
        match self {
            Fail::Open => "FAIL_OPEN",
            Fail::Reload => "FAIL_RELOAD",
            Fail::Closed => "FAIL_CLOSE",
        }
    }

    /// `failure_policy` of Envoy's own configuration.
    pub fn policy(self) -> &'static str {
        match self {
            Fail::Open => "FAIL_OPEN",
            Fail::Reload => "FAIL_RELOAD",
            Fail::Closed => "FAIL_CLOSED",
        }
    }

    /// The first release of Istio that has it, in a plugin or else in an EnvoyFilter.
    pub fn since(self, plugin: bool) -> IstioVersion {
        match (self, plugin) {
            (Fail::Reload, true) => IstioVersion::FAIL_RELOAD,
            (Fail::Reload, false) => IstioVersion::FAILURE_POLICY,
            _ => IstioVersion::OLDEST,
        }
    }

    /// Why it is so, for the head of the manifest.
    pub fn reason(self, direction: Direction, kind: ManifestKind) -> String {
        let word = if kind == ManifestKind::Envoyfilter { self.policy() } else { self.strategy() };
        let without = match direction {
            Direction::Inbound => "probes reach the app and get its own answers",
            Direction::Outbound => {
                "everybody gets the version of the route without a header, and no gate holds"
            }
            Direction::Gateway | Direction::Waypoint => {
                "probes go on by the routes, everybody gets the version of the route without a header, and no gate holds"
            }
        };
        match self {
            Fail::Open => format!(
                "{word}: while the module can't be fetched, or its VM has failed, requests pass as if there were no graygate: {without}."
            ),
            Fail::Reload => format!(
                "{word}: a VM that has failed is made anew for the requests that follow. It does not cover a module that can't be fetched: then each request is denied all the same. Use it once the module is sure to be there."
            ),
            Fail::Closed => format!(
                "{word}: better no answer than one without the policy. While the module can't be fetched, or its VM has failed, each request is denied, in the second case until the plugin changes or the proxy restarts."
            ),
        }
    }
}
