//! Probes that the app itself answers: the filter calls it, one call at a time, and all clients get the answer.

use std::time::Duration;

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
        "upstreams": {"app": {"cluster": "app"}, "other": {"cluster": "other"}},
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

/// Sends a readiness probe to a worker.
fn start(world: &mut World, vm: usize) -> u32 {
    world.start(vm, &Request::get("/readyz"))
}

/// Sends a readiness probe to a worker and waits for the response.
fn ask(world: &mut World, vm: usize) -> Answer {
    world.ask(vm, &Request::get("/readyz"))
}

/// Returns the number of times that the app was called.
fn calls(world: &World) -> usize {
    world.calls_to("app").len()
}

/// Sets what the app answers from now on.
fn set_app(world: &mut World, status: u16, body: &str) {
    world.set("app", Manner::With(status, vec![("content-type", "text/x".to_owned())]));
    *world.around.call_body.borrow_mut() = body.to_owned();
}

/// Sets how long the app takes for an answer.
fn slow_app(world: &mut World, takes: Duration) {
    world.around.call_takes.set(takes);
}

const PENDING: &str = "policy shop: readiness failed: the app has not responded yet\n";
const SILENT: &str = "policy shop: readiness failed: the app does not respond\n";

#[test]
fn the_apps_response_is_replayed_by_all_workers_until_it_expires() {
    let mut world = world(&two_seconds());
    set_app(&mut world, 429, "not yet");
    ask(&mut world, 0);
    set_app(&mut world, 200, "up");
    for (passed, age) in [(0, "0"), (1_500, "1"), (499, "1")] {
        world.pass(passed * MS);
        for vm in 0..3 {
            let answer = ask(&mut world, vm);
            assert_eq!((answer.status, answer.body.as_str()), (429, "not yet"));
            assert_eq!(
                (answer.header("age"), answer.header("cache-control")),
                (Some(age), Some("max-age=2"))
            );
            assert_eq!(answer.header("content-type"), Some("text/x"));
        }
    }
    world.pass(MS);
    assert_eq!(ask(&mut world, 2).body, "up");
    assert_eq!(ask(&mut world, 1).body, "up");
}

#[test]
fn the_app_gets_one_probe_per_cache_seconds_however_many_clients_ask() {
    let mut world = world(&two_seconds());
    // Each worker gets ten requests a second, for two minutes.
    for turn in 0..3_600 {
        start(&mut world, turn % 3);
        if turn % 3 == 2 {
            world.pass(100 * MS);
        }
    }
    let asked: Vec<u64> = world.calls_to("app").iter().map(|call| call.at).collect();
    assert!((57..=60).contains(&asked.len()), "{}", asked.len());
    assert!(asked.windows(2).all(|pair| pair[1] - pair[0] >= 2_000), "{asked:?}");
}

/// The kubelet asks like any client, but only it stays.
#[test]
fn clients_that_leave_early_keep_nobody_from_the_apps_answer() {
    let mut world = world(&two_seconds());
    set_app(&mut world, 200, "up");
    slow_app(&mut world, 300 * MS);
    let mut asked = Vec::new();
    for turn in 0..240 {
        for vm in 0..3 {
            let id = start(&mut world, vm);
            world.leave_after(id, 250 * MS);
        }
        if turn % 5 == 0 {
            asked.push(start(&mut world, turn % 3));
        }
        world.pass(100 * MS);
    }
    world.pass(SECOND);
    for id in asked {
        assert_eq!((world.answer(id).status, world.answer(id).body.as_str()), (200, "up"));
    }
    let calls = world.calls_to("app");
    assert!(calls.windows(2).all(|pair| pair[1].at - pair[0].at >= 2_000));
}

#[test]
fn a_response_fills_the_cache_after_every_client_has_left() {
    let mut world = world(&two_seconds());
    set_app(&mut world, 200, "up");
    slow_app(&mut world, SECOND);
    let id = start(&mut world, 0);
    world.pass(100 * MS);
    assert!(world.is_paused(id));
    world.leave(id);
    world.pass(SECOND);
    set_app(&mut world, 500, "down");
    for vm in 0..3 {
        assert_eq!(ask(&mut world, vm).body, "up");
    }
    assert_eq!(calls(&world), 1);
}

