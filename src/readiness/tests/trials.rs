use super::*;
use crate::policy::upstream::{Shares, Slow};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

#[test]
fn begin_when_the_wait_is_over_and_not_before() {
    let mut bench = Bench::tripped(judged(3));
    assert_eq!(bench.after(Duration::from_millis(999)).tick(), None);
    let transition = bench.after(Duration::from_millis(1)).tick();
    assert_eq!(transition, moved("not-ready", "trial", UpstreamReason::WaitOver));
}

#[test]
fn end_when_enough_requests_succeeded() {
    let mut bench = Bench::on_trial(judged(3));
    assert_eq!(bench.try_out(Success), None);
    assert_eq!(bench.try_out(Success), moved("trial", "ready", UpstreamReason::TrialPassed));
}

#[test]
fn fail_with_the_first_request_that_fails() {
    let mut bench = Bench::on_trial(judged(3));
    bench.try_out(Success);
    assert_eq!(bench.try_out(Failure), moved("trial", "not-ready", UpstreamReason::TrialFailed));
    assert!(matches!(bench.state.phase, Phase::NotReady { until: Some(_) }));
}

#[test]
fn fail_when_a_lease_expires() {
    let mut bench = Bench::on_trial(judged(3));
    bench.lend_permit().unwrap();
    assert_eq!(bench.after(Duration::from_millis(29_999)).tick(), None);
    let transition = bench.after(Duration::from_millis(1)).tick();
    assert_eq!(transition, moved("trial", "not-ready", UpstreamReason::TrialUnanswered));
}

/// Who waits is the upstream, for the rest of the request.
#[test]
fn learn_nothing_from_a_lease_of_a_request_that_was_not_all_there() {
    let mut bench = Bench::on_trial(judged(3));
    for _ in 0..3 {
        bench.lend_unsent().unwrap();
    }
    assert_eq!(bench.lend_permit(), None);
    assert_eq!(bench.after(30 * SECOND).tick(), None);
    assert!(bench.lend_permit().is_some());
}

#[test]
fn count_responses_to_requests_that_nothing_held_back() {
    let mut bench = Bench::on_trial(judged(3));
    let witness = |bench: &mut Bench, generation, class: ResponseClass| {
        bench.state.on_unpermitted_response(&bench.upstream, bench.now, generation, class.into(), 0)
    };
    let generation = bench.state.generation;
    assert_eq!(witness(&mut bench, generation - 1, Failure), None);
    assert_eq!(witness(&mut bench, generation, Ignored), None);
    assert_eq!(witness(&mut bench, generation, Success), None);
    assert_eq!(
        witness(&mut bench, generation, Success),
        moved("trial", "ready", UpstreamReason::TrialPassed)
    );
    assert_eq!(witness(&mut bench, generation + 1, Failure), None);
    let mut bench = Bench::on_trial(judged(3));
    assert_eq!(
        witness(&mut bench, generation, Failure),
        moved("trial", "not-ready", UpstreamReason::TrialFailed)
    );
}

#[test]
fn go_on_for_ever_with_no_request_under_way() {
    let mut bench = Bench::on_trial(judged(3));
    assert_eq!(bench.after(86_400 * SECOND).tick(), None);
    assert_eq!(bench.phase(), "trial");
}

#[test]
fn let_so_many_requests_through_at_the_same_time() {
    let mut bench = Bench::on_trial(judged(3));
    let permits: Vec<_> = (0..3).map(|_| bench.lend_permit().unwrap()).collect();
    assert_eq!(bench.lend_permit(), None);
    bench.settle(permits[0], TrialOutcome::Unused);
    assert!(bench.lend_permit().is_some());
    assert_eq!(bench.lend_permit(), None);
}

/// A request that another gate answered, a client that left, a reply that was not the upstream's.
#[test]
fn learn_nothing_from_a_permit_that_says_nothing() {
    let mut bench = Bench::on_trial(judged(3));
    for outcome in [TrialOutcome::Unused, TrialOutcome::Seen(Ignored.into())] {
        for _ in 0..10 {
            let permit = bench.lend_permit().unwrap();
            assert_eq!(bench.settle(permit, outcome), None);
        }
    }
    assert_eq!(bench.phase(), "trial");
    bench.try_out(Success);
    assert_eq!(bench.try_out(Success), moved("trial", "ready", UpstreamReason::TrialPassed));
}

/// Who leaves sooner says nothing of the upstream, and could keep it out for good.
#[test]
fn fail_with_a_client_that_leaves_after_it_has_waited() {
    let ms = Duration::from_millis;
    let slow = |than| Shares {
        failure_percent: None,
        slow: Some(Slow { percent: 50, than }),
        window: SECOND,
        minimum_requests: 9,
    };
    let patience = |unanswered_after, shares: Option<Shares>| {
        let mut upstream = judged(3);
        let breaker = upstream.breaker.as_mut().unwrap();
        (breaker.unanswered_after, breaker.shares) = (unanswered_after, shares);
        upstream
    };
    for (upstream, least) in [
        (patience(Some(ms(400)), None), ms(400)),
        (patience(Some(ms(4_000)), None), ms(4_000)),
        (patience(None, Some(slow(ms(300)))), ms(300)),
        (patience(Some(ms(4_000)), Some(slow(ms(300)))), ms(300)),
    ] {
        let mut bench = Bench::on_trial(upstream);
        let permit = bench.lend_permit().unwrap();
        bench.after(least - ms(1));
        assert_eq!(bench.settle(permit, TrialOutcome::Left), None);
        let permit = bench.lend_permit().unwrap();
        bench.after(least);
        let transition = bench.settle(permit, TrialOutcome::Left);
        assert_eq!(transition, moved("trial", "not-ready", UpstreamReason::TrialUnanswered));
    }
    let mut bench = Bench::on_trial(judged(3));
    let permit = bench.lend_permit().unwrap();
    bench.after(29 * SECOND);
    assert_eq!(bench.settle(permit, TrialOutcome::Left), None, "nothing says that it was long");
}

