//! Each upstream has one state for all workers, from checks, responses and `force`.

use std::time::Duration;

use serde_json::{Value, json};

use super::breaker::{until, with_check};
use super::evidence::trips_after;
use super::sim::{Answer, Manner, Request, World};
use super::{APART, MS, SECOND, judged};

/// Returns a policy with these fields in `app`, which has a gate and a readiness probe.
fn policy(app: &Value) -> Value {
    let mut policy = judged(&json!({}));
    policy["upstreams"]["app"] = json!({"cluster": "app"});
    for (name, value) in app.as_object().unwrap() {
        policy["upstreams"]["app"][name] = value.clone();
    }
    policy["probes"] = json!({"readiness": {"path": "/readyz", "checks": [{"upstream": "app"}]}});
    policy
}

/// Returns a check each second with thresholds of two, and with these fields.
fn check(more: &Value) -> Value {
    let mut check = json!({"httpGet": {"path": "/healthz"}, "periodSeconds": 1, "failureThreshold": 2});
    for (name, value) in more.as_object().unwrap() {
        check[name] = value.clone();
    }
    check
}

fn readyz(world: &mut World) -> Answer {
    world.ask(0, &Request::get("/readyz"))
}

/// Waits for a number of checks. Returns how many milliseconds that took.
fn sends(world: &mut World, checks: usize) -> u64 {
    let (begun, sent) = (world.now(), world.around.called.borrow().len());
    while world.around.called.borrow().len() < sent + checks {
        assert!(world.now() < begun + 3_600_000, "no more checks");
        world.pass(10 * MS);
    }
    world.now() - begun
}

/// Returns how many checks are sent in this time.
fn sent_in(world: &mut World, span: Duration) -> usize {
    let before = world.around.called.borrow().len();
    world.pass(span);
    let after = world.around.called.borrow().len();
    after - before
}

// -- assumptions --------------------------------------------------------------

#[test]
fn before_the_first_verdict_the_assumption_applies() {
    for (assume, gated) in [("ready", false), ("notReady", true)] {
        let app = json!({"assume": assume, "readinessProbe": check(&json!({"initialDelaySeconds": 100}))});
        let mut world = World::new(&policy(&app), 2);
        for _ in 0..9 {
            world.pass(10 * SECOND);
            assert_eq!((world.get(0).is_gated(), world.get(1).is_gated()), (gated, gated), "{assume}");
            assert_eq!(readyz(&mut world).status, if gated { 503 } else { 200 });
            assert_eq!(world.reason("app"), "assumed");
        }
    }
}

#[test]
fn the_first_verdict_ends_the_assumption() {
    for (assume, status, after) in [
        ("notReady", 200, ("ready", "check-passed")),
        ("notReady", 500, ("not-ready", "check-failed: status 500")),
        ("ready", 500, ("not-ready", "check-failed: status 500")),
        ("ready", 200, ("ready", "assumed")),
    ] {
        let mut world =
            World::new(&policy(&json!({"assume": assume, "readinessProbe": check(&json!({}))})), 1);
        world.set("app", Manner::Status(status));
        world.pass(3 * SECOND);
        assert_eq!((world.phase("app"), world.reason("app").as_str()), after, "{assume} {status}");
    }
}

#[test]
fn an_upstream_that_was_never_ready_has_no_ramp() {
    let app = json!({
        "assume": "notReady",
        "readinessProbe": check(&json!({})),
        "circuitBreaker": {"trial": {"rampOver": "1h"}},
    });
    let mut world = World::new(&policy(&app), 1);
    world.pass(SECOND);
    assert_eq!(world.phase("app"), "ready");
}

// -- force --------------------------------------------------------------------

#[test]
fn an_upstream_forced_not_ready_is_gated_from_the_first_request() {
    for known_by in [
        json!({}),
        json!({"readinessProbe": check(&json!({}))}),
        json!({"circuitBreaker": {"consecutiveFailures": 1}}),
    ] {
        let mut policy = policy(&known_by);
        policy["upstreams"]["app"]["force"] = json!("notReady");
        let mut world = World::new(&policy, 2);
        for _ in 0..20 {
            let answer = world.get(1);
            assert_eq!((answer.status, answer.details.as_str()), (503, "graygate_gate{shop|app|forced}"));
            let probe = readyz(&mut world);
            assert_eq!(probe.status, 503);
            assert!(probe.body.contains("[-]app failed: forced"), "{}", probe.body);
            world.pass(10 * SECOND);
        }
        assert_eq!(world.metric("transitions_total", &[]), 0, "its own replies say nothing: {known_by}");
    }
}

#[test]
fn an_upstream_forced_ready_is_not_gated_though_checks_and_requests_fail() {
    let app = json!({
        "force": "ready",
        "assume": "notReady",
        "readinessProbe": check(&json!({})),
        "circuitBreaker": {"consecutiveFailures": 1},
    });
    let mut world = World::new(&policy(&app), 2);
    world.set("app", Manner::Status(500));
    for _ in 0..120 {
        assert_eq!(world.gated(0, 2) + world.gated(1, 2), 0);
        assert_eq!(readyz(&mut world).status, 200);
        world.pass(5 * SECOND);
    }
    assert_eq!(world.metric("gated_requests_total", &[]), 0);
}

