//! Ordinary events and single clients do not make an upstream not ready, and outages do. Each test shows a rule of
//! `docs/evaluate/evidence.md`, with one worker and with two.

use std::time::Duration;

use serde_json::{Value, json};

use super::breaker::until;
use super::sim::{Manner, Request, World};
use super::{APART, MS, SECOND, judged};

const RESET: &str = "upstream_reset_before_response_started{connection_termination}";
const REFUSED: &str =
    "upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_111}";
const BROKEN: &str = "upstream_reset_after_response_started{remote_reset}";

const HOSTS: [&str; 5] = ["10.1.0.1:80", "10.1.0.2:80", "10.1.0.3:80", "10.1.0.4:80", "10.1.0.5:80"];
const CLIENTS: [&str; 4] = ["10.9.0.1:5000", "10.9.0.2:5000", "10.9.0.3:5000", "10.9.0.4:5000"];

/// A client that no other request comes from.
const LONER: &str = "10.9.0.99:5000";

/// Runs a test with a world of one worker and of two.
fn each(policy: &Value, test: impl Fn(&mut World)) {
    for workers in [1, 2] {
        test(&mut World::new(policy, workers));
    }
}

/// Runs a test with this `circuitBreaker`, with one worker and with two.
fn each_by(breaker: &Value, test: impl Fn(&mut World)) {
    each(&judged(breaker), test);
}

/// Sends a request from this client, which goes to this host.
fn send_from(world: &mut World, vm: usize, client: &str, host: &'static str, request: &Request) -> u32 {
    client.clone_into(&mut world.around.source.borrow_mut());
    world.host = Some(host);
    let id = world.send(vm, request);
    world.host = Some(HOSTS[0]);
    id
}

/// Sends a request and responds with this status. Returns whether it was gated.
fn ask_from(world: &mut World, vm: usize, client: &str, host: &'static str, status: u16) -> bool {
    let id = send_from(world, vm, client, host, &Request::get("/"));
    if world.is_open(id) {
        world.respond(id, status, "via_upstream", &[], true);
    }
    world.answer(id).is_gated()
}

/// Steady traffic of several clients, to several hosts, on all workers.
struct Traffic {
    random: u32,
}

impl Traffic {
    fn new() -> Self {
        Traffic { random: 12_345 }
    }

    /// Returns the worker, the client and the host of the next request.
    fn next(&mut self, world: &World, hosts: usize) -> (usize, &'static str, &'static str) {
        let vm = self.any(world.workers());
        (vm, CLIENTS[self.any(CLIENTS.len())], HOSTS[self.any(hosts)])
    }

    /// Returns a random number below this one.
    fn any(&mut self, below: usize) -> usize {
        self.random = self.random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.random >> 16) as usize % below
    }

    /// Sends good requests for this time, with this pause between two. Returns how many were gated.
    fn flow(&mut self, world: &mut World, hosts: usize, span: Duration, pause: Duration) -> usize {
        let end = world.now() + u64::try_from(span.as_millis()).unwrap();
        let mut gated = 0;
        while world.now() < end {
            let (vm, client, host) = self.next(world, hosts);
            gated += usize::from(ask_from(world, vm, client, host, 200));
            world.pass(pause);
        }
        gated
    }
}

/// Sends enough good requests that the rate, the hosts and the clients are known.
fn warm_up(world: &mut World, hosts: usize) -> Traffic {
    let mut traffic = Traffic::new();
    assert_eq!(traffic.flow(world, hosts, 12 * SECOND, 10 * MS), 0);
    traffic
}

/// Asserts that `app` was ready all the time.
fn assert_calm(world: &World, context: &str) {
    let (phase, state) = (world.phase("app"), world.state("app"));
    assert_eq!((phase, state.generation), ("ready", 0), "{context}, {} workers: {state:?}", world.workers());
}

/// Sends this many requests so far apart that each is an event, and ends each with these details.
fn end_each(world: &mut World, requests: usize, request: &Request, end: impl Fn(&mut World, u32)) {
    for index in 0..requests {
        world.pass(100 * MS);
        let id = world.send(index % world.workers(), request);
        end(world, id);
    }
    world.pass(SECOND);
}

// -- events -------------------------------------------------------------------

#[test]
fn a_host_that_dies_with_many_requests_under_way_gates_nobody() {
    each_by(&json!({}), |world| {
        let mut traffic = warm_up(world, 5);
        let under_way: Vec<(u32, &str)> = (0..150)
            .map(|_| {
                let (vm, client, host) = traffic.next(world, 5);
                (send_from(world, vm, client, host, &Request::get("/")), host)
            })
            .collect();
        for (id, host) in under_way {
            let dies = host == HOSTS[0];
            if dies {
                world.respond(id, 503, RESET, &[], true);
            } else {
                world.respond(id, 200, "via_upstream", &[], true);
            }
        }
        assert_eq!(traffic.flow(world, 5, 2 * SECOND, 10 * MS), 0);
        assert_calm(world, "after its death");
    });
}

#[test]
fn a_host_that_refuses_its_requests_until_it_is_ejected_gates_nobody() {
    each_by(&json!({}), |world| {
        let mut traffic = warm_up(world, 5);
        for _ in 0..1_000 {
            let (vm, client, host) = traffic.next(world, 5);
            let id = send_from(world, vm, client, host, &Request::get("/"));
            assert!(world.is_open(id), "gated");
            if host == HOSTS[2] {
                world.respond(id, 503, REFUSED, &[], true);
            } else {
                world.respond(id, 200, "via_upstream", &[], true);
            }
            world.pass(10 * MS);
        }
        assert_calm(world, "in ten seconds");
    });
}

