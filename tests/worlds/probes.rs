//! Probes to which the filter responds from what it knows.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::SECOND;
use super::sim::{Answer, Manner, Request, World};

/// Returns a policy with four upstreams that are checked each second, with liveness and these probes.
fn document(probes: &Value) -> Value {
    let check = json!({"httpGet": {}, "periodSeconds": 1, "failureThreshold": 2});
    let mut document = json!({"name": "shop", "upstreams": {}, "probes": {"liveness": {"path": "/livez"}}});
    for name in ["db", "cache", "search", "queue"] {
        document["upstreams"][name] = json!({"cluster": name, "readinessProbe": check});
    }
    for (name, probe) in probes.as_object().unwrap() {
        document["probes"][name] = probe.clone();
    }
    document
}

/// Returns a proxy of three workers with these probes. All upstreams have been checked.
fn world(probes: &Value) -> World {
    let mut world = World::new(&document(probes), 3);
    world.pass(2 * SECOND);
    world
}

fn down(world: &mut World, upstream: &str) {
    world.set_checks(upstream, Manner::Status(500));
    world.pass(4 * SECOND);
}

fn up(world: &mut World, upstream: &str) {
    world.set_checks(upstream, Manner::Status(200));
    world.pass(4 * SECOND);
}

/// Returns the response, which is the same on all workers.
fn ask(world: &mut World, path: &str) -> Answer {
    let answers: Vec<Answer> = (0..3).map(|vm| world.ask(vm, &Request::get(path))).collect();
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    answers.into_iter().next().unwrap()
}

fn status(world: &mut World, path: &str) -> u16 {
    ask(world, path).status
}

fn required() -> Value {
    json!({"readiness": {"path": "/readyz", "checks": [{"upstream": "db"}, {"upstream": "cache"}]}})
}

#[test]
fn liveness_depends_on_no_upstream() {
    let mut world = world(&required());
    for upstream in ["db", "cache", "search", "queue"] {
        down(&mut world, upstream);
    }
    let answer = ask(&mut world, "/livez");
    assert_eq!((answer.status, answer.body.as_str()), (200, "policy shop: liveness passed\n"));
    assert_eq!((answer.details.as_str(), answer.cluster.as_str()), ("graygate_probe{shop|liveness}", ""));
    assert_eq!(status(&mut world, "/readyz"), 503);
}

#[test]
fn a_failed_required_check_fails_readiness_on_all_workers_until_it_passes() {
    let mut world = world(&required());
    assert_eq!(ask(&mut world, "/readyz").body, "policy shop: readiness passed\n");
    down(&mut world, "cache");
    let answer = ask(&mut world, "/readyz");
    let lines: Vec<&str> = answer.body.lines().collect();
    assert_eq!(lines[..2], ["[+]db ok", "[-]cache failed: check-failed: status 500"]);
    assert!(lines[2].starts_with("policy shop: readiness failed; oldest answer "), "{answer:?}");
    assert_eq!((answer.status, answer.details.as_str()), (503, "graygate_probe{shop|readiness}"));
    up(&mut world, "cache");
    assert_eq!(status(&mut world, "/readyz"), 200);
}

#[test]
fn weighted_checks_must_reach_minimum_score_together() {
    let weights = [("db", 40), ("cache", 30), ("search", 20), ("queue", 10)];
    let checks = weights.map(|(upstream, weight)| json!({"upstream": upstream, "weight": weight}));
    for mask in 0_usize..16 {
        let probes = json!({"readiness": {"path": "/readyz", "minimumScore": 70, "checks": checks}});
        let mut world = world(&probes);
        let mut score = 100;
        for (index, (upstream, weight)) in weights.iter().enumerate() {
            if mask & 1 << index != 0 {
                world.set_checks(upstream, Manner::Status(500));
                score -= weight;
            }
        }
        world.pass(4 * SECOND);
        let answer = ask(&mut world, "/readyz?verbose");
        assert_eq!(answer.status, if score >= 70 { 200 } else { 503 }, "{answer:?}");
        assert!(answer.body.contains(&format!("\nscore {score} of 100, at least 70\n")), "{answer:?}");
        let word = match score {
            100 => "passed;",
            70.. => "passed, degraded;",
            _ => "failed;",
        };
        assert!(answer.body.contains(&format!("\npolicy shop: readiness {word}")), "{answer:?}");
    }
}

