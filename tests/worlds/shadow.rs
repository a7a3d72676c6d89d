//! Shadow mode for releases: decisions are labelled and counted but not applied.

use serde_json::{Value, json};

use super::SECOND;
use super::releases::{assigned, by, held, probe, shop, world_of};
use super::sim::{Manner, Request, World};

/// Returns, in shadow mode, all that could change a request or its response.
fn shadow(weights: &[u32]) -> Value {
    let mut document = shop(weights);
    document["mode"] = json!("shadow");
    let release = &mut document["releases"][0];
    release["responseHeader"] = json!("x-served");
    release["hashOn"] = json!([{"httpHeaderName": "x-user"}, {"httpCookie": {"name": "id", "ttl": "24h"}}]);
    release["versions"][1]["match"] = json!([{"headers": {"x-tester": {}}}]);
    for version in release["versions"].as_array_mut().unwrap() {
        version["headers"] = json!({
            "request": {"set": {"x-set": "1"}, "add": {"x-add": "1"}, "remove": ["x-kept"]},
            "response": {"set": {"x-set": "1"}, "add": {"x-add": "1"}, "remove": ["x-app"]},
        });
    }
    document
}

/// Returns the label of a request. Checks that neither the request nor its response has changed.
fn label(world: &mut World, request: &Request) -> String {
    let id = world.start(0, request);
    for (name, _) in &request.headers {
        let own = request.headers.iter().filter(|(known, _)| known == name);
        assert_eq!(world.sent_headers(id, name), own.map(|(_, value)| value.clone()).collect::<Vec<_>>());
    }
    for name in ["x-version", "x-set", "x-add"] {
        let came = request.headers.iter().any(|(known, _)| known == name);
        assert_eq!(world.sent_headers(id, name).is_empty(), !came, "{name}");
    }
    assert_eq!(world.filter_state(id), []);
    world.pass(SECOND / 10);
    let answer = world.answer(id);
    let names: Vec<&str> = answer.headers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, [":status", "x-envoy-upstream-service-time", "x-app"]);
    world.label(id)
}

#[test]
fn a_request_is_labelled_with_its_version_and_reason_and_is_not_changed() {
    let mut document = shadow(&[50, 50]);
    document["upstreams"]["up-2"]["readinessProbe"] = probe();
    document["releases"][0]["versions"][1]["allow"] = json!(["alice"]);
    let mut world = world_of(&document, 1);
    for cluster in ["app-v1", "app-v2"] {
        world.set(cluster, Manner::With(200, vec![("x-app", "1".to_owned())]));
    }
    assert_eq!(label(&mut world, &by("bob").with("x-tester", "1")), "web=v2 match");
    assert_eq!(label(&mut world, &by("alice").with("x-kept", "1")), "web=v2 allowed");
    assert!(label(&mut world, &by("bob")).ends_with(" sticky"));
    assert!(label(&mut world, &Request::get("/")).ends_with(" rotation"));
    // A client's own steer header is kept, and routes evaluate it.
    assert!(label(&mut world, &by("bob").with("x-version", "v2")).ends_with(" sticky"));
    world.set_checks("app-v2", Manner::Status(500));
    world.pass(3 * SECOND);
    assert_eq!(label(&mut world, &by("alice")), "web=v1 fallback");
    assert_eq!(world.metric("assignments_total", &["mode=shadow"]), world.metric("assignments_total", &[]));
    assert_eq!(world.metric("assignments_total", &["reason=fallback"]), 1);
}

