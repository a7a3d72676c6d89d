//! How events count: the rows of the table in `docs/evaluate/evidence.md`.

use std::time::Duration;

use serde_json::json;

use super::sim::{Manner, Request, World};
use super::{APART, MS, SECOND, judged, world};

/// Sends up to `most` requests until the upstream is no longer ready. Returns how many it took.
pub(super) fn trips_after(world: &mut World, most: usize) -> Option<usize> {
    (1..=most).find(|_| {
        world.get(0);
        world.phase("app") != "ready"
    })
}

/// Puts `app` on trial: five failures and the wait that follows.
pub(super) fn on_trial(world: &mut World) {
    world.set("app", Manner::Status(500));
    assert!(trips_after(world, 5).is_some());
    world.set("app", Manner::Status(200));
    world.pass(6 * SECOND);
    assert_eq!(world.phase("app"), "trial");
}

#[test]
fn a_failed_connection_a_reset_and_the_routes_timeout_count_as_no_response() {
    for manner in [Manner::Refuses, Manner::Resets, Manner::Hangs, Manner::NoHost] {
        for (word, counts) in [
            ("5xx", true),
            ("gateway-error", true),
            ("unavailable", true),
            ("reset", true),
            ("connect-failure", matches!(manner, Manner::Refuses | Manner::NoHost)),
            ("429", false),
        ] {
            let mut world = world(&json!({"failOn": [word]}));
            world.timeout = Some(SECOND);
            world.set("app", manner.clone());
            if manner == Manner::NoHost {
                // Envoy says the same of a subset without a host, so that takes longer.
                assert_eq!(trips_after(&mut world, 20), None);
                world.pass(3 * SECOND);
                assert_eq!(world.phase("app") == "not-ready", counts, "{word}");
                continue;
            }
            let expected = counts.then_some(5);
            assert_eq!(trips_after(&mut world, 20), expected, "{manner:?} by {word}");
        }
    }
}

#[test]
fn a_status_counts_by_the_policys_fail_on() {
    for (status, word, counts) in [
        (500, "5xx", true),
        (404, "5xx", false),
        (404, "4xx", true),
        (500, "4xx", false),
        (500, "gateway-error", false),
        (502, "gateway-error", true),
        (409, "retriable-4xx", true),
        (429, "429", true),
        (503, "429", false),
    ] {
        let mut world = world(&json!({"failOn": [word]}));
        world.set("app", Manner::Status(status));
        let expected = counts.then_some(5);
        assert_eq!(trips_after(&mut world, 20), expected, "{status} by {word}");
    }
}

/// Sends a request that the router sends again, and responds to it with this status.
fn respond_to_a_retry(world: &mut World, status: u16) {
    let id = world.send(0, &Request::get("/"));
    world.retry(id);
    world.respond(id, status, "via_upstream", &[], true);
}

#[test]
fn a_good_response_that_took_a_retry_counts_by_its_word_only() {
    for (words, counts) in [(json!(["5xx", "retried"]), true), (json!(["5xx"]), false)] {
        let mut world = world(&json!({"failOn": words}));
        (0..50).for_each(|_| respond_with(&mut world, &[]));
        for _ in 0..4 {
            respond_to_a_retry(&mut world, 200);
        }
        assert_eq!(world.phase("app"), "ready");
        // The response to a first attempt ends the row.
        respond_with(&mut world, &[]);
        world.pass(SECOND);
        (0..5).for_each(|_| respond_to_a_retry(&mut world, 200));
        world.pass(SECOND);
        let expected = if counts { "consecutive-failures: 5" } else { "assumed" };
        assert_eq!(world.reason("app"), expected, "{words}");
    }
}

#[test]
fn a_retry_without_a_response_of_the_upstream_counts_by_the_other_words() {
    for (words, counts) in [(json!(["retried"]), false), (json!(["reset", "retried"]), true)] {
        let mut world = world(&json!({"failOn": words}));
        for _ in 0..5 {
            let id = world.send(0, &Request::get("/"));
            world.retry(id);
            world.respond_as(id, &Manner::Resets);
        }
        assert_eq!(world.phase("app") == "not-ready", counts, "{words}");
    }
}

#[test]
fn a_response_that_took_a_retry_fails_a_trial_by_its_word() {
    let mut world = world(&json!({"failOn": ["5xx", "retried"]}));
    on_trial(&mut world);
    respond_to_a_retry(&mut world, 200);
    assert_eq!(world.reason("app"), "trial-failed");
}

/// Sends a request and responds 200 with these headers.
fn respond_with(world: &mut World, headers: &[(&str, &str)]) {
    let id = world.send(0, &Request::get("/"));
    world.respond(id, 200, "via_upstream", headers, true);
}

