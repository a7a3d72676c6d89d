//! Replaced policies and restarted VMs: known states stay, and the newer policy decides.

use serde_json::{Value, json};

use super::sim::{Manner, Request, World};
use super::{MS, SECOND, judged};

/// Returns a policy with a gate and a check on `app`, and with these fields in the upstream.
fn checked(fields: &Value) -> Value {
    let mut upstream = json!({
        "cluster": "app", "readinessProbe": {"httpGet": {}, "periodSeconds": 0.5, "failureThreshold": 2},
    });
    upstream.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    json!({"name": "shop", "upstreams": {"app": upstream}, "gates": [{"upstream": "app"}]})
}

/// Fails requests until `app` is not ready.
fn trip(world: &mut World) {
    world.set("app", Manner::Status(500));
    (0..5).for_each(|_| assert_eq!(world.get(0).status, 500));
    assert_eq!(world.phase("app"), "not-ready");
}

fn transitions(world: &World) -> u64 {
    world.metric("transitions_total", &[])
}

/// Returns how many checks are sent in this many seconds.
fn checks_in(world: &mut World, seconds: u32) -> usize {
    let before = world.around.called.borrow().len();
    world.pass(seconds * SECOND);
    world.around.called.borrow().len() - before
}

#[test]
fn a_change_of_thresholds_weights_and_gates_keeps_the_state() {
    let mut world = World::new(&checked(&json!({})), 3);
    world.set("app", Manner::Status(500));
    world.pass(3 * SECOND);
    for threshold in 3..6 {
        let mut policy = checked(&json!({}));
        policy["upstreams"]["app"]["readinessProbe"]["failureThreshold"] = json!(threshold);
        policy["gates"]
            .as_array_mut()
            .unwrap()
            .push(json!({"upstream": "app", "match": [{"uri": {"prefix": "/x"}}]}));
        assert!(world.configure(&policy));
        // No tick comes in between.
        (0..3).for_each(|vm| assert!(world.get(vm).is_gated()));
        world.pass(2 * SECOND);
    }
    assert_eq!(transitions(&world), 1);
}

#[test]
fn a_longer_wait_applies_from_the_update() {
    let mut world = World::new(&judged(&json!({"notReadyFor": "500ms"})), 2);
    let under_way = world.send(0, &Request::get("/"));
    world.configure(&judged(&json!({"notReadyFor": "1h"})));
    world.pass(SECOND);
    trip(&mut world);
    world.pass(3_500 * SECOND);
    assert_eq!((world.phase("app"), transitions(&world)), ("not-ready", 1));
    // A request of the earlier policy has been open all the time.
    assert!(world.is_open(under_way));
}

#[test]
fn a_removed_breakers_verdict_ends_with_it() {
    // The upstream stays checked, or is no longer watched at all.
    for upstream in [
        checked(&json!({})),
        json!({"name": "shop", "upstreams": {"app": {"cluster": "app"}},
        "gates": [{"upstream": "app"}]}),
    ] {
        let checks = upstream["upstreams"]["app"]["readinessProbe"].is_object();
        let mut world = match checks {
            true => World::new(&checked(&json!({"circuitBreaker": {"notReadyFor": "1h"}})), 2),
            false => World::new(&judged(&json!({"notReadyFor": "1h"})), 2),
        };
        world.set_checks("app", Manner::Hangs);
        trip(&mut world);
        world.set("app", Manner::Status(200));
        world.configure(&upstream);
        world.pass(SECOND);
        assert_eq!((world.get(0).status, world.get(1).status), (200, 200), "{upstream}");
    }
}

#[test]
fn a_breaker_added_while_checks_fail_keeps_the_gate_closed() {
    let mut world = World::new(&checked(&json!({})), 2);
    world.set_checks("app", Manner::Status(500));
    world.pass(3 * SECOND);
    world.configure(&checked(&json!({"circuitBreaker": {"notReadyFor": "1s"}})));
    for _ in 0..600 {
        assert!(world.get(0).is_gated() && world.get(1).is_gated());
        world.pass(SECOND);
    }
    assert_eq!(transitions(&world), 1);
}

#[test]
fn a_changed_assumption_applies_only_before_the_first_verdict() {
    let assume = |word: &str| {
        let mut policy = checked(&json!({"assume": word}));
        policy["upstreams"]["app"]["readinessProbe"]["initialDelaySeconds"] = json!(100);
        policy
    };
    let mut world = World::new(&assume("notReady"), 2);
    for (word, gated) in [("ready", false), ("notReady", true), ("ready", false)] {
        world.pass(SECOND);
        world.configure(&assume(word));
        assert_eq!((world.get(0).is_gated(), world.get(1).is_gated()), (gated, gated), "at once");
        world.pass(SECOND);
        assert_eq!((world.get(0).is_gated(), world.get(1).is_gated()), (gated, gated));
    }
    world.set_checks("app", Manner::Status(500));
    world.pass(110 * SECOND);
    assert!(world.get(0).is_gated());
    world.configure(&assume("notReady"));
    world.configure(&assume("ready"));
    world.pass(SECOND);
    assert!(world.get(0).is_gated(), "the checks have said otherwise");
}

#[test]
fn after_updates_one_worker_still_sends_the_checks() {
    let mut world = World::new(&checked(&json!({})), 4);
    for threshold in 2..6 {
        let mut policy = checked(&json!({}));
        policy["upstreams"]["app"]["readinessProbe"]["successThreshold"] = json!(threshold);
        world.configure(&policy);
        // The workers of all earlier policies still tick.
        assert!((19..=21).contains(&checks_in(&mut world, 10)));
    }
    (0..4).for_each(|vm| world.end_earlier(vm));
    assert!((19..=21).contains(&checks_in(&mut world, 10)));
}

