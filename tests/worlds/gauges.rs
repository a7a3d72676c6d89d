//! Gauges end with what they are about: an upstream, a version, a release or a policy that leaves.

use serde_json::{Value, json};

use super::releases::{at, later, probe, share, shop, world_of};
use super::sim::{Manner, Request, World};
use super::{MS, SECOND};

/// Returns a policy with these weights whose upstreams are all checked.
fn checked(weights: &[u32]) -> Value {
    let mut document = shop(weights);
    for upstream in document["upstreams"].as_object_mut().unwrap().values_mut() {
        upstream["readinessProbe"] = probe();
    }
    document
}

/// Returns a world in which v2 is not ready.
fn world(weights: &[u32], workers: usize) -> World {
    let mut world = world_of(&checked(weights), workers);
    world.set_checks("app-v2", Manner::Status(500));
    world.pass(3 * SECOND);
    assert_eq!((ready(&world, "up-1"), ready(&world, "up-2")), (1, 0));
    world
}

fn ready(world: &World, upstream: &str) -> u64 {
    world.metric("upstream_ready", &["policy=shop", &format!("upstream={upstream}")])
}

fn of_policy(world: &World, name: &str) -> (u64, bool) {
    let label = format!("policy={name}");
    (world.metric("policy_enforced", &[&label]), world.metric("policy_document", &[&label]) > 0)
}

/// Lets time pass in small steps, and checks at each that the shares of the release add up.
fn pass_and_add_up(world: &mut World, millis: u32) {
    for _ in 0..millis / 10 {
        world.pass(10 * MS);
        assert_eq!(world.metric("version_share_basis_points", &["policy=shop", "release=web"]), 10_000);
    }
}

/// Ends the roots of the earlier policies on all VMs, as after a drain.
fn drain(world: &mut World) {
    (0..world.workers()).for_each(|vm| world.end_earlier(vm));
}

#[test]
fn an_upstream_and_a_version_that_leave_count_as_ready_and_as_without_a_share() {
    let mut world = world(&[70, 20, 10], 3);
    world.configure(&checked(&[70]));
    // The earlier workers tick all this time.
    pass_and_add_up(&mut world, 3_000);
    assert_eq!((share(&world, "v1"), share(&world, "v2"), share(&world, "v3")), (10_000, 0, 0));
    assert_eq!((ready(&world, "up-1"), ready(&world, "up-2")), (1, 1));
    drain(&mut world);
    pass_and_add_up(&mut world, 3_000);
    assert_eq!((share(&world, "v1"), ready(&world, "up-2")), (10_000, 1));
    assert_eq!(of_policy(&world, "shop"), (1, true));
    // A version that comes back has a share again, and its upstream is not ready again.
    world.configure(&checked(&[50, 50]));
    pass_and_add_up(&mut world, 4_000);
    assert_eq!((share(&world, "v2"), ready(&world, "up-2")), (5_000, 0));
}

#[test]
fn a_release_that_leaves_has_no_shares() {
    let mut world = world(&[1, 1], 2);
    let mut renamed = checked(&[1, 3]);
    renamed["releases"][0]["name"] = json!("other");
    world.configure(&renamed);
    world.pass(2 * SECOND);
    assert_eq!(world.metric("version_share_basis_points", &["release=web"]), 0);
    assert_eq!(world.metric("version_share_basis_points", &["release=other"]), 10_000);
    let mut none = checked(&[1, 1]);
    none["releases"] = json!([]);
    world.configure(&none);
    world.pass(2 * SECOND);
    assert_eq!(world.metric("version_share_basis_points", &[]), 0);
}

#[test]
fn an_upstream_that_is_no_longer_watched_counts_as_ready() {
    let mut world = world(&[1, 1], 2);
    world.configure(&shop(&[1, 1]));
    world.pass(2 * SECOND);
    assert_eq!(ready(&world, "up-2"), 1);
}

#[test]
fn workers_of_an_older_document_set_no_gauge() {
    let mut world = world(&[1, 1], 3);
    let mut moved = checked(&[1, 1]);
    moved["upstreams"]["up-2"]["cluster"] = json!("app-v3");
    world.set("app-v3", Manner::Status(200));
    world.configure(&moved);
    world.pass(2 * SECOND);
    // The earlier workers go on checking app-v2, which fails.
    for _ in 0..100 {
        world.pass(20 * MS);
        assert_eq!(ready(&world, "up-2"), 1);
    }
    // An earlier release that would still move by its schedule does not move the gauges.
    let mut moving = checked(&[1, 0]);
    moving["releases"][0]["schedule"] = json!([{"at": at(120), "weights": {"v1": 0, "v2": 1}}]);
    world.configure(&moving);
    world.pass(SECOND);
    world.configure(&checked(&[3, 1]));
    world.pass(SECOND);
    later(&mut world, 180);
    assert_eq!((share(&world, "v1"), share(&world, "v2")), (7_500, 2_500));
}

#[test]
fn a_policy_whose_name_leaves_the_proxy_ends_once_its_listener_has_drained() {
    let mut world = world(&[1, 1], 3);
    let mut renamed = checked(&[1, 1]);
    renamed["name"] = json!("store");
    world.configure(&renamed);
    world.pass(2 * SECOND);
    // The last connections of the old listener are still served by the old policy.
    assert_eq!((of_policy(&world, "shop"), of_policy(&world, "store")), ((1, true), (1, true)));
    drain(&mut world);
    assert_eq!((of_policy(&world, "shop"), of_policy(&world, "store")), ((0, false), (1, true)));
    assert_eq!(ready(&world, "up-2"), 1);
    assert_eq!(world.metric("version_share_basis_points", &["policy=shop"]), 0);
    assert_eq!(world.metric("version_share_basis_points", &["policy=store"]), 10_000);
    world.pass(5 * SECOND);
    assert_eq!(of_policy(&world, "shop"), (0, false));
    // The first name comes back with the same document.
    world.configure(&checked(&[1, 1]));
    world.pass(2 * SECOND);
    drain(&mut world);
    world.pass(2 * SECOND);
    assert_eq!((of_policy(&world, "shop"), of_policy(&world, "store")), ((1, true), (0, false)));
    assert_eq!(world.metric("version_share_basis_points", &["policy=shop"]), 10_000);
    assert_eq!(ready(&world, "up-2"), 0);
}