#[test]
fn a_response_header_counts_by_the_policys_fail_on() {
    let wrong = ("x-error", "yes, out of stock");
    for (condition, counts) in [
        (json!({"header": "X-Error"}), true),
        (json!({"header": "x-error", "prefix": "yes"}), true),
        (json!({"header": "x-error", "regex": "yes.*"}), true),
        (json!({"header": "x-error", "exact": "yes"}), false),
        (json!({"header": "x-other"}), false),
    ] {
        // A response with more headers than are read at once does not take the fast path.
        for extra_headers in [0, 40] {
            let mut world = world(&json!({"failOn": [condition]}));
            world.extra_headers = extra_headers;
            // The status is known to be good by then.
            (0..50).for_each(|_| respond_with(&mut world, &[]));
            (0..5).for_each(|_| respond_with(&mut world, &[wrong]));
            // A row after a success must last for a while.
            assert_eq!(world.phase("app"), "ready");
            world.pass(600 * MS);
            let expected = if counts { "consecutive-failures: 5" } else { "assumed" };
            assert_eq!(world.reason("app"), expected, "{condition}, {extra_headers} more headers");
        }
    }
}

#[test]
fn a_response_header_can_make_a_failure_no_evidence() {
    let mut world = world(&json!({"ignoreOn": [{"header": "x-drill", "exact": "true"}]}));
    for _ in 0..20 {
        let id = world.send(0, &Request::get("/"));
        world.respond(id, 500, "via_upstream", &[("x-drill", "true")], true);
    }
    assert_eq!(world.phase("app"), "ready");
    // A good response with that header does not end a row.
    world.set("app", Manner::Status(500));
    assert_eq!(trips_after(&mut world, 4), None);
    respond_with(&mut world, &[("x-drill", "true")]);
    assert_eq!(trips_after(&mut world, 1), Some(1));
}

#[test]
fn a_header_of_the_proxys_own_reply_does_not_count() {
    let mut world = world(&json!({"failOn": [{"header": "x-error"}]}));
    for details in ["direct_response", "request_rate_limited"] {
        for _ in 0..20 {
            let id = world.send(0, &Request::get("/"));
            world.respond(id, 200, details, &[("x-error", "yes")], true);
        }
    }
    assert_eq!(world.phase("app"), "ready");
}

#[test]
fn a_header_that_the_policy_adds_to_the_response_does_not_count() {
    let mut policy = super::judged(&json!({"failOn": [{"header": "set-cookie"}]}));
    policy["releases"] = json!([{
        "name": "shop", "steer": {"header": "x-version"},
        "hashOn": [{"httpCookie": {"name": "user", "ttl": "1h"}}],
        "versions": [
            {"name": "v1", "upstream": "app", "weight": 1, "default": true},
            {"name": "v2", "upstream": "app", "weight": 1},
        ],
    }]);
    let mut world = World::new(&policy, 1);
    for _ in 0..20 {
        assert!(world.get(0).header("set-cookie").is_some());
    }
    assert_eq!(world.phase("app"), "ready");
}

#[test]
fn a_grpc_status_counts_when_it_arrives() {
    for (status, word, counts) in
        [(14, "unavailable", true), (0, "unavailable", false), (8, "resource-exhausted", true)]
    {
        let mut world = world(&json!({"failOn": [word]}));
        world.set("app", Manner::Grpc(status));
        let expected = counts.then_some(5);
        assert_eq!(trips_after(&mut world, 20), expected, "{status} by {word}");
    }
}

const GRPC: (&str, &str) = ("content-type", "application/grpc");

#[test]
fn a_grpc_status_in_headers_or_trailers_counts_only_by_its_own_word() {
    let words = ["cancelled", "deadline-exceeded", "resource-exhausted", "internal", "unavailable"];
    for (word, named) in words.into_iter().zip([1, 4, 8, 13, 14]) {
        for status in 0..=16 {
            let ends: [fn(&mut World, &str); 3] = [in_headers, in_trailers, after_a_message];
            for end in ends {
                let mut world = world(&json!({"failOn": [word], "consecutiveFailures": 2}));
                end(&mut world, &status.to_string());
                end(&mut world, &status.to_string());
                let expected = if status == named { "not-ready" } else { "ready" };
                assert_eq!(world.phase("app"), expected, "{status} by {word}");
            }
        }
    }
}

fn in_headers(world: &mut World, status: &str) {
    let id = world.send(0, &Request::of("POST", "/"));
    world.respond(id, 200, "via_upstream", &[GRPC, ("grpc-status", status)], true);
}

fn in_trailers(world: &mut World, status: &str) {
    let id = world.send(0, &Request::of("POST", "/"));
    world.respond(id, 200, "via_upstream", &[GRPC], false);
    world.trailers(id, &[("grpc-status", status)]);
}

fn after_a_message(world: &mut World, status: &str) {
    let id = world.send(0, &Request::of("POST", "/"));
    world.respond(id, 200, "via_upstream", &[GRPC], false);
    assert_eq!(world.phase("app"), "ready", "nothing is known before the status has come");
    world.body(id, "message", false);
    world.trailers(id, &[("grpc-status", status)]);
}

#[test]
fn a_grpc_call_that_ends_with_ok_ends_a_row() {
    let mut world = world(&json!({"failOn": ["resource-exhausted"], "consecutiveFailures": 3}));
    for _ in 0..20 {
        in_headers(&mut world, "8");
        after_a_message(&mut world, "8");
        after_a_message(&mut world, "0");
    }
    assert_eq!(world.phase("app"), "ready");
}