#[test]
fn an_optional_check_that_fails_only_degrades() {
    let checks = json!([{"upstream": "db"}, {"upstream": "queue", "required": false}]);
    let mut world = world(&json!({"readiness": {"path": "/readyz", "checks": checks}}));
    down(&mut world, "queue");
    let answer = ask(&mut world, "/readyz");
    assert_eq!(answer.status, 200);
    assert!(answer.body.contains("[-]queue failed: check-failed: status 500 (optional)\n"), "{answer:?}");
    assert!(answer.body.contains("readiness passed, degraded; "), "{answer:?}");
    down(&mut world, "db");
    assert_eq!(status(&mut world, "/readyz"), 503);
}

#[test]
fn an_upstream_on_trial_counts_as_ready_but_degraded() {
    let mut document = document(&required());
    let breaker = json!({"consecutiveFailures": 2, "notReadyFor": "2s", "maxNotReadyFor": "2s"});
    document["upstreams"]["db"] = json!({"cluster": "db", "circuitBreaker": breaker});
    document["gates"] = json!([{"upstream": "db"}]);
    let mut world = World::new(&document, 3);
    world.route = "db".to_owned();
    world.pass(2 * SECOND);
    world.set("db", Manner::Status(500));
    for _ in 0..2 {
        world.get(0);
    }
    world.pass(SECOND);
    assert_eq!(status(&mut world, "/readyz"), 503);
    world.pass(2 * SECOND);
    assert_eq!(world.phase("db"), "trial");
    let answer = ask(&mut world, "/readyz");
    assert_eq!(answer.status, 200);
    assert!(answer.body.contains("[+]db ok: on trial\n"), "{answer:?}");
    // This holds without any traffic and for any client.
    world.pass(120 * SECOND);
    assert_eq!((world.phase("db"), status(&mut world, "/readyz")), ("trial", 200));
}

#[test]
fn before_the_first_check_a_probe_uses_the_assumption_and_shows_no_age() {
    for (assume, expected) in [("ready", 200), ("notReady", 503)] {
        let mut document = document(&required());
        document["upstreams"]["db"]["assume"] = json!(assume);
        let mut world = World::new(&document, 3);
        let answer = ask(&mut world, "/readyz");
        assert_eq!((answer.status, answer.header("age")), (expected, None), "{answer:?}");
        let finding =
            if expected == 200 { "[+]db ok: not checked yet\n" } else { "[-]db failed: not checked yet\n" };
        assert!(answer.body.starts_with(finding), "{answer:?}");
        world.pass(2 * SECOND);
        assert_eq!(ask(&mut world, "/readyz").body, "policy shop: readiness passed\n");
    }
}

#[test]
fn a_probe_response_has_the_age_of_each_check_and_marks_old_ones_as_stale() {
    let mut world = world(&required());
    assert_eq!(ask(&mut world, "/readyz").header("age"), Some("0"));
    // From now on, its checks cannot be sent.
    world.set_checks("db", Manner::NoHost);
    world.pass(2 * SECOND);
    let aged = ask(&mut world, "/readyz");
    let age: u64 = aged.header("age").unwrap().parse().unwrap();
    assert!((2..=3).contains(&age), "{age}");
    assert_eq!(aged.body, "policy shop: readiness passed\n");
    world.pass(60 * SECOND);
    let stale = ask(&mut world, "/readyz");
    assert_eq!(stale.status, 200);
    assert!(stale.body.contains("[+]db ok: stale: last answer 6"), "{stale:?}");
    assert!(stale.body.contains("readiness passed, degraded; oldest answer 6"), "{stale:?}");
}

