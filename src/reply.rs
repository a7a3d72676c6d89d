//! A reply that the filter makes up, and what it is counted as.

use crate::policy::probe::Kind;
use crate::policy::upstream::UpstreamId;
use crate::readiness;

/// A reply made up by the filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The HTTP status.
    pub status: u32,
    /// Its headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: String,
    /// What Envoy's access log shows as `response_code_details`.
    pub details: String,
    /// What it is counted as.
    pub cause: Cause,
}

/// Why the filter replied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The request is a probe.
    Probe {
        /// Which one.
        kind: Kind,
        /// What it was told.
        passed: bool,
    },
    /// An upstream it needs is not Ready.
    Gate {
        /// Which one.
        upstream: UpstreamId,
        /// Why.
        reason: readiness::Reason,
    },
}
