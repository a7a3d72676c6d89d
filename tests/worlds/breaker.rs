//! When responses make an upstream not ready, and for how long.

use std::time::Duration;

use serde_json::{Value, json};

use super::evidence::trips_after;
use super::sim::{Manner, Request, World};
use super::{APART, MS, SECOND, judged, world};

const NEVER: u32 = 100_000;

/// Sends one request for each status and responds with it.
fn answers(world: &mut World, vm: usize, statuses: &[u16]) {
    for status in statuses {
        world.set("app", Manner::Status(*status));
        world.get(vm);
    }
}

/// Lets time pass until `app` is in this phase. Returns how many milliseconds that took, to within 50.
pub(super) fn until(world: &mut World, phase: &str, most: Duration) -> u64 {
    let begun = world.now();
    while world.phase("app") != phase {
        assert!(u128::from(world.now() - begun) < most.as_millis(), "never {phase}: {}", world.phase("app"));
        world.pass(50 * MS);
    }
    world.now() - begun
}

/// Returns the policy of [`judged`] with a check each second and thresholds of two.
pub(super) fn with_check(breaker: &Value) -> Value {
    let mut policy = judged(breaker);
    policy["upstreams"]["app"]["readinessProbe"] = json!({"httpGet": {"path": "/healthz"}, "periodSeconds": 1, "failureThreshold": 2, "successThreshold": 2});
    policy
}

#[test]
fn consecutive_failures_trip_at_the_threshold_which_is_five_by_default() {
    for (settings, takes) in
        [(json!({}), 5), (json!({"consecutiveFailures": 1}), 1), (json!({"consecutiveFailures": 40}), 40)]
    {
        let mut world = world(&settings);
        world.set("app", Manner::Status(500));
        assert_eq!(trips_after(&mut world, 50), Some(takes));
        assert_eq!(world.reason("app"), format!("consecutive-failures: {takes}"));
        let answer = world.get(0);
        assert_eq!(
            (answer.status, answer.details.as_str()),
            (503, "graygate_gate{shop|app|consecutive-failures}")
        );
        let labels = ["upstream=app", "from=ready", "to=not-ready", "reason=consecutive-failures"];
        assert_eq!(world.metric("transitions_total", &labels), 1);
    }
}

#[test]
fn a_success_in_between_resets_the_row_of_failures() {
    let mut world = world(&json!({}));
    for _ in 0..500 {
        answers(&mut world, 0, &[500, 500, 500, 500, 200]);
        world.pass(SECOND);
    }
    assert_eq!(world.state("app").generation, 0);
}

#[test]
fn client_errors_hide_a_row_of_failures_unless_they_are_ignored() {
    // Three of four responses are failures, and no five of them are in a row.
    let mixed = [500, 500, 500, 404].repeat(25);
    let mut world = world(&json!({}));
    answers(&mut world, 0, &mixed);
    assert_eq!(world.state("app").generation, 0);
    for workers in [1, 2] {
        let mut world = World::new(&judged(&json!({"ignoreOn": ["4xx"]})), workers);
        // Successes before let the upstream's responses take the fast path.
        for vm in 0..workers {
            answers(&mut world, vm, &[200; 50]);
        }
        let mut statuses = mixed.iter();
        let asked = statuses.position(|status| {
            // The sixth response comes once the row has lasted long enough.
            world.pass(90 * MS);
            answers(&mut world, usize::from(*status == 404) % workers, &[*status]);
            world.phase("app") == "not-ready"
        });
        assert_eq!(asked, Some(5), "five failures and a 404");
        assert_eq!(world.reason("app"), "consecutive-failures: 5");
    }
}

