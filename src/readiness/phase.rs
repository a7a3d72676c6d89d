//! The phases of an upstream, and the changes between them.

use serde::{Deserialize, Serialize};

use super::reason::UpstreamReason;
use crate::value::peers::Peers;
use crate::value::time::Time;

/// What an upstream's state allows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Every request is admitted.
    Ready,
    /// No request is admitted.
    NotReady {
        /// The time at which a trial may begin. `None` if only checks end it.
        until: Option<Time>,
    },
    /// Requests with a lease are admitted.
    Trial {
        /// The leases of requests in flight.
        leases: Vec<TrialLease>,
        /// The number of requests that have succeeded so far.
        successes: u32,
    },
    /// A rising share of the requests is admitted.
    Ramp {
        /// The time from which all requests are admitted.
        until: Time,
    },
}

impl Phase {
    /// Returns the name in logs and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Phase::Ready => "ready",
            Phase::NotReady { .. } => "not-ready",
            Phase::Trial { .. } => "trial",
            Phase::Ramp { .. } => "ramp",
        }
    }
}

/// The lease of one request that was admitted on trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrialLease {
    pub(super) id: u64,
    pub(super) from: Time,
    pub(super) until: Time,
    /// Whether a part of the request is still to come.
    pub(super) is_part: bool,
    /// The time from which the upstream had the whole request, so that only the upstream can delay it. `None`
    /// if that is not known, or if the request is no evidence.
    pub(super) sent_at: Option<Time>,
    /// Whether its response has begun without a failure.
    pub(super) response_begun: bool,
    /// The peers of the request. The host is unknown until the router has the request.
    pub(super) peers: Peers,
    /// How many more times the request has met a filter that needs the lease.
    pub(super) met_again: u8,
}

/// A change of phase, which is logged once and counted once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// The name of the phase that ended.
    pub from: &'static str,
    /// The name of the phase that began.
    pub to: &'static str,
    /// The reason.
    pub reason: UpstreamReason,
}
