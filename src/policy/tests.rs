use super::*;
use crate::hash;
use crate::policy::check::{Call, Check, GrpcHealth, HttpGet};
use crate::policy::gate::Reply;
use crate::policy::matcher::Matches;
use crate::policy::release::Key;
use crate::policy::upstream::{Breaker, FailOn, Trial};

mod checks;
mod probes;

/// The document that the design shows, with every key there is.
const FULL: &str = include_str!("../../tests/data/full-policy.json");

/// The keys of [`FULL`] whose function is not there yet.
const LATER: [&str; 15] = [
    "rollout",
    "upstreams.app.circuitBreaker.failurePercent",
    "upstreams.app.circuitBreaker.slowPercent",
    "upstreams.app.circuitBreaker.slowerThan",
    "upstreams.app.circuitBreaker.window",
    "upstreams.app.circuitBreaker.minimumRequests",
    "upstreams.app.circuitBreaker.trial.rampOver",
    "upstreams.app.force",
    "releases[0].hashOn[1].httpCookie.ttl",
    "releases[0].hashOn[1].httpCookie.path",
    "releases[0].hashOn[1].httpCookie.secure",
    "releases[0].hashOn[1].httpCookie.httpOnly",
    "releases[0].hashOn[1].httpCookie.sameSite",
    "releases[0].schedule",
    "releases[0].rollback",
];

/// [`FULL`] without the keys whose function is not there yet.
fn supported() -> String {
    let mut document: serde_json::Value = serde_json::from_str(FULL).unwrap();
    for path in LATER {
        let pointer = format!("/{}", path.replace(['.', '['], "/").replace(']', ""));
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        let parent = document.pointer_mut(parent).unwrap().as_object_mut().unwrap();
        assert!(parent.remove(key).is_some(), "{path}");
    }
    document.to_string()
}

fn compile(text: &str) -> Policy {
    match Policy::from_json(text.as_bytes()) {
        Ok(policy) => policy,
        Err(problems) => panic!("{text}\n{problems}"),
    }
}

/// The problems of a document, one per line as the user sees them.
fn problems(text: &str) -> Vec<String> {
    match Policy::from_json(text.as_bytes()) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.iter().map(ToString::to_string).collect(),
    }
}