#[test]
fn a_grpc_status_that_never_comes_counts_by_how_the_response_ends() {
    let begin = |world: &mut World| {
        let id = world.send(0, &Request::of("POST", "/"));
        world.respond(id, 200, "via_upstream", &[GRPC], false);
        world.body(id, "message", false);
        id
    };
    // The client leaves, which counts as neither failure nor success.
    let mut world = world(&json!({"failOn": ["unavailable", "cancelled"], "consecutiveFailures": 3}));
    for _ in 0..20 {
        let id = begin(&mut world);
        world.leave(id);
    }
    in_headers(&mut world, "14");
    in_headers(&mut world, "14");
    let id = begin(&mut world);
    world.leave(id);
    assert_eq!(world.phase("app"), "ready");
    in_headers(&mut world, "14");
    assert_eq!(world.phase("app"), "not-ready");
    // The upstream closes the connection, which is UNAVAILABLE and matches no other word.
    for (word, counts) in [("unavailable", true), ("internal", false)] {
        let mut world = self::world(&json!({"failOn": [word], "consecutiveFailures": 2}));
        for _ in 0..2 {
            let id = begin(&mut world);
            world.end(id, "upstream_reset_after_response_started{remote_reset}");
        }
        assert_eq!(world.phase("app") == "not-ready", counts, "{word}");
    }
    // A stream does not count while it lasts.
    let mut world = self::world(&json!({"failOn": ["unavailable"], "unansweredAfter": "1s"}));
    for _ in 0..20 {
        begin(&mut world);
    }
    world.pass(600 * SECOND);
    assert_eq!(world.state("app").generation, 0);
}

#[test]
fn a_server_that_is_down_counts_only_as_unavailable() {
    for (words, counts) in
        [(json!(["unavailable"]), true), (json!(["cancelled", "internal", "resource-exhausted"]), false)]
    {
        let mut world = world(&json!({"failOn": words}));
        world.set("app", Manner::Refuses);
        assert_eq!(trips_after(&mut world, 20), counts.then_some(5), "{words}");
    }
}

#[test]
fn several_words_of_fail_on_apply_together() {
    let mut world = world(&json!({"failOn": ["429", "retriable-4xx", "reset"], "consecutiveFailures": 3}));
    for manner in [Manner::Status(429), Manner::Status(409), Manner::Resets] {
        assert_eq!(world.phase("app"), "ready");
        world.set("app", manner);
        world.get(0);
    }
    assert_eq!(world.reason("app"), "consecutive-failures: 3");
}

#[test]
fn a_failed_connection_can_be_ignored() {
    let mut world = world(&json!({"ignoreOn": ["connect-failure"]}));
    world.set("app", Manner::Refuses);
    assert_eq!(trips_after(&mut world, 50), None);
    world.set("app", Manner::Resets);
    assert_eq!(trips_after(&mut world, 50), Some(5));
}

#[test]
fn a_request_that_waits_too_long_counts_at_once_and_only_once() {
    let mut world = world(&json!({"unansweredAfter": "2s"}));
    world.set("app", Manner::Hangs);
    let waiting = start_apart(&mut world, 5, &Request::get("/"));
    world.pass(1_900 * MS);
    assert_eq!(world.phase("app"), "ready");
    world.pass(SECOND);
    assert_eq!(world.reason("app"), "consecutive-failures: 5");
    assert!(waiting.iter().all(|id| world.is_open(*id)));
    // Their later responses do not count.
    let before = world.state("app");
    for id in waiting {
        world.respond(id, 500, "via_upstream", &[], true);
    }
    assert_eq!(world.state("app"), before);
}

/// Sends this many requests, far enough apart that each is an event of its own.
fn start_apart(world: &mut World, requests: usize, request: &Request) -> Vec<u32> {
    let start = |_| {
        world.pass(APART);
        world.start(0, request)
    };
    (0..requests).map(start).collect()
}

#[test]
fn requests_that_are_sent_together_and_wait_too_long_are_an_incident_each() {
    for (requests, trips) in [(4, false), (5, true)] {
        // They wait for as long as the policy or the route says.
        for (breaker, timeout) in [(json!({"unansweredAfter": "2s"}), None), (json!({}), Some(2 * SECOND))] {
            let mut world = world(&breaker);
            world.timeout = timeout;
            world.set("app", Manner::Hangs);
            for _ in 0..requests {
                world.start(0, &Request::get("/"));
            }
            world.pass(1_900 * MS);
            assert_eq!(world.phase("app"), "ready");
            world.pass(SECOND);
            assert_eq!(world.phase("app") == "not-ready", trips, "{breaker}");
        }
    }
}

#[test]
fn a_request_with_a_body_waits_from_its_last_part() {
    for finishes in [false, true] {
        let mut world = world(&json!({"unansweredAfter": "2s"}));
        world.set("app", Manner::Hangs);
        let waiting = start_apart(&mut world, 5, &Request::of("POST", "/").unfinished());
        for _ in 0..600 {
            world.pass(SECOND);
            for id in &waiting {
                world.request_body(*id, b"part", false);
                world.pass(APART);
            }
        }
        assert_eq!(world.phase("app"), "ready");
        world.pass(SECOND);
        for id in waiting {
            world.pass(APART);
            world.request_body(id, b"part", finishes);
        }
        world.pass(1_900 * MS);
        assert_eq!(world.phase("app"), "ready");
        world.pass(SECOND);
        assert_eq!(world.reason("app"), "consecutive-failures: 5");
    }
}

