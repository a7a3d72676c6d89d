//! Probes that the app answers itself: one request at a time goes on, the others get the last answer.

use serde_json::{Value, json};

use super::sim::{Answer, Manner, Request, World};
use super::{MS, SECOND};

/// A proxy of three workers whose readiness is the app's own answer, by this rule.
fn world(rule: &Value) -> World {
    World::new(&document(rule), 3)
}

fn document(rule: &Value) -> Value {
    json!({
        "name": "shop",
        "upstreams": {"app": {"cluster": "app"}},
        "probes": {
            "liveness": {"path": "/livez"},
            "readiness": {"path": "/readyz", "passThrough": rule},
            "drain": {"path": "/drainz"},
        },
    })
}

fn two_seconds() -> Value {
    json!({"cacheSeconds": 2})
}

/// A request for readiness, on this worker. Whether it has gone on to the app is whether it is open.
fn ask(world: &mut World, vm: usize) -> u32 {
    world.send(vm, &Request::get("/readyz"))
}

/// What a request gets that does not go on.
fn told(world: &mut World, vm: usize) -> Answer {
    let id = ask(world, vm);
    assert!(!world.is_open(id), "it went on");
    world.answer(id)
}

/// Has a request go on and the app answer it.
fn fetch(world: &mut World, vm: usize, status: u16, body: &str) {
    let id = ask(world, vm);
    assert!(world.is_open(id), "it did not go on");
    world.respond(id, status, "via_upstream", &[("content-type", "text/x")], false);
    world.body(id, body, true);
}

const PENDING: &str = "policy shop: readiness failed: the app has not answered yet\n";
const SILENT: &str = "policy shop: readiness failed: the app does not answer\n";

#[test]
fn the_apps_answer_is_replayed_by_all_workers_until_it_is_too_old() {
    let mut world = world(&two_seconds());
    fetch(&mut world, 0, 429, "not yet");
    for (passed, age) in [(0, "0"), (1_500, "1"), (499, "1")] {
        world.pass(passed * MS);
        for vm in 0..3 {
            let answer = told(&mut world, vm);
            assert_eq!((answer.status, answer.body.as_str()), (429, "not yet"));
            assert_eq!(
                (answer.header("age"), answer.header("cache-control")),
                (Some(age), Some("max-age=2"))
            );
            assert_eq!(answer.header("content-type"), Some("text/x"));
        }
    }
    world.pass(MS);
    fetch(&mut world, 2, 200, "up");
    assert_eq!(told(&mut world, 1).body, "up");
}

#[test]
fn the_app_is_asked_once_in_cache_seconds_however_many_ask() {
    let mut world = world(&two_seconds());
    let mut asked: Vec<u64> = Vec::new();
    // For two minutes, each worker ten times a second.
    for turn in 0..3_600 {
        let id = ask(&mut world, turn % 3);
        if world.is_open(id) {
            asked.push(world.now());
            world.respond(id, 200, "via_upstream", &[], true);
        }
        if turn % 3 == 2 {
            world.pass(100 * MS);
        }
    }
    assert_eq!(asked.len(), 60);
    assert!(asked.windows(2).all(|pair| pair[1] - pair[0] == 2_000));
}

#[test]
fn any_status_of_the_app_is_replayed_and_each_answer_is_counted_once() {
    for (status, result) in [(200, "passed"), (302, "passed"), (404, "failed"), (500, "failed")] {
        let mut world = world(&two_seconds());
        fetch(&mut world, 0, status, "");
        for vm in 0..3 {
            assert_eq!(told(&mut world, vm).status, status);
        }
        let labels = ["probe=readiness", &format!("code={status}"), &format!("result={result}")];
        assert_eq!(world.metric("probe_answers_total", &labels), 4);
    }
}

#[test]
fn get_and_head_are_kept_apart() {
    let mut world = world(&two_seconds());
    fetch(&mut world, 0, 200, "up");
    let id = world.send(1, &Request::of("HEAD", "/readyz"));
    assert!(world.is_open(id));
    assert_eq!(world.sent_header(id, ":method").as_deref(), Some("HEAD"));
    world.respond(id, 200, "via_upstream", &[], true);
    let again = world.send(2, &Request::of("HEAD", "/readyz"));
    assert_eq!(world.answer(again).body, "");
    assert_eq!(told(&mut world, 0).body, "up");
}

