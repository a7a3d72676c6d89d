//! Active checks. Determines when the next one is due, and counts and judges results.

pub mod connection;
mod failure;
pub mod grpc;
pub mod redirect;

use core::time::Duration;

use serde::{Deserialize, Serialize};

use crate::policy::check::{Check, HttpGet};
use crate::value::time::{Time, millis};
pub use failure::CheckFailure;
pub use redirect::CheckStep;
use redirect::CheckTarget;

/// The consecutive results of an upstream's checks, counted as the kubelet does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckHistory {
    /// The number of checks passed in a row since the last change of phase.
    pub passed: u32,
    /// The number of checks failed in a row.
    pub failed: u32,
    /// The time at which the last check started.
    pub started: Option<Time>,
    /// The time of the last result, passed or failed.
    pub last_result_at: Option<Time>,
    /// How the last check failed, if it did.
    pub last_failure: Option<CheckFailure>,
    /// Whether the last check could not be sent. All workers share it, so that it is logged once.
    pub unsent: bool,
    /// The time at which a request last needed the upstream, to within a quarter of a period.
    needed: Option<Time>,
    /// The share of the jitter that the next check gets, in parts of 65,536.
    spread: u16,
}

impl CheckHistory {
    /// Returns an empty history. `random` spreads the first check.
    pub fn new(random: u64) -> Self {
        Self { spread: spread(random), ..Self::default() }
    }

    /// Records that a check starts now. `random` spreads the next one.
    pub fn start(&mut self, now: Time, random: u64) {
        self.started = Some(now);
        self.spread = spread(random);
    }

    /// Counts one result.
    pub fn record(&mut self, result: Result<(), CheckFailure>) {
        self.last_failure = result.err();
        if result.is_ok() {
            self.passed = self.passed.saturating_add(1);
            self.failed = 0;
        } else {
            self.failed = self.failed.saturating_add(1);
            self.passed = 0;
        }
    }

    /// Returns whether the last check passed, and its result is not stale.
    pub fn is_passing(&self, check: &Check, now: Time) -> bool {
        self.failed == 0 && self.last_result_at.is_some_and(|at| now.since(at) <= check.stale_after())
    }

    /// Records that a request needs the upstream now. It skips the update if one was made within the last
    /// quarter of the shortest period, to spare the shared state.
    pub fn need(&mut self, check: &Check, now: Time) {
        if !check.periods.go_by_use() {
            return;
        }
        let is_recent = |recorded: Time| now < recorded + check.periods.shortest() / 4;
        if !self.needed.is_some_and(is_recent) {
            self.needed = Some(now);
        }
    }

    /// Returns whether the next check is due at `now`, or within `slack`.
    ///
    /// `slack` is half a tick, because waiting for the next tick would miss the due time by more. `ready` is
    /// whether the upstream is Ready. `known_since` is the time at which it was first known.
    pub fn is_due(&self, check: &Check, ready: bool, known_since: Time, now: Time, slack: Duration) -> bool {
        let soon = now + slack;
        let Some(started) = self.started else {
            let delay = check.initial_delay + self.jitter(check.initial_jitter);
            return soon >= known_since + delay;
        };
        let period = self.period(check, ready, known_since, now);
        let jitter = self.jitter(period * check.jitter_percent / 100);
        soon >= started + period + jitter
    }

    /// Returns the current period. If the last results point to a change of phase, it is the edge period.
    /// Otherwise it depends on the phase and on whether requests need the upstream.
    fn period(&self, check: &Check, ready: bool, known_since: Time, now: Time) -> Duration {
        let periods = &check.periods;
        let on_edge = if ready {
            (1..check.failure_threshold).contains(&self.failed)
        } else {
            (1..check.success_threshold).contains(&self.passed)
        };
        if on_edge {
            return periods.edge;
        }
        if !ready {
            return periods.not_ready;
        }
        let last_needed = self.needed.unwrap_or(known_since);
        let is_idle = now >= last_needed + periods.idle;
        if is_idle { periods.idle } else { periods.ready }
    }

    /// Returns the share of `jitter` that the next check gets.
    fn jitter(&self, jitter: Duration) -> Duration {
        let share = (u128::from(millis(jitter)) * u128::from(self.spread)) >> u16::BITS;
        Duration::from_millis(u64::try_from(share).unwrap_or(u64::MAX))
    }
}

fn spread(random: u64) -> u16 {
    u16::try_from(random >> 48).unwrap_or_default()
}

/// An HTTP response to a check.
#[derive(Clone, Copy, Debug)]
pub struct CheckResponse<'a> {
    /// The status, or `None` if the response broke off.
    pub status: Option<u16>,
    /// Whether the upstream sent it. The proxy generates a 502, 503 or 504 itself if the response is
    /// malformed, there is no connection, or no response in time.
    pub from_upstream: bool,
    /// The value of `location`. With several, the proxy joins them with commas.
    pub location: Option<&'a [u8]>,
}

