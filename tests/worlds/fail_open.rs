//! Gates that let requests through though their upstream is not ready, and never in silence.

use std::time::Duration;

use serde_json::{Value, json};

use super::sim::{Manner, Request, World};
use super::{SECOND, judged};

/// A policy with so many upstreams, each checked, and with a gate by its path.
fn document(upstreams: usize, when: &str, max: Option<u32>) -> Value {
    let check = json!({"httpGet": {}, "periodSeconds": 1, "failureThreshold": 1});
    let mut document = json!({"name": "shop", "upstreams": {}, "gates": []});
    for index in 0..upstreams {
        let name = format!("u{index}");
        document["upstreams"][&name] = json!({"cluster": name, "readinessProbe": check});
        let uri = json!({"prefix": format!("/{name}")});
        let gate = json!({"match": [{"uri": uri}], "upstream": name, "whenAllNotReady": when});
        document["gates"].as_array_mut().unwrap().push(gate);
    }
    if let Some(max) = max {
        document["maxGatedPercent"] = json!(max);
    }
    document
}

fn world(document: &Value) -> World {
    let mut world = World::new(document, 3);
    // All requests get somewhere that answers.
    world.route = "u0".to_owned();
    world.set("app", Manner::Status(200));
    world.pass(2 * SECOND);
    world
}

fn sick(world: &mut World, upstream: &str) {
    world.set_checks(upstream, Manner::Status(500));
    world.pass(3 * SECOND);
}

fn well(world: &mut World, upstream: &str) {
    world.set_checks(upstream, Manner::Status(200));
    world.pass(3 * SECOND);
}

/// What becomes of requests for an upstream: `through`, `gated`, or what the response says of its gate.
fn told(world: &mut World, upstream: &str) -> String {
    let request = Request::get(&format!("/{upstream}"));
    let answers: Vec<String> = (0..3)
        .map(|vm| {
            let answer = world.ask(vm, &request);
            match answer.header("x-graygate-gate") {
                Some(said) => format!("{} {said}", answer.status),
                None if answer.is_gated() => "gated".to_owned(),
                None => "through".to_owned(),
            }
        })
        .collect();
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    answers[0].clone()
}

fn open(upstream: &str, because: &str) -> String {
    format!("200 failed-open; upstream={upstream}; reason=check-failed; because={because}")
}

#[test]
fn when_all_are_down_requests_go_and_the_response_says_so_and_each_is_counted() {
    let mut world = world(&document(2, "forward", None));
    assert_eq!((told(&mut world, "u0").as_str(), told(&mut world, "u1").as_str()), ("through", "through"));
    sick(&mut world, "u0");
    assert_eq!((told(&mut world, "u0").as_str(), told(&mut world, "u1").as_str()), ("gated", "through"));
    sick(&mut world, "u1");
    for upstream in ["u0", "u1"] {
        assert_eq!(told(&mut world, upstream), open(upstream, "all-not-ready"));
        let labels = [&format!("upstream={upstream}"), "reason=all-not-ready"];
        assert_eq!(world.metric("failed_open_requests_total", &labels), 3);
    }
    assert_eq!(world.metric("gated_requests_total", &[]), 3);
    well(&mut world, "u1");
    assert_eq!((told(&mut world, "u0").as_str(), told(&mut world, "u1").as_str()), ("gated", "through"));
}

#[test]
fn with_a_single_gated_upstream_the_gate_only_tells() {
    let mut world = world(&document(1, "forward", None));
    sick(&mut world, "u0");
    assert_eq!(told(&mut world, "u0"), open("u0", "all-not-ready"));
}

#[test]
fn with_reply_they_are_gated_all_the_same() {
    let mut world = world(&document(2, "reply", None));
    sick(&mut world, "u0");
    sick(&mut world, "u1");
    assert_eq!((told(&mut world, "u0").as_str(), told(&mut world, "u1").as_str()), ("gated", "gated"));
    world.pass(60 * SECOND);
    assert_eq!(world.metric("failed_open_requests_total", &[]), 0);
    assert_eq!(world.logged("open").len(), 0);
}