#[test]
fn a_response_within_unanswered_after_counts_normally() {
    let mut world = world(&json!({"unansweredAfter": "2s", "consecutiveFailures": 1}));
    for late in [MS, 500 * MS, 1_900 * MS] {
        world.set("app", Manner::Slow(late));
        for _ in 0..200 {
            assert_eq!(world.get(0).status, 200);
        }
    }
    assert_eq!(world.state("app").generation, 0);
}

#[test]
fn a_late_response_is_not_a_success() {
    let mut world = world(&json!({"unansweredAfter": "1s", "consecutiveFailures": 6}));
    world.set("app", Manner::Hangs);
    for late in [500, 200] {
        let waiting = start_apart(&mut world, 5, &Request::get("/"));
        world.pass(3 * SECOND);
        for id in waiting {
            world.respond(id, late, "via_upstream", &[], true);
        }
        assert_eq!(world.phase("app"), "ready", "no more than five");
        if late == 500 {
            world.set("app", Manner::Status(200));
            assert_eq!(world.get(0).status, 200);
            world.set("app", Manner::Hangs);
            world.pass(SECOND);
        }
    }
    world.set("app", Manner::Status(500));
    assert_eq!(trips_after(&mut world, 20), Some(1), "this is the sixth");
}

#[test]
fn upstreams_with_the_same_cluster_are_each_judged_by_their_own_breaker() {
    let upstream = |breaker| json!({"cluster": "app", "circuitBreaker": breaker});
    let mut world = World::new(
        &json!({
            "name": "shop",
            "upstreams": {
                "strict": upstream(json!({"consecutiveFailures": 2})),
                "calm": upstream(json!({"consecutiveFailures": 4})),
                "deaf": upstream(json!({"consecutiveFailures": 2, "failOn": ["429"]})),
                "api": upstream(json!({"consecutiveFailures": 3, "record": [{"uri": {"prefix": "/api"}}]})),
            },
        }),
        1,
    );
    let phases = |world: &World| ["strict", "calm", "deaf", "api"].map(|name| world.phase(name) == "ready");
    world.set("app", Manner::Status(500));
    for expected in
        [[true; 4], [false, true, true, true], [false, true, true, true], [false, false, true, true]]
    {
        world.get(0);
        assert_eq!(phases(&world), expected);
    }
    for _ in 0..3 {
        world.ask(0, &Request::get("/api"));
    }
    assert_eq!(phases(&world), [false, false, true, false]);
}

#[test]
fn responses_that_the_upstream_breaks_off_form_a_row() {
    let mut world = world(&json!({}));
    world.set("app", Manner::BreaksOff);
    // Each of them began as a success, so the row must last for a while.
    assert_eq!(trips_after(&mut world, 5), None);
    world.pass(600 * MS);
    assert_eq!(world.reason("app"), "consecutive-failures: 5");
    for (events, expected) in [(4, "ready"), (5, "not-ready")] {
        let mut world = self::world(&json!({}));
        world.set("app", Manner::BreaksOff);
        for _ in 0..events {
            assert_eq!(world.phase("app"), "ready");
            world.pass(100 * MS);
            world.get(0);
        }
        assert_eq!(world.phase("app"), expected, "the last one decides at once");
    }
}

#[test]
fn a_response_that_ends_well_or_five_that_begin_end_a_row_of_break_offs() {
    let begin = |world: &mut World| world.get(0).status;
    let end = |world: &mut World, responses| {
        for _ in 0..responses {
            let id = world.send(0, &Request::get("/"));
            world.respond(id, 200, "via_upstream", &[], false);
            world.body(id, "all", true);
        }
    };
    for (streams, whole, ends_row) in [(0, 1, true), (5, 0, true), (4, 0, false), (0, 0, false)] {
        let mut world = world(&json!({}));
        for _ in 0..4 {
            world.set("app", Manner::BreaksOff);
            world.get(0);
            world.pass(100 * MS);
        }
        world.set("app", Manner::Streams);
        (0..streams).for_each(|_| assert_eq!(begin(&mut world), 200));
        end(&mut world, whole);
        world.pass(300 * MS);
        world.set("app", Manner::BreaksOff);
        let trips = trips_after(&mut world, 1).is_some();
        // The response that breaks off has begun as well, so it is the fifth.
        let expected = !ends_row && streams < 4;
        assert_eq!(trips, expected, "{streams} streams, {whole} whole responses");
    }
}

#[test]
fn a_response_that_the_upstream_breaks_off_counts_in_the_share_and_ends_a_trial() {
    let share = json!({"failOn": ["reset"], "consecutiveFailures": 1000, "failurePercent": 50});
    let mut world = world(&share);
    world.set("app", Manner::BreaksOff);
    assert_eq!(trips_after(&mut world, 50), Some(20));
    assert_eq!(world.reason("app"), "failure-share: 20 of 20");
    let mut world = self::world(&json!({"trial": {"requests": 1, "successes": 2}}));
    on_trial(&mut world);
    world.set("app", Manner::BreaksOff);
    world.get(0);
    assert_eq!((world.phase("app"), world.reason("app").as_str()), ("not-ready", "trial-failed"));
}

