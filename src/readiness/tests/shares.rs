use super::*;
use crate::policy::upstream::{Shares, Slow};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// Returns an upstream that trips by shares of at least ten responses in ten seconds. The limits are 50 %
/// failed, and 80 % slower than two seconds.
fn judged_by_shares() -> Upstream {
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
fn a_share_of_failures_trips_once_there_are_enough_responses() {
    let mut bench = Bench::new(judged_by_shares());
    assert_eq!(bench.respond("SFSFSFSFS"), None);
    assert_eq!(bench.respond("F"), failed(5, 10));
}

#[test]
fn a_share_below_the_limit_does_not_trip() {
    let mut bench = Bench::new(judged_by_shares());
    for _ in 0..100 {
        assert_eq!(bench.respond("SSFSSFSSSF"), None);
    }
}

#[test]
fn only_responses_in_the_window_count() {
    let mut bench = Bench::new(judged_by_shares());
    assert_eq!(bench.respond(&"S".repeat(1_000)), None);
    let later = bench.after(11 * SECOND);
    assert_eq!(later.respond("FFFFFSSSS"), None);
    assert_eq!(later.respond("F"), failed(6, 10));
}

#[test]
fn a_share_that_rises_because_good_responses_leave_the_window_does_not_trip() {
    let mut bench = Bench::new(judged_by_shares());
    assert_eq!(bench.respond(&"S".repeat(30)), None);
    assert_eq!(bench.after(5 * SECOND).respond(&"F".repeat(12)), None);
    for piece in ["", "S", "L"] {
        assert_eq!(bench.after(SECOND).respond(piece), None);
    }
    let bench = bench.after(3 * SECOND);
    for piece in ["", "S", "L"] {
        assert_eq!(bench.respond(piece), None, "{piece}");
    }
    assert_eq!(bench.respond("F"), failed(13, 17));
}

#[test]
fn responses_of_all_workers_are_joined() {
    let mut bench = Bench::new(judged_by_shares());
    for piece in ["FS", "FS", "FS", "FS"] {
        assert_eq!(bench.respond(piece), None);
    }
    assert_eq!(bench.respond("FS"), failed(5, 10));
}

#[test]
fn a_share_of_slow_responses_trips_at_its_own_limit() {
    let mut bench = Bench::new(judged_by_shares());
    assert_eq!(bench.respond("LLLLLLLSS"), None);
    let slow = UpstreamReason::SlowShare(Share { part: 8, all: 10 });
    assert_eq!(bench.respond("L"), moved("ready", "not-ready", slow));
}

#[test]
fn a_slow_failure_counts_for_both_shares() {
    let mut upstream = judged_by_shares();
    let shares = upstream.breaker.as_mut().and_then(|breaker| breaker.shares.as_mut()).unwrap();
    shares.failure_percent = Some(80);
    let mut bench = Bench::new(upstream.clone());
    let slow = UpstreamReason::SlowShare(Share { part: 10, all: 10 });
    assert_eq!(bench.respond("LXLXLXLXLX"), moved("ready", "not-ready", slow));
    assert_eq!(Bench::new(upstream).respond("XXXXXXXXLL"), failed(8, 10));
}

#[test]
fn the_window_is_empty_after_a_trip() {
    let mut bench = Bench::new(judged_by_shares());
    assert_eq!(bench.respond(&"F".repeat(10)), failed(10, 10));
    let bench = bench.after(2 * SECOND);
    bench.tick();
    assert_eq!(bench.trial_response(ResponseClass::Success), None);
    assert_eq!(
        bench.trial_response(ResponseClass::Success),
        moved("trial", "ready", UpstreamReason::TrialPassed)
    );
    assert_eq!(bench.respond("FFFFFFFFF"), None);
}

#[test]
fn would_trip_agrees_with_on_responses() {
    for length in 0..=12u32 {
        for bits in 0..1u32 << length.min(10) {
            let piece: String = (0..length).map(|i| if bits >> i & 1 == 1 { 'F' } else { 'S' }).collect();
            let mut bench = Bench::new(judged_by_shares());
            let would = bench.state.would_trip(&bench.upstream, bench.now, &Streak::of(&piece, bench.now));
            assert_eq!(would, bench.respond(&piece).is_some(), "{piece}");
        }
    }
}

#[test]
fn a_slow_response_fails_a_trial() {
    let mut bench = Bench::new(judged_by_shares());
    bench.respond(&"L".repeat(10));
    let bench = bench.after(2 * SECOND);
    bench.tick();
    assert_eq!(
        bench.trial_response(Sample { slow: true, ..Success.into() }),
        moved("trial", "not-ready", UpstreamReason::TrialFailed)
    );
}

mod force {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn force_overrides_the_state() {
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
    fn force_ready_counts_as_verified() {
        let forced = Upstream { force: Some(true), ..checked(3, 2) };
        assert!(Bench::new(checked(3, 2)).state.status(&forced).verified);
        assert!(!Bench::new(checked(3, 2)).state.status(&checked(3, 2)).verified);
    }
}
