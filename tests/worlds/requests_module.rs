//! The module that acts on the headers of requests alone. Nothing tells its VM which root a request belongs to, nor that a
//! root or a request has ended.

use core::time::Duration;

use graygate::policy::module::ModuleKind;
use serde_json::{Value, json};

use super::sim::{Manner, Request, World};
use super::{MS, SECOND};

/// Returns a policy of this name whose gate is closed and replies with this status.
fn closed(name: &str, status: u16) -> Value {
    json!({
        "name": name,
        "upstreams": {"app": {"cluster": "app", "force": "notReady"}},
        "gates": [{"upstream": "app", "match": [{"uri": {"prefix": "/"}}], "reply": {"status": status}}],
    })
}

fn world(policy: &Value) -> World {
    World::with_module(ModuleKind::Requests, policy, 3)
}

/// Returns the statuses that a request on each worker gets.
fn statuses(world: &mut World) -> Vec<u16> {
    (0..world.workers()).map(|vm| world.ask(vm, &Request::get("/")).status).collect()
}

#[test]
fn a_policy_that_needs_more_is_refused_with_its_keys_and_the_module_that_has_them() {
    let mut world = world(&closed("shop", 503));
    let mut needy = closed("shop", 504);
    needy["upstreams"]["app"]["circuitBreaker"] = json!({});
    needy["gates"][0]["whenAllNotReady"] = json!("forward");
    assert!(!world.configure(&needy));
    let lines = world.logged("graygate-requests.wasm");
    let expected =
        "this policy has upstreams.app.circuitBreaker, gates[0].whenAllNotReady; use graygate.wasm";
    assert!(lines[0].contains(expected), "{lines:?}");
    world.pass(5 * SECOND);
    assert_eq!(statuses(&mut world), [503; 3]);
}

#[test]
fn one_policy_of_several_that_needs_more_is_refused_by_its_place() {
    let mut needy = closed("needy", 504);
    needy["probes"] = json!({"grpc": {"services": [""]}});
    let mut first = closed("shop", 503);
    first["hosts"] = json!(["shop"]);
    let mut world = world(&first);
    assert!(!world.configure(&json!({"policies": [first, needy]})));
    let lines = world.logged("policies[1]");
    assert!(lines.iter().any(|line| line.contains("probes.grpc")), "{lines:?}");
}

#[test]
fn the_last_good_document_goes_on_if_the_policy_says_so() {
    let mut world = world(&closed("shop", 503));
    statuses(&mut world);
    world.pass(10 * SECOND);
    let mut needy = closed("shop", 504);
    needy["onWrongPolicy"] = json!("lastGood");
    needy["upstreams"]["app"]["circuitBreaker"] = json!({});
    assert!(world.configure(&needy));
    world.pass(10 * SECOND);
    assert_eq!(statuses(&mut world), [503; 3]);
}

#[test]
fn a_newer_document_decides_once_it_is_in_use() {
    let mut world = world(&closed("shop", 503));
    world.pass(10 * SECOND);
    assert_eq!(statuses(&mut world), [503; 3]);
    assert!(world.configure(&closed("shop", 504)));
    // The proxy may still refuse the document. The first requests show that it has not.
    world.pass(5 * SECOND);
    assert_eq!(statuses(&mut world), [503; 3]);
    world.pass(5 * MS);
    assert_eq!(statuses(&mut world), [504; 3]);
    for vm in 0..world.workers() {
        world.end_earlier(vm);
    }
    world.pass(60 * SECOND);
    assert_eq!(statuses(&mut world), [504; 3]);
    // What a request asks for is no tick that stays.
    assert_eq!(world.tick_of(0), 0);
}

#[test]
fn a_document_that_the_proxy_drops_without_a_word_decides_nothing() {
    let mut world = world(&closed("shop", 503));
    world.pass(10 * SECOND);
    for vm in 0..world.workers() {
        world.prepare(&closed("shop", 504));
        assert!(world.configure_vm(vm));
    }
    // The proxy loads the module of another filter, which takes seconds. Requests still come by the earlier document.
    world.newest_serves = false;
    for _ in 0..20 {
        world.pass(250 * MS);
        assert_eq!(statuses(&mut world), [503; 3]);
    }
    for vm in 0..world.workers() {
        world.end_root(vm, 1);
    }
    for _ in 0..20 {
        world.pass(250 * MS);
        assert_eq!(statuses(&mut world), [503; 3]);
    }
}

