use super::*;
use crate::policy::upstream::{Shares, Slow};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

#[test]
fn a_trial_begins_when_the_wait_is_over() {
    let mut bench = Bench::tripped(judged(3));
    assert_eq!(bench.after(Duration::from_millis(999)).tick(), None);
    let transition = bench.after(Duration::from_millis(1)).tick();
    assert_eq!(transition, moved("not-ready", "trial", UpstreamReason::WaitOver));
}

#[test]
fn a_trial_passes_when_enough_requests_succeeded() {
    let mut bench = Bench::on_trial(judged(3));
    assert_eq!(bench.trial_response(Success), None);
    assert_eq!(bench.trial_response(Success), moved("trial", "ready", UpstreamReason::TrialPassed));
}

#[test]
fn a_trial_fails_with_the_first_failed_request() {
    let mut bench = Bench::on_trial(judged(3));
    bench.trial_response(Success);
    assert_eq!(bench.trial_response(Failure), moved("trial", "not-ready", UpstreamReason::TrialFailed));
    assert!(matches!(bench.state.phase, Phase::NotReady { until: Some(_) }));
}

#[test]
fn a_trial_fails_when_a_lease_expires() {
    let mut bench = Bench::on_trial(judged(3));
    bench.lend_permit().unwrap();
    assert_eq!(bench.after(Duration::from_millis(29_999)).tick(), None);
    let transition = bench.after(Duration::from_millis(1)).tick();
    assert_eq!(transition, moved("trial", "not-ready", UpstreamReason::TrialUnanswered));
}

/// The upstream waits for the rest of the request.
#[test]
fn an_expired_lease_of_an_incomplete_request_is_no_evidence() {
    let mut bench = Bench::on_trial(judged(3));
    for _ in 0..3 {
        bench.lend_unsent().unwrap();
    }
    assert_eq!(bench.lend_permit(), None);
    assert_eq!(bench.after(30 * SECOND).tick(), None);
    assert!(bench.lend_permit().is_some());
}

#[test]
fn responses_to_requests_without_a_permit_count() {
    let mut bench = Bench::on_trial(judged(3));
    let respond = |bench: &mut Bench, generation, class: ResponseClass| {
        bench.state.on_unpermitted_response(&bench.upstream, bench.now, generation, class.into(), 0)
    };
    let generation = bench.state.generation;
    assert_eq!(respond(&mut bench, generation - 1, Failure), None);
    assert_eq!(respond(&mut bench, generation, Ignored), None);
    assert_eq!(respond(&mut bench, generation, Success), None);
    assert_eq!(
        respond(&mut bench, generation, Success),
        moved("trial", "ready", UpstreamReason::TrialPassed)
    );
    assert_eq!(respond(&mut bench, generation + 1, Failure), None);
    let mut bench = Bench::on_trial(judged(3));
    assert_eq!(
        respond(&mut bench, generation, Failure),
        moved("trial", "not-ready", UpstreamReason::TrialFailed)
    );
}

#[test]
fn a_trial_without_requests_does_not_end() {
    let mut bench = Bench::on_trial(judged(3));
    assert_eq!(bench.after(86_400 * SECOND).tick(), None);
    assert_eq!(bench.phase(), "trial");
}

#[test]
fn a_trial_admits_a_limited_number_of_requests_at_a_time() {
    let mut bench = Bench::on_trial(judged(3));
    let permits: Vec<_> = (0..3).map(|_| bench.lend_permit().unwrap()).collect();
    assert_eq!(bench.lend_permit(), None);
    bench.release_permit(permits[0], TrialOutcome::Unused);
    assert!(bench.lend_permit().is_some());
    assert_eq!(bench.lend_permit(), None);
}

