//! The status page tells what the worker knows, and asking for it changes nothing.

use serde_json::{Value, json};

use super::releases::{at, by, later, probe, shop, world_of};
use super::sim::{Answer, Manner, Request, World};
use super::{MS, SECOND, check_each_second, fail_checks, pass_checks};

/// Returns the policy with a status page at `/statusz`.
fn shown(mut document: Value) -> Value {
    document["probes"]["status"] = json!({"path": "/statusz"});
    document
}

/// Returns what a worker shows.
fn status(world: &mut World, vm: usize) -> Value {
    let answer = world.ask(vm, &Request::get("/statusz"));
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    serde_json::from_str(&answer.body).unwrap()
}

fn named<'v>(list: &'v Value, name: &str) -> &'v Value {
    list.as_array().unwrap().iter().find(|item| item["name"] == name).unwrap()
}

fn checked() -> World {
    let app = json!({"cluster": "app", "readinessProbe": check_each_second()});
    let gates = json!([{"upstream": "app"}]);
    World::new(&shown(json!({"name": "shop", "upstreams": {"app": app}, "gates": gates})), 3)
}

fn ask(world: &mut World, request: &Request) -> Answer {
    world.ask(0, request)
}

#[test]
fn each_worker_shows_an_outage_with_its_reason_and_its_time_and_the_same_after_it() {
    let mut world = checked();
    world.pass(5 * SECOND);
    let before = status(&mut world, 0);
    let app = named(&before["upstreams"], "app");
    assert_eq!(
        (&app["state"], &app["gate"], &app["lastCheck"]["result"]),
        (&json!("ready"), &json!("open"), &json!("passed"))
    );
    fail_checks(&mut world, "app");
    world.pass(10 * SECOND);
    for vm in 0..3 {
        let shown = status(&mut world, vm);
        let app = named(&shown["upstreams"], "app");
        assert_eq!((&app["state"], &app["reason"]), (&json!("not-ready"), &json!("check-failed")));
        assert_eq!((&app["reasonDetail"], &app["gate"]), (&json!("status 500"), &json!("closed")));
        assert_eq!(
            (&app["lastCheck"]["result"], &app["lastCheck"]["detail"]),
            (&json!("failed"), &json!("status 500"))
        );
        let ago = app["sinceSecondsAgo"].as_u64().unwrap();
        assert!((10..=13).contains(&ago), "{app}");
        assert_eq!(app["generation"], before["upstreams"][0]["generation"].as_u64().unwrap() + 1);
        assert_eq!(app["leader"], shown["leader"]["holders"][0]);
    }
    pass_checks(&mut world, "app");
    let after = status(&mut world, 2);
    let app = named(&after["upstreams"], "app");
    assert_eq!((&app["state"], &app["reason"]), (&json!("ready"), &json!("check-passed")));
    assert_eq!(app["reasonDetail"], Value::Null);
}

#[test]
fn a_drain_has_its_reasons_and_says_when_readiness_fails() {
    let mut document = shown(
        json!({"name": "shop", "upstreams": {"envoy": {"cluster": "admin", "readinessProbe": {"httpGet": {}, "failureThreshold": 1}}}}),
    );
    document["probes"]["drain"] =
        json!({"path": "/drainz", "alsoWhen": {"upstream": "envoy"}, "readinessAfter": "60s"});
    let mut world = World::new(&document, 2);
    world.pass(3 * SECOND);
    assert_eq!(status(&mut world, 0)["lifecycle"], json!({"started": true, "draining": false}));
    world.ask(0, &Request::of("POST", "/drainz"));
    world.set_checks("admin", Manner::Status(503));
    world.pass(20 * SECOND);
    let lifecycle = status(&mut world, 1)["lifecycle"].clone();
    assert_eq!(lifecycle["drainReasons"], json!(["order", "upstream envoy"]));
    assert_eq!(lifecycle["drainingSinceSecondsAgo"], 20);
    assert!((39..=40).contains(&lifecycle["readinessFailsInSeconds"].as_u64().unwrap()), "{lifecycle}");
    world.pass(60 * SECOND);
    assert_eq!(status(&mut world, 0)["lifecycle"].get("readinessFailsInSeconds"), None);
}

#[test]
fn one_worker_leads_and_each_names_it() {
    let mut world = checked();
    world.pass(5 * SECOND);
    let shown: Vec<Value> = (0..3).map(|vm| status(&mut world, vm)).collect();
    let leads = shown.iter().filter(|shown| shown["leader"]["leads"] == true).collect::<Vec<_>>();
    assert_eq!(leads.len(), 1);
    for shown in &shown {
        assert_eq!(shown["leader"]["holders"], json!([leads[0]["worker"]["id"]]));
    }
    assert_eq!(leads[0]["leader"]["leadsUpstreams"], json!(["app"]));
}

