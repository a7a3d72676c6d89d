//! Decides when a gate admits requests although its upstream is not Ready.
//!
//! The policy enables two cases:
//!
//! - With `whenAllNotReady: forward` a gate fails open while no upstream that a gate guards is Ready.
//! - With `maxGatedPercent` only a share of these upstreams is gated at a time. Those that have been not
//!   Ready for the longest stay gated.
//!
//! An upstream that the operator forces to be not ready is always gated, because that is intended. It counts
//! towards the share.

use crate::policy::Policy;
use crate::policy::gate::{Fallback, Gate, WhenAllNotReady};
use crate::policy::upstream::UpstreamId;
use crate::readiness::{Admission, Readiness, UpstreamStatus};
use crate::value::code::CodeSpec;

/// The reason for which a gate fails open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "tool", derive(strum::EnumIter))]
pub enum FailOpen {
    /// No upstream that a gate guards is Ready.
    AllNotReady,
    /// The maximum number of upstreams is gated.
    MaxGated,
}

impl FailOpen {
    /// All reasons.
    pub const ALL: [FailOpen; 2] = [FailOpen::AllNotReady, FailOpen::MaxGated];

    /// Returns the code in logs, in metrics and in the response.
    pub fn code(self) -> &'static str {
        self.spec().code
    }

    /// Returns the code with its meaning.
    pub fn spec(self) -> CodeSpec {
        match self {
            FailOpen::AllNotReady => {
                const {
                    CodeSpec::new(
                        "all-not-ready",
                        OPEN,
                        "No upstream that a gate of the policy guards is ready, and the gate has `whenAllNotReady: forward`.",
                        "Find out why all of them are down at once: look at the checks' own path to them first.",
                    )
                }
            }
            FailOpen::MaxGated => {
                const {
                    CodeSpec::new(
                        "max-gated",
                        OPEN,
                        "`maxGatedPercent` of the gated upstreams are closed already, and they have been down for longer.",
                        "Mend the upstreams in the order of the log. Raise `maxGatedPercent` if more may be closed at once.",
                    )
                }
            }
        }
    }
}

/// Where the codes appear.
const OPEN: &str = "`reason` of `graygate_failed_open_requests_total`, log, `because` in `x-graygate-gate`";

/// Returns the reason for which a closed gate fails open, or `None` if it stays closed.
pub fn of_gate(policy: &Policy, gate: &Gate, readiness: &impl Readiness) -> Option<FailOpen> {
    let is_forced = |id| policy.upstream(id).is_some_and(|upstream| upstream.force == Some(false));
    if !policy.may_fail_open() || is_forced(gate.upstream) {
        return None;
    }
    // An upstream on its ramp no longer counts as closed for other gates. Its own gate, if it was failing
    // open, must not begin to refuse.
    let counts_as_closed = |id, status: &UpstreamStatus| {
        is_closed(status) || id == gate.upstream && status.held_back_since.is_some()
    };
    let mut closed = Vec::new();
    for id in policy.gated.iter().copied() {
        let status = readiness.status(id);
        if counts_as_closed(id, &status) {
            closed.push((!is_forced(id), status.held_back_since, id));
        }
    }
    if gate.when_all_not_ready == WhenAllNotReady::Forward && closed.len() == policy.gated.len() {
        return Some(FailOpen::AllNotReady);
    }
    // All workers must use the same order.
    closed.sort_unstable();
    let index = closed.iter().position(|(_, _, id)| *id == gate.upstream)?;
    (index >= policy.most_gated()).then_some(FailOpen::MaxGated)
}

/// Returns the upstreams with a gate that fails open now, each with the reason of its first such gate.
///
/// Gates with an available fallback are left out. That holds for an answer too, although a gRPC request
/// cannot get one.
pub fn upstreams(policy: &Policy, readiness: &impl Readiness) -> Vec<(UpstreamId, FailOpen)> {
    let mut open: Vec<(UpstreamId, FailOpen)> = Vec::new();
    for gate in &policy.gates {
        let has_fallback = match &gate.fallback {
            Some(Fallback::Upstream { upstream, .. }) => !is_closed(&readiness.status(*upstream)),
            Some(Fallback::Answer(_)) => true,
            None => false,
        };
        if !has_fallback
            && open.iter().all(|(id, _)| *id != gate.upstream)
            && is_closed(&readiness.status(gate.upstream))
            && let Some(why) = of_gate(policy, gate, readiness)
        {
            open.push((gate.upstream, why));
        }
    }
    open
}

/// Returns whether a gate keeps requests from the upstream. On a ramp some are admitted, so it does not.
fn is_closed(status: &UpstreamStatus) -> bool {
    matches!(status.admission, Admission::NotReady(_) | Admission::Trial(_))
}
