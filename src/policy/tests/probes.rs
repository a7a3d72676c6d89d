//! Tests of `probes`.

use super::*;
use crate::policy::probe::{
    Basis, Component, Details, Drain, PassThrough, Probe, ProbeComponents, ProbeKind, StatusPage, Statuses,
};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// Between two checks, a result is old without anything being wrong.
#[test]
fn stale_after_must_exceed_the_age_that_results_reach_between_checks() {
    let document = |seconds: u32| {
        format!(
            r#"{{"name":"p","upstreams":{{"app":{{"cluster":"a","readinessProbe":{{"httpGet":{{}},"periodSeconds":5}}}}}},
            "probes":{{"staleAfterSeconds":{seconds},"readiness":{{"path":"/r","checks":[{{"upstream":"app"}}]}}}}}}"#
        )
    };
    compile(&document(7));
    assert_refused(&[(
        document(6),
        ".staleAfterSeconds: 6s is too short: between its checks, results of app get 6.25s old. Use at least that.",
    )]);
}

/// Returns the probes of a policy with the upstreams `app` and `db`.
fn probes(fields: &str) -> Probes {
    compile(&document(fields)).probes
}

fn document(fields: &str) -> String {
    let upstreams = r#""upstreams":{"app":{"cluster":"app"},"db":{"cluster":"db"}}"#;
    format!(r#"{{"name":"p",{upstreams},"probes":{{{fields}}}}}"#)
}

fn readiness(fields: &str) -> String {
    document(&format!(r#""readiness":{{"path":"/r",{fields}}}"#))
}

/// Asserts that each document has exactly this problem. The problems leave out `probes`, which each path begins with.
fn assert_refused(rows: &[(String, &str)]) {
    for (document, problem) in rows {
        assert_eq!(problems(document), [format!("probes{problem}")], "{document}");
    }
}

#[test]
fn the_probes_have_the_full_documents_values() {
    let policy = compile(FULL);
    let probe = |name: &str, kind, path: &str, basis| Probe {
        name: name.into(),
        kind,
        path: path.into(),
        basis,
        statuses: Statuses { passed: 200, degraded: 200, failed: 503 },
        fails_at_once: false,
    };
    let component = |upstream: &str, required, weight| {
        let index = policy.upstreams.iter().position(|known| known.name == upstream).unwrap();
        Component { upstream: UpstreamId(index), required, weight }
    };
    let one = |upstream| {
        Basis::Checks(ProbeComponents { components: vec![component(upstream, true, 0)], minimum_score: 0 })
    };
    let kept = PassThrough {
        cache: Duration::from_secs(2),
        headers: vec!["content-type".into()],
        host: None,
        upstream: None,
    };
    let deep = Statuses { passed: 200, degraded: 207, failed: 500 };
    let all = ProbeComponents {
        components: vec![
            component("app", true, 0),
            component("db", false, 40),
            component("cache", false, 30),
            component("mq", false, 0),
        ],
        minimum_score: 70,
    };
    let expected = Probes {
        endpoints: vec![
            probe("liveness", ProbeKind::Liveness, "/livez", Basis::App(kept)),
            probe("startup", ProbeKind::Startup, "/startupz", one("app")),
            probe("readiness", ProbeKind::Readiness, "/readyz", Basis::Checks(all)),
            Probe { statuses: deep, ..probe("deep", ProbeKind::Group, "/deepz", one("search")) },
            Probe {
                fails_at_once: true,
                ..probe("lb", ProbeKind::Group, "/lbz", Basis::Checks(ProbeComponents::default()))
            },
        ],
        grpc_services: vec![String::new(), "shop.Reviews".into()],
        drain: Some(Drain {
            path: Some("/drainz".into()),
            from: vec!["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()],
            also_when: policy.upstreams.iter().position(|known| known.name == "envoy").map(UpstreamId),
            readiness_after: Duration::from_secs(10),
        }),
        status: Some(StatusPage { path: "/statusz".into(), from: vec!["127.0.0.1/32".parse().unwrap()] }),
        details: Details::OnFailure,
        stale_after: Some(Duration::from_secs(30)),
        marker_headers: true,
        matches: Matches::default(),
    };
    assert_eq!(policy.probes, expected);
}

#[test]
fn a_drain_switch_accepts_loopback_by_default() {
    let from = |fields: &str| probes(&format!(r#""drain":{{"path":"/d"{fields}}}"#)).drain.unwrap().from;
    let parsed =
        |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<ipnet::IpNet>>();
    assert_eq!(from(""), parsed(&["127.0.0.0/8", "::1/128"]));
    assert_eq!(from(r#","from":["10.0.0.1","fd00::/8"]"#), parsed(&["10.0.0.1/32", "fd00::/8"]));
}

#[test]
fn a_drain_may_follow_an_upstream_and_needs_no_switch_then() {
    let checked = |drain: &str| {
        let upstreams = r#""upstreams":{"app":{"cluster":"app"},"envoy":{"cluster":"admin","readinessProbe":{"httpGet":{}}}}"#;
        format!(r#"{{"name":"p",{upstreams},"probes":{{"drain":{{{drain}}}}}}}"#)
    };
    let drain = compile(&checked(r#""alsoWhen":{"upstream":"envoy"}"#)).probes.drain.unwrap();
    assert_eq!((drain.path, drain.also_when), (None, Some(UpstreamId(1))));
    assert_eq!(drain.readiness_after, Duration::ZERO);
    let policy = compile(&checked(r#""path":"/d","alsoWhen":{"upstream":"envoy"}"#));
    assert_eq!((policy.probes.count(), policy.probes.drain_path()), (1, Some("/d")));
    assert_refused(&[
        (checked(""), ".drain: incomplete; add one of path, alsoWhen"),
        (checked(r#""readinessAfter":"1s""#), ".drain: incomplete; add one of path, alsoWhen"),
        (
            checked(r#""alsoWhen":{"upstream":"envoy"},"from":["10.0.0.1"]"#),
            ".drain.from: has no effect alone; add path",
        ),
        (checked(r#""alsoWhen":{}"#), ".drain.alsoWhen.upstream: missing; add the name of an upstream"),
        (
            checked(r#""alsoWhen":{"upstream":"envoi"}"#),
            r#".drain.alsoWhen.upstream: "envoi" is not an upstream; did you mean "envoy"?"#,
        ),
        (
            checked(r#""alsoWhen":{"upstream":"app"}"#),
            r#".drain.alsoWhen.upstream: "app" has no readinessProbe, so nothing tells that it drains. Add one to the upstream, such as {httpGet: {path: /ready}}."#,
        ),
    ]);
    // An upstream that cannot be read is one problem.
    let document = r#"{"name":"p","upstreams":{"envoy":{"cluster":""}},"probes":{"drain":{"alsoWhen":{"upstream":"envoy"}}}}"#;
    assert_eq!(problems(document).len(), 1);
}

#[test]
fn a_drain_names_the_groups_that_fail_at_once() {
    let of = |drain: &str| {
        let groups = r#""groups":{"lb":{"path":"/lbz"},"deep":{"path":"/deepz"}}"#;
        document(&format!(r#"{groups},"drain":{{"path":"/d",{drain}}}"#))
    };
    let at_once = |drain: &str| -> Vec<bool> {
        compile(&of(drain)).probes.endpoints.iter().map(|probe| probe.fails_at_once).collect()
    };
    assert_eq!(at_once(r#""groups":["lb"],"readinessAfter":"1h""#), [true, false]);
    assert_eq!(at_once(r#""groups":[]"#), [false, false]);
    assert_eq!(at_once(r#""readinessAfter":"500ms""#), [false, false]);
    assert_refused(&[
        (of(r#""groups":["lbs"]"#), r#".drain.groups[0]: "lbs" is not a group; allowed: lb, deep"#),
        (
            of(r#""groups":["lb","deeep"]"#),
            r#".drain.groups[1]: "deeep" is not a group; did you mean "deep"?"#,
        ),
        (
            of(r#""groups":["readiness"]"#),
            r#".drain.groups[0]: "readiness" is not a group; allowed: lb, deep"#,
        ),
        (
            document(r#""drain":{"path":"/d","groups":["lb"]}"#),
            r#".drain.groups[0]: "lb" is not a group; add it to probes.groups, which is empty"#,
        ),
        (
            of(r#""readinessAfter":"61m""#),
            r#".drain.readinessAfter: "61m" is not allowed; allowed: a duration such as "300ms", "1.5s" or "1h30m", from 0s to 1h"#,
        ),
    ]);
    // A bad name is not offered, as its characters could do harm in a log.
    let bad =
        r#""groups":{"\u0000":{"path":"/x"},"deep":{"path":"/y"}},"drain":{"path":"/d","groups":["lb"]}"#;
    let found = problems(&document(bad));
    assert!(
        found.contains(&r#"probes.drain.groups[0]: "lb" is not a group; allowed: deep"#.to_owned()),
        "{found:?}"
    );
}

#[test]
fn a_drain_switch_alone_needs_a_tick() {
    assert_eq!(compile(&document(r#""drain":{"path":"/d"}"#)).tick(), Some(Duration::from_millis(250)));
}

#[test]
fn a_status_page_accepts_loopback_by_default_and_needs_no_tick() {
    let page = compile(&document(r#""status":{"path":"/s"}"#));
    let parsed = |text: &str| text.parse::<ipnet::IpNet>().unwrap();
    assert_eq!(page.probes.status.as_ref().unwrap().from, [parsed("127.0.0.0/8"), parsed("::1/128")]);
    assert_eq!((page.tick(), page.probes.count(), page.probes.is_empty()), (None, 1, false));
    assert_eq!(compile(&document(r#""liveness":{"path":"/l"}"#)).probes.status, None);
}

#[test]
fn a_group_may_have_the_name_of_the_status_page_if_there_is_none() {
    let group = r#""groups":{"status":{"path":"/d"}}"#;
    assert_compiles(&[document(group)]);
    let both = document(&format!(r#"{group},"status":{{"path":"/s"}}"#));
    assert_refused(&[(both, ".groups.status: the name of another probe; choose a name of its own")]);
}

#[test]
fn a_check_with_a_weight_is_not_required_by_default() {
    let required = |fields: &str| {
        let fields = format!(
            r#""readiness":{{"path":"/r","minimumScore":1,"checks":[{{"upstream":"db","weight":1}},{{"upstream":"app"{fields}}}]}}"#
        );
        probes(&fields).endpoints[0].checks().unwrap().components[1].required
    };
    assert!(required(""));
    assert!(!required(r#","required":false"#));
    assert!(!required(r#","weight":2"#));
    assert!(required(r#","weight":2,"required":true"#));
}

#[test]
fn a_passed_through_response_keeps_its_content_type_by_default() {
    let basis = |fields: &str| {
        probes(&format!(r#""liveness":{{"path":"/l","passThrough":{{{fields}}}}}"#)).endpoints.remove(0).basis
    };
    let two = Duration::from_secs(2);
    assert_eq!(
        basis(r#""cacheSeconds":2"#),
        Basis::App(PassThrough {
            cache: two,
            headers: vec!["content-type".into()],
            host: None,
            upstream: None
        })
    );
    assert_eq!(
        basis(r#""cacheSeconds":2,"headers":["X-A"],"host":"shop.local","upstream":"db""#),
        Basis::App(PassThrough {
            cache: two,
            headers: vec!["x-a".into()],
            host: Some("shop.local".into()),
            upstream: Some(UpstreamId(1))
        })
    );
}

#[test]
fn groups_are_probes_with_names_that_the_user_chose() {
    let probes = probes(
        r#""groups":{"deep":{"path":"/deepz","checks":[{"upstream":"db"}],"statuses":{"failed":500}}}"#,
    );
    let deep = &probes.endpoints[0];
    assert_eq!((deep.name.as_str(), deep.kind, deep.statuses.failed), ("deep", ProbeKind::Group, 500));
    assert_refused(&[
        (
            document(r#""groups":{"drain":{"path":"/d"}}"#),
            ".groups.drain: the name of another probe; choose a name of its own",
        ),
        (
            document(r#""groups":{"a b":{"path":"/d"}}"#),
            r#".groups["a b"]: a bad name; allowed: 1 to 63 letters, digits, "-", "_" and ".", with a letter or digit at both ends"#,
        ),
    ]);
}

#[test]
fn ranges_include_both_ends() {
    assert_compiles(&[
        document(r#""staleAfterSeconds":0.1"#),
        document(r#""staleAfterSeconds":86400"#),
        document(r#""liveness":{"path":"/l","statuses":{"passed":200,"degraded":200,"failed":400}}"#),
        document(r#""liveness":{"path":"/l","statuses":{"passed":399,"degraded":399,"failed":599}}"#),
        document(r#""liveness":{"path":"/l","passThrough":{"cacheSeconds":0.1}}"#),
        document(r#""liveness":{"path":"/l","passThrough":{"cacheSeconds":3600}}"#),
        readiness(r#""minimumScore":1,"checks":[{"upstream":"app","weight":1}]"#),
        readiness(
            r#""minimumScore":1000001,"checks":[{"upstream":"app","weight":1000000},{"upstream":"db","weight":1}]"#,
        ),
    ]);
}

#[test]
fn paths_are_exact_and_unique() {
    assert_refused(&[
        (
            document(r#""liveness":{"path":"/z"},"readiness":{"path":"/z"}"#),
            r#": liveness and readiness share the path "/z"; give each a path of its own"#,
        ),
        (
            document(r#""liveness":{"path":"/z"},"drain":{"path":"/z"}"#),
            r#": liveness and drain share the path "/z"; give each a path of its own"#,
        ),
        (
            document(r#""status":{"path":"/z"},"drain":{"path":"/z"}"#),
            r#": drain and status share the path "/z"; give each a path of its own"#,
        ),
        (
            document(r#""liveness":{"path":"livez"}"#),
            r##".liveness.path: "livez" is not allowed; allowed: a path that starts with "/", in visible ASCII, with no "?" or "#""##,
        ),
        (
            document(r#""liveness":{"path":"/*"}"#),
            r#".liveness.path: "/*" has a "*", but a probe has one exact path. Write it without "*"."#,
        ),
        (
            document(r#""liveness":{"path":"/grpc.health.v1.Health/Check"}"#),
            r#".liveness.path: "/grpc.health.v1.Health/Check" belongs to gRPC; use any path but those under /grpc.health.v1.Health/"#,
        ),
        (
            document(r#""liveness":{}"#),
            ".liveness.path: missing; add a path that starts with \"/\", in visible ASCII, with no \"?\" or \"#\"",
        ),
    ]);
}

#[test]
fn an_empty_match_condition_is_refused() {
    assert_refused(&[(
        document(r#""liveness":{"path":"/l"},"match":[{}]"#),
        ".match[0]: incomplete; add one of uri, scheme, method, authority, headers, withoutHeaders, queryParams, hosts, cookies, baggage, sourceIpBlocks",
    )]);
}

#[test]
fn liveness_has_no_checks() {
    let problem = "liveness depends on nothing outside the proxy; put checks under readiness";
    assert_refused(&[
        (document(r#""liveness":{"path":"/z","checks":[]}"#), &format!(".liveness.checks: {problem}")),
        (
            document(r#""liveness":{"path":"/z","minimumScore":1}"#),
            &format!(".liveness.minimumScore: {problem}"),
        ),
    ]);
}

#[test]
fn an_unreachable_minimum_score_is_refused() {
    let one = r#""checks":[{"upstream":"app","weight":40}]"#;
    assert_refused(&[
        (readiness(one), ".readiness.minimumScore: missing; add a whole number from 1 to 4294967295"),
        (
            readiness(&format!(r#"{one},"minimumScore":41"#)),
            ".readiness.minimumScore: 41 is not allowed; allowed: a whole number from 1 to 40, the sum of all weights",
        ),
        (
            readiness(r#""minimumScore":1,"checks":[{"upstream":"app"}]"#),
            ".readiness.minimumScore: no check has a weight, so there is no score. Add a weight, or remove it.",
        ),
        (
            readiness(r#""checks":[{"upstream":"app"},{"upstream":"app"}]"#),
            ".readiness.checks[1]: a second check of the same upstream; keep one",
        ),
        (
            readiness(r#""checks":[{"upstream":"mq"}]"#),
            r#".readiness.checks[0].upstream: "mq" is not an upstream; allowed: app, db"#,
        ),
    ]);
}

#[test]
fn pass_through_excludes_checks_and_statuses() {
    let through = r#""passThrough":{"cacheSeconds":2}"#;
    assert_refused(&[
        (
            readiness(&format!(r#"{through},"checks":[{{"upstream":"app"}}]"#)),
            ".readiness.passThrough: the app's response decides; remove it, or checks",
        ),
        (
            readiness(&format!(r#"{through},"statuses":{{"failed":500}}"#)),
            ".readiness.passThrough: the app's response decides; remove it, or statuses",
        ),
        (
            document(&format!(r#""startup":{{"path":"/s",{through}}}"#)),
            ".startup.passThrough: not supported for this probe; use it under liveness or readiness",
        ),
        (
            document(&format!(r#""readiness":{{"path":"/r",{through}}},"grpc":{{"services":[""]}}"#)),
            ".grpc: readiness passes through, so there is no state to answer gRPC from. Remove grpc, or give readiness checks.",
        ),
        (
            readiness(r#""passThrough":{}"#),
            ".readiness.passThrough.cacheSeconds: missing; add a number of seconds from 0.1 to 3600",
        ),
        (
            readiness(r#""passThrough":{"cacheSeconds":2,"upstream":"mq"}"#),
            r#".readiness.passThrough.upstream: "mq" is not an upstream; allowed: app, db"#,
        ),
        (
            readiness(r#""passThrough":{"cacheSeconds":2,"headers":["Set-Cookie"]}"#),
            r#".readiness.passThrough.headers[0]: "set-cookie" belongs to one response, so it cannot be cached; use any header but age, set-cookie and x-envoy-*"#,
        ),
        (
            readiness(r#""passThrough":{"cacheSeconds":2,"headers":["Content-Length"]}"#),
            r#".readiness.passThrough.headers[0]: "content-length" belongs to the proxy; use any header but host, content-length, transfer-encoding, connection, upgrade, te, trailer, keep-alive"#,
        ),
    ]);
}

#[test]
fn empty_lists_and_invalid_items_are_refused() {
    assert_refused(&[
        (document(r#""grpc":{"services":[]}"#), r#".grpc.services: empty; add at least one entry"#),
        (document(r#""grpc":{}"#), r#".grpc.services: missing; add a list"#),
        (document(r#""drain":{"path":"/d","from":[]}"#), ".drain.from: empty; add at least one entry"),
        (document(r#""status":{"path":"/s","from":[]}"#), ".status.from: empty; add at least one entry"),
        (
            document(r#""status":{"path":"/s","form":["::1"]}"#),
            r#".status.form: unknown field; did you mean "from"?"#,
        ),
        (
            document(r#""status":{}"#),
            r##".status.path: missing; add a path that starts with "/", in visible ASCII, with no "?" or "#""##,
        ),
        (
            document(r#""drain":{"path":"/d","from":["10.0.0.0/33"]}"#),
            r#".drain.from[0]: "10.0.0.0/33" is not allowed; allowed: an address or a network, such as 10.0.0.1, 10.0.0.0/8 or ::1/128"#,
        ),
        (
            document(r#""details":"onfailure""#),
            r#".details: "onfailure" is not allowed; allowed: never, onFailure, always; did you mean "onFailure"?"#,
        ),
    ]);
}
