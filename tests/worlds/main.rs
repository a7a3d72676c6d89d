//! The promises of the documents, row by row, tested with the real worker in a simulated world.
//!
//! These tests show how a worker reacts to what a proxy reports. The Python tests show that a real Envoy reports it
//! like this, with one test for each row.
#![cfg(not(target_arch = "wasm32"))]
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod baggage;
mod breaker;
mod checks;
mod clocks;
mod cookies;
mod counts;
mod drains;
mod events;
mod evidence;
mod fail_open;
mod fallback;
mod fast_path;
mod field;
mod gate_replies;
mod gates;
mod gauges;
mod grpc_health;
mod healthy_events;
mod hosts;
mod lanes;
mod life;
mod lifecycle;
mod misrouted;
mod observations;
mod one_client;
mod one_route;
mod open_gates;
mod outages;
mod pass_through;
mod permits;
mod policies;
mod probes;
mod pulse;
mod ramp;
mod readiness;
mod releases;
mod requests_module;
mod retry_after;
mod rollback;
mod routes;
mod rules;
mod schedule;
mod shadow;
mod shares;
mod sharing;
mod sim;
mod sizes;
mod status_page;
mod steering;
mod trial;
mod tunnels;
mod updates;
mod visibility;
mod vm;
mod wrong_policy;

use std::time::Duration;

use serde_json::{Value, json};
use sim::{Answer, Manner, Request, World};

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

/// Failures that are this far apart are separate events, even if their requests were under way together.
const APART: Duration = Duration::from_millis(20);

/// Returns a policy with one upstream, `app`, which has a gate and this `circuitBreaker`.
fn judged(breaker: &Value) -> Value {
    json!({
        "name": "shop",
        "upstreams": {"app": {"cluster": "app", "circuitBreaker": breaker}},
        "gates": [{"upstream": "app"}],
    })
}

/// Returns a world of one worker with this `circuitBreaker` of `app`.
fn world(breaker: &Value) -> World {
    World::new(&judged(breaker), 1)
}

/// Returns a check each second with thresholds of one.
fn check_each_second() -> Value {
    json!({"httpGet": {}, "periodSeconds": 1, "failureThreshold": 1})
}

/// Fails the checks of a cluster until all workers know.
fn fail_checks(world: &mut World, cluster: &str) {
    world.set_checks(cluster, Manner::Status(500));
    world.pass(3 * SECOND);
}

/// Passes the checks of a cluster until all workers know.
fn pass_checks(world: &mut World, cluster: &str) {
    world.set_checks(cluster, Manner::Status(200));
    world.pass(3 * SECOND);
}

/// Returns the response, whose status is the same on all workers.
fn all_say(world: &mut World, path: &str) -> Answer {
    let answers: Vec<Answer> = (0..world.workers()).map(|vm| world.ask(vm, &Request::get(path))).collect();
    assert!(answers.iter().all(|answer| answer.status == answers[0].status), "{answers:?}");
    answers.into_iter().next().unwrap()
}

fn status(world: &mut World, path: &str) -> u16 {
    all_say(world, path).status
}