#[test]
fn a_restored_document_decides_again() {
    let mut world = world(&closed("shop", 503));
    for status in [504, 503, 504, 505] {
        assert!(world.configure(&closed("shop", status)));
        for _ in 0..3 {
            statuses(&mut world);
            world.pass(60 * MS);
        }
        assert_eq!(statuses(&mut world), [status; 3]);
        for vm in 0..world.workers() {
            world.end_earlier(vm);
        }
        assert_eq!(statuses(&mut world), [status; 3]);
    }
}

#[test]
fn a_document_with_other_policies_is_refused_while_another_of_its_plugin_is_there() {
    let mut world = world(&closed("shop", 503));
    world.pass(10 * SECOND);
    assert!(!world.configure(&closed("cart", 504)));
    let lines = world.logged("already has a policy named shop");
    assert!(lines[0].contains("give each plugin a `name` of its own"), "{lines:?}");
    assert_eq!(statuses(&mut world), [503; 3]);
}

#[test]
fn a_proxy_that_stands_still_keeps_both_documents() {
    let mut world = world(&closed("shop", 503));
    assert!(world.configure(&closed("shop", 504)));
    statuses(&mut world);
    world.pass(10 * SECOND);
    for _ in 0..5 {
        world.stall(60_000);
        world.pass(SECOND);
        assert_eq!(statuses(&mut world), [504; 3]);
    }
    // The newer one ends, and the earlier one is still there.
    for vm in 0..world.workers() {
        world.end_root(vm, 1);
    }
    assert_eq!(statuses(&mut world), [503; 3]);
}

/// Returns a policy with a release of two versions, each of which gets half of the users.
fn halves() -> Value {
    json!({
        "name": "shop",
        "upstreams": {"v1": {"cluster": "v1"}, "v2": {"cluster": "v2"}},
        "releases": [{
            "name": "shop",
            "match": [{"uri": {"prefix": "/"}}],
            "steer": {"header": "x-version"},
            "hashOn": [{"httpHeaderName": "x-user"}],
            "versions": [
                {"name": "v1", "upstream": "v1", "weight": 50, "default": true},
                {"name": "v2", "upstream": "v2", "weight": 50},
            ],
        }],
    })
}

#[test]
fn a_request_leaves_nothing_in_the_worker() {
    let mut world = world(&halves());
    for user in 0..100 {
        let id = world.send(0, &Request::get("/").with("x-user", &user.to_string()));
        assert!(matches!(world.sent_header(id, "x-version").as_deref(), Some("v1" | "v2")));
        assert!(!world.has_exchange(0, id));
        world.leave(id);
    }
}

#[test]
fn a_vm_that_dies_counts_and_one_that_leaves_does_not() {
    let policy = |status| {
        json!({
            "name": "shop",
            "upstreams": {"app": {"cluster": "app", "readinessProbe": {"httpGet": {}}}},
            "gates": [{"upstream": "app", "reply": {"status": status}}],
        })
    };
    let deaths = |world: &World| world.metric("vm_deaths_total", &["plugin=plugin"]);
    let mut world = world(&policy(503));
    statuses(&mut world);
    world.pass(30 * SECOND);
    for status in [504, 505] {
        assert!(world.configure(&policy(status)));
        world.pass(20 * SECOND);
        for vm in 0..world.workers() {
            world.end_earlier(vm);
        }
        world.pass(60 * SECOND);
        assert_eq!(deaths(&world), 0);
    }
    world.kill(1);
    world.pass(30 * SECOND);
    assert_eq!(deaths(&world), 1);
    // All the others leave at the same time.
    world.end_root(0, 2);
    world.end_root(2, 2);
    world.pass(120 * SECOND);
    assert_eq!(deaths(&world), 1);
}

/// Sends requests of many users to all workers. Each request takes `millis` milliseconds.
fn send_for(world: &mut World, requests: usize, millis: u64) {
    for user in 0..requests {
        let vm = user % world.workers();
        let id = world.send(vm, &Request::get("/").with("x-user", &user.to_string()));
        world.pass(Duration::from_millis(millis));
        world.respond_as(id, &Manner::Status(200));
    }
}

fn misrouted(world: &World) -> [u64; 2] {
    let labels = |version| ["policy=shop", "release=shop", version];
    ["version=v1", "version=v2"].map(|version| world.metric("misrouted_requests_total", &labels(version)))
}

#[test]
fn a_version_whose_requests_reach_another_is_counted_and_warned_of_once() {
    let mut world = world(&halves());
    // No route matches the header, so all requests take the default one.
    world.route = "v1".to_owned();
    world.pass(SECOND);
    send_for(&mut world, 400, 3);
    let [v1, v2] = misrouted(&world);
    assert_eq!(v1, 0);
    assert!(v2 > 50, "{v2}");
    let warnings = world.logged("requests of v2 go to cluster");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    // Nothing of it is left.
    world.pass(SECOND);
    assert_eq!(world.tick_of(0), 0);
}