#[test]
fn a_response_that_another_filter_replaces_counts_by_its_beginning() {
    let mut world = world(&json!({}));
    let replaced = |world: &mut World| {
        let id = world.send(0, &Request::get("/"));
        world.respond(id, 200, "via_upstream", &[], false);
        world.respond(id, 500, "response_payload_too_large", &[], true);
    };
    (0..20).for_each(|_| replaced(&mut world));
    assert_eq!(world.phase("app"), "ready");
    // It ends a row of failures.
    world.set("app", Manner::Status(500));
    (0..4).for_each(|_| drop(world.get(0)));
    replaced(&mut world);
    assert_eq!(trips_after(&mut world, 4), None);
    world.pass(600 * MS);
    assert_eq!((world.phase("app"), trips_after(&mut world, 1)), ("ready", Some(1)));
}

#[test]
fn a_failure_that_another_filter_replaces_has_counted_once() {
    let mut world = world(&json!({}));
    for replaced in 1..=5 {
        assert_eq!(world.phase("app"), "ready", "{replaced}");
        let id = world.send(0, &Request::get("/"));
        world.respond(id, 500, "via_upstream", &[], false);
        world.respond(id, 500, "response_payload_too_large", &[], true);
    }
    assert_eq!(world.reason("app"), "consecutive-failures: 5");
}

#[test]
fn a_complete_response_is_not_a_failure_however_it_ends() {
    let mut world = world(&json!({"failOn": ["5xx", "reset"], "consecutiveFailures": 1}));
    for _ in 0..20 {
        let id = world.send(0, &Request::get("/"));
        world.respond(id, 200, "via_upstream", &[], true);
        let id = world.send(0, &Request::get("/"));
        world.respond(id, 200, "via_upstream", &[], false);
        world.pass(10 * SECOND);
        world.body(id, "part", false);
        world.body(id, "", true);
        let id = world.send(0, &Request::get("/"));
        world.respond(id, 200, "via_upstream", &[], false);
        world.trailers(id, &[("x-sum", "1")]);
    }
    assert_eq!(world.state("app").generation, 0);
}

#[test]
fn a_response_that_the_routes_timeout_cuts_counts_by_its_beginning() {
    let mut world = world(&json!({}));
    let cut = |world: &mut World| {
        let id = world.send(0, &Request::get("/"));
        world.respond(id, 200, "via_upstream", &[], false);
        world.end(id, "response_timeout");
    };
    (0..20).for_each(|_| cut(&mut world));
    assert_eq!(world.phase("app"), "ready");
    // It ends a row of failures.
    world.set("app", Manner::Status(500));
    (0..4).for_each(|_| drop(world.get(0)));
    cut(&mut world);
    assert_eq!(trips_after(&mut world, 4), None);
    world.pass(600 * MS);
    assert_eq!((world.phase("app"), trips_after(&mut world, 1)), ("ready", Some(1)));
}

#[test]
fn a_client_that_leaves_during_a_response_counts_by_its_beginning() {
    // After four failures, a response that began well ends the row although its client left.
    let mut world = world(&json!({}));
    for _ in 0..3 {
        world.set("app", Manner::Status(500));
        for _ in 0..4 {
            world.get(0);
        }
        let id = world.send(0, &Request::get("/"));
        world.respond(id, 200, "via_upstream", &[], false);
        world.leave(id);
    }
    assert_eq!(world.phase("app"), "ready");
    // A failure counts when its headers arrive.
    let mut world = self::world(&json!({}));
    for _ in 0..5 {
        let id = world.send(0, &Request::get("/"));
        world.respond(id, 500, "via_upstream", &[], false);
        world.leave(id);
    }
    assert_eq!(world.reason("app"), "consecutive-failures: 5");
}

#[test]
fn a_client_that_leaves_before_a_response_counts_as_slow_only_after_slower_than() {
    let breaker = json!({"slowPercent": 50, "slowerThan": "1s", "minimumRequests": 5});
    for (waits, reason) in
        [(Duration::from_millis(900), None), (Duration::from_millis(1_100), Some("slow-share"))]
    {
        let mut world = world(&breaker);
        world.set("app", Manner::Hangs);
        for _ in 0..8 {
            let id = world.start(0, &Request::get("/"));
            world.leave_after(id, waits);
            world.pass(waits + MS);
        }
        let tripped = world.phase("app") == "not-ready";
        assert_eq!(tripped, reason.is_some(), "{waits:?}");
        if let Some(reason) = reason {
            assert!(world.reason("app").starts_with(reason), "{}", world.reason("app"));
        }
    }
}

#[test]
fn clients_that_leave_do_not_count_without_slower_than_or_unanswered_after() {
    let mut world = world(&json!({}));
    world.set("app", Manner::Hangs);
    for _ in 0..50 {
        let id = world.start(0, &Request::get("/"));
        world.leave_after(id, 10 * SECOND);
        world.pass(11 * SECOND);
    }
    assert_eq!(world.phase("app"), "ready");
}

