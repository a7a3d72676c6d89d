//! Gauges and log lines with which a proxy reports its own state.

use serde_json::json;

use super::SECOND;
use super::releases::{held, probe, shop, world_of};
use super::sim::Manner;

#[test]
fn a_gauge_shows_whether_an_upstream_is_ready() {
    let mut document = shop(&[1, 1]);
    document["upstreams"]["up-1"]["readinessProbe"] = probe();
    document["upstreams"]["up-2"]["readinessProbe"] = probe();
    document["upstreams"]["up-2"]["force"] = json!("notReady");
    let mut world = world_of(&document, 2);
    for (manner, ready) in [(Manner::Status(200), 1), (Manner::Refuses, 0), (Manner::Status(200), 1)] {
        world.set("app-v1", manner);
        world.pass(3 * SECOND);
        assert_eq!(world.metric("upstream_ready", &["upstream=up-1"]), ready);
        assert_eq!(world.metric("upstream_ready", &["upstream=up-2"]), 0);
    }
}

#[test]
fn each_proxy_reports_its_mode_and_the_hash_of_its_policy() {
    let mut documents = Vec::new();
    for (mode, percent, enforced) in
        [("enforce", 100, 1), ("enforce", 0, 0), ("shadow", 100, 0), ("off", 100, 0)]
    {
        let mut document = shop(&[1, 1]);
        document["mode"] = json!(mode);
        document["rollout"] = json!({"percent": percent});
        let shown = [1, 3].map(|workers| {
            let mut world = world_of(&document, workers);
            world.pass(SECOND);
            assert_eq!(world.metric("policy_enforced", &[]), enforced, "{mode}, {percent} %");
            world.metric("policy_document", &[])
        });
        assert!(shown[0] == shown[1] && shown[0] > 0);
        assert!(!documents.contains(&shown[0]));
        documents.push(shown[0]);
    }
}

#[test]
fn the_log_has_a_line_per_policy_and_transition_and_none_per_request() {
    let mut document = shop(&[1, 1]);
    document["upstreams"]["up-1"]["readinessProbe"] = probe();
    let mut world = world_of(&document, 3);
    held(&mut world, 1, 100);
    world.set("app-v1", Manner::Refuses);
    world.pass(3 * SECOND);
    held(&mut world, 2, 100);
    world.set("app-v1", Manner::Status(200));
    world.pass(3 * SECOND);
    assert_eq!(
        world.logged(""),
        [
            "policy shop: loaded: 2 upstreams, 0 probes, 1 release, 0 gates, one tick every 250 ms",
            "policy shop: upstream up-1: ready -> not-ready (check-failed: could not be reached)",
            "policy shop: upstream up-1: not-ready -> ready (check-passed)",
        ]
    );
}

#[test]
fn a_rollout_selects_proxies_by_node_and_keeps_them_as_it_grows() {
    let mut document = shop(&[1, 1]);
    document["name"] = json!("reviews");
    let mut world = world_of(&document, 1);
    world.pass(SECOND);
    let mut enforcing = |number: u32, percent: u32| {
        let node = format!("sidecar~10.0.0.{number}~shop-{number}.shop~shop.svc.cluster.local");
        *world.around.node.borrow_mut() = node;
        document["rollout"] = json!({"percent": percent});
        world.configure(&document);
        world.pass(SECOND);
        world.metric("policy_enforced", &["policy=reviews"]) == 1
    };
    let half: Vec<bool> = (0..6).map(|number| enforcing(number, 50)).collect();
    assert_eq!(half, [false, false, true, false, false, true]);
    for (number, had) in (0..6).zip(half) {
        assert!(!had || enforcing(number, 75));
        assert!(!enforcing(number, 0) && enforcing(number, 100));
    }
}
