//! Tests of the policy as a whole: the full document, defaults, values and the rollout.

use super::*;
use crate::policy::check::{Check, CheckCall, GrpcHealth, HttpGet};
use crate::policy::gate::{OnPreflight, ReplyTemplate};
use crate::policy::matcher::Matches;
use crate::policy::problem::ProblemLog;
use crate::policy::release::key::{Cookie, Issue, Key};
use crate::policy::release::steer::Steer;
use crate::policy::upstream::{Breaker, ConsecutiveFailures, Shares, Slow, Trial};
use crate::value::hash;
use crate::value::response::FailOn;
use crate::value::string_match::{Pattern, StringMatch};

mod checks;
mod hosts;
mod messages;
#[cfg(feature = "tool")]
mod modules;
mod odd_documents;
mod probes;
mod releases;
mod sets;

/// A document with every key that a policy can have.
const FULL: &str = include_str!("../../tests/data/full-policy.json");

fn compile(text: &str) -> Policy {
    match Policy::from_json(text.as_bytes()) {
        Ok(policy) => policy,
        Err(problems) => panic!("{text}\n{problems}"),
    }
}

fn matches(text: &str) -> Matches {
    let node: Node = serde_json::from_str(text).unwrap();
    Matches::read(&Value::root(&node, &ProblemLog::default(), keys::MATCHES)).unwrap()
}

/// Returns the problems of a document, as the user sees them.
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

