//! An upstream can ask for a longer wait, up to a cap. Gates tell clients how long the wait still is.

use serde_json::{Value, json};

use super::breaker::{until, with_check};
use super::evidence::on_trial;
use super::sim::{Manner, Request, World};
use super::{MS, SECOND, world};

/// Returns a breaker that trips after two failures, for up to two seconds unless the upstream asks for more.
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

/// Returns the `retry-after` of a gated request, in seconds.
fn retry_after(world: &mut World) -> u64 {
    let answer = world.get(0);
    assert!(answer.is_gated());
    answer.header("retry-after").unwrap().parse().unwrap()
}

/// Trips `app` with these responses. Returns the `retry-after` of a gated request, in seconds.
fn retry_after_trip(breaker: &Value, manner: Manner) -> u64 {
    let mut world = world(breaker);
    world.set("app", manner);
    assert_eq!(world.gated(0, 2), 0);
    retry_after(&mut world)
}

#[test]
fn the_wait_is_as_long_as_the_upstream_asks_and_gates_report_it() {
    let mut world = world(&breaker(&json!({"maxRetryAfter": "1m"})));
    world.set("app", asking("30"));
    assert_eq!(world.gated(0, 2), 0);
    assert!((30..=33).contains(&retry_after(&mut world)));
    world.pass(20 * SECOND);
    assert!((10..=13).contains(&retry_after(&mut world)));
    let rest = until(&mut world, "trial", 60 * SECOND);
    assert!((9_900..=13_300).contains(&rest), "{rest}");
}

#[test]
fn an_upstream_can_ask_with_a_date() {
    // The world begins at eight o'clock.
    let date = "Fri, 15 Jan 2027 08:00:30 GMT";
    assert!((30..=33).contains(&retry_after_trip(&breaker(&json!({"maxRetryAfter": "1m"})), asking(date))));
}

#[test]
fn retry_after_is_capped_by_default_at_the_longest_wait() {
    for (cap, expected) in [
        (json!({"maxRetryAfter": "10s"}), 10..=11),
        (json!({"maxNotReadyFor": "40s"}), 40..=44),
        (json!({"maxRetryAfter": "0s"}), 1..=2),
        (json!({"maxRetryAfter": "24h"}), 86_400..=86_400),
    ] {
        let asked = retry_after_trip(&breaker(&cap), asking("90000"));
        assert!(expected.contains(&asked), "{cap}: {asked}");
    }
}

#[test]
fn an_invalid_or_shorter_retry_after_does_not_change_the_wait() {
    for value in ["soon", "-5", "", "1e9", "0", "1", "Fri, 15 Jan 2027 07:00:00 GMT"] {
        let asked = retry_after_trip(&breaker(&json!({"maxRetryAfter": "1h"})), asking(value));
        assert!(asked <= 2, "{value}: {asked}");
    }
}

#[test]
fn only_failed_responses_can_ask_for_a_wait() {
    let mut world = world(&breaker(&json!({"maxRetryAfter": "1m"})));
    world.set("app", Manner::With(200, vec![("retry-after", "30".to_owned())]));
    world.get(0);
    world.set("app", Manner::Status(503));
    assert_eq!(world.gated(0, 2), 0);
    // After a success, the row must last for a while.
    assert_eq!(world.phase("app"), "ready");
    world.pass(600 * MS);
    assert!(retry_after(&mut world) <= 2);
}

#[test]
fn any_response_of_a_row_can_ask_and_a_success_before_the_trip_cancels_it() {
    for (between, expected) in [(503, 30..=33), (200, 1..=2)] {
        let mut world = world(&breaker(&json!({"consecutiveFailures": 4, "maxRetryAfter": "1m"})));
        // The worker shares the second failure of a row at once, so the next one comes after what all workers know.
        for manner in [asking("30"), asking("30"), Manner::Status(between)] {
            world.set("app", manner);
            world.get(0);
        }
        world.set("app", Manner::Status(503));
        while world.phase("app") == "ready" {
            world.get(0);
        }
        let asked = self::retry_after(&mut world);
        assert!(expected.contains(&asked), "{between}: {asked}");
    }
}

#[test]
fn a_grpc_service_asks_with_pushback_in_headers_or_trailers() {
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
        assert!((30..=33).contains(&retry_after(&mut world)), "in trailers: {in_trailers}");
    }
}

#[test]
fn passed_checks_do_not_shorten_a_wait_that_the_upstream_asked_for() {
    let mut world = World::new(&with_check(&breaker(&json!({"maxRetryAfter": "1m"}))), 1);
    world.set_checks("app", Manner::Status(200));
    world.set("app", asking("30"));
    assert_eq!(world.gated(0, 2), 0);
    let wait = until(&mut world, "trial", 60 * SECOND);
    assert!((30_000..=33_300).contains(&wait), "{wait}");
    assert_eq!(world.reason("app"), "wait-over");
}

#[test]
fn a_failed_trial_request_can_ask_for_a_wait() {
    let mut world = world(&json!({"maxRetryAfter": "1m"}));
    on_trial(&mut world);
    world.set("app", asking("50"));
    world.get(0);
    assert_eq!(world.reason("app"), "trial-failed");
    assert!((50..=55).contains(&retry_after(&mut world)));
}

#[test]
fn a_retry_after_does_not_affect_later_waits() {
    let mut world = world(&breaker(&json!({"maxRetryAfter": "1m"})));
    world.set("app", asking("30"));
    assert_eq!(world.gated(0, 2), 0);
    until(&mut world, "trial", 60 * SECOND);
    world.set("app", Manner::Status(503));
    world.get(0);
    assert!(retry_after(&mut world) <= 3, "the second wait of its own");
}

#[test]
fn a_gate_reports_the_policys_own_retry_after() {
    let mut policy = super::judged(&breaker(&json!({"maxRetryAfter": "1m"})));
    policy["gates"][0]["reply"] = json!({"retryAfterSeconds": 7});
    let mut world = World::new(&policy, 1);
    world.set("app", asking("30"));
    assert_eq!(world.gated(0, 2), 0);
    assert_eq!(retry_after(&mut world), 7);
}
