//! Gates: a request for an upstream that is not ready gets a reply at once, with the reason.

use serde_json::{Value, json};

use super::sim::{Manner, Request, World};
use super::{SECOND, check_each_second, fail_checks, judged};

/// Returns a policy with a check and a gate on `app`, which has this reply.
fn document(reply: &Value) -> Value {
    let check = check_each_second();
    json!({
        "name": "shop",
        "upstreams": {"app": {"cluster": "app", "readinessProbe": check}},
        "gates": [{"upstream": "app", "reply": reply}],
    })
}

/// Returns a proxy of three workers with this policy. All checks of `app` fail.
fn gated(document: &Value) -> World {
    let mut world = World::new(document, 3);
    fail_checks(&mut world, "app");
    world
}

#[test]
fn a_gates_reply_names_policy_upstream_and_reason_and_no_upstream_is_asked() {
    let mut world = gated(&document(&json!({})));
    for vm in 0..3 {
        let answer = world.get(vm);
        let words = "policy shop: upstream app is not ready: check-failed: status 500\n";
        assert_eq!((answer.status, answer.body.as_str(), answer.cluster.as_str()), (503, words, ""));
        assert_eq!(answer.details, "graygate_gate{shop|app|check-failed}");
        assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
        // The time until it is ready is unknown.
        assert_eq!(answer.header("retry-after"), Some("5"));
    }
    assert_eq!(world.metric("gated_requests_total", &["upstream=app", "reason=check-failed"]), 3);
    world.set_checks("app", Manner::Status(200));
    world.pass(3 * SECOND);
    for vm in 0..3 {
        assert_eq!(world.get(vm).cluster, "app");
    }
}

#[test]
fn a_policy_can_set_the_whole_reply() {
    let body = r#"{"error":"{upstream} is not ready","why":"{reason}","again":{retryAfter}}"#;
    let reply =
        json!({"status": 429, "retryAfterSeconds": 7, "headers": {"X-Reason": "warming-up"}, "body": body});
    let answer = gated(&document(&reply)).get(0);
    assert_eq!((answer.status, answer.header("retry-after")), (429, Some("7")));
    assert_eq!(answer.header("x-reason"), Some("warming-up"));
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.body, r#"{"error":"app is not ready","why":"check-failed","again":7}"#);
}

#[test]
fn retry_after_is_the_rest_of_the_wait_unless_the_policy_sets_it() {
    let mut world = World::new(&judged(&json!({"notReadyFor": "30s", "maxNotReadyFor": "30s"})), 1);
    world.set("app", Manner::Status(500));
    for _ in 0..5 {
        world.get(0);
    }
    let mut last = 34;
    for _ in 0..6 {
        let seconds: u64 = world.get(0).header("retry-after").unwrap().parse().unwrap();
        // Up to a tenth of jitter is added.
        assert!((1..last).contains(&seconds), "{seconds} {last}");
        last = seconds;
        world.pass(5 * SECOND);
    }
    assert!(last <= 9, "{last}");
}

#[test]
fn each_reason_is_in_the_reply_the_details_and_the_counter() {
    let mut forced = document(&json!({}));
    forced["upstreams"]["app"]["force"] = json!("notReady");
    let mut assumed = document(&json!({}));
    assumed["upstreams"]["app"]["assume"] = json!("notReady");
    for (document, reason) in [(forced, "forced"), (assumed, "assumed")] {
        let mut world = World::new(&document, 1);
        let answer = world.get(0);
        assert_eq!(answer.details, format!("graygate_gate{{shop|app|{reason}}}"));
        assert_eq!(answer.body, format!("policy shop: upstream app is not ready: {reason}\n"));
        assert_eq!(world.metric("gated_requests_total", &[&format!("reason={reason}")]), 1);
    }
    let mut world = World::new(&judged(&json!({"notReadyFor": "1s", "trial": {"requests": 1}})), 1);
    world.set("app", Manner::Status(500));
    for _ in 0..5 {
        world.get(0);
    }
    assert_eq!(world.get(0).details, "graygate_gate{shop|app|consecutive-failures}");
    world.pass(2 * SECOND);
    world.set("app", Manner::Hangs);
    world.start(0, &Request::get("/"));
    // The only permit is lent.
    assert_eq!(world.get(0).details, "graygate_gate{shop|app|on-trial}");
}

#[test]
fn force_applies_whatever_the_state_is() {
    let mut document = document(&json!({}));
    document["upstreams"]["app"]["force"] = json!("ready");
    let mut world = gated(&document);
    assert_eq!(world.get(0).status, 200);
    document["upstreams"]["app"]["force"] = json!("notReady");
    world.set_checks("app", Manner::Status(200));
    world.configure(&document);
    world.pass(10 * SECOND);
    assert!(world.get(0).is_gated());
    assert_eq!(world.metric("upstream_ready", &["upstream=app"]), 0);
    document["upstreams"]["app"]["force"] = json!("none");
    world.configure(&document);
    world.pass(3 * SECOND);
    assert_eq!(world.get(0).status, 200);
}

