use super::*;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

fn bench() -> Bench {
    let probes = r#""probes":{"liveness":{"path":"/api/livez"},"readiness":{"path":"/readyz","checks":[{"upstream":"db"}]}}"#;
    Bench::new(policy(&format!(r#"{probes},"releases":[{REVIEWS}],"gates":[{{"upstream":"db"}}]"#)))
}

#[test]
fn a_probe_is_answered_and_nothing_else_happens() {
    let mut bench = bench().set("db", DOWN).on_trial("one", 1);
    let outcome = bench.ask(get("/api/livez").with("x-user", USER_ON_V1));
    outcome.is_assigned("").holds_permits("");
    assert_eq!(outcome.reply.unwrap().status, 200);
    let outcome = bench.ask(TestRequest::to("HEAD", "/readyz?verbose"));
    assert_eq!(outcome.reply.unwrap().status, 503);
    bench.ask(get("/api").with("x-user", USER_ON_V1)).holds_permits("one");
}

#[test]
fn a_probes_path_with_another_method_is_an_ordinary_request() {
    let mut bench = bench();
    bench.ask(TestRequest::to("POST", "/api/livez").with("x-user", USER_ON_V2)).is_forwarded("x-v: v2");
    bench.ask(TestRequest::to("POST", "/readyz")).is_forwarded("");
}

#[test]
fn a_probe_takes_no_permit() {
    let outcome = bench().on_trial("db", 1).ask(get("/readyz"));
    outcome.holds_permits("");
    assert_eq!(outcome.reply.unwrap().status, 200);
}

/// Returns a bench with these probes, a gate that would stop them and a release that would steer them.
fn with_gate_and_release(probes: &str) -> Bench {
    let reviews = REVIEWS.replace("/api", "/");
    let parts = format!(r#""probes":{{{probes}}},"releases":[{reviews}],"gates":[{{"upstream":"db"}}]"#);
    Bench::new(policy(&parts)).set("db", DOWN)
}

#[test]
fn a_probe_that_passes_through_gets_no_version_and_no_gate() {
    let mut bench = with_gate_and_release(r#""liveness":{"path":"/livez","passThrough":{"cacheSeconds":2}}"#);
    for ask in [get("/livez").with("x-user", USER_ON_V2), get("/livez?a=b").with("x-v", "v2")] {
        let outcome = bench.ask(ask);
        assert_eq!(outcome.is_assigned("").holds_permits("").action, "pass through");
    }
    assert_eq!(bench.ask(TestRequest::to("HEAD", "/livez")).action, "pass through with no body");
}

#[test]
fn readiness_does_not_pass_through_while_it_is_held_back() {
    let through = r#""passThrough":{"cacheSeconds":2}"#;
    let mut bench = with_gate_and_release(&format!(
        r#""startup":{{"path":"/s"}},"liveness":{{"path":"/l",{through}}},"readiness":{{"path":"/r",{through}}}"#
    ));
    bench.readiness.lifecycle = Lifecycle { started: false, ..Lifecycle::default() };
    bench.ask(get("/r")).is_answered("reply", 503);
    assert_eq!(bench.ask(get("/l")).action, "pass through");
}

#[test]
fn a_grpc_check_is_forwarded_to_the_hop_only() {
    let mut bench = with_gate_and_release(r#""grpc":{"services":[""]}"#);
    let mut check = |path: &str, content_type: &str| {
        let ask = TestRequest::to("POST", &format!("/grpc.health.v1.Health/{path}"));
        bench.ask(ask.with("content-type", content_type).with("x-v", "v2"))
    };
    let edits = "content-type: application/x-graygate, x-graygate-hop: grpc-health, no x-v";
    check("Check", "application/grpc").is("grpc check", edits);
    check("Check", "application/json").is_answered("reply", 415);
    check("Check", "application/x-graygate").is_answered("reply", 415);
    bench
        .ask(TestRequest::to("PUT", "/grpc.health.v1.Health/Check").with("content-type", "application/grpc"))
        .is_answered("reply", 200);
    let mut check = |path: &str, content_type: &str| {
        let ask = TestRequest::to("POST", &format!("/grpc.health.v1.Health/{path}"));
        bench.ask(ask.with("content-type", content_type))
    };
    for method in ["Watch", "List", "", "Check/"] {
        let outcome = check(method, "application/grpc+proto");
        assert_eq!(
            outcome.is_answered("reply", 200).reply.as_ref().unwrap().grpc_status,
            Some(12),
            "{method}"
        );
    }
}

#[test]
fn an_order_to_drain_is_accepted_from_allowed_addresses_only() {
    let mut bench = with_gate_and_release(r#""drain":{"path":"/drainz","from":["10.0.0.0/8"]}"#);
    let mut order = |method: &str, source: &str| {
        bench.ask(TestRequest { source: source.to_owned(), ..TestRequest::to(method, "/drainz?x") })
    };
    order("POST", "10.1.2.3:4567").is_answered("drain", 200);
    order("DELETE", "10.1.2.3:4567").is_answered("stop draining", 200);
    order("GET", "10.1.2.3:4567").is_answered("reply", 200);
    order("PUT", "10.1.2.3:4567").is_answered("reply", 405);
    for method in ["POST", "DELETE", "GET", "PUT"] {
        for source in ["11.1.2.3:4567", "10.1.2.3:0", ""] {
            order(method, source).is_answered("reply", 403);
        }
    }
}