#[test]
fn a_row_after_successes_trips_once_it_has_lasted_without_one_for_long_enough() {
    for workers in [1, 2] {
        let mut world = World::new(&judged(&json!({})), workers);
        // At this rate, a row must last for the shortest time.
        (0..1_000).for_each(|turn| answers(&mut world, turn % workers, &[200]));
        world.pass(SECOND);
        let begun = world.now() + 1;
        answers(&mut world, 0, &[500; 50]);
        // The row is judged with each failure, and on each tick.
        while world.now() < begun + 239 {
            assert_eq!(world.phase("app"), "ready", "after {} ms", world.now() - begun);
            answers(&mut world, 0, &[500]);
        }
        answers(&mut world, 0, &[500; 2]);
        assert_eq!(world.phase("app"), "not-ready");
        // Without another failure, a tick decides.
        let mut world = World::new(&judged(&json!({})), workers);
        (0..1_000).for_each(|turn| answers(&mut world, turn % workers, &[200]));
        world.pass(SECOND);
        answers(&mut world, 0, &[500; 5]);
        world.pass(230 * MS);
        assert_eq!(world.phase("app"), "ready");
        world.pass(280 * MS);
        assert_eq!(world.reason("app"), "consecutive-failures: 5");
    }
}

#[test]
fn a_row_of_failures_has_no_time_limit() {
    let mut world = world(&json!({"consecutiveFailures": 3}));
    world.set("app", Manner::Status(500));
    for _ in 0..2 {
        world.get(0);
        world.pass(3_600 * SECOND);
        assert_eq!(world.phase("app"), "ready");
    }
    world.get(0);
    assert_eq!(world.reason("app"), "consecutive-failures: 3");
}

#[test]
fn rows_of_several_workers_are_joined_as_workers_share_them() {
    // A worker shares its second failure in a row at once, and each further one.
    let mut world = World::new(&judged(&json!({"consecutiveFailures": 6})), 3);
    for vm in [0, 0, 1, 1, 2] {
        answers(&mut world, vm, &[500]);
        world.pass(APART);
        assert_eq!(world.phase("app"), "ready");
    }
    answers(&mut world, 2, &[500]);
    assert_eq!(world.reason("app"), "consecutive-failures: 6");
    // Six workers see one failure each and share it on their ticks.
    let mut world = World::new(&judged(&json!({"consecutiveFailures": 6})), 6);
    for vm in 0..6 {
        answers(&mut world, vm, &[500]);
        world.pass(APART);
    }
    assert_eq!(world.phase("app"), "ready");
    world.pass(260 * MS);
    assert_eq!(world.reason("app"), "consecutive-failures: 6");
}

#[test]
fn failures_of_several_workers_at_the_same_moment_are_one_incident() {
    // A worker does not know which requests of another were under way.
    let mut world = World::new(&judged(&json!({"consecutiveFailures": 4})), 3);
    for (vm, events) in [(0, 1), (0, 2), (1, 2), (1, 3), (2, 3)] {
        answers(&mut world, vm, &[500]);
        assert_eq!(world.phase("app"), "ready", "{events} events");
    }
    answers(&mut world, 2, &[500]);
    assert_eq!(world.reason("app"), "consecutive-failures: 4");
}

#[test]
fn a_success_on_another_worker_ends_the_row() {
    let mut world = World::new(&judged(&json!({})), 2);
    for _ in 0..50 {
        answers(&mut world, 0, &[500, 500, 500, 500]);
        answers(&mut world, 1, &[200]);
        world.pass(500 * MS);
    }
    assert_eq!(world.phase("app"), "ready");
}

#[test]
fn a_share_trips_from_minimum_requests_on_which_is_20_by_default() {
    for (minimum, takes) in [(json!(40), 40), (json!(1), 1), (Value::Null, 20)] {
        let mut breaker = json!({"consecutiveFailures": NEVER, "failurePercent": 50, "window": "1h"});
        if !minimum.is_null() {
            breaker["minimumRequests"] = minimum;
        }
        let mut world = world(&breaker);
        world.set("app", Manner::Status(500));
        assert_eq!(trips_after(&mut world, 60), Some(takes));
        assert_eq!(world.reason("app"), format!("failure-share: {takes} of {takes}"));
    }
}

#[test]
fn with_a_named_share_a_row_of_failures_counts_only_if_it_is_written() {
    for (settings, takes, reason) in [
        (json!({"failurePercent": 50, "minimumRequests": 100}), 100, "failure-share: 100 of 100"),
        (json!({"consecutiveFailures": 7, "failurePercent": 50}), 7, "consecutive-failures: 7"),
        (json!({"consecutiveFailures": 0, "failurePercent": 50}), 20, "failure-share: 20 of 20"),
    ] {
        let mut world = world(&settings);
        world.set("app", Manner::Status(500));
        assert_eq!(trips_after(&mut world, 200), Some(takes), "{settings}");
        assert_eq!(world.reason("app"), reason);
    }
}