#[test]
fn a_client_that_leaves_during_its_request_does_not_count() {
    let mut world = world(
        &json!({"unansweredAfter": "1s", "slowPercent": 50, "slowerThan": "500ms", "minimumRequests": 5}),
    );
    world.set("app", Manner::Hangs);
    for _ in 0..20 {
        let id = world.start(0, &Request::of("POST", "/").unfinished());
        world.leave_after(id, 3 * SECOND);
        world.pass(4 * SECOND);
    }
    assert_eq!(world.phase("app"), "ready");
    // The time starts at the end of the request.
    let id = world.start(0, &Request::of("POST", "/").unfinished());
    world.pass(10 * SECOND);
    world.finish_request(id);
    assert_eq!(world.state("app").generation, 0);
}

#[test]
fn on_trial_a_client_that_leaves_after_unanswered_after_counts_as_a_failure() {
    for (settings, waits) in [
        (json!({}), None),
        (json!({"unansweredAfter": "1s"}), Some(1_000)),
        (json!({"consecutiveFailures": 5, "slowPercent": 80, "slowerThan": "1s"}), Some(1_000)),
    ] {
        for (leaves_after, waited) in [(400, false), (990, false), (1_010, true)] {
            let mut world = world(&settings);
            on_trial(&mut world);
            world.set("app", Manner::Hangs);
            let id = world.start(0, &Request::get("/"));
            // Ticks come at each quarter second, so only the end of the request can decide.
            assert_eq!(world.now() % 250, 5);
            world.leave_after(id, leaves_after * MS);
            world.pass(leaves_after * MS);
            let failed = waits.is_some() && waited;
            let expected = if failed { ("not-ready", "trial-unanswered") } else { ("trial", "wait-over") };
            assert_eq!(
                (world.phase("app"), world.reason("app").as_str()),
                expected,
                "{settings} {leaves_after}"
            );
        }
    }
}

#[test]
fn on_trial_clients_that_leave_do_not_prevent_recovery() {
    let mut world = world(&json!({"trial": {"requests": 1, "successes": 1, "leaseFor": "30s"}}));
    on_trial(&mut world);
    world.set("app", Manner::Hangs);
    for _ in 0..100 {
        let id = world.start(0, &Request::get("/"));
        assert!(world.is_open(id), "its permit is free again");
        world.leave_after(id, 20 * SECOND);
        world.pass(21 * SECOND);
    }
    assert_eq!(world.phase("app"), "trial");
    world.set("app", Manner::Status(200));
    world.get(0);
    assert_eq!(world.phase("app"), "ready");
}

#[test]
fn on_trial_a_request_that_goes_to_another_cluster_returns_its_permit() {
    let trial = json!({"unansweredAfter": "1s", "trial": {"requests": 1, "successes": 1, "leaseFor": "1s"}});
    let mut document = judged(&trial);
    document["gates"][0]["match"] = json!([{"uri": {"prefix": "/"}}]);
    let mut world = World::new(&document, 1);
    on_trial(&mut world);
    world.route = "other".to_owned();
    for manner in [Manner::Status(200), Manner::Status(500), Manner::Refuses, Manner::BreaksOff] {
        world.set("other", manner.clone());
        assert!(!world.get(0).is_gated(), "{manner:?}");
        assert_eq!(world.phase("app"), "trial", "{manner:?}");
    }
    // A request that waits there counts on the next tick.
    world.set("other", Manner::Hangs);
    let waits = world.start(0, &Request::get("/"));
    world.route = "app".to_owned();
    assert!(world.get(0).is_gated());
    world.pass(300 * MS);
    assert!(world.is_open(waits));
    let second = world.send(0, &Request::get("/"));
    assert!(world.is_open(second));
    world.leave(waits);
    world.pass(300 * MS);
    assert_eq!(world.phase("app"), "trial");
    world.respond(second, 200, "via_upstream", &[], true);
    assert_eq!(world.phase("app"), "ready");
}

#[test]
fn on_trial_a_request_that_another_filter_holds_up_or_answers_does_not_count() {
    let trial = json!({"unansweredAfter": "1s", "trial": {"requests": 2, "successes": 1, "leaseFor": "30s"}});
    let mut world = world(&trial);
    on_trial(&mut world);
    world.held_up = true;
    let held = [world.send(0, &Request::get("/")), world.send(0, &Request::get("/"))];
    world.pass(20 * SECOND);
    world.leave(held[0]);
    world.respond(held[1], 429, "request_rate_limited", &[], true);
    assert_eq!(world.phase("app"), "trial");
    world.held_up = false;
    assert_eq!(world.get(0).status, 200);
    assert_eq!(world.phase("app"), "ready");
}

#[test]
fn on_trial_a_request_that_waits_too_long_fails_at_once() {
    for (settings, waits) in [
        (json!({"trial": {"leaseFor": "3s"}}), 3),
        (json!({"unansweredAfter": "2s"}), 2),
        (json!({"consecutiveFailures": 5, "slowPercent": 80, "slowerThan": "1s"}), 1),
    ] {
        let mut world = world(&settings);
        on_trial(&mut world);
        world.set("app", Manner::Hangs);
        world.start(0, &Request::get("/"));
        world.pass(waits * SECOND - 100 * MS);
        assert_eq!(world.phase("app"), "trial", "{settings}");
        world.pass(SECOND);
        assert_eq!(world.phase("app"), "not-ready", "{settings}");
        assert!(world.reason("app").starts_with("trial-"), "{settings}: {}", world.reason("app"));
    }
}

