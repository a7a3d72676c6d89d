//! Tests of `rollback`.

use super::*;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

#[test]
fn a_rollback_has_defaults_for_all_but_its_criteria() {
    let policy = compile(&with_rollback(r#""failurePercent":5"#));
    let rollback = policy.releases[0].rollback.as_ref().unwrap();
    assert_eq!((rollback.failure_percent, rollback.latency), (Some(5), None));
    assert_eq!((rollback.check_failure_percent, rollback.minimum_requests), (None, 50));
    assert_eq!(rollback.fail_on, [FailOn::ServerError]);
    assert_eq!((rollback.window, rollback.over), (Duration::from_secs(60), Duration::ZERO));
}

#[test]
fn a_rollback_has_the_documents_values() {
    let policy = compile(&with_rollback(
        r#""latency":{"percentile":99,"above":"300ms"},"failOn":["reset"],"minimumRequests":9,"window":"1h","over":"24h""#,
    ));
    let rollback = policy.releases[0].rollback.as_ref().unwrap();
    let latency = Latency { percentile: 99, above: Duration::from_millis(300) };
    assert_eq!((rollback.failure_percent, rollback.latency), (None, Some(latency)));
    assert_eq!((&rollback.fail_on[..], rollback.minimum_requests), (&[FailOn::Reset][..], 9));
    assert_eq!(rollback.window, Duration::from_secs(3_600));
    assert_eq!(rollback.over, Duration::from_secs(86_400));
}

#[test]
fn a_rollback_needs_at_least_one_criterion() {
    let nothing = "rollback: incomplete; add one of failurePercent, latency, checks, or judge: false";
    assert_problem_of_release(&[
        (with_rollback(""), nothing),
        (with_rollback(r#""failOn":["5xx"],"window":"60s""#), nothing),
        (with_rollback(r#""judge":true"#), nothing),
        (with_rollback(r#""judge":null"#), nothing),
        (
            with_rollback(r#""latency":{"percentile":99}"#),
            r#"rollback.latency.above: missing; add a duration such as "300ms", "1.5s" or "1h30m", from 1ms to 1h"#,
        ),
        (
            with_rollback(r#""checks":{}"#),
            "rollback.checks.failurePercent: missing; add a whole number from 1 to 99",
        ),
    ]);
}

#[test]
fn a_rollback_that_does_not_judge_needs_no_criterion_and_keeps_those_it_has() {
    let alone = compile(&with_rollback(r#""judge":false"#));
    let rollback = alone.releases[0].rollback.as_ref().unwrap();
    assert!(!rollback.judges && alone.releases[0].judging_rollback().is_none());
    assert_eq!((rollback.failure_percent, rollback.latency), (None, None));
    let full = r#""failurePercent":5,"latency":{"above":"1s"},"minimumRequests":9"#;
    let judging = compile(&with_rollback(full));
    let counting = compile(&with_rollback(&format!(r#""judge":false,{full}"#)));
    let of = |policy: &Policy| policy.releases[0].rollback.clone().unwrap();
    assert_eq!(of(&counting), Rollback { judges: false, ..of(&judging) });
    let latency = Latency { percentile: 99, above: Duration::from_secs(1) };
    assert_eq!(of(&judging).latency, Some(latency));
    assert_eq!(counting.tick(), judging.tick());
    assert!(judging.releases[0].changes() && !counting.releases[0].changes());
}

#[test]
fn values_out_of_range_are_refused() {
    let percent = "is not allowed; allowed: a whole number from 1 to";
    let seconds = r#"is not allowed; allowed: a duration such as "300ms", "1.5s" or "1h30m", from"#;
    for (field, problem) in [
        (r#""failurePercent":0"#, format!("failurePercent: 0 {percent} 99")),
        (r#""failurePercent":100"#, format!("failurePercent: 100 {percent} 99")),
        (r#""failurePercent":2.5"#, format!("failurePercent: 2.5 {percent} 99")),
        (r#""checks":{"failurePercent":0}"#, format!("checks.failurePercent: 0 {percent} 99")),
        (r#""checks":{"failurePercent":100}"#, format!("checks.failurePercent: 100 {percent} 99")),
        (
            r#""latency":"300ms""#,
            r#"latency: "300ms" is not allowed; allowed: an object such as {percentile: 99, above: 300ms}"#
                .into(),
        ),
        (r#""latency":{"percentile":99.9,"above":"1s"}"#, format!("latency.percentile: 99.9 {percent} 99")),
        (r#""latency":{"percentile":100,"above":"1s"}"#, format!("latency.percentile: 100 {percent} 99")),
        (
            r#""latency":{"percentile":99,"above":"0s"}"#,
            format!(r#"latency.above: "0s" {seconds} 1ms to 1h"#),
        ),
        (
            r#""latency":{"percentile":99,"above":300}"#,
            r#"latency.above: 300 has no unit. Write "300s" for seconds."#.into(),
        ),
        (r#""failurePercent":5,"minimumRequests":0"#, format!("minimumRequests: 0 {percent} 1000000")),
        (r#""failurePercent":5,"window":"999ms""#, format!(r#"window: "999ms" {seconds} 1s to 1h"#)),
        (r#""failurePercent":5,"window":"61m""#, format!(r#"window: "61m" {seconds} 1s to 1h"#)),
        (
            r#""failurePercent":5,"judge":"no""#,
            r#"judge: "no" is not allowed; allowed: true or false"#.into(),
        ),
        (r#""failurePercent":5,"failOn":[]"#, "failOn: empty; add at least one entry".into()),
        (r#""failurePercent":5,"over":"25h""#, format!(r#"over: "25h" {seconds} 0s to 24h"#)),
        (r#""failurePercent":5,"windw":"1s""#, r#"windw: unknown field; did you mean "window"?"#.into()),
    ] {
        assert_problem_of_release(&[(with_rollback(field), &format!("rollback.{problem}"))]);
    }
    assert_compiles(&[with_rollback(r#""failurePercent":1"#), with_rollback(r#""failurePercent":99"#)]);
}

#[test]
fn a_rollback_by_checks_needs_checks_for_the_upstream_of_each_version() {
    let checked = |upstreams: &str| {
        format!(
            r#"{{"name":"p","upstreams":{{{upstreams}}},"releases":[{{"name":"r",{STEER},{TWO},"rollback":{{"checks":{{"failurePercent":50}}}}}}]}}"#
        )
    };
    let probe = r#""readinessProbe":{"httpGet":{}}"#;
    let both = format!(r#""a":{{"cluster":"a",{probe}}},"b":{{"cluster":"b",{probe}}}"#);
    compile(&checked(&both));
    let problem = |upstream: &str, version: &str| {
        format!(
            "rollback.checks: upstream {upstream:?} of {version} has no checks; add a readinessProbe to it"
        )
    };
    assert_problem_of_release(&[
        (checked(&format!(r#""a":{{"cluster":"a",{probe}}},"b":{{"cluster":"b"}}"#)), &problem("b", "v2")),
        (checked(&format!(r#""a":{{"cluster":"a"}},"b":{{"cluster":"b",{probe}}}"#)), &problem("a", "v1")),
    ]);
    let neither = checked(r#""a":{"cluster":"a"},"b":{"cluster":"b"}"#);
    let both = [problem("a", "v1"), problem("b", "v2")];
    assert_eq!(problems(&neither), both.map(|problem| format!("releases[0].{problem}")));
}