#[test]
fn of_more_than_may_be_gated_those_stay_gated_that_have_been_down_the_longest() {
    // In whole ones, but at least one.
    for (upstreams, percent, most) in [(4, 50, 2), (4, 49, 1), (4, 1, 1), (4, 100, 4), (3, 67, 2), (3, 66, 1)]
    {
        let mut world = world(&document(upstreams, "reply", Some(percent)));
        // From the last to the first, so that the order of the policy is not what decides.
        let order: Vec<String> = (0..upstreams).rev().map(|index| format!("u{index}")).collect();
        for (count, upstream) in order.iter().enumerate() {
            sick(&mut world, upstream);
            for (place, other) in order.iter().enumerate() {
                let expected = match place {
                    _ if place > count => "through".to_owned(),
                    _ if place < most => "gated".to_owned(),
                    _ => open(other, "max-gated"),
                };
                assert_eq!(told(&mut world, other), expected, "{upstreams} {percent} {upstream} {other}");
            }
        }
        if most < upstreams {
            // There is room for one more now.
            well(&mut world, &order[0]);
            assert_eq!(told(&mut world, &order[most]), "gated");
        }
    }
}

#[test]
fn what_force_says_is_always_done_and_takes_its_part_of_the_share() {
    let mut forced = document(2, "forward", Some(50));
    forced["upstreams"]["u0"]["force"] = json!("notReady");
    let mut world = world(&forced);
    assert_eq!(told(&mut world, "u0"), "gated");
    sick(&mut world, "u1");
    assert_eq!(told(&mut world, "u0"), "gated");
    assert_eq!(told(&mut world, "u1"), open("u1", "all-not-ready"));
    for gate in forced["gates"].as_array_mut().unwrap() {
        gate["whenAllNotReady"] = json!("reply");
    }
    world.configure(&forced);
    world.pass(2 * SECOND);
    assert_eq!(told(&mut world, "u0"), "gated");
    assert_eq!(told(&mut world, "u1"), open("u1", "max-gated"));
}

#[test]
fn a_fallback_comes_first() {
    let mut document = document(2, "forward", None);
    document["gates"][0]["fallback"] = json!({"answer": {"body": "none"}});
    document["upstreams"]["spare"] = json!({"cluster": "spare"});
    document["gates"][1]["fallback"] = json!({"upstream": "spare", "clusterHeader": "x-cluster"});
    let mut world = world(&document);
    sick(&mut world, "u0");
    sick(&mut world, "u1");
    assert_eq!(told(&mut world, "u0"), "200 fallback; upstream=u0; reason=check-failed; to=answer");
    assert_eq!(told(&mut world, "u1"), "200 fallback; upstream=u1; reason=check-failed; to=spare");
    world.pass(60 * SECOND);
    assert_eq!(world.metric("failed_open_requests_total", &[]), 0);
    assert_eq!(world.logged("open").len(), 0);
}

#[test]
fn each_change_is_logged_once_by_the_whole_proxy() {
    let mut world = world(&document(2, "forward", None));
    for upstream in ["u0", "u1"] {
        world.set_checks(upstream, Manner::Status(500));
    }
    world.pass(30 * SECOND);
    for upstream in ["u0", "u1"] {
        world.set_checks(upstream, Manner::Status(200));
    }
    world.pass(30 * SECOND);
    let mut lines = world.logged("open");
    lines.sort();
    let expected = [
        "policy shop: upstream u0: its gate no longer fails open",
        "policy shop: upstream u0: not ready, and its gate fails open (all-not-ready)",
        "policy shop: upstream u1: its gate no longer fails open",
        "policy shop: upstream u1: not ready, and its gate fails open (all-not-ready)",
    ];
    assert_eq!(lines, expected);
}

/// Two upstreams that are down, under a policy whose gates fail open, and then one whose do not.
fn ended_by_an_update(older_goes_on: bool) -> World {
    let mut world = world(&document(2, "forward", None));
    sick(&mut world, "u0");
    sick(&mut world, "u1");
    assert_eq!(world.logged("fails open").len(), 2);
    let mut newer = document(2, "forward", None);
    newer["gates"][0]["reply"] = json!({"status": 429});
    world.configure(&newer);
    world.pass(5 * SECOND);
    assert_eq!(world.logged("open").len(), 2);
    world.configure(&document(2, "reply", None));
    if !older_goes_on {
        (0..3).for_each(|vm| world.end_earlier(vm));
    }
    world.pass(5 * SECOND);
    world
}

