//! The headers and the body of a gate's reply, for caches, browsers, other proxies and strangers.

use super::*;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// Returns a policy with a gate on `db`, which is down, with these fields.
fn gated(fields: &str) -> Bench {
    Bench::new(policy(&format!(r#""gates":[{{"upstream":"db"{fields}}}]"#))).set("db", DOWN)
}

/// Returns the reply of such a gate to this request.
fn reply_to(fields: &str, request: TestRequest) -> Reply {
    gated(fields).ask(request).is_gated_by("db").clone()
}

fn reply(fields: &str) -> Reply {
    reply_to(fields, get("/"))
}

/// Returns the values of a header.
fn values<'r>(reply: &'r Reply, name: &str) -> Vec<&'r str> {
    reply.headers.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_ref()).collect()
}

#[test]
fn no_cache_keeps_a_reply_or_an_answer_unless_the_policy_allows_it() {
    for kind in [r#","reply":{"status":404"#, r#","fallback":{"answer":{"status":200"#] {
        let close = if kind.contains("answer") { "}}" } else { "}" };
        let plain = reply(&format!("{kind}{close}"));
        assert_eq!(values(&plain, "cache-control"), ["no-store"], "{kind}");
        let own = reply(&format!(r#"{kind},"headers":{{"Cache-Control":"max-age=5"}}{close}"#));
        assert_eq!(values(&own, "cache-control"), ["max-age=5"], "{kind}");
    }
}

#[test]
fn an_envoy_in_front_is_told_not_to_retry_unless_the_policy_allows_it() {
    let told = |fields: &str| values(&reply(fields), "x-envoy-ratelimited").join(" ");
    assert_eq!(told(""), "true");
    assert_eq!(told(r#","reply":{"retriable":true}"#), "");
    assert_eq!(told(r#","reply":{"headers":{"X-Envoy-Ratelimited":"mine"}}"#), "mine");
    // An Envoy does not retry an answer without an error.
    assert_eq!(told(r#","fallback":{"answer":{"status":302}}"#), "");
    assert_eq!(told(r#","fallback":{"answer":{"status":503}}"#), "true");
    assert_eq!(told(r#","fallback":{"answer":{"status":503,"retriable":true}}"#), "");
}

#[test]
fn a_gate_without_details_names_no_upstream_and_no_reason() {
    let never = r#","details":"never""#;
    let answering = format!(r#"{never},"fallback":{{"answer":{{}}}}"#);
    for fields in [never, answering.as_str()] {
        let reply = reply(fields);
        assert_eq!(reply.body, b"not ready\n");
        let told = format!("{:?}", reply.headers);
        assert!(!told.contains("db") && !told.contains("check"), "{told}");
        // Only the operator sees these.
        assert_eq!(reply.details, "graygate_gate{shop|db|check-failed}");
    }
    assert_eq!(values(&reply(&answering), GATE_HEADER), ["fallback"]);
    // The policy's own words stay.
    let own = reply(&format!(r#"{never},"reply":{{"body":"{{upstream}}: {{reason}}"}}"#));
    assert_eq!(own.body, b"db: check-failed");
}

#[test]
fn a_bypass_without_details_names_only_what_the_gate_did() {
    let never = r#""details":"never""#;
    let mut bench = gated(&format!(r#",{never},"whenAllNotReady":"forward""#));
    let outcome = bench.ask(get("/"));
    outcome.has_response_edits("also x-graygate-gate: failed-open");
    let mut bench = gated(&format!(r#",{never},"fallback":{{"upstream":"mq","clusterHeader":"x-c"}}"#));
    bench.ask(get("/")).has_response_edits("also x-graygate-gate: fallback");
    // Two gates on one upstream count as one bypass. The one without details decides.
    let gates = format!(
        r#""gates":[{{"upstream":"db","whenAllNotReady":"forward"}},{{"upstream":"db","whenAllNotReady":"forward",{never}}}]"#
    );
    let mut bench = Bench::new(policy(&gates)).set("db", DOWN);
    bench.ask(get("/")).has_response_edits("also x-graygate-gate: failed-open");
}

#[test]
fn the_details_of_probes_hold_for_each_gate_that_has_none_of_its_own() {
    let names = |probes: &str, gate: &str| {
        let text = format!(r#""probes":{{{probes}}},"gates":[{{"upstream":"db"{gate}}}]"#);
        let outcome = Bench::new(policy(&text)).set("db", DOWN).ask(get("/"));
        String::from_utf8_lossy(&outcome.is_gated_by("db").body).contains("db")
    };
    for (probes, gate, expected) in [
        ("", "", true),
        (r#""details":"onFailure""#, "", true),
        (r#""details":"always""#, "", true),
        (r#""details":"never""#, "", false),
        (r#""details":"never""#, r#","details":"always""#, true),
        (r#""details":"always""#, r#","details":"never""#, false),
    ] {
        assert_eq!(names(probes, gate), expected, "{probes} {gate}");
    }
}

const CORS: &str = r#","cors":{"allowOrigins":[{"exact":"https://shop.example"},{"regex":"https://[a-z]+[.]test"}],
    "allowCredentials":true,"exposeHeaders":["Retry-After","x-why"]}"#;

/// Returns the headers about origins in a gate's reply to a page of this origin.
fn cors(fields: &str, origin: &[u8]) -> Vec<String> {
    let reply = reply_to(fields, get("/").with("origin", origin));
    let is_cors = |name: &str| name.starts_with("access-control-") || name == "vary";
    let headers = reply.headers.iter().filter(|(name, _)| is_cors(name));
    headers.map(|(name, value)| format!("{name}: {value}")).collect()
}

#[test]
fn a_page_of_an_allowed_origin_may_read_the_reply() {
    let allowed = |origin: &str| {
        vec![
            format!("access-control-allow-origin: {origin}"),
            "access-control-allow-credentials: true".to_owned(),
            "access-control-expose-headers: retry-after,x-why".to_owned(),
            "vary: origin".to_owned(),
        ]
    };
    for origin in ["https://shop.example", "https://a.test"] {
        assert_eq!(cors(CORS, origin.as_bytes()), allowed(origin));
        let answer = format!(r#"{CORS},"fallback":{{"answer":{{}}}}"#);
        assert_eq!(cors(&answer, origin.as_bytes()), allowed(origin));
    }
    let any = r#","cors":{"allowOrigins":[{"exact":"*"}]}"#;
    assert_eq!(cors(any, b"null"), ["access-control-allow-origin: null", "vary: origin"]);
}

#[test]
fn a_page_of_any_other_origin_may_not_read_the_reply() {
    let others: [&[u8]; 7] = [
        b"",
        b"https://shop.example.evil",
        b"https://shop.example\r\nx-evil: 1",
        b"https://a.test\0",
        b"https://\xff.test",
        b"null",
        b"http://shop.example",
    ];
    for origin in others {
        // The header tells caches that another origin gets another reply.
        assert_eq!(cors(CORS, origin), ["vary: origin"], "{origin:?}");
    }
    assert_eq!(values(&reply(CORS), "access-control-allow-origin"), [""; 0]);
    assert_eq!(cors("", b"https://shop.example"), [""; 0]);
    // Control characters are refused even if any origin is allowed.
    for odd in [&b"a\rb"[..], b"\xff"] {
        assert_eq!(cors(r#","cors":{"allowOrigins":[{"exact":"*"}]}"#, odd), ["vary: origin"]);
    }
}

#[test]
fn headers_of_the_policy_replace_those_for_other_origins() {
    let own =
        format!(r#"{CORS},"reply":{{"headers":{{"access-control-allow-origin":"*","vary":"accept"}}}}"#);
    let headers = cors(&own, b"https://shop.example");
    assert_eq!(headers.iter().filter(|header| header.starts_with("access-control-allow-origin")).count(), 1);
    assert_eq!(headers[..2], ["access-control-allow-origin: *", "vary: accept"]);
}

#[test]
fn a_gate_without_cors_reads_no_origin() {
    let request = get("/").with("origin", "https://shop.example");
    let mut bench = gated("");
    decide(&bench.policy, &request, &mut bench.readiness, &mut bench.splits);
    assert!(!request.asked.borrow().contains(&"origin".to_owned()), "{:?}", request.asked);
}