#[test]
fn in_enforce_a_request_is_labelled_only_if_the_policy_asks_for_it_and_in_the_same_words() {
    for (requested, is_labelled) in [(None, false), (Some("shadow"), false), (Some("always"), true)] {
        let mut document = shop(&[1, 1]);
        document["gates"] = json!([
            {"match": [{"uri": {"prefix": "/gated"}}], "upstream": "down"},
            {"match": [{"uri": {"prefix": "/open"}}], "upstream": "down", "whenAllNotReady": "forward"},
        ]);
        document["upstreams"]["down"] = json!({"cluster": "down", "readinessProbe": probe()});
        document["probes"] = json!({"readiness": {"path": "/readyz"}});
        if let Some(requested) = requested {
            document["requestLabel"] = json!(requested);
        }
        let mut labels = Vec::new();
        for mode in ["enforce", "shadow"] {
            document["mode"] = json!(mode);
            let mut world = world_of(&document, 1);
            world.set_checks("down", Manner::Status(500));
            world.pass(3 * SECOND);
            let mut label = |path: &str| {
                let id = world.start(0, &Request::get(path).with("x-user", "alice"));
                world.pass(SECOND / 10);
                world.label(id)
            };
            labels.push(["/", "/gated", "/open", "/readyz"].map(&mut label));
        }
        let [enforce, shadow] = labels.try_into().unwrap();
        assert!(shadow[0].starts_with("web=v") && shadow[0].ends_with(" sticky"), "{shadow:?}");
        assert_eq!(shadow[1], "graygate_gate{shop|down|check-failed}");
        assert!(shadow[2].ends_with("; because=all-not-ready"), "{shadow:?}");
        assert_eq!(shadow[3], "");
        assert_eq!(enforce, if is_labelled { shadow } else { Default::default() }, "{requested:?}");
    }
}

#[test]
fn a_label_names_all_releases_that_match_the_request() {
    let mut document = shadow(&[1, 0]);
    let mut other = shop(&[1])["releases"][0].clone();
    other["name"] = json!("other");
    other["steer"] = json!({"header": "x-other"});
    other["match"] = json!([{"uri": {"prefix": "/both"}}]);
    document["releases"][0]["match"] = json!([{"uri": {"prefix": "/both"}}, {"uri": {"prefix": "/one"}}]);
    document["releases"].as_array_mut().unwrap().push(other);
    let mut world = world_of(&document, 1);
    for (path, expected) in
        [("/both", "web=v2 match, other=v1 rotation"), ("/one", "web=v2 match"), ("/none", "")]
    {
        let id = world.start(0, &Request::get(path).with("x-tester", "1"));
        assert_eq!(world.label(id), expected);
    }
}

#[test]
fn assignments_are_counted_as_if_they_were_enforced() {
    let mut enforced = shadow(&[70, 30]);
    enforced["mode"] = json!("enforce");
    let mut world = world_of(&enforced, 1);
    let versions = held(&mut world, 0, 200);
    let counts = assigned(&world);
    let mut world = world_of(&shadow(&[70, 30]), 2);
    assert_eq!(held(&mut world, 1, 200), vec!["v1"; 200]);
    assert_eq!(assigned(&world), counts);
    assert!(versions.contains(&"v2".to_owned()));
    let shown = world.metric_names();
    let released = shown.iter().filter(|name| name.contains("_total.") && name.contains("release=.=web;.;"));
    assert!(released.clone().count() > 0 && released.clone().all(|name| name.contains("mode=.=shadow;.;")));
}

#[test]
fn only_proxies_outside_the_rollout_are_in_shadow_mode() {
    let mut document = shop(&[0, 1]);
    document["rollout"] = json!({"percent": 0});
    let mut world = world_of(&document, 1);
    assert_eq!(held(&mut world, 0, 10), vec!["v1"; 10]);
    assert_eq!(world.metric("assignments_total", &["version=v2", "mode=shadow"]), 10);
    document["rollout"] = json!({"percent": 100});
    world.configure(&document);
    assert_eq!(held(&mut world, 0, 10), vec!["v2"; 10]);
}

#[test]
fn a_schedule_step_in_shadow_mode_is_logged_as_such() {
    let mut document = shadow(&[1, 0]);
    document["releases"][0]["schedule"] =
        json!([{"at": super::releases::at(60), "weights": {"v1": 0, "v2": 1}}]);
    let mut world = world_of(&document, 2);
    super::releases::later(&mut world, 60);
    assert_eq!(
        world.logged("of its schedule"),
        ["policy shop: release web: step 1 of its schedule (mode: shadow)"]
    );
    assert_eq!(world.metric("schedule_steps_total", &["mode=shadow"]), 1);
}

#[test]
fn in_shadow_mode_no_cookie_is_set_or_removed() {
    for weights in [[1, 1], [1, 0]] {
        let mut world = world_of(&shadow(&weights), 1);
        for request in [Request::get("/"), super::releases::with_cookie(&super::releases::made(0, 1))] {
            assert_eq!(world.ask(0, &request).header("set-cookie"), None);
        }
    }
}
