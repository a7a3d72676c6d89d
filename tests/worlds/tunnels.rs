//! Websockets and other tunnels: the response 101 counts, and how the tunnel ends does not.

use serde_json::json;

use super::sim::{Manner, Request, World};
use super::{SECOND, world};

/// How a tunnel may end, as the proxy says it.
const ENDS: [&str; 3] = [
    "upstream_reset_after_response_started{connection_termination}",
    "upstream_reset_after_response_started{remote_reset}",
    "downstream_remote_disconnect",
];

/// Opens a tunnel, with more headers than the fast path takes if `is_inspected`.
fn open(world: &mut World, is_inspected: bool) -> u32 {
    world.extra_headers = if is_inspected { 100 } else { 0 };
    let id = world.send(0, &Request::get("/socket").with("upgrade", "websocket"));
    assert!(world.is_open(id));
    world.respond(id, 101, "via_upstream", &[("upgrade", "websocket")], false);
    id
}

#[test]
fn tunnels_that_end_one_after_the_other_leave_the_upstream_ready() {
    for is_inspected in [false, true] {
        for end in ENDS {
            let mut world = world(&json!({"failurePercent": 50, "minimumRequests": 10}));
            for _ in 0..30 {
                let id = open(&mut world, is_inspected);
                world.pass(SECOND);
                world.end(id, end);
            }
            assert_eq!((world.phase("app"), world.state("app").generation), ("ready", 0), "{end}");
        }
    }
}

#[test]
fn tunnels_that_end_at_the_same_time_leave_the_upstream_ready() {
    let mut world = world(&json!({}));
    let tunnels: Vec<u32> = (0..30).map(|_| open(&mut world, true)).collect();
    for id in tunnels {
        world.end(id, ENDS[0]);
    }
    assert_eq!(world.phase("app"), "ready");
}

#[test]
fn a_tunnel_ends_a_row_of_failures_when_it_opens() {
    let mut world = world(&json!({"consecutiveFailures": 3}));
    for _ in 0..2 {
        world.set("app", Manner::Status(500));
        world.get(0);
        world.get(0);
        open(&mut world, false);
    }
    assert_eq!(world.phase("app"), "ready");
}

#[test]
fn tunnels_pass_a_trial_as_they_open() {
    let mut world = world(&json!({"trial": {"requests": 1, "successes": 3}}));
    world.set("app", Manner::Status(500));
    for _ in 0..5 {
        world.get(0);
    }
    world.pass(6 * SECOND);
    for _ in 0..3 {
        assert_eq!(world.phase("app"), "trial");
        let id = open(&mut world, false);
        world.end(id, ENDS[0]);
    }
    assert_eq!((world.phase("app"), world.reason("app").as_str()), ("ready", "trial-passed"));
}

#[test]
fn a_version_of_tunnels_is_not_rolled_back_for_how_they_end() {
    let version =
        |name: &str, default: bool| json!({"name": name, "upstream": name, "weight": 50, "default": default});
    let document = json!({
        "name": "shop",
        "upstreams": {"v1": {"cluster": "v1"}, "v2": {"cluster": "v2"}},
        "releases": [{
            "name": "shop",
            "steer": {"header": "x-version"},
            "hashOn": [{"httpHeaderName": "x-user"}],
            "versions": [version("v1", true), version("v2", false)],
            "rollback": {"failurePercent": 5, "minimumRequests": 50},
        }],
    });
    let mut world = World::new(&document, 1);
    world.routes = ["v1", "v2"].map(|name| (name.to_owned(), name.to_owned())).into();
    for user in 0..400 {
        let id = world.send(0, &Request::get("/").with("x-user", &user.to_string()));
        if world.answer(id).cluster == "v1" {
            world.respond(id, 200, "via_upstream", &[], true);
        } else {
            world.respond(id, 101, "via_upstream", &[], false);
            world.end(id, ENDS[0]);
        }
    }
    world.pass(5 * SECOND);
    assert_eq!(world.metric("rollbacks_total", &["release=shop"]), 0);
    assert_eq!(world.metric("responses_total", &["version=v2", "result=failure"]), 0);
    assert!(world.metric("responses_total", &["version=v2", "result=success"]) > 100);
}