#[test]
fn a_connection_that_closes_with_many_calls_is_one_failure() {
    for is_warm in [false, true] {
        each_by(&json!({}), |world| {
            if is_warm {
                warm_up(world, 1);
            }
            let calls: Vec<u32> = (0..20).map(|_| world.send(0, &Request::of("POST", "/"))).collect();
            for id in calls {
                world.respond(id, 503, RESET, &[], true);
            }
            world.pass(20 * SECOND);
            assert_eq!(world.gated(0, 20), 0);
            assert_calm(world, "after the connection has closed");
        });
    }
}

#[test]
fn a_connection_that_closes_on_each_worker_is_one_failure_for_each_event() {
    // Five connections close one after the other, which is five events.
    each_by(&json!({}), |world| {
        for events in 0..5 {
            assert_calm(world, &format!("{events} events"));
            let workers = world.workers();
            let calls: Vec<u32> =
                (0..20).map(|call| world.send(call % workers, &Request::get("/"))).collect();
            for id in calls {
                world.respond(id, 503, RESET, &[], true);
            }
            world.pass(SECOND);
        }
        assert_eq!(world.reason("app"), "consecutive-failures: 5");
    });
}

#[test]
fn bursts_of_bad_requests_of_one_client_gate_nobody() {
    for has_check in [false, true] {
        let mut policy = judged(&json!({}));
        if has_check {
            policy["upstreams"]["app"]["readinessProbe"] = json!({"httpGet": {}, "periodSeconds": 0.5});
        }
        each(&policy, |world| {
            let (mut traffic, mut gated) = (Traffic::new(), 0);
            for _ in 0..20 {
                gated += traffic.flow(world, 1, 2 * SECOND, 7 * MS);
                let vm = traffic.any(world.workers());
                let burst: Vec<u32> =
                    (0..12).map(|_| send_from(world, vm, LONER, HOSTS[0], &Request::get("/bad"))).collect();
                for id in burst {
                    world.respond(id, 500, "via_upstream", &[], true);
                }
            }
            assert_eq!(gated, 0);
            assert_calm(world, "after 40 s");
        });
    }
}

// -- silence ------------------------------------------------------------------

#[test]
fn failures_of_a_third_of_all_requests_gate_nobody_and_of_all_requests_everybody() {
    each_by(&json!({}), |world| {
        let mut traffic = warm_up(world, 5);
        for _ in 0..6_000 {
            let (vm, client, host) = traffic.next(world, 5);
            let status = if traffic.any(3) == 0 { 500 } else { 200 };
            assert!(!ask_from(world, vm, client, host, status));
            world.pass(10 * MS);
        }
        assert_calm(world, "a third fails");
        ask_from(world, 0, CLIENTS[0], HOSTS[0], 200);
        let begun = world.now();
        while world.phase("app") == "ready" {
            let (vm, client, host) = traffic.next(world, 5);
            ask_from(world, vm, client, host, 500);
            world.pass(10 * MS);
        }
        // Three samples of successes and ticks of 250 ms bound it.
        let took = world.now() - begun;
        assert!((240..900).contains(&took), "{took} ms");
    });
}

#[test]
fn a_row_must_last_as_long_as_six_successes_usually_take() {
    // One request in so many milliseconds. The row must last for so long.
    for (pause, least) in [(2, 240), (10, 240), (100, 600), (500, 3_000), (2_000, 10_000)] {
        each_by(&json!({}), |world| {
            let mut traffic = Traffic::new();
            let span = Duration::from_millis(pause * 30).max(12 * SECOND);
            assert_eq!(traffic.flow(world, 1, span, Duration::from_millis(pause)), 0);
            let begun = world.now();
            // All clients fail, as fast as they can.
            while world.phase("app") == "ready" {
                let (vm, client, host) = traffic.next(world, 1);
                ask_from(world, vm, client, host, 500);
                world.pass(25 * MS);
                assert!(world.now() < begun + 30_000, "never found");
            }
            let took = world.now() - begun;
            let most = least + least / 3 + 260;
            assert!(
                (least * 8 / 10..=most).contains(&took),
                "{pause} ms: {took} ms, {} workers",
                world.workers()
            );
        });
    }
}

// -- hosts --------------------------------------------------------------------

#[test]
fn a_row_counts_if_more_than_half_of_the_hosts_fail() {
    for (failing, counts) in [(1, false), (2, false), (3, true), (4, true), (5, true)] {
        each_by(&json!({}), |world| {
            let mut traffic = warm_up(world, 5);
            // The other hosts get no requests for a while.
            for _ in 0..60 {
                let (vm, client, host) = traffic.next(world, failing);
                ask_from(world, vm, client, host, 500);
                world.pass(20 * MS);
            }
            let expected = if counts { "not-ready" } else { "ready" };
            assert_eq!(world.phase("app"), expected, "{failing} of 5, {} workers", world.workers());
        });
    }
}

#[test]
fn six_failing_hosts_are_enough_however_many_there_are() {
    let host = |index: usize| -> &'static str { format!("10.2.0.{index}:80").leak() };
    let hosts: Vec<&'static str> = (0..16).map(host).collect();
    for (failing, counts) in [(5, false), (6, true)] {
        each_by(&json!({}), |world| {
            for turn in 0..1_600 {
                // Each worker takes its sample of another host in each second.
                let (vm, host) = (turn % world.workers(), hosts[turn / 100 % 16]);
                ask_from(world, vm, CLIENTS[turn % 4], host, 200);
                world.pass(6 * MS);
            }
            for turn in 0..60 {
                ask_from(world, turn % world.workers(), CLIENTS[turn % 4], hosts[turn % failing], 500);
                world.pass(20 * MS);
            }
            let expected = if counts { "not-ready" } else { "ready" };
            assert_eq!(world.phase("app"), expected, "{failing} of 16, {} workers", world.workers());
        });
    }
}