#[test]
fn requests_that_reach_their_version_count_nothing() {
    let mut world = world(&halves());
    world.route = "v1".to_owned();
    world.routes.insert("v2".to_owned(), "v2".to_owned());
    world.pass(SECOND);
    send_for(&mut world, 400, 3);
    assert_eq!((misrouted(&world), world.logged("requests of v").len()), ([0, 0], 0));
}

#[test]
fn a_request_that_ends_before_the_tick_tells_nothing() {
    let mut world = world(&halves());
    world.route = "v1".to_owned();
    world.pass(SECOND);
    send_for(&mut world, 400, 0);
    world.pass(SECOND);
    assert_eq!((misrouted(&world), world.logged("requests of v").len()), ([0, 0], 0));
    assert_eq!(world.tick_of(0), 0);
}

#[test]
fn a_request_that_another_filter_has_is_looked_at_once_the_router_has_it() {
    let mut world = world(&halves());
    world.route = "v1".to_owned();
    world.pass(SECOND);
    for user in 0..50 {
        world.held_up = true;
        let id = world.send(0, &Request::get("/").with("x-user", &user.to_string()));
        world.pass(5 * MS);
        world.held_up = false;
        world.route(id);
        world.pass(5 * MS);
        world.respond_as(id, &Manner::Status(200));
    }
    assert!(misrouted(&world)[1] > 10, "{:?}", misrouted(&world));
}

#[test]
fn looks_at_requests_put_no_check_off() {
    let checked =
        |period: f64| json!({"cluster": "v1", "readinessProbe": {"httpGet": {}, "periodSeconds": period}});
    let mut policy = halves();
    policy["upstreams"]["v1"] = checked(1.0);
    let mut world = world(&policy);
    world.route = "v1".to_owned();
    world.pass(5 * SECOND);
    let before = world.calls_to("v1").len();
    // After each tick, a request is looked at.
    send_for(&mut world, 4_000, 5);
    let sent = world.calls_to("v1").len() - before;
    assert!((19..=21).contains(&sent), "{sent}");
    assert!(misrouted(&world)[1] > 50, "{:?}", misrouted(&world));
}

#[test]
fn looks_go_on_after_one_at_a_request_of_an_earlier_document() {
    let mut world = world(&halves());
    world.route = "v1".to_owned();
    world.pass(SECOND);
    let mut next = halves();
    next["releases"][0]["versions"][1]["weight"] = json!(60);
    assert!(world.configure(&next));
    // The newer document is in use, and decides on the requests of both.
    for _ in 0..3 {
        send_for(&mut world, 3, 30);
    }
    world.newest_serves = false;
    send_for(&mut world, 30, 3);
    world.newest_serves = true;
    let before = misrouted(&world)[1];
    send_for(&mut world, 400, 3);
    assert!(misrouted(&world)[1] > before + 30, "{before}, {:?}", misrouted(&world));
    world.pass(SECOND);
    assert_eq!(world.tick_of(0), 0);
}

#[test]
fn a_version_whose_requests_end_soon_is_not_judged_by_the_others() {
    let mut world = world(&halves());
    world.routes = [("v1", "v1"), ("v2", "v2")].map(|(name, to)| (name.to_owned(), to.to_owned())).into();
    world.pass(SECOND);
    send_for(&mut world, 100, 3);
    assert_eq!(misrouted(&world), [0, 0]);
    let mut world = World::with_module(ModuleKind::Requests, &halves(), 1);
    world.routes.insert("v1".to_owned(), "v1".to_owned());
    world.route = "other".to_owned();
    world.pass(SECOND);
    // Of those that have the header of v2, some end within a millisecond. They may have reached v2.
    for turn in 0..2_000_u32 {
        let id = world.send(0, &Request::get("/").with("x-user", &turn.to_string()));
        let is_quick = turn % 3 == 0;
        world.pass(Duration::from_millis(if is_quick { 0 } else { 3 }));
        world.respond_as(id, &Manner::Status(200));
    }
    assert_eq!((misrouted(&world), world.logged("requests of v").len()), ([0, 0], 0));
}

#[test]
fn a_proxy_with_a_missing_route_ticks_no_more_than_it_has_to() {
    let mut world = World::with_module(ModuleKind::Requests, &halves(), 1);
    world.route = "v1".to_owned();
    world.pass(SECOND);
    send_for(&mut world, 2_000, 2);
    let looks = misrouted(&world)[1];
    assert!((10..200).contains(&looks), "{looks} of about 1,000 requests");
}
