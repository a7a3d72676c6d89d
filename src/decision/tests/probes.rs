use super::*;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

fn bench() -> Bench {
    let probes = r#""probes":{"liveness":{"path":"/api/livez"},"readiness":{"path":"/readyz","checks":[{"upstream":"db"}]}}"#;
    Bench::new(policy(&format!(r#"{probes},"releases":[{REVIEWS}],"gates":[{{"upstream":"db"}}]"#)))
}

#[test]
fn are_answered_and_nothing_else_happens() {
    let mut bench = bench().set("db", DOWN).on_trial("one", 1);
    let told = bench.ask(get("/api/livez").with("x-user", ON_V1));
    told.is_assigned("").holds_permits("");
    assert_eq!(told.reply.unwrap().status, 200);
    let told = bench.ask(Ask::to("HEAD", "/readyz?verbose"));
    assert_eq!(told.reply.unwrap().status, 503);
    bench.ask(get("/api").with("x-user", ON_V1)).holds_permits("one");
}

#[test]
fn with_another_method_are_requests_like_any_other() {
    let mut bench = bench();
    bench.ask(Ask::to("POST", "/api/livez").with("x-user", ON_V2)).is_forwarded("x-v: v2");
    bench.ask(Ask::to("POST", "/readyz")).is_forwarded("");
}

#[test]
fn take_no_permit_of_an_upstream_on_trial() {
    let told = bench().on_trial("db", 1).ask(get("/readyz"));
    told.holds_permits("");
    assert_eq!(told.reply.unwrap().status, 200);
}

/// With a gate that would stop them and a release that would steer them.
fn beside_all_else(probes: &str) -> Bench {
    let reviews = REVIEWS.replace("/api", "/");
    let parts = format!(r#""probes":{{{probes}}},"releases":[{reviews}],"gates":[{{"upstream":"db"}}]"#);
    Bench::new(policy(&parts)).set("db", DOWN)
}

#[test]
fn that_pass_through_get_no_version_and_no_gate() {
    let mut bench = beside_all_else(r#""liveness":{"path":"/livez","passThrough":{"cacheSeconds":2}}"#);
    for ask in [get("/livez").with("x-user", ON_V2), get("/livez?a=b").with("x-v", "v2")] {
        let told = bench.ask(ask);
        assert_eq!(told.is_assigned("").holds_permits("").what, "pass through");
    }
    assert_eq!(bench.ask(Ask::to("HEAD", "/livez")).what, "pass through with no body");
}

#[test]
fn that_pass_through_do_not_while_readiness_is_held_back() {
    let through = r#""passThrough":{"cacheSeconds":2}"#;
    let mut bench = beside_all_else(&format!(
        r#""startup":{{"path":"/s"}},"liveness":{{"path":"/l",{through}}},"readiness":{{"path":"/r",{through}}}"#
    ));
    bench.known.lifecycle = Lifecycle { started: false, draining: false };
    bench.ask(get("/r")).is_answered("reply", 503);
    assert_eq!(bench.ask(get("/l")).what, "pass through");
}

#[test]
fn of_grpc_go_to_the_hop_and_nowhere_else() {
    let mut bench = beside_all_else(r#""grpc":{"services":[""]}"#);
    let mut check = |path: &str, content_type: &str| {
        let ask = Ask::to("POST", &format!("/grpc.health.v1.Health/{path}"));
        bench.ask(ask.with("content-type", content_type).with("x-v", "v2"))
    };
    let edits = "content-type: application/x-graygate, x-graygate-hop: grpc-health, no x-v";
    check("Check", "application/grpc").is("grpc check", edits);
    check("Check", "application/json").is_answered("reply", 415);
    check("Check", "application/x-graygate").is_answered("reply", 415);
    bench
        .ask(Ask::to("PUT", "/grpc.health.v1.Health/Check").with("content-type", "application/grpc"))
        .is_answered("reply", 200);
    let mut check = |path: &str, content_type: &str| {
        let ask = Ask::to("POST", &format!("/grpc.health.v1.Health/{path}"));
        bench.ask(ask.with("content-type", content_type))
    };
    for method in ["Watch", "List", "", "Check/"] {
        let told = check(method, "application/grpc+proto");
        assert_eq!(told.is_answered("reply", 200).reply.as_ref().unwrap().grpc_status, Some(12), "{method}");
    }
}

#[test]
fn that_order_a_drain_are_followed_from_an_allowed_address() {
    let mut bench = beside_all_else(r#""drain":{"path":"/drainz","from":["10.0.0.0/8"]}"#);
    let mut order = |method: &str, source: &str| {
        bench.ask(Ask { source: source.to_owned(), ..Ask::to(method, "/drainz?x") })
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
