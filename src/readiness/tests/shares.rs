use super::*;
use crate::policy::upstream::{Shares, Slow};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// NotReady at half of ten responses or more in ten seconds, failed; or at 80 percent, slower than two seconds. Never
/// by failures in a row.
fn shared() -> Upstream {
    let breaker = judged(100_000).breaker.unwrap();
    let slow = Slow { percent: 80, than: 2 * SECOND };
    let shares =
        Shares { failure_percent: Some(50), slow: Some(slow), window: 10 * SECOND, minimum_requests: 10 };
    Upstream { breaker: Some(Breaker { shares: Some(shares), ..breaker }), ..bare() }
}

fn failed(part: u32, all: u32) -> Option<Transition> {
    moved("ready", "not-ready", UpstreamReason::FailureShare(Share { part, all }))
}

#[test]
fn of_failures_trip_once_there_are_enough_responses() {
    let mut bench = Bench::new(shared());
    assert_eq!(bench.respond("SFSFSFSFS"), None);
    assert_eq!(bench.respond("F"), failed(5, 10));
}

#[test]
fn below_the_limit_do_not() {
    let mut bench = Bench::new(shared());
    for _ in 0..100 {
        assert_eq!(bench.respond("SSFSSFSSSF"), None);
    }
}

#[test]
fn are_of_the_window_alone() {
    let mut bench = Bench::new(shared());
    assert_eq!(bench.respond(&"S".repeat(1_000)), None);
    let later = bench.after(11 * SECOND);
    assert_eq!(later.respond("FFFFFSSSS"), None);
    assert_eq!(later.respond("F"), failed(6, 10));
}

#[test]
fn are_joined_over_all_workers() {
    let mut bench = Bench::new(shared());
    for piece in ["FS", "FS", "FS", "FS"] {
        assert_eq!(bench.respond(piece), None);
    }
    assert_eq!(bench.respond("FS"), failed(5, 10));
}

#[test]
fn of_slow_responses_trip_by_a_limit_of_their_own() {
    let mut bench = Bench::new(shared());
    assert_eq!(bench.respond("LLLLLLLSS"), None);
    let slow = UpstreamReason::SlowShare(Share { part: 8, all: 10 });
    assert_eq!(bench.respond("L"), moved("ready", "not-ready", slow));
}

#[test]
fn begin_anew_after_a_trip() {
    let mut bench = Bench::new(shared());
    assert_eq!(bench.respond(&"F".repeat(10)), failed(10, 10));
    let bench = bench.after(2 * SECOND);
    bench.tick();
    assert_eq!(bench.try_out(ResponseClass::Success), None);
    assert_eq!(bench.try_out(ResponseClass::Success), moved("trial", "ready", UpstreamReason::TrialPassed));
    assert_eq!(bench.respond("FFFFFFFFF"), None);
}

#[test]
fn would_trip_exactly_where_they_do() {
    for length in 0..=12u32 {
        for bits in 0..1u32 << length.min(10) {
            let piece: String = (0..length).map(|i| if bits >> i & 1 == 1 { 'F' } else { 'S' }).collect();
            let mut bench = Bench::new(shared());
            let would = bench.state.would_trip(&bench.upstream, bench.now, Streak::of(&piece));
            assert_eq!(would, bench.respond(&piece).is_some(), "{piece}");
        }
    }
}

#[test]
fn of_slow_responses_end_a_trial_too() {
    let mut bench = Bench::new(shared());
    bench.respond(&"L".repeat(10));
    let bench = bench.after(2 * SECOND);
    bench.tick();
    assert_eq!(bench.try_out(ResponseClass::Slow), moved("trial", "not-ready", UpstreamReason::TrialFailed));
}

mod the_operators_word {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn stands_above_all_that_is_known() {
        let mut bench = Bench::new(judged(3));
        bench.trip();
        let forced = |force| Upstream { force, ..judged(3) };
        assert_eq!(bench.state.admission(&forced(Some(true))), Admission::Ready);
        assert_eq!(
            bench.state.admission(&forced(None)),
            Admission::NotReady(UpstreamReason::ConsecutiveFailures(3))
        );
        let ready = Bench::new(judged(3)).state;
        assert_eq!(ready.admission(&forced(Some(false))), Admission::NotReady(UpstreamReason::Forced));
    }

    #[test]
    fn is_proof_enough_of_a_start() {
        let forced = Upstream { force: Some(true), ..checked(3, 2) };
        assert!(Bench::new(checked(3, 2)).state.status(&forced).verified);
        assert!(!Bench::new(checked(3, 2)).state.status(&checked(3, 2)).verified);
    }
}
