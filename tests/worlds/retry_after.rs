//! An upstream that asks to be left alone is, up to a cap; and a gate says for how long.

use graygate::value::time::Time;
use serde_json::{Value, json};

use super::breaker::{checked, until};
use super::evidence::on_trial;
use super::sim::{Manner, Request, World};
use super::{SECOND, world};

/// Two failures trip, for a second or two, unless the upstream asks for more.
fn breaker(more: &Value) -> Value {
    let mut breaker = json!({"consecutiveFailures": 2, "notReadyFor": "1s", "maxNotReadyFor": "2s"});
    for (name, value) in more.as_object().unwrap() {
        breaker[name] = value.clone();
    }
    breaker
}

fn asking(value: &str) -> Manner {
    Manner::With(503, vec![("retry-after", value.to_owned())])
}

/// Returns what a gated request is told, in seconds.
fn told(world: &mut World) -> u64 {
    let answer = world.get(0);
    assert!(answer.is_gated());
    answer.header("retry-after").unwrap().parse().unwrap()
}

/// Has `app` trip with answers in this manner. Returns what a gated request is then told, in seconds.
fn told_after(breaker: &Value, manner: Manner) -> u64 {
    let mut world = world(breaker);
    world.set("app", manner);
    assert_eq!(world.gated(0, 2), 0);
    told(&mut world)
}

#[test]
fn the_wait_is_as_long_as_the_upstream_asks_and_as_a_gate_tells() {
    let mut world = world(&breaker(&json!({"maxRetryAfter": "1m"})));
    world.set("app", asking("30"));
    assert_eq!(world.gated(0, 2), 0);
    assert!((30..=33).contains(&told(&mut world)));
    world.pass(20 * SECOND);
    assert!((10..=13).contains(&told(&mut world)));
    let rest = until(&mut world, "trial", 60 * SECOND);
    assert!((9_900..=13_300).contains(&rest), "{rest}");
}

#[test]
fn it_may_ask_by_a_date() {
    // The world's time.
    let date = "Fri, 15 Jan 2027 08:00:30 GMT";
    assert_eq!(Time::from_rfc3339("2027-01-15T08:00:00Z"), Some(Time::from_millis(1_800_000_000_000)));
    assert!((30..=33).contains(&told_after(&breaker(&json!({"maxRetryAfter": "1m"})), asking(date))));
}

#[test]
fn it_is_heard_up_to_the_cap_which_is_the_longest_wait_unless_given() {
    for (cap, told) in [
        (json!({"maxRetryAfter": "10s"}), 10..=11),
        (json!({"maxNotReadyFor": "40s"}), 40..=44),
        (json!({"maxRetryAfter": "0s"}), 1..=2),
        (json!({"maxRetryAfter": "24h"}), 86_400..=86_400),
    ] {
        let asked = told_after(&breaker(&cap), asking("90000"));
        assert!(told.contains(&asked), "{cap}: {asked}");
    }
}

#[test]
fn what_asks_for_nothing_or_for_less_changes_nothing() {
    for value in ["soon", "-5", "", "1e9", "0", "1", "Fri, 15 Jan 2027 07:00:00 GMT"] {
        let asked = told_after(&breaker(&json!({"maxRetryAfter": "1h"})), asking(value));
        assert!(asked <= 2, "{value}: {asked}");
    }
}

#[test]
fn only_a_failing_response_may_ask() {
    let mut world = world(&breaker(&json!({"maxRetryAfter": "1m"})));
    world.set("app", Manner::With(200, vec![("retry-after", "30".to_owned())]));
    world.get(0);
    world.set("app", Manner::Status(503));
    assert_eq!(world.gated(0, 2), 0);
    assert!(told(&mut world) <= 2);
}

#[test]
fn any_response_of_the_row_may_ask_and_another_answer_before_the_trip_ends_it() {
    for (between, told) in [(503, 30..=33), (200, 1..=2)] {
        let mut world = world(&breaker(&json!({"consecutiveFailures": 4, "maxRetryAfter": "1m"})));
        // The second of a row is told at once, so the next one comes after what all know.
        for manner in [asking("30"), asking("30"), Manner::Status(between)] {
            world.set("app", manner);
            world.get(0);
        }
        world.set("app", Manner::Status(503));
        while world.phase("app") == "ready" {
            world.get(0);
        }
        let asked = self::told(&mut world);
        assert!(told.contains(&asked), "{between}: {asked}");
    }
}

#[test]
fn a_grpc_service_asks_by_its_pushback_in_headers_and_in_trailers() {
    for in_trailers in [false, true] {
        let mut world = world(&breaker(&json!({"failOn": ["resource-exhausted"], "maxRetryAfter": "1m"})));
        let grpc = ("content-type", "application/grpc");
        let end = [("grpc-status", "8"), ("grpc-retry-pushback-ms", "30000")];
        for _ in 0..2 {
            let id = world.send(0, &Request::of("POST", "/"));
            if in_trailers {
                world.respond(id, 200, "via_upstream", &[grpc], false);
                world.trailers(id, &end);
            } else {
                world.respond(id, 200, "via_upstream", &[grpc, end[0], end[1]], true);
            }
        }
        assert!((30..=33).contains(&told(&mut world)), "in trailers: {in_trailers}");
    }
}

#[test]
fn checks_that_pass_do_not_cut_it_short() {
    let mut world = World::new(&checked(&breaker(&json!({"maxRetryAfter": "1m"}))), 1);
    world.set_checks("app", Manner::Status(200));
    world.set("app", asking("30"));
    assert_eq!(world.gated(0, 2), 0);
    let wait = until(&mut world, "trial", 60 * SECOND);
    assert!((30_000..=33_300).contains(&wait), "{wait}");
    assert_eq!(world.reason("app"), "wait-over");
}

#[test]
fn a_failed_trial_may_ask_too() {
    let mut world = world(&json!({"maxRetryAfter": "1m"}));
    on_trial(&mut world);
    world.set("app", asking("50"));
    world.get(0);
    assert_eq!(world.reason("app"), "trial-failed");
    assert!((50..=55).contains(&told(&mut world)));
}

#[test]
fn it_is_forgotten_with_the_wait() {
    let mut world = world(&breaker(&json!({"maxRetryAfter": "1m"})));
    world.set("app", asking("30"));
    assert_eq!(world.gated(0, 2), 0);
    until(&mut world, "trial", 60 * SECOND);
    world.set("app", Manner::Status(503));
    world.get(0);
    assert!(told(&mut world) <= 3, "the second wait of its own");
}

#[test]
fn a_time_that_the_policy_gives_is_what_is_told() {
    let mut policy = super::judged(&breaker(&json!({"maxRetryAfter": "1m"})));
    policy["gates"][0]["reply"] = json!({"retryAfterSeconds": 7});
    let mut world = World::new(&policy, 1);
    world.set("app", asking("30"));
    assert_eq!(world.gated(0, 2), 0);
    assert_eq!(told(&mut world), 7);
}