#[test]
fn learn_nothing_from_a_client_that_leaves_before_all_of_its_request_is_there() {
    let mut bench = Bench::on_trial(judged(3));
    let permit = bench.lend_unsent().unwrap();
    bench.after(20 * SECOND);
    assert_eq!(bench.settle(permit, TrialOutcome::Left), None);
    assert_eq!(bench.phase(), "trial");
}

#[test]
fn wait_for_the_answer_from_when_all_of_the_request_is_there() {
    let mut bench = Bench::on_trial(judged(3));
    let [left, lost] = [(); 2].map(|()| bench.lend_unsent().unwrap());
    bench.after(Duration::from_millis(29_900));
    bench.state.on_request_sent(&bench.upstream, left, bench.now);
    bench.state.on_request_sent(&bench.upstream, lost, bench.now);
    bench.after(Duration::from_millis(999));
    assert_eq!(bench.settle(left, TrialOutcome::Left), None);
    assert_eq!(bench.after(Duration::from_millis(29_000)).tick(), None);
    let transition = bench.after(Duration::from_millis(1)).tick();
    assert_eq!(transition, moved("trial", "not-ready", UpstreamReason::TrialUnanswered));
}

/// It may be a stream that never ends.
#[test]
fn pass_with_a_lease_that_expires_once_its_response_has_begun() {
    let mut bench = Bench::on_trial(judged(3));
    for _ in 0..2 {
        let permit = bench.lend_permit().unwrap();
        bench.state.on_response_begun(permit);
    }
    assert_eq!(bench.lend_permit().map(|permit| bench.settle(permit, TrialOutcome::Unused)), Some(None));
    assert_eq!(bench.after(Duration::from_millis(29_999)).tick(), None);
    let transition = bench.after(Duration::from_millis(1)).tick();
    assert_eq!(transition, moved("trial", "ready", UpstreamReason::TrialPassed));
}

#[test]
fn fail_with_a_response_that_has_begun_and_breaks_off() {
    let mut bench = Bench::on_trial(judged(3));
    let permit = bench.lend_permit().unwrap();
    bench.state.on_response_begun(permit);
    let transition = bench.settle(permit, TrialOutcome::Seen(ResponseClass::Unanswered.into()));
    assert_eq!(transition, moved("trial", "not-ready", UpstreamReason::TrialFailed));
}

#[test]
fn fail_with_what_is_slower_than_it_may_be_before_its_lease_expires() {
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
fn take_each_permit_back_once() {
    let mut bench = Bench::on_trial(judged(3));
    let permit = bench.lend_permit().unwrap();
    assert_eq!(bench.settle(permit, TrialOutcome::Seen(Success.into())), None);
    assert_eq!(bench.settle(permit, TrialOutcome::Seen(Success.into())), None);
    assert_eq!(bench.phase(), "trial");
}

#[test]
fn drop_permits_of_an_earlier_trial() {
    let mut bench = Bench::on_trial(judged(3));
    let old = bench.lend_permit().unwrap();
    bench.try_out(Failure);
    bench.after(60 * SECOND).tick();
    assert_eq!(bench.phase(), "trial");
    // The same id again, as a worker that started anew may give it.
    bench.ids = 0;
    let new = bench.lend_permit().unwrap();
    for outcome in
        [TrialOutcome::Seen(Success.into()), TrialOutcome::Seen(Failure.into()), TrialOutcome::Unused]
    {
        assert_eq!(bench.settle(old, outcome), None);
    }
    assert_eq!(
        bench.settle(new, TrialOutcome::Seen(Failure.into())),
        moved("trial", "not-ready", UpstreamReason::TrialFailed)
    );
}

#[test]
fn are_the_only_phase_with_permits() {
    let mut bench = Bench::new(judged(3));
    assert_eq!(bench.lend_permit(), None);
    bench.trip();
    assert_eq!(bench.lend_permit(), None);
}

#[test]
fn wait_until_the_checks_no_longer_say_that_it_is_down() {
    let mut bench = Bench::tripped(checked_and_judged());
    bench.check(DOWN);
    bench.check(DOWN);
    assert_eq!(bench.after(60 * SECOND).tick(), None);
    assert_eq!(bench.check(Ok(())), None);
    assert_eq!(bench.tick(), moved("not-ready", "trial", UpstreamReason::WaitOver));
}

#[test]
fn are_left_out_where_nothing_keeps_the_traffic_away() {
    let mut bench = Bench::tripped(Upstream { guarded: false, ..judged(3) });
    assert_eq!(bench.after(Duration::from_millis(999)).tick(), None);
    let transition = bench.after(Duration::from_millis(1)).tick();
    assert_eq!(transition, moved("not-ready", "ready", UpstreamReason::WaitOver));
    bench.trip();
    assert_eq!(bench.wait(), 2 * SECOND);
}
