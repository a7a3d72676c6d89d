//! Tests of missing responses that have a threshold of their own.

use super::*;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// Returns an upstream that trips at five failures in a row, or at two missing responses in a row.
fn counted_apart() -> Bench {
    let mut upstream = judged(5);
    if let Some(breaker) = &mut upstream.breaker {
        breaker.local_origin_failures = Some(2);
    }
    Bench::new(upstream)
}

#[test]
fn missing_responses_trip_at_their_own_threshold() {
    let mut bench = counted_apart();
    assert_eq!(bench.respond("U"), None);
    assert_eq!(bench.respond("U"), moved("ready", "not-ready", UpstreamReason::LocalOriginFailures(2)));
}

#[test]
fn missing_responses_do_not_extend_or_end_a_run_of_failures() {
    let mut bench = counted_apart();
    for piece in ["FFU", "F", "UF"] {
        assert_eq!(bench.respond(piece), None);
    }
    assert_eq!(bench.respond("UF"), moved("ready", "not-ready", UpstreamReason::ConsecutiveFailures(5)));
}

#[test]
fn any_response_resets_the_count_of_missing_responses() {
    let mut bench = counted_apart();
    for piece in ["U", "S", "U", "F", "SU", "FS"] {
        assert_eq!(bench.respond(piece), None);
    }
    assert_eq!(bench.respond("UU"), moved("ready", "not-ready", UpstreamReason::LocalOriginFailures(2)));
}

#[test]
fn a_new_phase_resets_the_count_of_missing_responses() {
    let mut bench = counted_apart();
    bench.respond("U");
    bench.respond("FFFFF");
    bench.after(SECOND).tick();
    bench.trial_response(Success);
    assert_eq!(bench.trial_response(Success), moved("trial", "ready", UpstreamReason::TrialPassed));
    assert_eq!(bench.respond("U"), None);
}

#[test]
fn a_missing_response_fails_a_trial() {
    let mut bench = Bench::on_trial(counted_apart().upstream);
    assert_eq!(
        bench.trial_response(ResponseClass::Unanswered),
        moved("trial", "not-ready", UpstreamReason::TrialFailed)
    );
}