#[test]
fn excluded_checks_count_as_passed_and_an_unknown_name_is_a_warning() {
    let mut world = world(&required());
    down(&mut world, "db");
    assert_eq!(status(&mut world, "/readyz?exclude=cache"), 503);
    assert_eq!(ask(&mut world, "/readyz?exclude=db").body, "policy shop: readiness passed\n");
    down(&mut world, "cache");
    let both = "/readyz?exclude=db&x=y&exclude=cache&exclude=db";
    assert_eq!(ask(&mut world, both).body, "policy shop: readiness passed\n");
    let listed = format!("{both}&verbose");
    let expected = "[+]db excluded\n[+]cache excluded\npolicy shop: readiness passed\n";
    assert_eq!(ask(&mut world, &listed).body, expected);
    let answer = ask(&mut world, "/readyz?exclude=queue");
    assert_eq!(answer.status, 503);
    assert!(answer.body.contains("warning: no check \"queue\" to exclude\n"), "{answer:?}");
}

#[test]
fn each_check_can_be_requested_alone_and_is_counted_separately() {
    let mut world = world(&required());
    down(&mut world, "cache");
    assert_eq!((status(&mut world, "/readyz/db"), status(&mut world, "/readyz/cache")), (200, 503));
    let alone = ask(&mut world, "/readyz/cache").body;
    assert!(alone.contains("[-]cache failed: ") && !alone.contains("]db "), "{alone}");
    assert_eq!(world.metric("probe_answers_total", &["probe=readiness/db", "code=200", "result=passed"]), 3);
    assert_eq!(
        world.metric("probe_answers_total", &["probe=readiness/cache", "code=503", "result=failed"]),
        6
    );
    assert_eq!(world.metric("probe_answers_total", &["probe=readiness"]), 0);
}

#[test]
fn only_a_get_or_head_of_the_exact_path_is_a_probe() {
    let mut world = world(&required());
    let get = [
        "/livez/",
        "/livezz",
        "/Livez",
        "/x?/livez",
        "/livez/db",
        "/readyz/",
        "/readyz//db",
        "/readyz/db/deep",
    ];
    for path in get {
        assert_eq!(world.ask(0, &Request::get(path)).cluster, "app", "{path}");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        assert_eq!(world.ask(0, &Request::of(method, "/livez")).cluster, "app", "{method}");
    }
    for path in ["/livez?", "/livez?a=b", "/readyz?verbose", "/readyz/db?x"] {
        for method in ["GET", "HEAD"] {
            assert_eq!(world.ask(0, &Request::of(method, path)).cluster, "", "{method} {path}");
        }
    }
}

#[test]
fn a_check_that_does_not_exist_is_not_found_and_does_not_reach_the_app() {
    let mut world = world(&required());
    let answer = ask(&mut world, "/readyz/TYPO");
    let text = "policy shop: readiness has no check of this name. It has: db, cache\n";
    assert_eq!((answer.status, answer.body.as_str(), answer.cluster.as_str()), (404, text, ""));
    assert_eq!(answer.details, "graygate_probe{shop|readiness}");
    let labels = ["probe=readiness", "code=404", "result=not-found"];
    assert_eq!(world.metric("probe_answers_total", &labels), 3);
    assert_eq!(world.ask(0, &Request::of("POST", "/readyz/TYPO")).cluster, "app");
}

