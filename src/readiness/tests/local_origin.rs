//! Requests with no answer, where they have a threshold of their own.

use super::*;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// Trips at five failures in a row, or at two requests in a row with no answer.
fn apart() -> Bench {
    let mut upstream = judged(5);
    if let Some(breaker) = &mut upstream.breaker {
        breaker.local_origin_failures = Some(2);
    }
    Bench::new(upstream)
}

#[test]
fn trip_at_their_own_threshold() {
    let mut bench = apart();
    assert_eq!(bench.respond("U"), None);
    assert_eq!(bench.respond("U"), moved("ready", "not-ready", UpstreamReason::LocalOriginFailures(2)));
}

#[test]
fn do_not_count_towards_the_other_and_do_not_end_its_row() {
    let mut bench = apart();
    for piece in ["FFU", "F", "UF"] {
        assert_eq!(bench.respond(piece), None);
    }
    assert_eq!(bench.respond("UF"), moved("ready", "not-ready", UpstreamReason::ConsecutiveFailures(5)));
}

#[test]
fn start_over_with_any_answer() {
    let mut bench = apart();
    for piece in ["U", "S", "U", "F", "SU", "FS"] {
        assert_eq!(bench.respond(piece), None);
    }
    assert_eq!(bench.respond("UU"), moved("ready", "not-ready", UpstreamReason::LocalOriginFailures(2)));
}

#[test]
fn start_over_with_a_new_phase() {
    let mut bench = apart();
    bench.respond("U");
    bench.respond("FFFFF");
    bench.after(SECOND).tick();
    bench.try_out(Success);
    assert_eq!(bench.try_out(Success), moved("trial", "ready", UpstreamReason::TrialPassed));
    assert_eq!(bench.respond("U"), None);
}

#[test]
fn end_a_trial_like_any_failure() {
    let mut bench = Bench::on_trial(apart().upstream);
    assert_eq!(
        bench.try_out(ResponseClass::Unanswered),
        moved("trial", "not-ready", UpstreamReason::TrialFailed)
    );
}
