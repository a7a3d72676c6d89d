//! Fallbacks: when an upstream is not ready, another upstream or a fixed response serves its requests.

use serde_json::{Value, json};

use super::sim::{Request, World};
use super::{SECOND, check_each_second, fail_checks, pass_checks};

/// Returns a policy with two checked upstreams, and a gate on `app` with this fallback.
fn document(fallback: &Value) -> Value {
    let check = check_each_second();
    json!({
        "name": "shop",
        "upstreams": {
            "app": {"cluster": "app", "readinessProbe": check},
            "spare": {"cluster": "spare-cluster", "readinessProbe": check},
        },
        "releases": [{
            "name": "web",
            "steer": {"header": "x-version"},
            "versions": [{"name": "v1", "upstream": "app", "weight": 1, "default": true}],
        }],
        "gates": [{"upstream": "app", "fallback": fallback, "reply": {"status": 429}}],
    })
}

fn to_spare() -> Value {
    json!({"upstream": "spare", "clusterHeader": "x-cluster"})
}

/// Returns a proxy whose routes evaluate the cluster header.
fn world(document: &Value) -> World {
    let mut world = World::new(document, 3);
    world.steer = "x-cluster";
    world.routes = [("spare-cluster", "spare-cluster"), ("other", "other")]
        .map(|(value, to)| (value.to_owned(), to.to_owned()))
        .into();
    world.pass(2 * SECOND);
    world
}

const DIVERTED: &str = "fallback; upstream=app; reason=check-failed; to=spare";

#[test]
fn a_fallback_upstream_serves_without_a_version_and_the_response_reports_it() {
    let mut world = world(&document(&to_spare()));
    let answer = world.get(0);
    assert_eq!((answer.cluster.as_str(), answer.header("x-graygate-gate")), ("app", None));
    fail_checks(&mut world, "app");
    let assigned = world.metric("assignments_total", &[]);
    for vm in 0..3 {
        let id = world.start(vm, &Request::get("/").with("x-version", "mine"));
        assert_eq!(world.sent_header(id, "x-cluster").as_deref(), Some("spare-cluster"));
        assert_eq!(world.sent_header(id, "x-version"), None);
        world.pass(SECOND);
        let answer = world.answer(id);
        assert_eq!((answer.status, answer.cluster.as_str()), (200, "spare-cluster"));
        assert_eq!(answer.header("x-graygate-gate"), Some(DIVERTED));
    }
    assert_eq!(world.metric("fallback_requests_total", &["upstream=app", "to=spare"]), 3);
    assert_eq!(world.metric("gated_requests_total", &["upstream=app", "reason=check-failed"]), 3);
    assert_eq!(world.metric("assignments_total", &[]), assigned);
    pass_checks(&mut world, "app");
    let answer = world.get(0);
    assert_eq!((answer.cluster.as_str(), answer.header("x-graygate-gate")), ("app", None));
}

#[test]
fn a_client_cannot_choose_the_cluster() {
    let mut world = world(&document(&to_spare()));
    for chosen in ["spare-cluster", "other"] {
        assert_eq!(world.ask(0, &Request::get("/").with("x-cluster", chosen)).cluster, "app");
    }
    fail_checks(&mut world, "app");
    assert_eq!(world.ask(0, &Request::get("/").with("x-cluster", "other")).cluster, "spare-cluster");
}

#[test]
fn a_fallback_upstream_that_is_not_ready_is_not_used() {
    let mut world = world(&document(&to_spare()));
    fail_checks(&mut world, "app");
    fail_checks(&mut world, "spare-cluster");
    let answer = world.get(0);
    assert_eq!((answer.status, answer.header("x-graygate-gate")), (429, None));
    assert_eq!(world.metric("fallback_requests_total", &[]), 0);
    pass_checks(&mut world, "spare-cluster");
    assert_eq!(world.get(0).cluster, "spare-cluster");
}

#[test]
fn a_fixed_response_replaces_the_upstreams() {
    let body = r#"{"items":[],"why":"{reason}","from":"{upstream}"}"#;
    let answer = json!({"answer": {"headers": {"x-degraded": "yes"}, "body": body}});
    let mut world = world(&document(&answer));
    assert_eq!(world.get(0).cluster, "app");
    fail_checks(&mut world, "app");
    let answer = world.get(1);
    assert_eq!((answer.status, answer.cluster.as_str()), (200, ""));
    assert_eq!(answer.body, r#"{"items":[],"why":"check-failed","from":"app"}"#);
    let said = "fallback; upstream=app; reason=check-failed; to=answer";
    assert_eq!(answer.header("x-graygate-gate"), Some(said));
    assert_eq!((answer.header("x-degraded"), answer.header("retry-after")), (Some("yes"), None));
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.details, "graygate_gate{shop|app|check-failed}");
    assert_eq!(world.metric("fallback_requests_total", &["upstream=app", "to=answer"]), 1);
    assert_eq!(world.metric("gated_requests_total", &["upstream=app", "reason=check-failed"]), 1);
    // A gRPC request cannot get a fixed response. It gets the gate's reply.
    let call = Request::of("POST", "/shop.Reviews/List").with("content-type", "application/grpc+proto");
    assert_eq!(world.ask(0, &call).status, 429);
    assert_eq!(world.metric("fallback_requests_total", &[]), 1);
    assert_eq!(world.metric("gated_requests_total", &[]), 2);
}

#[test]
fn a_fixed_response_has_no_body_if_its_status_allows_none() {
    for status in [204, 304] {
        let mut world = world(&document(&json!({"answer": {"status": status}})));
        fail_checks(&mut world, "app");
        let answer = world.get(0);
        assert_eq!((answer.status, answer.body.as_str()), (status, ""));
        assert_eq!(answer.header("content-type"), None);
    }
}

#[test]
fn in_shadow_mode_fallbacks_are_counted_and_labelled_but_not_used() {
    for (fallback, to, label) in [
        (to_spare(), "spare", DIVERTED),
        (json!({"answer": {"body": "none"}}), "answer", "graygate_gate{shop|app|check-failed}"),
    ] {
        let mut document = document(&fallback);
        document["mode"] = json!("shadow");
        let mut world = world(&document);
        fail_checks(&mut world, "app");
        for turn in 1..=3 {
            // The client's header is kept, too.
            let request = Request::get("/").with("x-cluster", "mine").with("x-version", "mine");
            let id = world.start(0, &request);
            assert_eq!(world.forwarded_headers(id), request.headers);
            assert_eq!(world.label(id), label);
            world.pass(SECOND);
            let answer = world.answer(id);
            assert_eq!((answer.status, answer.cluster.as_str()), (200, "app"));
            assert_eq!(answer.header("x-graygate-gate"), None);
            let labels = ["upstream=app", &format!("to={to}"), "mode=shadow"];
            assert_eq!(world.metric("fallback_requests_total", &labels), turn);
            assert_eq!(world.metric("gated_requests_total", &["mode=shadow"]), turn);
        }
    }
}
