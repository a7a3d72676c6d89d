//! Documents of several policies.

use super::*;
use crate::policy::set::{DocumentReading, PolicySet};

fn set(text: &str) -> Result<PolicySet, Vec<String>> {
    let document: Node = serde_json::from_str(text).unwrap();
    PolicySet::from_document(&document).map_err(|problems| problems.iter().map(ToString::to_string).collect())
}

fn problems_of(policies: &str) -> Vec<String> {
    set(&format!(r#"{{"policies":[{policies}]}}"#)).err().unwrap_or_default()
}

fn names(set: &PolicySet) -> Vec<&str> {
    set.policies.iter().map(|policy| policy.name.as_str()).collect()
}

#[test]
fn a_document_has_one_policy_or_a_list_of_them() {
    let one = set(r#"{"name":"a","hosts":["a.shop"]}"#).unwrap();
    assert_eq!((names(&one), one.is_list), (vec!["a"], false));
    let list = set(r#"{"policies":[{"name":"a","hosts":["a.shop"]},{"name":"b"}]}"#).unwrap();
    assert_eq!((names(&list), list.is_list), (vec!["a", "b"], true));
    assert_eq!(list.index.find(Some(b"A.Shop:80")), Some(0));
    assert_eq!(list.index.find(Some(b"b.shop")), Some(1));
}

#[test]
fn the_mode_beside_the_policies_limits_that_of_each() {
    let modes = |document: &str| {
        let of = |policy: &Policy| policy.mode;
        let text = format!(
            r#"{{"policies":[{{"name":"a","hosts":["a"]}},{{"name":"b","hosts":["b"],"mode":"shadow"}},{{"name":"c","mode":"off"}}]{document}}}"#
        );
        set(&text).unwrap().policies.iter().map(of).collect::<Vec<_>>()
    };
    assert_eq!(modes(""), [Mode::Enforce, Mode::Shadow, Mode::Off]);
    assert_eq!(modes(r#","mode":"enforce""#), [Mode::Enforce, Mode::Shadow, Mode::Off]);
    assert_eq!(modes(r#","mode":"shadow""#), [Mode::Shadow, Mode::Shadow, Mode::Off]);
    assert_eq!(modes(r#","mode":"off""#), [Mode::Off; 3]);
    let found = set(r#"{"policies":[{"name":"a"}],"mode":"on"}"#).err().unwrap();
    assert!(found[0].starts_with("mode: \"on\""), "{found:?}");
}

#[test]
fn the_order_of_the_list_decides_between_a_host_and_a_wildcard() {
    let document = |first: &str, second: &str| {
        format!(r#"{{"policies":[{{"name":"a","hosts":[{first}]}},{{"name":"b","hosts":[{second}]}}]}}"#)
    };
    let (host, wildcard) = (r#""api.example.com""#, r#""*.example.com""#);
    assert_eq!(set(&document(host, wildcard)).unwrap().index.find(Some(b"api.example.com")), Some(0));
    let both = format!("{host},\"other\"");
    assert_eq!(set(&document(wildcard, &both)).unwrap().index.find(Some(b"api.example.com")), Some(0));
    assert_eq!(
        set(&document(wildcard, host)).err().unwrap(),
        [
            "policies[1].hosts: policy \"b\" gets no request, as policies before it have all of its hosts: a. Add another host, or remove it."
        ]
    );
}

#[test]
fn each_problem_has_its_path_from_the_top_of_the_document() {
    let found = problems_of(
        r#"{"name":"a","hosts":["a"],"gatse":[]},{"hosts":["b"]},{"name":"c","gates":[{"upstream":"x"}]}"#,
    );
    let starts =
        ["policies[0].gatse: unknown field", "policies[1].name: missing", "policies[2].gates[0].upstream: "];
    assert_eq!(found.len(), starts.len(), "{found:?}");
    assert!(found.iter().zip(starts).all(|(found, start)| found.starts_with(start)), "{found:?}");
}

#[test]
fn policies_that_cannot_stand_together_are_refused_with_both_names() {
    for (policies, expected) in [
        (
            r#"{"name":"a","hosts":["a"]},{"name":"a","hosts":["b"]}"#,
            "policies[1].name: a second policy \"a\"; give each a name of its own, as metrics and states go by it",
        ),
        (
            r#"{"name":"a"},{"name":"b"}"#,
            "policies[0]: policy \"a\" is for every host, so no request is left for policy \"b\" after it. Add hosts, or move it to the end of the list.",
        ),
        (
            r#"{"name":"a","hosts":["x","*"]},{"name":"b","hosts":["b"]}"#,
            "policies[0]: policy \"a\" is for every host, so no request is left for policy \"b\" after it. Add hosts, or move it to the end of the list.",
        ),
        (
            r#"{"name":"a","hosts":["x"]},{"name":"b","hosts":["*.y"]},{"name":"c","hosts":["X:80","q.z.y","*.w.y"]}"#,
            "policies[2].hosts: policy \"c\" gets no request, as policies before it have all of its hosts: a, b. Add another host, or remove it.",
        ),
        (
            r#"{"name":"a","hosts":["reviews.shop"]},{"name":"b","hosts":["reviews.shop.svc.cluster.local"]}"#,
            "policies[1].hosts: policy \"b\" gets no request, as policies before it have all of its hosts: a. Add another host, or remove it.",
        ),
        (
            r#"{"name":"a","onWrongPolicy":"lastGood"}"#,
            "policies[0].onWrongPolicy: not here; write it beside policies, for all of them",
        ),
        (
            r#"{"name":"a","policies":[]}"#,
            "policies[0].policies: unknown field; allowed: name, hosts, mode, rollout, requestLabel, upstreams, probes, releases, gates, maxGatedPercent, onWrongPolicy",
        ),
    ] {
        assert_eq!(problems_of(policies), [expected]);
    }
}

#[test]
fn policies_that_share_a_part_of_their_hosts_are_valid() {
    for policies in [
        r#"{"name":"a","hosts":["a.x"]},{"name":"b","hosts":["*.x"]},{"name":"c"}"#,
        r#"{"name":"a","hosts":["a.x:80"]},{"name":"b","hosts":["a.x"]}"#,
        r#"{"name":"a","hosts":["*.a.x"]},{"name":"b","hosts":["*.x"]},{"name":"c","hosts":["x"]}"#,
        r#"{"name":"a","hosts":["a"]},{"name":"b","hosts":["b"]},{"name":"c","hosts":["a","c"]}"#,
        r#"{"name":"a","hosts":["a"]},{"name":"b","hosts":["*"]}"#,
    ] {
        assert_eq!(problems_of(policies), [""; 0], "{policies}");
    }
}

#[test]
fn a_short_name_of_a_service_is_no_reason_to_refuse_a_document() {
    let text = r#"{"policies":[{"name":"a","hosts":["reviews.shop"]},{"name":"b","hosts":["reviews"]}]}"#;
    assert!(set(text).is_ok());
    let node = b"sidecar~10.0.0.1~cart.shop~shop.svc.cluster.local";
    assert_eq!(DocumentReading::for_node(text.into(), node).problems, None);
}

#[test]
fn a_list_is_refused_with_what_is_allowed() {
    for (text, expected) in [
        (r#"{"policies":[]}"#, "policies: empty; add at least one entry"),
        (r#"{"policies":{}}"#, "policies: an object of 0 fields is not allowed; allowed: a list"),
        (r#"{"policies":[1]}"#, "policies[0]: 1 is not allowed; allowed: an object"),
        (r#"{"policies":null}"#, "policies: missing; add a list"),
        (
            r#"{"policies":[{"name":"a"}],"name":"b"}"#,
            "name: unknown field; allowed: policies, mode, onWrongPolicy",
        ),
        (r#"{"policies":[{"name":"a"}],"policies":[]}"#, "policies: given twice; keep one of them"),
        (r#"{"name":"a","hosts":[]}"#, "hosts: empty; add at least one entry"),
        (
            r#"{"name":"a","onWrongPolicy":true}"#,
            "onWrongPolicy: true is not allowed; allowed: refuse, lastGood",
        ),
    ] {
        assert_eq!(set(text).err().unwrap(), [expected], "{text}");
    }
    let many = (0..201).map(|index| format!(r#"{{"name":"p{index}","hosts":["h{index}"]}}"#));
    let found = problems_of(&many.collect::<Vec<_>>().join(","));
    assert_eq!(found, ["policies: 201 entries; allowed: at most 200. List fewer, or cover several by one."]);
}

#[test]
fn the_limits_apply_to_all_policies_together() {
    let policy = |index: usize, upstreams: usize| {
        let upstreams = (0..upstreams).map(|upstream| format!(r#""u{upstream}":{{"cluster":"c"}}"#));
        let upstreams = upstreams.collect::<Vec<_>>().join(",");
        format!(r#"{{"name":"p{index}","hosts":["h{index}"],"upstreams":{{{upstreams}}}}}"#)
    };
    let policies = |counts: &[usize]| {
        let policies = counts.iter().enumerate().map(|(index, count)| policy(index, *count));
        policies.collect::<Vec<_>>().join(",")
    };
    assert_eq!(problems_of(&policies(&[1_000, 1_000, 0])), [""; 0]);
    // One that is too large leaves the others as they are.
    assert_eq!(
        problems_of(&policies(&[1_500, 501, 500])),
        [
            "policies[1].upstreams: 2001 upstreams, with those of the policies before it; allowed: at most 2000 in one document. Give this proxy fewer policies."
        ]
    );
    let checked = |index: usize| {
        let check = r#"{"httpGet":{},"periodSeconds":0.1}"#;
        let upstreams =
            (0..30).map(|name| format!(r#""u{name}":{{"cluster":"c","readinessProbe":{check}}}"#));
        let upstreams = upstreams.collect::<Vec<_>>().join(",");
        format!(r#"{{"name":"p{index}","hosts":["h{index}"],"upstreams":{{{upstreams}}}}}"#)
    };
    assert_eq!(
        problems_of(&[checked(0), checked(1)].join(",")),
        [
            "policies[1].upstreams: 600 checks a second, with those of the policies before it; allowed: at most 500 in one document. Give this proxy fewer policies."
        ]
    );
}

#[test]
fn each_policy_is_read_by_itself() {
    let rollback = r#"{"minimumRequests":1,"checks":{"failurePercent":5}}"#;
    let versions = r#"[{"name":"v1","upstream":"app","weight":1,"default":true}]"#;
    let text = format!(
        r#"{{"onWrongPolicy":"lastGood","policies":[
            {{"name":"a","hosts":["a"],"gatse":1}},
            {{"name":"b","hosts":["b"],"upstreams":{{"app":{{"cluster":"app"}}}},
              "releases":[{{"name":"r","steer":{{"header":"x-v"}},"versions":{versions},"rollback":{rollback}}}]}},
            {{"name":"c"}}]}}"#
    );
    let reading = DocumentReading::for_node(text.into_bytes(), b"node");
    assert_eq!(reading.on_wrong_policy, OnWrongPolicy::LastGood);
    let valid: Vec<_> =
        reading.entries.iter().map(|entry| (entry.name.as_deref(), entry.policy.is_some())).collect();
    // The problem of the first one must not hide that of the second.
    assert_eq!(valid, [(Some("a"), false), (Some("b"), false), (Some("c"), true)]);
    assert_eq!(reading.entries[2].text, br#"{"name":"c"}"#);
    let problems = reading.problems.unwrap().to_string();
    assert!(problems.contains("policies[1].releases[0].rollback.checks"), "{problems}");
}

#[test]
fn what_to_do_with_a_wrong_document_is_read_even_where_the_rest_is_wrong() {
    for (text, expected) in [
        (r#"{"onWrongPolicy":"lastGood"}"#, OnWrongPolicy::LastGood),
        (r#"{"x":[],"onWrongPolicy":"lastGood","name":7}"#, OnWrongPolicy::LastGood),
        (r#"{"policies":7,"onWrongPolicy":"lastGood"}"#, OnWrongPolicy::LastGood),
        (r#"{"onWrongPolicy":"refuse"}"#, OnWrongPolicy::Refuse),
        (r#"{"onWrongPolicy":"LastGood"}"#, OnWrongPolicy::Refuse),
        (r#"{"onWrongPolicy":["lastGood"]}"#, OnWrongPolicy::Refuse),
        (r#"["lastGood"]"#, OnWrongPolicy::Refuse),
        (r#"{"onWrongPolicy":"lastGood""#, OnWrongPolicy::Refuse),
        ("", OnWrongPolicy::Refuse),
    ] {
        let reading = DocumentReading::for_node(text.into(), b"");
        assert_eq!(reading.on_wrong_policy, expected, "{text}");
        assert!(reading.problems.is_some(), "{text}");
    }
}