#[test]
fn the_state_is_kept_up_to_date_under_force_and_applies_again_without_it() {
    let known_by = json!({"readinessProbe": check(&json!({}))});
    let mut world = World::new(&policy(&known_by), 2);
    for (force, status, gated) in [
        (Some("notReady"), 200, true),
        (None, 200, false),
        (Some("ready"), 500, false),
        (None, 500, true),
        (Some("notReady"), 500, true),
        (Some("ready"), 200, false),
        (None, 200, false),
    ] {
        let mut policy = policy(&known_by);
        if let Some(force) = force {
            policy["upstreams"]["app"]["force"] = json!(force);
        }
        world.set("app", Manner::Status(status));
        // The time suffices for the checks, before or after the update.
        world.pass(3 * SECOND);
        assert!(world.configure(&policy));
        assert_eq!((world.get(0).is_gated(), world.get(1).is_gated()), (gated, gated), "{force:?} {status}");
        world.pass(3 * SECOND);
        assert_eq!((world.get(0).is_gated(), world.get(1).is_gated()), (gated, gated), "{force:?} {status}");
        (0..2).for_each(|vm| world.end_earlier(vm));
    }
}

#[test]
fn an_update_that_does_not_change_an_upstream_keeps_its_state() {
    let mut world = World::new(&policy(&json!({"circuitBreaker": {"notReadyFor": "1h"}})), 2);
    world.set("app", Manner::Status(500));
    assert!(trips_after(&mut world, 5).is_some());
    let before = world.state("app");
    let mut changed = policy(&json!({"circuitBreaker": {"notReadyFor": "30m", "consecutiveFailures": 50}}));
    changed["gates"][0]["reply"] = json!({"status": 429});
    assert!(world.configure(&changed));
    assert_eq!((world.get(0).status, world.get(1).status), (429, 429));
    world.pass(10 * SECOND);
    assert_eq!(world.state("app"), before);
}

// -- checks and responses together --------------------------------------------

#[test]
fn either_checks_or_responses_make_an_upstream_not_ready() {
    let mut world = World::new(&with_check(&json!({"consecutiveFailures": 5})), 1);
    world.set_checks("app", Manner::Status(500));
    until(&mut world, "not-ready", 5 * SECOND);
    assert_eq!(world.reason("app"), "check-failed: status 500");
    // While it is gated, there are no responses of users. Only the checks can end that.
    world.pass(600 * SECOND);
    assert_eq!(world.phase("app"), "not-ready");
    world.set_checks("app", Manner::Status(200));
    until(&mut world, "ready", 5 * SECOND);
    world.set("app", Manner::Status(500));
    assert!(trips_after(&mut world, 5).is_some());
    assert_eq!(world.reason("app"), "consecutive-failures: 5");
}

#[test]
fn passed_checks_do_not_end_a_row_of_failed_responses() {
    let mut world = World::new(&with_check(&json!({"consecutiveFailures": 5})), 1);
    world.set_checks("app", Manner::Status(200));
    world.set("app", Manner::Status(500));
    for _ in 0..4 {
        world.get(0);
        world.pass(60 * SECOND);
    }
    assert_eq!(trips_after(&mut world, 5), Some(1));
}

#[test]
fn an_upstream_whose_cluster_lost_its_last_host_keeps_its_state() {
    for (manner, known) in
        [(Manner::NoHost, "ready"), (Manner::Missing, "ready"), (Manner::NoHost, "not-ready")]
    {
        let mut world = World::new(&policy(&json!({"readinessProbe": check(&json!({}))})), 2);
        if known == "not-ready" {
            world.set("app", Manner::Status(500));
            until(&mut world, "not-ready", 5 * SECOND);
        } else {
            world.pass(5 * SECOND);
        }
        world.set("app", manner.clone());
        world.pass(600 * SECOND);
        assert_eq!(world.phase("app"), known, "{manner:?}");
        assert_eq!(world.logged("check not sent").len(), 1, "said once, and not for each check");
        assert!(world.metric("checks_total", &["upstream=app", "result=error"]) > 500);
    }
}

#[test]
fn a_breaker_counts_requests_that_fail_because_there_is_no_host() {
    let mut world = World::new(&with_check(&json!({})), 1);
    world.pass(3 * SECOND);
    world.set("app", Manner::NoHost);
    assert_eq!(trips_after(&mut world, 5), None);
    world.pass(3 * SECOND);
    assert_eq!(world.reason("app"), "consecutive-failures: 5");
}

// -- how soon workers know ----------------------------------------------------

#[test]
fn the_tick_is_a_quarter_of_the_shortest_time_within_bounds_and_is_logged() {
    for (app, tick) in [
        (json!({"readinessProbe": check(&json!({"periodSeconds": 0.5}))}), 125),
        (json!({"readinessProbe": check(&json!({"periodSeconds": 0.1}))}), 50),
        (json!({"circuitBreaker": {"notReadyFor": "400ms"}}), 100),
        (json!({"circuitBreaker": {}, "readinessProbe": check(&json!({"periodSeconds": 0.8}))}), 200),
        (json!({"circuitBreaker": {}}), 250),
    ] {
        let world = World::new(&policy(&app), 2);
        let said = format!("one tick every {tick} ms");
        assert_eq!(world.logged(&said).len(), 1, "{app}: {:?}", world.logged("loaded"));
    }
}