#[test]
fn without_rows_of_missing_responses_only_shares_count_them() {
    let mut world = world(&json!({"consecutiveLocalOriginFailures": 0}));
    world.set("app", Manner::Refuses);
    assert_eq!(trips_after(&mut world, 50), None);
    // They do not end a row of failing responses either.
    answers(&mut world, 0, &[500; 4]);
    world.set("app", Manner::Refuses);
    world.get(0);
    answers(&mut world, 0, &[500]);
    assert_eq!(world.reason("app"), "consecutive-failures: 5");
    let mut world = self::world(&json!({"consecutiveLocalOriginFailures": 0, "failurePercent": 50}));
    world.set("app", Manner::Refuses);
    assert_eq!(trips_after(&mut world, 50), Some(20));
    assert_eq!(world.reason("app"), "failure-share: 20 of 20");
}

/// Returns a breaker that trips only when half of at least 20 responses fail.
fn half() -> Value {
    json!({"consecutiveFailures": NEVER, "failurePercent": 50, "minimumRequests": 20, "window": "10s"})
}

#[test]
fn a_share_trips_at_exactly_the_threshold() {
    let mut world = world(&half());
    answers(&mut world, 0, &[200; 10]);
    answers(&mut world, 0, &[500; 9]);
    world.pass(300 * MS);
    assert_eq!(world.phase("app"), "ready");
    answers(&mut world, 0, &[500]);
    assert_eq!(world.reason("app"), "failure-share: 10 of 20");
}

#[test]
fn only_a_new_failure_trips_by_a_share() {
    // The successes leave the window before the failures do.
    let mut world = world(&json!({"failurePercent": 50, "minimumRequests": 10, "window": "4s"}));
    answers(&mut world, 0, &[200; 30]);
    world.pass(2 * SECOND);
    answers(&mut world, 0, &[500; 12]);
    for _ in 0..60 {
        world.pass(100 * MS);
        assert_eq!(world.phase("app"), "ready");
    }
    // A success makes the number of responses large enough.
    let mut world = self::world(&half());
    answers(&mut world, 0, &[500; 12]);
    world.pass(300 * MS);
    answers(&mut world, 0, &[200; 8]);
    world.pass(300 * MS);
    assert_eq!(world.phase("app"), "ready");
    answers(&mut world, 0, &[500]);
    assert_eq!(world.reason("app"), "failure-share: 13 of 21");
}

#[test]
fn a_share_below_the_threshold_never_trips() {
    let mut world = world(&half());
    for _ in 0..360 {
        answers(&mut world, 0, &[500, 500, 200, 200, 500, 200, 200, 500, 200]);
        world.pass(5 * SECOND);
    }
    assert_eq!(world.state("app").generation, 0);
    // A larger share trips, too.
    world.set("app", Manner::Status(500));
    assert!(trips_after(&mut world, 20).is_some());
}

#[test]
fn a_share_is_of_the_responses_of_all_workers() {
    let mut world = World::new(&judged(&half()), 3);
    (0..19).for_each(|request| answers(&mut world, request % 3, &[500]));
    world.pass(SECOND);
    assert_eq!(world.phase("app"), "ready");
    answers(&mut world, 1, &[500]);
    assert_eq!(world.reason("app"), "failure-share: 20 of 20");
    // All workers know two ticks later.
    world.pass(500 * MS);
    assert!((0..3).all(|vm| world.get(vm).is_gated()));
}

#[test]
fn responses_older_than_the_window_do_not_count() {
    let mut world = world(&half());
    for _ in 0..120 {
        answers(&mut world, 0, &[500; 19]);
        world.pass(11 * SECOND);
        assert_eq!(world.phase("app"), "ready");
    }
    assert_eq!(trips_after(&mut world, 60), Some(20));
}