#[test]
fn a_restored_policy_is_checked_when_the_one_in_between_has_ended() {
    let (policy, between) = (checked(&json!({})), checked(&json!({"circuitBreaker": {}})));
    let mut world = World::new(&policy, 2);
    for document in [&between, &policy] {
        world.pass(200 * MS);
        world.configure(document);
    }
    (0..2).for_each(|vm| world.end_earlier(vm));
    // The previous leader's lease takes a second to expire.
    world.pass(2 * SECOND);
    assert!((19..=21).contains(&checks_in(&mut world, 10)));
}

#[test]
fn a_policy_is_logged_once_for_any_number_of_vms() {
    let mut world = World::new(&checked(&json!({})), 4);
    assert_eq!(
        world
            .logged("policy shop: loaded: 1 upstream, 0 probes, 0 releases, 1 gate, one tick every 125 ms")
            .len(),
        1
    );
    world.kill(1);
    world.configure_vm(1);
    assert_eq!(world.logged("loaded: ").len(), 1);
    world.configure(&judged(&json!({})));
    assert_eq!(world.logged("loaded: ").len(), 2);
}

#[test]
fn mode_off_has_no_effect() {
    let mut policy = checked(&json!({"force": "notReady", "circuitBreaker": {}}));
    policy["mode"] = json!("off");
    policy["probes"] = json!({"liveness": {"path": "/livez"}});
    let mut world = World::new(&policy, 2);
    assert_eq!(checks_in(&mut world, 60), 0);
    let request = Request::get("/livez").with("x-version", "v2");
    let id = world.start(0, &request);
    assert_eq!(world.forwarded_headers(id).len(), request.headers.len());
    world.pass(SECOND);
    assert_eq!((world.answer(id).status, world.answer(id).cluster.as_str()), (200, "app"));
}

#[test]
fn a_restarted_vm_knows_what_the_others_know() {
    let mut world = World::new(&judged(&json!({"notReadyFor": "1h"})), 1);
    trip(&mut world);
    world.kill(0);
    world.pass(60 * SECOND);
    world.configure_vm(0);
    let answer = world.get(0);
    assert_eq!(answer.details, "graygate_gate{shop|app|consecutive-failures}");
}

#[test]
fn another_worker_ends_a_wait_if_the_leader_has_died() {
    let mut world = World::new(&judged(&json!({"notReadyFor": "3s"})), 3);
    trip(&mut world);
    // One leader is left, whichever it is.
    world.pass(SECOND);
    world.kill(0);
    world.pass(SECOND);
    world.kill(1);
    world.set("app", Manner::Status(200));
    world.pass(3 * SECOND);
    assert_eq!(world.phase("app"), "trial");
    (0..3).for_each(|_| assert_eq!(world.get(2).status, 200));
    assert_eq!(world.phase("app"), "ready");
}

/// Keys cannot be deleted, so no request may add one: neither a trial, nor a rollback, nor a probe.
#[test]
fn the_number_of_shared_keys_is_bounded_by_the_policy() {
    let policy = |weight: u32| {
        let breaker = json!({"consecutiveFailures": 3, "notReadyFor": "200ms"});
        let versions = json!([
            {"name": "v1", "upstream": "app", "weight": 90, "default": true},
            {"name": "v2", "upstream": "v2", "weight": weight},
        ]);
        json!({
            "name": "shop",
            "upstreams": {"app": {"cluster": "app", "circuitBreaker": breaker}, "v2": {"cluster": "v2"}},
            "probes": {
                "liveness": {"path": "/livez", "passThrough": {"cacheSeconds": 1}},
                "startup": {"path": "/startupz", "checks": [{"upstream": "app"}]},
                "readiness": {"path": "/readyz", "checks": [{"upstream": "app"}]},
                "drain": {"path": "/drainz"},
            },
            "releases": [{"name": "shop", "steer": {"header": "x-version"}, "hashOn": [{"httpHeaderName": "x-user"}],
                "versions": versions, "rollback": {"failurePercent": 50, "minimumRequests": 10}}],
            "gates": [{"upstream": "app", "whenAllNotReady": "forward"}],
        })
    };
    let mut world = World::new(&policy(10), 3);
    world.routes = [("v2".to_owned(), "v2".to_owned())].into();
    let mut known = None;
    for round in 0..4u32 {
        for status in [500, 200] {
            world.set("app", Manner::Status(status));
            for user in 0..60 {
                let path = format!("/{user}?q={user}");
                world.ask(user % 3, &Request::get(&path).with("x-user", &format!("user-{round}-{user}")));
            }
            for probe in ["/livez", "/readyz?verbose", "/startupz", "/readyz/app"] {
                world.ask(0, &Request::get(probe));
            }
            world.ask(0, &Request::of(if status == 500 { "POST" } else { "DELETE" }, "/drainz"));
            world.pass(SECOND);
        }
        let keys = world.keys();
        assert!(keys.iter().all(|key| !key.contains("user-")), "{keys:?}");
        assert_eq!(*known.get_or_insert(keys.clone()), keys);
        world.kill(1);
        world.configure_vm(1);
        world.configure(&policy(11 + round));
    }
    assert!(transitions(&world) > 2);
}
