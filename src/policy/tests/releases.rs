//! Tests of `releases`.

use super::*;
use crate::policy::release::rollback::{Latency, Rollback};
use crate::policy::release::version::HeaderEdits;
use crate::value::date::Date;
use crate::weights::layout::Layout;

mod cookie;
mod rollback;
mod schedule;

const HASH_ON: &str = r#""hashOn":[{"httpHeaderName":"x-user"}]"#;
const TWO: &str = r#""versions":[{"name":"v1","upstream":"a","weight":90,"default":true},{"name":"v2","upstream":"b","weight":10}]"#;

/// 2026-12-01T10:00:00Z.
const TEN: Date = Date::from_millis(1796119200000);

/// Returns a document with a release of two versions and these fields.
fn with(fields: &str) -> String {
    with_release(&format!("{STEER},{TWO},{fields}"))
}

/// Returns a document with a release of two versions, this `steer` and these fields.
fn steered(steer: &str, fields: &str) -> String {
    with_release(&format!(r#""steer":{steer},{TWO}{fields}"#))
}

/// Returns two versions, each with further fields of its own.
fn both(v1: &str, v2: &str) -> String {
    format!(
        r#"{{"name":"v1","upstream":"a","weight":90,"default":true{v1}}},{{"name":"v2","upstream":"b","weight":10{v2}}}"#
    )
}

/// Returns a document with a release of [`both`] that has no keys.
fn with_both(v1: &str, v2: &str) -> String {
    with_versions(&both(v1, v2))
}

fn with_cookie(fields: &str) -> String {
    with(&format!(r#""hashOn":[{{"httpCookie":{{{fields}}}}}]"#))
}

fn with_steps(steps: &str) -> String {
    with(&format!(r#""schedule":[{steps}]"#))
}

/// Returns a step at [`TEN`] with these weights and fields.
fn step(weights: &str, fields: &str) -> String {
    format!(r#"{{"at":"2026-12-01T10:00:00Z","weights":{{{weights}}}{fields}}}"#)
}

fn with_rollback(fields: &str) -> String {
    with(&format!(r#""rollback":{{{fields}}}"#))
}

fn with_headers(headers: &str) -> String {
    with_both("", &format!(r#","headers":{headers}"#))
}

/// Asserts that each document has exactly this problem. The path in it begins below the release.
fn assert_problem_of_release(rows: &[(String, &str)]) {
    for (document, problem) in rows {
        assert_eq!(problems(document), [format!("releases[0].{problem}")], "{document}");
    }
}

mod steer {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn steer_is_one_of_four_kinds() {
        for (steer, expected) in [
            (r#"{"header":"X-V"}"#, Steer::Header("x-v".into())),
            (r#"{"clusterHeader":"X-C"}"#, Steer::ClusterHeader("x-c".into())),
            (r#"{"randomValueHeader":"X-R"}"#, Steer::RandomValueHeader("x-r".into())),
            (r#"{"filterState":"envoy.string"}"#, Steer::FilterState("envoy.string".into())),
        ] {
            assert_eq!(compile(&steered(steer, "")).releases[0].steer, expected);
        }
    }

    #[test]
    fn steer_of_no_kind_or_of_two_kinds_is_refused() {
        assert_problem_of_release(&[
            (
                steered("{}", ""),
                "steer: incomplete; add one of header, clusterHeader, randomValueHeader, filterState, baggage",
            ),
            (
                steered(r#"{"header":"x-a","filterState":"envoy.string"}"#, ""),
                "steer: has header and filterState; keep one of them",
            ),
            (
                steered(r#""x-v""#, ""),
                r#"steer: "x-v" is not allowed; allowed: an object such as {header: x-gray-version}"#,
            ),
        ]);
    }

    #[test]
    fn steering_by_an_unusable_header_is_refused() {
        let own = "belongs to the proxy; use any header but host, content-length, transfer-encoding, connection, upgrade, te, trailer, keep-alive";
        assert_problem_of_release(&[
            (steered(r#"{"clusterHeader":"Host"}"#, ""), &format!(r#"steer.clusterHeader: "host" {own}"#)),
            (
                steered(r#"{"randomValueHeader":"a b"}"#, ""),
                r#"steer.randomValueHeader: "a b" is not allowed; allowed: the name of a header: letters, digits and any of !#$%&'*+-.^_`|~"#,
            ),
            (
                steered(r#"{"clusterHeader":7}"#, ""),
                "steer.clusterHeader: 7 is not a string. Write it in quotes: \"7\"",
            ),
            (
                steered(r#"{"randomValueHeader":"x-r"}"#, r#","hashOn":[{"httpHeaderName":"X-R"}]"#),
                r#"steer: "x-r" carries something else; use a header that carries nothing else, such as x-gray-version"#,
            ),
        ]);
    }

    #[test]
    fn steering_by_baggage_writes_one_member_and_neither_the_key_nor_all_of_it() {
        let policy = compile(&steered(r#"{"baggage":"Lane"}"#, r#","hashOn":[{"baggage":"lane"}]"#));
        let release = &policy.releases[0];
        assert_eq!((release.steer.member(), release.steer.header()), (Some("Lane"), None));
        assert_eq!(policy.untrusted_members, ["Lane"]);
        assert!(policy.steers_by_baggage && policy.untrusted_headers.is_empty());
        let trusting = compile(&steered(r#"{"baggage":"lane"}"#, r#","trustIncoming":true"#));
        assert!(trusting.untrusted_members.is_empty() && trusting.steers_by_baggage);
        let token = "the key of a member of baggage: letters, digits and any of !#$%&'*+-.^_`|~";
        let bad_key = format!(r#"steer.baggage: "a b" is not allowed; allowed: {token}"#);
        let other = "use a header that carries nothing else, such as x-gray-version";
        let whole = format!(r#"steer: "baggage" carries something else; {other}"#);
        assert_problem_of_release(&[
            (steered(r#"{"baggage":"a b"}"#, ""), &bad_key),
            (steered(r#"{"header":"Baggage"}"#, ""), &whole),
            (steered(r#"{"baggage":"lane"}"#, r#","hashOn":[{"httpHeaderName":"baggage"}]"#), &whole),
            (
                steered(
                    r#"{"baggage":"lane"}"#,
                    r#","hashOn":[{"all":[{"baggage":"lane"},{"usePath":true}]}]"#,
                ),
                r#"steer: "lane" holds the key of hashOn; use another member"#,
            ),
        ]);
    }

    #[test]
    fn steering_by_a_header_that_a_version_edits_is_refused() {
        for edits in [r#"{"set":{"X-V":"1"}}"#, r#"{"add":{"x-v":"1"}}"#, r#"{"remove":["x-v"]}"#] {
            assert_problem(&[(
                with_headers(&format!(r#"{{"request":{edits}}}"#)),
                "releases[0]: headers of v2 edit \"x-v\", by which r steers; use any other header",
            )]);
            compile(&with_headers(&format!(r#"{{"response":{edits}}}"#)));
        }
    }

    #[test]
    fn steering_by_a_header_that_a_version_of_another_release_edits_is_refused() {
        let release = |name: &str, steer: &str, v2: &str| {
            format!(
                r#"{{"name":"{name}","steer":{{{steer}}},"versions":[{}]}}"#,
                both("", &format!(r#","headers":{{"request":{v2}}}"#))
            )
        };
        let releases = |first: String, second: String| {
            format!(
                r#"{{"name":"p","upstreams":{{"a":{{"cluster":"a"}},"b":{{"cluster":"b"}}}},"releases":[{first},{second}]}}"#
            )
        };
        let header = r#""header":"x-v""#;
        for steer in [r#""header":"x-w""#, r#""clusterHeader":"X-W""#, r#""randomValueHeader":"x-w""#] {
            let steering = || release("steering", steer, "{}");
            for edits in [r#"{"set":{"X-W":"1"}}"#, r#"{"add":{"x-w":"1"}}"#, r#"{"remove":["x-w"]}"#] {
                let editing = || release("editing", header, edits);
                let problem = "headers of v2 edit \"x-w\", by which steering steers; use any other header";
                assert_problem(&[
                    (releases(editing(), steering()), &format!("releases[0]: {problem}")),
                    (releases(steering(), editing()), &format!("releases[1]: {problem}")),
                ]);
            }
            compile(&releases(release("editing", header, r#"{"set":{"x-u":"1"}}"#), steering()));
        }
    }

    #[test]
    fn filter_state_allows_one_object_and_no_incoming_version() {
        assert_problem_of_release(&[
            (
                steered(r#"{"filterState":"my.key"}"#, ""),
                r#"steer.filterState: "my.key" is not allowed; allowed: envoy.string"#,
            ),
            (
                steered(r#"{"filterState":"envoy.string"}"#, r#","trustIncoming":true"#),
                "trustIncoming: no header carries the version. Use false, or steer by a header.",
            ),
        ]);
        compile(&steered(r#"{"filterState":"envoy.string"}"#, r#","trustIncoming":false"#));
    }

    #[test]
    fn incoming_cluster_headers_cannot_be_trusted_if_versions_share_a_cluster() {
        let shared = |trust: bool| {
            with_release(&format!(
                r#""steer":{{"clusterHeader":"x-c"}},"trustIncoming":{trust},"versions":[
                {{"name":"v1","upstream":"a","weight":1,"default":true}},{{"name":"v2","upstream":"a","weight":1}}]"#
            ))
        };
        compile(&shared(false));
        assert_problem_of_release(&[(
            shared(true),
            "trustIncoming: two versions have the same cluster, so the header does not tell which is meant. Use false, or a cluster for each.",
        )]);
    }
}

mod random_value_header {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const RANDOM: &str = r#"{"randomValueHeader":"x-r"}"#;

    #[test]
    fn only_a_random_value_header_may_omit_versions() {
        let policy = compile(&with_release(&format!(r#""steer":{RANDOM}"#)));
        assert!(policy.releases[0].versions.is_empty());
        for steer in
            [STEER, r#""steer":{"clusterHeader":"x-c"}"#, r#""steer":{"filterState":"envoy.string"}"#]
        {
            assert_problem_of_release(&[(
                with_release(steer),
                "versions: missing; add a list such as [{name: v1, upstream: reviews-v1, weight: 90}]",
            )]);
        }
    }

    #[test]
    fn a_random_value_header_excludes_settings_that_change_weights() {
        let message = "has no effect: the route's weights decide, and the filter cannot change them. Remove it, or steer by header, clusterHeader, filterState or baggage.";
        for (key, value) in [
            ("startsAt", r#""2026-12-01T10:00:00Z""#),
            ("schedule", &format!("[{}]", step(r#""v1":1,"v2":1"#, ""))),
            ("rollback", r#"{"failurePercent":5}"#),
        ] {
            assert_problem_of_release(&[(
                steered(RANDOM, &format!(r#","{key}":{value}"#)),
                &format!("{key}: {message}"),
            )]);
        }
        assert_problem_of_release(&[(
            with_release(&format!(r#""steer":{RANDOM},"schedule":[{}]"#, step(r#""v1":1"#, ""))),
            &format!("schedule: {message}"),
        )]);
    }

    #[test]
    fn an_incoming_random_value_header_cannot_be_trusted() {
        assert_problem_of_release(&[(
            steered(RANDOM, r#","trustIncoming":true"#),
            "trustIncoming: the number in the header does not name a version. Use false, or steer by header or clusterHeader.",
        )]);
    }

    #[test]
    fn a_random_value_header_cannot_reach_a_version_of_weight_0() {
        let unweighted = |v1: &str, v2: &str| {
            with_release(&format!(
                r#""steer":{RANDOM},{HASH_ON},"versions":[{{"name":"v1","upstream":"a","weight":1{v1}}},
                {{"name":"v2","upstream":"b","weight":0{v2}}}]"#
            ))
        };
        let default = r#","default":true"#;
        assert_compiles(&[unweighted(default, ""), unweighted(default, r#","deny":["alice"]"#)]);
        for (v1, v2) in [
            (default, r#","allow":["alice"]"#),
            (default, r#","match":[{"headers":{"x-tester":{}}}]"#),
            ("", default),
            (r#","deny":["alice"]"#, default),
        ] {
            assert_problem_of_release(&[(
                unweighted(v1, v2),
                "versions: no number leads to a version of weight 0, so it cannot be the default, nor have match or allow. Use a weight above 0.",
            )]);
        }
    }

    #[test]
    fn a_random_value_header_without_versions_allows_no_response_header() {
        compile(&steered(RANDOM, r#","responseHeader":"x-served""#));
        assert_problem_of_release(&[(
            with_release(&format!(r#""steer":{RANDOM},"responseHeader":"x-served""#)),
            "responseHeader: without versions, the filter does not know which one the route picks. Add the versions that the route has.",
        )]);
    }

    #[test]
    fn invalid_versions_cause_no_further_problem_with_a_random_value_header() {
        assert_problem_of_release(&[(
            with_release(&format!(
                r#""steer":{RANDOM},"responseHeader":"x-served","versions":[{{"name":"v1","upstream":"a","weight":1}}]"#
            )),
            "versions: no version is the default; add default: true to one of them",
        )]);
    }
}

mod times {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn times_are_in_utc() {
        let start = |text: &str| compile(&with(&format!(r#""startsAt":"{text}""#))).releases[0].starts_at;
        assert_eq!(start("2026-12-01T10:00:00Z"), Some(TEN));
        assert_eq!(start("2026-12-01T10:00:00.000Z"), Some(TEN));
        assert_eq!(start("1970-01-01T00:00:00Z"), Some(Date::from_millis(0)));
        assert_eq!(start("9999-12-31T23:59:59Z"), Some(Date::from_millis(253_402_300_799_000)));
    }

    #[test]
    fn the_time_of_a_step_has_millisecond_precision() {
        let step = r#"{"at":"2026-12-01T10:00:00.5Z","weights":{"v1":70,"v2":30}}"#;
        let policy = compile(&with_steps(step));
        let shares =
            |after: u64| policy.releases[0].schedule.at(TEN + Duration::from_millis(after)).shares(2);
        assert_eq!([shares(499), shares(500)], [[9_000, 1_000], [7_000, 3_000]]);
    }

    #[test]
    fn starts_at_is_a_whole_second() {
        for time in ["2026-12-01T10:00:00.5Z", "2026-12-01T10:00:00.001Z", "2026-12-01T09:59:59.999Z"] {
            assert_problem_of_release(&[(
                with(&format!(r#""startsAt":"{time}""#)),
                &format!(r#"startsAt: "{time}" is not allowed; allowed: a whole second"#),
            )]);
        }
    }

    #[test]
    fn an_invalid_time_is_refused_in_every_field() {
        let allowed = "allowed: a time in UTC as RFC 3339 has it, such as 2026-12-01T10:00:00Z";
        for time in [
            r#""2026-12-01T10:00:00+01:00""#,
            r#""2026-12-01T10:00:00""#,
            r#""2026-12-01 10:00:00Z""#,
            r#""2026-12-01""#,
            r#""2026-13-01T10:00:00Z""#,
            r#""2026-02-29T10:00:00Z""#,
            r#""2026-12-01T24:00:00Z""#,
            r#""1969-12-31T23:59:59Z""#,
            r#""é026-12-01T10:00:00Z""#,
            r#""now""#,
            r#""""#,
            "1796119200",
            "1796119200.5",
        ] {
            let step = format!(r#"{{"at":{time},"weights":{{"v1":1,"v2":1}}}}"#);
            assert_problem_of_release(&[
                (
                    with(&format!(r#""startsAt":{time}"#)),
                    &format!("startsAt: {time} is not allowed; {allowed}"),
                ),
                (with_steps(&step), &format!("schedule[0].at: {time} is not allowed; {allowed}")),
            ]);
        }
    }
}

mod allow_and_deny {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    /// Returns a document with a release of [`both`] that has a key.
    fn with_lists(v1: &str, v2: &str) -> String {
        with_release(&format!(r#"{STEER},{HASH_ON},"versions":[{}]"#, both(v1, v2)))
    }

    #[test]
    fn keys_in_allow_and_deny_are_kept_as_written() {
        let policy = compile(&with_lists("", r#","allow":["Bob","alice","alice"],"deny":["用户-42"]"#));
        let version = &policy.releases[0].versions[1];
        assert!(version.allow.iter().eq(["Bob", "alice"]) && version.deny.iter().eq(["用户-42"]));
    }

    #[test]
    fn allow_and_deny_hold_at_most_10_000_strings() {
        let many = |count: u32| {
            let keys: Vec<_> = (0..count).map(|n| format!(r#""{n}""#)).collect();
            with_lists("", &format!(r#","allow":[{}]"#, keys.join(",")))
        };
        compile(&many(10_000));
        assert_problem_of_release(&[
            (
                many(10_001),
                "versions[1].allow: 10001 entries; allowed: at most 10000. List fewer, or cover several by one.",
            ),
            (
                with_lists("", r#","allow":"alice""#),
                r#"versions[1].allow: "alice" is not a list. Write it in brackets: ["alice"]"#,
            ),
            (
                with_lists("", r#","deny":[7]"#),
                "versions[1].deny[0]: 7 is not a string. Write it in quotes: \"7\"",
            ),
            (
                with_lists("", r#","allow":[""]"#),
                r#"versions[1].allow[0]: "" is not allowed; allowed: a string, not empty"#,
            ),
        ]);
    }

    #[test]
    fn allow_and_deny_must_not_contradict_each_other() {
        assert_problem_of_release(&[
            (
                with_lists("", r#","allow":["a","b"],"deny":["b"]"#),
                r#"versions[1]: both allow and deny have the key "b"; keep it in one of them"#,
            ),
            (
                with_lists(r#","allow":["a"]"#, r#","allow":["a"]"#),
                r#"versions[1]: allow has the key "a", as has v1; keep it in one of them"#,
            ),
            (
                with_lists(r#","deny":["a"]"#, ""),
                "versions[0]: deny has no effect on the default version, which denied keys get. Move it to another version.",
            ),
        ]);
        compile(&with_lists(r#","allow":["a"]"#, r#","deny":["a"]"#));
    }

    #[test]
    fn allow_and_deny_need_hash_on() {
        let problem = "versions: allow and deny list keys, but no request has one. Add hashOn.";
        let keyed = |keys: &str| {
            with_release(&format!(
                r#"{STEER},"hashOn":{keys},"versions":[{}]"#,
                both("", r#","allow":["alice"]"#)
            ))
        };
        assert_problem_of_release(&[
            (with_both("", r#","allow":["alice"]"#), problem),
            (with_both("", r#","deny":["alice"]"#), problem),
            (with_both(r#","allow":["bob"]"#, r#","deny":["alice"]"#), problem),
            (keyed("[]"), problem),
            (keyed("7"), "hashOn: 7 is not allowed; allowed: a list such as [{httpHeaderName: x-user-id}]"),
            (
                keyed(r#"[{"httpCookie":{"name":"a b"}}]"#),
                r#"hashOn[0].httpCookie.name: "a b" is not allowed; allowed: the name of a cookie: letters, digits and any of !#$%&'*+-.^_`|~"#,
            ),
        ]);
        compile(&with_both(r#","allow":[]"#, r#","allow":[],"deny":[]"#));
    }
}

mod header_edits {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn header_edits_are_those_of_a_virtual_service() {
        let policy = compile(&with_headers(
            r#"{"request":{"set":{"X-A":"b"},"add":{"x-c":""},"remove":["X-E"]},"response":{"remove":["Server"]}}"#,
        ));
        let version = &policy.releases[0].versions[1];
        let request = HeaderEdits {
            set: vec![("x-a".into(), "b".into())],
            add: vec![("x-c".into(), String::new())],
            remove: vec!["x-e".into()],
        };
        assert_eq!(version.request, request);
        assert_eq!(version.response, HeaderEdits { remove: vec!["server".into()], ..HeaderEdits::default() });
        assert_eq!(policy.releases[0].versions[0].request, HeaderEdits::default());
    }

    #[test]
    fn impossible_header_edits_are_refused() {
        let name =
            "is not allowed; allowed: the name of a header: letters, digits and any of !#$%&'*+-.^_`|~";
        let own = "belongs to the proxy; use any header but host, content-length, transfer-encoding, connection, upgrade, te, trailer, keep-alive";
        for (headers, problem) in [
            ("[]", ": a list of 0 is not allowed; allowed: an object such as {request: {set: {x-canary: \"true\"}}}".into()),
            (r#"{"requests":{}}"#, r#".requests: unknown field; did you mean "request"?"#.into()),
            (r#"{"request":{"sett":{}}}"#, r#".request.sett: unknown field; did you mean "set"?"#.into()),
            (
                r#"{"request":{"set":[]}}"#,
                ".request.set: a list of 0 is not allowed; allowed: an object".into(),
            ),
            (r#"{"request":{"set":{"Host":"a"}}}"#, format!(r#".request.set.Host: "host" {own}"#)),
            (r#"{"request":{"add":{":path":"/"}}}"#, format!(r#".request.add[":path"]: ":path" {name}"#)),
            (r#"{"response":{"remove":["TE"]}}"#, format!(r#".response.remove[0]: "te" {own}"#)),
            (r#"{"response":{"remove":[":status"]}}"#, format!(r#".response.remove[0]: ":status" {name}"#)),
            (
                r#"{"response":{"remove":{"a":1}}}"#,
                ".response.remove: an object of 1 field is not allowed; allowed: a list".into(),
            ),
            (
                r#"{"response":{"set":{"a":7}}}"#,
                ".response.set.a: 7 is not a string. Write it in quotes: \"7\"".into(),
            ),
            (
                r#"{"response":{"set":{"a":"b\nc"}}}"#,
                r#".response.set.a: "b\nc" is not allowed; allowed: a string: at most 4096 bytes, no control characters"#.into(),
            ),
            (
                r#"{"response":{"add":{"a":"1","A":"2"}}}"#,
                r#".response.add.A: the header "a" a second time, as case is ignored; keep one"#.into(),
            ),
        ] {
            assert_problem_of_release(&[(with_headers(headers), &format!("versions[1].headers{problem}"))]);
        }
    }

    #[test]
    fn one_message_has_at_most_50_header_edits() {
        let remove = |count: u32| {
            let names: Vec<_> = (0..count).map(|n| format!(r#""x-{n}""#)).collect();
            with_headers(&format!(r#"{{"request":{{"set":{{"a":"1"}},"remove":[{}]}}}}"#, names.join(",")))
        };
        compile(&remove(49));
        assert_problem_of_release(&[(
            remove(50),
            "versions[1].headers.request: 51 headers; allowed: at most 50",
        )]);
    }
}

mod whole_release {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn skip_needs_at_least_one_condition() {
        assert!(!compile(&with(r#""skip":[{"uri":{"prefix":"/static"}}]"#)).releases[0].skip.is_empty());
        assert_problem_of_release(&[
            (
                with(r#""skip":[{}]"#),
                "skip[0]: incomplete; add one of uri, scheme, method, authority, headers, withoutHeaders, queryParams, hosts, cookies, baggage, sourceIpBlocks",
            ),
            (
                with(r#""skip":{}"#),
                "skip: an object of 0 fields is not allowed; allowed: a list such as [{uri: {prefix: /api}}]",
            ),
            (with(r#""skip":[{"uri":{}}]"#), "skip[0].uri: incomplete; add one of exact, prefix, regex"),
        ]);
    }

    #[test]
    fn the_response_header_must_be_one_that_the_filter_may_write() {
        let policy = compile(&with(r#""responseHeader":"X-Served""#));
        assert_eq!(policy.releases[0].response_header.as_deref(), Some("x-served"));
        assert_problem_of_release(&[
            (
                with(r#""responseHeader":"""#),
                r#"responseHeader: "" is not allowed; allowed: the name of a header: letters, digits and any of !#$%&'*+-.^_`|~, except host, content-length, transfer-encoding, connection, upgrade, te, trailer, keep-alive"#,
            ),
            (
                with(r#""responseHeader":true"#),
                "responseHeader: true is not a string. Write it in quotes: \"true\"",
            ),
            (
                with(r#""responseHeader":"Set-Cookie""#),
                r#"responseHeader: "set-cookie" carries something else; use a header that carries nothing else"#,
            ),
            (
                with(r#""responseHeader":"a b""#),
                r#"responseHeader: "a b" is not allowed; allowed: the name of a header: letters, digits and any of !#$%&'*+-.^_`|~"#,
            ),
            (
                with(r#""responseHeader":"Connection""#),
                r#"responseHeader: "connection" belongs to the proxy; use any header but host, content-length, transfer-encoding, connection, upgrade, te, trailer, keep-alive"#,
            ),
        ]);
    }

    #[test]
    fn a_misspelt_key_of_a_release_gets_the_right_one_suggested() {
        for (slip, key) in [("startAt", "startsAt"), ("shedule", "schedule"), ("rolback", "rollback")] {
            assert_problem_of_release(&[(
                with(&format!(r#""{slip}":1"#)),
                &format!("{slip}: unknown field; did you mean {key:?}?"),
            )]);
        }
    }

    #[test]
    fn a_release_that_changes_over_time_needs_a_tick() {
        let tick = |document: String| compile(&document).tick();
        let quarter = Some(Duration::from_millis(250));
        assert_eq!(tick(with(r#""startsAt":"2026-12-01T10:00:00Z""#)), quarter);
        assert_eq!(tick(with_steps(&step(r#""v1":1,"v2":1"#, ""))), quarter);
        assert_eq!(tick(with_rollback(r#""failurePercent":5"#)), quarter);
        assert_eq!(tick(with_cookie(r#""name":"id","ttl":"1h""#)), None);
    }

    #[test]
    fn all_problems_of_a_release_are_reported_at_once() {
        let found = problems(&with_release(
            r#""steer":{"filterState":"x"},"skip":[{}],"startsAt":1,"responseHeader":"te",
            "hashOn":[{"httpCookie":{"name":"id","secure":true}}],
            "versions":[{"name":"v1","upstream":"a","weight":1,"default":true,"deny":[1],"headers":{"request":1}}],
            "schedule":[{"at":1,"weights":{"v1":-1}},{"weights":{"v9":1}}],"rollback":{"window":"0s"}"#,
        ));
        let paths: Vec<_> = found.iter().map(|problem| problem.split(": ").next().unwrap()).collect();
        let expected = [
            "steer.filterState",
            "skip[0]",
            "startsAt",
            "responseHeader",
            "hashOn[0].httpCookie.secure",
            "versions[0].deny[0]",
            "versions[0].headers.request",
            "schedule[0].at",
            "schedule[0].weights.v1",
            "schedule[1].at",
            "schedule[1].weights.v9",
            "rollback",
            "rollback.window",
        ];
        assert_eq!(paths, expected.map(|path| format!("releases[0].{path}")));
    }
}

mod keys {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn keys_of_several_sources_are_read() {
        let keys = |list: &str| compile(&with(&format!(r#""hashOn":[{list}]"#))).releases[0].keys.clone();
        let header = |name: &str| Key::Header(name.into());
        let all = r#"{"all":[{"httpHeaderName":"X-Tenant"},{"httpCookie":{"name":"user"}}]},{"httpHeaderName":"x-user"}"#;
        let cookie = Key::Cookie(Cookie { name: "user".into(), issue: None });
        assert_eq!(keys(all), [Key::All(vec![header("x-tenant"), cookie]), header("x-user")]);
        assert_eq!(keys(r#"{"all":[{"httpHeaderName":"x-user"}]}"#), [header("x-user")]);
        assert_eq!(
            keys(r#"{"httpHeaderName":"Host"},{"httpHeaderName":":authority"}"#),
            [Key::Host, Key::Host]
        );
        assert_eq!(keys(r#"{"usePath":true},{"httpHeaderName":":path"}"#), [Key::Path, header(":path")]);
    }

    #[test]
    fn a_key_that_cannot_be_read_is_told_what_is_allowed() {
        for (key, problem) in [
            (
                r#"{"httpHeaderName":":method"}"#,
                "[0].httpHeaderName: all users share its few values; use a header that differs between users, host or :path",
            ),
            (
                r#"{"usePath":false}"#,
                "[0].usePath: false is not allowed; allowed: true, or leave the key out",
            ),
            (r#"{"all":[]}"#, "[0].all: empty; add at least one entry"),
            (
                r#"{"all":[{"all":[{"usePath":true},{"useSourceIp":true}]}]}"#,
                "[0].all[0]: all inside all; write one list of all parts",
            ),
            (
                r#"{"all":[{"usePath":true},{"httpCookie":{"name":"id","ttl":"1h"}}]}"#,
                "[0].all[1]: an issued cookie identifies its user alone. Remove ttl, or move the cookie out of all.",
            ),
        ] {
            assert_problem_of_release(&[(
                with(&format!(r#""hashOn":[{key}]"#)),
                &format!("hashOn{problem}"),
            )]);
        }
        let header = steered(
            r#"{"header":"x-user"}"#,
            r#","hashOn":[{"all":[{"httpHeaderName":"x-user"},{"usePath":true}]}]"#,
        );
        assert_problem_of_release(&[(
            header,
            r#"steer: "x-user" carries something else; use a header that carries nothing else, such as x-gray-version"#,
        )]);
    }
}
