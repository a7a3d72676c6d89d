use std::borrow::Cow;

use super::*;
use crate::policy::problem::ProblemLog;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// A request by its headers.
struct HeaderList(Vec<(&'static str, &'static [u8])>);

impl Request for HeaderList {
    fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        self.0.iter().find(|(key, _)| *key == name).map(|(_, value)| Cow::Borrowed(*value))
    }
}

fn matches(text: &str) -> Matches {
    let node: Node = serde_json::from_str(text).unwrap();
    let log = ProblemLog::default();
    let matches = Matches::read(&Value::root(&node, &log, keys::MATCHES));
    log.finish(matches).unwrap()
}

/// Returns whether a GET of `path` with these headers meets the conditions.
fn holds(conditions: &str, path: &'static str, headers: &[(&'static str, &'static [u8])]) -> bool {
    let mut all: Vec<(&str, &[u8])> = vec![
        (":path", path.as_bytes()),
        (":method", b"GET"),
        (":scheme", b"http"),
        (":authority", b"shop:80"),
    ];
    all.extend(headers);
    matches(conditions).hold(&mut Headers::new(&HeaderList(all), &[]))
}

#[test]
fn an_empty_list_holds_for_every_request_and_any_finds_nothing_in_it() {
    assert!(holds("[]", "/", &[]));
    assert!(!matches("[]").any(&mut Headers::new(&HeaderList(Vec::new()), &[])));
}

#[test]
fn entries_are_alternatives_and_all_conditions_of_an_entry_must_hold() {
    let either = r#"[{"uri":{"exact":"/a"},"headers":{"x":{"exact":"1"}}},{"uri":{"exact":"/b"}}]"#;
    assert!(holds(either, "/a", &[("x", b"1")]));
    assert!(!holds(either, "/a", &[("x", b"2")]));
    assert!(holds(either, "/b", &[]));
    assert!(!holds(either, "/c", &[("x", b"1")]));
}

