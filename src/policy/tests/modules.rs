//! Tests of which module a policy needs, for each key of the table.

use super::*;
use crate::policy::module::{FULL_KEYS, ModuleKind};

/// The start of a policy of two upstreams that the module of requests serves.
const START: &str = r#""name":"shop","upstreams":{"app":{"cluster":"app"},"spare":{"cluster":"spare"}}"#;

/// For each key of the table, a part of a policy that has the key, and the same without it. Both follow [`START`].
const CASES: [(&str, &str, &str); 10] = [
    (
        "upstreams.NAME.circuitBreaker",
        r#""gates":[{"upstream":"judged"}],"upstreams":{"judged":{"cluster":"a","circuitBreaker":{}}}"#,
        r#""gates":[{"upstream":"judged"}],"upstreams":{"judged":{"cluster":"a"}}"#,
    ),
    (
        "probes.NAME.passThrough",
        r#""probes":{"readiness":{"path":"/r","passThrough":{"cacheSeconds":1}}}"#,
        r#""probes":{"readiness":{"path":"/r"}}"#,
    ),
    (
        "probes.grpc",
        r#""probes":{"readiness":{"path":"/r"},"grpc":{"services":[""]}}"#,
        r#""probes":{"readiness":{"path":"/r"}}"#,
    ),
    (
        "releases[].hashOn[].httpCookie.ttl",
        r#""releases":[{"name":"r","steer":{"header":"x-v"},"hashOn":[{"httpHeaderName":"x-u"},{"httpCookie":{"name":"u","ttl":"1h"}}],
            "versions":[{"name":"v1","upstream":"app","weight":1,"default":true}]}]"#,
        r#""releases":[{"name":"r","steer":{"header":"x-v"},"hashOn":[{"httpHeaderName":"x-u"},{"httpCookie":{"name":"u"}}],
            "versions":[{"name":"v1","upstream":"app","weight":1,"default":true}]}]"#,
    ),
    (
        "releases[].responseHeader",
        r#""releases":[{"name":"r","steer":{"header":"x-v"},"responseHeader":"x-version",
            "versions":[{"name":"v1","upstream":"app","weight":1,"default":true}]}]"#,
        r#""releases":[{"name":"r","steer":{"header":"x-v"},
            "versions":[{"name":"v1","upstream":"app","weight":1,"default":true}]}]"#,
    ),
    (
        "releases[].versions[].headers.response",
        r#""releases":[{"name":"r","steer":{"header":"x-v"},"versions":[{"name":"v1","upstream":"app","weight":1,
            "default":true,"headers":{"request":{"set":{"x-a":"1"}},"response":{"set":{"x-a":"1"}}}}]}]"#,
        r#""releases":[{"name":"r","steer":{"header":"x-v"},"versions":[{"name":"v1","upstream":"app","weight":1,
            "default":true,"headers":{"request":{"set":{"x-a":"1"}}}}]}]"#,
    ),
    (
        "releases[].rollback",
        r#""releases":[{"name":"r","steer":{"header":"x-v"},"rollback":{"failurePercent":5},"versions":[
            {"name":"v1","upstream":"app","weight":9,"default":true},{"name":"v2","upstream":"spare","weight":1}]}]"#,
        r#""releases":[{"name":"r","steer":{"header":"x-v"},"versions":[
            {"name":"v1","upstream":"app","weight":9,"default":true},{"name":"v2","upstream":"spare","weight":1}]}]"#,
    ),
    (
        "gates[].fallback.upstream",
        r#""gates":[{"upstream":"app","fallback":{"upstream":"spare","clusterHeader":"x-c"}}]"#,
        r#""gates":[{"upstream":"app","fallback":{"answer":{"status":200}}}]"#,
    ),
    (
        "gates[].whenAllNotReady",
        r#""gates":[{"upstream":"app","whenAllNotReady":"forward"}]"#,
        r#""gates":[{"upstream":"app","whenAllNotReady":"reply"}]"#,
    ),
    (
        "maxGatedPercent",
        r#""gates":[{"upstream":"app"},{"upstream":"spare"}],"maxGatedPercent":50"#,
        r#""gates":[{"upstream":"app"},{"upstream":"spare"}],"maxGatedPercent":100"#,
    ),
];

/// Returns the policy of a case. A part with upstreams of its own replaces those of the start.
fn policy(part: &str) -> Policy {
    let start = if part.contains("\"upstreams\"") { r#""name":"shop""# } else { START };
    compile(&format!("{{{start},{part}}}"))
}

/// Returns the path as the table has it.
fn pattern(path: &str) -> String {
    let is_named = path.starts_with("upstreams.") || path.ends_with(".passThrough");
    let step = |(index, step): (usize, &str)| match step.split_once('[') {
        Some((list, _)) => format!("{list}[]"),
        None if index == 1 && is_named => "NAME".to_owned(),
        None => step.to_owned(),
    };
    path.split('.').enumerate().map(step).collect::<Vec<_>>().join(".")
}

#[test]
fn each_key_of_the_table_needs_the_full_module_and_the_same_policy_without_it_does_not() {
    let keys: Vec<&str> = FULL_KEYS.iter().map(|key| key.path).collect();
    let cases: Vec<&str> = CASES.iter().map(|(key, ..)| *key).collect();
    assert_eq!(cases, keys);
    for (key, with, without) in CASES {
        let needy = policy(with);
        let missing: Vec<String> =
            ModuleKind::Requests.missing(&needy).iter().map(|path| pattern(path)).collect();
        assert_eq!(missing, [key]);
        assert_eq!(
            (ModuleKind::of(&needy), ModuleKind::Full.missing(&needy)),
            (ModuleKind::Full, Vec::new())
        );
        let modest = policy(without);
        assert_eq!(ModuleKind::Requests.missing(&modest), Vec::<String>::new(), "{key}");
        assert_eq!(ModuleKind::of(&modest), ModuleKind::Requests);
    }
}

#[test]
fn each_key_that_a_full_policy_misses_is_in_the_table() {
    let missing = ModuleKind::Requests.missing(&compile(FULL));
    for path in &missing {
        assert!(FULL_KEYS.iter().any(|key| key.path == pattern(path)), "{path}");
    }
    // Of each object in the table, the paths name the place.
    assert!(missing.contains(&"upstreams.app.circuitBreaker".to_owned()), "{missing:?}");
}