#[test]
fn the_policy_in_force_has_the_number_that_the_gauge_shows() {
    let mut world = checked();
    world.pass(90 * SECOND);
    let policy = &status(&mut world, 1)["policy"];
    assert_eq!((&policy["name"], &policy["mode"]), (&json!("shop"), &json!("enforce")));
    assert_eq!(policy["document"], world.metric("policy_document", &["policy=shop"]));
    assert_eq!(policy["configuredSecondsAgo"], 90);
}

#[test]
fn a_breaker_shows_its_window_and_the_rest_of_its_wait() {
    let breaker = json!({"failurePercent": 60, "minimumRequests": 50, "notReadyFor": "20s", "slowPercent": 90, "slowerThan": "1s"});
    let document = json!({
        "name": "shop",
        "upstreams": {"app": {"cluster": "app", "circuitBreaker": breaker}},
        "gates": [{"upstream": "app"}],
    });
    let mut world = World::new(&shown(document), 2);
    for request in 0..30 {
        world.set("app", Manner::Status(if request % 3 == 0 { 500 } else { 200 }));
        world.get(request % 2);
        world.pass(50 * MS);
    }
    world.pass(SECOND);
    for vm in 0..2 {
        let shown = status(&mut world, vm);
        let expected = json!({"seconds": 10, "total": 30, "successes": 20, "failures": 10, "slow": 0});
        assert_eq!(named(&shown["upstreams"], "app")["breaker"]["window"], expected);
    }
    world.set("app", Manner::Status(500));
    for request in 0..40 {
        world.get(request % 2);
        world.pass(25 * MS);
    }
    world.pass(SECOND);
    let shown = status(&mut world, 0);
    let app = named(&shown["upstreams"], "app");
    assert_eq!((&app["state"], &app["breaker"]["tripsInARow"]), (&json!("not-ready"), &json!(1)));
    assert!((15..=22).contains(&app["ends"]["trialInSeconds"].as_u64().unwrap()), "{app}");
}

#[test]
fn a_rollback_is_shown_with_its_time_and_its_counts() {
    let mut document = shop(&[50, 50]);
    document["releases"][0]["rollback"] = json!({"failurePercent": 5, "minimumRequests": 50});
    let mut world = world_of(&shown(document), 2);
    world.set("app-v2", Manner::Status(500));
    for request in 0..40 {
        world.get(request % 2);
    }
    world.pass(SECOND);
    let shown = status(&mut world, 0);
    let v2 = named(&shown["releases"][0]["versions"], "v2");
    assert_eq!((&v2["sharePercent"], &v2["rolledBack"]), (&json!(50), &json!(false)));
    let counts = &v2["rollbackWindow"]["failures"];
    assert_eq!(
        (&counts["bad"], &counts["total"], &counts["defaultTotal"]),
        (&json!(20), &json!(20), &json!(20))
    );
    for request in 0..100 {
        world.get(request % 2);
    }
    world.pass(5 * SECOND);
    for vm in 0..2 {
        let shown = status(&mut world, vm);
        let v2 = named(&shown["releases"][0]["versions"], "v2");
        assert_eq!(
            (&v2["sharePercent"], &v2["rolledBack"], &v2["wantedWeight"]),
            (&json!(0), &json!(true), &json!(50))
        );
        assert!((4..=6).contains(&v2["rolledBackSecondsAgo"].as_u64().unwrap()), "{v2}");
        assert_eq!(shown["releases"][0]["rollback"]["failurePercent"], 5);
    }
}

#[test]
fn a_schedule_shows_its_step_now_and_the_next_one() {
    let mut document = shop(&[100, 0]);
    document["releases"][0]["schedule"] = json!([
        {"at": at(100), "weights": {"v1": 90, "v2": 10}},
        {"at": at(200), "weights": {"v1": 50, "v2": 50}},
    ]);
    let mut world = world_of(&shown(document), 2);
    world.pass(SECOND);
    let before = &status(&mut world, 0)["releases"][0];
    assert_eq!((&before["schedule"]["now"], &before["schedule"]["stepsBegun"]), (&Value::Null, &json!(0)));
    assert_eq!(before["schedule"]["next"]["weights"], json!({"v1": 90, "v2": 10}));
    later(&mut world, 110);
    let during = &status(&mut world, 1)["releases"][0];
    assert_eq!(named(&during["versions"], "v2")["sharePercent"], json!(10));
    assert_eq!(
        (&during["schedule"]["now"]["name"], &during["schedule"]["now"]["at"]),
        (&json!("step 1"), &json!(at(100)))
    );
    assert_eq!(
        (&during["schedule"]["next"]["at"], &during["schedule"]["steps"]),
        (&json!(at(200)), &json!(2))
    );
    let left = during["schedule"]["next"]["inSeconds"].as_u64().unwrap();
    assert!((80..=90).contains(&left), "{left}");
    later(&mut world, 100);
    let after = &status(&mut world, 0)["releases"][0];
    assert_eq!(
        (&after["schedule"]["next"], &after["schedule"]["now"]["name"]),
        (&Value::Null, &json!("step 2"))
    );
    assert_eq!(named(&after["versions"], "v2")["wantedWeight"], 50);
}