#[test]
fn requests_for_a_subset_without_a_host_gate_nobody_while_others_are_served() {
    each_by(&json!({}), |world| {
        let mut traffic = warm_up(world, 2);
        let lost = |world: &mut World, vm: usize, client: &str| {
            client.clone_into(&mut world.around.source.borrow_mut());
            world.host = None;
            let id = world.send(vm, &Request::get("/"));
            if world.is_open(id) {
                world.respond(id, 503, "no_healthy_upstream", &[], true);
            }
            world.host = Some(HOSTS[0]);
        };
        for turn in 0..300 {
            lost(world, turn % world.workers(), CLIENTS[turn % 4]);
            assert_eq!(traffic.flow(world, 2, 200 * MS, 100 * MS), 0);
        }
        assert_calm(world, "half of the requests are for the subset");
        // Others were heard of in the last seconds, so a row of the subset alone counts only later.
        for turn in 0..50 {
            lost(world, turn % world.workers(), CLIENTS[turn % 4]);
            world.pass(100 * MS);
        }
        assert_calm(world, "no others for five seconds");
    });
}

#[test]
fn a_cluster_without_a_host_is_found() {
    each_by(&json!({}), |world| {
        world.host = None;
        end_each(world, 5, &Request::get("/"), |world, id| {
            world.respond(id, 503, "no_healthy_upstream", &[], true);
        });
        // It may be a subset that has none, so the row must last.
        world.pass(500 * MS);
        assert_eq!(world.phase("app"), "ready");
        world.pass(2 * SECOND);
        assert_eq!(world.reason("app"), "consecutive-failures: 5");
    });
}

// -- clients ------------------------------------------------------------------

#[test]
fn a_row_of_few_clients_counts_only_if_they_had_half_of_the_successes() {
    // The clients that had successes, one in each second in turn, and those that fail.
    for (served, failing, counts) in [
        (&[0][..], &[0][..], true),
        (&[0, 0, 0, 1], &[0], true),
        (&[0, 0, 0, 1], &[1], false),
        (&[0, 1, 2, 3], &[0], false),
        (&[0, 1, 2, 3], &[0, 1, 2], true),
        (&[3], &[0, 1], false),
        (&[3], &[0, 1, 2], true),
    ] {
        each_by(&json!({}), |world| {
            for turn in 0..1_200 {
                let client = CLIENTS[served[turn / 100 % served.len()]];
                ask_from(world, turn % world.workers(), client, HOSTS[0], 200);
                world.pass(10 * MS);
            }
            for turn in 0..60 {
                let client = CLIENTS[failing[turn % failing.len()]];
                ask_from(world, turn % world.workers(), client, HOSTS[0], 500);
                world.pass(20 * MS);
            }
            let expected = if counts { "not-ready" } else { "ready" };
            assert_eq!(
                world.phase("app"),
                expected,
                "{failing:?} of {served:?}, {} workers",
                world.workers()
            );
        });
    }
}

#[test]
fn one_client_of_many_that_fails_for_itself_gates_nobody() {
    // Faster than all others, and while they pause.
    for (pause, bad_each_turn) in [(100, 20), (1_000, 50), (2_500, 50)] {
        each_by(&json!({}), |world| {
            let (mut traffic, mut gated) = (Traffic::new(), 0);
            gated += traffic.flow(world, 1, 12 * SECOND, Duration::from_millis(pause));
            for _ in 0..40 {
                for _ in 0..bad_each_turn {
                    ask_from(world, 0, LONER, HOSTS[0], 500);
                    world.pass(Duration::from_millis(pause / bad_each_turn));
                }
                gated += traffic.flow(world, 1, MS, MS);
            }
            assert_eq!(gated, 0, "{pause} ms");
            assert_calm(world, &format!("one good request in {pause} ms"));
        });
    }
}

#[test]
fn successes_of_an_upstream_with_few_requests_are_heard_beside_one_with_many() {
    let upstream = |cluster: &str| json!({"cluster": cluster, "circuitBreaker": {}});
    let gate = |name: &str| json!({"upstream": name, "match": [{"uri": {"prefix": format!("/{name}")}}]});
    let policy = json!({
        "name": "shop", "gates": [gate("app"), gate("db")],
        "upstreams": {"app": upstream("app"), "db": upstream("db")},
    });
    let ask = |world: &mut World, vm: usize, client: &str, name: &str, status: u16| {
        name.clone_into(&mut world.route);
        client.clone_into(&mut world.around.source.borrow_mut());
        let id = world.send(vm, &Request::get(&format!("/{name}")));
        if world.is_open(id) {
            world.respond(id, status, "via_upstream", &[], true);
        }
        world.answer(id).is_gated()
    };
    // The one client comes after any time.
    for seconds in [15, 21] {
        each(&policy, |world| {
            let mut traffic = Traffic::new();
            for turn in 1..seconds * 200 {
                let (vm, client, _) = traffic.next(world, 1);
                ask(world, vm, client, "app", 200);
                if turn % 102 == 0 {
                    ask(world, vm, client, "db", 200);
                }
                world.pass(5 * MS);
            }
            for _ in 0..100 {
                ask(world, 0, LONER, "db", 500);
                world.pass(20 * MS);
            }
            assert_eq!(world.state("db").generation, 0, "{seconds} s, {} workers", world.workers());
            // An outage is found.
            let begun = world.now();
            while world.phase("db") == "ready" {
                let (vm, client, _) = traffic.next(world, 1);
                ask(world, vm, client, "db", 500);
                world.pass(50 * MS);
                assert!(world.now() < begun + 30_000, "never found: {:?}", world.state("db"));
            }
            let took = world.now() - begun;
            assert!(took < 6_000, "{took} ms");
        });
    }
}

