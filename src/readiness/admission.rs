//! What a request is told of an upstream: the part of its state that a decision goes by.

use super::permit::Permit;
use super::reason::UpstreamReason;
use crate::policy::upstream::UpstreamId;
use crate::value::lifecycle::Lifecycle;
use crate::value::time::{Time, millis};

/// What is known at the moment of the request.
pub trait Readiness {
    /// What a request that needs the upstream may do. It may be noted that a request needs it.
    fn admission(&mut self, upstream: UpstreamId) -> Admission;

    /// Asks to let this request through to an upstream that is on trial.
    fn lend_permit(&mut self, upstream: UpstreamId) -> Option<Permit>;

    /// What is known of the upstream, for a request that only asks.
    fn status(&self, upstream: UpstreamId) -> UpstreamStatus;

    /// Where this proxy stands between its start and its end.
    fn lifecycle(&self) -> Lifecycle;

    /// The proxy's clock.
    fn now(&self) -> Time;

    /// A random number, the same whenever it is asked for while one request is decided on: who is let in on a ramp is
    /// let in wherever the request needs the upstream.
    fn random(&self) -> u64;
}

/// What is known of an upstream, and what that rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpstreamStatus {
    /// What a request for it may do.
    pub admission: Admission,
    /// Since when requests have been kept from it, all or, on trial and on a ramp, some; nothing while none are.
    pub held_back_since: Option<Time>,
    /// Before when no request may go, if that is known.
    pub until: Option<Time>,
    /// When a check was last answered, well or badly.
    pub last_result_at: Option<Time>,
    /// Whether it is Ready by as many passed checks as that takes. One that has no checks is taken at its word,
    /// while nothing speaks against it.
    pub verified: bool,
}

impl UpstreamStatus {
    /// Nothing is known, and nothing speaks against it.
    pub fn unknown() -> Self {
        UpstreamStatus {
            admission: Admission::Ready,
            held_back_since: None,
            until: None,
            last_result_at: None,
            verified: true,
        }
    }
}

/// Whether a request of this random number is one of the share that may go ahead on a ramp.
pub fn is_let_in(from: Time, until: Time, now: Time, random: u64) -> bool {
    let (passed, whole) = (millis(now.since(from)), millis(until.since(from)));
    // A clock that was set back must not close what was opened.
    now.is_due(from, until) || random % whole.max(1) < passed
}

/// What a request for an upstream may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Go ahead.
    Ready,
    /// Don't go.
    NotReady(UpstreamReason),
    /// Go ahead with a permit.
    Trial(UpstreamReason),
    /// A share of the requests may go ahead, which rises in a straight line from none to all.
    Ramp {
        /// Since when.
        from: Time,
        /// Until when.
        until: Time,
        /// Why not all.
        reason: UpstreamReason,
    },
}
