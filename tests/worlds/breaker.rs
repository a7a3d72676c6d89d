//! When responses make an upstream not ready, and for how long it then is.

use std::time::Duration;

use serde_json::{Value, json};

use super::evidence::trips_after;
use super::sim::{Manner, Request, World};
use super::{MS, SECOND, judged, world};

const NEVER: u32 = 100_000;

/// Sends a request for each status, with which it is answered.
fn answers(world: &mut World, vm: usize, statuses: &[u16]) {
    for status in statuses {
        world.set("app", Manner::Status(*status));
        world.get(vm);
    }
}

/// Lets time pass until `app` is in this phase. Returns how long that took, in milliseconds, to within 50.
pub(super) fn until(world: &mut World, phase: &str, most: Duration) -> u64 {
    let begun = world.now();
    while world.phase("app") != phase {
        assert!(u128::from(world.now() - begun) < most.as_millis(), "never {phase}: {}", world.phase("app"));
        world.pass(50 * MS);
    }
    world.now() - begun
}

/// The policy of [`judged`] with a check each second, of which two in a row decide.
pub(super) fn checked(breaker: &Value) -> Value {
    let mut policy = judged(breaker);
    policy["upstreams"]["app"]["readinessProbe"] = json!({"httpGet": {"path": "/healthz"}, "periodSeconds": 1, "failureThreshold": 2, "successThreshold": 2});
    policy
}