// -- checks -------------------------------------------------------------------

#[test]
fn passed_checks_overrule_a_default_row_of_few_clients_that_got_responses() {
    let written = json!({"consecutiveFailures": 5});
    for (breaker, manner, clients, trips) in [
        (json!({}), Manner::Status(500), 1, false),
        (json!({}), Manner::Status(500), 2, false),
        (json!({}), Manner::Status(500), 3, true),
        (json!({}), Manner::Refuses, 1, true),
        (json!({}), Manner::Resets, 1, true),
        (written.clone(), Manner::Status(500), 1, true),
        (written, Manner::Refuses, 1, true),
    ] {
        let mut policy = judged(&breaker);
        policy["upstreams"]["app"]["readinessProbe"] = json!({"httpGet": {}, "periodSeconds": 0.5});
        each(&policy, |world| {
            world.pass(2 * SECOND);
            world.set_checks("app", Manner::Status(200));
            for turn in 0..30 {
                let id = send_from(
                    world,
                    turn % world.workers(),
                    CLIENTS[turn % clients],
                    HOSTS[0],
                    &Request::get("/"),
                );
                if world.is_open(id) {
                    world.respond_as(id, &manner);
                }
                world.pass(50 * MS);
            }
            let has_tripped = world.metric("transitions_total", &["upstream=app", "to=not-ready"]) > 0;
            assert_eq!(
                has_tripped,
                trips,
                "{breaker} {manner:?}, {clients} clients, {} workers",
                world.workers()
            );
        });
    }
}

#[test]
fn one_client_of_a_failing_path_alone_does_not_gate_an_app_whose_checks_pass() {
    let mut policy = judged(&json!({}));
    policy["upstreams"]["app"]["readinessProbe"] = json!({"httpGet": {}, "periodSeconds": 1});
    each(&policy, |world| {
        world.set_checks("app", Manner::Status(200));
        world.set("app", Manner::Status(500));
        world.pass(3 * SECOND);
        for turn in 0..240 {
            assert_eq!(world.get(turn % world.workers()).status, 500);
            world.pass(249 * MS);
        }
        assert_calm(world, "for a minute");
    });
}

// -- whose fault it was -------------------------------------------------------

/// Returns the breakers by which failures are found, if they count: by a row and by a share.
fn breakers() -> [Value; 2] {
    [json!({}), json!({"failurePercent": 50, "minimumRequests": 5})]
}

/// Asserts that five requests that end like this make `app` not ready, or that any number does not.
fn assert_counts(name: &str, counts: bool, request: &Request, end: impl Fn(&mut World, u32)) {
    for breaker in breakers() {
        each_by(&breaker, |world| {
            end_each(world, if counts { 4 } else { 30 }, request, &end);
            assert_calm(world, name);
            if counts {
                end_each(world, 1, request, &end);
                assert_eq!(world.phase("app"), "not-ready", "{name}, {breaker}, {} workers", world.workers());
            }
        });
    }
}

/// Ends a request after this many milliseconds, without a response of the upstream.
fn lose(after: u64, status: u16, details: &'static str) -> impl Fn(&mut World, u32) {
    move |world, id| {
        world.pass(Duration::from_millis(after));
        world.respond(id, status, details, &[], true);
    }
}

#[test]
fn a_whole_request_without_a_response_counts() {
    for (status, details) in [
        (503, REFUSED),
        (503, "upstream_reset_before_response_started{connection_timeout}"),
        (503, RESET),
        (503, "upstream_reset_before_response_started{remote_reset}"),
        (504, "response_timeout"),
        (504, "upstream_per_try_timeout"),
        (503, "no_healthy_upstream"),
        (503, "cluster_not_found"),
    ] {
        assert_counts(details, true, &Request::get("/"), lose(50, status, details));
    }
}

#[test]
fn a_closed_connection_counts_only_if_the_upstream_certainly_had_the_request() {
    let post = || Request::of("POST", "/").unfinished();
    for details in [RESET, "upstream_reset_before_response_started{remote_reset}"] {
        assert_counts("a part is to come", false, &post(), lose(50, 503, details));
        for (size, counts) in [(1, true), (65_536, true), (65_537, false), (3_000_000, false)] {
            let name = format!("{size} bytes");
            assert_counts(&name, counts, &post(), move |world, id| {
                let part = vec![0; size / 2];
                world.request_body(id, &part, false);
                world.request_body(id, &vec![0; size - part.len()], true);
                world.respond(id, 503, details, &[], true);
            });
        }
    }
}

