//! Releases that steer by a member of `baggage`, and the other uses of its members.

use serde_json::{Value, json};

use super::releases::{assigned, shop};
use super::sim::{Manner, Request, World};
use super::{SECOND, check_each_second, fail_checks};

/// Returns the policy `shop` with the versions v1 and v2, which steers by the member `lane`, with these settings.
fn lanes(weights: &[u32], settings: &Value) -> Value {
    let mut document = shop(weights);
    document["releases"][0]["steer"] = json!({"baggage": "lane"});
    for (key, value) in settings.as_object().unwrap() {
        document["releases"][0][key] = value.clone();
    }
    document
}

/// Returns the baggage that reaches the app, one line after the other.
fn sent(world: &mut World, lines: &[&str]) -> Vec<String> {
    let request = lines.iter().fold(Request::get("/"), |request, line| request.with("baggage", line));
    let id = world.start(0, &request);
    world.sent_headers(id, "baggage")
}

#[test]
fn the_version_is_one_member_and_all_others_stay() {
    let mut world = World::new(&lanes(&[0, 1], &json!({})), 1);
    for (lines, expected) in [
        (&[][..], "lane=v2"),
        (&["a=b;p, bad"], "a=b;p, bad,lane=v2"),
        (&["lane=v1;p=1, a=b"], "a=b,lane=v2"),
        (&["a=b,lane=v9", "lane=v1,c=d"], "a=b,c=d,lane=v2"),
    ] {
        assert_eq!(sent(&mut world, lines), [expected], "{lines:?}");
    }
    assert_eq!(assigned(&world), [(("v2".to_owned(), "rotation"), 4)].into());
}

#[test]
fn a_trusted_member_names_the_version_and_is_written_in_its_place() {
    let mut world = World::new(&lanes(&[1, 0], &json!({"trustIncoming": true})), 1);
    for (lines, expected, reason) in [
        (&["a=b,lane=v2;p=1,c=d"][..], "a=b,lane=v2;p=1,c=d", ("v2", "incoming")),
        (&["lane=%76%32,c=d"], "lane=v2,c=d", ("v2", "incoming")),
        (&["lane=v2,lane=v1,c=d"], "lane=v2,c=d", ("v2", "incoming")),
        // A later hop may have the version.
        (&["a=b,lane=v7"], "a=b,lane=v7", ("v1", "no-such-version")),
        (&["a=b,lane="], "a=b,lane=v1", ("v1", "rotation")),
        (&["a=b"], "a=b,lane=v1", ("v1", "rotation")),
    ] {
        let before = world.metric("assignments_total", &[&format!("reason={}", reason.1)]);
        assert_eq!(sent(&mut world, lines), [expected], "{lines:?}");
        let labels = [format!("version={}", reason.0), format!("reason={}", reason.1)];
        let labels = labels.each_ref().map(String::as_str);
        assert!(world.metric("assignments_total", &labels) > 0, "{lines:?}: {reason:?}");
        assert_eq!(world.metric("assignments_total", &labels[1..]), before + 1, "{lines:?}");
    }
    // Without a change, the lines stay as they are.
    assert_eq!(sent(&mut world, &["a=b", "lane=v2"]), ["a=b", "lane=v2"]);
}

#[test]
fn an_untrusted_member_is_seen_by_no_match_and_no_key() {
    let settings = json!({"skip": [{"baggage": {"lane": {}}}]});
    let mut document = lanes(&[1, 0], &settings);
    document["releases"][0]["versions"][1]["match"] =
        json!([{"headers": {"baggage": {"regex": ".*lane.*"}}}, {"baggage": {"tester": {"exact": "a b"}}}]);
    let mut world = World::new(&document, 1);
    assert_eq!(sent(&mut world, &["lane=v2,a=b"]), ["a=b,lane=v1"]);
    assert_eq!(sent(&mut world, &["lane=v1", "tester=a%20b"]), ["tester=a%20b,lane=v2"]);
}