#[test]
fn a_probe_that_does_not_match_goes_to_the_app() {
    let matches = ["one", "two"].map(|token| json!({"headers": {"x-token": {"exact": token}}}));
    let mut probes = required();
    probes["match"] = json!(matches);
    probes["drain"] = json!({"path": "/drainz"});
    let mut world = world(&probes);
    for (method, path) in [
        ("GET", "/livez"),
        ("HEAD", "/readyz"),
        ("GET", "/readyz/db"),
        ("GET", "/readyz/TYPO"),
        ("POST", "/drainz"),
    ] {
        let request = Request::of(method, path);
        assert_eq!(world.ask(0, &request).cluster, "app", "{path}");
        assert_eq!(world.ask(0, &request.clone().with("x-token", "three")).cluster, "app", "{path}");
        assert_eq!(world.ask(0, &request.with("x-token", "two")).cluster, "", "{path}");
    }
}

#[test]
fn a_policy_can_set_the_statuses_of_probes() {
    let checks = json!([{"upstream": "db"}, {"upstream": "queue", "required": false}]);
    let statuses = json!({"passed": 204, "degraded": 299, "failed": 418});
    let mut world = world(&json!({"readiness": {"path": "/readyz", "checks": checks, "statuses": statuses}}));
    let passed = ask(&mut world, "/readyz?verbose");
    assert_eq!((passed.status, passed.body.as_str()), (204, ""));
    down(&mut world, "queue");
    assert_eq!(status(&mut world, "/readyz"), 299);
    down(&mut world, "db");
    assert_eq!(status(&mut world, "/readyz"), 418);
    for (code, result) in [("204", "passed"), ("299", "degraded"), ("418", "failed")] {
        let labels = ["probe=readiness", &format!("code={code}"), &format!("result={result}")];
        assert_eq!(world.metric("probe_answers_total", &labels), 3, "{result}");
    }
}

#[test]
fn probes_show_details_as_the_policy_says() {
    // The texts when all is well, in verbose form, and when a check fails.
    for (details, passing, verbose, failing) in
        [("never", false, false, false), ("onFailure", false, true, true), ("always", true, true, true)]
    {
        let mut probes = required();
        probes["details"] = json!(details);
        let mut world = world(&probes);
        let mut lists = |path: &str, expected: bool| {
            assert_eq!(ask(&mut world, path).body.contains("]db "), expected, "{details} {path}");
        };
        lists("/readyz", passing);
        lists("/readyz?verbosely", passing);
        lists("/readyz?verbose", verbose);
        lists("/readyz?a&verbose=false", verbose);
        down(&mut world, "db");
        assert_eq!(ask(&mut world, "/readyz").body.contains("]db "), failing, "{details}");
        assert_eq!(status(&mut world, "/readyz"), 503);
    }
}

#[test]
fn json_is_sent_on_request_and_may_be_cached_until_the_next_check() {
    let mut probes = required();
    let mut world = world(&probes);
    let asks = Request::get("/readyz").with("accept", "application/health+json");
    let answer = world.ask(0, &asks);
    let document: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!((&document["status"], &document["serviceId"]), (&json!("pass"), &json!("shop")));
    assert_eq!(answer.header("content-type"), Some("application/health+json"));
    assert_eq!(answer.header("cache-control"), Some("max-age=1"));
    assert_eq!(world.ask(0, &Request::get("/readyz")).header("cache-control"), Some("no-store"));
    // A drain takes effect before the next check.
    probes["drain"] = json!({"path": "/drainz"});
    let mut drained = self::world(&probes);
    assert_eq!(drained.ask(0, &asks).header("cache-control"), Some("no-store"));
    down(&mut world, "db");
    let failed = world.ask(0, &asks);
    let document: Value = serde_json::from_str(&failed.body).unwrap();
    assert_eq!((failed.status, failed.header("cache-control")), (503, Some("no-store")));
    assert_eq!(document["checks"]["db"][0]["output"], "check-failed: status 500");
}