#[test]
fn a_limit_of_the_proxy_counts_only_if_the_whole_request_was_sent() {
    for (status, details) in [
        (408, "max_duration_timeout"),
        (504, "stream_idle_timeout"),
        (408, "upstream_max_stream_duration_reached"),
    ] {
        assert_counts(details, true, &Request::get("/"), lose(2_000, status, details));
        assert_counts(details, false, &Request::of("POST", "/").unfinished(), lose(2_000, status, details));
        assert_counts(details, true, &Request::of("POST", "/").unfinished(), move |world, id| {
            world.request_body(id, b"all", true);
            world.pass(2 * SECOND);
            world.respond(id, status, details, &[], true);
        });
    }
}

/// Each header by which a caller sets its own deadline, as 40 ms, and how the proxy reports that it has passed.
const DEADLINES: [(&str, &str, &str); 4] = [
    ("grpc-timeout", "40m", "response_timeout"),
    ("x-envoy-upstream-rq-timeout-ms", "40", "response_timeout"),
    ("x-envoy-upstream-rq-per-try-timeout-ms", "40", "upstream_per_try_timeout"),
    ("x-envoy-upstream-stream-duration-ms", "40", "upstream_max_stream_duration_reached"),
];

#[test]
fn a_callers_own_deadline_does_not_count_once_it_has_passed() {
    for (header, value, details) in DEADLINES {
        let request = || Request::of("POST", "/").with(header, value);
        assert_counts(header, false, &request(), lose(40, 504, details));
        // The clock counts in milliseconds.
        assert_counts(header, false, &request(), lose(39, 504, details));
        assert_counts(header, true, &request(), lose(30, 504, details));
        // It takes only the proxy's timeouts away.
        assert_counts(header, true, &request(), lose(50, 503, RESET));
        assert_counts(header, false, &request(), lose(50, 503, "direct_response"));
    }
}

#[test]
fn a_caller_whose_deadline_passes_late_is_like_a_client_that_leaves_late() {
    let breaker = json!({"unansweredAfter": "1s"});
    for (waits, counts) in [(900, false), (1_100, true)] {
        each_by(&breaker, |world| {
            let request = Request::get("/").with("x-envoy-upstream-rq-timeout-ms", &waits.to_string());
            for _ in 0..6 {
                let id = world.send(0, &request);
                world.pass(Duration::from_millis(waits));
                world.respond(id, 504, "response_timeout", &[], true);
            }
            let expected = if counts { "not-ready" } else { "ready" };
            assert_eq!(world.phase("app"), expected, "{waits} ms");
        });
    }
}

#[test]
fn a_client_that_leaves_before_or_during_a_good_response_does_not_count() {
    assert_counts("before", false, &Request::get("/"), |world, id| world.leave(id));
    assert_counts("during", false, &Request::get("/"), |world, id| {
        world.respond(id, 200, "via_upstream", &[], false);
        world.leave(id);
    });
    assert_counts("during a failure", true, &Request::get("/"), |world, id| {
        world.respond(id, 500, "via_upstream", &[], false);
        world.leave(id);
    });
}

#[test]
fn a_tunnel_is_a_success_when_it_opens_and_its_end_does_not_count() {
    let upgrade = || Request::get("/socket").with("upgrade", "websocket").unfinished();
    assert_counts("a tunnel", false, &upgrade(), |world, id| {
        world.respond(id, 101, "via_upstream", &[], false);
        world.pass(100 * MS);
        world.end(id, BROKEN);
    });
    // Without a response, it counts as any whole request.
    assert_counts("a closed connection", true, &upgrade(), lose(50, 503, RESET));
    assert_counts("a timeout", true, &upgrade(), lose(50, 504, "response_timeout"));
    let connect = Request::of("CONNECT", "/").unfinished();
    assert_counts("an idle CONNECT", true, &connect, lose(50, 504, "stream_idle_timeout"));
}

#[test]
fn an_upgrade_and_an_open_post_that_are_never_answered_are_found() {
    for request in [
        Request::get("/socket").with("upgrade", "websocket").unfinished(),
        Request::of("CONNECT", "/").with(":protocol", "websocket").unfinished(),
        Request::of("POST", "/").unfinished(),
        Request::get("/"),
    ] {
        each_by(&json!({"unansweredAfter": "500ms"}), |world| {
            for turn in 0..5 {
                world.send(turn % world.workers(), &request);
                world.pass(APART);
            }
            world.pass(390 * MS);
            assert_calm(world, "in time");
            world.pass(700 * MS);
            assert_eq!(world.reason("app"), "consecutive-failures: 5", "{request:?}");
        });
    }
}

#[test]
fn event_streams_that_stay_open_are_successes() {
    for breaker in breakers().into_iter().chain([json!({"consecutiveFailures": 5, "failurePercent": 50})]) {
        each_by(&breaker, |world| {
            for turn in 0..100 {
                let (vm, client) = (turn % world.workers(), CLIENTS[turn / 2 % 4]);
                let id = send_from(world, vm, client, HOSTS[0], &Request::get("/events"));
                assert!(world.is_open(id));
                if turn % 20 == 10 {
                    world.respond(id, 500, "via_upstream", &[], true);
                } else {
                    world.respond(id, 200, "via_upstream", &[("content-type", "text/event-stream")], false);
                }
                world.pass(100 * MS);
            }
            world.pass(20 * SECOND);
            assert_calm(world, &breaker.to_string());
        });
    }
}

