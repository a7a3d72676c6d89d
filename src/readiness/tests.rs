use core::time::Duration;

use super::check::CheckFailure;
use super::streak::Streak;
use super::*;
use crate::policy::check::Check;
use crate::policy::upstream::{Breaker, ConsecutiveFailures, Trial, Upstream};
use crate::value::hash;
use crate::value::response::{ResponseClass, Sample};
use crate::value::time::{Time, millis};
use ResponseClass::{Failure, Ignored, Success};

mod checks;
mod kubelet;
mod local_origin;
mod ramps;
mod retry_after;
mod shares;
mod trials;

const SECOND: Duration = Duration::from_secs(1);
const DOWN: Result<(), CheckFailure> = Err(CheckFailure::Status(500));

fn bare() -> Upstream {
    Upstream {
        name: "app".into(),
        cluster: "app".into(),
        check: None,
        breaker: None,
        assume_ready: true,
        force: None,
        guarded: true,
    }
}

/// Returns an upstream with checks and these thresholds.
fn checked(failures: u32, successes: u32) -> Upstream {
    let check = Check { failure_threshold: failures, success_threshold: successes, ..Check::every(SECOND) };
    Upstream { check: Some(check), ..bare() }
}

/// Returns an upstream that trips after this many failures in a row. It waits 1 s to 8 s, then admits three
/// requests at a time on trial.
fn judged(failures: u32) -> Upstream {
    let breaker = Breaker {
        consecutive_failures: Some(ConsecutiveFailures { limit: failures, is_default: false }),
        not_ready_for: SECOND,
        max_not_ready_for: 8 * SECOND,
        max_retry_after: 20 * SECOND,
        trial: Trial { requests: 3, successes: 2, lease_for: 30 * SECOND, ramp_over: Duration::ZERO },
        ..Breaker::default()
    };
    Upstream { breaker: Some(breaker), ..bare() }
}

fn checked_and_judged() -> Upstream {
    Upstream { check: checked(2, 2).check, ..judged(3) }
}

/// One upstream with a clock that the test moves.
struct Bench {
    upstream: Upstream,
    state: UpstreamState,
    now: Time,
    random: u64,
    ids: u64,
}

impl Bench {
    fn new(upstream: Upstream) -> Self {
        let now = Time::from_millis(1_000_000);
        Bench { state: UpstreamState::new(&upstream, now, 0), upstream, now, random: 0, ids: 0 }
    }

    /// Creates a bench whose upstream has just tripped.
    fn tripped(upstream: Upstream) -> Self {
        let mut bench = Bench::new(upstream);
        bench.trip();
        bench
    }

    /// Creates a bench whose upstream is on trial.
    fn on_trial(upstream: Upstream) -> Self {
        let mut bench = Bench::tripped(upstream);
        bench.after(SECOND);
        assert_eq!(bench.tick(), moved("not-ready", "trial", UpstreamReason::WaitOver));
        bench
    }

    fn after(&mut self, span: Duration) -> &mut Self {
        self.now = self.now + span;
        self
    }

    fn back_by(&mut self, span: Duration) -> &mut Self {
        self.now = Time::from_millis(self.now.as_millis() - millis(span));
        self
    }

    fn check(&mut self, result: Result<(), CheckFailure>) -> Option<Transition> {
        self.state.on_check(&self.upstream, self.now, self.state.generation, result)
    }

    /// Takes responses of one worker, by the letters of [`Streak::of`].
    fn respond(&mut self, responses: &str) -> Option<Transition> {
        let generation = self.state.generation;
        self.respond_late(generation, responses)
    }

    fn respond_late(&mut self, generation: u32, responses: &str) -> Option<Transition> {
        self.state.on_responses(
            &self.upstream,
            self.now,
            generation,
            &Streak::of(responses, self.now),
            self.random,
        )
    }

    fn trip(&mut self) {
        let failures = self.upstream.breaker.as_ref().unwrap().consecutive_failures.unwrap().limit;
        let transition = self.respond(&"F".repeat(failures as usize));
        assert_eq!(transition, moved("ready", "not-ready", UpstreamReason::ConsecutiveFailures(failures)));
    }

    fn tick(&mut self) -> Option<Transition> {
        self.state.on_tick(&self.upstream, self.now, self.random)
    }

    fn lend_permit(&mut self) -> Option<LeaseId> {
        let permit = self.lend(true)?;
        self.state.on_request_sent(&self.upstream, permit, self.now, 0);
        Some(permit)
    }

    /// Lends a permit to a request that the upstream does not have yet.
    fn lend_unsent(&mut self) -> Option<LeaseId> {
        self.lend(true)
    }