#[test]
fn neither_startup_nor_drain_fails_a_group() {
    let mut probes = required();
    probes["startup"] = json!({"path": "/startupz", "checks": [{"upstream": "queue"}]});
    probes["drain"] = json!({"path": "/drainz"});
    probes["groups"] = json!({"deep": {"path": "/deepz", "checks": [{"upstream": "search"}]}});
    let mut world = World::new(&document(&probes), 3);
    world.set_checks("queue", Manner::Status(500));
    world.pass(4 * SECOND);
    assert_eq!((status(&mut world, "/readyz"), status(&mut world, "/deepz")), (503, 200));
    up(&mut world, "queue");
    assert_eq!(status(&mut world, "/readyz"), 200);
    world.ask(0, &Request::of("POST", "/drainz"));
    world.pass(SECOND);
    assert_eq!((status(&mut world, "/readyz"), status(&mut world, "/deepz")), (503, 200));
    down(&mut world, "search");
    assert_eq!(ask(&mut world, "/deepz").details, "graygate_probe{shop|deep}");
    assert_eq!(status(&mut world, "/deepz"), 503);
}

#[test]
fn probes_send_no_requests_however_many_clients_ask() {
    let mut world = world(&required());
    let calls = world.around.sent.borrow().len();
    for _ in 0..1_000 {
        status(&mut world, "/readyz");
    }
    assert_eq!(world.around.sent.borrow().len(), calls);
    assert_eq!(world.metric("probe_answers_total", &["probe=readiness", "code=200", "result=passed"]), 3_000);
    for counter in ["assignments_total", "gated_requests_total", "responses_total"] {
        assert_eq!(world.metric(counter, &[]), 0, "{counter}");
    }
}

#[test]
fn probes_are_not_seen_by_breakers_gates_or_releases() {
    let mut document = document(&required());
    for (name, breaker) in
        [("db", json!({"consecutiveFailures": 2})), ("cache", json!({"consecutiveFailures": 2}))]
    {
        document["upstreams"][name]["circuitBreaker"] = breaker;
    }
    document["gates"] = json!([{"upstream": "db"}]);
    document["releases"] = json!([{
        "name": "web", "steer": {"header": "x-version"},
        "versions": [{"name": "v1", "upstream": "cache", "weight": 1, "default": true}],
    }]);
    let mut world = World::new(&document, 3);
    world.set_checks("queue", Manner::Status(500));
    world.set_checks("db", Manner::Status(500));
    world.pass(4 * SECOND);
    for _ in 0..50 {
        assert_eq!(status(&mut world, "/readyz"), 503);
    }
    assert_eq!(world.metric("assignments_total", &[]), 0);
    assert_eq!(world.metric("gated_requests_total", &[]), 0);
    assert_eq!(world.phase("cache"), "ready");
}

// -- markers ------------------------------------------------------------------

const MARKERS: [&str; 3] =
    ["x-envoy-degraded", "x-envoy-immediate-health-check-fail", "x-envoy-upstream-healthchecked-cluster"];

fn marked(world: &mut World, path: &str) -> BTreeSet<&'static str> {
    let answer = ask(world, path);
    MARKERS.into_iter().filter(|name| answer.header(name).is_some()).collect()
}

#[test]
fn marker_headers_report_degraded_draining_and_the_service() {
    let [degraded, at_once, service] = MARKERS;
    let checks = json!([{"upstream": "db"}, {"upstream": "queue", "required": false}]);
    let mut probes =
        json!({"readiness": {"path": "/readyz", "checks": checks}, "drain": {"path": "/drainz"}});
    let mut plain = world(&probes);
    probes["markerHeaders"] = json!(true);
    let mut world = world(&probes);
    assert_eq!(marked(&mut world, "/readyz"), [service].into());
    assert_eq!(ask(&mut world, "/livez").header(service), Some("sim"));
    for each in [&mut world, &mut plain] {
        down(each, "queue");
    }
    assert_eq!(marked(&mut world, "/readyz"), [degraded, service].into());
    for each in [&mut world, &mut plain] {
        down(each, "db");
    }
    assert_eq!(marked(&mut world, "/readyz"), [service].into());
    for each in [&mut world, &mut plain] {
        each.ask(0, &Request::of("POST", "/drainz"));
        each.pass(SECOND);
        assert_eq!(each.get(0).header(service), None);
    }
    assert_eq!(marked(&mut world, "/readyz"), [at_once, service].into());
    assert_eq!(marked(&mut world, "/livez"), [service].into());
    assert_eq!(marked(&mut plain, "/readyz"), BTreeSet::new());
}