#[test]
fn a_request_that_gets_no_version_loses_the_member() {
    let mut document = lanes(&[1, 1], &json!({"match": [{"uri": {"prefix": "/api"}}]}));
    document["upstreams"]["up-1"]["readinessProbe"] = check_each_second();
    document["upstreams"]["spare"] = json!({"cluster": "spare"});
    document["gates"] = json!([{
        "upstream": "up-1", "match": [{"uri": {"prefix": "/gated"}}],
        "fallback": {"upstream": "spare", "clusterHeader": "x-cluster"},
    }]);
    let mut world = World::new(&document, 1);
    assert_eq!(sent(&mut world, &["a=b,lane=v2"]), ["a=b"]);
    assert_eq!(sent(&mut world, &["lane=v2"]), [""; 0]);
    assert_eq!(sent(&mut world, &["a=b", "c=d"]), ["a=b", "c=d"]);
    fail_checks(&mut world, "app-v1");
    let id = world.start(0, &Request::get("/gated").with("baggage", "lane=v2,a=b"));
    assert_eq!(world.sent_header(id, "x-cluster").as_deref(), Some("spare"));
    assert_eq!(world.sent_headers(id, "baggage"), ["a=b"]);
}

#[test]
fn a_request_that_falls_back_carries_the_default_version() {
    let mut document = lanes(&[1, 9], &json!({"trustIncoming": true}));
    document["upstreams"]["up-2"]["readinessProbe"] = check_each_second();
    let mut world = World::new(&document, 1);
    world.set_checks("app-v2", Manner::Status(500));
    world.pass(3 * SECOND);
    assert_eq!(sent(&mut world, &["a=b,lane=v2"]), ["a=b,lane=v1"]);
    assert_eq!(world.metric("assignments_total", &["version=v1", "reason=fallback"]), 1);
}

#[test]
fn a_version_that_baggage_cannot_carry_is_not_given() {
    let full = vec!["a=b"; 64].join(",");
    let long = format!("a={}", "x".repeat(8_190));
    let mut world = World::new(&lanes(&[0, 1], &json!({})), 1);
    for lines in [&[full.as_str()][..], &[&long], &["lane=v2", &full]] {
        assert_eq!(sent(&mut world, lines), [*lines.last().unwrap()]);
    }
    assert_eq!(assigned(&world), [(("v1".to_owned(), "not-carried"), 3)].into());
    // The default version needs no member, so its requests keep their reason.
    let mut world = World::new(&lanes(&[1, 0], &json!({})), 1);
    assert_eq!(sent(&mut world, &[&full]), std::slice::from_ref(&full));
    assert_eq!(assigned(&world), [(("v1".to_owned(), "rotation"), 1)].into());
}

#[test]
fn a_member_is_a_key_with_its_decoded_value() {
    let settings = json!({"hashOn": [{"baggage": "user-id"}, {"httpHeaderName": "x-user"}]});
    let mut document = lanes(&[1, 0], &settings);
    document["releases"][0]["versions"][1]["allow"] = json!(["al ice"]);
    let mut world = World::new(&document, 1);
    for (line, version) in [
        ("user-id=al%20ice", "v2"),
        ("user-id=bob, user-id=al%20ice", "v1"),
        ("user-id=\"bob\", user-id=al%20ice", "v2"),
        ("user-id=al+ice", "v1"),
        ("USER-ID=al%20ice", "v1"),
    ] {
        assert_eq!(sent(&mut world, &[line]), [format!("{line},lane={version}")]);
    }
    // An empty value counts as absent.
    let request = Request::get("/").with("baggage", "user-id=").with("x-user", "al ice");
    let id = world.start(0, &request);
    assert_eq!(world.sent_headers(id, "baggage"), ["user-id=,lane=v2"]);
}

#[test]
fn two_releases_write_a_member_each_and_of_two_with_the_same_member_the_first_counts() {
    let mut document = lanes(&[0, 1], &json!({}));
    let mut other = document["releases"][0].clone();
    other["name"] = json!("other");
    document["releases"].as_array_mut().unwrap().push(other.clone());
    other["name"] = json!("third");
    other["steer"] = json!({"baggage": "tier"});
    document["releases"].as_array_mut().unwrap().push(other);
    let mut world = World::new(&document, 1);
    assert_eq!(sent(&mut world, &["tier=v9,a=b"]), ["a=b,lane=v2,tier=v2"]);
    assert_eq!(world.metric("assignments_total", &["release=other"]), 0);
}

#[test]
fn in_shadow_baggage_stays_as_it_is() {
    let mut document = lanes(&[0, 1], &json!({}));
    document["mode"] = json!("shadow");
    let mut world = World::new(&document, 1);
    assert_eq!(sent(&mut world, &["lane=v1", "a=b"]), ["lane=v1", "a=b"]);
}
