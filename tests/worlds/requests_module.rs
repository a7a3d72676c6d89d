//! The module that acts on the headers of requests alone. Nothing tells its VM which root a request belongs to, nor that a
//! root or a request has ended.

use graygate::policy::module::ModuleKind;
use serde_json::{Value, json};

use super::sim::{Request, World};
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

#[test]
fn a_request_leaves_nothing_in_the_worker() {
    let policy = json!({
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
    });
    let mut world = world(&policy);
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