#[test]
fn an_update_that_ends_it_says_so_and_one_that_does_not_says_nothing_again() {
    let world = ended_by_an_update(false);
    assert_eq!(world.logged("no longer fails open").len(), 2);
    assert_eq!(world.logged("open").len(), 4);
}

#[test]
fn an_update_that_ends_it_says_so_once_while_the_older_policy_goes_on() {
    let mut world = ended_by_an_update(true);
    (0..3).for_each(|vm| world.end_earlier(vm));
    world.pass(5 * SECOND);
    assert_eq!(world.logged("open").len(), 4);
}

#[test]
fn while_an_older_policy_goes_on_the_newer_one_alone_says_which_gates_are_open() {
    let mut world = world(&document(2, "forward", None));
    sick(&mut world, "u0");
    sick(&mut world, "u1");
    world.configure(&document(2, "reply", Some(50)));
    world.pass(20 * SECOND);
    let lines = world.logged("open");
    let expected = [
        "policy shop: upstream u1: not ready, and its gate fails open (max-gated)",
        "policy shop: upstream u0: its gate no longer fails open",
    ];
    assert_eq!(lines[2..], expected);
}

#[test]
fn the_death_of_the_vm_that_logs_them_neither_repeats_nor_loses_a_line() {
    let mut world = world(&document(1, "forward", None));
    sick(&mut world, "u0");
    for vm in 0..2 {
        world.kill(vm);
        world.pass(5 * SECOND);
    }
    assert_eq!(world.logged("open").len(), 1);
    world.set_checks("u0", Manner::Status(200));
    world.pass(5 * SECOND);
    assert_eq!(world.logged("open").len(), 2);
}

/// The phases of a breaker behind a gate that fails open, and what requests are told meanwhile.
#[test]
fn a_breaker_recovers_while_its_gate_is_open_and_nobody_is_refused_on_the_ramp() {
    let trial = json!({"requests": 1, "successes": 3, "rampOver": "5s"});
    let mut document = judged(&json!({"notReadyFor": "3s", "maxNotReadyFor": "3s", "trial": trial}));
    document["gates"][0]["whenAllNotReady"] = json!("forward");
    let mut world = World::new(&document, 3);
    world.set("app", Manner::Status(500));
    for _ in 0..5 {
        world.get(0);
    }
    world.pass(SECOND);
    world.set("app", Manner::Status(200));
    let said = world.get(1).header("x-graygate-gate").map(str::to_owned);
    let expected = "failed-open; upstream=app; reason=consecutive-failures; because=all-not-ready";
    assert_eq!(said.as_deref(), Some(expected));
    for turn in 0..200 {
        let answer = world.get(turn % 3);
        assert_eq!(answer.status, 200, "{answer:?}");
        world.pass(Duration::from_millis(100));
    }
    assert_eq!(world.phase("app"), "ready");
    assert_eq!(world.metric("transitions_total", &["from=trial", "to=ramp", "reason=trial-passed"]), 1);
    assert_eq!(world.metric("gated_requests_total", &[]), 0);
    assert_eq!(world.get(1).header("x-graygate-gate"), None);
}

#[test]
fn in_shadow_nothing_is_added_and_all_is_counted_and_labelled() {
    let mut document = document(2, "forward", None);
    document["mode"] = json!("shadow");
    let mut world = world(&document);
    sick(&mut world, "u0");
    sick(&mut world, "u1");
    let id = world.start(0, &Request::get("/u0"));
    assert_eq!(world.label(id), "failed-open; upstream=u0; reason=check-failed; because=all-not-ready");
    assert_eq!(told(&mut world, "u0"), "through");
    let labels = ["upstream=u0", "reason=all-not-ready", "mode=shadow"];
    assert_eq!(world.metric("failed_open_requests_total", &labels), 4);
    assert_eq!(world.metric("failed_open_requests_total", &[]), 4);
}