#[test]
fn requests_on_other_workers_get_the_response_within_a_tick() {
    let mut world = world(&two_seconds());
    set_app(&mut world, 200, "up");
    slow_app(&mut world, 300 * MS);
    let ids: Vec<u32> = (0..9).map(|turn| start(&mut world, turn % 3)).collect();
    world.pass(299 * MS);
    assert!(ids.iter().all(|id| world.is_paused(*id)));
    world.pass(MS);
    let answered = |world: &World, vm: usize| ids.iter().skip(vm).step_by(3).all(|id| !world.is_open(*id));
    assert!(answered(&world, 0));
    world.pass(50 * MS);
    for id in &ids {
        assert_eq!((world.answer(*id).status, world.answer(*id).body.as_str()), (200, "up"));
    }
    assert_eq!(calls(&world), 1);
}

/// A policy whose only work is such a probe has no regular ticks.
#[test]
fn a_worker_ticks_fast_only_while_a_request_waits() {
    let mut document = document(&two_seconds());
    document["probes"].as_object_mut().unwrap().remove("drain");
    let mut world = World::new(&document, 2);
    slow_app(&mut world, 300 * MS);
    world.pass(6 * SECOND);
    assert_eq!((world.tick_of(0), world.tick_of(1)), (0, 0));
    start(&mut world, 0);
    let waiting = start(&mut world, 1);
    assert_eq!((world.tick_of(0), world.tick_of(1)), (50, 50));
    world.pass(400 * MS);
    assert_eq!(world.answer(waiting).status, 200);
    assert_eq!((world.tick_of(0), world.tick_of(1)), (0, 0));
}

#[test]
fn a_failure_of_the_app_shows_after_cache_seconds_and_the_time_that_the_app_takes() {
    let mut world = world(&two_seconds());
    slow_app(&mut world, 300 * MS);
    assert_eq!(ask(&mut world, 0).status, 200);
    world.pass(1_900 * MS);
    assert_eq!(ask(&mut world, 1).status, 200);
    set_app(&mut world, 500, "down");
    world.pass(100 * MS);
    // It waits for the new answer instead of getting the old one.
    let id = start(&mut world, 1);
    world.pass(300 * MS);
    assert_eq!(world.answer(id).status, 500);
}

#[test]
fn any_status_of_the_app_is_replayed_and_each_reply_is_counted_once() {
    for (status, result) in
        [(200, "passed"), (302, "passed"), (404, "failed"), (500, "failed"), (504, "failed")]
    {
        let mut world = world(&two_seconds());
        set_app(&mut world, status, "");
        for vm in [0, 0, 1, 2] {
            assert_eq!(ask(&mut world, vm).status, status);
        }
        let labels = ["probe=readiness", &format!("code={status}"), &format!("result={result}")];
        assert_eq!(world.metric("probe_answers_total", &labels), 4);
        assert_eq!(calls(&world), 1);
    }
}

#[test]
fn responses_to_get_and_head_are_stored_separately() {
    let mut world = world(&two_seconds());
    set_app(&mut world, 200, "up");
    ask(&mut world, 0);
    set_app(&mut world, 200, "");
    for vm in 0..3 {
        assert_eq!(world.ask(vm, &Request::of("HEAD", "/readyz")).body, "");
        assert_eq!(ask(&mut world, vm).body, "up");
    }
    let methods: Vec<_> =
        world.calls_to("app").iter().map(|call| call.header(":method").unwrap().to_owned()).collect();
    assert_eq!(methods, ["GET", "HEAD"]);
}

#[test]
fn only_the_headers_that_the_policy_names_are_replayed() {
    let rule = json!({"cacheSeconds": 2, "headers": ["content-type", "X-Reason", "x-absent"]});
    let mut world = world(&rule);
    let headers =
        [("content-type", "text/x"), ("x-reason", "warming up"), ("x-build", "7"), ("set-cookie", "a=b")];
    world.set("app", Manner::With(200, headers.map(|(name, value)| (name, value.to_owned())).to_vec()));
    for vm in 0..2 {
        let answer = ask(&mut world, vm);
        assert_eq!(
            (answer.header("x-reason"), answer.header("content-type")),
            (Some("warming up"), Some("text/x"))
        );
        let others = ["x-build", "x-absent", "set-cookie"];
        assert!(others.iter().all(|name| answer.header(name).is_none()));
    }
}

#[test]
fn a_body_is_stored_up_to_16_kib() {
    let mut world = world(&two_seconds());
    let body = "0123456789abcdef".repeat(1_280);
    set_app(&mut world, 200, &body);
    for vm in 0..2 {
        assert_eq!(ask(&mut world, vm).body, body[..16 * 1024]);
    }
}