#[test]
fn a_gate_applies_to_requests_that_it_matches_and_the_first_closed_gate_decides() {
    let mut document = document(&json!({}));
    document["upstreams"]["db"] = json!({"cluster": "db", "force": "notReady"});
    document["gates"] = json!([
        {"match": [{"uri": {"prefix": "/pay"}}], "upstream": "app"},
        {"match": [{"uri": {"prefix": "/pay"}}, {"headers": {"x-db": {"exact": "1"}}}], "upstream": "db"},
    ]);
    let mut world = World::new(&document, 3);
    world.pass(3 * SECOND);
    let details = |world: &mut World, request: &Request| world.ask(1, request).details;
    assert_eq!(details(&mut world, &Request::get("/pay/1")), "graygate_gate{shop|db|forced}");
    assert_eq!(details(&mut world, &Request::get("/x").with("x-db", "1")), "graygate_gate{shop|db|forced}");
    assert_eq!(details(&mut world, &Request::get("/play")), "via_upstream");
    world.set_checks("app", Manner::Status(500));
    world.pass(3 * SECOND);
    assert_eq!(details(&mut world, &Request::get("/pay/1")), "graygate_gate{shop|app|check-failed}");
    assert_eq!(details(&mut world, &Request::get("/play")), "via_upstream");
}

/// Returns a policy with two versions, of which testers get the second, and a gate on each.
fn released() -> Value {
    let check = check_each_second();
    json!({
        "name": "shop",
        "upstreams": {
            "v1": {"cluster": "v1", "readinessProbe": check},
            "v2": {"cluster": "v2", "readinessProbe": check},
        },
        "releases": [{
            "name": "web",
            "match": [{"uri": {"prefix": "/web"}}],
            "steer": {"header": "x-version"},
            "versions": [
                {"name": "v1", "upstream": "v1", "weight": 1, "default": true},
                {"name": "v2", "upstream": "v2", "weight": 0, "match": [{"headers": {"x-tester": {"exact": "1"}}}]},
            ],
        }],
        "gates": [{"upstream": "v1", "match": [{"uri": {"prefix": "/"}}]}],
    })
}

#[test]
fn a_gate_on_a_version_applies_only_to_its_requests() {
    let mut world = World::new(&released(), 3);
    world.routes = ["v1", "v2"].map(|version| (version.to_owned(), version.to_owned())).into();
    world.set_checks("v1", Manner::Status(500));
    world.pass(3 * SECOND);
    assert!(world.ask(0, &Request::get("/web")).is_gated());
    assert_eq!(world.ask(0, &Request::get("/web").with("x-tester", "1")).cluster, "v2");
    // If the release does not match the request, the gate's match decides.
    assert!(world.ask(0, &Request::get("/other").with("x-tester", "1")).is_gated());
    // A version that is down falls back to the default version, which is gated, too.
    world.set_checks("v2", Manner::Status(500));
    world.pass(3 * SECOND);
    assert!(world.ask(0, &Request::get("/web").with("x-tester", "1")).is_gated());
    world.set_checks("v1", Manner::Status(200));
    world.pass(3 * SECOND);
    assert_eq!(world.ask(0, &Request::get("/web").with("x-tester", "1")).cluster, "v1");
}

#[test]
fn a_gated_grpc_request_gets_the_policys_grpc_status() {
    // Without a status in the policy, Envoy maps the HTTP status.
    let mut world =
        gated(&document(&json!({"status": 429, "grpcStatus": 8, "body": "{upstream}: {reason}"})));
    let call = Request::of("POST", "/shop.Reviews/List").with("content-type", "application/grpc");
    let answer = world.ask(0, &call);
    assert_eq!((answer.status, answer.body.as_str()), (429, "app: check-failed"));
    assert_eq!(answer.details, "graygate_gate{shop|app|check-failed}");
}

#[test]
fn in_shadow_mode_a_gate_counts_and_labels_but_blocks_nothing() {
    let mut document = document(&json!({"headers": {"x-reason": "warming-up"}}));
    document["mode"] = json!("shadow");
    let mut world = gated(&document);
    let request = Request::get("/").with("x-mine", "1");
    for turn in 1..=20 {
        let id = world.start(turn % 3, &request);
        assert_eq!(world.forwarded_headers(id), request.headers);
        assert_eq!(world.label(id), "graygate_gate{shop|app|check-failed}");
        world.pass(SECOND);
        let answer = world.answer(id);
        assert_eq!((answer.status, answer.cluster.as_str(), answer.header("x-reason")), (200, "app", None));
        let labels = ["upstream=app", "reason=check-failed", "mode=shadow"];
        assert_eq!(world.metric("gated_requests_total", &labels), turn as u64);
    }
}

#[test]
fn in_shadow_mode_a_breaker_judges_the_requests_that_it_would_have_gated() {
    let mut document = judged(
        &json!({"notReadyFor": "1s", "maxNotReadyFor": "1s", "trial": {"requests": 1, "successes": 1}}),
    );
    document["mode"] = json!("shadow");
    let mut world = World::new(&document, 3);
    world.set("app", Manner::Status(500));
    for _ in 0..20 {
        assert_eq!(world.get(0).status, 500);
    }
    assert_eq!(world.phase("app"), "not-ready");
    world.set("app", Manner::Status(200));
    world.pass(2 * SECOND);
    assert_eq!((world.get(0).status, world.phase("app")), (200, "ready"));
}
