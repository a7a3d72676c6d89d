//! A policy is replaced, or a VM made anew: what is known stays, and the newer policy's word counts.

use serde_json::{Value, json};

use super::sim::{Manner, Request, World};
use super::{MS, SECOND, judged};

/// A policy with a check on `app`, behind a gate, with these fields on top of the upstream's.
fn checked(fields: &Value) -> Value {
    let mut upstream = json!({
        "cluster": "app", "readinessProbe": {"httpGet": {}, "periodSeconds": 0.5, "failureThreshold": 2},
    });
    upstream.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    json!({"name": "shop", "upstreams": {"app": upstream}, "gates": [{"upstream": "app"}]})
}

/// Has `app` fail its requests until it is not ready.
fn trip(world: &mut World) {
    world.set("app", Manner::Status(500));
    (0..5).for_each(|_| assert_eq!(world.get(0).status, 500));
    assert_eq!(world.phase("app"), "not-ready");
}

fn transitions(world: &World) -> u64 {
    world.metric("transitions_total", &[])
}

/// How many checks are sent in this many seconds.
fn checks_in(world: &mut World, seconds: u32) -> usize {
    let before = world.around.called.borrow().len();
    world.pass(seconds * SECOND);
    world.around.called.borrow().len() - before
}

#[test]
fn a_change_of_thresholds_weights_and_gates_keeps_what_is_known() {
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
        // With no tick in between.
        (0..3).for_each(|vm| assert!(world.get(vm).is_gated()));
        world.pass(2 * SECOND);
    }
    assert_eq!(transitions(&world), 1);
}

#[test]
fn a_longer_wait_counts_from_the_update_on() {
    let mut world = World::new(&judged(&json!({"notReadyFor": "500ms"})), 2);
    let under_way = world.send(0, &Request::get("/"));
    world.configure(&judged(&json!({"notReadyFor": "1h"})));
    world.pass(SECOND);
    trip(&mut world);
    world.pass(3_500 * SECOND);
    assert_eq!((world.phase("app"), transitions(&world)), ("not-ready", 1));
    // The earlier policy has had a request to serve all the while.
    assert!(world.is_open(under_way));
}

#[test]
fn a_breaker_that_is_taken_away_takes_its_verdict_with_it() {
    // Whether it is checked from now on, as before, or not watched at all any more.
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
fn a_breaker_that_is_added_while_checks_fail_keeps_the_gate_closed() {
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
fn a_changed_assumption_holds_while_nothing_is_known_and_only_then() {
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
fn after_updates_there_is_still_one_checker() {
    let mut world = World::new(&checked(&json!({})), 4);
    for threshold in 2..6 {
        let mut policy = checked(&json!({}));
        policy["upstreams"]["app"]["readinessProbe"]["successThreshold"] = json!(threshold);
        world.configure(&policy);
        // The workers of all earlier policies tick on.
        assert!((19..=21).contains(&checks_in(&mut world, 10)));
    }
    (0..4).for_each(|vm| world.end_earlier(vm));
    assert!((19..=21).contains(&checks_in(&mut world, 10)));
}

#[test]
fn a_policy_that_comes_back_is_checked_when_the_one_between_is_gone() {
    let (policy, between) = (checked(&json!({})), checked(&json!({"circuitBreaker": {}})));
    let mut world = World::new(&policy, 2);
    for document in [&between, &policy] {
        world.pass(200 * MS);
        world.configure(document);
    }
    (0..2).for_each(|vm| world.end_earlier(vm));
    // A second for the lease of the one that is gone.
    world.pass(2 * SECOND);
    assert!((19..=21).contains(&checks_in(&mut world, 10)));
}

#[test]
fn a_policy_is_told_of_once_whatever_the_number_of_vms() {
    let mut world = World::new(&checked(&json!({})), 4);
    assert_eq!(
        world
            .logged("policy shop: loaded: 1 upstream, 0 probes, 0 releases, 1 gate, a tick each 125 ms")
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
fn mode_off_does_nothing() {
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
fn a_vm_that_is_made_anew_knows_what_the_others_know() {
    let mut world = World::new(&judged(&json!({"notReadyFor": "1h"})), 1);
    trip(&mut world);
    world.kill(0);
    world.pass(60 * SECOND);
    world.configure_vm(0);
    let answer = world.get(0);
    assert_eq!(answer.details, "graygate_gate{shop|app|consecutive-failures}");
}

#[test]
fn a_wait_is_ended_by_another_when_the_leader_has_died() {
    let mut world = World::new(&judged(&json!({"notReadyFor": "3s"})), 3);
    trip(&mut world);
    // Whichever leads, one is left.
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

/// Keys can't be deleted, so no request may make one: not by a trial, a rollback, or a probe that passes through.
#[test]
fn what_is_shared_is_bounded_by_the_policy() {
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
