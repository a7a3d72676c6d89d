//! CORS preflights, by which a browser asks whether a page may send a request.

use super::*;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

fn preflight() -> TestRequest {
    TestRequest::to("OPTIONS", "/")
        .with("origin", "https://shop.example")
        .with("access-control-request-method", "PUT")
}

/// Returns a policy with a gate on `db` with these fields.
fn with_gate(fields: &str) -> Bench {
    Bench::new(policy(&format!(r#""gates":[{{"upstream":"db"{fields}}}]"#)))
}

#[test]
fn a_preflight_passes_a_closed_gate_unless_the_policy_says_otherwise() {
    with_gate("").set("db", DOWN).ask(preflight()).is_forwarded("").has_response_edits("");
    with_gate(r#","preflight":"reply""#).set("db", DOWN).ask(preflight()).is_gated_by("db");
    let answering = r#","fallback":{"answer":{"status":200}}"#;
    with_gate(answering).set("db", DOWN).ask(preflight()).is_forwarded("");
}

#[test]
fn a_request_without_all_signs_of_a_preflight_is_gated() {
    let without = |name: &str| {
        let mut request = preflight();
        request.headers.remove(name);
        request
    };
    let mut bench = with_gate("").set("db", DOWN);
    for request in [
        without("origin"),
        without("access-control-request-method"),
        preflight().with("origin", ""),
        preflight().with("access-control-request-method", ""),
        preflight().with(":method", "GET"),
        preflight().with(":method", "options"),
    ] {
        bench.ask(request).is_gated_by("db");
    }
}

#[test]
fn a_preflight_takes_no_permit_of_the_gates_upstream() {
    let mut bench = with_gate("").on_trial("db", 1);
    bench.ask(preflight()).is_forwarded("").holds_permits("");
    bench.ask(get("/")).is_forwarded("").holds_permits("db");
    let mut bench = with_gate(r#","preflight":"reply""#).on_trial("db", 1);
    bench.ask(preflight()).is_forwarded("").holds_permits("db");
}

#[test]
fn a_preflight_that_passed_a_closed_gate_is_no_evidence() {
    let ignored = |mut bench: Bench, request: &TestRequest| {
        decide(&bench.policy, request, &mut bench.readiness, &mut bench.splits).ignored
    };
    let db = with_gate("").id("db");
    assert_eq!(ignored(with_gate("").set("db", DOWN), &preflight()), [db]);
    assert_eq!(ignored(with_gate("").on_trial("db", 1), &preflight()), [db]);
    assert_eq!(ignored(with_gate(""), &preflight()), []);
    assert_eq!(ignored(with_gate("").on_trial("db", 0), &get("/")), []);
}

#[test]
fn a_preflight_goes_to_the_fallback_like_the_request_that_follows_it() {
    let fallback = r#","fallback":{"upstream":"mq","clusterHeader":"x-cluster"}"#;
    let mut bench = with_gate(fallback).set("db", DOWN);
    bench.ask(preflight()).is_forwarded("x-cluster: mq");
    bench.set("mq", DOWN).ask(preflight()).is_forwarded("");
}

#[test]
fn the_next_gate_still_applies_to_a_preflight_that_passed_one() {
    let gates = r#""gates":[{"upstream":"db"},{"upstream":"mq","preflight":"reply"}]"#;
    let mut bench = Bench::new(policy(gates)).set("db", DOWN).set("mq", DOWN);
    bench.ask(preflight()).is_gated_by("mq");
}

#[test]
fn an_open_gate_reads_no_header_to_recognize_a_preflight() {
    let request = preflight();
    let mut bench = with_gate("");
    decide(&bench.policy, &request, &mut bench.readiness, &mut bench.splits);
    assert!(request.asked.borrow().is_empty(), "{:?}", request.asked);
}