#[test]
fn of_the_headers_those_are_kept_that_the_policy_names() {
    let rule = json!({"cacheSeconds": 2, "headers": ["content-type", "X-Reason", "x-absent"]});
    let mut world = world(&rule);
    let id = ask(&mut world, 0);
    let headers =
        [("content-type", "text/x"), ("x-reason", "warming up"), ("x-build", "7"), ("set-cookie", "a=b")];
    world.respond(id, 200, "via_upstream", &headers, true);
    // Whoever has fetched it gets all of it.
    assert_eq!(world.answer(id).header("x-build"), Some("7"));
    let answer = told(&mut world, 1);
    assert_eq!((answer.header("x-reason"), answer.header("x-build")), (Some("warming up"), None));
    assert_eq!((answer.header("x-absent"), answer.header("set-cookie")), (None, None));
}

#[test]
fn a_body_in_parts_is_kept_up_to_sixteen_kibibytes_with_trailers_or_without() {
    for trailers in [false, true] {
        let mut world = world(&two_seconds());
        let id = ask(&mut world, 0);
        world.respond(id, 200, "via_upstream", &[], false);
        let part = "0123456789abcdef".repeat(640);
        world.body(id, &part, false);
        world.body(id, &part, !trailers);
        if trailers {
            world.trailers(id, &[("x-checksum", "1")]);
        }
        assert_eq!(told(&mut world, 1).body, part.repeat(2)[..16 * 1024]);
    }
}

#[test]
fn what_is_not_the_apps_answer_is_not_kept() {
    let reset = "upstream_reset_after_response_started{connection_termination}";
    let mut world = world(&two_seconds());
    // Another filter may have said it to this one asker.
    let id = ask(&mut world, 0);
    world.respond(id, 403, "ext_authz_denied", &[], true);
    // This one breaks off.
    let id = ask(&mut world, 1);
    assert!(world.is_open(id));
    world.respond(id, 200, "via_upstream", &[], false);
    world.body(id, "half", false);
    world.end(id, reset);
    fetch(&mut world, 2, 200, "up");
    assert_eq!(told(&mut world, 0).body, "up");
    assert_eq!(world.metric("probe_answers_total", &["probe=readiness", "code=403"]), 1);
}

#[test]
fn that_the_app_can_not_be_reached_is_its_answer() {
    let mut world = world(&two_seconds());
    world.set("app", Manner::Refuses);
    assert_eq!(world.ask(0, &Request::get("/readyz")).status, 503);
    for _ in 0..10 {
        let answer = told(&mut world, 1);
        assert_eq!((answer.status, answer.header("age")), (503, Some("0")));
    }
}

#[test]
fn while_one_waits_the_others_get_the_last_answer_for_as_long_again_and_then_a_no() {
    let mut world = world(&two_seconds());
    fetch(&mut world, 0, 200, "up");
    world.pass(60 * SECOND);
    let waiting = ask(&mut world, 0);
    assert!(world.is_open(waiting));
    world.pass(1_999 * MS);
    for vm in 0..3 {
        let answer = told(&mut world, vm);
        assert_eq!((answer.status, answer.header("age")), (200, Some("61")));
    }
    world.pass(MS);
    for vm in 0..3 {
        let answer = told(&mut world, vm);
        assert_eq!((answer.status, answer.body.as_str()), (503, SILENT));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
    }
    world.respond(waiting, 200, "via_upstream", &[], true);
    assert_eq!(told(&mut world, 1).status, 200);
}