#[test]
fn a_response_that_breaks_off_counts_within_ten_seconds() {
    let share = json!({"failurePercent": 50, "minimumRequests": 5, "window": "1h"});
    for (lasts, counts) in [(1_100, true), (9_700, true), (10_300, false), (60_000, false)] {
        for breaker in [&json!({}), &share] {
            each_by(breaker, |world| {
                let begun: Vec<u32> = (0..10)
                    .map(|turn| {
                        let id = world.send(turn % world.workers(), &Request::get("/"));
                        world.respond(id, 200, "via_upstream", &[], false);
                        world.pass(100 * MS);
                        id
                    })
                    .collect();
                world.pass(Duration::from_millis(lasts - 1_100));
                for (turn, id) in begun.into_iter().enumerate() {
                    assert!(turn >= 4 || world.phase("app") == "ready", "after {turn}");
                    world.pass(100 * MS);
                    world.end(id, BROKEN);
                }
                world.pass(SECOND);
                let found = world.state("app").generation > 0;
                assert_eq!(found, counts, "{lasts} ms, {breaker}, {} workers", world.workers());
            });
        }
    }
}

#[test]
fn a_redirect_that_the_proxy_follows_between_failures_is_a_success() {
    each_by(&json!({}), |world| {
        for _ in 0..10 {
            end_each(world, 4, &Request::get("/"), |world, id| {
                world.respond(id, 500, "via_upstream", &[], true);
            });
            end_each(world, 3, &Request::get("/"), |world, id| world.end(id, "internal_redirect"));
        }
        assert_calm(world, "four failures, three redirects");
    });
}

// -- on trial -----------------------------------------------------------------

/// Returns the breaker of the tests on trial, with this `trial`.
fn tried(trial: &Value) -> Value {
    json!({"notReadyFor": "1s", "maxNotReadyFor": "100s", "trial": trial})
}

/// Warms up with this number of hosts, then fails all requests, and lets the wait pass.
fn on_trial(world: &mut World, hosts: usize) -> Traffic {
    let mut traffic = warm_up(world, hosts);
    while world.phase("app") == "ready" {
        let (vm, client, host) = traffic.next(world, hosts);
        ask_from(world, vm, client, host, 500);
        world.pass(20 * MS);
    }
    until(world, "trial", 3 * SECOND);
    // All workers know.
    world.pass(260 * MS);
    traffic
}

#[test]
fn a_permit_is_for_one_request_at_the_upstream() {
    each_by(&tried(&json!({"requests": 1, "successes": 1})), |world| {
        let sent = |world: &mut World, client: &str| {
            let request = Request::get("/").with("x-envoy-max-retries", "3");
            let id = send_from(world, 0, client, HOSTS[0], &request);
            let headers = ["x-envoy-max-retries", "x-envoy-hedge-on-per-try-timeout"];
            (id, headers.map(|name| world.sent_headers(id, name).join(",")))
        };
        let (id, headers) = sent(world, LONER);
        assert_eq!(headers, ["3", ""]);
        world.respond(id, 200, "via_upstream", &[], true);
        on_trial(world, 1);
        let (id, headers) = sent(world, CLIENTS[0]);
        assert_eq!(headers, ["0", "false"]);
        world.respond(id, 200, "via_upstream", &[], true);
        assert_eq!(world.phase("app"), "ready");
        assert_eq!(sent(world, CLIENTS[0]).1, ["3", ""]);
    });
}

#[test]
fn a_request_that_meets_the_policy_twice_takes_one_permit() {
    // The filter of the other listener may run on another worker. Its response comes first.
    each_by(&tried(&json!({"requests": 1, "successes": 1})), |world| {
        on_trial(world, 1);
        let outer = send_from(world, 0, CLIENTS[0], HOSTS[0], &Request::get("/"));
        let permit = world.sent_header(outer, "x-graygate-permit").unwrap();
        let last = world.workers() - 1;
        for other in [None, Some("0000000000000001"), Some("")] {
            let request = Request::get("/");
            let request = match other {
                Some(value) => request.with("x-graygate-permit", value),
                None => request,
            };
            let id = send_from(world, last, CLIENTS[1], HOSTS[0], &request);
            assert!(world.answer(id).is_gated(), "{other:?}");
        }
        let request = Request::get("/").with("x-graygate-permit", &permit);
        let inner = send_from(world, last, CLIENTS[0], HOSTS[0], &request);
        assert!(world.is_open(inner));
        assert_eq!(world.phase("app"), "trial");
        world.respond(inner, 200, "via_upstream", &[], true);
        world.respond(outer, 200, "via_upstream", &[], true);
        assert_eq!(world.phase("app"), "ready");
    });
}

#[test]
fn a_failure_of_a_request_that_meets_the_policy_twice_fails_the_trial_once() {
    each_by(&tried(&json!({"requests": 1, "successes": 1})), |world| {
        on_trial(world, 1);
        let outer = send_from(world, 0, CLIENTS[0], HOSTS[0], &Request::get("/"));
        let permit = world.sent_header(outer, "x-graygate-permit").unwrap();
        let request = Request::get("/").with("x-graygate-permit", &permit);
        let inner = send_from(world, 0, CLIENTS[0], HOSTS[0], &request);
        world.respond(inner, 500, "via_upstream", &[], true);
        let after = world.state("app");
        assert_eq!(after.reason.to_string(), "trial-failed");
        world.respond(outer, 500, "via_upstream", &[], true);
        assert_eq!(world.state("app"), after);
    });
}

#[test]
fn a_permit_is_shared_by_few_filters_only() {
    each_by(&tried(&json!({"requests": 1, "successes": 10})), |world| {
        on_trial(world, 1);
        let outer = send_from(world, 0, CLIENTS[0], HOSTS[0], &Request::get("/"));
        let permit = world.sent_header(outer, "x-graygate-permit").unwrap();
        let request = Request::get("/").with("x-graygate-permit", &permit);
        let through = (0..50).filter(|_| {
            let id = send_from(world, 0, CLIENTS[1], HOSTS[0], &request);
            world.is_open(id)
        });
        assert_eq!(through.count(), 4);
    });
}