#[test]
fn after_idle_time_a_share_of_fewer_than_minimum_requests_does_not_trip() {
    let mut world = world(&half());
    answers(&mut world, 0, &[200; 100]);
    world.pass(3_600 * SECOND);
    answers(&mut world, 0, &[500; 19]);
    world.pass(SECOND);
    assert_eq!(world.phase("app"), "ready");
}

#[test]
fn responses_that_do_not_count_are_in_no_share() {
    let mut world = world(&half());
    for _ in 0..100 {
        let id = world.send(0, &Request::get("/"));
        world.respond(id, 503, "direct_response", &[], true);
    }
    answers(&mut world, 0, &[500; 19]);
    world.pass(300 * MS);
    assert_eq!(world.phase("app"), "ready");
    answers(&mut world, 0, &[500]);
    assert_eq!(world.reason("app"), "failure-share: 20 of 20");
}

/// Returns a breaker that trips only when 80 of 100 responses are slow.
fn slow() -> Value {
    json!({"consecutiveFailures": NEVER, "slowPercent": 80, "slowerThan": "500ms", "minimumRequests": 10,
           "window": "1h"})
}

#[test]
fn slow_responses_trip_at_their_own_threshold() {
    for (fast, trips) in [(2, true), (3, false)] {
        let mut world = world(&slow());
        answers(&mut world, 0, &vec![200; fast]);
        world.set("app", Manner::Slow(501 * MS));
        (fast..10).for_each(|_| drop(world.get(0)));
        world.pass(300 * MS);
        let expected = if trips { "slow-share: 8 of 10" } else { "assumed" };
        assert_eq!(world.reason("app"), expected);
    }
}

/// Sends a request and responds to it with this status, later than `slower_than` of [`slow`].
fn respond_late(world: &mut World, status: u16) {
    let id = world.send(0, &Request::get("/"));
    world.pass(501 * MS);
    world.respond(id, status, "via_upstream", &[], true);
}

#[test]
fn a_response_that_is_slow_and_fails_counts_for_both_shares() {
    let mut breaker = slow();
    breaker["failurePercent"] = json!(80);
    let mut world = world(&breaker);
    for request in 0..20 {
        respond_late(&mut world, if request % 2 == 0 { 500 } else { 200 });
    }
    assert_eq!(world.reason("app"), "slow-share: 10 of 10");
    // The other way round, slow responses do not hide failures.
    breaker["slowPercent"] = json!(100);
    let mut world = self::world(&breaker);
    answers(&mut world, 0, &[500; 2]);
    (0..8).for_each(|request| respond_late(&mut world, if request % 4 == 0 { 200 } else { 500 }));
    assert_eq!(world.reason("app"), "failure-share: 8 of 10");
}

#[test]
fn a_request_that_waits_too_long_is_slow_as_well() {
    let mut world = world(&json!({
        "unansweredAfter": "2s", "slowPercent": 50, "slowerThan": "1s", "minimumRequests": 10,
    }));
    answers(&mut world, 0, &[200; 5]);
    world.set("app", Manner::Hangs);
    for _ in 0..5 {
        world.start(0, &Request::get("/"));
    }
    world.pass(3 * SECOND);
    assert_eq!(world.reason("app"), "slow-share: 5 of 10");
}

#[test]
fn a_slow_success_ends_a_row_of_failures_and_a_slow_failure_extends_it() {
    let mut breaker = slow();
    breaker["consecutiveFailures"] = json!(3);
    let mut world = world(&breaker);
    for _ in 0..2 {
        answers(&mut world, 0, &[500, 500]);
        respond_late(&mut world, 200);
    }
    assert_eq!(world.phase("app"), "ready");
    answers(&mut world, 0, &[500, 500]);
    respond_late(&mut world, 500);
    assert_eq!(world.reason("app"), "consecutive-failures: 3");
}

#[test]
fn responses_that_take_exactly_slower_than_are_not_slow() {
    let mut world = world(&slow());
    world.set("app", Manner::Slow(500 * MS));
    (0..2_000).for_each(|_| drop(world.get(0)));
    assert_eq!(world.state("app").generation, 0);
}