#[test]
fn force_has_a_reason_and_no_time() {
    let mut document = json!({"name": "shop", "upstreams": {"app": {"cluster": "app", "force": "notReady"}}});
    document["gates"] = json!([{"upstream": "app"}]);
    let mut world = World::new(&shown(document), 1);
    world.pass(SECOND);
    let shown = status(&mut world, 0);
    let app = named(&shown["upstreams"], "app");
    assert_eq!(
        (&app["state"], &app["reason"], &app["forced"]),
        (&json!("not-ready"), &json!("forced"), &json!("notReady"))
    );
    assert_eq!((&app["since"], &app["gate"]), (&Value::Null, &json!("closed")));
}

#[test]
fn asking_writes_nothing_that_workers_share_and_counts_for_nothing_but_probes() {
    let mut document = shop(&[50, 50]);
    document["upstreams"]["up-1"]["readinessProbe"] = probe();
    document["upstreams"]["up-1"]["circuitBreaker"] = json!({});
    document["releases"][0]["rollback"] = json!({"failurePercent": 5});
    document["gates"] = json!([{"upstream": "up-1"}]);
    let mut world = world_of(&shown(document), 1);
    world.pass(5 * SECOND);
    world.ask(0, &by("alice"));
    world.pass(SECOND);
    let before = world.metrics();
    world.written();
    for form in ["/statusz", "/statusz?format=html", "/statusz?format=json"] {
        for _ in 0..20 {
            let id = world.send(0, &Request::get(form));
            assert!(!world.has_exchange(0, id));
            assert_eq!(world.answer(id).status, 200);
        }
    }
    assert!(world.written().is_empty());
    let changed: Vec<(String, u64)> =
        world.metrics().into_iter().filter(|(name, value)| before.get(name) != Some(value)).collect();
    let [(name, value)] = changed.as_slice() else { panic!("{changed:?}") };
    assert!(name.contains("probe=.=status") && name.contains("result=.=shown") && *value == 60, "{name}");
}

#[test]
fn a_page_for_people_goes_to_those_who_accept_html_or_ask_for_it() {
    let mut world = checked();
    let html = "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8";
    for (path, accept, is_html) in [
        ("/statusz", html, true),
        ("/statusz?format=json", html, false),
        ("/statusz?format=html", "*/*", true),
        ("/statusz", "application/json", false),
        ("/statusz", "TEXT/HTML", true),
        ("/statusz?format=xml", "*/*", false),
    ] {
        let answer = ask(&mut world, &Request::get(path).with("accept", accept));
        let expected = if is_html { "text/html; charset=utf-8" } else { "application/json" };
        assert_eq!((answer.status, answer.header("content-type")), (200, Some(expected)), "{path} {accept}");
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert_eq!(answer.header("content-security-policy").is_some(), is_html);
    }
}

#[test]
fn only_get_and_head_of_the_page_are_answered() {
    let mut world = checked();
    assert_eq!(ask(&mut world, &Request::of("HEAD", "/statusz")).status, 200);
    for method in ["POST", "DELETE", "PUT", "OPTIONS"] {
        let answer = ask(&mut world, &Request::of(method, "/statusz"));
        assert_eq!((answer.status, answer.header("allow")), (405, Some("GET, HEAD")), "{method}");
    }
}

#[test]
fn the_page_is_answered_in_shadow_and_not_in_mode_off() {
    for (mode, details) in [("shadow", "graygate_probe{shop|status}"), ("off", "via_upstream")] {
        let mut document = json!({"name": "shop", "mode": mode, "upstreams": {"app": {"cluster": "app"}}});
        document["gates"] = json!([{"upstream": "app"}]);
        let mut world = World::new(&shown(document), 1);
        world.pass(SECOND);
        assert_eq!(ask(&mut world, &Request::get("/statusz")).details, details);
    }
}

#[test]
fn two_thousand_upstreams_fit_in_one_reply_of_at_most_a_megabyte() {
    let check = json!({"httpGet": {}, "periodSeconds": 10});
    let upstreams: serde_json::Map<String, Value> = (0..2_000)
        .map(|number| {
            let cluster = format!("outbound|8080||service-{number}.shop.svc.cluster.local");
            let upstream = json!({"cluster": cluster, "readinessProbe": check, "circuitBreaker": {"failurePercent": 50}});
            (format!("service-{number}"), upstream)
        })
        .collect();
    let mut world = World::new(&shown(json!({"name": "shop", "upstreams": upstreams})), 1);
    world.pass(20 * SECOND);
    let answer = ask(&mut world, &Request::get("/statusz"));
    let shown: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(shown["upstreams"].as_array().unwrap().len(), 2_000);
    assert!(answer.body.len() < 1 << 20, "{}", answer.body.len());
}