#[test]
fn on_trial_a_request_with_a_body_has_the_whole_lease_from_its_end() {
    let mut world = world(&json!({"trial": {"leaseFor": "3s"}}));
    on_trial(&mut world);
    let id = world.send(0, &Request::of("POST", "/").unfinished());
    world.pass(900 * MS);
    world.finish_request(id);
    world.pass(2_900 * MS);
    assert_eq!(world.phase("app"), "trial");
    world.pass(SECOND);
    assert_eq!((world.phase("app"), world.reason("app").as_str()), ("not-ready", "trial-unanswered"));
}

#[test]
fn on_trial_a_request_whose_rest_comes_after_its_lease_neither_passes_nor_fails_it() {
    for status in [None, Some(200), Some(500)] {
        let mut world = world(&json!({"trial": {"requests": 1, "successes": 1, "leaseFor": "3s"}}));
        on_trial(&mut world);
        let id = world.send(0, &Request::of("POST", "/").unfinished());
        assert!(world.get(0).is_gated(), "it holds the only permit");
        world.pass(2 * SECOND);
        world.finish_request(id);
        match status {
            Some(status) => world.respond(id, status, "via_upstream", &[], true),
            None => world.pass(10 * SECOND),
        }
        assert_eq!(world.phase("app"), "trial", "{status:?}");
        assert!(!world.get(0).is_gated(), "another request has the permit");
        assert_eq!(world.phase("app"), "ready");
    }
}

#[test]
fn on_trial_an_incomplete_request_does_not_count() {
    let mut world = world(&json!({"trial": {"leaseFor": "3s"}}));
    on_trial(&mut world);
    world.set("app", Manner::Hangs);
    let id = world.start(0, &Request::of("POST", "/").unfinished());
    world.pass(60 * SECOND);
    assert_eq!(world.phase("app"), "trial");
    world.leave(id);
    assert_eq!(world.phase("app"), "trial");
}

#[test]
fn on_trial_a_response_that_has_begun_well_and_goes_on_is_a_success() {
    // The response begins at once, or after the worker knows that the upstream has the request.
    for begins_after in [MS, SECOND] {
        let mut world = world(&json!({"trial": {"requests": 1, "successes": 1, "leaseFor": "3s"}}));
        on_trial(&mut world);
        let id = world.send(0, &Request::get("/"));
        world.pass(begins_after);
        world.respond_as(id, &Manner::Streams);
        world.pass(1_900 * MS);
        assert_eq!(world.phase("app"), "trial");
        world.pass(2 * SECOND);
        assert_eq!((world.phase("app"), world.reason("app").as_str()), ("ready", "trial-passed"));
        world.leave(id);
        assert_eq!(world.phase("app"), "ready");
    }
}

#[test]
fn on_trial_any_other_response_counts_when_it_ends() {
    let mut world = world(&json!({"trial": {"requests": 1, "successes": 1}}));
    on_trial(&mut world);
    let id = world.send(0, &Request::get("/"));
    world.respond(id, 200, "via_upstream", &[], false);
    world.pass(SECOND);
    assert_eq!(world.phase("app"), "trial");
    world.body(id, "all of it", true);
    assert_eq!(world.phase("app"), "ready");
}

#[test]
fn the_proxys_own_responses_do_not_count() {
    let details = [
        "direct_response",
        "request_rate_limited",
        "ext_authz_denied",
        "graygate_gate{other|app|forced}",
        "upstream_reset_before_response_started{overflow}",
        "request_timeout",
        "http.request_headers_timeout",
        "route_not_found",
    ];
    for details in details {
        let mut world = world(&json!({}));
        for _ in 0..20 {
            let id = world.send(0, &Request::get("/"));
            world.respond(id, 503, details, &[], true);
        }
        assert_eq!(world.phase("app"), "ready", "{details}");
    }
    let mut world = world(&json!({"consecutiveFailures": 1}));
    world.set("app", Manner::Overflows);
    assert_eq!(trips_after(&mut world, 20), None);
}

#[test]
fn a_request_that_another_filter_holds_up_does_not_count_however_long_it_takes() {
    let mut world = world(&json!({"unansweredAfter": "1s"}));
    world.held_up = true;
    let held: Vec<u32> = (0..5).map(|_| world.send(0, &Request::get("/"))).collect();
    world.pass(1_800 * SECOND);
    assert_eq!(world.phase("app"), "ready");
    // Once the router has one of them, its time starts. The worker learns of it on a tick.
    let released = world.now();
    for id in &held {
        world.route(*id);
        world.pass(250 * MS);
    }
    assert!(world.now() > released + 1_000 + 200);
    assert_eq!(world.phase("app"), "ready");
    world.pass(740 * MS);
    assert_eq!(world.phase("app"), "ready");
    world.pass(500 * MS);
    assert_eq!(world.reason("app"), "consecutive-failures: 5");
    // A client that leaves while its request is held up does not count either.
    let slow = json!({"unansweredAfter": "2s", "slowPercent": 1, "slowerThan": "1s", "minimumRequests": 1});
    let mut world = self::world(&slow);
    world.held_up = true;
    for _ in 0..20 {
        let id = world.send(0, &Request::get("/"));
        world.pass(10 * SECOND);
        world.leave(id);
    }
    world.pass(SECOND);
    assert_eq!(world.phase("app"), "ready");
}

