//! When a gate lets requests through though its upstream is not Ready.
//!
//! In two cases, and only where the policy asks for them: while no upstream is Ready that a gate guards
//! (`whenAllNotReady: forward`), and beyond the share of these that may be gated at a time (`maxGatedPercent`).
//! Of more than that, those count as gated that have been not Ready the longest. An upstream that the operator
//! forces to be not ready is always gated, as that is no error of anybody's. It takes its part of the share.

use crate::policy::Policy;
use crate::policy::gate::{Fallback, Gate, WhenAllNotReady};
use crate::policy::upstream::UpstreamId;
use crate::readiness::{Admission, Readiness, UpstreamStatus};

/// Why a gate fails open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FailOpen {
    /// No upstream is Ready that a gate guards.
    AllNotReady,
    /// As many are gated as may be.
    MaxGated,
}

impl FailOpen {
    /// All of them.
    pub const ALL: [FailOpen; 2] = [FailOpen::AllNotReady, FailOpen::MaxGated];

    /// The word in logs, metrics and the response.
    pub fn code(self) -> &'static str {
        match self {
            FailOpen::AllNotReady => "all-not-ready",
            FailOpen::MaxGated => "max-gated",
        }
    }
}

/// Whether the gate, which is closed, fails open, and why.
pub fn of_gate(policy: &Policy, gate: &Gate, readiness: &impl Readiness) -> Option<FailOpen> {
    let forced = |id| policy.upstream(id).is_some_and(|upstream| upstream.force == Some(false));
    if !policy.may_fail_open() || forced(gate.upstream) {
        return None;
    }
    // One on its ramp is no longer closed to the others; but a gate that was open must not begin to refuse by it.
    let closed = |id, known: &UpstreamStatus| {
        is_closed(known) || id == gate.upstream && known.held_back_since.is_some()
    };
    let known = policy.gated.iter().map(|id| (*id, readiness.status(*id)));
    let closed = known.filter(|(id, known)| closed(*id, known));
    let mut closed: Vec<_> = closed.map(|(id, known)| (!forced(id), known.held_back_since, id)).collect();
    if gate.when_all_not_ready == WhenAllNotReady::Forward && closed.len() == policy.gated.len() {
        return Some(FailOpen::AllNotReady);
    }
    // In the same order on all workers.
    closed.sort_unstable();
    let index = closed.iter().position(|(_, _, id)| *id == gate.upstream)?;
    (index >= policy.most_gated()).then_some(FailOpen::MaxGated)
}

/// The upstreams that have a gate which fails open now, and why the first of these does. A gate with a fallback that is
/// to be had is none of them, though a gRPC request can't have an answer.
pub fn upstreams(policy: &Policy, readiness: &impl Readiness) -> Vec<(UpstreamId, FailOpen)> {
    let mut open: Vec<(UpstreamId, FailOpen)> = Vec::new();
    for gate in &policy.gates {
        let falls_back = match &gate.fallback {
            Some(Fallback::Upstream { upstream, .. }) => !is_closed(&readiness.status(*upstream)),
            Some(Fallback::Answer(_)) => true,
            None => false,
        };
        if !falls_back
            && open.iter().all(|(id, _)| *id != gate.upstream)
            && is_closed(&readiness.status(gate.upstream))
            && let Some(why) = of_gate(policy, gate, readiness)
        {
            open.push((gate.upstream, why));
        }
    }
    open
}

/// Whether a gate keeps requests from the upstream. On a ramp, where some are let in, it is on its way out.
fn is_closed(known: &UpstreamStatus) -> bool {
    matches!(known.admission, Admission::NotReady(_) | Admission::Trial(_))
}
