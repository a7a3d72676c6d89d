//! The phases of an upstream, and the changes between them.

use serde::{Deserialize, Serialize};

use super::reason::UpstreamReason;
use crate::value::code::CodeSpec;
use crate::value::peers::Peers;
use crate::value::time::Time;

/// What an upstream's state allows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "tool", derive(strum::EnumIter))]
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

/// Where the name of a phase appears.
const OF_TRANSITIONS: &str = "`from` and `to` of `graygate_transitions_total`, log";

impl Phase {
    /// Returns the name in logs and metrics.
    pub fn name(&self) -> &'static str {
        self.spec().code
    }

    /// Returns the name with its meaning.
    pub fn spec(&self) -> CodeSpec {
        match self {
            Phase::Ready => {
                const { CodeSpec::new("ready", OF_TRANSITIONS, "Every request is admitted.", "") }
            }
            Phase::NotReady { .. } => {
                const {
                    CodeSpec::new(
                        "not-ready",
                        OF_TRANSITIONS,
                        "No request is admitted, and gates on the upstream are closed.",
                        "The reason says what made it so.",
                    )
                }
            }
            Phase::Trial { .. } => {
                const {
                    CodeSpec::new(
                        "trial",
                        OF_TRANSITIONS,
                        "`trial.requests` requests at a time are admitted, to find out whether the upstream serves again.",
                        "",
                    )
                }
            }
            Phase::Ramp { .. } => {
                const {
                    CodeSpec::new(
                        "ramp",
                        OF_TRANSITIONS,
                        "A share of the requests is admitted that rises over `trial.rampOver`.",
                        "",
                    )
                }
            }
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
