//! Probes to which the app itself responds: one request at a time goes to it, and the others get its last response.

use serde_json::{Value, json};

use super::sim::{Answer, Manner, Request, World};
use super::{MS, SECOND};

/// Returns a proxy of three workers whose readiness passes through by this rule.
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

/// Sends a readiness request to this worker. It is open if it was forwarded to the app.
fn ask(world: &mut World, vm: usize) -> u32 {
    world.send(vm, &Request::get("/readyz"))
}

/// Returns the filter's response to a request that it does not forward.
fn filter_response(world: &mut World, vm: usize) -> Answer {
    let id = ask(world, vm);
    assert!(!world.is_open(id), "it went on");
    world.answer(id)
}

/// Sends a request that is forwarded, and responds as the app.
fn fetch(world: &mut World, vm: usize, status: u16, body: &str) {
    let id = ask(world, vm);
    assert!(world.is_open(id), "it did not go on");
    world.respond(id, status, "via_upstream", &[("content-type", "text/x")], false);
    world.body(id, body, true);
}

const PENDING: &str = "policy shop: readiness failed: the app has not answered yet\n";
const SILENT: &str = "policy shop: readiness failed: the app does not answer\n";

#[test]
fn the_apps_response_is_replayed_by_all_workers_until_it_expires() {
    let mut world = world(&two_seconds());
    fetch(&mut world, 0, 429, "not yet");
    for (passed, age) in [(0, "0"), (1_500, "1"), (499, "1")] {
        world.pass(passed * MS);
        for vm in 0..3 {
            let answer = filter_response(&mut world, vm);
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
    assert_eq!(filter_response(&mut world, 1).body, "up");
}

#[test]
fn the_app_gets_one_probe_per_cache_seconds_however_many_clients_ask() {
    let mut world = world(&two_seconds());
    let mut asked: Vec<u64> = Vec::new();
    // Each worker gets ten requests a second, for two minutes.
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
fn any_status_of_the_app_is_replayed_and_each_response_is_counted_once() {
    for (status, result) in [(200, "passed"), (302, "passed"), (404, "failed"), (500, "failed")] {
        let mut world = world(&two_seconds());
        fetch(&mut world, 0, status, "");
        for vm in 0..3 {
            assert_eq!(filter_response(&mut world, vm).status, status);
        }
        let labels = ["probe=readiness", &format!("code={status}"), &format!("result={result}")];
        assert_eq!(world.metric("probe_answers_total", &labels), 4);
    }
}

#[test]
fn responses_to_get_and_head_are_stored_separately() {
    let mut world = world(&two_seconds());
    fetch(&mut world, 0, 200, "up");
    let id = world.send(1, &Request::of("HEAD", "/readyz"));
    assert!(world.is_open(id));
    assert_eq!(world.sent_header(id, ":method").as_deref(), Some("HEAD"));
    world.respond(id, 200, "via_upstream", &[], true);
    let again = world.send(2, &Request::of("HEAD", "/readyz"));
    assert_eq!(world.answer(again).body, "");
    assert_eq!(filter_response(&mut world, 0).body, "up");
}

#[test]
fn only_the_headers_that_the_policy_names_are_replayed() {
    let rule = json!({"cacheSeconds": 2, "headers": ["content-type", "X-Reason", "x-absent"]});
    let mut world = world(&rule);
    let id = ask(&mut world, 0);
    let headers =
        [("content-type", "text/x"), ("x-reason", "warming up"), ("x-build", "7"), ("set-cookie", "a=b")];
    world.respond(id, 200, "via_upstream", &headers, true);
    // The client whose request was forwarded gets the whole response.
    assert_eq!(world.answer(id).header("x-build"), Some("7"));
    let answer = filter_response(&mut world, 1);
    assert_eq!((answer.header("x-reason"), answer.header("x-build")), (Some("warming up"), None));
    assert_eq!((answer.header("x-absent"), answer.header("set-cookie")), (None, None));
}

#[test]
fn a_body_in_parts_is_stored_up_to_16_kib_with_or_without_trailers() {
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
        assert_eq!(filter_response(&mut world, 1).body, part.repeat(2)[..16 * 1024]);
    }
}

#[test]
fn responses_that_are_incomplete_or_not_the_apps_are_not_stored() {
    let reset = "upstream_reset_after_response_started{connection_termination}";
    let mut world = world(&two_seconds());
    // Another filter may have responded for this client only.
    let id = ask(&mut world, 0);
    world.respond(id, 403, "ext_authz_denied", &[], true);
    // The app breaks off this response.
    let id = ask(&mut world, 1);
    assert!(world.is_open(id));
    world.respond(id, 200, "via_upstream", &[], false);
    world.body(id, "half", false);
    world.end(id, reset);
    fetch(&mut world, 2, 200, "up");
    assert_eq!(filter_response(&mut world, 0).body, "up");
    assert_eq!(world.metric("probe_answers_total", &["probe=readiness", "code=403"]), 1);
}

#[test]
fn an_error_because_the_app_is_unreachable_is_replayed() {
    let mut world = world(&two_seconds());
    world.set("app", Manner::Refuses);
    assert_eq!(world.ask(0, &Request::get("/readyz")).status, 503);
    for _ in 0..10 {
        let answer = filter_response(&mut world, 1);
        assert_eq!((answer.status, answer.header("age")), (503, Some("0")));
    }
}

#[test]
fn while_one_request_waits_the_others_get_the_last_response_for_cache_seconds_more() {
    let mut world = world(&two_seconds());
    fetch(&mut world, 0, 200, "up");
    world.pass(60 * SECOND);
    let waiting = ask(&mut world, 0);
    assert!(world.is_open(waiting));
    world.pass(1_999 * MS);
    for vm in 0..3 {
        let answer = filter_response(&mut world, vm);
        assert_eq!((answer.status, answer.header("age")), (200, Some("61")));
    }
    world.pass(MS);
    for vm in 0..3 {
        let answer = filter_response(&mut world, vm);
        assert_eq!((answer.status, answer.body.as_str()), (503, SILENT));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
    }
    world.respond(waiting, 200, "via_upstream", &[], true);
    assert_eq!(filter_response(&mut world, 1).status, 200);
}

#[test]
fn before_the_first_response_readiness_fails_and_liveness_passes_for_a_while() {
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
    let answer = filter_response(&mut world, 1);
    assert_eq!((answer.status, answer.body.as_str()), (503, PENDING));
    let answer = live(&mut world);
    let words = "policy shop: liveness passed: the app has not answered yet\n";
    assert_eq!((answer.status, answer.body.as_str()), (200, words));
    world.pass(2 * SECOND);
    assert_eq!(filter_response(&mut world, 1).body, SILENT);
    assert_eq!((live(&mut world).status), 503);
}

#[test]
fn when_the_waiting_client_leaves_the_next_request_is_forwarded() {
    let mut world = world(&two_seconds());
    for turn in 0..9 {
        let waiting = ask(&mut world, turn % 3);
        assert!(world.is_open(waiting), "{turn}");
        assert!(filter_response(&mut world, (turn + 1) % 3).status == 503);
        world.leave(waiting);
    }
    fetch(&mut world, 0, 200, "up");
}

#[test]
fn clients_that_give_up_one_after_the_other_do_not_extend_an_old_response() {
    let mut world = world(&two_seconds());
    fetch(&mut world, 0, 200, "up");
    world.pass(60 * SECOND);
    // Each client waits for a second. Together they wait longer than a response is kept.
    let mut seen = Vec::new();
    for turn in 0..5 {
        let waiting = ask(&mut world, turn % 3);
        assert!(world.is_open(waiting));
        world.pass(900 * MS);
        seen.push(filter_response(&mut world, (turn + 1) % 3).status);
        world.leave(waiting);
    }
    assert_eq!(seen, [200, 200, 503, 503, 503]);
    fetch(&mut world, 0, 200, "up");
    assert_eq!(filter_response(&mut world, 1).status, 200);
}

#[test]
fn an_incomplete_probe_request_is_not_forwarded() {
    let mut world = world(&two_seconds());
    let unfinished = Request::get("/readyz").unfinished();
    for _ in 0..20 {
        let id = world.send(0, &unfinished);
        assert_eq!(world.answer(id).body, PENDING);
    }
    fetch(&mut world, 1, 200, "up");
    world.pass(60 * SECOND);
    // Its client gets the stored response and delays nobody.
    let id = world.send(0, &unfinished);
    assert_eq!(world.answer(id).body, "up");
    fetch(&mut world, 1, 200, "new");
}

#[test]
fn another_request_is_forwarded_ten_seconds_after_the_fetching_vm_died() {
    let mut world = world(&two_seconds());
    let waiting = ask(&mut world, 0);
    assert!(world.is_open(waiting));
    world.kill(0);
    world.pass(9_999 * MS);
    assert_eq!(filter_response(&mut world, 1).body, SILENT);
    world.pass(MS);
    fetch(&mut world, 1, 200, "up");
    assert_eq!(filter_response(&mut world, 2).body, "up");
}

#[test]
fn a_response_that_cannot_be_stored_is_passed_on_and_requested_again() {
    let mut world = world(&two_seconds());
    let id = ask(&mut world, 0);
    world.lose(16);
    world.respond(id, 200, "via_upstream", &[], true);
    assert_eq!(world.answer(id).status, 200);
    assert_eq!(filter_response(&mut world, 1).body, PENDING);
    world.pass(10 * SECOND);
    fetch(&mut world, 1, 200, "up");
}

#[test]
fn nothing_from_a_probe_request_reaches_the_app() {
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
fn headers_that_the_proxy_has_set_are_kept() {
    let mut world = world(&two_seconds());
    let request = Request::get("/readyz").with("x-request-id", "a-b-c").with("x-envoy-internal", "true");
    let id = world.send(0, &request);
    assert_eq!(world.sent_header(id, "x-request-id").as_deref(), Some("a-b-c"));
    assert_eq!(world.sent_header(id, "x-envoy-internal").as_deref(), Some("true"));
    assert_eq!(world.sent_header(id, ":scheme").as_deref(), Some("http"));
}

#[test]
fn startup_and_drain_fail_readiness_without_asking_the_app() {
    let mut document = document(&two_seconds());
    let check = json!({"httpGet": {}, "periodSeconds": 1});
    document["upstreams"]["db"] = json!({"cluster": "db", "readinessProbe": check});
    document["probes"]["startup"] = json!({"path": "/startupz", "checks": [{"upstream": "db"}]});
    let mut world = World::new(&document, 3);
    world.set("db", Manner::Status(500));
    world.pass(5 * SECOND);
    let answer = filter_response(&mut world, 0);
    assert!(answer.status == 503 && answer.body.contains("not started yet"), "{answer:?}");
    world.set("db", Manner::Status(200));
    world.pass(5 * SECOND);
    fetch(&mut world, 0, 200, "up");
    world.ask(0, &Request::of("POST", "/drainz"));
    world.pass(60 * SECOND);
    let answer = filter_response(&mut world, 1);
    assert!(answer.status == 503 && answer.body.contains("draining"), "{answer:?}");
    world.ask(0, &Request::of("DELETE", "/drainz"));
    world.pass(SECOND);
    fetch(&mut world, 2, 200, "up");
}

#[test]
fn a_forwarded_probe_does_not_count_as_a_users_request() {
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
    // No gate applies to it.
    fetch(&mut world, 0, 200, "up");
}

#[test]
fn an_update_keeps_the_stored_response_unless_it_changes_the_rule() {
    let mut world = world(&json!({"cacheSeconds": 3600}));
    fetch(&mut world, 0, 200, "up");
    let mut document = document(&json!({"cacheSeconds": 3600}));
    document["probes"]["liveness"]["path"] = json!("/alivez");
    world.configure(&document);
    assert_eq!(filter_response(&mut world, 1).body, "up");
    document["probes"]["readiness"]["passThrough"]["host"] = json!("app.local");
    world.configure(&document);
    fetch(&mut world, 1, 200, "of the other host");
}

#[test]
fn marker_headers_are_on_the_response_and_on_its_replays() {
    let mut document = document(&two_seconds());
    document["probes"]["markerHeaders"] = json!(true);
    let mut world = World::new(&document, 3);
    let service = "x-envoy-upstream-healthchecked-cluster";
    let first = world.ask(0, &Request::get("/readyz"));
    assert_eq!(first.header(service), Some("sim"));
    assert_eq!(filter_response(&mut world, 1).header(service), Some("sim"));
}
