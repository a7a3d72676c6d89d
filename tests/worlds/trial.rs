//! Trials: a few real requests decide whether an upstream is ready again.

use serde_json::json;

use super::breaker::{until, with_check};
use super::evidence::{on_trial, trips_after};
use super::sim::{Manner, Request, World};
use super::{MS, SECOND, judged, world};

/// Returns a world with this number of workers in which `app` is on trial for all of them.
fn tried(trial: &serde_json::Value, workers: usize) -> World {
    let mut world = World::new(&judged(&json!({"trial": trial})), workers);
    on_trial(&mut world);
    world
}

#[test]
fn a_trial_forwards_at_most_its_number_of_requests_at_a_time_over_all_workers() {
    let mut world = tried(&json!({"requests": 2, "successes": 10}), 3);
    let sent: Vec<u32> = (0..30).map(|request| world.send(request % 3, &Request::get("/"))).collect();
    let gone: Vec<u32> = sent.iter().copied().filter(|id| world.is_open(*id)).collect();
    assert_eq!(gone.len(), 2);
    let answer = world.answer(sent[29]);
    assert_eq!((answer.status, answer.details.as_str()), (503, "graygate_gate{shop|app|on-trial}"));
    assert_eq!(answer.body, "policy shop: upstream app is not ready: on-trial\n");
    // Each request that ends makes room for one more.
    world.respond(gone[0], 200, "via_upstream", &[], true);
    let next: Vec<u32> = (0..10).map(|request| world.send(request % 3, &Request::get("/"))).collect();
    assert_eq!(next.iter().filter(|id| world.is_open(**id)).count(), 1);
}

#[test]
fn a_trial_passes_after_its_number_of_successes_which_is_three_by_default() {
    for (trial, successes) in [(json!({"successes": 1}), 1), (json!({}), 3), (json!({"successes": 20}), 20)] {
        let mut world = tried(&trial, 2);
        for done in 1..=successes {
            assert_eq!(world.phase("app"), "trial", "{done} of {successes}");
            assert_eq!(world.get(done % 2).status, 200);
        }
        assert_eq!((world.phase("app"), world.reason("app").as_str()), ("ready", "trial-passed"));
        world.pass(300 * MS);
        assert_eq!(world.gated(0, 50) + world.gated(1, 50), 0);
    }
}

#[test]
fn the_first_failure_ends_a_trial_however_the_other_requests_end() {
    for failure in [Manner::Status(500), Manner::Refuses, Manner::Resets, Manner::BreaksOff] {
        let mut world = tried(&json!({"requests": 3, "successes": 3}), 2);
        let others = [world.send(0, &Request::get("/")), world.send(1, &Request::get("/"))];
        world.set("app", failure.clone());
        world.get(1);
        assert_eq!((world.phase("app"), world.reason("app").as_str()), ("not-ready", "trial-failed"));
        let before = world.state("app");
        for id in others {
            world.respond(id, 200, "via_upstream", &[], true);
        }
        assert_eq!(world.state("app"), before, "{failure:?}");
    }
}

#[test]
fn a_trial_lasts_until_there_are_requests() {
    let mut world = tried(&json!({"requests": 1, "successes": 1}), 1);
    world.pass(3_600 * SECOND);
    assert_eq!(world.phase("app"), "trial");
    assert_eq!(world.get(0).status, 200);
    assert_eq!(world.phase("app"), "ready");
}

#[test]
fn a_trial_begins_when_the_wait_is_over_and_not_before() {
    let mut world = world(&json!({"notReadyFor": "30s"}));
    world.set("app", Manner::Status(500));
    assert!(trips_after(&mut world, 5).is_some());
    world.set("app", Manner::Status(200));
    for _ in 0..29 {
        assert!(world.get(0).is_gated());
        world.pass(SECOND);
    }
    until(&mut world, "trial", 5 * SECOND);
    assert_eq!(world.reason("app"), "wait-over");
}

#[test]
fn a_trial_does_not_begin_while_checks_fail() {
    let mut world = World::new(&with_check(&json!({})), 1);
    world.set("app", Manner::Status(500));
    assert!(trips_after(&mut world, 5).is_some());
    for _ in 0..600 {
        assert!(world.get(0).is_gated());
        world.pass(SECOND);
    }
    assert_eq!(world.reason("app"), "consecutive-failures: 5");
    // A passed check in between ends the row, and the trial may begin.
    world.set_checks("app", Manner::Status(200));
    world.pass(1_200 * MS);
    world.set_checks("app", Manner::Status(500));
    assert_eq!(world.phase("app"), "trial");
}

