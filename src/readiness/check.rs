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
    /// Whether the last one could not be sent: known to all, so that it is said once.
    pub unsent: bool,
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
    let ready_for_first = soon.is_due(state.known_since, state.known_since + check.initial_delay);
    let next = state.checks.started.is_none_or(|started| soon.is_due(started, started + check.period));
    ready_for_first && next
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::*;
    use crate::policy::Policy;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const MS: Duration = Duration::from_millis(1);

    /// A state first known at 100 s, with its check: every 10 s after a delay of 5 s.
    fn state(started: Option<u64>) -> (State, Check) {
        let text = br#"{"name":"p","upstreams":{"a":{"cluster":"a","readinessProbe":
            {"httpGet":{},"initialDelaySeconds":5,"periodSeconds":10}}}}"#;
        let upstream = Policy::from_json(text).unwrap().upstreams.remove(0);
        let mut state = State::new(&upstream, Time::from_millis(100_000));
        state.checks.started = started.map(Time::from_millis);
        (state, upstream.check.unwrap())
    }

    /// Whether a check is due, by the time in milliseconds.
    fn due(started: Option<u64>, now: u64, slack: Duration) -> bool {
        let (state, check) = state(started);
        is_due(&state, &check, Time::from_millis(now), slack)
    }

    #[test]
    fn the_first_check_waits_for_the_initial_delay() {
        assert!(!due(None, 104_999, Duration::ZERO));
        assert!(due(None, 105_000, Duration::ZERO));
        assert!(due(None, 999_000, Duration::ZERO));
    }

    #[test]
    fn a_period_runs_from_start_to_start() {
        assert!(!due(Some(105_000), 114_999, Duration::ZERO));
        assert!(due(Some(105_000), 115_000, Duration::ZERO));
    }

    #[test]
    fn a_check_that_comes_due_within_half_a_tick_is_due() {
        assert!(!due(Some(105_000), 114_874, 125 * MS));
        assert!(due(Some(105_000), 114_875, 125 * MS));
        assert!(!due(Some(105_000), 105_000, 125 * MS));
    }

    #[test]
    fn a_clock_that_jumped_back_delays_no_check() {
        assert!(due(Some(105_000), 50_000, Duration::ZERO));
        assert!(due(None, 50_000, Duration::ZERO));
    }

    #[test]
    fn the_status_decides_as_with_the_kubelet() {
        for status in [200, 204, 301, 302, 399] {
            assert_eq!(judge(Some(status), true), Ok(()), "{status}");
        }
        for status in [100, 199, 400, 404, 429, 500, 503, 504, 599] {
            assert_eq!(judge(Some(status), true), Err(CheckFailure::Status(status)), "{status}");
        }
    }

    #[test]
    fn what_the_proxy_makes_up_is_told_from_what_the_upstream_says() {
        assert_eq!(judge(Some(503), false), Err(CheckFailure::Unreachable));
        assert_eq!(judge(Some(504), false), Err(CheckFailure::TimedOut));
        assert_eq!(judge(Some(500), false), Err(CheckFailure::Status(500)));
        assert_eq!(judge(None, false), Err(CheckFailure::Broken));
        assert_eq!(judge(None, true), Err(CheckFailure::Broken));
    }

    #[test]
    fn results_in_a_row_are_counted_and_saturate() {
        let mut checks = Checks { failed: u32::MAX, ..Checks::default() };
        checks.record(Err(CheckFailure::Broken));
        assert_eq!((checks.passed, checks.failed), (0, u32::MAX));
        checks.record(Ok(()));
        checks.record(Ok(()));
        assert_eq!((checks.passed, checks.failed), (2, 0));
        checks.record(Err(CheckFailure::Broken));
        assert_eq!((checks.passed, checks.failed), (0, 1));
    }
}
