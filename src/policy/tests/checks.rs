//! Tests of `readinessProbe`.

use super::*;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// Returns the check of the only upstream.
fn check(document: &str) -> Check {
    compile(document).upstreams.remove(0).check.unwrap()
}

fn with_grpc(fields: &str) -> String {
    with_upstream(&format!(r#""readinessProbe":{{"grpc":{{{fields}}}}}"#))
}

#[test]
fn a_check_has_the_defaults_of_a_pods_probe() {
    let mut expected = Check::every(Duration::from_secs(10));
    if let CheckCall::Http(get) = &mut expected.call {
        get.authority = "app:8080".into();
    }
    assert_eq!(check(&with_upstream(r#""readinessProbe":{"httpGet":{"port":8080}}"#)), expected);
}

#[test]
fn whole_numbers_may_be_floats_and_seconds_may_be_fractions() {
    let check = check(&with_check(r#""periodSeconds":0.5,"failureThreshold":2.0"#));
    assert_eq!((check.periods.ready, check.failure_threshold), (Duration::from_millis(500), 2));
}

#[test]
fn other_periods_default_to_period_seconds() {
    let periods = |fields: &str| check(&with_check(fields)).periods;
    let ms = Duration::from_millis;
    let one = periods(r#""periodSeconds":4"#);
    assert_eq!([one.not_ready, one.edge, one.idle], [ms(4_000); 3]);
    let all = periods(
        r#""periodSeconds":4,"notReadyPeriodSeconds":1,"edgePeriodSeconds":0.5,"idlePeriodSeconds":60"#,
    );
    assert_eq!([all.not_ready, all.edge, all.idle], [ms(1_000), ms(500), ms(60_000)]);
    assert_eq!((all.shortest(), all.longest()), (ms(500), ms(60_000)));
}

#[test]
fn result_ages_depend_on_the_longest_period_with_jitter_and_the_timeout() {
    let fields = r#""periodSeconds":2,"idlePeriodSeconds":5,"timeoutSeconds":1,"jitterPercent":20"#;
    let check = check(&with_check(fields));
    assert_eq!(check.max_result_age(), Duration::from_millis(7_250));
    assert_eq!(check.stale_after(), Duration::from_secs(19));
}

#[test]
fn a_host_header_replaces_the_host_of_requests_unless_it_is_empty() {
    let check = check(&with_get(
        r#""host":"ours","port":80,"httpHeaders":[{"name":"Host","value":"shop.local"},{"name":"A","value":""}]"#,
    ));
    let get = check.get();
    assert_eq!((get.authority.as_str(), get.host_header()), ("ours:80", "shop.local"));
    assert_eq!(get.headers, [("a".to_owned(), String::new())]);
    let check = self::check(&with_get(r#""port":80,"httpHeaders":[{"name":"Host","value":""}]"#));
    assert_eq!((check.get().host_header(), check.get().headers.len()), ("app:80", 0));
}

#[test]
fn the_default_host_is_the_upstreams_name_as_any_server_takes_it() {
    for (name, host) in [
        ("app", "app"),
        ("reviews_v1", "reviews-v1"),
        ("App.v1", "App.v1"),
        ("a_._b", "a.b"),
        ("a-.b", "a.b"),
        ("1..2", "1.2"),
    ] {
        let probe = |call: &str| {
            check(&format!(
                r#"{{"name":"p","upstreams":{{"{name}":{{"cluster":"c","readinessProbe":{{{call}}}}}}}}}"#
            ))
        };
        assert_eq!(probe(r#""httpGet":{}"#).get().host_header(), host);
        let expected = GrpcHealth { authority: host.into(), service: String::new() };
        assert_eq!(probe(r#""grpc":{}"#).call, CheckCall::Grpc(expected));
    }
}

#[test]
fn a_path_needs_no_leading_slash_and_its_fragment_is_dropped() {
    for (given, path) in [
        ("/x#part", "/x"),
        ("/x?y=1#part", "/x?y=1"),
        ("healthz", "/healthz"),
        ("?x=1", "/?x=1"),
        ("#part", "/"),
        ("", "/"),
    ] {
        assert_eq!(check(&with_get(&format!(r#""path":"{given}""#))).get().path, path);
    }
    assert_problem(&[(
        with_get(r#""path":"/a b""#),
        r#"upstreams.app.readinessProbe.httpGet.path: "/a b" is not allowed; allowed: a path in visible ASCII"#,
    )]);
}

#[test]
fn an_ipv6_address_gets_brackets_in_the_authority() {
    for (host, authority) in [("::1", "[::1]:80"), ("[::1]", "[::1]:80"), ("10.0.0.1", "10.0.0.1:80")] {
        let check = check(&with_get(&format!(r#""host":"{host}","port":80"#)));
        assert_eq!(check.get().authority, authority);
    }
}

#[test]
fn the_scheme_is_written_as_in_a_pod_and_only_safe_methods_are_allowed() {
    let check = check(&with_get(r#""scheme":"HTTPS","method":"HEAD""#));
    assert_eq!((check.get().scheme, check.get().method), ("https", "HEAD"));
    assert_problem(&[(
        with_get(r#""method":"POST""#),
        r#"upstreams.app.readinessProbe.httpGet.method: "POST" is not allowed; allowed: GET, HEAD, OPTIONS"#,
    )]);
}

#[test]
fn expected_statuses_are_numbers_or_ranges_that_exclude_their_end() {
    let check = check(&with_check(r#""expectedStatuses":[204,{"start":200,"end":203}]"#));
    assert_eq!(check.get().expected, Some(vec![204..=204, 200..=202]));
    let at = "upstreams.app.readinessProbe.expectedStatuses";
    for (statuses, problem) in [
        ("[]", ": empty; add at least one entry"),
        (
            "[99]",
            "[0]: 99 is not allowed; allowed: a whole number from 100 to 599, or an object such as {start: 200, end: 300}",
        ),
        (
            r#"["2xx"]"#,
            r#"[0]: "2xx" is not allowed; allowed: a whole number from 100 to 599, or an object such as {start: 200, end: 300}"#,
        ),
        (r#"[{"start":300,"end":300}]"#, "[0]: invalid status range: start (300) must be below end (300)"),
        (r#"[{"start":300}]"#, "[0].end: missing; add a whole number from 101 to 600"),
    ] {
        let document = with_check(&format!(r#""expectedStatuses":{statuses}"#));
        assert_eq!(problems(&document), [format!("{at}{problem}")]);
    }
}

#[test]
fn a_grpc_check_calls_for_a_service_and_defaults_to_the_whole_server() {
    let call = |document: &str| check(document).call;
    let expected = |authority: &str, service: &str| {
        CheckCall::Grpc(GrpcHealth { authority: authority.into(), service: service.into() })
    };
    assert_eq!(call(&with_grpc("")), expected("app", ""));
    assert_eq!(
        call(&with_grpc(r#""port":50051,"service":"shop.Reviews""#)),
        expected("app:50051", "shop.Reviews")
    );
}

#[test]
fn settings_that_a_filter_cannot_implement_are_refused() {
    let with_probe = |fields: &str| with_upstream(&format!(r#""readinessProbe":{{{fields}}}"#));
    assert_problem(&[
        (
            with_get(r#""port":"http""#),
            r#"upstreams.app.readinessProbe.httpGet.port: "http" is not allowed; allowed: a number from 1 to 65535, as a filter does not know a Pod's port names"#,
        ),
        (
            with_probe(r#""tcpSocket":{"port":80}"#),
            "upstreams.app.readinessProbe.tcpSocket: not supported: a filter cannot open a socket; use httpGet or grpc",
        ),
        (
            with_probe(r#""exec":{"command":["true"]}"#),
            "upstreams.app.readinessProbe.exec: not supported: a filter cannot start a process; use httpGet or grpc",
        ),
        (
            with_probe(r#""httpGet":{},"grpc":{}"#),
            "upstreams.app.readinessProbe: has httpGet and grpc; keep one of them",
        ),
        (
            with_probe(r#""grpc":{},"expectedStatuses":[200]"#),
            "upstreams.app.readinessProbe.expectedStatuses: a gRPC response has no such status; remove it, or use httpGet",
        ),
        (with_probe(""), "upstreams.app.readinessProbe: incomplete; add one of httpGet, grpc"),
        (
            with_probe(r#""htpGet":{},"periodSeconds":5"#),
            r#"upstreams.app.readinessProbe.htpGet: unknown field; did you mean "httpGet"?"#,
        ),
        (
            with_probe(r#""path":"/healthz""#),
            "upstreams.app.readinessProbe.path: unknown field; move it into httpGet",
        ),
        (
            with_check(r#""periodSeconds":"5""#),
            r#"upstreams.app.readinessProbe.periodSeconds: "5" is a string. Write it without quotes: 5"#,
        ),
        (
            with_check(r#""jitterPercent":101"#),
            "upstreams.app.readinessProbe.jitterPercent: 101 is not allowed; allowed: a whole number from 0 to 100",
        ),
    ]);
}
