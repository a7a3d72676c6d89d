//! Tests of the messages that a user reads about an invalid document.

use super::*;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

#[test]
fn an_unknown_field_gets_the_nearest_known_one_suggested() {
    let misspelt = r#"{"name":"v1","upstream":"a","weight":1,"default":true},{"name":"v2","upstream":"b","weight":1,"wieght":2}"#;
    assert_problem(&[
        (with_versions(misspelt), r#"releases[0].versions[1].wieght: unknown field; did you mean "weight"?"#),
        (
            with_upstream(r#""readinessprobe":{}"#),
            r#"upstreams.app.readinessprobe: unknown field; did you mean "readinessProbe"?"#,
        ),
        (
            r#"{"name":"p","banana":1}"#.into(),
            "banana: unknown field; allowed: name, hosts, mode, rollout, requestLabel, upstreams, probes, releases, gates, maxGatedPercent, onWrongPolicy",
        ),
        (
            r#"{"name":"p","a b":1}"#.into(),
            r#"["a b"]: unknown field; allowed: name, hosts, mode, rollout, requestLabel, upstreams, probes, releases, gates, maxGatedPercent, onWrongPolicy"#,
        ),
    ]);
}

#[test]
fn a_misspelt_placeholder_gets_the_nearest_known_one_suggested() {
    let with_body = |body: &str| {
        let gate = format!(r#"{{"upstream":"a","reply":{{"body":"{body}"}}}}"#);
        format!(r#"{{"name":"p","upstreams":{{"a":{{"cluster":"a"}}}},"gates":[{gate}]}}"#)
    };
    let cases = [
        ("why: {reson}", "{reson}; did you mean {reason}?"),
        ("{upstream} {Upstream}", "{Upstream}; did you mean {upstream}?"),
        ("{retry_after}", "{retry_after}; did you mean {retryAfter}?"),
        ("{ reason }", "{ reason }; did you mean {reason}?"),
    ];
    for (body, words) in cases {
        let message = format!("gates[0].reply.body: unknown placeholder {words}");
        assert_problem(&[(with_body(body), message.as_str())]);
    }
    for body in ["{upstream} {reason} {retryAfter}", "{other}", "{}", "{ }", r#"{\"error\": {\"why\": 1}}"#] {
        compile(&with_body(body));
    }
}

#[test]
fn a_repeated_key_is_named() {
    assert_problem(&[
        (r#"{"name":"p","name":"q"}"#.into(), "name: given twice; keep one of them"),
        (
            r#"{"name":"p","upstreams":{"a":{"cluster":"a"},"a":{"cluster":"b"}}}"#.into(),
            "upstreams.a: given twice; keep one of them",
        ),
        (
            with_match(r#"{"headers":{"x":{"exact":"1"},"x":{"exact":"2"}}}"#),
            "releases[0].versions[0].match[0].headers.x: given twice; keep one of them",
        ),
    ]);
}

#[test]
fn a_value_of_the_wrong_type_is_told_what_is_allowed() {
    assert_problem(&[
        (
            "{}".into(),
            "name: missing; add a DNS label: 1 to 63 lower-case letters, digits and \"-\", with no \"-\" at either end",
        ),
        (r#"{"name":7}"#.into(), "name: 7 is not a string. Write it in quotes: \"7\""),
        (
            r#"{"name":""}"#.into(),
            r#"name: "" is not allowed; allowed: a DNS label: 1 to 63 lower-case letters, digits and "-", with no "-" at either end"#,
        ),
        (
            r#"{"name":"Reviews"}"#.into(),
            r#"name: "Reviews" is not allowed; allowed: a DNS label: 1 to 63 lower-case letters, digits and "-", with no "-" at either end"#,
        ),
        (
            r#"{"name":"p","upstreams":[]}"#.into(),
            "upstreams: a list of 0 is not allowed; allowed: an object",
        ),
        (
            r#"{"name":"p","releases":{"a":1}}"#.into(),
            "releases: an object of 1 field is not allowed; allowed: a list such as [{name: reviews, …}]",
        ),
        (
            with_upstream(r#""circuitBreaker":null"#),
            "upstreams.app.circuitBreaker: null is not allowed; allowed: an object such as {}",
        ),
        (
            r#"{"name":null}"#.into(),
            "name: missing; add a DNS label: 1 to 63 lower-case letters, digits and \"-\", with no \"-\" at either end",
        ),
        (
            with_release(&format!(r#"{STEER},{VERSIONS},"trustIncoming":"yes""#)),
            r#"releases[0].trustIncoming: "yes" is not allowed; allowed: true or false"#,
        ),
        (
            r#"{"name":"p","mode":"enforced"}"#.into(),
            r#"mode: "enforced" is not allowed; allowed: enforce, shadow, off; did you mean "enforce"?"#,
        ),
        (
            with_get(r#""scheme":"http""#),
            r#"upstreams.app.readinessProbe.httpGet.scheme: "http" is not allowed; allowed: HTTP, HTTPS; did you mean "HTTP"?"#,
        ),
    ]);
}

#[test]
fn a_key_with_the_value_null_counts_as_absent_unless_it_widens_a_condition() {
    for (with_null, without) in [
        (
            r#"{"name":"p","mode":null,"gates":null,"upstreams":null}"#.to_owned(),
            r#"{"name":"p"}"#.to_owned(),
        ),
        (with_check(r#""periodSeconds":null"#), with_check(r#""timeoutSeconds":1"#)),
        (with_check(r#""exec":null,"tcpSocket":null"#), with_check(r#""timeoutSeconds":1"#)),
        (
            with_release(&format!(r#"{STEER},{VERSIONS},"hashOn":null,"schedule":null,"rollback":null"#)),
            with_release(&format!("{STEER},{VERSIONS}")),
        ),
    ] {
        assert_eq!(compile(&with_null), compile(&without), "{with_null}");
    }
    assert_problem(&[
        (
            with_match(r#"{"headers":{"x":{"exact":null}}}"#),
            "releases[0].versions[0].match[0].headers.x.exact: null is not allowed; allowed: a string",
        ),
        (
            with_match(r#"{"uri":{"exact":"/"},"authority":null}"#),
            "releases[0].versions[0].match[0].authority: null is not allowed; allowed: an object such as {exact: \"yes\"}",
        ),
        (
            with_breaker(r#""failOn":[{"header":"x","exact":null}]"#),
            "upstreams.app.circuitBreaker.failOn[0].exact: null is not allowed; allowed: a string",
        ),
        (
            r#"{"name":"p","banana":null}"#.into(),
            "banana: unknown field; allowed: name, hosts, mode, rollout, requestLabel, upstreams, probes, releases, gates, maxGatedPercent, onWrongPolicy",
        ),
    ]);
}

#[test]
fn words_of_istio_and_kubernetes_that_have_no_effect_are_named() {
    let ring = "has no effect here, as buckets and not a ring of hosts divide the keys; leave it out";
    for key in [r#""ringHash":{}"#, r#""maglev":{"tableSize":7}"#, r#""minimumRingSize":1024"#] {
        let name = key.split('"').nth(1).unwrap();
        assert_problem(&[(
            with_release(&format!(r#"{STEER},{VERSIONS},"hashOn":[{{"httpHeaderName":"x",{key}}}]"#)),
            &format!("releases[0].hashOn[0].{name}: {ring}"),
        )]);
    }
    assert_problem(&[(
        with_check(r#""terminationGracePeriodSeconds":30"#),
        "upstreams.app.readinessProbe.terminationGracePeriodSeconds: has no effect here, as the proxy ends no container; leave it out",
    )]);
}

#[test]
fn a_share_with_its_sign_is_told_the_number() {
    assert_problem(&[
        (
            r#"{"name":"p","rollout":{"percent":"5%"}}"#.into(),
            r#"rollout.percent: "5%" is not a number. Write it without the sign: 5"#,
        ),
        (
            r#"{"name":"p","maxGatedPercent":"50 %"}"#.into(),
            r#"maxGatedPercent: "50 %" is not a number. Write it without the sign: 50"#,
        ),
        (
            r#"{"name":"p","rollout":{"percent":"101%"}}"#.into(),
            r#"rollout.percent: "101%" is not allowed; allowed: a whole number from 0 to 100"#,
        ),
    ]);
}

#[test]
fn a_value_out_of_range_is_told_the_range() {
    assert_problem(&[
        (
            with_check(r#""periodSeconds":0.05"#),
            "upstreams.app.readinessProbe.periodSeconds: 0.05 is not allowed; allowed: a number of seconds from 0.1 to 3600",
        ),
        (
            with_check(r#""initialDelaySeconds":-1"#),
            "upstreams.app.readinessProbe.initialDelaySeconds: -1 is not allowed; allowed: a number of seconds from 0 to 3600",
        ),
        (
            with_check(r#""failureThreshold":0"#),
            "upstreams.app.readinessProbe.failureThreshold: 0 is not allowed; allowed: a whole number from 1 to 1000",
        ),
        (
            with_check(r#""failureThreshold":2.5"#),
            "upstreams.app.readinessProbe.failureThreshold: 2.5 is not allowed; allowed: a whole number from 1 to 1000",
        ),
        (
            with_breaker(r#""notReadyFor":"10ms""#),
            r#"upstreams.app.circuitBreaker.notReadyFor: "10ms" is not allowed; allowed: a duration such as "300ms", "1.5s" or "1h30m", from 100ms to 1h"#,
        ),
        (
            with_breaker(r#""notReadyFor":5"#),
            r#"upstreams.app.circuitBreaker.notReadyFor: 5 has no unit. Write "5s" for seconds."#,
        ),
        (
            with_breaker(r#""notReadyFor":"10s","maxNotReadyFor":"9s""#),
            r#"upstreams.app.circuitBreaker.maxNotReadyFor: 9s is shorter than notReadyFor, which is 10s. Use at least that."#,
        ),
        (
            with_gate(r#""reply":{"status":200}"#),
            "gates[0].reply.status: 200 is not allowed; allowed: a whole number from 400 to 599",
        ),
        (
            with_versions(r#"{"name":"v1","upstream":"a","weight":4294967296,"default":true}"#),
            "releases[0].versions[0].weight: 4294967296 is not allowed; allowed: a whole number from 0 to 4294967295",
        ),
        (
            with_versions(r#"{"name":"v1","upstream":"a","weight":18446744073709551616,"default":true}"#),
            "releases[0].versions[0].weight: 1.8446744073709552e19 is not allowed; allowed: a whole number from 0 to 4294967295",
        ),
    ]);
}

#[test]
fn an_unknown_upstream_is_told_the_known_ones() {
    assert_problem(&[
        (
            with_versions(r#"{"name":"v1","upstream":"c","weight":1,"default":true}"#),
            r#"releases[0].versions[0].upstream: "c" is not an upstream; allowed: a, b"#,
        ),
        (
            r#"{"name":"p","gates":[{"upstream":"app"}]}"#.into(),
            r#"gates[0].upstream: "app" is not an upstream; add it to upstreams, which is empty"#,
        ),
        (
            with_probes(r#""readiness":{"path":"/r","checks":[{"upstream":"db"}]}"#),
            r#"probes.readiness.checks[0].upstream: "db" is not an upstream; allowed: app"#,
        ),
    ]);
}

#[test]
fn an_invalid_list_of_versions_is_told_the_reason() {
    let v = |name: &str, weight: u32, default: bool| {
        format!(r#"{{"name":"{name}","upstream":"a","weight":{weight},"default":{default}}}"#)
    };
    assert_problem(&[
        (
            with_versions(&format!("{},{}", v("v1", 0, true), v("v2", 0, false))),
            "releases[0].versions: the weights are all 0; make at least one larger",
        ),
        (
            with_versions(&v("v1", 1, false)),
            "releases[0].versions: no version is the default; add default: true to one of them",
        ),
        (
            with_versions(&format!("{},{}", v("v1", 1, true), v("v2", 1, true))),
            "releases[0].versions: more than one version is the default; keep default: true on one of them",
        ),
        (with_versions(""), "releases[0].versions: empty; add at least one entry"),
        (
            with_versions(&format!("{},{}", v("v1", 99_996, true), v("v2", 4, false))),
            "releases[0].versions[1]: weight 4 is less than 0.01 % of all weights, so it would act as 0. Use 0, or at least that share.",
        ),
        (
            with_versions(&format!("{},{}", v("v1", 1, true), v("v1", 1, false))),
            r#"releases[0].versions[1]: a second version named "v1"; give each a name of its own"#,
        ),
    ]);
}

#[test]
fn the_second_of_two_releases_with_one_name_is_reported() {
    let release = format!(r#"{{"name":"r",{STEER},{VERSIONS}}}"#);
    let document =
        format!(r#"{{"name":"p","upstreams":{{"a":{{"cluster":"a"}}}},"releases":[{release},{release}]}}"#);
    assert_eq!(
        problems(&document),
        [r#"releases[1]: a second release named "r"; give each a name of its own"#]
    );
}

/// A version with such a `match` would get every request, although it is meant for a few.
#[test]
fn a_match_without_a_condition_is_refused() {
    let all = "releases[0].versions[0].match[0]: would match every request; add a condition";
    let path = "releases[0].versions[0].match[0]: incomplete; add one of uri, scheme, method, authority, headers, withoutHeaders, queryParams, hosts, cookies, baggage, sourceIpBlocks";
    assert_problem(&[
        (with_match("{}"), path),
        (with_match(r#"{"name":"all"}"#), path),
        (with_match(r#"{"ignoreUriCase":true}"#), path),
        (with_match(r#"{"headers":{}}"#), all),
        (with_match(r#"{"baggage":{}}"#), all),
        (with_match(r#"{"withoutHeaders":{},"queryParams":{}}"#), all),
    ]);
}

#[test]
fn an_invalid_condition_is_told_what_is_allowed() {
    let all = "releases[0].versions[0].match[0]";
    for (condition, problem) in [
        (r#"{"uri":{}}"#, "uri: incomplete; add one of exact, prefix, regex"),
        (r#"{"uri":{"exact":"/a","prefix":"/b"}}"#, "uri: has exact and prefix; keep one of them"),
        (r#"{"uri":"/a"}"#, r#"uri: "/a" is not allowed; allowed: an object such as {prefix: /api}"#),
        (
            r#"{"uri":{"regex":"/a("}}"#,
            r#"uri.regex: "/a(" is not a valid regular expression: found open group without closing ')'; allowed: a regular expression in the syntax of RE2, without Unicode classes"#,
        ),
        (
            r#"{"headers":{"a b":{}}}"#,
            r#"headers["a b"]: a bad name; use a name without spaces and control characters"#,
        ),
        (
            r#"{"baggage":{"a;b":{}}}"#,
            r#"baggage["a;b"]: a bad name; allowed: the key of a member of baggage: letters, digits and any of !#$%&'*+-.^_`|~"#,
        ),
        (
            r#"{"headers":{"Method":{"exact":"GET"}}}"#,
            "headers.Method: method is not a header; move it one level up, beside headers",
        ),
        (
            r#"{"headers":{":status":{"exact":"200"}}}"#,
            r#"headers[":status"]: ":status" is not allowed; allowed: the name of a header: letters, digits and any of !#$%&'*+-.^_`|~"#,
        ),
        (
            r#"{"headers":{"@request.auth.claims.group":{"exact":"beta"}}}"#,
            r#"headers["@request.auth.claims.group"]: not supported: a filter does not see the claims of a token. Match a header that carries the claim, as outputClaimToHeaders of a RequestAuthentication writes it."#,
        ),
        (
            r#"{"headers":{"x":{"regex":"a)|(b"}}}"#,
            r#"headers.x.regex: "a)|(b" is not a valid regular expression: found closing ')' without matching '('; allowed: a regular expression in the syntax of RE2, without Unicode classes"#,
        ),
        (
            r#"{"headers":{"x":{"regex":"(?ix)a b"}}}"#,
            "headers.x.regex: the regular expression has the flag x, which is unknown to RE2; allowed: i, m, s and U. Write it without blanks and comments.",
        ),
        (r#"{"port":80}"#, "port: not supported: a filter does not see what this names; leave it out"),
    ] {
        assert_eq!(problems(&with_match(condition)), [format!("{all}.{problem}")], "{condition}");
    }
}

#[test]
fn an_upstream_that_could_never_become_ready_is_refused() {
    assert_problem(&[(
        with_upstream(r#""assume":"notReady","circuitBreaker":{}"#),
        "upstreams.app: assume: notReady without a readinessProbe would block the upstream permanently. Add a readinessProbe, or use assume: ready.",
    )]);
    compile(&with_upstream(r#""assume":"notReady","readinessProbe":{"httpGet":{}}"#));
}

#[test]
fn invalid_failure_conditions_of_a_breaker_are_told_what_is_allowed() {
    assert_problem(&[
        (
            with_breaker(r#""failOn":[]"#),
            "upstreams.app.circuitBreaker.failOn: empty; add at least one entry",
        ),
        (
            with_breaker(r#""failOn":["unavailble"]"#),
            r#"upstreams.app.circuitBreaker.failOn[0]: "unavailble" is not allowed; allowed: 5xx, 4xx, gateway-error, reset, connect-failure, retriable-4xx, retried, cancelled, deadline-exceeded, resource-exhausted, internal, unavailable, or a status from 400 to 599 in quotes, such as "429", or an object such as {header: x-error, exact: "yes"}; did you mean "unavailable"?"#,
        ),
        (
            with_breaker(r#""failOn":["399"]"#),
            r#"upstreams.app.circuitBreaker.failOn[0]: "399" is not allowed; allowed: 5xx, 4xx, gateway-error, reset, connect-failure, retriable-4xx, retried, cancelled, deadline-exceeded, resource-exhausted, internal, unavailable, or a status from 400 to 599 in quotes, such as "429", or an object such as {header: x-error, exact: "yes"}"#,
        ),
        (
            with_breaker(r#""failOn":[{"exact":"yes"}]"#),
            "upstreams.app.circuitBreaker.failOn[0].header: missing; add the name of a header: letters, digits and any of !#$%&'*+-.^_`|~",
        ),
        (
            with_breaker(r#""failOn":[{"header":":status","exact":"500"}]"#),
            r#"upstreams.app.circuitBreaker.failOn[0].header: ":status" is not allowed; allowed: the name of a header: letters, digits and any of !#$%&'*+-.^_`|~"#,
        ),
        (
            with_breaker(r#""ignoreOn":[{"header":"x","exact":"a","prefix":"b"}]"#),
            "upstreams.app.circuitBreaker.ignoreOn[0]: has exact and prefix; keep one of them",
        ),
        (
            with_breaker(r#""failOn":[{"header":"x","suffix":"a"}]"#),
            "upstreams.app.circuitBreaker.failOn[0].suffix: unknown field; allowed: header, exact, prefix, regex",
        ),
        (
            with_breaker(r#""slowPercent":50"#),
            "upstreams.app.circuitBreaker.slowPercent: has no effect alone; add slowerThan",
        ),
        (
            with_breaker(r#""slowerThan":"1s""#),
            "upstreams.app.circuitBreaker.slowerThan: has no effect alone; add slowPercent",
        ),
        (
            with_breaker(r#""window":"5s""#),
            "upstreams.app.circuitBreaker.window: has no effect alone; add failurePercent or slowPercent",
        ),
    ]);
}

#[test]
fn a_breaker_that_could_not_trip_is_told_how_to_get_a_trigger() {
    let told = "upstreams.app.circuitBreaker.consecutiveFailures: 0 turns off the only trigger, so responses could not make the upstream not ready. Use a number from 1 to 100000, or add failurePercent, slowPercent with slowerThan, or consecutiveLocalOriginFailures.";
    assert_problem(&[
        (with_breaker(r#""consecutiveFailures":0"#), told),
        (with_breaker(r#""consecutiveFailures":0,"consecutiveLocalOriginFailures":0"#), told),
        (
            with_breaker(r#""consecutiveFailures":100001"#),
            "upstreams.app.circuitBreaker.consecutiveFailures: 100001 is not allowed; allowed: a whole number from 0 to 100000",
        ),
        // A share that is invalid may have been meant as the trigger.
        (
            with_breaker(r#""consecutiveFailures":0,"failurePercent":101"#),
            "upstreams.app.circuitBreaker.failurePercent: 101 is not allowed; allowed: a whole number from 1 to 100",
        ),
    ]);
}

#[test]
fn a_header_that_must_not_be_written_is_named() {
    let own = "belongs to the proxy; use any header but host, content-length, transfer-encoding, connection, upgrade, te, trailer, keep-alive";
    assert_eq!(
        problems(&with_gate(r#""reply":{"headers":{"Content-Length":"0"}}"#)),
        [format!(r#"gates[0].reply.headers.Content-Length: "content-length" {own}"#)]
    );
    assert_eq!(
        problems(&with_release(&format!(r#""steer":{{"header":"Host"}},{VERSIONS}"#))),
        [format!(r#"releases[0].steer.header: "host" {own}"#)]
    );
    assert_eq!(
        problems(&with_get(r#""httpHeaders":[{"name":"content-length","value":"5"}]"#)),
        [format!(r#"upstreams.app.readinessProbe.httpGet.httpHeaders[0].name: "content-length" {own}"#)]
    );
    assert_problem(&[
        (
            with_gate(r#""reply":{"headers":{"Retry-After":"9"}}"#),
            "gates[0].reply.headers.Retry-After: not here; use retryAfterSeconds",
        ),
        (
            with_gate(r#""reply":{"headers":{"Grpc-Status":"0"}}"#),
            "gates[0].reply.headers.Grpc-Status: would tell a gRPC client another outcome than the status; use status or grpcStatus",
        ),
        (
            with_gate(r#""reply":{"headers":{"x-why":"a","X-Why":"b"}}"#),
            r#"gates[0].reply.headers.X-Why: the header "x-why" a second time, as case is ignored; keep one"#,
        ),
        (
            with_release(&format!(r#""steer":{{"header":":path"}},{VERSIONS}"#)),
            r#"releases[0].steer.header: ":path" is not allowed; allowed: the name of a header: letters, digits and any of !#$%&'*+-.^_`|~"#,
        ),
        (
            with_gate(r#""reply":{"headers":{"x":"a\r\nb: c"}}"#),
            r#"gates[0].reply.headers.x: "a\r\nb: c" is not allowed; allowed: a string: at most 4096 bytes, no control characters"#,
        ),
    ]);
}

/// Steering by such a header would overwrite the key.
#[test]
fn a_steer_header_that_is_a_sticky_key_is_refused() {
    for (header, key) in
        [("X-User", r#"{"httpHeaderName":"x-user"}"#), ("cookie", r#"{"httpCookie":{"name":"id"}}"#)]
    {
        let release = format!(r#""steer":{{"header":"{header}"}},"hashOn":[{key}],{VERSIONS}"#);
        let problem = format!(
            r#"releases[0].steer: "{}" carries something else; use a header that carries nothing else, such as x-gray-version"#,
            header.to_lowercase()
        );
        assert_eq!(problems(&with_release(&release)), [problem]);
    }
}

#[test]
fn too_many_or_too_long_headers_are_told_the_limit() {
    let headers: Vec<_> = (0..51).map(|n| format!(r#""x-{n}":"y""#)).collect();
    assert_eq!(
        problems(&with_gate(&format!(r#""reply":{{"headers":{{{}}}}}"#, headers.join(",")))),
        ["gates[0].reply.headers: 51 entries; allowed: at most 50. List fewer, or cover several by one."]
    );
    let long = "x".repeat(4_097);
    let told = problems(&with_gate(&format!(r#""reply":{{"headers":{{"x":"{long}"}}}}"#)));
    assert!(told[0].ends_with("allowed: a string: at most 4096 bytes, no control characters"), "{told:?}");
}

#[test]
fn control_characters_in_names_are_escaped() {
    let label = "1 to 63 letters, digits, \"-\", \"_\" and \".\", with a letter or digit at both ends";
    assert_eq!(
        problems(&with_versions(r#"{"name":"v\u0000","upstream":"a","weight":1,"default":true}"#)),
        [format!(r#"releases[0].versions[0].name: "v\0" is not allowed; allowed: {label}"#)]
    );
    assert_eq!(
        problems(r#"{"name":"p","upstreams":{"a\u0000\n":{"cluster":"a"}}}"#),
        [format!(r#"upstreams["a\0\n"]: a bad name; allowed: {label}"#)]
    );
}

#[test]
fn unreadable_text_is_told_what_is_expected() {
    assert_eq!(
        problems(""),
        [
            "the configuration is empty. Pass the policy as one JSON object, in Envoy as a google.protobuf.StringValue."
        ]
    );
}

#[test]
fn a_long_value_is_quoted_in_part() {
    let document = format!(r#"{{"name":"{}"}}"#, "x".repeat(1_000));
    assert!(
        problems(&document)[0]
            .starts_with(&format!("name: {:?}… (1000 bytes) is not allowed", "x".repeat(60)))
    );
}

#[test]
fn all_problems_are_reported_at_once_in_document_order() {
    let document = r#"{
        "gates": [{"upstream": "nope", "reply": {"status": 1}}, {"upstream": "app", "when": 1}],
        "name": "Bad Name",
        "releases": [
            {"name": "r", "steer": {"header": "te"}, "hashOn": [{}, {"useSourceIp": false}], "versions": [
                {"name": "v 1", "upstream": "app", "weight": -1, "default": "yes"}
            ]},
            {"steer": {}, "versions": []}
        ],
        "upstreams": {
            "app": {"readinessProbe": {"httpGet": {"path": "a b"}, "periodSeconds": "5"}, "clutser": "app"},
            "b c": {"cluster": "", "assume": "notReady"}
        },
        "mode": "shade"
    }"#;
    let paths: Vec<_> = Policy::from_json(document.as_bytes())
        .unwrap_err()
        .iter()
        .map(|problem| problem.path.clone())
        .collect();
    let expected = [
        "gates[0].upstream",
        "gates[0].reply.status",
        "gates[1].when",
        "name",
        "releases[0].steer.header",
        "releases[0].hashOn[0]",
        "releases[0].hashOn[1].useSourceIp",
        "releases[0].versions[0].name",
        "releases[0].versions[0].weight",
        "releases[0].versions[0].default",
        "releases[1].name",
        "releases[1].steer",
        "releases[1].versions",
        "upstreams.app.readinessProbe.httpGet.path",
        "upstreams.app.readinessProbe.periodSeconds",
        "upstreams.app.clutser",
        "upstreams[\"b c\"]",
        "upstreams[\"b c\"]",
        "upstreams[\"b c\"].cluster",
        "mode",
    ];
    assert_eq!(paths, expected);
}

#[test]
fn problems_of_one_version_do_not_hide_problems_of_the_list() {
    let document =
        with_versions(r#"{"name":"v1","upstream":"a","wieght":1},{"name":"v1","upstream":"b","weight":1}"#);
    let found = problems(&document);
    for expected in ["no version is the default", "a second version named", "did you mean \"weight\""] {
        assert!(found.iter().any(|problem| problem.contains(expected)), "{expected}: {found:#?}");
    }
}

fn with_gates(gates: &str) -> String {
    format!(
        r#"{{"name":"p","upstreams":{{"app":{{"cluster":"app"}},"b":{{"cluster":"b"}}}},"releases":[{{"name":"r",
        "steer":{{"header":"x-v"}},"versions":[{{"name":"v1","upstream":"b","weight":1,"default":true}}]}}],"gates":[{gates}]}}"#
    )
}

#[test]
fn an_invalid_fallback_or_reply_of_a_gate_is_told_what_is_allowed() {
    let fallback = |fields: &str| with_gates(&format!(r#"{{"upstream":"app","fallback":{{{fields}}}}}"#));
    assert_problem(&[
        (fallback(""), "gates[0].fallback: incomplete; add one of upstream, answer"),
        (
            fallback(r#""answer":{},"upstream":"b""#),
            "gates[0].fallback: has upstream and answer; keep one of them",
        ),
        (fallback(r#""upstream":"b""#), "gates[0].fallback.upstream: has no effect alone; add clusterHeader"),
        (
            fallback(r#""upstream":"app","clusterHeader":"x-c""#),
            "gates[0].fallback: leads to the upstream that the gate is on; name another one",
        ),
        (
            fallback(r#""upstream":"c","clusterHeader":"x-c""#),
            r#"gates[0].fallback.upstream: "c" is not an upstream; allowed: app, b"#,
        ),
        (
            fallback(r#""upstream":"b","clusterHeader":"x-v""#),
            r#"gates[0].fallback.clusterHeader: release r uses "x-v" for something else; use a header that carries nothing else"#,
        ),
        (
            fallback(r#""upstream":"b","clusterHeader":"Authorization""#),
            r#"gates[0].fallback.clusterHeader: "authorization" carries something else; use a header that carries nothing else"#,
        ),
        (
            with_gates(r#"{"upstream":"app","reply":{"headers":{"X-Graygate-Gate":"x"}}}"#),
            "gates[0].reply.headers.X-Graygate-Gate: the gate itself sets this header; use another one",
        ),
        (
            fallback(r#""answer":{"status":204,"body":"x"}"#),
            "gates[0].fallback.answer.body: a response of status 204 has no body; remove it",
        ),
        (
            fallback(r#""upstream":"b","clusterHeader":"x-v""#)
                .replace(r#"{"header":"x-v"}"#, r#"{"clusterHeader":"x-v"},"trustIncoming":true"#),
            r#"gates[0].fallback.clusterHeader: release r trusts "x-v" as it comes in, so clients could choose the cluster. Use another header, or trustIncoming: false."#,
        ),
        (
            fallback(r#""answer":{"status":199}"#),
            "gates[0].fallback.answer.status: 199 is not allowed; allowed: a whole number from 200 to 599",
        ),
        (
            fallback(r#""answer":{"retryAfterSeconds":1}"#),
            "gates[0].fallback.answer.retryAfterSeconds: unknown field; allowed: status, headers, retriable, body",
        ),
        (
            with_gates(r#"{"upstream":"app","whenAllNotReady":"open"}"#),
            r#"gates[0].whenAllNotReady: "open" is not allowed; allowed: reply, forward"#,
        ),
        (
            with_gates(r#"{"upstream":"app","preflight":"gate"}"#),
            r#"gates[0].preflight: "gate" is not allowed; allowed: forward, reply"#,
        ),
        (
            with_gates(r#"{"upstream":"app","details":"onFailure"}"#),
            r#"gates[0].details: "onFailure" is not allowed; allowed: never, always"#,
        ),
        (
            with_gates(r#"{"upstream":"app","reply":{"retriable":"no"}}"#),
            r#"gates[0].reply.retriable: "no" is not allowed; allowed: true or false"#,
        ),
        (
            with_gates(r#"{"upstream":"app","reply":{"grpcStatus":0}}"#),
            "gates[0].reply.grpcStatus: 0 is not allowed; allowed: a whole number from 1 to 16",
        ),
        (
            r#"{"name":"p","maxGatedPercent":0}"#.into(),
            "maxGatedPercent: 0 is not allowed; allowed: a whole number from 1 to 100",
        ),
    ]);
}

#[test]
fn invalid_evidence_settings_of_a_breaker_are_told_what_is_allowed() {
    assert_problem(&[
        (
            with_breaker(r#""ignore":[{}]"#),
            "upstreams.app.circuitBreaker.ignore[0]: incomplete; add one of uri, scheme, method, authority, headers, withoutHeaders, queryParams, hosts, cookies, baggage, sourceIpBlocks",
        ),
        (
            with_breaker(r#""consecutiveLocalOriginFailures":-1"#),
            "upstreams.app.circuitBreaker.consecutiveLocalOriginFailures: -1 is not allowed; allowed: a whole number from 0 to 100000",
        ),
        (
            with_breaker(r#""unansweredAfter":"0s""#),
            r#"upstreams.app.circuitBreaker.unansweredAfter: "0s" is not allowed; allowed: a duration such as "300ms", "1.5s" or "1h30m", from 1ms to 1h"#,
        ),
        (
            with_breaker(r#""unansweredAfter":"1s","failOn":["429"]"#),
            "upstreams.app.circuitBreaker.unansweredAfter: has no effect: failOn does not treat a missing response as a failure. Add 5xx, gateway-error, reset or unavailable to failOn, and remove it from ignoreOn.",
        ),
        (
            with_breaker(r#""unansweredAfter":"1s","slowPercent":50,"slowerThan":"1s""#),
            "upstreams.app.circuitBreaker.slowerThan: must be shorter than unansweredAfter, or no response could count as slow.",
        ),
        (
            with_breaker(r#""unansweredAfter":"1s","ignoreOn":["reset"]"#),
            "upstreams.app.circuitBreaker.unansweredAfter: has no effect: failOn does not treat a missing response as a failure. Add 5xx, gateway-error, reset or unavailable to failOn, and remove it from ignoreOn.",
        ),
        (
            with_breaker(r#""maxRetryAfter":"25h""#),
            r#"upstreams.app.circuitBreaker.maxRetryAfter: "25h" is not allowed; allowed: a duration such as "300ms", "1.5s" or "1h30m", from 0s to 24h"#,
        ),
    ]);
}

#[test]
fn an_invalid_cors_of_a_gate_is_told_what_is_allowed() {
    let with_cors = |fields: &str| with_gates(&format!(r#"{{"upstream":"app","cors":{{{fields}}}}}"#));
    let origins = "a list such as [{exact: https://shop.example}]";
    let shop = r#""allowOrigins":[{"exact":"https://shop.example"}]"#;
    assert_problem(&[
        (with_cors(""), &format!("gates[0].cors.allowOrigins: missing; add {origins}")),
        (with_cors(r#""allowOrigins":[]"#), "gates[0].cors.allowOrigins: empty; add at least one entry"),
        (
            with_cors(r#""allowOrigins":["https://shop.example"]"#),
            r#"gates[0].cors.allowOrigins[0]: "https://shop.example" is not allowed; allowed: an object such as {exact: https://shop.example}"#,
        ),
        (
            with_cors(r#""allowOrigins":[{}]"#),
            "gates[0].cors.allowOrigins[0]: incomplete; add one of exact, prefix, regex",
        ),
        (
            with_cors(r#""allowOrigin":[{"exact":"*"}],"allowOrigins":[{"exact":"*"}]"#),
            r#"gates[0].cors.allowOrigin: unknown field; did you mean "allowOrigins"?"#,
        ),
        (
            with_cors(&format!(r#"{shop},"exposeHeaders":["a b"]"#)),
            r#"gates[0].cors.exposeHeaders[0]: "a b" is not allowed; allowed: the name of a header: letters, digits and any of !#$%&'*+-.^_`|~"#,
        ),
        (
            with_cors(&format!(r#"{shop},"maxAge":"24h""#)),
            "gates[0].cors.maxAge: unknown field; allowed: allowOrigins, allowCredentials, exposeHeaders",
        ),
        (
            with_cors(&format!(r#"{shop},"allowCredentials":"yes""#)),
            r#"gates[0].cors.allowCredentials: "yes" is not allowed; allowed: true or false"#,
        ),
    ]);
}

/// Returns a document with this many upstreams, each with these parts, and these further parts.
fn with_upstreams(count: usize, parts: &str, more: &str) -> String {
    let upstreams: Vec<String> =
        (0..count).map(|index| format!(r#""u{index}":{{"cluster":"a"{parts}}}"#)).collect();
    format!(r#"{{"name":"p","upstreams":{{{}}}{more}}}"#, upstreams.join(","))
}

/// Returns a document with this many releases of this many versions, each release with these parts.
fn with_releases(count: usize, versions: usize, parts: &str) -> String {
    let version = |index: usize| {
        format!(r#"{{"name":"v{index}","upstream":"u0","weight":1,"default":{}}}"#, index == 0)
    };
    let versions: Vec<String> = (0..versions).map(version).collect();
    let release = |index: usize| {
        let versions = versions.join(",");
        format!(r#"{{"name":"r{index}","steer":{{"header":"x-v"}},"versions":[{versions}]{parts}}}"#)
    };
    let releases: Vec<String> = (0..count).map(release).collect();
    with_upstreams(1, "", &format!(r#","releases":[{}]"#, releases.join(",")))
}

fn check_each(seconds: &str) -> String {
    format!(r#","readinessProbe":{{"httpGet":{{}},"periodSeconds":{seconds}}}"#)
}

#[test]
fn too_much_of_anything_is_refused_with_its_count_the_limit_and_a_way_to_mend_it() {
    let gates = |count: usize| format!(r#","gates":[{}]"#, [r#"{"upstream":"u0"}"#].repeat(count).join(","));
    let checks = |count: usize| {
        let checks: Vec<String> = (0..count).map(|index| format!(r#"{{"upstream":"u{index}"}}"#)).collect();
        let checks = checks.join(",");
        let group = |name: &str| format!(r#""{name}":{{"path":"/{name}","checks":[{checks}]}}"#);
        format!(r#","probes":{{"groups":{{{},{}}}}}"#, group("a"), group("b"))
    };
    let matches = |count: usize| {
        let alternatives = [r#"{"uri":{"prefix":"/"}}"#].repeat(count).join(",");
        format!(r#","gates":[{{"upstream":"u0","match":[{alternatives}]}}]"#)
    };
    let weights: Vec<String> = (0..50).map(|index| format!(r#""v{index}":1"#)).collect();
    let step =
        |day: usize| format!(r#"{{"at":"2099-01-{day:02}T00:00:00Z","weights":{{{}}}}}"#, weights.join(","));
    let steps: Vec<String> = (1..=21).map(step).collect();
    let schedule = format!(r#","schedule":[{}]"#, steps.join(","));
    for (document, problem) in [
        (
            with_upstreams(2_001, "", ""),
            "upstreams: 2001 upstreams; allowed: at most 2000. Split the policy by host or by team.",
        ),
        (
            with_releases(501, 1, ""),
            "releases: 501 releases; allowed: at most 500. Split the policy by host or by team.",
        ),
        (
            with_releases(41, 50, ""),
            "releases: 2050 versions in all releases; allowed: at most 2000. Split the policy by host or by team.",
        ),
        (
            with_releases(10, 50, &schedule),
            "releases: 10500 weights in all schedules; allowed: at most 10000. Use fewer steps, and `over` for a ramp.",
        ),
        (
            with_upstreams(1, "", &gates(2_001)),
            "gates: 2001 gates; allowed: at most 2000. List several paths in one gate's match, or split the policy.",
        ),
        (
            with_upstreams(1, "", &matches(5_001)),
            "5001 alternatives and names of hosts in all matches; allowed: at most 5000. Use prefixes, or split the policy by host.",
        ),
        (
            with_upstreams(1_001, "", &checks(1_001)),
            "probes: 2002 checks in all probes; allowed: at most 2000. Check only the upstreams that every request needs.",
        ),
        (
            with_upstreams(101, &check_each("0.2"), ""),
            "upstreams: 505 checks a second; allowed: at most 500. Use longer periods: with n upstreams, at least n / 500 seconds.",
        ),
        (
            format!(r#"{{"name":"p"}}{}"#, " ".repeat(1_048_576)),
            "the document has 1048588 bytes as JSON; allowed: at most 1048576. Split the policy by host or by team.",
        ),
    ] {
        assert_eq!(problems(&document), [problem]);
    }
}

#[test]
fn a_list_with_too_many_entries_is_refused_before_they_are_read() {
    let list = |item: &str, count: usize| vec![item; count].join(",");
    let gate = |fields: String| with_upstreams(1, "", &format!(r#","gates":[{{"upstream":"u0",{fields}}}]"#));
    let names: Vec<String> = (0..101).map(|index| format!(r#""n{index}":{{}}"#)).collect();
    let names = names.join(",");
    let advice = "List fewer, or cover several by one.";
    for (document, problem) in [
        (
            gate(format!(r#""cors":{{"allowOrigins":[{}]}}"#, list(r#"{"prefix":"a"}"#, 101))),
            "gates[0].cors.allowOrigins: 101 entries; allowed: at most 100.",
        ),
        (
            gate(format!(r#""match":[{{"headers":{{{names}}}}}]"#)),
            "gates[0].match[0].headers: 101 entries; allowed: at most 50.",
        ),
        (
            gate(format!(r#""match":[{{"sourceIpBlocks":[{}]}}]"#, list(r#""10.0.0.0/8""#, 1_001))),
            "gates[0].match[0].sourceIpBlocks: 1001 entries; allowed: at most 1000.",
        ),
        (
            with_upstreams(1, "", &format!(r#","probes":{{"groups":{{{names}}}}}"#)),
            "probes.groups: 101 entries; allowed: at most 100.",
        ),
        (
            with_upstreams(1, &format!(r#","circuitBreaker":{{"ignoreOn":[{}]}}"#, list("\"429\"", 251)), ""),
            "upstreams.u0.circuitBreaker.ignoreOn: 251 entries; allowed: at most 250.",
        ),
    ] {
        assert_eq!(problems(&document), [format!("{problem} {advice}")]);
    }
}

#[test]
fn the_size_of_a_document_counts_whatever_it_was_written_in() {
    let cluster = "c".repeat(600);
    let upstream = |index: usize| format!(r#""u{index}":{{"cluster":"{cluster}"}}"#);
    let upstreams: Vec<String> = (0..1_900).map(upstream).collect();
    let text = format!(r#"{{"name":"p","upstreams":{{{}}}}}"#, upstreams.join(","));
    let document: Node = serde_json::from_str(&text).unwrap();
    let problems = Policy::from_document(&document).unwrap_err().to_string();
    assert!(
        problems.contains(&format!("{} bytes as JSON; allowed: at most 1048576", text.len())),
        "{problems}"
    );
}

#[test]
fn a_thousand_upstreams_a_hundred_releases_and_the_policies_of_forty_teams_are_allowed() {
    let gates: Vec<String> = (0..1_000)
        .map(|index| {
            format!(
                r#"{{"upstream":"u{index}","match":[{{"authority":{{"exact":"team{}"}},"uri":{{"prefix":"/{index}"}}}}]}}"#,
                index % 40
            )
        })
        .collect();
    let gates = format!(r#","gates":[{}]"#, gates.join(","));
    for document in [
        with_upstreams(1_000, &check_each("5"), &gates),
        with_upstreams(2_000, &check_each("10"), ""),
        with_upstreams(100, &check_each("0.2"), ""),
        with_releases(100, 10, ""),
        with_releases(40, 50, ""),
        with_releases(500, 4, ""),
    ] {
        let policy = Policy::from_json(document.as_bytes());
        assert!(policy.is_ok(), "{}", policy.unwrap_err());
    }
}
