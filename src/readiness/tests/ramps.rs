use super::*;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// Returns an upstream that has a ramp of ten seconds.
fn ramped() -> Upstream {
    let mut upstream = judged(3);
    if let Some(breaker) = &mut upstream.breaker {
        breaker.trial.ramp_over = 10 * SECOND;
    }
    upstream
}

/// Creates a bench whose trial has just passed.
fn on_ramp() -> Bench {
    let mut bench = Bench::on_trial(ramped());
    bench.trial_response(ResponseClass::Success);
    assert_eq!(
        bench.trial_response(ResponseClass::Success),
        moved("trial", "ramp", UpstreamReason::TrialPassed)
    );
    bench
}

/// Returns how many of 1,000 requests are admitted.
fn admitted(bench: &Bench) -> usize {
    let Admission::Ramp { from, until, .. } = bench.state.admission(&bench.upstream) else {
        panic!("{:?}", bench.state);
    };
    let random = hash::pseudo_random;
    (0..1_000).filter(|request| is_admitted_on_ramp(from, until, bench.now, random(*request))).count()
}

#[test]
fn a_ramp_admits_a_share_that_rises_in_a_straight_line() {
    let mut bench = on_ramp();
    assert_eq!(admitted(&bench), 0);
    for (passed, share) in [(1, 100), (5, 500), (9, 900)] {
        bench.now = bench.state.since + passed * SECOND;
        let count = admitted(&bench);
        assert!(count.abs_diff(share) < 60, "{count} after {passed} s");
    }
    bench.now = bench.state.since + 10 * SECOND;
    assert_eq!(admitted(&bench), 1_000);
}

#[test]
fn a_ramp_ends_when_all_requests_are_admitted() {
    let mut bench = on_ramp();
    assert_eq!(bench.after(9 * SECOND).tick(), None);
    assert_eq!(bench.after(SECOND).tick(), moved("ramp", "ready", UpstreamReason::RampOver));
}

#[test]
fn responses_on_a_ramp_count_as_when_ready() {
    let mut bench = on_ramp();
    assert_eq!(bench.respond("FF"), None);
    assert_eq!(bench.respond("F"), moved("ramp", "not-ready", UpstreamReason::ConsecutiveFailures(3)));
}

#[test]
fn passed_checks_do_not_shorten_a_ramp_but_failed_ones_end_it() {
    let mut bench = Bench::on_trial(Upstream { check: checked(2, 2).check, ..ramped() });
    bench.trial_response(ResponseClass::Success);
    bench.trial_response(ResponseClass::Success);
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
fn a_ramp_counts_as_ready_in_the_status() {
    let bench = on_ramp();
    assert_eq!(bench.state.status(&bench.upstream).admission, Admission::Ready);
}

#[test]
fn a_ramp_follows_passed_checks_as_it_follows_a_trial() {
    let mut bench = Bench::new(Upstream { check: checked(2, 2).check, ..ramped() });
    bench.check(DOWN);
    bench.check(DOWN);
    bench.check(Ok(()));
    assert_eq!(bench.check(Ok(())), moved("not-ready", "ramp", UpstreamReason::CheckPassed));
    assert_eq!(bench.after(10 * SECOND).tick(), moved("ramp", "ready", UpstreamReason::RampOver));
}

/// An assumed NotReady is nothing to recover from. Without a gate, nothing holds requests back.
#[test]
fn no_ramp_follows_an_assumption_or_an_unguarded_not_ready() {
    let upstream = Upstream { check: checked(2, 1).check, ..ramped() };
    let mut bench = Bench::new(Upstream { assume_ready: false, ..upstream.clone() });
    assert_eq!(bench.check(Ok(())), moved("not-ready", "ready", UpstreamReason::CheckPassed));
    let mut bench = Bench::new(Upstream { guarded: false, ..upstream });
    bench.check(DOWN);
    bench.check(DOWN);
    assert_eq!(bench.check(Ok(())), moved("not-ready", "ready", UpstreamReason::CheckPassed));
}