#[test]
fn before_the_first_answer_readiness_says_no_and_liveness_yes_for_a_while() {
    let mut document = document(&two_seconds());
    document["probes"]["liveness"]["passThrough"] = two_seconds();
    let mut world = World::new(&document, 3);
    let first = ask(&mut world, 0);
    let alive = world.send(0, &Request::get("/livez"));
    assert!(world.is_open(first) && world.is_open(alive));
    let live = |world: &mut World| {
        let id = world.send(1, &Request::get("/livez"));
        world.answer(id)
    };
    let answer = told(&mut world, 1);
    assert_eq!((answer.status, answer.body.as_str()), (503, PENDING));
    let answer = live(&mut world);
    let words = "policy shop: liveness passed: the app has not answered yet\n";
    assert_eq!((answer.status, answer.body.as_str()), (200, words));
    world.pass(2 * SECOND);
    assert_eq!(told(&mut world, 1).body, SILENT);
    assert_eq!((live(&mut world).status), 503);
}

#[test]
fn when_the_one_that_waits_leaves_the_next_one_goes_on() {
    let mut world = world(&two_seconds());
    for turn in 0..9 {
        let waiting = ask(&mut world, turn % 3);
        assert!(world.is_open(waiting), "{turn}");
        assert!(told(&mut world, (turn + 1) % 3).status == 503);
        world.leave(waiting);
    }
    fetch(&mut world, 0, 200, "up");
}

#[test]
fn those_who_give_up_one_after_the_other_keep_no_old_answer_alive() {
    let mut world = world(&two_seconds());
    fetch(&mut world, 0, 200, "up");
    world.pass(60 * SECOND);
    // Each waits for a second: together that is longer than an answer lasts.
    let mut seen = Vec::new();
    for turn in 0..5 {
        let waiting = ask(&mut world, turn % 3);
        assert!(world.is_open(waiting));
        world.pass(900 * MS);
        seen.push(told(&mut world, (turn + 1) % 3).status);
        world.leave(waiting);
    }
    assert_eq!(seen, [200, 200, 503, 503, 503]);
    fetch(&mut world, 0, 200, "up");
    assert_eq!(told(&mut world, 1).status, 200);
}

#[test]
fn a_request_of_which_a_part_is_still_to_come_does_not_go_on() {
    let mut world = world(&two_seconds());
    let unfinished = Request::get("/readyz").unfinished();
    for _ in 0..20 {
        let id = world.send(0, &unfinished);
        assert_eq!(world.answer(id).body, PENDING);
    }
    fetch(&mut world, 1, 200, "up");
    world.pass(60 * SECOND);
    // It gets what the others get, and holds up nobody.
    let id = world.send(0, &unfinished);
    assert_eq!(world.answer(id).body, "up");
    fetch(&mut world, 1, 200, "new");
}

#[test]
fn should_the_vm_die_that_fetches_another_goes_on_after_ten_seconds() {
    let mut world = world(&two_seconds());
    let waiting = ask(&mut world, 0);
    assert!(world.is_open(waiting));
    world.kill(0);
    world.pass(9_999 * MS);
    assert_eq!(told(&mut world, 1).body, SILENT);
    world.pass(MS);
    fetch(&mut world, 1, 200, "up");
    assert_eq!(told(&mut world, 2).body, "up");
}

#[test]
fn an_answer_that_can_not_be_shared_is_passed_on_and_asked_for_again() {
    let mut world = world(&two_seconds());
    let id = ask(&mut world, 0);
    world.lose(16);
    world.respond(id, 200, "via_upstream", &[], true);
    assert_eq!(world.answer(id).status, 200);
    assert_eq!(told(&mut world, 1).body, PENDING);
    world.pass(10 * SECOND);
    fetch(&mut world, 1, 200, "up");
}