    fn lend(&mut self, is_whole: bool) -> Option<LeaseId> {
        self.ids += 1;
        let query = PermitQuery { id: self.ids, is_whole, ..PermitQuery::default() };
        self.state.lend_permit(&self.upstream, self.now, &query)
    }

    fn release_permit(&mut self, permit: LeaseId, outcome: TrialOutcome) -> Option<Transition> {
        self.state.release_permit(&self.upstream, self.now, permit, outcome, self.random)
    }

    /// Sends one request on trial, which gets this response.
    fn trial_response(&mut self, response: impl Into<Sample>) -> Option<Transition> {
        let permit = self.lend_permit().unwrap();
        self.release_permit(permit, TrialOutcome::Seen(response.into()))
    }

    fn phase(&self) -> &'static str {
        self.state.phase.name()
    }

    /// Returns how long the upstream stays NotReady.
    fn wait(&self) -> Duration {
        match self.state.phase {
            Phase::NotReady { until: Some(until) } => until.since(self.now),
            ref phase => panic!("{phase:?}"),
        }
    }
}

fn moved(from: &'static str, to: &'static str, reason: UpstreamReason) -> Option<Transition> {
    Some(Transition { from, to, reason })
}

mod initial_state {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn the_policys_assumption_applies_at_first() {
        let bench = Bench::new(checked(3, 1));
        assert_eq!((bench.phase(), bench.state.reason), ("ready", UpstreamReason::Assumed));
        let bench = Bench::new(Upstream { assume_ready: false, ..checked(3, 1) });
        assert_eq!((bench.phase(), bench.state.reason), ("not-ready", UpstreamReason::Assumed));
    }

    #[test]
    fn only_checks_end_an_assumed_not_ready() {
        let mut bench = Bench::new(Upstream { assume_ready: false, ..checked_and_judged() });
        assert_eq!(bench.after(3_600 * SECOND).tick(), None);
        assert_eq!(bench.check(Ok(())), None);
        assert_eq!(bench.check(Ok(())), moved("not-ready", "ready", UpstreamReason::CheckPassed));
    }

    #[test]
    fn an_upstream_without_checks_and_breaker_never_changes() {
        let mut bench = Bench::new(bare());
        let before = bench.state.clone();
        assert_eq!(bench.respond("FFFFFFFFFF"), None);
        assert_eq!(bench.check(DOWN), None);
        assert_eq!(bench.after(3_600 * SECOND).tick(), None);
        assert_eq!(bench.lend_permit(), None);
        assert_eq!(bench.state, before);
    }
}

mod responses {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn consecutive_failures_trip_exactly_at_the_threshold() {
        for threshold in [1, 2, 5, 100] {
            let mut bench = Bench::new(judged(threshold));
            for _ in 1..threshold {
                assert_eq!(bench.respond("F"), None);
            }
            assert_eq!(
                bench.respond("F"),
                moved("ready", "not-ready", UpstreamReason::ConsecutiveFailures(threshold))
            );
        }
    }

    #[test]
    fn a_success_resets_the_count_of_failures() {
        let mut bench = Bench::new(judged(3));
        assert_eq!(bench.respond("FFSFF"), None);
        assert_eq!(bench.respond("SFF"), None);
        assert_eq!(bench.respond(""), None);
        assert_eq!(bench.respond("F"), moved("ready", "not-ready", UpstreamReason::ConsecutiveFailures(3)));
    }

    #[test]
    fn failures_before_a_success_do_not_trip() {
        assert_eq!(Bench::new(judged(3)).respond("SFFFS"), None);
    }

    #[test]
    fn would_trip_agrees_with_on_responses() {
        for before in ["", "F", "FF", "SF", "FS"] {
            for piece in ["", "F", "FF", "FFF", "SFF", "FSF", "FFS", "SFFF"] {
                let mut bench = Bench::new(judged(3));
                bench.respond(before);
                let would = bench.state.would_trip(&bench.upstream, bench.now, &Streak::of(piece, bench.now));
                assert_eq!(would, bench.respond(piece).is_some(), "{before}|{piece}");
            }
        }
        assert!(!Bench::new(bare()).state.would_trip(
            &bare(),
            Time::from_millis(0),
            &Streak::of("FFFFFF", Time::from_millis(0))
        ));
    }