/// Such as a request that another gate replied to, or a reply of another filter.
#[test]
fn unused_permits_and_ignored_responses_are_no_evidence() {
    let mut bench = Bench::on_trial(judged(3));
    for outcome in [TrialOutcome::Unused, TrialOutcome::Seen(Ignored.into())] {
        for _ in 0..10 {
            let permit = bench.lend_permit().unwrap();
            assert_eq!(bench.release_permit(permit, outcome), None);
        }
    }
    assert_eq!(bench.phase(), "trial");
    bench.trial_response(Success);
    assert_eq!(bench.trial_response(Success), moved("trial", "ready", UpstreamReason::TrialPassed));
}

/// A client that leaves sooner is no evidence. Otherwise clients could keep the upstream out.
#[test]
fn a_trial_fails_if_a_client_leaves_after_the_deadline() {
    let ms = Duration::from_millis;
    let slow = |than| Shares {
        failure_percent: None,
        slow: Some(Slow { percent: 50, than }),
        window: SECOND,
        minimum_requests: 9,
    };
    let with_deadline = |unanswered_after, shares: Option<Shares>| {
        let mut upstream = judged(3);
        let breaker = upstream.breaker.as_mut().unwrap();
        (breaker.unanswered_after, breaker.shares) = (unanswered_after, shares);
        upstream
    };
    for (upstream, least) in [
        (with_deadline(Some(ms(400)), None), ms(400)),
        (with_deadline(Some(ms(4_000)), None), ms(4_000)),
        (with_deadline(None, Some(slow(ms(300)))), ms(300)),
        (with_deadline(Some(ms(4_000)), Some(slow(ms(300)))), ms(300)),
    ] {
        let mut bench = Bench::on_trial(upstream);
        let permit = bench.lend_permit().unwrap();
        bench.after(least - ms(1));
        assert_eq!(bench.release_permit(permit, TrialOutcome::Left), None);
        let permit = bench.lend_permit().unwrap();
        bench.after(least);
        let transition = bench.release_permit(permit, TrialOutcome::Left);
        assert_eq!(transition, moved("trial", "not-ready", UpstreamReason::TrialUnanswered));
    }
    let mut bench = Bench::on_trial(judged(3));
    let permit = bench.lend_permit().unwrap();
    bench.after(29 * SECOND);
    assert_eq!(bench.release_permit(permit, TrialOutcome::Left), None, "there is no deadline");
}

#[test]
fn a_client_that_leaves_before_its_request_is_complete_is_no_evidence() {
    let mut bench = Bench::on_trial(judged(3));
    let permit = bench.lend_unsent().unwrap();
    bench.after(20 * SECOND);
    assert_eq!(bench.release_permit(permit, TrialOutcome::Left), None);
    assert_eq!(bench.phase(), "trial");
}

#[test]
fn the_lease_runs_from_the_end_of_the_request() {
    let mut bench = Bench::on_trial(judged(3));
    let [left, lost] = [(); 2].map(|()| bench.lend_unsent().unwrap());
    bench.after(Duration::from_millis(29_900));
    bench.state.on_request_sent(&bench.upstream, left, bench.now, 0);
    bench.state.on_request_sent(&bench.upstream, lost, bench.now, 0);
    bench.after(Duration::from_millis(999));
    assert_eq!(bench.release_permit(left, TrialOutcome::Left), None);
    assert_eq!(bench.after(Duration::from_millis(29_000)).tick(), None);
    let transition = bench.after(Duration::from_millis(1)).tick();
    assert_eq!(transition, moved("trial", "not-ready", UpstreamReason::TrialUnanswered));
}

/// The response may be a stream that never ends.
#[test]
fn a_lease_that_expires_during_a_response_is_a_success() {
    let mut bench = Bench::on_trial(judged(3));
    for _ in 0..2 {
        let permit = bench.lend_permit().unwrap();
        bench.state.on_response_begun(permit);
    }
    assert_eq!(
        bench.lend_permit().map(|permit| bench.release_permit(permit, TrialOutcome::Unused)),
        Some(None)
    );
    assert_eq!(bench.after(Duration::from_millis(29_999)).tick(), None);
    let transition = bench.after(Duration::from_millis(1)).tick();
    assert_eq!(transition, moved("trial", "ready", UpstreamReason::TrialPassed));
}

