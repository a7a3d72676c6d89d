//! What a gate's reply tells caches, browsers and other proxies, and what happens to CORS preflights.

use serde_json::{Value, json};

use super::evidence::on_trial;
use super::sim::{Answer, Manner, Request, World};
use super::{SECOND, judged};

const SHOP: &str = "https://shop.example";

/// Returns a world of two workers in which `app`, which has a gate with these fields, is not ready.
fn gated(fields: &Value) -> World {
    let mut document = json!({
        "name": "shop",
        "upstreams": {"app": {"cluster": "app", "force": "notReady"}},
        "gates": [{"upstream": "app"}],
    });
    for (name, value) in fields.as_object().unwrap() {
        document["gates"][0][name] = value.clone();
    }
    World::new(&document, 2)
}

fn preflight() -> Request {
    Request::of("OPTIONS", "/").with("origin", SHOP).with("access-control-request-method", "PUT")
}

/// Adds as many headers to the request as make the worker read each header by itself.
fn with_many_headers(request: Request) -> Request {
    (0..40).fold(request, |request, number| request.with(&format!("x-{number}"), "1"))
}

fn told(answer: &Answer) -> [Option<&str>; 3] {
    ["cache-control", "x-envoy-ratelimited", "access-control-allow-origin"].map(|name| answer.header(name))
}

#[test]
fn a_reply_must_not_be_cached_or_retried_and_names_its_readers() {
    let mut world = gated(&json!({"cors": {"allowOrigins": [{"exact": SHOP}]}}));
    for request in [Request::get("/"), with_many_headers(Request::get("/"))] {
        let from_shop = world.ask(0, &request.clone().with("origin", SHOP));
        assert_eq!(told(&from_shop), [Some("no-store"), Some("true"), Some(SHOP)]);
        let from_elsewhere = world.ask(1, &request.clone().with("origin", "https://other.example"));
        assert_eq!(told(&from_elsewhere), [Some("no-store"), Some("true"), None]);
        assert_eq!(from_elsewhere.header("vary"), Some("origin"));
    }
    let mut world = gated(&json!({"fallback": {"answer": {"headers": {"cache-control": "max-age=5"}}}}));
    let answer = world.get(0);
    assert_eq!((answer.status, told(&answer)), (200, [Some("max-age=5"), None, None]));
}

#[test]
fn without_details_only_the_operator_learns_the_upstream_and_the_reason() {
    let mut world = gated(&json!({"details": "never"}));
    let answer = world.get(0);
    assert_eq!((answer.status, answer.body.as_str()), (503, "not ready\n"));
    assert_eq!(answer.details, "graygate_gate{shop|app|forced}");
    assert_eq!(world.metric("gated_requests_total", &["upstream=app", "reason=forced"]), 1);
}

#[test]
fn a_preflight_reaches_the_next_filter_while_the_gate_is_closed() {
    let mut world = gated(&json!({}));
    world.set("app", Manner::Status(204));
    for request in [preflight(), with_many_headers(preflight())] {
        assert_eq!(world.ask(0, &request).status, 204);
        assert!(world.ask(1, &Request::get("/").with("origin", SHOP)).is_gated());
    }
    let mut world = gated(&json!({"preflight": "reply"}));
    assert!(world.ask(0, &preflight()).is_gated());
}

#[test]
fn preflights_neither_use_up_nor_end_a_trial() {
    let mut world = World::new(&judged(&json!({"trial": {"requests": 1, "successes": 2}})), 2);
    on_trial(&mut world);
    world.set("app", Manner::Hangs);
    let waiting = world.send(0, &preflight());
    assert!(world.is_open(waiting));
    for status in [200, 500] {
        world.set("app", Manner::Status(status));
        for vm in 0..20 {
            assert_eq!(world.ask(vm % 2, &preflight()).status, status);
        }
        world.pass(SECOND);
        assert_eq!(world.phase("app"), "trial", "{status}");
    }
    world.set("app", Manner::Status(200));
    for _ in 0..2 {
        assert_eq!(world.get(1).status, 200);
    }
    assert_eq!(world.phase("app"), "ready");
}
