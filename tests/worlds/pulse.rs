//! A VM that dies is noticed and counted, and one that leaves in order is not.

use graygate::proxy::Level;
use serde_json::{Value, json};

use super::SECOND;
use super::sim::{Request, World};

/// Returns a policy whose workers tick, with this status of its gate.
fn checked(status: u16) -> Value {
    json!({
        "name": "shop",
        "upstreams": {"app": {"cluster": "app", "readinessProbe": {"httpGet": {}}}},
        "gates": [{"upstream": "app", "reply": {"status": status}}],
    })
}

/// Returns a world whose VMs have all been in use for a while.
fn used() -> World {
    let mut world = World::new(&checked(503), 3);
    serve(&mut world);
    world
}

/// Sends a request to each worker, and lets half a minute pass.
fn serve(world: &mut World) {
    for vm in 0..world.workers() {
        world.ask(vm, &Request::get("/"));
    }
    world.pass(30 * SECOND);
}

fn deaths(world: &World) -> u64 {
    world.metric("vm_deaths_total", &["plugin=plugin"])
}

#[test]
fn a_vm_that_dies_counts_once() {
    let mut world = used();
    assert_eq!(deaths(&world), 0);
    world.kill(1);
    world.pass(15 * SECOND);
    assert_eq!(deaths(&world), 0);
    world.pass(15 * SECOND);
    assert_eq!(deaths(&world), 1);
    world.pass(120 * SECOND);
    assert_eq!(deaths(&world), 1);
    let lines = world.logged_at("a VM has died");
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!(lines[0].0, Level::Error);
}

#[test]
fn a_vm_that_dies_counts_also_if_another_takes_its_place_at_once() {
    let mut world = used();
    world.kill(1);
    world.configure_vm(1);
    serve(&mut world);
    serve(&mut world);
    assert_eq!(deaths(&world), 1);
}

#[test]
fn two_vms_that_die_count_each() {
    let mut world = used();
    world.kill(0);
    world.kill(2);
    world.pass(30 * SECOND);
    assert_eq!(deaths(&world), 2);
}

#[test]
fn a_root_that_ends_is_no_death() {
    let mut world = used();
    for update in 1..4 {
        assert!(world.configure(&checked(503 - update)));
        world.pass(SECOND);
        for vm in 0..world.workers() {
            world.end_earlier(vm);
        }
        serve(&mut world);
        assert_eq!(deaths(&world), 0);
    }
    world.end_root(1, 3);
    world.pass(60 * SECOND);
    assert_eq!(deaths(&world), 0);
}

#[test]
fn a_policy_that_needs_no_ticks_any_more_is_no_death() {
    let mut world = used();
    let idle = json!({"name": "shop", "upstreams": {"app": {"cluster": "app"}}});
    assert!(world.configure(&idle));
    for vm in 0..world.workers() {
        world.end_earlier(vm);
        serve(&mut world);
    }
    world.configure(&checked(503));
    for vm in 0..world.workers() {
        world.end_earlier(vm);
    }
    serve(&mut world);
    assert_eq!(deaths(&world), 0);
}

#[test]
fn a_proxy_that_stands_still_as_a_whole_has_lost_no_vm() {
    let mut world = used();
    world.stall(600_000);
    world.pass(60 * SECOND);
    assert_eq!(deaths(&world), 0);
}
