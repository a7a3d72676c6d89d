use super::*;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

#[test]
fn let_requests_pass_while_the_upstream_is_ready() {
    with_reviews_and_gates(r#"{"upstream":"db"}"#).ask(by(ON_V1)).is_forwarded("x-v: v1");
}

#[test]
fn answer_every_request_they_match_whatever_its_version() {
    let mut bench =
        with_reviews_and_gates(r#"{"upstream":"db","match":[{"uri":{"prefix":"/api"}}]}"#).set("db", DOWN);
    bench.ask(by(ON_V1)).is_gated_by("db");
    bench.ask(by(ON_V2)).is_gated_by("db");
    bench.ask(get("/other")).is_forwarded("");
}

#[test]
fn on_a_versions_upstream_answer_those_that_go_to_that_version() {
    let mut bench = with_reviews_and_gates(r#"{"upstream":"one"}"#).set("one", DOWN);
    bench.ask(by(ON_V1)).is_gated_by("one");
    bench.ask(by(ON_V2)).is_forwarded("x-v: v2");
    // Fallen back to it.
    let mut bench = bench.set("two", DOWN);
    bench.ask(by(ON_V2)).is_gated_by("one");
}

#[test]
fn on_a_version_that_fell_back_let_its_requests_pass() {
    let mut bench = with_reviews_and_gates(r#"{"upstream":"two"}"#).set("two", DOWN);
    bench.ask(by(ON_V2)).is_forwarded("x-v: v1").is_assigned("reviews v1 by fallback");
}

#[test]
fn match_on_the_version_that_was_decided_and_not_on_the_one_that_was_sent() {
    let gate = r#"{"upstream":"db","match":[{"headers":{"x-v":{"exact":"v2"}}}]}"#;
    let mut bench = with_reviews_and_gates(gate).set("db", DOWN);
    bench.ask(by(ON_V1).with("x-v", "v2")).is_forwarded("x-v: v1");
    bench.ask(by(ON_V2).with("x-v", "v1")).is_gated_by("db");
    bench.ask(get("/other").with("x-v", "v2")).is_forwarded("no x-v");
}

/// No version says where it goes, so the gate's own match does.
#[test]
fn on_a_versions_upstream_hold_for_requests_that_are_for_no_release() {
    let mut bench = with_reviews_and_gates(r#"{"upstream":"two"}"#).set("two", DOWN);
    bench.ask(get("/other")).is_gated_by("two");
}

#[test]
fn answer_in_the_documents_order() {
    let mut bench = with_reviews_and_gates(r#"{"upstream":"mq"},{"upstream":"db"}"#).set("db", DOWN);
    bench.ask(by(ON_V1)).is_gated_by("db");
    let mut bench = bench.set("mq", DOWN);
    bench.ask(by(ON_V1)).is_gated_by("mq");
}

#[test]
fn on_trial_let_those_with_a_permit_pass() {
    let mut bench = with_reviews_and_gates(r#"{"upstream":"db"}"#).on_trial("db", 1);
    bench.ask(by(ON_V1)).is_forwarded("x-v: v1").holds_permits("db");
    let told = bench.ask(by(ON_V1));
    assert_eq!(told.is_gated_by("db").details, "graygate_gate{shop|db|wait-over}");
}

#[test]
fn on_a_default_version_on_trial_hold_back_those_with_no_permit() {
    let mut bench = with_reviews_and_gates(r#"{"upstream":"one"}"#).on_trial("one", 1);
    bench.ask(by(ON_V1)).is_forwarded("x-v: v1").holds_permits("one");
    bench.ask(by(ON_V1)).is_gated_by("one");
}

#[test]
fn answer_503_with_the_upstream_and_the_reason() {
    let mut bench = with_reviews_and_gates(r#"{"upstream":"db"}"#).set("db", DOWN);
    let told = bench.ask(by(ON_V1));
    let reply = told.is_gated_by("db");
    assert_eq!(reply.status, 503);
    assert_eq!(reply.body, b"policy shop: upstream db is not ready: check-failed: status 500\n");
    assert_eq!(reply.details, "graygate_gate{shop|db|check-failed}");
    assert!(reply.headers.contains(&("retry-after".into(), "5".into())));
    let reason = UpstreamReason::CheckFailed(CheckFailure::Status(500));
    assert_eq!(reply.cause, ReplyCause::Gate { upstream: bench.id("db"), reason });
}

#[test]
fn answer_as_the_policy_says() {
    let gate = r#"{"upstream":"db","reply":{"status":429,"retryAfterSeconds":7,"headers":{"X-Why":"down"},
        "body":"{\"up\":\"{upstream}\",\"why\":\"{reason}\",\"again\":{retryAfter}}"}}"#;
    let told = with_reviews_and_gates(gate).set("db", DOWN).ask(by(ON_V1));
    let reply = told.is_gated_by("db");
    assert_eq!(
        (reply.status, core::str::from_utf8(&reply.body).unwrap()),
        (429, r#"{"up":"db","why":"check-failed","again":7}"#)
    );
    let headers: Vec<_> = reply.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    assert_eq!(headers, ["x-why: down", "content-type: application/json", "retry-after: 7"]);
}

/// Gates on three upstreams, of which so many percent may be gated.
fn three(percent: u32) -> Bench {
    let gates = ["one", "db", "mq"].map(|name| {
        format!(r#"{{"upstream":"{name}","match":[{{"uri":{{"prefix":"/{name}"}}}}],"whenAllNotReady":"forward"}}"#)
    });
    Bench::new(policy(&format!(r#""maxGatedPercent":{percent},"gates":[{}]"#, gates.join(","))))
}

const ALL: &str = "failed-open; upstream={}; reason=check-failed; because=all-not-ready";
const MOST: &str = "failed-open; upstream={}; reason=check-failed; because=max-gated";

fn told(words: &str, upstream: &str) -> String {
    format!("also x-graygate-gate: {}", words.replace("{}", upstream))
}

#[test]
fn fail_open_when_all_gated_upstreams_are_not_ready_and_say_so() {
    let mut bench = three(100).set("one", DOWN).set("db", DOWN);
    bench.ask(get("/one")).is_gated_by("one");
    let mut bench = bench.set("mq", DOWN);
    for upstream in ["one", "db", "mq"] {
        bench.ask(get(&format!("/{upstream}"))).comes_back_with(&told(ALL, upstream));
    }
    // What no gate guards is none of them.
    let mut bench = bench.set("two", DOWN).set("db", Admission::Ready);
    bench.ask(get("/mq")).is_gated_by("mq");
}

#[test]
fn fail_open_where_the_only_gated_upstream_is_down_if_the_policy_says_so() {
    let mut bench = Bench::new(policy(r#""gates":[{"upstream":"db","whenAllNotReady":"forward"}]"#));
    bench.ask(get("/")).comes_back_with("");
    bench.set("db", DOWN).ask(get("/")).comes_back_with(&told(ALL, "db"));
}

#[test]
fn hold_while_one_upstream_is_on_trial_or_on_its_ramp() {
    let trial = Admission::Ramp {
        from: Time::from_millis(0),
        until: Time::from_millis(10),
        reason: UpstreamReason::TrialPassed,
    };
    let mut bench = three(100).set("one", DOWN).set("db", DOWN).set("mq", trial);
    bench.ask(get("/one")).is_gated_by("one");
    // Its own gate was open before, and does not begin to refuse now.
    let told = "also x-graygate-gate: failed-open; upstream=mq; reason=trial-passed; because=all-not-ready";
    bench.ask(get("/mq")).comes_back_with(told);
    let mut bench = bench.set("db", Admission::Ready);
    bench.ask(get("/mq")).is_gated_by("mq");
    // On trial it is not Ready, and those with no permit go all the same.
    let mut bench = bench.set("db", DOWN).on_trial("mq", 1);
    bench.ask(get("/mq")).comes_back_with("").holds_permits("mq");
    bench.ask(get("/mq")).comes_back_with(
        "also x-graygate-gate: failed-open; upstream=mq; reason=wait-over; because=all-not-ready",
    );
}

/// The later in the policy, the longer it has not been ready.
#[test]
fn hold_for_as_many_upstreams_as_may_be_gated_and_those_are_the_first_that_failed() {
    for (percent, gated) in [(1, &["mq"][..]), (34, &["mq"]), (67, &["mq", "db"]), (99, &["mq", "db"])] {
        let gates = ["one", "db", "mq"]
            .map(|name| format!(r#"{{"upstream":"{name}","match":[{{"uri":{{"prefix":"/{name}"}}}}]}}"#));
        let text = format!(r#""maxGatedPercent":{percent},"gates":[{}]"#, gates.join(","));
        let mut bench = Bench::new(policy(&text)).set("one", DOWN).set("db", DOWN).set("mq", DOWN);
        for upstream in ["one", "db", "mq"] {
            let answer = bench.ask(get(&format!("/{upstream}")));
            match gated.contains(&upstream) {
                true => _ = answer.is_gated_by(upstream),
                false => _ = answer.comes_back_with(&told(MOST, upstream)),
            }
        }
    }
}

#[test]
fn hold_for_an_upstream_that_the_operator_forces() {
    let mut bench = three(34).set("one", DOWN).set("db", DOWN).set("mq", DOWN);
    bench.policy.upstreams[0].force = Some(false);
    bench.ask(get("/one")).is_gated_by("one");
    // Its part of the share is the whole of it.
    bench.ask(get("/mq")).comes_back_with(&told(ALL, "mq"));
    let mut bench = bench.set("db", Admission::Ready);
    bench.ask(get("/mq")).comes_back_with(&told(MOST, "mq"));
}

#[test]
fn that_fail_open_leave_it_to_the_next() {
    let gates = r#""gates":[{"upstream":"db","whenAllNotReady":"forward"},
        {"upstream":"db","whenAllNotReady":"forward"},{"upstream":"db","match":[{"uri":{"prefix":"/pay"}}]}]"#;
    let mut bench = Bench::new(policy(gates)).set("db", DOWN);
    bench.ask(get("/")).comes_back_with(&told(ALL, "db"));
    bench.ask(get("/pay")).is_gated_by("db");
}

const TO_MQ: &str = r#"{"upstream":"db","fallback":{"upstream":"mq","clusterHeader":"x-cluster"}}"#;

#[test]
fn send_requests_to_their_fallback_and_to_no_version() {
    let mut bench = with_reviews_and_gates(TO_MQ);
    bench.ask(by(ON_V1)).is_forwarded("x-v: v1").is_assigned("reviews v1 by sticky");
    let mut bench = bench.set("db", DOWN);
    bench
        .ask(by(ON_V1).with("x-v", "v2"))
        .is_forwarded("x-cluster: mq, no x-v")
        .is_assigned("")
        .comes_back_with("also x-graygate-gate: fallback; upstream=db; reason=check-failed; to=mq");
}

#[test]
fn reply_where_the_fallback_is_not_to_be_had() {
    let mut bench = with_reviews_and_gates(TO_MQ).set("db", DOWN).set("mq", DOWN);
    bench.ask(by(ON_V1)).is_gated_by("db");
    let mut bench = bench.on_trial("mq", 1);
    bench.ask(by(ON_V1)).is_forwarded("x-cluster: mq").holds_permits("mq");
    bench.ask(by(ON_V1)).is_gated_by("db");
}

#[test]
fn take_the_header_of_a_fallback_from_nobody_else() {
    let mut bench = with_reviews_and_gates(TO_MQ);
    bench.ask(get("/other").with("x-cluster", "admin")).is_forwarded("no x-cluster");
    // A release may steer by the same header.
    let same = r#"{"name":"r","match":[{"uri":{"prefix":"/api"}}],"steer":{"clusterHeader":"x-cluster"},"versions":[
        {"name":"v1","upstream":"one","weight":1,"default":true}]}"#;
    let mut bench = Bench::new(policy(&format!(r#""releases":[{same}],"gates":[{TO_MQ}]"#)));
    bench.ask(get("/other").with("x-cluster", "admin")).is_forwarded("no x-cluster");
    bench.ask(get("/api").with("x-cluster", "admin")).is_forwarded("x-cluster: one");
    let mut bench = bench.set("db", DOWN);
    bench.ask(get("/api").with("x-cluster", "admin")).is_forwarded("x-cluster: mq");
}

#[test]
fn answer_with_no_body_where_the_status_has_none() {
    for status in [204, 205, 304] {
        let gate = format!(r#"{{"upstream":"db","fallback":{{"answer":{{"status":{status}}}}}}}"#);
        let told = with_reviews_and_gates(&gate).set("db", DOWN).ask(by(ON_V1));
        let reply = told.is_answered("reply", status).is_gated_by("db");
        assert!(reply.body.is_empty() && reply.headers.iter().all(|(name, _)| name != "content-type"));
    }
}

#[test]
fn answer_with_what_is_good_enough() {
    let gate = r#"{"upstream":"db","fallback":{"answer":{"body":"{\"items\":[],\"why\":\"{reason}\"}"}}}"#;
    let mut bench = with_reviews_and_gates(gate).set("db", DOWN);
    let told = bench.ask(by(ON_V1));
    let reply = told.is_answered("reply", 200).is_gated_by("db");
    assert_eq!(reply.body, br#"{"items":[],"why":"check-failed"}"#);
    let headers: Vec<_> = reply.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    let degraded = "x-graygate-gate: fallback; upstream=db; reason=check-failed; to=answer";
    assert_eq!(headers, ["content-type: application/json", degraded]);
    // A proxy can send no gRPC message.
    let call = by(ON_V1).with("content-type", "application/grpc+proto");
    bench.ask(call).is_answered("reply", 503);
}

#[test]
fn tell_how_much_of_the_wait_is_left() {
    let gate = |reply: &str| Bench::new(policy(&format!(r#""gates":[{{"upstream":"db"{reply}}}]"#)));
    let retry_after = |bench: Bench, until| {
        let mut bench = bench.set("db", DOWN).at(10);
        bench.known.until = until;
        let told = bench.ask(get("/"));
        let headers = &told.is_gated_by("db").headers;
        headers.iter().find(|(name, _)| name == "retry-after").map(|(_, value)| value.clone()).unwrap()
    };
    for (until, told) in [(10_001, "1"), (12_000, "2"), (12_001, "3"), (9_000, "1"), (u64::MAX, "86400")] {
        assert_eq!(retry_after(gate(""), Some(Time::from_millis(until))), told, "{until}");
    }
    assert_eq!(retry_after(gate(""), None), "5");
    let fixed = gate(r#","reply":{"retryAfterSeconds":7}"#);
    assert_eq!(retry_after(fixed, Some(Time::from_millis(12_000))), "7");
}

mod requests_that_are_no_evidence {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn ignored(breaker: &str, ask: Ask) -> Vec<UpstreamId> {
        let text = format!(
            r#"{{"name":"p","upstreams":{{"a":{{"cluster":"a"}},"b":{{"cluster":"b","circuitBreaker":{{{breaker}}}}}}}}}"#
        );
        let mut bench = Bench::new(Policy::from_json(text.as_bytes()).unwrap());
        decide(&bench.policy, &ask, &mut bench.known, &mut bench.splits).ignored
    }

    #[test]
    fn are_those_that_are_not_recorded_or_that_are_ignored() {
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
        assert_eq!(ignored(ignore, Ask::to("OPTIONS", "/")), b);
    }

    /// Each header is a host call.
    #[test]
    fn cost_nothing_where_no_breaker_selects() {
        let mut bench = Bench::new(policy(""));
        let ask = get("/");
        decide(&bench.policy, &ask, &mut bench.known, &mut bench.splits);
        assert!(ask.asked.borrow().is_empty());
    }
}
