use std::collections::HashSet;

use super::*;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// Returns a release with weights v1 50, v2 30 and v3 20. Its keys are a header and a cookie that is issued.
fn issuing(extra: &str) -> Release {
    let version = |name: &str, weight: u32| {
        format!(r#"{{"name":"{name}","upstream":"a","weight":{weight},"default":{}}}"#, name == "v1")
    };
    let versions = [version("v1", 50), version("v2", 30), version("v3", 20)].join(",");
    let steer = if extra.contains("steer") { "" } else { r#""steer":{"header":"x-v"},"# };
    with(&format!(
        r#"{steer}"hashOn":[{{"httpHeaderName":"x-user"}},{{"httpCookie":{{"name":"id","ttl":"1h"}}}}],
        "versions":[{versions}]{extra}"#
    ))
}

/// Returns the choice by `split` for a request with this cookie, and keys that other releases have issued.
fn choice<'r>(release: &'r Release, split: &mut Split, cookie: &str, issued: &[Issued<'r>]) -> Choice<'r> {
    let request = WithHeaders(vec![("cookie", cookie.as_bytes().to_vec())]);
    choose(release, &mut Headers::new(&request, &[]), split, issued, || TODAY)
}

fn split(release: &Release) -> Split {
    Split::new(release, TODAY, NOW, &[], 7)
}

#[test]
fn an_issued_key_belongs_to_the_version_whose_turn_it_is() {
    for extra in ["", r#","steer":{"randomValueHeader":"x-r"}"#] {
        let release = issuing(extra);
        let (mut split, mut counts) = (split(&release), [0; 3]);
        for _ in 0..1_000 {
            let first = choice(&release, &mut split, "", &[]);
            assert_eq!((first.reason, first.key), (AssignmentReason::Rotation, None));
            counts[first.version] += 1;
            let key = first.issued.unwrap().key;
            let next = choice(&release, &mut split, &format!("id={key}"), &[]);
            assert_eq!((next.version, next.reason), (first.version, AssignmentReason::Sticky));
            assert_eq!((next.number, next.issued), (first.number, None));
        }
        assert_eq!(counts, [500, 300, 200]);
    }
}

#[test]
fn an_issued_key_is_unique_and_states_when_it_was_issued() {
    let release = issuing("");
    let mut keys = HashSet::new();
    for random in [0, 1 << 32, u64::MAX - 1_000] {
        let mut split = Split::new(&release, TODAY, NOW, &[], random);
        for _ in 0..200 {
            let issued = choice(&release, &mut split, "", &[]).issued.unwrap();
            assert_eq!(cookie::issued_at(issued.key.as_bytes()), Some(TODAY));
            assert!(keys.insert(issued.key));
        }
    }
}

#[test]
fn a_key_is_issued_only_to_users_without_one() {
    let release = issuing("");
    let mut split = split(&release);
    for (cookie, issues) in [("id=", true), ("xid=alice", true), ("id=alice", false), ("a=b; id=x", false)] {
        assert_eq!(choice(&release, &mut split, cookie, &[]).issued.is_some(), issues, "{cookie}");
    }
    assert_eq!(chosen(&release, &[("x-user", b"alice")]).issued, None);
}

#[test]
fn before_the_start_the_default_version_issues_keys() {
    let release = issuing(r#","startsAt":"2025-12-01T10:00:01Z""#);
    let mut split = split(&release);
    for _ in 0..100 {
        let choice = choice(&release, &mut split, "", &[]);
        assert_eq!((choice.version, choice.issued.is_some()), (0, true));
    }
}

#[test]
fn an_ended_release_issues_no_keys() {
    let schedule = r#","schedule":[{"at":"2025-12-01T10:00:00Z","weights":{"v1":0,"v2":1,"v3":0}}]"#;
    let release = issuing(schedule);
    assert_eq!(choice(&release, &mut split(&release), "", &[]).issued, None);
    let mut before = Split::new(&release, Date::from_millis(TODAY.as_millis() - 1), NOW, &[], 7);
    assert!(choice(&release, &mut before, "", &[]).issued.is_some());
}

#[test]
fn after_a_rollback_the_default_version_issues_the_keys() {
    let release = issuing(r#","rollback":{"failurePercent":5}"#);
    let mut split = Split::new(&release, TODAY, NOW, &[None, Some(NOW), Some(NOW)], 7);
    let first = choice(&release, &mut split, "", &[]);
    assert_eq!((first.version, first.issued.is_some()), (0, true));
}

#[test]
fn a_key_that_another_release_issued_counts_as_if_it_were_sent() {
    let (first, second) = (
        issuing(""),
        with(
            r#""steer":{"header":"x-w"},"hashOn":[{"httpCookie":{"name":"id"}}],
        "versions":[{"name":"v1","upstream":"a","weight":1,"default":true},{"name":"v2","upstream":"a","weight":1}]"#,
        ),
    );
    let issued = choice(&first, &mut split(&first), "", &[]).issued.unwrap();
    let sent = choice(&second, &mut split(&second), &format!("id={}", issued.key), &[]);
    let counted = choice(&second, &mut split(&second), "", core::slice::from_ref(&issued));
    assert_eq!(sent.reason, AssignmentReason::Sticky);
    assert_eq!(counted, sent);
    let third = keyed(r#"{"httpCookie":{"name":"other"}}"#);
    assert_eq!(choice(&third, &mut split(&third), "", &[issued]).reason, AssignmentReason::Rotation);
}