/// Returns a document with one version that has these items in its `match`.
fn with_match(items: &str) -> String {
    with_versions(&format!(r#"{{"name":"v1","upstream":"a","weight":1,"default":true,"match":[{items}]}}"#))
}

fn with_gate(fields: &str) -> String {
    format!(
        r#"{{"name":"p","upstreams":{{"app":{{"cluster":"app"}}}},"gates":[{{"upstream":"app",{fields}}}]}}"#
    )
}

/// Asserts that each document has exactly this problem.
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

mod full_document {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn the_full_document_compiles() {
        let policy = compile(FULL);
        assert_eq!(policy.name, "reviews");
        assert_eq!(policy.hosts.names().len(), 3);
        assert_eq!(policy.hosts.endings(), [".example.com"]);
        assert_eq!(policy.mode, Mode::Enforce);
        assert_eq!(policy.summary(), "8 upstreams, 8 probes, 1 release, 2 gates");
    }

    #[test]
    fn the_upstream_has_the_documents_values() {
        let policy = compile(FULL);
        let second = Duration::from_secs(1);
        let app = Upstream {
            name: "app".into(),
            cluster: "app".into(),
            check: Some(Check {
                call: CheckCall::Http(HttpGet {
                    path: "/healthz".into(),
                    authority: "app.local".into(),
                    headers: vec![("x-probe".into(), "graygate".into())],
                    ..Check::every(second).get().clone()
                }),
                ..Check::every(5 * second)
            }),
            breaker: Some(Breaker {
                fail_on: vec![FailOn::ServerError],
                ignore_on: vec![FailOn::Status(501)],
                record: matches(r#"[{"uri":{"prefix":"/api"}}]"#),
                ignore: matches(r#"[{"uri":{"prefix":"/api/events"}}]"#),
                consecutive_failures: Some(ConsecutiveFailures { limit: 5, is_default: false }),
                local_origin_failures: Some(3),
                unanswered_after: Some(3 * second),
                shares: Some(Shares {
                    failure_percent: Some(50),
                    slow: Some(Slow { percent: 80, than: 2 * second }),
                    window: 10 * second,
                    minimum_requests: 20,
                }),
                not_ready_for: 5 * second,
                max_not_ready_for: 60 * second,
                max_retry_after: 30 * second,
                trial: Trial { requests: 3, successes: 3, lease_for: 30 * second, ramp_over: 10 * second },
            }),
            assume_ready: true,
            force: None,
            guarded: true,
        };
        assert_eq!(policy.upstreams[0], app);
    }

    #[test]
    fn the_release_has_the_documents_values() {
        let policy = compile(FULL);
        let release = &policy.releases[0];
        assert_eq!(release.name, "reviews");
        assert_eq!(release.seed, hash::seed("reviews"));
        assert_eq!(release.steer, Steer::Header("x-gray-version".into()));
        assert!(!release.trust_incoming);
        assert_eq!(
            release.keys,
            [
                Key::Header("x-user-id".into()),
                Key::Cookie(Cookie {
                    name: "gray-id".into(),
                    issue: Some(Issue {
                        ttl: Duration::from_secs(86_400),
                        path: "/".into(),
                        domain: Some("example.com".into()),
                        secure: true,
                        http_only: true,
                        same_site: "Lax",
                        partitioned: true,
                    }),
                }),
                Key::QueryParameter("uid".into()),
                Key::Baggage("user-id".into()),
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
    fn the_gates_have_the_documents_values() {
        let policy = compile(FULL);
        let reply = ReplyTemplate {
            status: 503,
            grpc_status: Some(8),
            retry_after_seconds: Some(5),
            headers: vec![("x-reason".into(), "warming-up".into())],
            retriable: true,
            body: Some(r#"{"error":"app is not ready"}"#.into()),
        };
        assert_eq!(policy.gates[0].reply, reply);
        assert_eq!(policy.upstream(policy.gates[0].upstream).unwrap().name, "app");
        assert!(!policy.gates[0].matches.is_empty());
        assert_eq!(policy.gates[0].when_all_not_ready, WhenAllNotReady::Forward);
        let cache = policy.upstreams.iter().position(|upstream| upstream.name == "cache").unwrap();
        let header = "x-gray-cluster".to_owned();
        assert_eq!(
            policy.gates[0].fallback,
            Some(Fallback::Upstream { upstream: UpstreamId(cache), header })
        );
        let Some(Fallback::Answer(answer)) = &policy.gates[1].fallback else { panic!() };
        assert_eq!((answer.status, answer.body.as_deref()), (200, Some(r#"{"items":[]}"#)));
        assert_eq!((policy.max_gated_percent, policy.gated.len(), policy.most_gated()), (50, 2, 1));
        assert_eq!(policy.untrusted_headers, ["x-gray-cluster", "x-gray-version"]);
        assert_eq!(policy.selective, [UpstreamId(0)]);
    }
}

mod defaults {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn a_policy_needs_only_a_name() {
        let policy = compile(r#"{"name":"p"}"#);
        assert_eq!(policy.mode, Mode::Enforce);
        assert_eq!(policy.summary(), "0 upstreams, 0 probes, 0 releases, 0 gates");
        assert_eq!(policy.tick(), None);
    }

    #[test]
    fn a_breaker_has_the_documented_defaults() {
        let policy = compile(&with_upstream(r#""circuitBreaker":{}"#));
        let expected = Breaker {
            fail_on: vec![FailOn::ServerError],
            ignore_on: Vec::new(),
            record: Matches::default(),
            ignore: Matches::default(),
            consecutive_failures: Some(ConsecutiveFailures { limit: 5, is_default: true }),
            local_origin_failures: None,
            unanswered_after: None,
            shares: None,
            not_ready_for: Duration::from_secs(5),
            max_not_ready_for: Duration::from_secs(60),
            max_retry_after: Duration::from_secs(60),
            trial: Trial {
                requests: 3,
                successes: 3,
                lease_for: Duration::from_secs(30),
                ramp_over: Duration::ZERO,
            },
        };
        assert_eq!(policy.upstreams[0].breaker.as_ref(), Some(&expected));
    }

    #[test]
    fn a_named_share_has_no_row_of_failures_beside_it_unless_one_is_written() {
        let row = |fields: &str| {
            let policy = compile(&with_breaker(fields));
            policy.upstreams[0].breaker.as_ref().unwrap().consecutive_failures
        };
        for shares in [r#""failurePercent":50"#, r#""slowPercent":80,"slowerThan":"2s""#] {
            assert_eq!(row(shares), None, "{shares}");
            let written = row(&format!(r#"{shares},"consecutiveFailures":5"#));
            assert_eq!(written, Some(ConsecutiveFailures { limit: 5, is_default: false }), "{shares}");
        }
        let default = Some(ConsecutiveFailures { limit: 5, is_default: true });
        assert_eq!(row(r#""consecutiveLocalOriginFailures":3"#), default);
    }

    #[test]
    fn zero_turns_a_row_off() {
        for (fields, row, local_origin, limit) in [
            (r#""consecutiveFailures":0,"failurePercent":50"#, None, None, None),
            (r#""consecutiveFailures":0,"consecutiveLocalOriginFailures":3"#, None, Some(3), Some(3)),
            (r#""consecutiveLocalOriginFailures":0"#, Some(5), Some(0), None),
        ] {
            let policy = compile(&with_breaker(fields));
            let breaker = policy.upstreams[0].breaker.as_ref().unwrap();
            assert_eq!(breaker.consecutive_failures.map(|row| row.limit), row, "{fields}");
            assert_eq!(breaker.local_origin_failures, local_origin, "{fields}");
            assert_eq!(breaker.local_origin_limit(), limit, "{fields}");
            assert_eq!(breaker.counts_apart(), local_origin.is_some(), "{fields}");
        }
    }

    #[test]
    fn the_longest_wait_is_never_below_the_first() {
        let policy = compile(&with_breaker(r#""notReadyFor":"5m""#));
        let breaker = policy.upstreams[0].breaker.as_ref().unwrap();
        let longest = Duration::from_secs(300);
        assert_eq!((breaker.max_not_ready_for, breaker.max_retry_after), (longest, longest));
    }

    #[test]
    fn a_gate_replies_503_to_every_request() {
        let policy = compile(r#"{"name":"p","upstreams":{"a":{"cluster":"a"}},"gates":[{"upstream":"a"}]}"#);
        let reply = ReplyTemplate {
            status: 503,
            grpc_status: None,
            retry_after_seconds: None,
            headers: Vec::new(),
            retriable: false,
            body: None,
        };
        assert_eq!(policy.gates[0].reply, reply);
        assert_eq!((policy.gates[0].preflight, policy.gates[0].cors.as_ref()), (OnPreflight::Forward, None));
        assert_eq!(policy.gates[0].matches, Matches::default());
        assert_eq!((policy.gates[0].fallback.as_ref(), policy.max_gated_percent), (None, 100));
        assert!(!policy.may_fail_open());
    }

    #[test]
    fn a_release_matches_every_request_and_trusts_no_incoming_version() {
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
    fn ranges_include_both_ends() {
        assert_compiles(&[
            with_check(r#""periodSeconds":0.1,"timeoutSeconds":0.01,"initialDelaySeconds":3600"#),
            with_check(r#""periodSeconds":3600,"timeoutSeconds":300,"failureThreshold":1000"#),
            with_check(r#""successThreshold":1000,"failureThreshold":1"#),
            with_breaker(r#""consecutiveFailures":100000,"notReadyFor":"100ms","maxNotReadyFor":"24h""#),
            with_breaker(r#""consecutiveFailures":1,"notReadyFor":"1h","maxNotReadyFor":"1h""#),
            with_breaker(r#""failurePercent":1,"window":"1s","minimumRequests":1"#),
            with_breaker(r#""failurePercent":100,"slowPercent":1,"slowerThan":"1ms","window":"1h""#),
            with_breaker(r#""slowPercent":100,"slowerThan":"1h","minimumRequests":1000000"#),
            with_trial(r#""requests":100,"successes":1000,"leaseFor":"1h""#),
            with_trial(r#""requests":1,"successes":1,"leaseFor":"1s""#),
            with_gate(r#""reply":{"status":400,"retryAfterSeconds":0}"#),
            with_gate(r#""reply":{"status":599,"retryAfterSeconds":86400}"#),
            with_versions(r#"{"name":"v1","upstream":"a","weight":4294967295,"default":true}"#),
        ]);
    }

    #[test]
    fn every_value_of_fail_on_compiles() {
        let words = r#""5xx","4xx","gateway-error","reset","connect-failure","retriable-4xx","retried","429","599","400",
            "cancelled","deadline-exceeded","resource-exhausted","internal","unavailable""#;
        let policy = compile(&with_breaker(&format!(r#""failOn":[{words}]"#)));
        let statuses = [429, 599, 400].map(FailOn::Status);
        let grpc = [1, 4, 8, 13, 14].map(FailOn::Grpc);
        let plain = [
            FailOn::ServerError,
            FailOn::ClientError,
            FailOn::GatewayError,
            FailOn::Reset,
            FailOn::ConnectFailure,
            FailOn::Retriable4xx,
            FailOn::Retried,
        ];
        assert_eq!(
            policy.upstreams[0].breaker.as_ref().unwrap().fail_on,
            [&plain[..], &statuses, &grpc].concat()
        );
    }

    #[test]
    fn a_response_header_is_a_failure_condition_by_any_form_of_a_match() {
        let conditions = r#"{"header":"X-Error"},{"header":"x","exact":""},{"header":"x","prefix":"a"},
            {"header":"x","regex":"a|b"}"#;
        let document = with_breaker(&format!(r#""failOn":["5xx",{conditions}],"ignoreOn":[{conditions}]"#));
        let breaker = compile(&document).upstreams[0].breaker.clone().unwrap();
        let header = |name: &str, value| FailOn::Header { name: name.into(), value };
        let expected = [
            header("x-error", StringMatch::Present),
            header("x", StringMatch::Exact(String::new())),
            header("x", StringMatch::Prefix("a".into())),
            header("x", StringMatch::Regex(Pattern::compile("a|b", false).unwrap())),
        ];
        assert_eq!(breaker.fail_on, [&[FailOn::ServerError][..], &expected].concat());
        assert_eq!(breaker.ignore_on, expected);
    }

    #[test]
    fn header_names_become_lower_case_and_cookie_names_do_not() {
        let policy = compile(&with_release(&format!(
            r#""steer":{{"header":"X-Gray"}},"hashOn":[{{"httpHeaderName":"X-User"}},{{"httpCookie":{{"name":"GrayId"}}}}],{VERSIONS}"#
        )));
        let release = &policy.releases[0];
        assert_eq!(release.steer, Steer::Header("x-gray".into()));
        assert_eq!(
            release.keys,
            [Key::Header("x-user".into()), Key::Cookie(Cookie { name: "GrayId".into(), issue: None })]
        );
    }

    #[test]
    fn an_upstream_is_guarded_if_a_gate_or_a_version_needs_it() {
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
}

mod rollout {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    /// Returns for each of 1,000 nodes whether its decisions take effect.
    fn enforcing(percent: u32, mode: &str) -> Vec<bool> {
        let text = format!(r#"{{"name":"p","mode":"{mode}","rollout":{{"percent":{percent}}}}}"#);
        let enforces = |node: u32| {
            let id = format!("sidecar~10.0.0.{node}~app-{node}.shop");
            Policy::for_node(text.as_bytes(), id.as_bytes()).unwrap().mode == Mode::Enforce
        };
        (0..1_000).map(enforces).collect()
    }

    fn count(enforcing: &[bool]) -> usize {
        enforcing.iter().filter(|enforces| **enforces).count()
    }

    #[test]
    fn a_rollout_reaches_its_share_of_the_proxies() {
        assert_eq!(count(&enforcing(0, "enforce")), 0);
        assert!(count(&enforcing(10, "enforce")).abs_diff(100) < 40);
        assert_eq!(count(&enforcing(100, "enforce")), 1_000);
    }

    #[test]
    fn a_larger_rollout_includes_every_proxy_of_a_smaller_one() {
        let mut before = enforcing(0, "enforce");
        for percent in [1, 10, 25, 50, 99, 100] {
            let after = enforcing(percent, "enforce");
            assert!(before.iter().zip(&after).all(|(before, after)| !before || *after), "{percent}");
            before = after;
        }
    }

    #[test]
    fn a_rollout_changes_only_the_mode_enforce() {
        assert_eq!(count(&enforcing(100, "shadow")), 0);
        let off = br#"{"name":"p","mode":"off","rollout":{"percent":0}}"#;
        let off = Policy::for_node(off, b"node").unwrap();
        assert_eq!(off.mode, Mode::Off);
    }

    #[test]
    fn a_rollout_without_a_valid_percentage_is_refused() {
        assert_problem(&[
            (
                r#"{"name":"p","rollout":{"percent":101}}"#.into(),
                "rollout.percent: 101 is not allowed; allowed: a whole number from 0 to 100",
            ),
            (
                r#"{"name":"p","rollout":{}}"#.into(),
                "rollout.percent: missing; add a whole number from 0 to 100",
            ),
        ]);
    }
}
