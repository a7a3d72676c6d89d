//! Why an upstream is as it is, for logs, metrics and replies.

use core::fmt;

use serde::{Deserialize, Serialize};

use super::check::CheckFailure;

/// Why an upstream is in its phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
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

impl Reason {
    /// The word in metrics and `response_code_details`.
    pub fn code(self) -> &'static str {
        match self {
            Reason::Assumed => "assumed",
            Reason::CheckPassed => "check-passed",
            Reason::CheckFailed(_) => "check-failed",
            Reason::ConsecutiveFailures(_) => "consecutive-failures",
            Reason::LocalOriginFailures(_) => "local-origin-failures",
            Reason::FailureShare(_) => "failure-share",
            Reason::SlowShare(_) => "slow-share",
            Reason::Forced => "forced",
            Reason::OnTrial => "on-trial",
            Reason::OnRamp => "on-ramp",
            Reason::WaitOver => "wait-over",
            Reason::TrialPassed => "trial-passed",
            Reason::RampOver => "ramp-over",
            Reason::TrialFailed => "trial-failed",
            Reason::TrialUnanswered => "trial-unanswered",
            Reason::PolicyChanged => "policy-changed",
        }
    }
}

impl fmt::Display for Reason {
    /// The code, with what more is known.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::CheckFailed(failure) => write!(f, "{}: {failure}", self.code()),
            Reason::ConsecutiveFailures(count) | Reason::LocalOriginFailures(count) => {
                write!(f, "{}: {count}", self.code())
            }
            Reason::FailureShare(Share { part, all }) | Reason::SlowShare(Share { part, all }) => {
                write!(f, "{}: {part} of {all}", self.code())
            }
            _ => f.write_str(self.code()),
        }
    }
}