#[test]
fn a_failure_to_reach_the_app_fails_the_probe_for_cache_seconds() {
    let refused = ("upstream connect error", Some("0"));
    let broken = ("policy shop: readiness failed: the app's response broke off\n", None);
    for (manner, expected) in
        [(Manner::Refuses, refused), (Manner::Resets, refused), (Manner::BreaksOff, broken)]
    {
        let mut world = world(&two_seconds());
        world.set("app", manner);
        for vm in [0, 0, 1, 2] {
            let answer = ask(&mut world, vm);
            assert_eq!((answer.status, (answer.body.as_str(), answer.header("age"))), (503, expected));
        }
        world.set("app", Manner::Status(200));
        world.pass(2 * SECOND);
        assert_eq!(ask(&mut world, 1).status, 200);
        assert_eq!(calls(&world), 2);
    }
}

#[test]
fn no_request_waits_longer_for_a_hung_app_than_its_timeout_and_a_tick() {
    let mut document = document(&two_seconds());
    document["probes"]["liveness"]["passThrough"] = two_seconds();
    let mut world = World::new(&document, 3);
    world.set("app", Manner::Hangs);
    let mut asked = Vec::new();
    // A client stays for as long as it takes, and others leave.
    for turn in 0..200 {
        for path in ["/readyz", "/livez"] {
            asked.push((world.now(), world.start(turn % 3, &Request::get(path))));
            let leaver = world.start((turn + 1) % 3, &Request::get(path));
            world.leave_after(leaver, 250 * MS);
        }
        world.pass(200 * MS);
        let over = world.now().saturating_sub(10_050);
        let late = asked.iter().filter(|(at, _)| *at < over);
        assert!(late.map(|(_, id)| *id).all(|id| !world.is_open(id)));
    }
    for (_, id) in asked.iter().filter(|(_, id)| !world.is_open(*id)) {
        let answer = world.answer(*id);
        assert_eq!((answer.status, answer.header("cache-control")), (503, Some("no-store")));
        assert!(answer.body.ends_with("failed: the app does not respond\n"), "{}", answer.body);
    }
    // Each probe has a call of ten seconds, which fails the probe for two more.
    assert_eq!(calls(&world), 8);
    world.set("app", Manner::Status(200));
    world.pass(15 * SECOND);
    assert_eq!(ask(&mut world, 0).status, 200);
}

#[test]
fn a_slow_app_fails_no_probe_while_it_answers_within_ten_seconds() {
    let mut world = world(&two_seconds());
    set_app(&mut world, 200, "up");
    slow_app(&mut world, 9_900 * MS);
    for vm in 0..3 {
        assert_eq!(ask(&mut world, vm).body, "up");
        world.pass(2 * SECOND);
    }
}

#[test]
fn requests_that_find_no_room_to_wait_get_the_last_answer_at_once() {
    let mut document = document(&two_seconds());
    document["probes"]["liveness"]["passThrough"] = two_seconds();
    let mut world = World::new(&document, 2);
    slow_app(&mut world, 5 * SECOND);
    let fill = |world: &mut World| {
        let ids: Vec<u32> = (0..64).map(|_| start(world, 0)).collect();
        assert!(ids.iter().all(|id| world.is_paused(*id)));
        ids
    };
    let first = fill(&mut world);
    // Nothing is known yet, and the 65th request of the worker is told so.
    let id = start(&mut world, 0);
    assert_eq!((world.is_open(id), world.answer(id).body.as_str()), (false, PENDING));
    let id = world.start(0, &Request::get("/livez"));
    let alive = "policy shop: liveness passed: the app has not responded yet\n";
    assert_eq!((world.answer(id).status, world.answer(id).body.as_str()), (200, alive));
    // Another worker has room, and so has this one when a client has left.
    let other = start(&mut world, 1);
    assert!(world.is_paused(other));
    world.leave(first[7]);
    let id = start(&mut world, 0);
    assert!(world.is_paused(id));
    world.pass(6 * SECOND);
    assert_eq!(world.answer(id).status, 200);
    // The call for liveness had no request that waits, but it fills the cache.
    world.pass(500 * MS);
    let id = world.start(0, &Request::get("/livez"));
    assert_eq!((world.is_open(id), world.answer(id).body.as_str()), (false, ""));

    world.pass(60 * SECOND);
    fill(&mut world);
    let id = start(&mut world, 0);
    let answer = world.answer(id);
    assert_eq!((answer.status, answer.header("age")), (200, Some("61")));
    assert_eq!(calls(&world), 3);
}

