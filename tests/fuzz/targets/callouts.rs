//! Answers to the calls of a worker: checks by HTTP and gRPC, the drain of another server, and probes that pass through.
//!
//! Each record of the input is one answer: headers, body and trailers. ASCII's own separators are between records and between
//! their parts.

use core::time::Duration;

use serde_json::{Value, json};

use super::message;
use super::worlds::sim::call::CallEnd;
use super::worlds::sim::{Request, World};

const RECORD_SEPARATOR: u8 = 0x1e;
const UNIT_SEPARATOR: u8 = 0x1f;
/// The most answers of an input.
const MOST: usize = 16;

fn document() -> Value {
    let check = |kind: &str, value: Value| json!({kind: value, "periodSeconds": 1, "timeoutSeconds": 1, "failureThreshold": 1});
    json!({
        "name": "shop",
        "upstreams": {
            "app": {"cluster": "app", "readinessProbe": check("httpGet", json!({"path": "/healthz", "host": "app.local"}))},
            "db": {"cluster": "db", "readinessProbe": check("grpc", json!({"service": "shop.Db"}))},
            "envoy": {"cluster": "envoy", "readinessProbe": check("httpGet", json!({}))},
        },
        "probes": {
            "liveness": {"path": "/livez", "passThrough": {"upstream": "app", "cacheSeconds": 1, "headers": ["content-type"]}},
            "startup": {"path": "/startupz", "checks": [{"upstream": "app"}]},
            "readiness": {"path": "/readyz", "checks": [{"upstream": "app"}, {"upstream": "db"}]},
            "drain": {"path": "/drainz", "from": ["127.0.0.0/8"], "alsoWhen": {"upstream": "envoy"}},
            "details": "always",
        },
        "gates": [{"upstream": "app"}],
    })
}

pub fn run(input: &[u8]) {
    let mut world = World::new(&document(), 2);
    for record in input.split(|byte| *byte == RECORD_SEPARATOR).take(MOST) {
        let mut parts = record.splitn(3, |byte| *byte == UNIT_SEPARATOR);
        let mut next = || parts.next().unwrap_or_default();
        let (headers, body, trailers) = (message::headers(next()), next().to_vec(), message::headers(next()));
        world.around.call_ends.borrow_mut().push_back(CallEnd { headers, body, trailers });
    }
    for path in ["/livez", "/readyz", "/startupz", "/", "/livez", "/readyz?verbose"] {
        let id =
            world.start(world.now() as usize % 2, &Request::get(path).with("accept", "application/json"));
        world.pass(Duration::from_millis(700));
        let answer = world.answer(id);
        for (name, value) in &answer.headers {
            message::check_value(name, value.as_bytes());
        }
        message::check_value("details", answer.details.as_bytes());
    }
    // The longest time that a probe waits.
    world.pass(Duration::from_secs(11));
    // Each cluster answers 200 from now on, so a bad answer does not stay.
    world.around.call_ends.borrow_mut().clear();
    world.pass(Duration::from_secs(3));
    for vm in 0..2 {
        let answer = world.ask(vm, &Request::get("/readyz"));
        let is_drained = answer.body.contains("drain");
        assert!(answer.status == 200 || is_drained, "{answer:?}");
    }
}
