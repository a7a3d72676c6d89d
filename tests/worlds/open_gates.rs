//! Which worker records that a gate fails open: once for the proxy, whatever the order of policies, deaths and clocks.

use serde_json::{Value, json};

use super::SECOND;
use super::sim::{Manner, World};

/// A policy with one checked upstream, whose gate forwards requests when all upstreams are not ready, or replies.
fn policy(when_all_not_ready: &str) -> Value {
    json!({
        "name": "shop",
        "upstreams": {"app": {"cluster": "app", "readinessProbe": {"httpGet": {}, "periodSeconds": 1, "failureThreshold": 1}}},
        "gates": [{"upstream": "app", "whenAllNotReady": when_all_not_ready}],
    })
}

/// Lets the checks of the upstream fail or pass, for a minute.
fn check(world: &mut World, status: u16) {
    world.set_checks("app", Manner::Status(status));
    world.pass(60 * SECOND);
}

fn lines(world: &World) -> Vec<String> {
    world.logged("fails open")
}

#[test]
fn the_death_of_the_vm_that_was_configured_last_loses_no_line() {
    let mut world = World::new(&policy("forward"), 3);
    for vm in 0..3 {
        world.stall(3);
        assert!(world.configure_vm(vm));
        world.end_earlier(vm);
    }
    check(&mut world, 500);
    assert_eq!(lines(&world).len(), 1);
    // It was configured last, so it leads.
    world.kill(2);
    check(&mut world, 200);
    assert_eq!(lines(&world).len(), 2);
}

#[test]
fn an_update_after_the_clock_was_set_back_records_what_its_gates_do() {
    let mut world = World::new(&policy("forward"), 3);
    world.jump(-3_600_000);
    world.pass(5 * SECOND);
    let mut newer = policy("forward");
    newer["gates"][0]["reply"] = json!({"status": 429});
    assert!(world.configure(&newer));
    (0..3).for_each(|vm| world.end_earlier(vm));
    check(&mut world, 500);
    assert_eq!(lines(&world).len(), 1);
}

#[test]
fn an_update_without_such_gates_ends_it_also_after_the_clock_was_set_back() {
    let mut world = World::new(&policy("forward"), 3);
    check(&mut world, 500);
    world.jump(-3_600_000);
    assert!(world.configure(&policy("reply")));
    (0..3).for_each(|vm| world.end_earlier(vm));
    world.pass(5 * SECOND);
    assert_eq!(lines(&world).len(), 2);
}

#[test]
fn a_policy_that_comes_back_without_being_configured_again_records_what_its_gates_do() {
    let mut world = World::new(&policy("forward"), 3);
    // A newer one came and was taken back while the earlier one's listener drained.
    let mut newer = policy("forward");
    newer["gates"][0]["reply"] = json!({"status": 429});
    assert!(world.configure(&newer));
    world.pass(5 * SECOND);
    (0..3).for_each(|vm| world.end_root(vm, 1));
    world.pass(5 * SECOND);
    check(&mut world, 500);
    assert_eq!(lines(&world).len(), 1);
}

#[test]
fn a_policy_whose_gates_never_fail_open_has_no_key_for_them() {
    let mut world = World::new(&policy("reply"), 2);
    world.pass(5 * SECOND);
    assert!(world.keys().iter().all(|key| !key.contains("failing-open")));
}