    #[test]
    fn responses_of_an_earlier_generation_are_dropped() {
        let mut bench = Bench::on_trial(judged(3));
        bench.trial_response(Success);
        assert_eq!(bench.trial_response(Success), moved("trial", "ready", UpstreamReason::TrialPassed));
        for earlier in 0..bench.state.generation {
            assert_eq!(bench.respond_late(earlier, "FFFFF"), None);
        }
        assert_eq!(bench.respond("FF"), None);
        assert_eq!(bench.respond("F"), moved("ready", "not-ready", UpstreamReason::ConsecutiveFailures(3)));
    }

    #[test]
    fn responses_count_only_while_the_upstream_is_ready() {
        let mut bench = Bench::tripped(judged(3));
        assert_eq!(bench.respond("FFFFF"), None);
        bench.after(SECOND).tick();
        assert_eq!(bench.respond("FFFFF"), None);
        assert_eq!(bench.phase(), "trial");
    }

    #[test]
    fn responses_do_not_end_a_not_ready() {
        let mut bench = Bench::tripped(judged(3));
        assert_eq!(bench.respond("SSSSSSSS"), None);
        assert_eq!(bench.phase(), "not-ready");
    }
}

mod policy_updates {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn removing_the_gate_ends_the_trial() {
        let mut bench = Bench::on_trial(judged(3));
        bench.upstream.guarded = false;
        assert_eq!(bench.tick(), moved("trial", "ready", UpstreamReason::WaitOver));
    }

    #[test]
    fn removing_the_breaker_ends_the_phase_that_it_began() {
        for mut bench in [Bench::tripped(judged(3)), Bench::on_trial(judged(3))] {
            let from = bench.phase();
            bench.upstream.breaker = None;
            assert_eq!(bench.tick(), moved(from, "ready", UpstreamReason::PolicyChanged));
        }
    }

    /// Waits and leases keep the settings under which they began.
    #[test]
    fn only_the_new_policy_judges_responses_seen_under_the_old_one() {
        let mut bench = Bench::new(judged(50));
        for _ in 0..9 {
            bench.state.merge(0, &Streak::of("FFFFF", bench.now));
        }
        assert_eq!((bench.tick(), bench.respond("FFFF")), (None, None));
        assert_eq!(bench.respond("F"), moved("ready", "not-ready", UpstreamReason::ConsecutiveFailures(50)));
        // Responses of an earlier phase are dropped.
        let before = bench.state.clone();
        bench.state.merge(0, &Streak::of("FFFFF", bench.now));
        assert_eq!(bench.state, before);
    }

    #[test]
    fn changed_times_do_not_apply_to_current_waits_and_leases() {
        let times = |span: Duration| {
            let mut upstream = judged(3);
            let breaker = upstream.breaker.as_mut().unwrap();
            (breaker.not_ready_for, breaker.max_not_ready_for) = (span, span);
            breaker.trial.lease_for = span;
            upstream
        };
        let (short, long) = (times(SECOND), times(60 * SECOND));
        let mut bench = Bench::tripped(long.clone());
        bench.upstream = short.clone();
        assert_eq!(bench.after(59 * SECOND).tick(), None);
        assert_eq!(bench.after(SECOND).tick(), moved("not-ready", "trial", UpstreamReason::WaitOver));
        bench.upstream = long;
        bench.lend_permit().unwrap();
        bench.upstream = short;
        assert_eq!(bench.after(59 * SECOND).tick(), None);
        assert_eq!(bench.after(SECOND).tick(), moved("trial", "not-ready", UpstreamReason::TrialUnanswered));
    }

    #[test]
    fn only_a_change_of_cluster_or_check_makes_it_another_upstream() {
        let digest = |upstream: &Upstream| crate::value::hash::digest(0, &upstream.identity());
        let before = checked_and_judged();
        let same = [
            Upstream { guarded: false, assume_ready: false, ..before.clone() },
            Upstream { check: checked(9, 9).check, ..before.clone() },
            Upstream { breaker: judged(9).breaker, ..before.clone() },
            Upstream { breaker: None, ..before.clone() },
        ];
        assert!(same.iter().all(|after| digest(after) == digest(&before)));
        let other = [
            Upstream { cluster: "other".into(), ..before.clone() },
            Upstream { check: None, ..before.clone() },
        ];
        assert!(other.iter().all(|after| digest(after) != digest(&before)));
    }
}

mod waits {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn waits_double_with_each_trip_up_to_the_maximum() {
        let mut bench = Bench::tripped(judged(3));
        for seconds in [1, 2, 4, 8, 8, 8] {
            assert_eq!(bench.wait(), seconds * SECOND);
            bench.after(seconds * SECOND).tick();
            bench.trial_response(Failure);
        }
    }

