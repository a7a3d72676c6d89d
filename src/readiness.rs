//! What a proxy knows about an upstream, and how that changes.
//!
//! ```text
//!            enough checks or responses failed:
//!            in a row, or as a share of the window
//!   Ready ───────────────────────────────────────▶ NotReady ◀──────────┐
//!     ▲ ▲                                           │    │             │ a trial request or
//!     │ └── successThreshold checks passed ─────────┘    │ wait over   │ enough checks failed
//!     │                                                  ▼             │
//!     └──── trial.successes requests succeeded ──────── Trial ─────────┘
//! ```
//!
//! If the policy sets `rampOver`, both ways back lead over a Ramp. On a Ramp a rising share of the requests
//! is admitted. In all other respects it counts as Ready.
//!
//! # Checks
//!
//! Checks follow the kubelet, which compares consecutive results with thresholds.
//!
//! - A check that could not be sent has no result.
//! - Passed checks count from the last change of phase on. They end any NotReady and any Trial, except in two
//!   cases. If responses fail again with no healthy time in between, the checks do not see what is wrong.
//!   Only a trial then ends what the responses began. A wait that the upstream asked for is never cut short.
//!
//! # Responses
//!
//! A response counts only in the phase in which its request was sent. A later one shows the past, so it is
//! dropped. So is a check that started in an earlier generation. If missing responses have a separate
//! threshold, they count towards that threshold only.
//!
//! # Trials
//!
//! A trial begins when the wait is over, unless the checks show that the upstream is down. A user's request
//! would then only repeat what the checks show.
//!
//! - A trial admits a few requests, each on a lease that lasts until its response has ended.
//! - A failure counts as soon as it is known. A success counts at the end, or when a lease expires whose
//!   response has begun.
//! - A lease that expires without a response counts as a failure. So does a response that is too slow, or a
//!   client that leaves after a long wait.
//! - A client that leaves sooner counts for nothing. Neither does one that has not sent its whole request,
//!   nor a request that never reached the upstream. Such requests are no evidence, and clients could
//!   otherwise keep the upstream out.
//! - An upstream that no gate and no version guards has no trial, because its traffic never stopped. When its
//!   wait is over it is Ready until its responses fail again.
//!
//! # Waits
//!
//! The wait doubles with each trip up to its maximum, and up to a tenth of jitter is added.
//!
//! - It starts over once the upstream has been Ready for as long as the longest wait.
//! - If failing responses asked for a longer backoff, the wait is that long, up to a maximum. Passed checks
//!   do not cut it short.
//!
//! # Shared state
//!
//! The whole proxy has one state for each upstream. Every method is a pure update of it. A worker reads the
//! state from the shared store, applies an update, and writes it back by compare-and-swap.

mod admission;
pub mod check;
pub mod evidence;
pub mod heard;
pub mod permit;
mod phase;
pub mod possible;
mod reason;
pub mod row;
mod state;
pub mod streak;
pub mod throttle;
mod trial;
pub mod window;

pub use admission::{Admission, Readiness, UpstreamStatus, is_admitted_on_ramp};
pub use permit::{LeaseId, Permit, PermitQuery};
pub use phase::{Phase, Transition, TrialLease};
pub use reason::{Share, UpstreamReason};
pub use state::{BreakerCounts, UpstreamState};
pub use trial::TrialOutcome;

#[cfg(test)]
mod tests;
