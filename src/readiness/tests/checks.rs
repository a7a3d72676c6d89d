use super::*;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

#[test]
fn consecutive_failures_at_the_threshold_make_the_upstream_not_ready() {
    let mut bench = Bench::new(checked(3, 1));
    assert_eq!((bench.check(DOWN), bench.check(DOWN)), (None, None));
    let timed_out = CheckFailure::TimedOut;
    assert_eq!(
        bench.check(Err(timed_out)),
        moved("ready", "not-ready", UpstreamReason::CheckFailed(timed_out))
    );
    assert_eq!(bench.state.phase, Phase::NotReady { until: None });
}

#[test]
fn a_passed_check_resets_the_count_of_failures() {
    let mut bench = Bench::new(checked(2, 1));
    for _ in 0..10 {
        assert_eq!((bench.check(DOWN), bench.check(Ok(()))), (None, None));
    }
    assert_eq!(bench.phase(), "ready");
}

#[test]
fn consecutive_passes_at_the_threshold_make_the_upstream_ready() {
    let mut bench = Bench::new(checked(1, 3));
    bench.check(DOWN);
    assert_eq!((bench.check(Ok(())), bench.check(Ok(()))), (None, None));
    assert_eq!(bench.check(DOWN), None);
    assert_eq!((bench.check(Ok(())), bench.check(Ok(()))), (None, None));
    assert_eq!(bench.check(Ok(())), moved("not-ready", "ready", UpstreamReason::CheckPassed));
}

#[test]
fn repeated_results_change_nothing() {
    let mut bench = Bench::new(checked(1, 1));
    assert_eq!((bench.check(Ok(())), bench.check(Ok(()))), (None, None));
    bench.check(DOWN);
    let generation = bench.state.generation;
    assert_eq!((bench.check(DOWN), bench.check(DOWN)), (None, None));
    assert_eq!(bench.state.generation, generation);
}

#[test]
fn checks_that_confirm_an_assumption_change_its_reason_once() {
    let mut bench = Bench::new(Upstream { assume_ready: false, ..checked(2, 1) });
    assert_eq!(bench.check(DOWN), None);
    let reason = UpstreamReason::CheckFailed(CheckFailure::Status(500));
    assert_eq!(bench.check(DOWN), moved("not-ready", "not-ready", reason));
    assert_eq!((bench.check(DOWN), bench.state.reason), (None, reason));
    assert_eq!(bench.check(Ok(())), moved("not-ready", "ready", UpstreamReason::CheckPassed));
}

#[test]
fn only_checks_end_a_not_ready_that_checks_began() {
    let mut bench = Bench::new(checked_and_judged());
    bench.check(DOWN);
    assert!(bench.check(DOWN).is_some());
    assert_eq!(bench.after(3_600 * SECOND).tick(), None);
    bench.check(Ok(()));
    assert_eq!(bench.check(Ok(())), moved("not-ready", "ready", UpstreamReason::CheckPassed));
}

#[test]
fn passed_checks_end_a_not_ready_that_responses_began() {
    let mut bench = Bench::tripped(checked_and_judged());
    assert_eq!(bench.check(Ok(())), None);
    assert_eq!(bench.check(Ok(())), moved("not-ready", "ready", UpstreamReason::CheckPassed));
}

/// The checks do not see what is wrong.
#[test]
fn passed_checks_do_not_shorten_the_wait_after_a_second_trip_in_a_row() {
    let mut bench = Bench::tripped(checked_and_judged());
    bench.check(Ok(()));
    assert_eq!(bench.check(Ok(())), moved("not-ready", "ready", UpstreamReason::CheckPassed));
    bench.trip();
    for _ in 0..10 {
        assert_eq!(bench.check(Ok(())), None);
    }
    assert_eq!(bench.after(2 * SECOND).tick(), moved("not-ready", "trial", UpstreamReason::WaitOver));
    // They do not end the trial either.
    for _ in 0..10 {
        assert_eq!(bench.check(Ok(())), None);
    }
    bench.trial_response(Success);
    assert_eq!(bench.trial_response(Success), moved("trial", "ready", UpstreamReason::TrialPassed));
}

#[test]
fn passed_checks_end_the_wait_again_after_a_healthy_time() {
    let mut bench = Bench::tripped(checked_and_judged());
    bench.check(Ok(()));
    bench.check(Ok(()));
    bench.after(8 * SECOND);
    bench.trip();
    bench.check(Ok(()));
    assert_eq!(bench.check(Ok(())), moved("not-ready", "ready", UpstreamReason::CheckPassed));
}

#[test]
fn passed_checks_end_a_trial() {
    let mut bench = Bench::on_trial(checked_and_judged());
    bench.check(Ok(()));
    assert_eq!(bench.check(Ok(())), moved("trial", "ready", UpstreamReason::CheckPassed));
}

#[test]
fn failed_checks_end_a_trial() {
    let mut bench = Bench::on_trial(checked_and_judged());
    assert_eq!(bench.check(DOWN), None);
    assert_eq!(
        bench.check(DOWN),
        moved("trial", "not-ready", UpstreamReason::CheckFailed(CheckFailure::Status(500)))
    );
    assert_eq!(bench.state.phase, Phase::NotReady { until: None });
}

#[test]
fn checks_that_passed_before_the_last_change_of_phase_do_not_count() {
    let mut bench = Bench::new(checked_and_judged());
    bench.check(Ok(()));
    bench.trip();
    assert_eq!(bench.check(Ok(())), None);
    assert_eq!(bench.phase(), "not-ready");
}

#[test]
fn checks_of_an_earlier_generation_are_dropped() {
    let mut bench = Bench::new(checked_and_judged());
    let earlier = bench.state.generation;
    bench.trip();
    let before = bench.state.clone();
    for result in [Ok(()), Ok(()), DOWN, DOWN] {
        assert_eq!(bench.state.on_check(&bench.upstream, bench.now, earlier, result), None);
    }
    assert_eq!(bench.state, before);
}