#[test]
fn no_mode_leaves_a_gauge_of_another_behind() {
    let mut world = world(&[1, 1], 2);
    for (mode, enforced, shares) in [("shadow", 0, 10_000), ("off", 0, 0), ("enforce", 1, 10_000)] {
        let mut document = checked(&[1, 1]);
        document["mode"] = json!(mode);
        world.configure(&document);
        world.pass(3 * SECOND);
        for _ in 0..2 {
            assert_eq!(of_policy(&world, "shop"), (enforced, true), "{mode}");
            assert_eq!(world.metric("version_share_basis_points", &[]), shares, "{mode}");
            assert_eq!(ready(&world, "up-2"), u64::from(mode == "off"), "{mode}");
            drain(&mut world);
            world.pass(SECOND);
        }
    }
    assert_eq!(
        world
            .metric_names()
            .iter()
            .filter(|name| name.contains("mode=.=") && !name.contains("_total."))
            .count(),
        0
    );
}

#[test]
fn the_gauges_of_a_document_stay_when_its_roots_are_replaced_by_others_with_the_same() {
    let mut world = world(&[1, 1], 3);
    for _ in 0..2 {
        // Both soon after and long after, as with a restart of the listener and with another module.
        for pause in [1, 30] {
            world.configure(&checked(&[1, 1]));
            world.pass(pause * SECOND);
            drain(&mut world);
            pass_and_add_up(&mut world, 1_000);
            assert_eq!(of_policy(&world, "shop"), (1, true));
            assert_eq!((ready(&world, "up-1"), ready(&world, "up-2")), (1, 0));
        }
    }
}

#[test]
fn gauges_end_though_a_vm_has_died_and_come_back() {
    let mut world = world(&[1, 1], 3);
    world.pass(20 * SECOND);
    world.kill(1);
    world.configure_vm(1);
    pass_and_add_up(&mut world, 2_000);
    let mut renamed = checked(&[1, 1]);
    renamed["name"] = json!("store");
    world.configure(&renamed);
    world.pass(2 * SECOND);
    drain(&mut world);
    assert_eq!(of_policy(&world, "shop"), (0, false));
    assert_eq!(world.metric("version_share_basis_points", &["policy=shop"]), 0);
}

#[test]
fn a_policy_that_is_only_tried_ends_no_gauge() {
    let mut world = world(&[1, 1], 3);
    // The proxy validates a document in a VM and then refuses it.
    world.prepare(&checked(&[1]));
    world.configure_vm(0);
    world.end_root(0, 1);
    pass_and_add_up(&mut world, 1_000);
    assert_eq!((share(&world, "v2"), ready(&world, "up-2")), (5_000, 0));
    assert_eq!(of_policy(&world, "shop"), (1, true));
}

#[test]
fn lost_writes_delay_the_end_of_gauges_and_do_not_prevent_it() {
    let mut world = world(&[1, 1], 3);
    world.lose(40);
    world.configure(&checked(&[1]));
    world.pass(3 * SECOND);
    assert_eq!((share(&world, "v1"), share(&world, "v2"), ready(&world, "up-2")), (10_000, 0, 1));
}

#[test]
fn the_gauge_of_a_drain_follows_the_orders_and_ends_with_the_switch_and_with_the_policy() {
    let with_switch = |mode: &str| {
        let mut document = checked(&[1, 1]);
        document["mode"] = json!(mode);
        document["probes"] = json!({"readiness": {"path": "/readyz"}, "drain": {"path": "/drainz"}});
        document
    };
    let draining = |world: &World| world.metric("draining", &["policy=shop"]);
    let mut world = world_of(&with_switch("enforce"), 3);
    world.pass(SECOND);
    assert!(world.metric_names().iter().any(|name| name.starts_with("graygate_draining.")));
    assert_eq!(draining(&world), 0);
    for (method, expected) in [("POST", 1), ("DELETE", 0), ("POST", 1)] {
        assert_eq!(world.ask(1, &Request::of(method, "/drainz")).status, 200);
        world.pass(SECOND);
        assert_eq!(draining(&world), expected, "{method}");
    }
    // The drain goes on in every mode. In mode off, nothing answers the probe.
    for (mode, expected) in [("shadow", 1), ("off", 0), ("enforce", 1)] {
        world.configure(&with_switch(mode));
        world.pass(SECOND);
        drain(&mut world);
        assert_eq!(draining(&world), expected, "{mode}");
    }
    world.configure(&checked(&[1, 1]));
    world.pass(SECOND);
    drain(&mut world);
    assert_eq!(draining(&world), 0, "no switch");
    world.configure(&with_switch("enforce"));
    world.pass(SECOND);
    world.ask(0, &Request::of("POST", "/drainz"));
    world.pass(SECOND);
    assert_eq!(draining(&world), 1);
    let mut renamed = with_switch("enforce");
    renamed["name"] = json!("store");
    world.configure(&renamed);
    world.pass(SECOND);
    drain(&mut world);
    assert_eq!(draining(&world), 0, "another name");
}
