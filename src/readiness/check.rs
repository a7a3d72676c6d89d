//! Active checks: when the next one is due, and what the last ones said.

use core::fmt;

use serde::{Deserialize, Serialize};

use super::State;
use crate::policy::upstream::Check;
use crate::time::Time;

/// Consecutive results, as the kubelet counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checks {
    /// Passed in a row, since the last change of phase.
    pub passed: u32,
    /// Failed in a row.
    pub failed: u32,
    /// When the last one was started.
    pub started: Option<Time>,
}

impl Checks {
    /// Takes one result.
    pub fn record(&mut self, result: Result<(), CheckFailure>) {
        let (up, down) = match result {
            Ok(()) => (&mut self.passed, &mut self.failed),
            Err(_) => (&mut self.failed, &mut self.passed),
        };
        *up = up.saturating_add(1);
        *down = 0;
    }
}

/// How a check failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CheckFailure {
    /// The upstream answered with this status.
    Status(u16),
    /// There was no connection, or it ended before an answer.
    Unreachable,
    /// No answer within `timeoutSeconds`.
    TimedOut,
    /// The answer broke off, or was larger than the proxy buffers.
    Broken,
}

impl fmt::Display for CheckFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CheckFailure::Status(status) => write!(f, "status {status}"),
            CheckFailure::Unreachable => f.write_str("could not be reached"),
            CheckFailure::TimedOut => f.write_str("no answer in time"),
            CheckFailure::Broken => f.write_str("the answer broke off"),
        }
    }
}

/// What an HTTP answer to a check says.
///
/// The status rule is the kubelet's: 200 to 399 passes. `from_upstream` tells an upstream's own 503 or 504
/// from the one that the proxy makes up when there is no connection, or no answer in time.
pub fn judge(status: Option<u16>, from_upstream: bool) -> Result<(), CheckFailure> {
    match status {
        Some(200..=399) => Ok(()),
        Some(503) if !from_upstream => Err(CheckFailure::Unreachable),
        Some(504) if !from_upstream => Err(CheckFailure::TimedOut),
        Some(status) => Err(CheckFailure::Status(status)),
        None => Err(CheckFailure::Broken),
    }
}

/// Whether the next check is due at `now`, or comes due within the half tick that `slack` is: waiting for
/// the next tick would then miss by more.
pub fn is_due(state: &State, check: &Check, now: Time, slack: core::time::Duration) -> bool {
    let soon = now + slack;
    let ready_for_first = soon.is_due(state.known_since + check.initial_delay, check.initial_delay);
    let next =
        state.checks.started.is_none_or(|started| soon.is_due(started + check.period, check.period + slack));
    ready_for_first && next
}