#[test]
fn a_request_that_goes_to_another_cluster_does_not_count_however_long_it_takes() {
    let mut world = world(&json!({"unansweredAfter": "1s"}));
    world.route = "other".to_owned();
    world.set("other", Manner::Status(500));
    assert_eq!(trips_after(&mut world, 20), None);
    world.set("other", Manner::Hangs);
    for _ in 0..20 {
        world.start(0, &Request::get("/"));
    }
    world.pass(1_800 * SECOND);
    assert_eq!(world.phase("app"), "ready");
}

#[test]
fn a_request_that_is_not_recorded_does_not_count() {
    for rule in
        [json!({"record": [{"uri": {"prefix": "/api"}}]}), json!({"ignore": [{"uri": {"exact": "/"}}]})]
    {
        let mut world = world(&rule);
        for manner in [Manner::Status(500), Manner::BreaksOff, Manner::Refuses] {
            world.set("app", manner);
            assert_eq!(trips_after(&mut world, 20), None, "{rule}");
        }
        world.set("app", Manner::Status(500));
        for _ in 0..5 {
            world.ask(0, &Request::get("/api"));
        }
        assert_eq!(world.phase("app"), "not-ready", "{rule}");
    }
}

#[test]
fn on_trial_a_request_that_is_not_recorded_may_pass_and_not_fail() {
    let breaker = json!({"record": [{"uri": {"prefix": "/api"}}], "trial": {"requests": 1, "successes": 1}});
    let mut world = world(&breaker);
    world.set("app", Manner::Status(500));
    for _ in 0..5 {
        world.ask(0, &Request::get("/api"));
    }
    world.pass(6 * SECOND);
    assert_eq!(world.phase("app"), "trial");
    assert_eq!(world.get(0).status, 500);
    assert_eq!(world.phase("app"), "trial");
    world.set("app", Manner::Status(200));
    assert_eq!(world.get(0).status, 200);
    assert_eq!(world.phase("app"), "ready");
}

#[test]
fn a_status_that_is_ignored_is_neither_a_failure_nor_a_success() {
    let mut world = world(&json!({"ignoreOn": ["501"]}));
    world.set("app", Manner::Status(501));
    assert_eq!(trips_after(&mut world, 20), None);
    for _ in 0..4 {
        world.set("app", Manner::Status(500));
        world.get(0);
        world.set("app", Manner::Status(501));
        world.get(0);
    }
    world.set("app", Manner::Status(500));
    assert_eq!(trips_after(&mut world, 1), Some(1));
}

#[test]
fn missing_responses_can_have_their_own_threshold() {
    let breaker = json!({"consecutiveFailures": 10, "consecutiveLocalOriginFailures": 3});
    let mut world = world(&breaker);
    world.set("app", Manner::Refuses);
    assert_eq!(trips_after(&mut world, 20), Some(3));
    assert_eq!(world.reason("app"), "local-origin-failures: 3");
    let mut world = self::world(&breaker);
    for _ in 0..4 {
        world.set("app", Manner::Refuses);
        world.get(0);
        world.get(0);
        // A failing response ends a row of unanswered requests.
        world.set("app", Manner::Status(500));
        world.get(0);
    }
    assert_eq!(world.phase("app"), "ready");
}

#[test]
fn a_redirect_that_the_proxy_follows_passes_a_trial() {
    let mut world = world(&json!({"trial": {"requests": 1, "successes": 1}}));
    on_trial(&mut world);
    let id = world.send(0, &Request::get("/"));
    world.end(id, "internal_redirect");
    assert_eq!(world.phase("app"), "ready");
}

#[test]
fn hours_without_traffic_change_no_state() {
    let mut world = world(&json!({"unansweredAfter": "1s", "failurePercent": 50, "minimumRequests": 5}));
    world.set("app", Manner::Status(500));
    for _ in 0..4 {
        world.get(0);
    }
    world.pass(2 * 3_600 * SECOND);
    assert_eq!((world.phase("app"), world.state("app").generation), ("ready", 0));
}

#[test]
fn a_redirect_that_the_proxy_follows_ends_a_row_of_failures() {
    let mut world = world(&json!({}));
    for _ in 0..3 {
        world.set("app", Manner::Status(500));
        for _ in 0..4 {
            world.get(0);
        }
        let id = world.send(0, &Request::get("/"));
        world.end(id, "internal_redirect");
    }
    assert_eq!(world.phase("app"), "ready");
}

#[test]
fn a_redirect_of_another_cluster_ends_no_row_of_failures() {
    let mut world = world(&json!({}));
    world.set("app", Manner::Status(500));
    for _ in 0..4 {
        world.get(0);
    }
    world.route = "other".to_owned();
    let id = world.send(0, &Request::get("/"));
    world.end(id, "internal_redirect");
    world.route = "app".to_owned();
    world.get(0);
    assert_eq!(world.reason("app"), "consecutive-failures: 5");
}