/// Judges the response to a check that was redirected `redirects` times so far, last to `target`.
///
/// As with the kubelet, 200 to 399 passes after redirects on the same host were followed. If the policy lists
/// statuses, only these pass, and no redirect is followed.
pub fn judge(get: &HttpGet, target: &CheckTarget, redirects: u32, response: CheckResponse<'_>) -> CheckStep {
    let Some(status) = response.status else {
        return CheckStep::Result(Err(CheckFailure::Broken));
    };
    if !response.from_upstream {
        match status {
            503 => return CheckStep::Result(Err(CheckFailure::Unreachable)),
            504 => return CheckStep::Result(Err(CheckFailure::TimedOut)),
            500..=599 => return CheckStep::Result(Err(CheckFailure::Broken)),
            _ => {}
        }
    }
    let passes = match &get.expected {
        Some(expected) => expected.iter().any(|range| range.contains(&status)),
        None => {
            let location = response.location.filter(|location| !location.is_empty());
            if let (301 | 302 | 303 | 307 | 308, Some(location)) = (status, location) {
                return redirect::follow(&get.authority, target, redirects, status, location);
            }
            (200..=399).contains(&status)
        }
    };
    CheckStep::Result(if passes { Ok(()) } else { Err(CheckFailure::Status(status)) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Policy;
    use crate::policy::upstream::Upstream;
    use crate::readiness::{UpstreamReason, UpstreamState};
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const MS: Duration = Duration::from_millis(1);

    /// Returns an upstream with these fields in its check, first known at 100 s. `random` is for its jitter.
    fn state(fields: &str, random: u64) -> (UpstreamState, Upstream) {
        let text = format!(
            r#"{{"name":"p","upstreams":{{"a":{{"cluster":"a","readinessProbe":{{"httpGet":{{}},{fields}}}}}}}}}"#
        );
        let upstream = Policy::from_json(text.as_bytes()).unwrap().upstreams.remove(0);
        (UpstreamState::new(&upstream, Time::from_millis(100_000), random), upstream)
    }

    /// Returns when the next check is due, in milliseconds after `from`, which is also in milliseconds.
    fn due_after(state: &UpstreamState, upstream: &Upstream, from: u64) -> u64 {
        let check = upstream.check.as_ref().unwrap();
        let due = |millis: &u64| state.is_check_due(check, Time::from_millis(from + millis), Duration::ZERO);
        (0..4_000_000).step_by(50).find(due).unwrap()
    }

    const PLAIN: &str = r#""initialDelaySeconds":5,"periodSeconds":10"#;

    /// Returns whether a check is due at `now` that was last started at `started`, both in milliseconds.
    fn due(started: Option<u64>, now: u64, slack: Duration) -> bool {
        let (mut state, upstream) = state(PLAIN, 0);
        state.checks.started = started.map(Time::from_millis);
        state.is_check_due(upstream.check.as_ref().unwrap(), Time::from_millis(now), slack)
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
    fn jitter_is_added_to_the_first_delay_and_to_each_period() {
        let fields =
            r#""initialDelaySeconds":5,"initialJitterSeconds":4,"periodSeconds":10,"jitterPercent":20"#;
        for (random, first, next) in [(0, 5_000, 10_000), (1 << 63, 7_000, 11_000), (u64::MAX, 9_000, 12_000)]
        {
            let (mut state, upstream) = state(fields, random);
            assert_eq!(due_after(&state, &upstream, 100_000), first);
            state.checks.start(Time::from_millis(200_000), random);
            assert_eq!(due_after(&state, &upstream, 200_000), next);
        }
    }

    #[test]
    fn the_period_depends_on_the_phase_its_edge_and_idle_time() {
        let fields = r#""periodSeconds":10,"notReadyPeriodSeconds":2,"edgePeriodSeconds":1,"idlePeriodSeconds":60,
            "failureThreshold":2,"successThreshold":2"#;
        let (mut state, upstream) = state(fields, 0);
        let check = upstream.check.clone().unwrap();
        let start = |state: &mut UpstreamState, at: u64| state.checks.start(Time::from_millis(at), 0);
        let take = |state: &mut UpstreamState, at: u64, result| {
            let generation = state.generation;
            state.on_check(&upstream, Time::from_millis(at), generation, result);
        };
        start(&mut state, 100_000);
        assert_eq!(due_after(&state, &upstream, 100_000), 10_000);
        take(&mut state, 100_000, Err(CheckFailure::Broken));
        assert_eq!(due_after(&state, &upstream, 100_000), 1_000);
        take(&mut state, 100_000, Err(CheckFailure::Broken));
        assert_eq!(state.reason, UpstreamReason::CheckFailed(CheckFailure::Broken));
        assert_eq!(due_after(&state, &upstream, 100_000), 2_000);
        take(&mut state, 100_000, Ok(()));
        assert_eq!(due_after(&state, &upstream, 100_000), 1_000);
        take(&mut state, 100_000, Ok(()));
        assert_eq!(due_after(&state, &upstream, 100_000), 10_000);
        // No request has needed it for a minute.
        start(&mut state, 165_000);
        assert_eq!(due_after(&state, &upstream, 165_000), 60_000);
        state.checks.need(&check, Time::from_millis(166_000));
        assert_eq!(due_after(&state, &upstream, 166_000), 9_000);
    }

    #[test]
    fn a_need_is_recorded_at_most_once_a_quarter_of_a_period() {
        let (mut state, upstream) = state(r#""periodSeconds":10,"idlePeriodSeconds":60"#, 0);
        let check = upstream.check.unwrap();
        let mut needed_at = |millis| {
            state.checks.need(&check, Time::from_millis(millis));
            state.checks.needed
        };
        assert_eq!(needed_at(1_000), Some(Time::from_millis(1_000)));
        assert_eq!(needed_at(3_499), Some(Time::from_millis(1_000)));
        assert_eq!(needed_at(3_500), Some(Time::from_millis(3_500)));
    }

    /// Judges a response to a check with these fields.
    fn judged(fields: &str, status: Option<u16>, from_upstream: bool, location: Option<&str>) -> CheckStep {
        let (_, upstream) = state(fields, 0);
        let check = upstream.check.unwrap();
        let location = location.map(str::as_bytes);
        let target = CheckTarget::first(check.get());
        judge(check.get(), &target, 0, CheckResponse { status, from_upstream, location })
    }

    fn result(status: Option<u16>, from_upstream: bool) -> Result<(), CheckFailure> {
        match judged(PLAIN, status, from_upstream, None) {
            CheckStep::Result(result) => result,
            CheckStep::Follow(target) => panic!("{target:?}"),
        }
    }

    #[test]
    fn the_status_decides_as_with_the_kubelet() {
        for status in [200, 204, 301, 302, 399] {
            assert_eq!(result(Some(status), true), Ok(()), "{status}");
        }
        for status in [100, 199, 400, 404, 429, 500, 503, 504, 599] {
            assert_eq!(result(Some(status), true), Err(CheckFailure::Status(status)), "{status}");
        }
    }

    #[test]
    fn expected_statuses_replace_the_kubelets_rule_and_redirects_are_not_followed() {
        let fields = r#""expectedStatuses":[404,{"start":200,"end":202}]"#;
        for (status, passes) in
            [(200, true), (201, true), (202, false), (302, false), (404, true), (503, false)]
        {
            let expected = if passes { Ok(()) } else { Err(CheckFailure::Status(status)) };
            assert_eq!(
                judged(fields, Some(status), true, Some("/there")),
                CheckStep::Result(expected),
                "{status}"
            );
        }
        let unreachable = CheckStep::Result(Err(CheckFailure::Unreachable));
        assert_eq!(judged(r#""expectedStatuses":[503]"#, Some(503), false, None), unreachable);
    }

    #[test]
    fn a_redirect_with_a_location_is_followed() {
        for status in [301, 302, 303, 307, 308] {
            let followed = judged(PLAIN, Some(status), true, Some("/there"));
            assert!(
                matches!(&followed, CheckStep::Follow(target) if target.path == "/there"),
                "{followed:?}"
            );
            assert_eq!(judged(PLAIN, Some(status), true, None), CheckStep::Result(Ok(())));
            assert_eq!(judged(PLAIN, Some(status), true, Some("")), CheckStep::Result(Ok(())));
        }
        for status in [300, 304] {
            assert_eq!(judged(PLAIN, Some(status), true, Some("/there")), CheckStep::Result(Ok(())));
        }
    }

    #[test]
    fn a_response_that_the_proxy_generated_has_a_failure_of_its_own() {
        assert_eq!(result(Some(503), false), Err(CheckFailure::Unreachable));
        assert_eq!(result(Some(504), false), Err(CheckFailure::TimedOut));
        assert_eq!(result(Some(502), false), Err(CheckFailure::Broken));
        assert_eq!(result(None, false), Err(CheckFailure::Broken));
        assert_eq!(result(None, true), Err(CheckFailure::Broken));
    }

    #[test]
    fn consecutive_results_are_counted_and_saturate() {
        let mut checks = CheckHistory { failed: u32::MAX, ..CheckHistory::default() };
        checks.record(Err(CheckFailure::Broken));
        assert_eq!((checks.passed, checks.failed), (0, u32::MAX));
        checks.record(Ok(()));
        checks.record(Ok(()));
        assert_eq!((checks.passed, checks.failed), (2, 0));
        checks.record(Err(CheckFailure::Broken));
        assert_eq!((checks.passed, checks.failed), (0, 1));
    }
}
