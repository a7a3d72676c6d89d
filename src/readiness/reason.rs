//! The reasons of an upstream's phase, for logs, metrics and replies.

use core::fmt;

use serde::{Deserialize, Serialize};

use super::check::CheckFailure;
use crate::value::code::CodeSpec;

/// The reason for which an upstream is in its phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "tool", derive(strum::EnumIter))]
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// The number of bad responses.
    pub part: u32,
    /// The number of all responses.
    pub all: u32,
}

/// Where a code appears that can be the reason of a transition and of a gate's reply.
const OF_PHASE: &str = "transitions, gates, probes";

/// Where a code appears that can only be the reason of a transition.
const OF_CHANGE: &str = "transitions";

/// Where `force` appears. It is not a transition.
const OF_FORCE: &str = "gates, probes";

/// Where a code appears that only a gate gives to a request.
const OF_GATES: &str = "gates";

impl UpstreamReason {
    /// Returns the code in metrics and in `response_code_details`.
    pub fn code(self) -> &'static str {
        self.spec().code
    }

    /// Returns the code with its meaning.
    pub fn spec(self) -> CodeSpec {
        match self {
            UpstreamReason::Assumed => {
                const {
                    CodeSpec::new(
                        "assumed",
                        OF_GATES,
                        "Nothing is known of the upstream yet, so `assume` applies.",
                        "If it stays, the checks get no result or no request reaches the upstream. Look at `graygate_checks_total` and the log.",
                    )
                }
            }
            UpstreamReason::CheckPassed => {
                const {
                    CodeSpec::new(
                        "check-passed",
                        OF_CHANGE,
                        "`successThreshold` checks in a row have passed.",
                        "",
                    )
                }
            }
            UpstreamReason::CheckFailed(_) => {
                const {
                    CodeSpec::new(
                        "check-failed",
                        OF_PHASE,
                        "`failureThreshold` checks in a row have failed.",
                        "Send the same request to the upstream by hand. The text after the code says how the last check failed.",
                    )
                }
            }
            UpstreamReason::ConsecutiveFailures(_) => {
                const {
                    CodeSpec::new(
                        "consecutive-failures",
                        OF_PHASE,
                        "`consecutiveFailures` responses in a row have failed.",
                        "Look at the upstream's own errors. A trial follows after `notReadyFor`.",
                    )
                }
            }
            UpstreamReason::LocalOriginFailures(_) => {
                const {
                    CodeSpec::new(
                        "local-origin-failures",
                        OF_PHASE,
                        "`consecutiveLocalOriginFailures` requests in a row got no response.",
                        "Look for connection errors and timeouts in the access log, and at the hosts in Envoy's `/clusters`.",
                    )
                }
            }
            UpstreamReason::FailureShare(_) => {
                const {
                    CodeSpec::new(
                        "failure-share",
                        OF_PHASE,
                        "The share of failures in the `window` has reached `failurePercent`.",
                        "Look at the upstream's own errors. A trial follows after `notReadyFor`.",
                    )
                }
            }
            UpstreamReason::SlowShare(_) => {
                const {
                    CodeSpec::new(
                        "slow-share",
                        OF_PHASE,
                        "The share of responses slower than `slowerThan` has reached `slowPercent`.",
                        "Look at the upstream's load. A trial follows after `notReadyFor`.",
                    )
                }
            }
            UpstreamReason::Forced => {
                const {
                    CodeSpec::new(
                        "forced",
                        OF_FORCE,
                        "The policy says `force: notReady`.",
                        "Remove `force` from the policy to end it.",
                    )
                }
            }
            UpstreamReason::OnTrial => {
                const {
                    CodeSpec::new(
                        "on-trial",
                        OF_GATES,
                        "Other requests are on trial, and this one got no permit.",
                        "The trial ends by itself. `trial.requests` and `trial.leaseFor` say how many go at a time, and for how long.",
                    )
                }
            }
            UpstreamReason::OnRamp => {
                const {
                    CodeSpec::new(
                        "on-ramp",
                        OF_GATES,
                        "The upstream is on its ramp, and this request is not in the share that goes.",
                        "The ramp ends after `trial.rampOver`.",
                    )
                }
            }
            UpstreamReason::WaitOver => {
                const {
                    CodeSpec::new(
                        "wait-over",
                        OF_CHANGE,
                        "The wait is over, so a trial begins. Without a gate or a release to let few requests through, the upstream is ready.",
                        "",
                    )
                }
            }
            UpstreamReason::TrialPassed => {
                const {
                    CodeSpec::new(
                        "trial-passed",
                        OF_CHANGE,
                        "`trial.successes` requests on trial have succeeded.",
                        "",
                    )
                }
            }
            UpstreamReason::RampOver => {
                const {
                    CodeSpec::new(
                        "ramp-over",
                        OF_CHANGE,
                        "The ramp has ended, so all requests are admitted again.",
                        "",
                    )
                }
            }
            UpstreamReason::TrialFailed => {
                const {
                    CodeSpec::new(
                        "trial-failed",
                        OF_PHASE,
                        "A request on trial has failed, so the next wait begins.",
                        "Look at the upstream's own errors. Each failed trial doubles the wait, up to `maxNotReadyFor`.",
                    )
                }
            }
            UpstreamReason::TrialUnanswered => {
                const {
                    CodeSpec::new(
                        "trial-unanswered",
                        OF_PHASE,
                        "A request on trial got no response within `trial.leaseFor`, `slowerThan` or `unansweredAfter`, whichever is shortest.",
                        "Look for requests that hang.",
                    )
                }
            }
            UpstreamReason::PolicyChanged => {
                const {
                    CodeSpec::new(
                        "policy-changed",
                        OF_CHANGE,
                        "A new policy no longer has the breaker that began the phase.",
                        "",
                    )
                }
            }
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