#[test]
fn a_response_is_slow_if_its_headers_are_but_not_if_its_body_is() {
    let mut world = world(&slow());
    for _ in 0..20 {
        let id = world.send(0, &Request::get("/"));
        world.respond(id, 200, "via_upstream", &[], false);
        world.pass(10 * SECOND);
        world.body(id, "all of it", true);
    }
    world.pass(SECOND);
    assert_eq!(world.phase("app"), "ready");
}

#[test]
fn a_grpc_stream_is_slow_if_its_headers_are_but_not_if_its_status_is() {
    let mut breaker = slow();
    breaker["failOn"] = json!(["unavailable"]);
    let mut world = world(&breaker);
    for _ in 0..20 {
        let id = world.send(0, &Request::of("POST", "/"));
        world.respond(id, 200, "via_upstream", &[("content-type", "application/grpc")], false);
        world.pass(10 * SECOND);
        world.trailers(id, &[("grpc-status", "0")]);
    }
    world.pass(SECOND);
    assert_eq!(world.phase("app"), "ready");
}

#[test]
fn a_slow_upload_does_not_make_a_response_slow() {
    let mut world = world(&slow());
    for _ in 0..20 {
        let id = world.send(0, &Request::of("POST", "/").unfinished());
        world.pass(10 * SECOND);
        world.finish_request(id);
        world.pass(400 * MS);
        world.respond(id, 200, "via_upstream", &[], true);
    }
    world.pass(SECOND);
    assert_eq!(world.phase("app"), "ready");
}

#[test]
fn an_upstream_without_a_breaker_is_not_judged_by_its_responses() {
    let mut world = World::new(
        &json!({"name": "shop", "upstreams": {"app": {"cluster": "app"}}, "gates": [{"upstream": "app"}]}),
        2,
    );
    world.set("app", Manner::Refuses);
    assert_eq!(world.gated(0, 500) + world.gated(1, 500), 0);
    world.set("app", Manner::Status(500));
    assert_eq!(world.gated(0, 500), 0);
}

/// Fails requests until `app` trips. Returns for how many milliseconds it is not ready, to within a tick of 250.
fn wait_of_a_trip(world: &mut World) -> u64 {
    world.set("app", Manner::Status(500));
    assert!(trips_after(world, 5).is_some());
    until(world, "trial", 100 * SECOND)
}

/// Passes the current trial.
fn pass_trial(world: &mut World) {
    world.set("app", Manner::Status(200));
    assert_eq!(world.gated(0, 3), 0);
    assert_eq!((world.phase("app"), world.reason("app").as_str()), ("ready", "trial-passed"));
}

#[test]
fn the_wait_doubles_with_each_trip_in_a_row_up_to_its_cap() {
    let mut world = world(&json!({"notReadyFor": "5s", "maxNotReadyFor": "1m"}));
    let mut waits = vec![wait_of_a_trip(&mut world)];
    for _ in 0..6 {
        world.get(0);
        assert_eq!(world.reason("app"), "trial-failed");
        waits.push(until(&mut world, "trial", 100 * SECOND));
    }
    for (wait, expected) in waits.iter().zip([5_000, 10_000, 20_000, 40_000, 60_000, 60_000, 60_000]) {
        let most = expected + expected / 10 + 260;
        assert!((expected..=most).contains(wait), "{waits:?}");
    }
    // The time of a trial does not count as healthy time.
    pass_trial(&mut world);
    assert!(wait_of_a_trip(&mut world) >= 60_000);
}

#[test]
fn healthy_time_as_long_as_the_longest_wait_resets_the_waits() {
    for (healthy, expected) in [(19, 10_000), (21, 5_000)] {
        let mut world = world(&json!({"notReadyFor": "5s", "maxNotReadyFor": "20s"}));
        wait_of_a_trip(&mut world);
        pass_trial(&mut world);
        world.pass(healthy * SECOND);
        let wait = wait_of_a_trip(&mut world);
        assert!((expected..expected + expected / 10 + 260).contains(&wait), "{wait} after {healthy} s");
    }
}

#[test]
fn a_wait_has_up_to_ten_percent_of_jitter() {
    let mut world = world(&json!({"notReadyFor": "10s", "maxNotReadyFor": "10s"}));
    let mut waits = Vec::new();
    for _ in 0..20 {
        waits.push(wait_of_a_trip(&mut world));
        pass_trial(&mut world);
    }
    assert!(waits.iter().all(|wait| (10_000..=11_300).contains(wait)), "{waits:?}");
    let (least, most) = (waits.iter().min().unwrap(), waits.iter().max().unwrap());
    assert!(most - least >= 500, "they are spread: {waits:?}");
}