#[test]
fn an_incomplete_probe_request_gets_the_answer_like_any_other() {
    let mut world = world(&two_seconds());
    set_app(&mut world, 200, "up");
    slow_app(&mut world, 300 * MS);
    let unfinished = world.start(0, &Request::get("/readyz").unfinished());
    assert_eq!(ask(&mut world, 1).body, "up");
    assert_eq!(world.answer(unfinished).body, "up");
    assert_eq!(calls(&world), 1);
}

#[test]
fn another_worker_calls_the_app_once_the_call_of_a_dead_vm_is_overdue() {
    let mut world = world(&two_seconds());
    slow_app(&mut world, SECOND);
    let lost = start(&mut world, 0);
    world.kill(0);
    assert!(!world.is_open(lost));
    let early = start(&mut world, 1);
    world.pass(5 * SECOND);
    let later = start(&mut world, 2);
    world.pass(5_050 * MS);
    assert_eq!((world.answer(early).status, world.answer(early).body.as_str()), (503, SILENT));
    assert_eq!((world.is_paused(later), calls(&world)), (true, 1));
    world.pass(2 * SECOND);
    assert_eq!((world.answer(later).status, calls(&world)), (200, 2));
}

#[test]
fn a_response_that_cannot_be_stored_is_passed_on_to_those_who_wait() {
    let mut world = world(&two_seconds());
    let ids: Vec<u32> = (0..3).map(|_| start(&mut world, 0)).collect();
    world.lose(16);
    world.pass(MS);
    assert!(ids.iter().all(|id| world.answer(*id).status == 200));
    world.pass(12 * SECOND);
    assert_eq!(ask(&mut world, 1).status, 200);
    assert_eq!(calls(&world), 2);
}

#[test]
fn a_request_whose_cache_cannot_be_written_is_forwarded() {
    let mut world = world(&json!({"cacheSeconds": 2, "upstream": "app"}));
    world.lose(16);
    let id = start(&mut world, 0);
    assert!(world.is_open(id) && !world.is_paused(id));
    assert_eq!(calls(&world), 0);
    assert_eq!(ask(&mut world, 0).status, 200);
}

#[test]
fn a_request_whose_reply_the_proxy_refuses_is_forwarded() {
    let mut world = world(&two_seconds());
    let id = start(&mut world, 0);
    world.around.refuses_replies.set(true);
    world.pass(10 * MS);
    assert_eq!((world.answer(id).cluster.as_str(), world.answer(id).status), ("app", 200));
}

// -- whom the filter asks ---------------------------------------------------------

