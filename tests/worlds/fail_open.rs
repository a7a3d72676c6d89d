//! Gates that fail open: they forward requests to an upstream that is not ready, and report it.

use std::time::Duration;

use serde_json::{Value, json};

use super::sim::{Manner, Request, World};
use super::{SECOND, check_each_second, fail_checks, judged, pass_checks};

/// Returns a policy with a number of upstreams, each with a check and with a gate for its path.
fn document(upstreams: usize, when: &str, max: Option<u32>) -> Value {
    let check = check_each_second();
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
    // All requests that are forwarded get a response.
    world.route = "u0".to_owned();
    world.set("app", Manner::Status(200));
    world.pass(2 * SECOND);
    world
}

/// Returns how requests for an upstream fare: `through`, `gated`, or the gate's response header.
fn gate_outcome(world: &mut World, upstream: &str) -> String {
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
fn if_all_upstreams_are_down_requests_are_forwarded_reported_and_counted() {
    let mut world = world(&document(2, "forward", None));
    assert_eq!(
        (gate_outcome(&mut world, "u0").as_str(), gate_outcome(&mut world, "u1").as_str()),
        ("through", "through")
    );
    fail_checks(&mut world, "u0");
    assert_eq!(
        (gate_outcome(&mut world, "u0").as_str(), gate_outcome(&mut world, "u1").as_str()),
        ("gated", "through")
    );
    fail_checks(&mut world, "u1");
    for upstream in ["u0", "u1"] {
        assert_eq!(gate_outcome(&mut world, upstream), open(upstream, "all-not-ready"));
        let labels = [&format!("upstream={upstream}"), "reason=all-not-ready"];
        assert_eq!(world.metric("failed_open_requests_total", &labels), 3);
    }
    assert_eq!(world.metric("gated_requests_total", &[]), 3);
    pass_checks(&mut world, "u1");
    assert_eq!(
        (gate_outcome(&mut world, "u0").as_str(), gate_outcome(&mut world, "u1").as_str()),
        ("gated", "through")
    );
}

#[test]
fn the_gate_of_the_only_gated_upstream_never_blocks_and_only_reports() {
    let mut world = world(&document(1, "forward", None));
    fail_checks(&mut world, "u0");
    assert_eq!(gate_outcome(&mut world, "u0"), open("u0", "all-not-ready"));
}

#[test]
fn with_reply_requests_are_gated_although_all_upstreams_are_down() {
    let mut world = world(&document(2, "reply", None));
    fail_checks(&mut world, "u0");
    fail_checks(&mut world, "u1");
    assert_eq!(
        (gate_outcome(&mut world, "u0").as_str(), gate_outcome(&mut world, "u1").as_str()),
        ("gated", "gated")
    );
    world.pass(60 * SECOND);
    assert_eq!(world.metric("failed_open_requests_total", &[]), 0);
    assert_eq!(world.logged("open").len(), 0);
}

#[test]
fn above_max_gated_percent_the_upstreams_that_are_down_the_longest_stay_gated() {
    // The number is rounded down, but at least one is gated.
    for (upstreams, percent, most) in [(4, 50, 2), (4, 49, 1), (4, 1, 1), (4, 100, 4), (3, 67, 2), (3, 66, 1)]
    {
        let mut world = world(&document(upstreams, "reply", Some(percent)));
        // The upstreams fail in reverse order, so that their order in the policy cannot decide.
        let order: Vec<String> = (0..upstreams).rev().map(|index| format!("u{index}")).collect();
        for (count, upstream) in order.iter().enumerate() {
            fail_checks(&mut world, upstream);
            for (place, other) in order.iter().enumerate() {
                let expected = match place {
                    _ if place > count => "through".to_owned(),
                    _ if place < most => "gated".to_owned(),
                    _ => open(other, "max-gated"),
                };
                assert_eq!(
                    gate_outcome(&mut world, other),
                    expected,
                    "{upstreams} {percent} {upstream} {other}"
                );
            }
        }
        if most < upstreams {
            // One more may be gated now.
            pass_checks(&mut world, &order[0]);
            assert_eq!(gate_outcome(&mut world, &order[most]), "gated");
        }
    }
}

#[test]
fn force_always_applies_and_uses_a_part_of_max_gated_percent() {
    let mut forced = document(2, "forward", Some(50));
    forced["upstreams"]["u0"]["force"] = json!("notReady");
    let mut world = world(&forced);
    assert_eq!(gate_outcome(&mut world, "u0"), "gated");
    fail_checks(&mut world, "u1");
    assert_eq!(gate_outcome(&mut world, "u0"), "gated");
    assert_eq!(gate_outcome(&mut world, "u1"), open("u1", "all-not-ready"));
    for gate in forced["gates"].as_array_mut().unwrap() {
        gate["whenAllNotReady"] = json!("reply");
    }
    world.configure(&forced);
    world.pass(2 * SECOND);
    assert_eq!(gate_outcome(&mut world, "u0"), "gated");
    assert_eq!(gate_outcome(&mut world, "u1"), open("u1", "max-gated"));
}

#[test]
fn a_fallback_is_used_before_the_gate_fails_open() {
    let mut document = document(2, "forward", None);
    document["gates"][0]["fallback"] = json!({"answer": {"body": "none"}});
    document["upstreams"]["spare"] = json!({"cluster": "spare"});
    document["gates"][1]["fallback"] = json!({"upstream": "spare", "clusterHeader": "x-cluster"});
    let mut world = world(&document);
    fail_checks(&mut world, "u0");
    fail_checks(&mut world, "u1");
    assert_eq!(gate_outcome(&mut world, "u0"), "200 fallback; upstream=u0; reason=check-failed; to=answer");
    assert_eq!(gate_outcome(&mut world, "u1"), "200 fallback; upstream=u1; reason=check-failed; to=spare");
    world.pass(60 * SECOND);
    assert_eq!(world.metric("failed_open_requests_total", &[]), 0);
    assert_eq!(world.logged("open").len(), 0);
}

#[test]
fn each_change_of_a_gate_is_logged_once_per_proxy() {
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

/// Returns a world of two upstreams that are down, whose gates fail open until an update ends that.
fn ended_by_an_update(older_goes_on: bool) -> World {
    let mut world = world(&document(2, "forward", None));
    fail_checks(&mut world, "u0");
    fail_checks(&mut world, "u1");
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
fn an_update_logs_that_gates_no_longer_fail_open_only_if_it_ends_that() {
    let world = ended_by_an_update(false);
    assert_eq!(world.logged("no longer fails open").len(), 2);
    assert_eq!(world.logged("open").len(), 4);
}

#[test]
fn an_update_that_closes_gates_logs_it_once_while_the_older_policy_still_runs() {
    let mut world = ended_by_an_update(true);
    (0..3).for_each(|vm| world.end_earlier(vm));
    world.pass(5 * SECOND);
    assert_eq!(world.logged("open").len(), 4);
}

#[test]
fn while_an_older_policy_still_runs_only_the_newer_one_logs_which_gates_fail_open() {
    let mut world = world(&document(2, "forward", None));
    fail_checks(&mut world, "u0");
    fail_checks(&mut world, "u1");
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
fn the_death_of_the_vm_that_logs_neither_repeats_nor_loses_a_line() {
    let mut world = world(&document(1, "forward", None));
    fail_checks(&mut world, "u0");
    for vm in 0..2 {
        world.kill(vm);
        world.pass(5 * SECOND);
    }
    assert_eq!(world.logged("open").len(), 1);
    world.set_checks("u0", Manner::Status(200));
    world.pass(5 * SECOND);
    assert_eq!(world.logged("open").len(), 2);
}

/// The phases of a breaker behind a gate that fails open, and the responses of that gate.
#[test]
fn a_breaker_recovers_while_its_gate_fails_open_and_no_request_is_gated_on_the_ramp() {
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
fn in_shadow_mode_gates_that_fail_open_add_no_header_but_count_and_label() {
    let mut document = document(2, "forward", None);
    document["mode"] = json!("shadow");
    let mut world = world(&document);
    fail_checks(&mut world, "u0");
    fail_checks(&mut world, "u1");
    let id = world.start(0, &Request::get("/u0"));
    assert_eq!(world.label(id), "failed-open; upstream=u0; reason=check-failed; because=all-not-ready");
    assert_eq!(gate_outcome(&mut world, "u0"), "through");
    let labels = ["upstream=u0", "reason=all-not-ready", "mode=shadow"];
    assert_eq!(world.metric("failed_open_requests_total", &labels), 4);
    assert_eq!(world.metric("failed_open_requests_total", &[]), 4);
}