#[test]
fn a_uri_condition_ignores_the_query() {
    assert!(holds(r#"[{"uri":{"exact":"/a"}}]"#, "/a?b=c", &[]));
    assert!(!holds(r#"[{"uri":{"exact":"/a"}}]"#, "/a/", &[]));
    assert!(holds(r#"[{"uri":{"prefix":"/a"}}]"#, "/abc", &[]));
    assert!(!holds(r#"[{"uri":{"prefix":"/a?b"}}]"#, "/a?b=c", &[]));
    assert!(!holds(r#"[{"uri":{"prefix":"/abc"}}]"#, "/ab", &[]));
}

#[test]
fn ignore_uri_case_applies_only_to_the_uri() {
    let any_case = r#"[{"uri":{"prefix":"/API"},"ignoreUriCase":true,"headers":{"x":{"exact":"A"}}}]"#;
    assert!(holds(any_case, "/api/v1", &[("x", b"A")]));
    assert!(!holds(any_case, "/api/v1", &[("x", b"a")]));
    assert!(!holds(r#"[{"uri":{"prefix":"/API"}}]"#, "/api", &[]));
}

#[test]
fn method_scheme_and_authority_can_be_matched() {
    assert!(holds(r#"[{"method":{"exact":"GET"},"scheme":{"exact":"http"}}]"#, "/", &[]));
    assert!(!holds(r#"[{"method":{"exact":"get"}}]"#, "/", &[]));
    assert!(!holds(r#"[{"scheme":{"exact":"https"}}]"#, "/", &[]));
    assert!(holds(r#"[{"authority":{"exact":"shop:80"}}]"#, "/", &[]));
    assert!(holds(r#"[{"authority":{"prefix":"shop"}}]"#, "/", &[]));
    assert!(!holds(r#"[{"authority":{"exact":"sho"}}]"#, "/", &[]));
    assert!(holds(r#"[{"authority":{"regex":"*"},"method":{"regex":"*"}}]"#, "/", &[]));
}

/// Returns whether a request with this authority meets the conditions.
fn holds_for(conditions: &str, authority: &'static str) -> bool {
    let headers = vec![(":path", &b"/"[..]), (":authority", authority.as_bytes())];
    matches(conditions).hold(&mut Headers::new(&HeaderList(headers), &[]))
}

#[test]
fn a_host_is_compared_without_case_and_its_port_counts_only_if_the_condition_names_one() {
    for (condition, authority, expected) in [
        (r#"{"exact":"reviews.example.com"}"#, "REVIEWS.example.com", true),
        (r#"{"exact":"Reviews.example.com"}"#, "reviews.example.com:8443", true),
        (r#"{"exact":"reviews.example.com."}"#, "reviews.example.com", true),
        (r#"{"exact":"reviews.example.com"}"#, "reviews.example.com.:80", true),
        (r#"{"exact":"reviews.example.com"}"#, "reviews.example.org", false),
        (r#"{"exact":"shop:80"}"#, "SHOP:80", true),
        (r#"{"exact":"shop:80"}"#, "shop:8080", false),
        (r#"{"exact":"shop:80"}"#, "shop", false),
        (r#"{"exact":"[::1]"}"#, "[::1]:80", true),
        (r#"{"exact":"[::1]:80"}"#, "[::1]", false),
        (r#"{"prefix":"Reviews."}"#, "REVIEWS.example.com:80", true),
        (r#"{"prefix":"reviews."}"#, "review.example.com", false),
        (r#"{"regex":"Reviews\\.[a-z]+\\.com"}"#, "REVIEWS.example.com:80", true),
        (r#"{"regex":"shop(:80)?"}"#, "shop:80", true),
        (r#"{"regex":"shop:80"}"#, "shop:8080", false),
    ] {
        for place in [
            format!(r#"[{{"authority":{condition}}}]"#),
            format!(r#"[{{"headers":{{"host":{condition}}}}}]"#),
            format!(r#"[{{"headers":{{"Host":{condition}}}}}]"#),
            format!(r#"[{{"headers":{{":authority":{condition}}}}}]"#),
        ] {
            assert_eq!(holds_for(&place, authority), expected, "{place} {authority}");
        }
        let without = format!(r#"[{{"withoutHeaders":{{"host":{condition}}}}}]"#);
        assert_eq!(holds_for(&without, authority), !expected, "{without} {authority}");
    }
}

#[test]
fn the_names_of_envoy_for_the_request_line_can_be_matched_as_headers() {
    let path =
        r#"[{"headers":{":path":{"exact":"/a?b=c"},":method":{"exact":"GET"},":scheme":{"prefix":"http"}}}]"#;
    assert!(holds(path, "/a?b=c", &[]));
    assert!(!holds(path, "/a", &[]));
}

#[test]
fn an_absent_header_counts_as_empty_in_without_headers() {
    for condition in [r#"{"regex":".*"}"#, r#"{"exact":""}"#] {
        let without = format!(r#"[{{"withoutHeaders":{{"x":{condition}}}}}]"#);
        assert!(!holds(&without, "/", &[]), "{condition}");
    }
    for condition in [r#"{"regex":".+"}"#, r#"{"exact":"1"}"#, r#"{"regex":"*"}"#, "{}", "null"] {
        let without = format!(r#"[{{"withoutHeaders":{{"x":{condition}}}}}]"#);
        assert!(holds(&without, "/", &[]), "{condition}");
        assert!(!holds(&without, "/", &[("x", b"1")]), "{condition}");
    }
}

#[test]
fn header_names_ignore_case_and_header_values_do_not() {
    assert!(holds(r#"[{"headers":{"X-Tester":{"exact":"Yes"}}}]"#, "/", &[("x-tester", b"Yes")]));
    assert!(!holds(r#"[{"headers":{"X-Tester":{"exact":"Yes"}}}]"#, "/", &[("x-tester", b"yes")]));
    assert!(!holds(r#"[{"headers":{"x-tester":{"exact":"Yes"}}}]"#, "/", &[]));
}

#[test]
fn an_empty_condition_matches_any_value() {
    for empty in ["{}", "null", r#"{"regex":"*"}"#] {
        let present = format!(r#"[{{"headers":{{"x":{empty}}}}}]"#);
        assert!(holds(&present, "/", &[("x", b"")]));
        assert!(holds(&present, "/", &[("x", b"1")]));
        assert!(!holds(&present, "/", &[]));
    }
}

#[test]
fn a_regex_must_match_the_whole_value_and_only_matches_utf_8() {
    let header = r#"[{"headers":{"x":{"regex":"v[0-9]+|canary"}}}]"#;
    for (value, matches) in [
        (&b"v12"[..], true),
        (b"canary", true),
        (b"v", false),
        (b"xv1", false),
        (b"v1x", false),
        (b"v1\xff", false),
    ] {
        assert_eq!(holds(header, "/", &[("x", value)]), matches, "{value:?}");
    }
    assert!(holds(r#"[{"uri":{"regex":"/users/[^/]+/orders"}}]"#, "/users/7/orders?x=1", &[]));
    assert!(!holds(r#"[{"uri":{"regex":"/users/[^/]+/orders"}}]"#, "/users/7/8/orders", &[]));
    assert!(holds(r#"[{"uri":{"regex":"(?i)/API.*"}}]"#, "/api/v1", &[]));
    assert!(holds(r#"[{"queryParams":{"a":{"regex":"1|2"}}}]"#, "/?a=2&a=3", &[]));
    let any = r#"[{"headers":{"x":{"regex":"a*"}}}]"#;
    assert!(holds(any, "/", &[("x", &[b'a'; 4_096])]));
    assert!(!holds(any, "/", &[("x", &[b'a'; 4_097])]));
    // As in Istio, `ignoreUriCase` does not apply to a regular expression.
    assert!(!holds(r#"[{"uri":{"regex":"/API"},"ignoreUriCase":true}]"#, "/api", &[]));
    assert!(!holds(r#"[{"withoutHeaders":{"x":{"regex":".*"}}}]"#, "/", &[("x", b"")]));
}

#[test]
fn a_value_that_is_too_long_for_a_regex_meets_no_entry_but_may_meet_it() {
    const LONG: &[u8] = &[b'a'; 5_000];
    let both = |conditions: &str, headers: &[(&'static str, &'static [u8])]| {
        let matches = matches(conditions);
        let list = || HeaderList(headers.to_vec());
        (matches.hold(&mut Headers::new(&list(), &[])), matches.may_hold(&mut Headers::new(&list(), &[])))
    };
    for conditions in [
        r#"[{"headers":{"x":{"regex":"a+"}}}]"#,
        r#"[{"withoutHeaders":{"x":{"regex":"b+"}}}]"#,
        r#"[{"headers":{"y":{"exact":"1"}}},{"headers":{"x":{"regex":"a+"}}}]"#,
    ] {
        assert_eq!(both(conditions, &[("x", LONG)]), (false, true), "{conditions}");
    }
    // The other conditions decide if they can.
    let two = r#"[{"headers":{"x":{"regex":"a+"},"y":{"exact":"1"}}}]"#;
    assert_eq!(both(two, &[("x", LONG), ("y", b"2")]), (false, false));
    assert_eq!(both(two, &[("x", LONG), ("y", b"1")]), (false, true));
    assert_eq!(both(r#"[{"headers":{"x":{"prefix":"a"}}}]"#, &[("x", LONG)]), (true, true));
    assert_eq!(both(r#"[{"authority":{"regex":"a+"}}]"#, &[(":authority", LONG)]), (false, true));
}

#[test]
fn the_longest_value_depends_on_the_size_of_the_regex() {
    for (regex, longest) in [
        ("/users/[^/]+/orders", 4_096),
        ("[0-9a-f-]{36}", 2_048),
        ("[a-z0-9-]{1,63}[.]example[.]com", 512),
        ("(a?){120}b", 512),
        ("(a?){1000}b", 64),
    ] {
        let node = format!(r#"[{{"headers":{{"x":{{"regex":"({regex})|c*"}}}}}}]"#);
        for (length, is_known) in [(longest, true), (longest + 1, false)] {
            let value = vec![b'c'; length];
            let value: &'static [u8] = Box::leak(value.into_boxed_slice());
            assert_eq!(holds(&node, "/", &[("x", value)]), is_known, "{regex}: {length} bytes");
        }
    }
}

#[test]
fn regexes_take_a_bounded_amount_of_work_for_one_request() {
    // Each takes as much work as one may.
    let regex = "(aaaaaaaaaaaaaaaaaaaaaaaaaaaaa)|b*";
    let entry = |name: &str| format!(r#"{{"headers":{{"x":{{"regex":"{regex}"}},"{name}":{{}}}}}}"#);
    let list = |count: usize, last: &str| {
        let absent = vec![entry("absent"); count].join(",");
        format!("[{absent},{last}]")
    };
    let headers: [(&str, &[u8]); 2] = [("x", &[b'b'; 4_096]), ("y", b"")];
    assert!(holds(&list(3, &entry("y")), "/", &headers));
    assert!(!holds(&list(40, &entry("y")), "/", &headers));
    // What is left undecided counts as met where that is the safe meaning.
    let undecided = matches(&list(40, &entry("y")));
    assert!(undecided.may_hold(&mut Headers::new(&HeaderList(headers.to_vec()), &[])));
    // Other conditions are decided as before.
    assert!(holds(&list(40, r#"{"headers":{"y":{}}}"#), "/", &headers));
}

#[test]
fn a_match_of_any_without_headers_condition_fails_the_entry() {
    let without = r#"[{"withoutHeaders":{"x":{"exact":"1"},"y":{}}}]"#;
    assert!(holds(without, "/", &[]));
    assert!(holds(without, "/", &[("x", b"2")]));
    assert!(!holds(without, "/", &[("x", b"1")]));
    assert!(!holds(without, "/", &[("x", b"2"), ("y", b"")]));
}

#[test]
fn all_query_parameter_conditions_must_hold() {
    let both = r#"[{"queryParams":{"a":{"exact":"1"},"B":{}}}]"#;
    assert!(holds(both, "/p?a=1&B", &[]));
    assert!(holds(both, "/p?B=x&a=1", &[]));
    assert!(!holds(both, "/p?a=1&b", &[]));
    assert!(!holds(both, "/p?a=11&B", &[]));
    assert!(!holds(both, "/p", &[]));
    assert!(!holds(both, "/p?a=2&a=1&B", &[]));
    assert!(holds(both, "/p?a=1&a=2&B", &[]));
    assert!(holds(r#"[{"queryParams":{"a":{"prefix":"1"}}}]"#, "/p?a=11", &[]));
    assert!(holds(r#"[{"queryParams":{"a":{"exact":""}}}]"#, "/p?a", &[]));
    assert!(!holds(r#"[{"queryParams":{"a":{"exact":""}}}]"#, "/p?a=1", &[]));
}

#[test]
fn values_are_compared_as_bytes() {
    assert!(!holds(r#"[{"headers":{"x":{"exact":"é"}}}]"#, "/", &[("x", b"\xe9")]));
    assert!(holds(r#"[{"headers":{"x":{"exact":"é"}}}]"#, "/", &[("x", b"\xc3\xa9")]));
    assert!(holds(r#"[{"headers":{"x":{"prefix":"é"}}}]"#, "/", &[("x", b"\xc3\xa9\xff")]));
    assert!(!holds(r#"[{"headers":{"x":{"prefix":"é"}}}]"#, "/", &[("x", b"\xc3")]));
    assert!(holds(r#"[{"headers":{"x":{}}}]"#, "/", &[("x", b"\xff\xfe\0")]));
}

#[test]
fn a_request_without_a_path_meets_no_path_condition() {
    for conditions in [r#"[{"uri":{"prefix":"/"}}]"#, r#"[{"queryParams":{"a":{}}}]"#] {
        assert!(!matches(conditions).hold(&mut Headers::new(&HeaderList(Vec::new()), &[])));
    }
}

#[test]
fn hosts_are_a_condition_on_the_authority() {
    let hosts = r#"[{"hosts":["reviews.shop","*.example.com"],"method":{"exact":"GET"}}]"#;
    for (authority, method, expected) in [
        (&b"reviews.shop"[..], &b"GET"[..], true),
        (b"REVIEWS.shop.svc:9080", b"GET", true),
        (b"www.example.com", b"GET", true),
        (b"www.example.com", b"PUT", false),
        (b"payments.shop", b"GET", false),
    ] {
        let request = HeaderList(vec![(":authority", authority), (":method", method)]);
        assert_eq!(matches(hosts).hold(&mut Headers::new(&request, &[])), expected, "{authority:?}");
    }
    let one = matches(r#"[{"hosts":["reviews"]}]"#);
    assert!(!one.hold(&mut Headers::new(&HeaderList(Vec::new()), &[])));
    assert!(!one.hold(&mut Headers::new(&HeaderList(vec![(":authority", b"\xff")]), &[])));
    let every = matches(r#"[{"hosts":["*"]}]"#);
    assert!(every.hold(&mut Headers::new(&HeaderList(Vec::new()), &[])));
}

#[test]
fn hosts_and_authority_must_both_hold() {
    let both = r#"[{"hosts":["*.example.com"],"authority":{"prefix":"a."}}]"#;
    assert!(holds_for(both, "a.example.com"));
    assert!(!holds_for(both, "b.example.com"));
    assert!(!holds_for(both, "a.example.org"));
}

#[test]
fn a_match_names_hosts_if_each_of_its_entries_does() {
    for (text, expected) in [
        ("[]", false),
        (r#"[{"uri":{"prefix":"/"}}]"#, false),
        (r#"[{"hosts":["a"]},{"uri":{"prefix":"/"}}]"#, false),
        (r#"[{"withoutHeaders":{"host":{"exact":"a"}}}]"#, false),
        (r#"[{"headers":{"host":{}}}]"#, false),
        (r#"[{"authority":{"regex":"*"}}]"#, false),
        (r#"[{"hosts":["a"]},{"uri":{"prefix":"/"},"headers":{"Host":{"prefix":"b"}}}]"#, true),
        (r#"[{"authority":{"exact":"a"}},{"headers":{":authority":{"regex":"b.*"}}}]"#, true),
        (r#"[{"hosts":["*"]}]"#, true),
    ] {
        assert_eq!(matches(text).name_hosts(), expected, "{text}");
    }
}
