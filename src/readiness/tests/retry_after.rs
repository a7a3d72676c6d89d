//! Tests of the backoff that failing responses ask for.

use super::super::row::RowFailure;
use super::*;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// Returns a failing response that asks for a backoff.
fn asking(bench: &Bench, seconds: u32) -> Sample {
    Sample { retry_at: Some(bench.now + seconds * SECOND), ..Failure.into() }
}

fn respond(bench: &mut Bench, sample: Sample) -> Option<Transition> {
    let mut streak = Streak::default();
    streak.add(sample, RowFailure::of(sample, bench.now), false);
    bench.state.on_responses(&bench.upstream, bench.now, bench.state.generation, &streak, bench.random)
}

/// Creates a bench that tripped by a response with this backoff. The wait is otherwise 1 s, and the maximum
/// is 20 s.
fn tripped_asking(upstream: Upstream, seconds: u32) -> Bench {
    let mut bench = Bench::new(upstream);
    let sample = asking(&bench, seconds);
    assert!(respond(&mut bench, sample).is_some());
    bench
}

#[test]
fn a_backoff_lengthens_the_wait_up_to_a_maximum_and_never_shortens_it() {
    for (asked, waits) in [(0, 1), (1, 1), (7, 7), (20, 20), (21, 20), (4_000_000, 20)] {
        assert_eq!(tripped_asking(judged(1), asked).wait(), waits * SECOND, "{asked}");
    }
}

#[test]
fn a_backoff_is_ignored_if_the_maximum_is_zero() {
    let mut upstream = judged(1);
    upstream.breaker.as_mut().unwrap().max_retry_after = Duration::ZERO;
    assert_eq!(tripped_asking(upstream, 9).wait(), SECOND);
}

#[test]
fn a_backoff_counts_from_its_response_and_from_any_failure_of_the_run() {
    let mut bench = Bench::new(judged(3));
    let sample = asking(&bench, 9);
    assert_eq!(respond(&mut bench, sample), None);
    bench.after(2 * SECOND);
    assert_eq!(bench.respond("F"), None);
    assert!(bench.respond("F").is_some());
    assert_eq!(bench.wait(), 7 * SECOND);
}

#[test]
fn a_backoff_ends_with_its_run_of_failures() {
    let mut bench = Bench::new(judged(2));
    let sample = asking(&bench, 15);
    assert_eq!(respond(&mut bench, sample), None);
    assert_eq!(bench.respond("S"), None);
    bench.trip();
    assert_eq!(bench.wait(), SECOND);
}

#[test]
fn a_backoff_gets_jitter() {
    let mut bench = Bench::new(judged(1));
    bench.random = 1_000;
    let sample = asking(&bench, 10);
    respond(&mut bench, sample);
    assert_eq!(bench.wait(), 11 * SECOND);
}

#[test]
fn a_failed_trial_request_may_ask_for_a_backoff() {
    let mut bench = Bench::on_trial(judged(3));
    let permit = bench.lend_permit().unwrap();
    let sample = asking(&bench, 9);
    assert_eq!(
        bench.release_permit(permit, TrialOutcome::Seen(sample)),
        moved("trial", "not-ready", UpstreamReason::TrialFailed)
    );
    assert_eq!(bench.wait(), 9 * SECOND);
}

#[test]
fn a_backoff_is_forgotten_with_its_phase() {
    let mut bench = Bench::on_trial(judged(1));
    let sample = asking(&bench, 15);
    let permit = bench.lend_permit().unwrap();
    bench.release_permit(permit, TrialOutcome::Seen(sample));
    bench.after(15 * SECOND).tick();
    bench.trial_response(Success);
    bench.trial_response(Success);
    bench.after(8 * SECOND).trip();
    assert_eq!(bench.wait(), SECOND);
}

/// The upstream asked for the wait itself.
#[test]
fn passed_checks_do_not_shorten_a_backoff() {
    let mut upstream = checked_and_judged();
    upstream.breaker.as_mut().unwrap().consecutive_failures = judged(1).breaker.unwrap().consecutive_failures;
    let mut bench = tripped_asking(upstream.clone(), 9);
    for _ in 0..5 {
        assert_eq!(bench.check(Ok(())), None);
    }
    assert_eq!(bench.after(9 * SECOND).tick(), moved("not-ready", "trial", UpstreamReason::WaitOver));
    // A wait without a backoff is shortened.
    let mut bench = tripped_asking(upstream, 0);
    bench.check(Ok(()));
    assert_eq!(bench.check(Ok(())), moved("not-ready", "ready", UpstreamReason::CheckPassed));
}