#[test]
fn as_many_failures_in_a_row_as_are_named_trip_and_five_by_default() {
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
fn a_success_in_between_starts_the_row_again() {
    let mut world = world(&json!({}));
    for _ in 0..500 {
        answers(&mut world, 0, &[500, 500, 500, 500, 200]);
        world.pass(SECOND);
    }
    assert_eq!(world.state("app").generation, 0);
}

#[test]
fn a_row_has_no_window() {
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
fn a_row_that_is_spread_over_workers_is_joined_as_they_tell_of_it() {
    // From the second of a worker on, at once.
    let mut world = World::new(&judged(&json!({"consecutiveFailures": 6})), 3);
    for vm in [0, 0, 1, 1, 2] {
        answers(&mut world, vm, &[500]);
        assert_eq!(world.phase("app"), "ready");
    }
    answers(&mut world, 2, &[500]);
    assert_eq!(world.reason("app"), "consecutive-failures: 6");
    // One of each, on their ticks.
    let mut world = World::new(&judged(&json!({"consecutiveFailures": 6})), 6);
    (0..6).for_each(|vm| answers(&mut world, vm, &[500]));
    assert_eq!(world.phase("app"), "ready");
    world.pass(260 * MS);
    assert_eq!(world.reason("app"), "consecutive-failures: 6");
}

#[test]
fn a_success_that_another_worker_has_seen_ends_the_row() {
    let mut world = World::new(&judged(&json!({})), 2);
    for _ in 0..50 {
        answers(&mut world, 0, &[500, 500, 500, 500]);
        answers(&mut world, 1, &[200]);
        world.pass(500 * MS);
    }
    assert_eq!(world.phase("app"), "ready");
}

#[test]
fn a_share_is_judged_from_the_minimum_of_requests_on_and_20_by_default() {
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

/// A breaker that judges by the share of failures alone: half of at least 20.
fn half() -> Value {
    json!({"consecutiveFailures": NEVER, "failurePercent": 50, "minimumRequests": 20, "window": "10s"})
}

#[test]
fn the_share_that_is_named_is_enough_whatever_comes_last() {
    for (first, last) in [(500, 200), (200, 500)] {
        let mut world = world(&half());
        answers(&mut world, 0, &[first; 10]);
        answers(&mut world, 0, &[last; 10]);
        world.pass(300 * MS);
        assert_eq!(world.reason("app"), "failure-share: 10 of 20");
    }
}

#[test]
fn a_share_below_the_one_that_is_named_never_trips() {
    let mut world = world(&half());
    for _ in 0..360 {
        answers(&mut world, 0, &[500, 500, 200, 200, 500, 200, 200, 500, 200]);
        world.pass(5 * SECOND);
    }
    assert_eq!(world.state("app").generation, 0);
    // And more than half does.
    world.set("app", Manner::Status(500));
    assert!(trips_after(&mut world, 20).is_some());
}

#[test]
fn shares_are_of_what_all_workers_have_seen() {
    let mut world = World::new(&judged(&half()), 3);
    (0..19).for_each(|request| answers(&mut world, request % 3, &[500]));
    world.pass(SECOND);
    assert_eq!(world.phase("app"), "ready");
    answers(&mut world, 1, &[500]);
    assert_eq!(world.reason("app"), "failure-share: 20 of 20");
    // It is the same for all of them two ticks later.
    world.pass(500 * MS);
    assert!((0..3).all(|vm| world.get(vm).is_gated()));
}

#[test]
fn the_window_forgets() {
    let mut world = world(&half());
    for _ in 0..120 {
        answers(&mut world, 0, &[500; 19]);
        world.pass(11 * SECOND);
        assert_eq!(world.phase("app"), "ready");
    }
    assert_eq!(trips_after(&mut world, 60), Some(20));
}

#[test]
fn after_an_idle_time_fewer_than_the_minimum_are_not_judged() {
    let mut world = world(&half());
    answers(&mut world, 0, &[200; 100]);
    world.pass(3_600 * SECOND);
    answers(&mut world, 0, &[500; 19]);
    world.pass(SECOND);
    assert_eq!(world.phase("app"), "ready");
}

#[test]
fn what_does_not_count_is_in_no_share() {
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

/// A breaker that judges by the share of slow answers alone: 80 of 100.
fn slow() -> Value {
    json!({"consecutiveFailures": NEVER, "slowPercent": 80, "slowerThan": "500ms", "minimumRequests": 10,
           "window": "1h"})
}

#[test]
fn slow_answers_trip_by_a_share_of_their_own() {
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

#[test]
fn answers_that_take_as_long_as_they_may_are_not_slow() {
    let mut world = world(&slow());
    world.set("app", Manner::Slow(500 * MS));
    (0..2_000).for_each(|_| drop(world.get(0)));
    assert_eq!(world.state("app").generation, 0);
}

#[test]
fn an_answer_is_slow_by_its_headers_and_not_by_its_body() {
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
fn a_grpc_stream_is_slow_by_its_headers_and_not_by_its_status() {
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
fn a_client_that_is_slow_to_send_gets_no_slow_answer() {
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

/// Fails until `app` trips. Returns how long it is then not ready, in milliseconds, to within a tick of 250.
fn wait_of_a_trip(world: &mut World) -> u64 {
    world.set("app", Manner::Status(500));
    assert!(trips_after(world, 5).is_some());
    until(world, "trial", 100 * SECOND)
}

/// Has the trial that is on pass.
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
    // A trial that passes is no healthy time yet.
    pass_trial(&mut world);
    assert!(wait_of_a_trip(&mut world) >= 60_000);
}

#[test]
fn a_healthy_time_as_long_as_the_longest_wait_starts_the_waits_again() {
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
fn a_wait_has_up_to_a_tenth_of_jitter_on_top() {
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
fn a_row_begins_with_nothing_after_the_upstream_was_not_ready() {
    let mut world = world(&json!({"consecutiveFailures": 5}));
    wait_of_a_trip(&mut world);
    pass_trial(&mut world);
    answers(&mut world, 0, &[500; 4]);
    world.pass(SECOND);
    assert_eq!(world.phase("app"), "ready");
}

#[test]
fn shares_begin_with_nothing_after_the_upstream_was_not_ready() {
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
fn a_check_that_passes_ends_what_responses_began_but_only_once() {
    let mut world = World::new(&checked(&json!({"notReadyFor": "30s", "maxNotReadyFor": "2m"})), 1);
    world.set_checks("app", Manner::Status(200));
    world.set("app", Manner::Status(500));
    assert_eq!(trips_after(&mut world, 20), Some(5));
    let wait = until(&mut world, "ready", 10 * SECOND);
    assert!(wait <= 3_000, "two checks, and no wait: {wait}");
    assert_eq!(world.reason("app"), "check-passed");
    // Responses fail again right after: the wait and the trial decide, not the checks.
    assert_eq!(trips_after(&mut world, 20), Some(5));
    let wait = until(&mut world, "trial", 100 * SECOND);
    assert!((60_000..=66_260).contains(&wait), "{wait}");
    world.pass(600 * SECOND);
    assert_eq!((world.phase("app"), world.reason("app").as_str()), ("trial", "wait-over"));
    pass_trial(&mut world);
    // After a healthy time they count again.
    world.pass(121 * SECOND);
    world.set("app", Manner::Status(500));
    assert_eq!(trips_after(&mut world, 20), Some(5));
    assert!(until(&mut world, "ready", 10 * SECOND) <= 3_000);
}

#[test]
fn users_meet_few_failures_in_an_hour_of_checks_that_do_not_see_what_is_wrong() {
    let mut world = World::new(&checked(&json!({})), 1);
    world.set_checks("app", Manner::Status(200));
    world.set("app", Manner::Status(500));
    let mut failed = 0;
    for _ in 0..3_600 {
        failed += 1 - world.gated(0, 1);
        world.pass(SECOND);
    }
    // Ten before the second trip, and one at the end of each wait, of a minute at the longest.
    assert!((60..=80).contains(&failed), "{failed}");
}

#[test]
fn responses_to_requests_that_were_sent_before_a_trip_are_about_the_past() {
    let mut world = World::new(&checked(&json!({})), 1);
    world.set_checks("app", Manner::Status(200));
    let sent: Vec<u32> = (0..40).map(|_| world.send(0, &Request::get("/"))).collect();
    let fail = |world: &mut World, ids: &[u32]| {
        ids.iter().for_each(|id| world.respond(*id, 500, "via_upstream", &[], true));
    };
    fail(&mut world, &sent[..5]);
    assert_eq!(world.phase("app"), "not-ready");
    fail(&mut world, &sent[5..20]);
    until(&mut world, "ready", 10 * SECOND);
    let before = world.state("app").generation;
    fail(&mut world, &sent[20..]);
    world.pass(SECOND);
    assert_eq!((world.phase("app"), world.state("app").generation), ("ready", before));
}