// -- shadow -------------------------------------------------------------------

/// A mode or a rollout, as keys of the policy.
type Keys = (&'static str, Value);

/// Returns the ways in which a proxy can be told not to enforce, and the one in which it enforces.
fn modes() -> [Keys; 3] {
    [("mode", json!("enforce")), ("mode", json!("shadow")), ("rollout", json!({"percent": 0}))]
}

#[test]
fn probes_and_orders_to_drain_are_answered_alike_whether_traffic_is_enforced_or_not() {
    let mut expected = None;
    for (key, value) in modes() {
        let mut probes = required();
        probes["startup"] = json!({"path": "/startupz", "checks": [{"upstream": "search"}]});
        probes["drain"] = json!({"path": "/drainz"});
        probes["markerHeaders"] = json!(true);
        let mut document = document(&probes);
        document[key] = value;
        let mut world = World::new(&document, 3);
        world.set("app", Manner::Status(418));
        world.pass(4 * SECOND);
        let mut answers = vec![ask(&mut world, "/readyz")];
        down(&mut world, "db");
        for (method, path) in [
            ("GET", "/livez"),
            ("GET", "/startupz"),
            ("HEAD", "/readyz"),
            ("GET", "/readyz/cache"),
            ("GET", "/readyz?exclude=db"),
            ("POST", "/drainz"),
            ("GET", "/readyz?exclude=db"),
            ("GET", "/livez"),
            ("DELETE", "/drainz"),
            ("GET", "/readyz?exclude=db"),
        ] {
            let id = world.start(0, &Request::of(method, path));
            // The access log has the details of the reply, so it needs no label.
            assert_eq!(world.label(id), "");
            world.pass(SECOND);
            answers.push(world.answer(id));
        }
        assert!(answers.iter().all(|answer| answer.details.starts_with("graygate_probe{shop|")));
        let is_real = |name: &String| {
            ["probe_answers_total", "lifecycle_changes_total", "checks_total", "transitions_total"]
                .iter()
                .any(|kind| name.starts_with(&format!("graygate_{kind}.")))
        };
        let counts: Vec<(String, u64)> =
            world.metrics().into_iter().filter(|(name, _)| is_real(name)).collect();
        let drains = world.logged("draining");
        assert_eq!(drains, ["policy shop: draining", "policy shop: no longer draining"]);
        match &expected {
            None => expected = Some((answers, counts, drains)),
            Some(expected) => assert_eq!((answers, counts, drains), *expected, "{key}"),
        }
    }
}

#[test]
fn probes_that_the_app_answers_are_called_for_alike_whether_traffic_is_enforced_or_not() {
    for (key, value) in modes() {
        let through = json!({"path": "/readyz", "passThrough": {"cacheSeconds": 60, "upstream": "db"}});
        let mut document = document(&json!({"liveness": through}));
        document[key] = value;
        let mut world = World::new(&document, 3);
        world.pass(SECOND);
        let before = world.calls_to("db").len();
        for _ in 0..3 {
            let id = world.start(0, &Request::get("/readyz").with("x-mine", "1"));
            world.pass(SECOND / 2);
            assert_eq!((world.answer(id).status, world.answer(id).cluster.as_str()), (200, ""), "{key}");
        }
        let calls = world.calls_to("db");
        let asked = calls[before..].iter().filter(|call| call.header(":path") == Some("/readyz")).count();
        assert_eq!(asked, 1, "{key}");
    }
}