#[test]
fn a_trial_fails_if_a_response_breaks_off() {
    let mut bench = Bench::on_trial(judged(3));
    let permit = bench.lend_permit().unwrap();
    bench.state.on_response_begun(permit);
    let transition = bench.release_permit(permit, TrialOutcome::Seen(ResponseClass::Unanswered.into()));
    assert_eq!(transition, moved("trial", "not-ready", UpstreamReason::TrialFailed));
}

#[test]
fn a_trial_fails_if_a_response_is_too_slow_before_its_lease_expires() {
    let mut upstream = judged(3);
    upstream.breaker.as_mut().unwrap().shares = Some(Shares {
        failure_percent: None,
        slow: Some(Slow { percent: 50, than: 2 * SECOND }),
        window: SECOND,
        minimum_requests: 9,
    });
    let mut bench = Bench::on_trial(upstream);
    let begun = bench.lend_permit().unwrap();
    bench.state.on_response_begun(begun);
    bench.lend_unsent().unwrap();
    assert_eq!(bench.after(10 * SECOND).tick(), None);
    bench.lend_permit().unwrap();
    assert_eq!(bench.after(Duration::from_millis(1_999)).tick(), None);
    let transition = bench.after(Duration::from_millis(1)).tick();
    assert_eq!(transition, moved("trial", "not-ready", UpstreamReason::TrialUnanswered));
}

#[test]
fn a_permit_is_taken_back_only_once() {
    let mut bench = Bench::on_trial(judged(3));
    let permit = bench.lend_permit().unwrap();
    assert_eq!(bench.release_permit(permit, TrialOutcome::Seen(Success.into())), None);
    assert_eq!(bench.release_permit(permit, TrialOutcome::Seen(Success.into())), None);
    assert_eq!(bench.phase(), "trial");
}

#[test]
fn permits_of_an_earlier_trial_are_dropped() {
    let mut bench = Bench::on_trial(judged(3));
    let old = bench.lend_permit().unwrap();
    bench.trial_response(Failure);
    bench.after(60 * SECOND).tick();
    assert_eq!(bench.phase(), "trial");
    // A worker that was restarted may give the same id again.
    bench.ids = 0;
    let new = bench.lend_permit().unwrap();
    for outcome in
        [TrialOutcome::Seen(Success.into()), TrialOutcome::Seen(Failure.into()), TrialOutcome::Unused]
    {
        assert_eq!(bench.release_permit(old, outcome), None);
    }
    assert_eq!(
        bench.release_permit(new, TrialOutcome::Seen(Failure.into())),
        moved("trial", "not-ready", UpstreamReason::TrialFailed)
    );
}

#[test]
fn only_a_trial_has_permits() {
    let mut bench = Bench::new(judged(3));
    assert_eq!(bench.lend_permit(), None);
    bench.trip();
    assert_eq!(bench.lend_permit(), None);
}

#[test]
fn a_trial_waits_until_the_checks_stop_failing() {
    let mut bench = Bench::tripped(checked_and_judged());
    bench.check(DOWN);
    bench.check(DOWN);
    assert_eq!(bench.after(60 * SECOND).tick(), None);
    assert_eq!(bench.check(Ok(())), None);
    assert_eq!(bench.tick(), moved("not-ready", "trial", UpstreamReason::WaitOver));
}

#[test]
fn an_unguarded_upstream_has_no_trial() {
    let mut bench = Bench::tripped(Upstream { guarded: false, ..judged(3) });
    assert_eq!(bench.after(Duration::from_millis(999)).tick(), None);
    let transition = bench.after(Duration::from_millis(1)).tick();
    assert_eq!(transition, moved("not-ready", "ready", UpstreamReason::WaitOver));
    bench.trip();
    assert_eq!(bench.wait(), 2 * SECOND);
}