#[test]
fn rows_of_failures_start_over_after_the_upstream_was_not_ready() {
    let mut world = world(&json!({"consecutiveFailures": 5}));
    wait_of_a_trip(&mut world);
    pass_trial(&mut world);
    answers(&mut world, 0, &[500; 4]);
    world.pass(SECOND);
    assert_eq!(world.phase("app"), "ready");
}

#[test]
fn shares_start_over_after_the_upstream_was_not_ready() {
    let mut breaker = half();
    breaker["window"] = json!("10m");
    let mut world = world(&breaker);
    world.set("app", Manner::Status(500));
    assert_eq!(trips_after(&mut world, 50), Some(20));
    until(&mut world, "trial", 10 * SECOND);
    pass_trial(&mut world);
    world.set("app", Manner::Status(500));
    assert_eq!(trips_after(&mut world, 50), Some(20));
}

#[test]
fn a_passed_check_ends_the_wait_of_a_first_trip_but_not_of_the_next() {
    let mut world = World::new(
        &with_check(&json!({"consecutiveFailures": 5, "notReadyFor": "30s", "maxNotReadyFor": "2m"})),
        1,
    );
    world.set_checks("app", Manner::Status(200));
    world.set("app", Manner::Status(500));
    assert_eq!(trips_after(&mut world, 20), Some(5));
    let wait = until(&mut world, "ready", 10 * SECOND);
    assert!(wait <= 3_000, "two checks, and no wait: {wait}");
    assert_eq!(world.reason("app"), "check-passed");
    // Responses fail again right away. Now the wait and the trial decide instead of the checks.
    assert_eq!(trips_after(&mut world, 20), Some(5));
    let wait = until(&mut world, "trial", 100 * SECOND);
    assert!((60_000..=66_260).contains(&wait), "{wait}");
    world.pass(600 * SECOND);
    assert_eq!((world.phase("app"), world.reason("app").as_str()), ("trial", "wait-over"));
    pass_trial(&mut world);
    // After a healthy time the checks decide again.
    world.pass(121 * SECOND);
    world.set("app", Manner::Status(500));
    assert_eq!(trips_after(&mut world, 20), Some(5));
    assert!(until(&mut world, "ready", 10 * SECOND) <= 3_000);
}

#[test]
fn users_get_few_failures_in_an_hour_in_which_checks_pass_and_requests_fail() {
    let mut world = World::new(&with_check(&json!({"consecutiveFailures": 5})), 1);
    world.set_checks("app", Manner::Status(200));
    world.set("app", Manner::Status(500));
    let mut failed = 0;
    for _ in 0..3_600 {
        failed += 1 - world.gated(0, 1);
        world.pass(SECOND);
    }
    // Ten fail before the second trip, and one at the end of each wait, which is at most a minute.
    assert!((60..=80).contains(&failed), "{failed}");
}

#[test]
fn responses_to_requests_sent_before_a_trip_do_not_count() {
    let mut world = World::new(&with_check(&json!({"consecutiveFailures": 5})), 1);
    world.set_checks("app", Manner::Status(200));
    let sent: Vec<u32> = (0..40).map(|_| world.send(0, &Request::get("/"))).collect();
    let fail = |world: &mut World, ids: &[u32]| {
        for id in ids {
            world.pass(APART);
            world.respond(*id, 500, "via_upstream", &[], true);
        }
    };
    fail(&mut world, &sent[..4]);
    assert_eq!(world.phase("app"), "ready");
    fail(&mut world, &sent[4..5]);
    assert_eq!(world.phase("app"), "not-ready");
    fail(&mut world, &sent[5..20]);
    until(&mut world, "ready", 10 * SECOND);
    let before = world.state("app").generation;
    fail(&mut world, &sent[20..]);
    world.pass(SECOND);
    assert_eq!((world.phase("app"), world.state("app").generation), ("ready", before));
}