    #[test]
    fn waits_stay_at_the_maximum_after_any_number_of_trips() {
        let mut bench = Bench::tripped(judged(3));
        for trips in [31, 32, 33, u32::MAX - 1, u32::MAX] {
            bench.after(10 * SECOND).tick();
            bench.state.trips = trips;
            bench.trial_response(Failure);
            assert_eq!(bench.wait(), 8 * SECOND);
        }
    }

    #[test]
    fn waits_get_up_to_a_tenth_of_jitter() {
        let mut longest = Duration::ZERO;
        for random in (0..500).chain([u64::MAX, u64::MAX / 2]) {
            let mut bench = Bench::new(judged(3));
            bench.random = random;
            bench.trip();
            assert!((SECOND..=SECOND + SECOND / 10).contains(&bench.wait()), "{:?}", bench.wait());
            longest = longest.max(bench.wait());
        }
        assert_eq!(longest, SECOND + SECOND / 10);
    }

    #[test]
    fn waits_start_over_after_a_healthy_time_as_long_as_the_longest_wait() {
        for (healthy, next) in [(8_000, 1), (7_999, 4)] {
            let mut bench = Bench::on_trial(judged(3));
            bench.trial_response(Failure);
            bench.after(2 * SECOND).tick();
            bench.trial_response(Success);
            bench.trial_response(Success);
            bench.after(Duration::from_millis(healthy)).trip();
            assert_eq!(bench.wait(), next * SECOND, "{healthy}");
        }
    }

    /// Here the healthy time ended before another phase, not before the trip.
    #[test]
    fn waits_start_over_if_checks_ended_the_healthy_time() {
        let mut bench = Bench::tripped(checked_and_judged());
        bench.check(Ok(()));
        bench.check(Ok(()));
        bench.after(3_600 * SECOND);
        bench.check(DOWN);
        assert!(bench.check(DOWN).is_some());
        bench.check(Ok(()));
        assert!(bench.check(Ok(())).is_some());
        bench.after(SECOND).trip();
        assert_eq!(bench.wait(), SECOND);
    }
}

mod clocks {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    /// Workers read the clock one after another, so one worker's time may lie ahead of another's.
    #[test]
    fn the_times_of_two_workers_may_differ_by_a_moment() {
        let moment = Duration::from_millis(1);
        let mut bench = Bench::on_trial(judged(3));
        bench.lend_permit().unwrap();
        assert_eq!(bench.back_by(moment).tick(), None);

        let mut upstream = judged(3);
        upstream.breaker.as_mut().unwrap().max_not_ready_for = SECOND;
        let mut bench = Bench::new(upstream);
        bench.random = 100;
        bench.trip();
        assert_eq!(bench.back_by(moment).tick(), None);
    }

    #[test]
    fn the_first_and_the_last_time_do_not_panic() {
        for now in [0, u64::MAX] {
            let mut bench = Bench::new(checked_and_judged());
            bench.now = Time::from_millis(now);
            bench.random = u64::MAX;
            bench.trip();
            bench.tick();
            bench.lend_permit();
            bench.tick();
            bench.check(DOWN);
            bench.check(Ok(()));
        }
    }
}

mod transitions {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn a_transition_raises_the_generation_and_records_its_time_and_reason() {
        let mut bench = Bench::on_trial(judged(3));
        assert_eq!(bench.state.generation, 2);
        assert_eq!((bench.state.since, bench.state.reason), (bench.now, UpstreamReason::WaitOver));
        bench.state.generation = u32::MAX;
        bench.trial_response(Failure);
        assert_eq!(bench.state.generation, 0);
    }

    #[test]
    fn a_state_survives_serialization() {
        let mut bench = Bench::on_trial(checked_and_judged());
        bench.lend_permit().unwrap();
        bench.check(DOWN);
        bench.state.checks.started = Some(bench.now);
        let bytes = postcard::to_allocvec(&bench.state).unwrap();
        assert_eq!(postcard::from_bytes::<UpstreamState>(&bytes).unwrap(), bench.state);
    }

    #[test]
    fn the_codes_of_reasons_are_distinct_and_fit_for_metrics() {
        let reasons = UpstreamReason::ALL;
        let mut codes: Vec<_> = reasons.iter().map(|reason| reason.code()).collect();
        assert!(codes.iter().all(|code| code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-')));
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), reasons.len());
        assert_eq!(
            UpstreamReason::CheckFailed(CheckFailure::Status(503)).to_string(),
            "check-failed: status 503"
        );
        assert_eq!(UpstreamReason::ConsecutiveFailures(5).to_string(), "consecutive-failures: 5");
        assert_eq!(UpstreamReason::TrialFailed.to_string(), "trial-failed");
    }
}