#[test]
fn nothing_from_a_probe_request_reaches_the_app() {
    for host in [None, Some("app.local")] {
        let mut rule = two_seconds();
        if let Some(host) = host {
            rule["host"] = json!(host);
        }
        let mut world = world(&rule);
        let mut request = Request::get("/readyz?verbose&exclude=a").with("x-forwarded-proto", "https");
        for name in ["accept", "authorization", "cookie", "range", "x-http-method-override", "x-tester"] {
            request = request.with(name, "x");
        }
        let request = request.with("x-request-id", &"x".repeat(65)).with("user-agent", "evil");
        let agent = format!("graygate/{}", env!("CARGO_PKG_VERSION"));
        let expected = [
            (":authority", host.unwrap_or("shop")),
            (":method", "GET"),
            (":path", "/readyz"),
            (":scheme", "https"),
            ("accept", "*/*"),
            ("user-agent", &agent),
            ("x-forwarded-proto", "https"),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let sorted = |mut headers: Vec<(String, String)>| {
            headers.sort();
            headers
        };
        world.ask(0, &request);
        let (for_proxy, sent): (Vec<_>, Vec<_>) = world.calls_to("app")[0]
            .headers
            .clone()
            .into_iter()
            .partition(|(name, _)| name.starts_with("x-envoy-"));
        assert_eq!(sorted(sent), expected);
        assert_eq!(
            for_proxy.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
            ["x-envoy-retry-on", "x-envoy-max-retries"]
        );
        // A request that is forwarded has the same headers.
        world.pass(2 * SECOND);
        world.set("app", Manner::NoHost);
        let id = world.start(0, &request);
        assert_eq!(sorted(world.forwarded_headers(id)), expected);
    }
}

#[test]
fn headers_that_the_proxy_has_set_are_kept() {
    let mut world = world(&two_seconds());
    world.ask(0, &Request::get("/readyz").with("x-request-id", "a-b-c").with("x-envoy-internal", "true"));
    let call = &world.calls_to("app")[0];
    assert_eq!(call.header("x-request-id"), Some("a-b-c"));
    assert_eq!(call.header("x-envoy-internal"), Some("true"));
    assert_eq!(call.header(":scheme"), Some("http"));
}

#[test]
fn the_cluster_is_the_one_that_the_policy_names_or_else_that_of_the_requests_route() {
    let mut world = world(&two_seconds());
    world.routes = [("other".to_owned(), "other".to_owned())].into();
    world.set("app", Manner::Status(200));
    world.set("other", Manner::Status(500));
    // A client whose own route leads elsewhere changes nothing for the others.
    for vm in 0..3 {
        let elsewhere = Request::get("/readyz").with("x-version", "other");
        assert_eq!(world.ask(vm, &elsewhere).status, 500);
        assert_eq!(ask(&mut world, vm).status, 200);
    }
    assert_eq!((calls(&world), world.calls_to("other").len()), (1, 1));

    let mut world = self::world(&json!({"cacheSeconds": 2, "upstream": "other"}));
    world.set("other", Manner::Status(418));
    for vm in 0..3 {
        assert_eq!(ask(&mut world, vm).status, 418);
    }
    assert_eq!((calls(&world), world.calls_to("other").len()), (0, 1));
}

#[test]
fn a_request_is_forwarded_on_its_own_if_its_cluster_cannot_be_called_or_its_route_has_none() {
    for (route, manner) in [
        ("app", Manner::NoHost),
        ("app", Manner::Overflows),
        ("app", Manner::Missing),
        ("", Manner::Status(200)),
    ] {
        let mut world = world(&two_seconds());
        world.route = route.to_owned();
        world.set("app", manner);
        for vm in [0, 1, 2, 0] {
            let id = world.send(vm, &Request::get("/readyz?verbose").with("cookie", "a"));
            assert!(world.is_open(id) && !world.is_paused(id));
            assert_eq!(world.sent_header(id, ":path").as_deref(), Some("/readyz"));
            assert_eq!(world.sent_header(id, "cookie"), None);
            world.respond(id, 204, "via_upstream", &[("x-build", "7")], true);
            assert_eq!((world.answer(id).status, world.answer(id).header("x-build")), (204, Some("7")));
        }
        world.route = "app".to_owned();
        world.set("app", Manner::Status(200));
        assert_eq!(ask(&mut world, 1).status, 200);
        assert_eq!(calls(&world), 1);
    }
}

#[test]
fn a_request_that_waits_is_forwarded_if_its_cluster_can_no_longer_be_called() {
    let mut world = world(&two_seconds());
    slow_app(&mut world, 5 * SECOND);
    start(&mut world, 0);
    world.pass(2 * SECOND);
    let id = world.send(1, &Request::get("/readyz"));
    world.kill(0);
    world.set("app", Manner::NoHost);
    world.pass(9_050 * MS);
    assert!(world.is_open(id) && !world.is_paused(id));
    assert_eq!(world.sent_header(id, "user-agent").unwrap().split('/').next(), Some("graygate"));
}

// -- beside the rest of a policy --------------------------------------------------

#[test]
fn startup_and_drain_fail_readiness_without_asking_the_app() {
    let mut document = document(&two_seconds());
    let check = json!({"httpGet": {}, "periodSeconds": 1});
    document["upstreams"]["db"] = json!({"cluster": "db", "readinessProbe": check});
    document["probes"]["startup"] = json!({"path": "/startupz", "checks": [{"upstream": "db"}]});
    let mut world = World::new(&document, 3);
    world.set("db", Manner::Status(500));
    world.pass(5 * SECOND);
    let answer = ask(&mut world, 0);
    assert!(answer.status == 503 && answer.body.contains("not started yet"), "{answer:?}");
    world.set("db", Manner::Status(200));
    world.pass(5 * SECOND);
    assert_eq!(ask(&mut world, 0).status, 200);
    world.ask(0, &Request::of("POST", "/drainz"));
    world.pass(60 * SECOND);
    let answer = ask(&mut world, 1);
    assert!(answer.status == 503 && answer.body.contains("draining"), "{answer:?}");
    assert_eq!(calls(&world), 1);
    world.ask(0, &Request::of("DELETE", "/drainz"));
    world.pass(SECOND);
    assert_eq!(ask(&mut world, 2).status, 200);
}

#[test]
fn a_probe_does_not_count_as_a_users_request() {
    let mut document = document(&json!({"cacheSeconds": 0.1}));
    document["upstreams"]["app"]["circuitBreaker"] = json!({"consecutiveFailures": 3, "notReadyFor": "1h"});
    document["gates"] = json!([{"upstream": "app"}]);
    document["releases"] = json!([{
        "name": "web", "steer": {"header": "x-version"},
        "versions": [{"name": "v1", "upstream": "app", "weight": 1, "default": true}],
    }]);
    let mut world = World::new(&document, 3);
    world.set("app", Manner::Status(500));
    for _ in 0..20 {
        assert_eq!(ask(&mut world, 0).status, 500);
        world.pass(100 * MS);
    }
    assert_eq!((world.phase("app"), calls(&world)), ("ready", 20));
    assert_eq!(world.metric("assignments_total", &[]), 0);
    for _ in 0..3 {
        world.get(0);
    }
    world.pass(SECOND);
    assert!(world.get(0).is_gated());
    // No gate applies to it.
    assert_eq!(ask(&mut world, 0).status, 500);
}

#[test]
fn a_check_and_a_probe_of_one_cluster_each_get_their_own_response() {
    let mut document = document(&two_seconds());
    document["upstreams"]["app"]["readinessProbe"] =
        json!({"httpGet": {"path": "/healthz"}, "periodSeconds": 0.5, "failureThreshold": 1});
    let mut world = World::new(&document, 3);
    world.set_call_path("app", "/healthz", Manner::Status(500));
    set_app(&mut world, 200, "up");
    slow_app(&mut world, 300 * MS);
    for turn in 0..20 {
        assert_eq!(ask(&mut world, turn % 3).body, "up");
        world.pass(500 * MS);
    }
    assert_eq!(world.phase("app"), "not-ready");
}

#[test]
fn an_update_keeps_the_stored_response_unless_it_changes_the_rule() {
    let mut world = world(&json!({"cacheSeconds": 3600}));
    set_app(&mut world, 200, "up");
    ask(&mut world, 0);
    set_app(&mut world, 200, "new");
    let mut document = document(&json!({"cacheSeconds": 3600}));
    document["probes"]["liveness"]["path"] = json!("/alivez");
    world.configure(&document);
    assert_eq!(ask(&mut world, 1).body, "up");
    document["probes"]["readiness"]["passThrough"]["host"] = json!("app.local");
    world.configure(&document);
    assert_eq!(ask(&mut world, 1).body, "new");
}

#[test]
fn a_request_that_waits_during_an_update_gets_its_answer() {
    let mut world = world(&two_seconds());
    set_app(&mut world, 200, "up");
    slow_app(&mut world, SECOND);
    let before: Vec<u32> = (0..3).map(|vm| start(&mut world, vm)).collect();
    world.configure(&document(&two_seconds()));
    let after: Vec<u32> = (0..3).map(|vm| start(&mut world, vm)).collect();
    world.pass(1_050 * MS);
    for id in before.iter().chain(&after) {
        assert_eq!(world.answer(*id).body, "up");
    }
    assert_eq!(calls(&world), 1);
}

#[test]
fn a_root_that_ends_forwards_what_waits_and_lets_another_call_the_app() {
    let mut world = world(&two_seconds());
    slow_app(&mut world, SECOND);
    let old = start(&mut world, 0);
    world.configure(&document(&two_seconds()));
    let new = start(&mut world, 1);
    world.end_root(0, 0);
    assert!(world.is_open(old) && !world.is_paused(old));
    world.pass(50 * MS);
    assert_eq!(calls(&world), 2);
    world.pass(SECOND);
    assert_eq!(world.answer(new).status, 200);
}

#[test]
fn marker_headers_are_on_each_reply() {
    let mut document = document(&two_seconds());
    document["probes"]["markerHeaders"] = json!(true);
    let mut world = World::new(&document, 3);
    let service = "x-envoy-upstream-healthchecked-cluster";
    for vm in 0..2 {
        assert_eq!(ask(&mut world, vm).header(service), Some("sim"));
    }
}
