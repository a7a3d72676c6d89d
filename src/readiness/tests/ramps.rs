use super::*;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// As [`judged`], with ten seconds after a trial until all requests go.
fn ramped() -> Upstream {
    let mut upstream = judged(3);
    if let Some(breaker) = &mut upstream.breaker {
        breaker.trial.ramp_over = 10 * SECOND;
    }
    upstream
}

/// A bench whose trial has just passed.
fn on_ramp() -> Bench {
    let mut bench = Bench::on_trial(ramped());
    bench.try_out(ResponseClass::Success);
    assert_eq!(bench.try_out(ResponseClass::Success), moved("trial", "ramp", UpstreamReason::TrialPassed));
    bench
}

/// How many of 1,000 requests go.
fn let_in(bench: &Bench) -> usize {
    let Admission::Ramp { from, until, .. } = bench.state.admission(&bench.upstream) else {
        panic!("{:?}", bench.state);
    };
    let chance = hash::pseudo_random;
    (0..1_000).filter(|request| is_let_in(from, until, bench.now, chance(*request))).count()
}

#[test]
fn let_in_a_share_that_rises_in_a_straight_line() {
    let mut bench = on_ramp();
    assert_eq!(let_in(&bench), 0);
    for (passed, share) in [(1, 100), (5, 500), (9, 900)] {
        bench.now = bench.state.since + passed * SECOND;
        let count = let_in(&bench);
        assert!(count.abs_diff(share) < 60, "{count} after {passed} s");
    }
    bench.now = bench.state.since + 10 * SECOND;
    assert_eq!(let_in(&bench), 1_000);
}

#[test]
fn end_when_all_go() {
    let mut bench = on_ramp();
    assert_eq!(bench.after(9 * SECOND).tick(), None);
    assert_eq!(bench.after(SECOND).tick(), moved("ramp", "ready", UpstreamReason::RampOver));
}

#[test]
fn end_at_once_when_the_clock_is_set_back() {
    let mut bench = on_ramp();
    bench.back_by(100 * SECOND);
    assert_eq!(let_in(&bench), 1_000);
    assert_eq!(bench.tick(), moved("ramp", "ready", UpstreamReason::RampOver));
}

#[test]
fn are_judged_as_what_is_ready() {
    let mut bench = on_ramp();
    assert_eq!(bench.respond("FF"), None);
    assert_eq!(bench.respond("F"), moved("ramp", "not-ready", UpstreamReason::ConsecutiveFailures(3)));
}

#[test]
fn are_no_shorter_for_checks_that_pass() {
    let mut bench = Bench::on_trial(Upstream { check: checked(2, 2).check, ..ramped() });
    bench.try_out(ResponseClass::Success);
    bench.try_out(ResponseClass::Success);
    for _ in 0..5 {
        assert_eq!(bench.check(Ok(())), None);
    }
    assert_eq!(bench.check(DOWN), None);
    assert_eq!(
        bench.check(DOWN),
        moved("ramp", "not-ready", UpstreamReason::CheckFailed(CheckFailure::Status(500)))
    );
}

#[test]
fn count_as_ready_for_those_who_only_ask() {
    let bench = on_ramp();
    assert_eq!(bench.state.status(&bench.upstream).admission, Admission::Ready);
}

#[test]
fn follow_checks_that_pass_as_they_follow_a_trial() {
    let mut bench = Bench::new(Upstream { check: checked(2, 2).check, ..ramped() });
    bench.check(DOWN);
    bench.check(DOWN);
    bench.check(Ok(()));
    assert_eq!(bench.check(Ok(())), moved("not-ready", "ramp", UpstreamReason::CheckPassed));
    assert_eq!(bench.after(10 * SECOND).tick(), moved("ramp", "ready", UpstreamReason::RampOver));
}

/// It has nothing to recover from; and where nothing holds requests back, there is none.
#[test]
fn do_not_follow_an_assumption_or_where_nothing_guards() {
    let upstream = Upstream { check: checked(2, 1).check, ..ramped() };
    let mut bench = Bench::new(Upstream { assume_ready: false, ..upstream.clone() });
    assert_eq!(bench.check(Ok(())), moved("not-ready", "ready", UpstreamReason::CheckPassed));
    let mut bench = Bench::new(Upstream { guarded: false, ..upstream });
    bench.check(DOWN);
    bench.check(DOWN);
    assert_eq!(bench.check(Ok(())), moved("not-ready", "ready", UpstreamReason::CheckPassed));
}