#[test]
fn uploads_that_never_end_do_not_hold_a_trial_up() {
    for (requests, parts) in [(1, 1), (2, 1), (3, 2)] {
        each_by(&tried(&json!({"requests": requests, "successes": 3, "leaseFor": "30s"})), |world| {
            on_trial(world, 1);
            let upload = Request::of("POST", "/").unfinished();
            let mut uploads = 0;
            for turn in 0..8 {
                let id = send_from(world, turn % world.workers(), CLIENTS[0], HOSTS[0], &upload);
                uploads += usize::from(world.is_open(id));
            }
            assert_eq!(uploads, parts, "of {requests}");
            let begun = world.now();
            // Others get the last permit at once, unless there is only one.
            while world.phase("app") == "trial" {
                let gated = ask_from(world, 0, CLIENTS[1], HOSTS[0], 200);
                let held = world.now() - begun;
                assert!(!gated || requests == 1 && held < 1_000 + 250, "{requests} permits, {held} ms");
                assert!(gated || requests > 1 || held >= 1_000, "{held} ms");
                world.pass(10 * MS);
                assert!(world.now() < begun + 2_000, "held up");
            }
            assert_eq!(world.reason("app"), "trial-passed");
        });
    }
}

#[test]
fn more_uploads_that_never_end_do_not_hold_a_trial_up() {
    each_by(&tried(&json!({"requests": 3, "successes": 3, "leaseFor": "30s"})), |world| {
        on_trial(world, 1);
        let begun = world.now();
        while world.phase("app") == "trial" {
            for turn in 0..4 {
                send_from(
                    world,
                    turn % world.workers(),
                    CLIENTS[0],
                    HOSTS[0],
                    &Request::of("POST", "/").unfinished(),
                );
            }
            ask_from(world, 0, CLIENTS[1], HOSTS[0], 200);
            world.pass(10 * MS);
            assert!(world.now() < begun + 500, "held up");
        }
        assert_eq!(world.reason("app"), "trial-passed");
    });
}

#[test]
fn what_counts_for_nothing_neither_passes_nor_fails_a_trial_and_returns_its_permit() {
    let get = || Request::get("/");
    let deadlines = DEADLINES.map(|(header, value, details)| (get().with(header, value), 50, 504, details));
    let part = || Request::of("POST", "/").unfinished();
    let others = [
        (get(), 0, 0, "downstream_remote_disconnect"),
        (get(), 5, 429, "request_rate_limited"),
        (get(), 5, 503, "upstream_reset_before_response_started{overflow}"),
        (part(), 50, 503, RESET),
        (part(), 50, 408, "max_duration_timeout"),
        (part(), 50, 504, "stream_idle_timeout"),
    ];
    for (request, after, status, details) in deadlines.into_iter().chain(others) {
        each_by(&tried(&json!({"requests": 1, "successes": 1})), |world| {
            on_trial(world, 1);
            for turn in 0..40 {
                let id = send_from(world, turn % world.workers(), CLIENTS[turn % 4], HOSTS[0], &request);
                assert!(world.is_open(id), "{details}: its permit is free again");
                world.pass(Duration::from_millis(after));
                if status == 0 {
                    world.end(id, details);
                } else {
                    world.respond(id, status, details, &[], true);
                }
                assert_eq!(world.phase("app"), "trial", "{details}");
            }
            assert!(!ask_from(world, 0, CLIENTS[1], HOSTS[0], 200));
            assert_eq!(world.phase("app"), "ready", "{details}");
        });
    }
}

#[test]
fn a_tunnel_that_opens_passes_a_trial() {
    each_by(&tried(&json!({"requests": 1, "successes": 3})), |world| {
        on_trial(world, 1);
        for (turn, client) in CLIENTS.iter().take(3).enumerate() {
            assert_eq!(world.phase("app"), "trial");
            let upgrade = Request::get("/socket").with("upgrade", "websocket").unfinished();
            let id = send_from(world, turn % world.workers(), client, HOSTS[0], &upgrade);
            world.respond(id, 101, "via_upstream", &[], false);
            world.end(id, BROKEN);
        }
        assert_eq!((world.phase("app"), world.reason("app").as_str()), ("ready", "trial-passed"));
    });
}

/// Returns when the current wait ends, after its beginning, in milliseconds.
fn wait(world: &World) -> u64 {
    let state = world.state("app");
    match state.phase {
        graygate::readiness::Phase::NotReady { until: Some(until) } => {
            until.as_millis() - state.since.as_millis()
        }
        phase => panic!("{phase:?}"),
    }
}

#[test]
fn the_client_that_failed_a_trial_gets_no_permit_in_the_first_second_of_the_next() {
    each_by(&tried(&json!({"requests": 1, "successes": 3})), |world| {
        on_trial(world, 1);
        assert!(!ask_from(world, 0, LONER, HOSTS[0], 500));
        until(world, "trial", 5 * SECOND);
        let begun = world.state("app").since.as_millis();
        world.pass(260 * MS);
        while world.now() < begun + 1_000 {
            assert!(ask_from(world, 0, LONER, HOSTS[0], 500));
            world.pass(10 * MS);
        }
        // Others do.
        assert!(!ask_from(world, 0, CLIENTS[0], HOSTS[0], 200));
        // After that, it does.
        assert!(!ask_from(world, 0, LONER, HOSTS[0], 200));
    });
}