#[test]
fn nothing_that_an_asker_sends_reaches_the_app() {
    for host in [None, Some("app.local")] {
        let mut rule = two_seconds();
        if let Some(host) = host {
            rule["host"] = json!(host);
        }
        let mut world = world(&rule);
        let mut request = Request::get("/readyz?verbose&exclude=a").with("x-forwarded-proto", "https");
        for name in ["accept", "authorization", "cookie", "range", "x-http-method-override", "x-version"] {
            request = request.with(name, "x");
        }
        let id = world.send(0, &request.with("x-request-id", &"x".repeat(65)).with("user-agent", "evil"));
        let mut sent = world.forwarded_headers(id);
        sent.sort();
        let agent = format!("graygate/{}", env!("CARGO_PKG_VERSION"));
        let expected = [
            (":authority", host.unwrap_or("shop")),
            (":method", "GET"),
            (":path", "/readyz"),
            (":scheme", "https"),
            ("user-agent", &agent),
            ("x-forwarded-proto", "https"),
        ];
        assert_eq!(sent, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
}

#[test]
fn what_the_proxy_itself_has_set_stays() {
    let mut world = world(&two_seconds());
    let request = Request::get("/readyz").with("x-request-id", "a-b-c").with("x-envoy-internal", "true");
    let id = world.send(0, &request);
    assert_eq!(world.sent_header(id, "x-request-id").as_deref(), Some("a-b-c"));
    assert_eq!(world.sent_header(id, "x-envoy-internal").as_deref(), Some("true"));
    assert_eq!(world.sent_header(id, ":scheme").as_deref(), Some("http"));
}

#[test]
fn startup_and_drain_hold_readiness_back_without_asking_the_app() {
    let mut document = document(&two_seconds());
    let check = json!({"httpGet": {}, "periodSeconds": 1});
    document["upstreams"]["db"] = json!({"cluster": "db", "readinessProbe": check});
    document["probes"]["startup"] = json!({"path": "/startupz", "checks": [{"upstream": "db"}]});
    let mut world = World::new(&document, 3);
    world.set("db", Manner::Status(500));
    world.pass(5 * SECOND);
    let answer = told(&mut world, 0);
    assert!(answer.status == 503 && answer.body.contains("not started yet"), "{answer:?}");
    world.set("db", Manner::Status(200));
    world.pass(5 * SECOND);
    fetch(&mut world, 0, 200, "up");
    world.ask(0, &Request::of("POST", "/drainz"));
    world.pass(60 * SECOND);
    let answer = told(&mut world, 1);
    assert!(answer.status == 503 && answer.body.contains("draining"), "{answer:?}");
    world.ask(0, &Request::of("DELETE", "/drainz"));
    world.pass(SECOND);
    fetch(&mut world, 2, 200, "up");
}

#[test]
fn a_probe_of_the_apps_is_no_request_of_a_user() {
    let mut document = document(&json!({"cacheSeconds": 0.1}));
    document["upstreams"]["app"]["circuitBreaker"] = json!({"consecutiveFailures": 3, "notReadyFor": "1h"});
    document["gates"] = json!([{"upstream": "app"}]);
    document["releases"] = json!([{
        "name": "web", "steer": {"header": "x-version"},
        "versions": [{"name": "v1", "upstream": "app", "weight": 1, "default": true}],
    }]);
    let mut world = World::new(&document, 3);
    for _ in 0..20 {
        fetch(&mut world, 0, 500, "");
        world.pass(100 * MS);
    }
    assert_eq!(world.phase("app"), "ready");
    assert_eq!(world.metric("assignments_total", &[]), 0);
    world.set("app", Manner::Status(500));
    for _ in 0..3 {
        world.get(0);
    }
    world.pass(SECOND);
    assert!(world.get(0).is_gated());
    // No gate stands before it.
    fetch(&mut world, 0, 200, "up");
}

#[test]
fn an_update_of_the_policy_keeps_the_answer_unless_it_asks_for_another() {
    let mut world = world(&json!({"cacheSeconds": 3600}));
    fetch(&mut world, 0, 200, "up");
    let mut document = document(&json!({"cacheSeconds": 3600}));
    document["probes"]["liveness"]["path"] = json!("/alivez");
    world.configure(&document);
    assert_eq!(told(&mut world, 1).body, "up");
    document["probes"]["readiness"]["passThrough"]["host"] = json!("app.local");
    world.configure(&document);
    fetch(&mut world, 1, 200, "of the other host");
}

#[test]
fn marker_headers_stand_on_the_answer_and_on_its_replays() {
    let mut document = document(&two_seconds());
    document["probes"]["markerHeaders"] = json!(true);
    let mut world = World::new(&document, 3);
    let service = "x-envoy-upstream-healthchecked-cluster";
    let first = world.ask(0, &Request::get("/readyz"));
    assert_eq!(first.header(service), Some("sim"));
    assert_eq!(told(&mut world, 1).header(service), Some("sim"));
}
