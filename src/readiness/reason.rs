//! The reasons of an upstream's phase, for logs, metrics and replies.

use core::fmt;

use serde::{Deserialize, Serialize};

use super::check::CheckFailure;

/// The reason for which an upstream is in its phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpstreamReason {
    /// Nothing is known yet, so the policy's `assume` applies.
    Assumed,
    /// Enough checks passed.
    CheckPassed,
    /// Enough checks failed. The last one failed like this.
    CheckFailed(CheckFailure),
    /// This many responses failed in a row.
    ConsecutiveFailures(u32),
    /// This many requests in a row got no response.
    LocalOriginFailures(u32),
    /// This share of the responses in the window failed.
    FailureShare(Share),
    /// This share of the responses in the window was slow.
    SlowShare(Share),
    /// The operator's `force` applies.
    Forced,
    /// Other requests are on trial. Given to a request that got no permit.
    OnTrial,
    /// The upstream is on a ramp. Given to a request that is not in the share.
    OnRamp,
    /// The wait is over, so a trial may begin.
    WaitOver,
    /// Enough trial requests succeeded.
    TrialPassed,
    /// The ramp ended, so all requests are admitted again.
    RampOver,
    /// A trial request failed.
    TrialFailed,
    /// A trial request got no response.
    TrialUnanswered,
    /// The policy no longer has the breaker that began the phase.
    PolicyChanged,
}

/// A share of the responses in a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// The number of bad responses.
    pub part: u32,
    /// The number of all responses.
    pub all: u32,
}

impl UpstreamReason {
    /// Returns the code in metrics and in `response_code_details`.
    pub fn code(self) -> &'static str {
        match self {
            UpstreamReason::Assumed => "assumed",
            UpstreamReason::CheckPassed => "check-passed",
            UpstreamReason::CheckFailed(_) => "check-failed",
            UpstreamReason::ConsecutiveFailures(_) => "consecutive-failures",
            UpstreamReason::LocalOriginFailures(_) => "local-origin-failures",
            UpstreamReason::FailureShare(_) => "failure-share",
            UpstreamReason::SlowShare(_) => "slow-share",
            UpstreamReason::Forced => "forced",
            UpstreamReason::OnTrial => "on-trial",
            UpstreamReason::OnRamp => "on-ramp",
            UpstreamReason::WaitOver => "wait-over",
            UpstreamReason::TrialPassed => "trial-passed",
            UpstreamReason::RampOver => "ramp-over",
            UpstreamReason::TrialFailed => "trial-failed",
            UpstreamReason::TrialUnanswered => "trial-unanswered",
            UpstreamReason::PolicyChanged => "policy-changed",
        }
    }
}

impl fmt::Display for UpstreamReason {
    /// Writes the code, followed by the details of the reason if there are any.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UpstreamReason::CheckFailed(failure) => write!(f, "{}: {failure}", self.code()),
            UpstreamReason::ConsecutiveFailures(count) | UpstreamReason::LocalOriginFailures(count) => {
                write!(f, "{}: {count}", self.code())
            }
            UpstreamReason::FailureShare(Share { part, all })
            | UpstreamReason::SlowShare(Share { part, all }) => {
                write!(f, "{}: {part} of {all}", self.code())
            }
            _ => f.write_str(self.code()),
        }
    }
}