#[test]
fn one_client_that_fails_for_itself_does_not_hold_a_trial_up() {
    each_by(&tried(&json!({"requests": 1, "successes": 3})), |world| {
        let mut traffic = on_trial(world, 1);
        let begun = world.now();
        while world.phase("app") != "ready" {
            // The one client asks ten times as often.
            for _ in 0..10 {
                ask_from(world, 0, LONER, HOSTS[0], 500);
                world.pass(2 * MS);
            }
            let (vm, client, host) = traffic.next(world, 1);
            ask_from(world, vm, client, host, 200);
            assert!(world.now() < begun + 10_000, "held up");
        }
        assert_eq!(world.reason("app"), "trial-passed");
    });
}

#[test]
fn one_client_does_not_hold_a_trial_up_however_rarely_others_ask() {
    // The time between two requests of others. Three of them pass a trial.
    for pause in [100, 500, 1_000, 2_000] {
        each_by(&tried(&json!({"successes": 3})), |world| {
            let mut traffic = Traffic::new();
            let pause = Duration::from_millis(pause);
            traffic.flow(world, 1, (pause * 20).max(12 * SECOND), pause);
            while world.phase("app") == "ready" {
                let (vm, client, host) = traffic.next(world, 1);
                ask_from(world, vm, client, host, 500);
                world.pass(20 * MS);
            }
            until(world, "trial", 3 * SECOND);
            let begun = world.now();
            while world.phase("app") != "ready" {
                for _ in 0..pause.as_millis() / 20 {
                    let vm = traffic.any(world.workers());
                    ask_from(world, vm, LONER, HOSTS[0], 500);
                    world.pass(20 * MS);
                }
                let (vm, client, host) = traffic.next(world, 1);
                ask_from(world, vm, client, host, 200);
                assert!(world.now() < begun + 20_000, "held up: {pause:?}, {} workers", world.workers());
            }
        });
    }
}

#[test]
fn the_only_client_gets_a_permit_at_once() {
    each_by(&tried(&json!({"requests": 1, "successes": 1})), |world| {
        for turn in 0..100 {
            ask_from(world, turn % world.workers(), LONER, HOSTS[0], 200);
            world.pass(20 * MS);
        }
        while world.phase("app") == "ready" {
            ask_from(world, 0, LONER, HOSTS[0], 500);
            world.pass(20 * MS);
        }
        for trips in 1..4_u32 {
            let least = 1_000 << (trips - 1);
            assert!((least..=least + least / 10).contains(&wait(world)), "its waits grow: {}", wait(world));
            until(world, "trial", 100 * SECOND);
            world.pass(260 * MS);
            assert!(!ask_from(world, 0, LONER, HOSTS[0], 500));
        }
    });
}

#[test]
fn the_wait_does_not_grow_while_the_same_client_or_host_fails_trials() {
    // Whether the failing client and the failing host change.
    for (client_changes, host_changes, grows) in
        [(false, false, false), (false, true, false), (true, false, false), (true, true, true)]
    {
        each_by(&tried(&json!({"requests": 1, "successes": 3})), |world| {
            on_trial(world, 5);
            let mut waits = Vec::new();
            for turn in 0..4 {
                let client = if client_changes { CLIENTS[turn % 4] } else { LONER };
                let host = if host_changes { HOSTS[turn] } else { HOSTS[0] };
                world.pass(SECOND);
                assert!(!ask_from(world, 0, client, host, 500));
                waits.push(wait(world));
                until(world, "trial", 100 * SECOND);
            }
            let name = format!("{client_changes} {host_changes}: {waits:?}");
            assert!((2_000..=2_200).contains(&waits[0]), "{name}");
            assert_eq!(waits[3] > 4_400, grows, "{name}");
            assert!(grows || waits.iter().all(|wait| *wait <= 2_200), "{name}");
        });
    }
}

#[test]
fn one_of_several_hosts_cannot_ask_for_a_longer_wait() {
    let breaker =
        json!({"notReadyFor": "1s", "maxNotReadyFor": "1s", "maxRetryAfter": "1h", "trial": {"requests": 1}});
    let asks = |world: &mut World, vm: usize, client: &str, host: &'static str, asks: bool| {
        let id = send_from(world, vm, client, host, &Request::get("/"));
        if world.is_open(id) {
            let headers: &[(&str, &str)] = if asks { &[("retry-after", "600")] } else { &[] };
            world.respond(id, 503, "via_upstream", headers, true);
        }
    };
    // With so many hosts, of which so many ask.
    for (hosts, asking, long) in [(1, 1, true), (3, 1, false), (3, 3, true)] {
        each_by(&breaker, |world| {
            let mut traffic = warm_up(world, hosts);
            while world.phase("app") == "ready" {
                let (vm, client, host) = traffic.next(world, hosts);
                asks(world, vm, client, host, HOSTS[..asking].contains(&host));
                world.pass(20 * MS);
            }
            assert_eq!(wait(world) >= 500_000, long, "{asking} of {hosts}, {} workers", world.workers());
        });
    }
    // On trial.
    for (hosts, long) in [(1, true), (3, false)] {
        each_by(&breaker, |world| {
            let mut traffic = on_trial(world, hosts);
            let (vm, client, host) = traffic.next(world, hosts);
            asks(world, vm, client, host, true);
            assert_eq!(world.reason("app"), "trial-failed");
            assert_eq!(wait(world) >= 500_000, long, "on trial with {hosts}, {} workers", world.workers());
        });
    }
}
