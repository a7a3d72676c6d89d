//! The contexts of one VM: roots that end, and requests that outlive them.

use serde_json::json;

use super::sim::{Manner, Request, World};
use super::{SECOND, judged};

/// Returns a world with one request, which was sent on trial under a policy that has been replaced.
fn on_trial_under_a_replaced_policy() -> (World, u32) {
    let breaker = json!({"trial": {"requests": 1, "successes": 1}});
    let mut world = World::new(&judged(&breaker), 1);
    world.set("app", Manner::Status(500));
    for _ in 0..5 {
        world.get(0);
    }
    world.set("app", Manner::Status(200));
    world.pass(6 * SECOND);
    let id = world.send(0, &Request::get("/"));
    assert!(world.is_open(id));
    let mut replaced = judged(&breaker);
    replaced["gates"][0]["reply"] = json!({"status": 429});
    assert!(world.configure(&replaced));
    world.pass(SECOND);
    (world, id)
}

#[test]
fn a_request_that_outlives_its_root_returns_its_permit() {
    let (mut world, id) = on_trial_under_a_replaced_policy();
    world.end_root(0, 0);
    assert_eq!(world.get(0).status, 429);
    world.respond(id, 200, "via_upstream", &[], true);
    assert_eq!(world.phase("app"), "ready");
    assert_eq!(world.get(0).status, 200);
}

#[test]
fn a_request_of_a_replaced_policy_returns_its_permit() {
    let (mut world, id) = on_trial_under_a_replaced_policy();
    world.respond(id, 500, "via_upstream", &[], true);
    assert_eq!((world.phase("app"), world.reason("app").as_str()), ("not-ready", "trial-failed"));
}

#[test]
fn a_root_that_has_ended_gets_no_requests_and_no_ticks() {
    let mut world = World::new(&judged(&json!({})), 1);
    world.set("app", Manner::Status(500));
    world.end_root(0, 0);
    for _ in 0..10 {
        assert_eq!(world.get(0).status, 500);
    }
    world.pass(60 * SECOND);
    assert_eq!(world.phase("app"), "ready");
}

#[test]
fn a_refused_policy_gets_no_requests_and_keeps_the_previous_one_running() {
    let mut world = World::new(&judged(&json!({})), 1);
    let open = world.send(0, &Request::get("/"));
    assert!(!world.configure(&json!({"name": "shop", "gates": [{"upstream": "none"}]})));
    assert_eq!(world.logged("policy refused").len(), 1);
    world.respond(open, 200, "via_upstream", &[], true);
    world.pass(10 * SECOND);
    assert_eq!(world.phase("app"), "ready");
}

#[test]
fn a_root_that_has_ended_decides_nothing_while_one_of_its_requests_is_open() {
    let mut document = judged(&json!({}));
    document["upstreams"]["app"]["force"] = json!("notReady");
    document["gates"][0]["match"] = json!([{"uri": {"prefix": "/gated"}}]);
    let mut world = World::new(&document, 1);
    let open = world.send(0, &Request::get("/"));
    assert!(world.is_open(open));
    world.end_root(0, 0);
    assert!(!world.ask(0, &Request::get("/gated")).is_gated());
}
