use super::*;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

#[test]
fn a_gate_admits_requests_while_its_upstream_is_ready() {
    with_reviews_and_gates(r#"{"upstream":"db"}"#).ask(by(USER_ON_V1)).is_forwarded("x-v: v1");
}

#[test]
fn a_gate_replies_to_every_request_it_matches_whatever_its_version() {
    let mut bench =
        with_reviews_and_gates(r#"{"upstream":"db","match":[{"uri":{"prefix":"/api"}}]}"#).set("db", DOWN);
    bench.ask(by(USER_ON_V1)).is_gated_by("db");
    bench.ask(by(USER_ON_V2)).is_gated_by("db");
    bench.ask(get("/other")).is_forwarded("");
}

#[test]
fn a_gate_on_a_versions_upstream_replies_to_requests_for_that_version() {
    let mut bench = with_reviews_and_gates(r#"{"upstream":"one"}"#).set("one", DOWN);
    bench.ask(by(USER_ON_V1)).is_gated_by("one");
    bench.ask(by(USER_ON_V2)).is_forwarded("x-v: v2");
    // The request falls back to the version.
    let mut bench = bench.set("two", DOWN);
    bench.ask(by(USER_ON_V2)).is_gated_by("one");
}

#[test]
fn a_gate_also_stops_requests_whose_value_is_too_long_for_its_regex() {
    let gate = r#"{"upstream":"db","match":[{"headers":{"x-long":{"regex":"a+"}}}]}"#;
    let mut bench = with_reviews_and_gates(gate).set("db", DOWN);
    let long = "b".repeat(5_000);
    bench.ask(get("/other").with("x-long", "b")).is_forwarded("");
    bench.ask(get("/other").with("x-long", &long)).is_gated_by("db");
}

#[test]
fn a_gate_admits_requests_that_fell_back_to_another_version() {
    let mut bench = with_reviews_and_gates(r#"{"upstream":"two"}"#).set("two", DOWN);
    bench.ask(by(USER_ON_V2)).is_forwarded("x-v: v1").is_assigned("reviews v1 by fallback");
}

#[test]
fn a_gate_matches_on_the_assigned_version_rather_than_the_received_one() {
    let gate = r#"{"upstream":"db","match":[{"headers":{"x-v":{"exact":"v2"}}}]}"#;
    let mut bench = with_reviews_and_gates(gate).set("db", DOWN);
    bench.ask(by(USER_ON_V1).with("x-v", "v2")).is_forwarded("x-v: v1");
    bench.ask(by(USER_ON_V2).with("x-v", "v1")).is_gated_by("db");
    bench.ask(get("/other").with("x-v", "v2")).is_forwarded("no x-v");
}

#[test]
fn a_gate_without_a_match_reads_the_route_only_while_its_upstream_is_not_ready() {
    let mut bench = with_reviews_and_gates(r#"{"upstream":"db"},{"upstream":"one"}"#);
    let reads_route = |bench: &mut Bench, ask: &TestRequest| {
        let decision = decide(&bench.policy, ask, &mut bench.readiness, &mut bench.splits);
        assert!(decision.permits.is_empty());
        ask.asked.borrow().iter().any(|read| read == "the route")
    };
    assert!(!reads_route(&mut bench, &by(USER_ON_V1)));
    let mut bench = bench.set("db", DOWN);
    assert!(reads_route(&mut bench, &by(USER_ON_V1)));
    // The assigned version decides.
    let mut bench = bench.set("db", Admission::Ready).set("one", DOWN);
    assert!(!reads_route(&mut bench, &by(USER_ON_V1)));
    assert!(reads_route(&mut bench, &get("/other")));
}

#[test]
fn a_gate_without_a_match_holds_for_requests_that_are_routed_to_its_cluster() {
    let mut bench = with_reviews_and_gates(r#"{"upstream":"db"}"#).set("db", DOWN);
    let routed_to = |cluster| TestRequest { cluster: Some(cluster), ..by(USER_ON_V1) };
    bench.ask(routed_to("db")).is_gated_by("db");
    bench.ask(routed_to("mq")).is_forwarded("x-v: v1");
    let mut bench = bench.on_trial("db", 1);
    bench.ask(routed_to("mq")).is_forwarded("x-v: v1").holds_permits("");
    bench.ask(routed_to("db")).is_forwarded("x-v: v1").holds_permits("db");
    bench.ask(routed_to("db")).is_gated_by("db");
}

/// Without a version, only the route decides.
#[test]
fn a_gate_on_a_versions_upstream_holds_for_requests_without_a_release() {
    let mut bench = with_reviews_and_gates(r#"{"upstream":"two"}"#).set("two", DOWN);
    bench.ask(get("/other")).is_gated_by("two");
}

#[test]
fn the_first_closed_gate_in_the_document_replies() {
    let mut bench = with_reviews_and_gates(r#"{"upstream":"mq"},{"upstream":"db"}"#).set("db", DOWN);
    bench.ask(by(USER_ON_V1)).is_gated_by("db");
    let mut bench = bench.set("mq", DOWN);
    bench.ask(by(USER_ON_V1)).is_gated_by("mq");
}

#[test]
fn a_gate_on_trial_admits_requests_with_a_permit() {
    let mut bench = with_reviews_and_gates(r#"{"upstream":"db"}"#).on_trial("db", 1);
    bench.ask(by(USER_ON_V1)).is_forwarded("x-v: v1").holds_permits("db");
    let outcome = bench.ask(by(USER_ON_V1));
    assert_eq!(outcome.is_gated_by("db").details, "graygate_gate{shop|db|wait-over}");
}

#[test]
fn a_gate_on_a_default_version_on_trial_holds_back_requests_without_a_permit() {
    let mut bench = with_reviews_and_gates(r#"{"upstream":"one"}"#).on_trial("one", 1);
    bench.ask(by(USER_ON_V1)).is_forwarded("x-v: v1").holds_permits("one");
    bench.ask(by(USER_ON_V1)).is_gated_by("one");
}

#[test]
fn a_reply_is_503_with_the_upstream_and_the_reason() {
    let mut bench = with_reviews_and_gates(r#"{"upstream":"db"}"#).set("db", DOWN);
    let outcome = bench.ask(by(USER_ON_V1));
    let reply = outcome.is_gated_by("db");
    assert_eq!(reply.status, 503);
    assert_eq!(reply.body, b"policy shop: upstream db is not ready: check-failed: status 500\n");
    assert_eq!(reply.details, "graygate_gate{shop|db|check-failed}");
    assert!(reply.headers.contains(&("retry-after".into(), "5".into())));
    let reason = UpstreamReason::CheckFailed(CheckFailure::Status(500));
    assert_eq!(reply.cause, ReplyCause::Gate { upstream: bench.id("db"), reason });
}

#[test]
fn a_reply_follows_the_policy() {
    let gate = r#"{"upstream":"db","reply":{"status":429,"retryAfterSeconds":7,"headers":{"X-Why":"down"},
        "body":"{\"up\":\"{upstream}\",\"why\":\"{reason}\",\"again\":{retryAfter}}"}}"#;
    let outcome = with_reviews_and_gates(gate).set("db", DOWN).ask(by(USER_ON_V1));
    let reply = outcome.is_gated_by("db");
    assert_eq!(
        (reply.status, core::str::from_utf8(&reply.body).unwrap()),
        (429, r#"{"up":"db","why":"check-failed","again":7}"#)
    );
    let headers: Vec<_> = reply.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    let defaults = ["content-type: application/json", "cache-control: no-store", "x-envoy-ratelimited: true"];
    assert_eq!(headers, [&["x-why: down"], &defaults[..], &["retry-after: 7"]].concat());
}

/// Returns gates on three upstreams, of which this percentage may be gated.
fn three(percent: u32) -> Bench {
    let gates = ["one", "db", "mq"].map(|name| {
        format!(r#"{{"upstream":"{name}","match":[{{"uri":{{"prefix":"/{name}"}}}}],"whenAllNotReady":"forward"}}"#)
    });
    Bench::new(policy(&format!(r#""maxGatedPercent":{percent},"gates":[{}]"#, gates.join(","))))
}

const ALL_NOT_READY: &str = "failed-open; upstream={}; reason=check-failed; because=all-not-ready";
const MAX_GATED: &str = "failed-open; upstream={}; reason=check-failed; because=max-gated";

fn gate_header(template: &str, upstream: &str) -> String {
    format!("also x-graygate-gate: {}", template.replace("{}", upstream))
}

#[test]
fn gates_fail_open_and_report_it_when_all_gated_upstreams_are_not_ready() {
    let mut bench = three(100).set("one", DOWN).set("db", DOWN);
    bench.ask(get("/one")).is_gated_by("one");
    let mut bench = bench.set("mq", DOWN);
    for upstream in ["one", "db", "mq"] {
        bench.ask(get(&format!("/{upstream}"))).has_response_edits(&gate_header(ALL_NOT_READY, upstream));
    }
    // An upstream without a gate does not count.
    let mut bench = bench.set("two", DOWN).set("db", Admission::Ready);
    bench.ask(get("/mq")).is_gated_by("mq");
}

#[test]
fn a_single_gate_fails_open_if_the_policy_asks_for_it() {
    let mut bench = Bench::new(policy(r#""gates":[{"upstream":"db","whenAllNotReady":"forward"}]"#));
    bench.ask(get("/")).has_response_edits("");
    bench.set("db", DOWN).ask(get("/")).has_response_edits(&gate_header(ALL_NOT_READY, "db"));
}

#[test]
fn gates_hold_while_one_upstream_is_on_trial_or_on_a_ramp() {
    let trial = Admission::Ramp {
        from: Time::from_millis(0),
        until: Time::from_millis(10),
        reason: UpstreamReason::TrialPassed,
    };
    let mut bench = three(100).set("one", DOWN).set("db", DOWN).set("mq", trial);
    bench.ask(get("/one")).is_gated_by("one");
    // Its own gate failed open before, so it must not begin to refuse.
    let expected =
        "also x-graygate-gate: failed-open; upstream=mq; reason=trial-passed; because=all-not-ready";
    bench.ask(get("/mq")).has_response_edits(expected);
    let mut bench = bench.set("db", Admission::Ready);
    bench.ask(get("/mq")).is_gated_by("mq");
    // On trial it is not Ready, and requests without a permit are forwarded as well.
    let mut bench = bench.set("db", DOWN).on_trial("mq", 1);
    bench.ask(get("/mq")).has_response_edits("").holds_permits("mq");
    bench.ask(get("/mq")).has_response_edits(
        "also x-graygate-gate: failed-open; upstream=mq; reason=wait-over; because=all-not-ready",
    );
}

/// A later upstream in the policy has been not ready for longer.
#[test]
fn the_upstreams_that_failed_first_are_gated_up_to_the_maximum() {
    for (percent, gated) in [(1, &["mq"][..]), (34, &["mq"]), (67, &["mq", "db"]), (99, &["mq", "db"])] {
        let gates = ["one", "db", "mq"]
            .map(|name| format!(r#"{{"upstream":"{name}","match":[{{"uri":{{"prefix":"/{name}"}}}}]}}"#));
        let text = format!(r#""maxGatedPercent":{percent},"gates":[{}]"#, gates.join(","));
        let mut bench = Bench::new(policy(&text)).set("one", DOWN).set("db", DOWN).set("mq", DOWN);
        for upstream in ["one", "db", "mq"] {
            let outcome = bench.ask(get(&format!("/{upstream}")));
            if gated.contains(&upstream) {
                outcome.is_gated_by(upstream);
            } else {
                outcome.has_response_edits(&gate_header(MAX_GATED, upstream));
            }
        }
    }
}

#[test]
fn a_gate_holds_for_a_forced_upstream() {
    let mut bench = three(34).set("one", DOWN).set("db", DOWN).set("mq", DOWN);
    bench.policy.upstreams[0].force = Some(false);
    bench.ask(get("/one")).is_gated_by("one");
    // The forced upstream uses up the share.
    bench.ask(get("/mq")).has_response_edits(&gate_header(ALL_NOT_READY, "mq"));
    let mut bench = bench.set("db", Admission::Ready);
    bench.ask(get("/mq")).has_response_edits(&gate_header(MAX_GATED, "mq"));
}

#[test]
fn a_gate_that_fails_open_leaves_the_request_to_the_next() {
    let gates = r#""gates":[{"upstream":"db","whenAllNotReady":"forward"},
        {"upstream":"db","whenAllNotReady":"forward"},{"upstream":"db","match":[{"uri":{"prefix":"/pay"}}]}]"#;
    let mut bench = Bench::new(policy(gates)).set("db", DOWN);
    bench.ask(get("/")).has_response_edits(&gate_header(ALL_NOT_READY, "db"));
    bench.ask(get("/pay")).is_gated_by("db");
}

const FALLBACK_TO_MQ: &str = r#"{"upstream":"db","fallback":{"upstream":"mq","clusterHeader":"x-cluster"}}"#;

#[test]
fn a_fallback_gets_the_request_without_a_version() {
    let mut bench = with_reviews_and_gates(FALLBACK_TO_MQ);
    bench.ask(by(USER_ON_V1)).is_forwarded("x-v: v1").is_assigned("reviews v1 by sticky");
    let mut bench = bench.set("db", DOWN);
    bench
        .ask(by(USER_ON_V1).with("x-v", "v2"))
        .is_forwarded("x-cluster: mq, no x-v")
        .is_assigned("")
        .has_response_edits("also x-graygate-gate: fallback; upstream=db; reason=check-failed; to=mq");
}

#[test]
fn a_gate_replies_if_its_fallback_is_not_available() {
    let mut bench = with_reviews_and_gates(FALLBACK_TO_MQ).set("db", DOWN).set("mq", DOWN);
    bench.ask(by(USER_ON_V1)).is_gated_by("db");
    let mut bench = bench.on_trial("mq", 1);
    bench.ask(by(USER_ON_V1)).is_forwarded("x-cluster: mq").holds_permits("mq");
    bench.ask(by(USER_ON_V1)).is_gated_by("db");
}

#[test]
fn the_header_of_a_fallback_is_removed_from_incoming_requests() {
    let mut bench = with_reviews_and_gates(FALLBACK_TO_MQ);
    bench.ask(get("/other").with("x-cluster", "admin")).is_forwarded("no x-cluster");
    // A release may steer by the same header.
    let same = r#"{"name":"r","match":[{"uri":{"prefix":"/api"}}],"steer":{"clusterHeader":"x-cluster"},"versions":[
        {"name":"v1","upstream":"one","weight":1,"default":true}]}"#;
    let mut bench = Bench::new(policy(&format!(r#""releases":[{same}],"gates":[{FALLBACK_TO_MQ}]"#)));
    bench.ask(get("/other").with("x-cluster", "admin")).is_forwarded("no x-cluster");
    bench.ask(get("/api").with("x-cluster", "admin")).is_forwarded("x-cluster: one");
    let mut bench = bench.set("db", DOWN);
    bench.ask(get("/api").with("x-cluster", "admin")).is_forwarded("x-cluster: mq");
}

#[test]
fn an_answer_has_no_body_if_its_status_has_none() {
    for status in [204, 205, 304] {
        let gate = format!(r#"{{"upstream":"db","fallback":{{"answer":{{"status":{status}}}}}}}"#);
        let outcome = with_reviews_and_gates(&gate).set("db", DOWN).ask(by(USER_ON_V1));
        let reply = outcome.is_answered("reply", status).is_gated_by("db");
        assert!(reply.body.is_empty() && reply.headers.iter().all(|(name, _)| name != "content-type"));
    }
}

#[test]
fn a_static_answer_stands_in_for_the_upstream() {
    let gate = r#"{"upstream":"db","fallback":{"answer":{"body":"{\"items\":[],\"why\":\"{reason}\"}"}}}"#;
    let mut bench = with_reviews_and_gates(gate).set("db", DOWN);
    let outcome = bench.ask(by(USER_ON_V1));
    let reply = outcome.is_answered("reply", 200).is_gated_by("db");
    assert_eq!(reply.body, br#"{"items":[],"why":"check-failed"}"#);
    let headers: Vec<_> = reply.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    let degraded = "x-graygate-gate: fallback; upstream=db; reason=check-failed; to=answer";
    assert_eq!(headers, ["content-type: application/json", "cache-control: no-store", degraded]);
    // The proxy cannot send a gRPC message.
    let call = by(USER_ON_V1).with("content-type", "application/grpc+proto");
    bench.ask(call).is_answered("reply", 503);
}

#[test]
fn retry_after_is_the_rest_of_the_wait() {
    let gate = |reply: &str| Bench::new(policy(&format!(r#""gates":[{{"upstream":"db"{reply}}}]"#)));
    let retry_after = |bench: Bench, until| {
        let mut bench = bench.set("db", DOWN).at(10);
        bench.readiness.until = until;
        let outcome = bench.ask(get("/"));
        let headers = &outcome.is_gated_by("db").headers;
        headers.iter().find(|(name, _)| name == "retry-after").map(|(_, value)| value.clone()).unwrap()
    };
    for (until, expected) in [(10_001, "1"), (12_000, "2"), (12_001, "3"), (9_000, "1"), (u64::MAX, "86400")]
    {
        assert_eq!(retry_after(gate(""), Some(Time::from_millis(until))), expected, "{until}");
    }
    assert_eq!(retry_after(gate(""), None), "5");
    let fixed = gate(r#","reply":{"retryAfterSeconds":7}"#);
    assert_eq!(retry_after(fixed, Some(Time::from_millis(12_000))), "7");
}

mod ignored_requests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn ignored(breaker: &str, ask: TestRequest) -> Vec<UpstreamId> {
        let text = format!(
            r#"{{"name":"p","upstreams":{{"a":{{"cluster":"a"}},"b":{{"cluster":"b","circuitBreaker":{{{breaker}}}}}}}}}"#
        );
        let mut bench = Bench::new(Policy::from_json(text.as_bytes()).unwrap());
        decide(&bench.policy, &ask, &mut bench.readiness, &mut bench.splits).ignored
    }

    #[test]
    fn requests_that_are_not_recorded_or_are_ignored_are_no_evidence() {
        let record = r#""record":[{"uri":{"prefix":"/api"}}]"#;
        let ignore = r#""ignore":[{"uri":{"prefix":"/api/events"}},{"method":{"exact":"OPTIONS"}}]"#;
        let both = format!("{record},{ignore}");
        let b = [UpstreamId(1)];
        for (breaker, path, expected) in [
            ("", "/other", &[][..]),
            (record, "/api", &[]),
            (record, "/other", &b),
            (ignore, "/other", &[]),
            (ignore, "/api/events/1", &b),
            (&both, "/api", &[]),
            (&both, "/api/events", &b),
            (&both, "/", &b),
        ] {
            assert_eq!(ignored(breaker, get(path)), expected, "{breaker} {path}");
        }
        assert_eq!(ignored(ignore, TestRequest::to("OPTIONS", "/")), b);
    }

    #[test]
    fn no_header_is_read_if_no_breaker_selects_requests() {
        let mut bench = Bench::new(policy(""));
        let ask = get("/");
        decide(&bench.policy, &ask, &mut bench.readiness, &mut bench.splits);
        assert!(ask.asked.borrow().is_empty());
    }
}
