//! The real worker in a simulated world: what the README promises, row by row, in milliseconds.
//!
//! A test here shows what a worker does with what a proxy tells it. That a real Envoy tells it so is shown by the tests in
//! Python, one for each row.
#![cfg(not(target_arch = "wasm32"))]
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod breaker;
mod checks;
mod cookies;
mod counts;
mod events;
mod evidence;
mod fail_open;
mod fallback;
mod fast_path;
mod field;
mod gates;
mod grpc_health;
mod lanes;
mod life;
mod lifecycle;
mod observations;
mod one_route;
mod open_gates;
mod pass_through;
mod permits;
mod probes;
mod ramp;
mod readiness;
mod releases;
mod retry_after;
mod rollback;
mod rules;
mod schedule;
mod shadow;
mod sharing;
mod sim;
mod steering;
mod trial;
mod updates;
mod visibility;
mod vm;

use std::time::Duration;

use serde_json::{Value, json};
use sim::World;

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

/// A policy with one upstream, `app`, behind a gate, with these fields in its `circuitBreaker`.
fn judged(breaker: &Value) -> Value {
    json!({
        "name": "shop",
        "upstreams": {"app": {"cluster": "app", "circuitBreaker": breaker}},
        "gates": [{"upstream": "app"}],
    })
}

/// A world of one worker with this breaker on `app`.
fn world(breaker: &Value) -> World {
    World::new(&judged(breaker), 1)
}
