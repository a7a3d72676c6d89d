//! The ramp after a trial or a passed check: a rising share of requests is forwarded, and the others are gated.

use serde_json::{Value, json};

use super::breaker::{until, with_check};
use super::evidence::on_trial;
use super::sim::{Manner, World};
use super::{MS, SECOND, judged};

fn breaker() -> Value {
    json!({"trial": {"requests": 1, "successes": 1, "rampOver": "1000s"}})
}

/// Trips `app` and passes its trial.
fn recover(world: &mut World) {
    on_trial(world);
    assert_eq!(world.get(0).status, 200);
    assert_eq!((world.phase("app"), world.reason("app").as_str()), ("ramp", "trial-passed"));
}

fn ramped(workers: usize) -> World {
    let mut world = World::new(&judged(&breaker()), workers);
    recover(&mut world);
    world
}

/// Checks that about this share of 400 requests of a worker is served. Each request takes a millisecond.
fn serves(world: &mut World, vm: usize, percent: usize) {
    let served = 400 - world.gated(vm, 400);
    let expected = 4 * percent;
    assert!(served.abs_diff(expected) <= 32, "{served} of 400 at {percent} %");
}

#[test]
fn the_share_of_forwarded_requests_rises_linearly_on_all_workers() {
    let mut world = ramped(2);
    world.pass(300 * MS);
    for percent in [0, 20, 40, 60, 80, 100] {
        serves(&mut world, 0, percent);
        serves(&mut world, 1, percent);
        world.pass(199 * SECOND);
    }
    assert_eq!((world.phase("app"), world.reason("app").as_str()), ("ready", "ramp-over"));
    assert_eq!(world.gated(0, 100), 0);
}

#[test]
fn gated_requests_on_a_ramp_get_the_reason() {
    let mut world = ramped(1);
    let answer = world.get(0);
    assert_eq!((answer.status, answer.details.as_str()), (503, "graygate_gate{shop|app|on-ramp}"));
    assert_eq!(answer.body, "policy shop: upstream app is not ready: on-ramp\n");
    assert_eq!(answer.header("retry-after"), Some("5"));
    assert_eq!(world.metric("gated_requests_total", &["upstream=app", "reason=on-ramp"]), 1);
}

#[test]
fn a_ramp_follows_passed_checks_as_well() {
    let mut world = World::new(&with_check(&breaker()), 1);
    world.set("app", Manner::Status(500));
    until(&mut world, "not-ready", 10 * SECOND);
    world.set("app", Manner::Status(200));
    until(&mut world, "ramp", 10 * SECOND);
    assert_eq!(world.reason("app"), "check-passed");
    // Checks that pass do not shorten it.
    world.pass(500 * SECOND);
    assert_eq!(world.phase("app"), "ramp");
    serves(&mut world, 0, 50);
}

#[test]
fn there_is_no_ramp_unless_the_policy_has_one() {
    let mut world = World::new(&judged(&json!({"trial": {"requests": 1, "successes": 1}})), 1);
    on_trial(&mut world);
    world.get(0);
    assert_eq!(world.phase("app"), "ready");
}

#[test]
fn failures_on_a_ramp_trip_the_breaker() {
    let mut world = ramped(1);
    world.pass(500 * SECOND);
    world.set("app", Manner::Status(500));
    let gated = world.gated(0, 200);
    assert_eq!(world.reason("app"), "consecutive-failures: 5");
    assert!(gated >= 195);
}

#[test]
fn a_request_that_a_ramp_forwards_passes_all_its_gates() {
    let mut policy = judged(&breaker());
    policy["gates"] = json!([{"upstream": "app"}, {"upstream": "app"}, {"upstream": "app"}]);
    let mut world = World::new(&policy, 1);
    recover(&mut world);
    world.pass(500 * SECOND);
    serves(&mut world, 0, 50);
}

#[test]
fn a_gate_that_failed_open_stays_open_on_the_ramp() {
    let mut policy = judged(&breaker());
    policy["gates"][0]["whenAllNotReady"] = json!("forward");
    let mut world = World::new(&policy, 1);
    world.set("app", Manner::Status(500));
    for _ in 0..10 {
        assert_eq!(world.get(0).status, 500, "while it is not ready");
    }
    world.set("app", Manner::Status(200));
    until(&mut world, "trial", 10 * SECOND);
    assert_eq!(world.gated(0, 1), 0);
    assert_eq!(world.phase("app"), "ramp");
    for _ in 0..20 {
        assert_eq!(world.gated(0, 20), 0);
        world.pass(50 * SECOND);
    }
    assert_eq!(world.phase("app"), "ready");
}

#[test]
fn readiness_passes_on_a_ramp() {
    let mut policy = judged(&breaker());
    policy["probes"] = json!({"readiness": {"path": "/readyz", "checks": [{"upstream": "app"}]}});
    let mut world = World::new(&policy, 1);
    recover(&mut world);
    let answer = world.ask(0, &super::sim::Request::get("/readyz"));
    assert_eq!(answer.status, 200, "{}", answer.body);
}
