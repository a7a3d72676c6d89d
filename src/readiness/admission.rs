//! The part of an upstream's state that decisions use.

use super::permit::Permit;
use super::reason::UpstreamReason;
use crate::policy::upstream::UpstreamId;
use crate::value::date::Date;
use crate::value::lifecycle::Lifecycle;
use crate::value::time::{Time, millis};

/// What a worker knows at the moment of a request.
pub trait Readiness {
    /// Returns what a request that needs the upstream may do. The worker may record that a request needs it.
    fn admission(&mut self, upstream: UpstreamId) -> Admission;

    /// Returns a permit for this request if the upstream is on trial and has a lease left.
    fn lend_permit(&mut self, upstream: UpstreamId) -> Option<Permit>;

    /// Returns the status of the upstream, for a request that only asks for it.
    fn status(&self, upstream: UpstreamId) -> UpstreamStatus;

    /// Returns whether this proxy has started and whether it drains.
    fn lifecycle(&self) -> Lifecycle;

    /// Returns the time by the clock that never jumps.
    fn now(&self) -> Time;

    /// Returns the date by the wall clock.
    fn date(&self) -> Date;

    /// Returns a random number, which stays the same while one request is decided on. A request that a ramp
    /// admits is then admitted wherever it needs the upstream.
    fn random(&mut self) -> u64;
}

/// The status of an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpstreamStatus {
    /// What a request that needs it may do.
    pub admission: Admission,
    /// The time since which requests have been kept from it. On trial and on a ramp that is some of the
    /// requests. `None` while all are admitted.
    pub held_back_since: Option<Time>,
    /// The earliest time at which a request may be admitted, if that is known.
    pub until: Option<Time>,
    /// The time of the last check result, passed or failed.
    pub last_result_at: Option<Time>,
    /// Whether enough checks have passed to prove it Ready. An upstream without checks counts as verified
    /// unless it is NotReady.
    pub verified: bool,
}

impl UpstreamStatus {
    /// Returns the status of an upstream of which nothing is known. It admits all requests.
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

/// Returns whether a ramp from `from` to `until` admits a request with this random number at `now`.
pub fn is_admitted_on_ramp(from: Time, until: Time, now: Time, random: u64) -> bool {
    let elapsed = millis(now.since(from));
    let whole = millis(until.since(from));
    now >= until || random % whole.max(1) < elapsed
}

/// What a request that needs an upstream may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It is admitted.
    Ready,
    /// It is not admitted.
    NotReady(UpstreamReason),
    /// It is admitted if it gets a permit.
    Trial(UpstreamReason),
    /// It is admitted if it is in the share, which rises in a straight line from none to all.
    Ramp {
        /// The time at which the share begins to rise.
        from: Time,
        /// The time from which all requests are admitted.
        until: Time,
        /// The reason for requests that are not admitted.
        reason: UpstreamReason,
    },
}

impl Admission {
    /// Returns the reason for which some or all requests are not admitted.
    pub fn reason(self) -> Option<UpstreamReason> {
        match self {
            Admission::Ready => None,
            Admission::NotReady(reason) | Admission::Trial(reason) | Admission::Ramp { reason, .. } => {
                Some(reason)
            }
        }
    }
}