fn with_upstream(fields: &str) -> String {
    format!(r#"{{"name":"p","upstreams":{{"app":{{"cluster":"app",{fields}}}}}}}"#)
}

fn with_check(fields: &str) -> String {
    with_upstream(&format!(r#""readinessProbe":{{"httpGet":{{}},{fields}}}"#))
}

fn with_get(fields: &str) -> String {
    with_upstream(&format!(r#""readinessProbe":{{"httpGet":{{{fields}}}}}"#))
}

fn with_breaker(fields: &str) -> String {
    with_upstream(&format!(r#""circuitBreaker":{{{fields}}}"#))
}

fn with_trial(fields: &str) -> String {
    with_breaker(&format!(r#""trial":{{{fields}}}"#))
}

fn with_probes(fields: &str) -> String {
    format!(r#"{{"name":"p","upstreams":{{"app":{{"cluster":"app"}}}},"probes":{{{fields}}}}}"#)
}

const STEER: &str = r#""steer":{"header":"x-v"}"#;
const VERSIONS: &str = r#""versions":[{"name":"v1","upstream":"a","weight":1,"default":true}]"#;

fn with_release(fields: &str) -> String {
    format!(
        r#"{{"name":"p","upstreams":{{"a":{{"cluster":"a"}},"b":{{"cluster":"b"}}}},"releases":[{{"name":"r",{fields}}}]}}"#
    )
}

fn with_versions(versions: &str) -> String {
    with_release(&format!(r#"{STEER},"versions":[{versions}]"#))
}

/// A document with one version, whose `match` is this list.
fn with_match(items: &str) -> String {
    with_versions(&format!(r#"{{"name":"v1","upstream":"a","weight":1,"default":true,"match":[{items}]}}"#))
}

fn with_gate(fields: &str) -> String {
    format!(
        r#"{{"name":"p","upstreams":{{"app":{{"cluster":"app"}}}},"gates":[{{"upstream":"app",{fields}}}]}}"#
    )
}

/// Each document has this one problem.
fn assert_problem(rows: &[(String, &str)]) {
    for (document, problem) in rows {
        assert_eq!(problems(document), [*problem], "{document}");
    }
}

fn assert_compiles(documents: &[String]) {
    for document in documents {
        compile(document);
    }
}

mod the_whole_document {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn is_refused_for_each_key_that_is_not_there_yet_and_for_nothing_else() {
        let mut expected: Vec<String> =
            LATER.iter().map(|path| format!("{path}: not supported yet")).collect();
        let mut found = problems(FULL);
        expected.sort();
        found.sort();
        assert_eq!(found, expected);
    }

    #[test]
    fn compiles_without_the_keys_that_are_not_there_yet() {
        let policy = compile(&supported());
        assert_eq!(policy.name, "reviews");
        assert_eq!(policy.mode, Mode::Enforce);
        assert_eq!(policy.summary(), "7 upstreams, 6 probes, 1 release, 1 gate");
    }

    #[test]
    fn gives_the_upstream_what_it_says() {
        let policy = compile(&supported());
        let second = Duration::from_secs(1);
        let app = Upstream {
            name: "app".into(),
            cluster: "app".into(),
            check: Some(Check {
                call: Call::Http(HttpGet {
                    path: "/healthz".into(),
                    authority: "app.local".into(),
                    headers: vec![("x-probe".into(), "graygate".into())],
                    ..Check::every(second).get().clone()
                }),
                ..Check::every(5 * second)
            }),
            breaker: Some(Breaker {
                fail_on: vec![FailOn::ServerError],
                consecutive_failures: 5,
                not_ready_for: 5 * second,
                max_not_ready_for: 60 * second,
                trial: Trial { requests: 3, successes: 3, lease_for: 30 * second },
            }),
            assume_ready: true,
            guarded: true,
        };
        assert_eq!(policy.upstreams[0], app);
    }

    #[test]
    fn gives_the_release_what_it_says() {
        let policy = compile(&supported());
        let release = &policy.releases[0];
        assert_eq!(release.name, "reviews");
        assert_eq!(release.seed, hash::seed("reviews"));
        assert_eq!(release.steer_header, "x-gray-version");
        assert!(!release.trust_incoming);
        assert_eq!(
            release.keys,
            [
                Key::Header("x-user-id".into()),
                Key::Cookie("gray-id".into()),
                Key::QueryParameter("uid".into()),
                Key::SourceIp
            ]
        );
        let versions: Vec<_> = release
            .versions
            .iter()
            .map(|version| {
                let upstream = policy.upstream(version.upstream).unwrap().name.as_str();
                (version.name.as_str(), upstream, version.weight, version.overrides.is_empty())
            })
            .collect();
        assert_eq!(versions, [("v1", "reviews-v1", 90, true), ("v2", "reviews-v2", 10, false)]);
        assert_eq!(release.default, 0);
    }

    #[test]
    fn gives_the_gate_what_it_says() {
        let policy = compile(&supported());
        let reply = Reply {
            status: 503,
            retry_after_seconds: 5,
            headers: vec![("x-reason".into(), "warming-up".into())],
            body: Some(r#"{"error":"app is not ready"}"#.into()),
        };
        assert_eq!(policy.gates[0].reply, reply);
        assert_eq!(policy.upstream(policy.gates[0].upstream).unwrap().name, "app");
        assert!(!policy.gates[0].matches.is_empty());
    }
}

mod defaults {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn a_name_is_all_a_policy_needs() {
        let policy = compile(r#"{"name":"p"}"#);
        assert_eq!(policy.mode, Mode::Enforce);
        assert_eq!(policy.summary(), "0 upstreams, 0 probes, 0 releases, 0 gates");
        assert_eq!(policy.tick(), None);
        assert!(!policy.observes_responses());
    }

    #[test]
    fn a_breaker_has_those_that_its_fields_state() {
        let policy = compile(&with_upstream(r#""circuitBreaker":{}"#));
        let expected = Breaker {
            fail_on: vec![FailOn::ServerError],
            consecutive_failures: 5,
            not_ready_for: Duration::from_secs(5),
            max_not_ready_for: Duration::from_secs(60),
            trial: Trial { requests: 3, successes: 3, lease_for: Duration::from_secs(30) },
        };
        assert_eq!(policy.upstreams[0].breaker.as_ref(), Some(&expected));
    }

    #[test]
    fn the_longest_wait_is_never_below_the_first() {
        let policy = compile(&with_breaker(r#""notReadyFor":"5m""#));
        assert_eq!(policy.upstreams[0].breaker.as_ref().unwrap().max_not_ready_for, Duration::from_secs(300));
    }

    #[test]
    fn a_gate_answers_503_for_every_request() {
        let policy = compile(r#"{"name":"p","upstreams":{"a":{"cluster":"a"}},"gates":[{"upstream":"a"}]}"#);
        let reply = Reply { status: 503, retry_after_seconds: 5, headers: Vec::new(), body: None };
        assert_eq!(policy.gates[0].reply, reply);
        assert_eq!(policy.gates[0].matches, Matches::default());
    }

    #[test]
    fn a_release_is_for_every_request_and_trusts_nobody() {
        let policy = compile(&with_release(&format!("{STEER},{VERSIONS}")));
        let release = &policy.releases[0];
        assert!(release.matches.is_empty() && release.keys.is_empty() && !release.trust_incoming);
    }
}

mod values {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn both_ends_of_every_range_are_inside() {
        assert_compiles(&[
            with_check(r#""periodSeconds":0.1,"timeoutSeconds":0.01,"initialDelaySeconds":3600"#),
            with_check(r#""periodSeconds":3600,"timeoutSeconds":300,"failureThreshold":1000"#),
            with_check(r#""successThreshold":1000,"failureThreshold":1"#),
            with_breaker(r#""consecutiveFailures":100000,"notReadyFor":"100ms","maxNotReadyFor":"24h""#),
            with_breaker(r#""consecutiveFailures":1,"notReadyFor":"1h","maxNotReadyFor":"1h""#),
            with_trial(r#""requests":100,"successes":1000,"leaseFor":"1h""#),
            with_trial(r#""requests":1,"successes":1,"leaseFor":"1s""#),
            with_gate(r#""reply":{"status":400,"retryAfterSeconds":0}"#),
            with_gate(r#""reply":{"status":599,"retryAfterSeconds":86400}"#),
            with_versions(r#"{"name":"v1","upstream":"a","weight":4294967295,"default":true}"#),
        ]);
    }

    #[test]
    fn every_word_of_fail_on_is_known() {
        let policy = compile(&with_breaker(r#""failOn":["5xx","gateway-error","reset","connect-failure"]"#));
        assert_eq!(
            policy.upstreams[0].breaker.as_ref().unwrap().fail_on,
            [FailOn::ServerError, FailOn::GatewayError, FailOn::Reset, FailOn::ConnectFailure]
        );
    }

    #[test]
    fn header_names_are_lowered_and_cookie_names_are_not() {
        let policy = compile(&with_release(&format!(
            r#""steer":{{"header":"X-Gray"}},"hashOn":[{{"httpHeaderName":"X-User"}},{{"httpCookie":{{"name":"GrayId"}}}}],{VERSIONS}"#
        )));
        let release = &policy.releases[0];
        assert_eq!(release.steer_header, "x-gray");
        assert_eq!(release.keys, [Key::Header("x-user".into()), Key::Cookie("GrayId".into())]);
    }

    #[test]
    fn an_upstream_is_guarded_where_a_gate_or_a_version_needs_it() {
        let policy = compile(
            r#"{"name":"p","upstreams":{"a":{"cluster":"a"},"b":{"cluster":"b"},"c":{"cluster":"c"}},
            "probes":{"readiness":{"path":"/r","checks":[{"upstream":"c"}]}},
            "releases":[{"name":"r","steer":{"header":"x-v"},"versions":[{"name":"v1","upstream":"a","weight":1,"default":true}]}],
            "gates":[{"upstream":"b"}]}"#,
        );
        let guarded: Vec<_> = policy.upstreams.iter().map(|upstream| upstream.guarded).collect();
        assert_eq!(guarded, [true, true, false]);
    }

    #[test]
    fn the_tick_is_a_quarter_of_the_shortest_period_or_wait_within_bounds() {
        let tick = |document: String| compile(&document).tick();
        assert_eq!(tick(with_check(r#""periodSeconds":0.8"#)), Some(Duration::from_millis(200)));
        assert_eq!(tick(with_check(r#""periodSeconds":0.1"#)), Some(Duration::from_millis(50)));
        assert_eq!(tick(with_check(r#""periodSeconds":10"#)), Some(Duration::from_millis(250)));
        assert_eq!(tick(with_breaker(r#""notReadyFor":"600ms""#)), Some(Duration::from_millis(150)));
        assert_eq!(tick(with_upstream(r#""assume":"ready""#)), None);
    }

    #[test]
    fn off_observes_nothing() {
        let on = with_breaker("");
        assert!(compile(&on).observes_responses());
        let off = on.replacen(r#""name":"p""#, r#""name":"p","mode":"off""#, 1);
        let policy = compile(&off);
        assert_eq!(policy.mode, Mode::Off);
        assert!(!policy.observes_responses());
    }
}

mod messages {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn of_unknown_fields_suggest_the_nearest_known_one() {
        let misspelt = r#"{"name":"v1","upstream":"a","weight":1,"default":true},{"name":"v2","upstream":"b","weight":1,"wieght":2}"#;
        assert_problem(&[
            (
                with_versions(misspelt),
                r#"releases[0].versions[1].wieght: unknown field; did you mean "weight"?"#,
            ),
            (
                with_upstream(r#""readinessprobe":{}"#),
                r#"upstreams.app.readinessprobe: unknown field; did you mean "readinessProbe"?"#,
            ),
            (
                r#"{"name":"p","banana":1}"#.into(),
                "banana: unknown field; allowed: name, mode, rollout, upstreams, probes, releases, gates",
            ),
            (
                r#"{"name":"p","a b":1}"#.into(),
                r#"["a b"]: unknown field; allowed: name, mode, rollout, upstreams, probes, releases, gates"#,
            ),
        ]);
    }

    #[test]
    fn of_repeated_keys_name_the_key() {
        assert_problem(&[
            (r#"{"name":"p","name":"q"}"#.into(), "name: given twice; allowed: once"),
            (
                r#"{"name":"p","upstreams":{"a":{"cluster":"a"},"a":{"cluster":"b"}}}"#.into(),
                "upstreams.a: given twice; allowed: once",
            ),
            (
                with_match(r#"{"headers":{"x":{"exact":"1"},"x":{"exact":"2"}}}"#),
                "releases[0].versions[0].match[0].headers.x: given twice; allowed: once",
            ),
        ]);
    }

    #[test]
    fn of_wrong_types_say_what_is_allowed() {
        assert_problem(&[
            ("{}".into(), "name: missing; allowed: a DNS label such as reviews"),
            (r#"{"name":7}"#.into(), "name: 7 is not allowed; allowed: a string, not empty"),
            (r#"{"name":""}"#.into(), r#"name: "" is not allowed; allowed: a string, not empty"#),
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
                "releases: an object of 1 fields is not allowed; allowed: a list",
            ),
            (r#"{"name":"p","gates":null}"#.into(), "gates: null is not allowed; allowed: a list"),
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
    fn of_values_out_of_range_give_the_range() {
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
                r#"upstreams.app.circuitBreaker.notReadyFor: "10ms" is not allowed; allowed: a duration such as "300ms", "1.5s" or "1h30m", from 100ms to 3600s"#,
            ),
            (
                with_breaker(r#""notReadyFor":5"#),
                r#"upstreams.app.circuitBreaker.notReadyFor: 5 is not allowed; allowed: a duration such as "300ms", "1.5s" or "1h30m", from 100ms to 3600s"#,
            ),
            (
                with_breaker(r#""notReadyFor":"10s","maxNotReadyFor":"9s""#),
                r#"upstreams.app.circuitBreaker.maxNotReadyFor: "9s" is not allowed; allowed: a duration such as "300ms", "1.5s" or "1h30m", from 10s to 86400s"#,
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
    fn of_unknown_upstreams_name_the_known_ones() {
        assert_problem(&[
            (
                with_versions(r#"{"name":"v1","upstream":"c","weight":1,"default":true}"#),
                r#"releases[0].versions[0].upstream: "c" is no upstream; allowed: a, b"#,
            ),
            (
                r#"{"name":"p","gates":[{"upstream":"app"}]}"#.into(),
                r#"gates[0].upstream: "app" is no upstream; allowed: none, as upstreams is empty"#,
            ),
            (
                with_probes(r#""readiness":{"path":"/r","checks":[{"upstream":"db"}]}"#),
                r#"probes.readiness.checks[0].upstream: "db" is no upstream; allowed: app"#,
            ),
        ]);
    }

    #[test]
    fn of_versions_that_make_no_release_say_why() {
        let v = |name: &str, weight: u32, default: bool| {
            format!(r#"{{"name":"{name}","upstream":"a","weight":{weight},"default":{default}}}"#)
        };
        assert_problem(&[
            (
                with_versions(&format!("{},{}", v("v1", 0, true), v("v2", 0, false))),
                "releases[0].versions: the weights are all 0; allowed: at least one above 0",
            ),
            (
                with_versions(&v("v1", 1, false)),
                "releases[0].versions: no version is the default; allowed: default: true on one of them",
            ),
            (
                with_versions(&format!("{},{}", v("v1", 1, true), v("v2", 1, true))),
                "releases[0].versions: more than one version is the default; allowed: default: true on one of them",
            ),
            (with_versions(""), "releases[0].versions: an empty list; allowed: at least one version"),
            (
                with_versions(&format!("{},{}", v("v1", 99_996, true), v("v2", 4, false))),
                "releases[0].versions[1]: weight 4 is less than 0.01 % of all weights; allowed: 0, or at least that share",
            ),
            (
                with_versions(&format!("{},{}", v("v1", 1, true), v("v1", 1, false))),
                r#"releases[0].versions[1]: a second version named "v1"; allowed: one of each name"#,
            ),
        ]);
    }

    #[test]
    fn of_two_releases_with_one_name_point_to_the_second() {
        let release = format!(r#"{{"name":"r",{STEER},{VERSIONS}}}"#);
        let document = format!(
            r#"{{"name":"p","upstreams":{{"a":{{"cluster":"a"}}}},"releases":[{release},{release}]}}"#
        );
        assert_eq!(
            problems(&document),
            [r#"releases[1]: a second release named "r"; allowed: one of each name"#]
        );
    }

    /// A condition that is none would send every request to a version that is for a few.
    #[test]
    fn of_matches_with_no_condition_say_that_all_would_match() {
        let path =
            "releases[0].versions[0].match[0]: would match every request; allowed: at least one condition";
        assert_problem(&[
            (with_match("{}"), path),
            (with_match(r#"{"name":"all"}"#), path),
            (with_match(r#"{"ignoreUriCase":true}"#), path),
            (with_match(r#"{"headers":{}}"#), path),
            (with_match(r#"{"withoutHeaders":{},"queryParams":{}}"#), path),
        ]);
    }

    #[test]
    fn of_conditions_say_what_one_is() {
        let all = "releases[0].versions[0].match[0]";
        for (condition, problem) in [
            (
                r#"{"uri":{}}"#,
                "uri: an object of 0 fields is not allowed; allowed: one of exact, prefix, regex",
            ),
            (
                r#"{"uri":{"exact":"/a","prefix":"/b"}}"#,
                "uri: an object of 2 fields is not allowed; allowed: one of exact, prefix, regex",
            ),
            (r#"{"uri":"/a"}"#, r#"uri: "/a" is not allowed; allowed: an object"#),
            (
                r#"{"uri":{"regex":"/a("}}"#,
                r#"uri.regex: "/a(" is no regular expression: found open group without closing ')'; allowed: RE2's syntax without Unicode classes, as regex-lite has it"#,
            ),
            (
                r#"{"headers":{"a b":{}}}"#,
                r#"headers["a b"]: a bad name; allowed: a name with no spaces or control characters"#,
            ),
            (
                r#"{"headers":{"Method":{"exact":"GET"}}}"#,
                "headers.Method: method is no header; allowed: method beside headers",
            ),
            (
                r#"{"port":80}"#,
                "port: not supported: a filter does not see what this names; allowed: leave it out",
            ),
        ] {
            assert_eq!(problems(&with_match(condition)), [format!("{all}.{problem}")], "{condition}");
        }
    }

    #[test]
    fn of_an_upstream_that_could_never_be_ready_say_so() {
        assert_problem(&[(
            with_upstream(r#""assume":"notReady","circuitBreaker":{}"#),
            "upstreams.app: assumed notReady with no readinessProbe to find it ready, so that requests for it would be refused for ever; allowed: a readinessProbe, or assume: ready",
        )]);
        compile(&with_upstream(r#""assume":"notReady","readinessProbe":{"httpGet":{}}"#));
    }

    #[test]
    fn of_a_breaker_say_what_a_failure_can_be() {
        assert_problem(&[
            (
                with_breaker(r#""failOn":[]"#),
                "upstreams.app.circuitBreaker.failOn: an empty list, so that nothing would be a failure; allowed: at least one word",
            ),
            (
                with_breaker(r#""failOn":["unavailable"]"#),
                "upstreams.app.circuitBreaker.failOn[0]: not supported yet",
            ),
        ]);
    }

    #[test]
    fn of_headers_that_cannot_be_written_name_those() {
        let own = "is the proxy's own; allowed: any but host, content-length, transfer-encoding, connection, upgrade, te, trailer, keep-alive";
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
                "gates[0].reply.headers.Retry-After: set elsewhere; allowed: retryAfterSeconds",
            ),
            (
                with_gate(r#""reply":{"headers":{"Grpc-Status":"0"}}"#),
                "gates[0].reply.headers.Grpc-Status: would tell a gRPC client another outcome than the status does; allowed: status",
            ),
            (
                with_gate(r#""reply":{"headers":{"x-why":"a","X-Why":"b"}}"#),
                r#"gates[0].reply.headers.X-Why: a second header "x-why", as case does not count; allowed: one"#,
            ),
            (
                with_release(&format!(r#""steer":{{"header":":path"}},{VERSIONS}"#)),
                r#"releases[0].steer.header: ":path" is not a header name; allowed: letters, digits and any of !#$%&'*+-.^_`|~"#,
            ),
            (
                with_gate(r#""reply":{"headers":{"x":"a\r\nb: c"}}"#),
                r#"gates[0].reply.headers.x: "a\r\nb: c" is not allowed; allowed: a header value: at most 4096 bytes, no control characters"#,
            ),
        ]);
    }

    /// Steering by such a header would lose what it carries.
    #[test]
    fn of_a_steer_header_that_is_a_key_name_it() {
        for (header, key) in
            [("X-User", r#"{"httpHeaderName":"x-user"}"#), ("cookie", r#"{"httpCookie":{"name":"id"}}"#)]
        {
            let release = format!(r#""steer":{{"header":"{header}"}},"hashOn":[{key}],{VERSIONS}"#);
            let problem = format!(
                r#"releases[0].steer: "{}" carries something else; allowed: a header that carries nothing else, such as x-gray-version"#,
                header.to_lowercase()
            );
            assert_eq!(problems(&with_release(&release)), [problem]);
        }
    }

    #[test]
    fn of_more_or_longer_headers_than_a_message_takes_say_how_many() {
        let headers: Vec<_> = (0..51).map(|n| format!(r#""x-{n}":"y""#)).collect();
        assert_eq!(
            problems(&with_gate(&format!(r#""reply":{{"headers":{{{}}}}}"#, headers.join(",")))),
            ["gates[0].reply.headers: 51 headers; allowed: at most 50"]
        );
        let long = "x".repeat(4_097);
        let told = problems(&with_gate(&format!(r#""reply":{{"headers":{{"x":"{long}"}}}}"#)));
        assert!(
            told[0].ends_with("allowed: a header value: at most 4096 bytes, no control characters"),
            "{told:?}"
        );
    }

    #[test]
    fn of_names_with_control_characters_show_them_escaped() {
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
    fn of_unreadable_text_say_what_is_expected() {
        assert_eq!(
            problems(""),
            [
                "not a JSON document: EOF while parsing a value at line 1 column 0; allowed: one JSON object, in Envoy as a google.protobuf.StringValue"
            ]
        );
    }

    #[test]
    fn quote_a_long_value_in_part() {
        let document = format!(r#"{{"name":"{}"}}"#, "x".repeat(1_000));
        assert!(
            problems(&document)[0]
                .starts_with(&format!("name: {:?}… (1000 bytes) is not allowed", "x".repeat(60)))
        );
    }

    #[test]
    fn of_many_problems_come_all_at_once_and_in_the_documents_order() {
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
                "app": {"readinessProbe": {"httpGet": {"path": "x"}, "periodSeconds": "5"}, "clutser": "app"},
                "b c": {"cluster": "", "assume": "notReady"}
            },
            "mode": "shadow"
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
            "upstreams.app.cluster",
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
    fn of_one_version_do_not_hide_those_of_the_list() {
        let document = with_versions(
            r#"{"name":"v1","upstream":"a","wieght":1},{"name":"v1","upstream":"b","weight":1}"#,
        );
        let found = problems(&document);
        for expected in
            ["no version is the default", "a second version named", "did you mean \"weight\"", "missing"]
        {
            assert!(found.iter().any(|problem| problem.contains(expected)), "{expected}: {found:#?}");
        }
    }
}

/// None of these may panic, and none may be taken for a policy.
mod odd_documents {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const MIB: usize = 1 << 20;

    /// The document is refused, in words of a size that a log can take.
    fn assert_refused(document: impl AsRef<[u8]>) {
        let document = document.as_ref();
        let start = String::from_utf8_lossy(&document[..document.len().min(80)]).into_owned();
        let problems = Policy::from_json(document).expect_err(&start);
        assert!(problems.iter().count() > 0, "{start}");
        for problem in problems.iter() {
            assert!(!problem.message.is_empty(), "{start}");
            assert!(problem.to_string().len() < 2_000, "{start}: {} bytes", problem.to_string().len());
        }
    }

    #[test]
    fn that_are_no_object() {
        for document in ["", " ", "null", "true", "0", "-1.5", r#""name""#, "[]", "[{}]", "{", "{}{}", "\0"] {
            assert_refused(document);
        }
    }

    #[test]
    fn that_are_not_utf_8() {
        assert_refused(b"\xff\xfe");
        assert_refused(b"{\"name\":\"\xff\"}");
        assert_refused(b"{\"\xc3\x28\":1}");
        assert_refused(r#"{"name":"\ud800"}"#);
        assert_refused(b"\xef\xbb\xbf{\"name\":\"p\"}");
    }

    #[test]
    fn that_are_deep() {
        for depth in [64, 120, 126, 127, 128, 129, 1_000, 100_000] {
            let (open, close) = ("[".repeat(depth), "]".repeat(depth));
            assert_refused(format!("{open}{close}"));
            assert_refused(format!(r#"{{"name":{open}{close}}}"#));
            let (open, close) = (r#"{"upstreams":"#.repeat(depth), "}".repeat(depth));
            assert_refused(format!("{open}1{close}"));
        }
    }

    #[test]
    fn that_are_large() {
        let long = "x".repeat(MIB);
        assert_refused(format!(r#"{{"name":"{long}"}}"#));
        assert_refused(format!(r#"{{"name":"p","{long}":1}}"#));
        assert_refused(with_release(&format!(r#""steer":{{"header":"{long} "}},{VERSIONS}"#)));
        assert_refused(with_gate(&format!(r#""reply":{{"body":"{long}"}}"#)));
        assert_refused(format!(r#"{{"name":"p","gates":[{{"upstream":"{long}"}}]}}"#));
        assert_refused(format!(
            r#"{{"name":"p","upstreams":{{"{long}":{{"cluster":"a"}}}},"gates":[{{"upstream":"a"}}]}}"#
        ));
        assert_refused(format!(r#"{{"name":[{}0]}}"#, "0,".repeat(MIB / 2)));
        assert_refused(format!(r#"{{"name":"p","gates":[{}0]}}"#, "0,".repeat(MIB / 64)));
        assert_refused(format!(r#"{{{}"name":"p"}}"#, r#""a":1,"#.repeat(MIB / 64)));
        let fields: String = (0..MIB / 64).map(|i| format!(r#""f{i}":1,"#)).collect();
        assert_refused(format!(r#"{{{fields}"name":"p"}}"#));
    }

    /// Each wrong name is answered with the right ones: that must not multiply one list by the other.
    #[test]
    fn with_many_upstreams_and_as_many_wrong_names() {
        let upstreams: Vec<_> = (0..2_000).map(|i| format!(r#""u{i}":{{"cluster":"c"}}"#)).collect();
        let gates = vec![r#"{"upstream":"x"}"#; 2_000];
        assert_refused(format!(
            r#"{{"name":"p","upstreams":{{{}}},"gates":[{}]}}"#,
            upstreams.join(","),
            gates.join(",")
        ));
    }

    #[test]
    fn with_numbers_beyond_any_type() {
        for number in ["18446744073709551616", "-9223372036854775809", "1e308", "1e400", "-1e400", "1e-400"] {
            for document in [
                format!(r#"{{"name":{number}}}"#),
                with_check(&format!(r#""periodSeconds":{number}"#)),
                with_check(&format!(r#""failureThreshold":{number}"#)),
                with_versions(&format!(
                    r#"{{"name":"v","upstream":"a","weight":{number}.0,"default":true}}"#
                )),
                with_get(&format!(r#""port":{number}"#)),
            ] {
                assert_refused(document);
            }
        }
        for duration in [
            "1e9s",
            "999999999999999999999999h",
            &"9".repeat(400),
            &format!("{}s", "9".repeat(400)),
            &"9999999999999999h".repeat(2_000),
        ] {
            assert_refused(with_breaker(&format!(r#""notReadyFor":"{duration}""#)));
        }
    }

    #[test]
    fn with_every_key_twice() {
        let document: serde_json::Value = serde_json::from_str(FULL).unwrap();
        let found = problems(&doubled(&document));
        let repeated =
            found.iter().filter(|problem| problem.ends_with(": given twice; allowed: once")).count();
        assert_eq!(repeated + LATER.len(), found.len(), "{found:#?}");
        // Each key that is read at all, and so each but the fields below a repetition.
        assert!(repeated > 80, "{repeated}");
    }

    /// The document with each key of each object written twice.
    fn doubled(value: &serde_json::Value) -> String {
        match value {
            serde_json::Value::Object(fields) => {
                let twice = |(key, value)| {
                    let field = format!("{key:?}:{}", doubled(value));
                    format!("{field},{field}")
                };
                format!("{{{}}}", fields.iter().map(twice).collect::<Vec<_>>().join(","))
            }
            serde_json::Value::Array(items) => {
                format!("[{}]", items.iter().map(doubled).collect::<Vec<_>>().join(","))
            }
            value => value.to_string(),
        }
    }

    #[test]
    fn with_empty_strings_everywhere() {
        for (at, _) in FULL.match_indices('"').step_by(2) {
            let length = FULL[at + 1..].find('"').unwrap();
            // Emptied keys too: they are unknown, and what they were for is missing.
            let emptied = format!("{}{}", &FULL[..at + 1], &FULL[at + 1 + length..]);
            assert_refused(emptied);
        }
    }

    #[test]
    fn with_nul_bytes() {
        assert_refused(supported().replace("reviews", "re\\u0000views"));
        assert_refused(supported().replace("app", "a\0pp"));
        assert_refused(with_get(r#""path":"/\u0000""#));
        assert_refused(with_get(r#""host":"\u0000""#));
        assert_refused(with_get(r#""httpHeaders":[{"name":"\u0000","value":"\u0000"}]"#));
        assert_refused(with_match(r#"{"headers":{"\u0000":{"exact":"\u0000"}}}"#));
    }
}