#[test]
fn failed_checks_end_a_trial_and_passed_checks_do_after_a_first_trip() {
    // Each check takes longer than the wait.
    for (status, after) in
        [(500, ("not-ready", "check-failed: status 500")), (200, ("ready", "check-passed"))]
    {
        let mut world =
            World::new(&with_check(&json!({"consecutiveFailures": 5, "notReadyFor": "100ms"})), 1);
        world.set_checks("app", Manner::Status(200));
        world.pass(3_100 * MS);
        world.set("app", Manner::Status(503));
        assert!(trips_after(&mut world, 5).is_some());
        until(&mut world, "trial", SECOND);
        world.set_checks("app", Manner::Status(status));
        world.pass(3 * SECOND);
        assert_eq!((world.phase("app"), world.reason("app").as_str()), after);
    }
}

#[test]
fn an_upstream_without_a_gate_has_no_trial() {
    let mut policy = judged(&json!({}));
    policy["gates"] = json!([]);
    let mut world = World::new(&policy, 1);
    world.set("app", Manner::Status(500));
    assert!(trips_after(&mut world, 5).is_some());
    // All requests are forwarded, and further failures do not count.
    for _ in 0..4 {
        assert_eq!(world.gated(0, 20), 0);
        world.pass(SECOND);
    }
    world.set("app", Manner::Status(200));
    assert!(until(&mut world, "ready", 5 * SECOND) > 0);
    assert_eq!(world.reason("app"), "wait-over");
    assert_eq!(world.metric("transitions_total", &["upstream=app", "to=trial"]), 0);
}

#[test]
fn responses_to_requests_without_a_gate_decide_a_trial_too() {
    for (status, after) in [(200, ("ready", "trial-passed")), (500, ("not-ready", "trial-failed"))] {
        let mut policy = judged(&json!({"trial": {"requests": 1, "successes": 2}}));
        policy["gates"][0]["match"] = json!([{"uri": {"prefix": "/pay"}}]);
        let mut world = World::new(&policy, 2);
        on_trial(&mut world);
        // The other worker learns of the trial on its tick.
        world.pass(300 * MS);
        world.set("app", Manner::Status(status));
        world.get(0);
        world.get(1);
        assert_eq!((world.phase("app"), world.reason("app").as_str()), after);
    }
}

#[test]
fn a_request_that_another_gate_blocks_returns_its_permit() {
    let mut policy = judged(&json!({"trial": {"requests": 1, "successes": 1}}));
    policy["upstreams"]["db"] = json!({"cluster": "db", "force": "notReady"});
    policy["gates"] =
        json!([{"upstream": "app"}, {"upstream": "db", "match": [{"uri": {"prefix": "/pay"}}]}]);
    let mut world = World::new(&policy, 1);
    on_trial(&mut world);
    for _ in 0..20 {
        let answer = world.ask(0, &Request::get("/pay"));
        assert_eq!(answer.details, "graygate_gate{shop|db|forced}");
    }
    assert_eq!(world.phase("app"), "trial");
    assert_eq!(world.get(0).status, 200);
    assert_eq!(world.phase("app"), "ready");
}

#[test]
fn a_dead_vm_holds_its_permits_no_longer_than_the_lease() {
    // This holds whether or not the dead VM knew that the upstream had the request.
    for (lives_for, after) in [(1, "trial"), (600, "not-ready")] {
        let mut world = tried(&json!({"requests": 1, "successes": 1, "leaseFor": "3s"}), 2);
        world.pass(300 * MS);
        world.set("app", Manner::Hangs);
        let id = world.start(1, &Request::get("/"));
        assert!(world.is_open(id));
        world.pass(lives_for * MS);
        world.kill(1);
        world.set("app", Manner::Status(200));
        assert!(world.get(0).is_gated());
        world.pass(4_500 * MS);
        assert_eq!(world.phase("app"), after);
        until(&mut world, "trial", 20 * SECOND);
        world.pass(300 * MS);
        assert_eq!(world.get(0).status, 200);
        assert_eq!(world.phase("app"), "ready");
    }
}

#[test]
fn a_lease_lasts_as_long_as_the_policy_says() {
    for (lease, most) in [("1s", 1), ("30s", 30), ("10m", 600)] {
        let mut world = tried(&json!({"leaseFor": lease}), 1);
        world.set("app", Manner::Hangs);
        let id = world.start(0, &Request::get("/"));
        world.pass(most * SECOND - 10 * MS);
        assert_eq!(world.phase("app"), "trial");
        world.pass(300 * MS);
        assert_eq!((world.phase("app"), world.reason("app").as_str()), ("not-ready", "trial-unanswered"));
        // A later response concerns a past phase.
        let before = world.state("app");
        world.respond(id, 200, "via_upstream", &[], true);
        assert_eq!(world.state("app"), before);
    }
}
