//! Why an upstream is as it is, for logs, metrics and replies.

use core::fmt;

use serde::{Deserialize, Serialize};

use super::check::CheckFailure;

/// Why an upstream is in its phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpstreamReason {
    /// Nothing is known yet; the policy says what to assume.
    Assumed,
    /// Enough checks passed.
    CheckPassed,
    /// Enough checks failed; this is how the last one did.
    CheckFailed(CheckFailure),
    /// So many responses failed in a row.
    ConsecutiveFailures(u32),
    /// So many requests in a row got no answer.
    LocalOriginFailures(u32),
    /// So large a share of the latest responses failed.
    FailureShare(Share),
    /// So large a share of the latest responses was slow.
    SlowShare(Share),
    /// The operator says so.
    Forced,
    /// Others are on trial: what a request is told that got no permit.
    OnTrial,
    /// Others go ahead: what a request is told that is not among them.
    OnRamp,
    /// The wait is over, a trial may begin.
    WaitOver,
    /// Enough trial requests succeeded.
    TrialPassed,
    /// All requests may go again.
    RampOver,
    /// A trial request failed.
    TrialFailed,
    /// A trial request got no answer.
    TrialUnanswered,
    /// What it was judged by is no longer in the policy.
    PolicyChanged,
}

/// So many of so many responses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// The bad ones.
    pub part: u32,
    /// All.
    pub all: u32,
}

impl UpstreamReason {
    /// The word in metrics and `response_code_details`.
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
    /// The code, with what more is known.
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