/// Lets time pass until all workers gate, or until none does. Returns how many milliseconds that took.
fn until_all(world: &mut World, workers: usize, gated: bool) -> u64 {
    let begun = world.now();
    let phase = if gated { "not-ready" } else { "ready" };
    while !(0..workers).all(|vm| world.seen(vm, 0).unwrap().phase.name() == phase) {
        assert!(world.now() < begun + 60_000);
        world.pass(MS);
    }
    world.now() - begun
}

#[test]
fn all_workers_gate_and_ungate_within_two_ticks_of_the_check_that_decides() {
    for offset in [1, 99, 180, 249] {
        let mut world = World::new(&policy(&json!({"readinessProbe": check(&json!({}))})), 4);
        (0..4).for_each(|vm| world.set_offset(vm, (vm as u64 * 60 + offset) % 250));
        world.pass(10 * SECOND);
        world.set("app", Manner::Refuses);
        let took = until_all(&mut world, 4, true);
        assert!(took <= 2_000 + 500, "{took}");
        world.set("app", Manner::Status(200));
        let took = until_all(&mut world, 4, false);
        assert!(took <= 1_000 + 500, "{took}");
    }
}

#[test]
fn the_worker_that_sees_the_last_failure_gates_at_once_and_all_do_within_two_ticks() {
    let mut world = World::new(&judged(&json!({})), 4);
    world.set("app", Manner::Status(500));
    for vm in [0, 0, 1, 1, 1] {
        world.pass(APART);
        assert!(!world.get(vm).is_gated());
    }
    assert!(world.get(1).is_gated());
    assert!(until_all(&mut world, 4, true) <= 500);
}

#[test]
fn one_vm_sends_the_checks_for_any_number_of_workers() {
    for workers in [1, 2, 16] {
        let mut world = World::new(&policy(&json!({"readinessProbe": check(&json!({}))})), workers);
        let sent = sent_in(&mut world, 100 * SECOND);
        assert!((99..=101).contains(&sent), "{sent} by {workers}");
    }
}

#[test]
fn another_vm_sends_the_checks_a_second_after_the_leader_died() {
    let mut world = World::new(&policy(&json!({"readinessProbe": check(&json!({}))})), 3);
    world.pass(5 * SECOND);
    for dead in 0..2 {
        world.kill(dead);
        let took = sends(&mut world, 2);
        assert!(took <= 3_300, "{took}");
    }
    world.set("app", Manner::Status(500));
    until(&mut world, "not-ready", 3 * SECOND);
}

#[test]
fn another_vm_ends_the_wait_if_the_leader_has_died() {
    let mut world = World::new(&judged(&json!({})), 2);
    world.set("app", Manner::Status(500));
    assert!(trips_after(&mut world, 5).is_some());
    world.kill(0);
    world.pass(7 * SECOND);
    assert_eq!(world.phase("app"), "trial");
}

#[test]
fn during_an_update_the_newer_policy_judges() {
    for (old, new, trips) in [(2, 6, 6), (6, 2, 2)] {
        let mut world = World::new(&judged(&json!({"consecutiveFailures": old})), 2);
        world.pass(SECOND);
        world.prepare(&judged(&json!({"consecutiveFailures": new})));
        assert!(world.configure_vm(1));
        world.pass(SECOND);
        world.set("app", Manner::Status(500));
        // The worker with the old policy only shares its evidence.
        for _ in 1..trips {
            world.get(0);
            world.pass(600 * MS);
            assert_eq!(world.phase("app"), "ready");
        }
        world.get(1);
        world.pass(600 * MS);
        assert_eq!(world.reason("app"), format!("consecutive-failures: {trips}"), "{old} to {new}");
    }
}

// -- when checks are sent -----------------------------------------------------

#[test]
fn checks_are_few_while_no_request_needs_the_upstream() {
    let fields = json!({"idlePeriodSeconds": 30});
    let mut policy = policy(&json!({"readinessProbe": check(&fields)}));
    policy["gates"][0]["match"] = json!([{"uri": {"prefix": "/api"}}]);
    let mut world = World::new(&policy, 2);
    world.pass(60 * SECOND);
    // Probes and requests for other upstreams do not need it.
    let mut idle = 0;
    for _ in 0..30 {
        world.get(0);
        readyz(&mut world);
        idle += sent_in(&mut world, 10 * SECOND);
    }
    assert!((9..=11).contains(&idle), "{idle}");
    let mut used = 0;
    for _ in 0..30 {
        world.ask(1, &Request::get("/api"));
        used += sent_in(&mut world, 10 * SECOND);
    }
    assert!((270..=305).contains(&used), "{used}");
    world.pass(60 * SECOND);
    let idle = sent_in(&mut world, 300 * SECOND);
    assert!((9..=11).contains(&idle), "{idle}");
}
