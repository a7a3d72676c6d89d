//! Each response counts exactly once, in any order of ticks, responses and write conflicts.

use std::time::Duration;

use graygate::readiness::UpstreamState;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Value, json};

use super::life::{MAX_CONFLICTS, Step, cases};
use super::sim::{Manner, Request, World};
use super::{MS, SECOND, judged};

/// The number of responses, and how many of them failed or were slow.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Tally {
    all: u64,
    failed: u64,
    slow: u64,
}

impl Tally {
    /// Counts a failure after `took` milliseconds.
    fn failure(&mut self, took: u64) {
        self.answer(took);
        self.failed += 1;
    }

    /// Counts a response that has not failed.
    fn answer(&mut self, took: u64) {
        self.all += 1;
        self.slow += u64::from(took > 1_000);
    }
}

/// Returns the counts in a state's window, read from its stored form.
fn window(state: &UpstreamState) -> Tally {
    let stored = serde_json::to_value(state).unwrap();
    let parts = stored["evidence"]["window"]["parts"].as_array().unwrap();
    let sum = |field: &str| parts.iter().map(|part| part[field].as_u64().unwrap()).sum();
    Tally { all: sum("all"), failed: sum("failed"), slow: sum("slow") }
}

#[derive(Clone, Debug)]
enum Event {
    Pass(u32),
    Tick(Index),
    Send(Index),
    Advance(Index, Step),
    Lose(u32),
    /// Replaces the newest policy by the next one.
    Replace,
}

fn event() -> impl Strategy<Value = Event> {
    let steps = [
        Step::Status(200),
        Step::Status(200),
        Step::Status(500),
        Step::Status(500),
        Step::Begin(200),
        Step::End,
        Step::Break,
        Step::Cut,
        Step::Leave,
        Step::Refuse,
    ];
    prop_oneof![
        4 => (0..600u32).prop_map(Event::Pass),
        2 => any::<Index>().prop_map(Event::Tick),
        10 => any::<Index>().prop_map(Event::Send),
        10 => (any::<Index>(), select(steps.to_vec())).prop_map(|(which, step)| Event::Advance(which, step)),
        2 => (0..80u32).prop_map(Event::Lose),
        1 => Just(Event::Replace),
    ]
}

/// Returns a policy that counts shares but never trips.
fn lenient(minimum: u32) -> Value {
    judged(&json!({
        "consecutiveFailures": 100_000, "failurePercent": 100, "slowPercent": 100, "slowerThan": "1s", "window": "1h",
        "minimumRequests": minimum, "unansweredAfter": "90s",
    }))
}

/// An open request: when it was sent, and when its response began.
struct OpenRequest {
    id: u32,
    sent: u64,
    begun: Option<u64>,
}

/// Until how long after its beginning a response may break off and count, in milliseconds. A worker measures both to
/// within a tick.
const BREAK_OFF: u64 = 10_000;

proptest! {
    #![proptest_config(cases(16))]

    /// Responses to workers of a replaced policy count, too.
    #[test]
    fn the_window_counts_each_response_of_all_workers_once(
        vms in 1..5usize,
        events in vec(event(), 1..150),
    ) {
        let mut world = World::new(&lenient(100_000), vms);
        let (mut open, mut tally, mut policies) = (Vec::<OpenRequest>::new(), Tally::default(), 0);
        for event in events {
            match event {
                Event::Pass(millis) => world.pass(millis * MS),
                Event::Tick(vm) => world.tick_now(vm.index(vms)),
                Event::Send(vm) => {
                    let id = world.send(vm.index(vms), &Request::get("/"));
                    open.push(OpenRequest { id, sent: world.now(), begun: None });
                }
                Event::Lose(writes) => world.lose(writes),
                Event::Replace => {
                    policies += 1;
                    world.configure(&lenient(100_000 + policies));
                }
                Event::Advance(which, step) if !open.is_empty() => {
                    let index = which.index(open.len());
                    let request = &mut open[index];
                    let (id, waited) = (request.id, world.now() - request.sent);
                    let since_begun = request.begun.map(|begun| world.now() - begun);
                    match (step, since_begun) {
                        (Step::Status(status), None) => {
                            world.respond(id, status, "via_upstream", &[], true);
                            if status == 200 { tally.answer(waited) } else { tally.failure(waited) }
                        }
                        (Step::Refuse, None) => {
                            world.respond_as(id, &Manner::Refuses);
                            tally.failure(waited);
                        }
                        (Step::Begin(_), None) => {
                            world.respond(id, 200, "via_upstream", &[], false);
                            request.begun = Some(world.now());
                            tally.answer(waited);
                        }
                        (Step::Leave, None) => {
                            world.leave(id);
                            if waited > 1_000 { tally.answer(waited) }
                        }
                        // A response counts when it begins.
                        (Step::End, Some(_)) => world.body(id, "all", true),
                        (Step::Leave, Some(_)) => world.leave(id),
                        (Step::Break, Some(lasted)) if lasted.abs_diff(BREAK_OFF) > 250 => {
                            world.end(id, "upstream_reset_after_response_started{connection_termination}");
                            tally.failed += u64::from(lasted < BREAK_OFF);
                        }
                        (Step::Cut, Some(_)) => world.end(id, "response_timeout"),
                        _ => {}
                    }
                    open.retain(|request| world.is_open(request.id));
                }
                Event::Advance(..) => {}
            }
        }
        // All that still wait are unanswered by now. Their later responses do not count.
        world.lose(0);
        world.stall(91_000);
        world.pass(SECOND);
        for request in open.iter().filter(|request| request.begun.is_none()) {
            tally.failure(91_000);
            world.respond(request.id, 200, "via_upstream", &[], true);
        }
        world.pass(SECOND);
        prop_assert_eq!(window(&world.state("app")), tally);
        prop_assert_eq!(world.state("app").generation, 0);
    }

    /// This holds with ticks at any time and with write conflicts.
    #[test]
    fn one_worker_trips_at_exactly_the_threshold_once_the_row_has_lasted_long_enough(
        responses in vec((prop::bool::weighted(0.3), 0..120u64, any::<bool>(), 0..=MAX_CONFLICTS), 1..60),
    ) {
        let mut world = World::new(&judged(&json!({"consecutiveFailures": 3})), 1);
        // At this rate of successes, a row must last for the shortest time.
        for _ in 0..5_000 {
            world.get(0);
            world.pass(MS);
        }
        let (mut failures, mut first) = (0, 0);
        // A row is judged with each failure and on each tick.
        let trips = |failures, first, judged: u64| failures >= 3 && judged >= first + 240;
        for (succeeds, pause, tick, lost) in responses {
            world.lose(lost);
            world.set("app", Manner::Status(if succeeds { 200 } else { 500 }));
            let before = world.now();
            world.get(0);
            prop_assert_eq!(world.now(), before + 1);
            let mut judged = world.now();
            // A tick at the time of the response comes before it.
            if judged.is_multiple_of(250) && trips(failures, first, judged) {
                prop_assert_eq!(world.reason("app"), format!("consecutive-failures: {failures}"));
                break;
            }
            failures = if succeeds { 0 } else { failures + 1 };
            first = if failures == 1 { judged } else { first };
            if !trips(failures, first, judged) {
                prop_assert_eq!(world.phase("app"), "ready");
                world.pass(Duration::from_millis(pause));
                // Its ticks come at multiples of 250 ms.
                judged = if tick { world.now() } else { judged.max(world.now() / 250 * 250) };
                if tick {
                    world.tick_now(0);
                }
            }
            let expected = if trips(failures, first, judged) { "not-ready" } else { "ready" };
            prop_assert_eq!(world.phase("app"), expected);
            if expected == "not-ready" {
                prop_assert_eq!(world.reason("app"), format!("consecutive-failures: {failures}"));
                break;
            }
        }
    }

    #[test]
    fn without_successes_before_one_worker_trips_at_exactly_the_threshold(
        failing in vec((0..600u64, any::<bool>(), 0..=MAX_CONFLICTS), 3),
    ) {
        let mut world = World::new(&judged(&json!({"consecutiveFailures": 3})), 1);
        world.set("app", Manner::Status(500));
        for (pause, tick, lost) in failing {
            prop_assert_eq!(world.phase("app"), "ready");
            world.lose(lost);
            world.pass(Duration::from_millis(pause));
            if tick {
                world.tick_now(0);
            }
            world.get(0);
        }
        prop_assert_eq!(world.reason("app"), "consecutive-failures: 3");
    }

    /// A success may also trip on the tick, if the worker shares it together with a failure.
    #[test]
    fn one_worker_trips_at_exactly_the_share_and_reports_it(
        responses in vec((prop::bool::weighted(0.6), any::<bool>(), 0..=MAX_CONFLICTS), 1..60),
    ) {
        let breaker = json!({"consecutiveFailures": 1_000, "failurePercent": 50, "minimumRequests": 10, "window": "1h"});
        let mut world = World::new(&judged(&breaker), 1);
        let mut tally = Tally::default();
        for (succeeds, tick, lost) in responses {
            world.lose(lost);
            let id = world.send(0, &Request::get("/"));
            world.respond(id, if succeeds { 200 } else { 500 }, "via_upstream", &[], true);
            if succeeds { tally.answer(0) } else { tally.failure(0) }
            if tick {
                world.tick_now(0);
            }
            let bad = tally.all >= 10 && tally.failed * 2 >= tally.all;
            if world.phase("app") == "not-ready" {
                let said = format!("failure-share: {} of {}", tally.failed, tally.all);
                prop_assert!(bad);
                prop_assert_eq!(world.reason("app"), said);
                break;
            }
            // Only a failure trips.
            prop_assert!(!bad || succeeds);
        }
    }

    /// No success comes between the failures. They are far enough apart to be separate events.
    #[test]
    fn a_row_over_several_workers_has_the_length_of_all_parts(
        vms in 1..6usize,
        failing in vec((any::<Index>(), 20..300u64, 0..=MAX_CONFLICTS), 1..30),
    ) {
        let mut world = World::new(&judged(&json!({"consecutiveFailures": 12, "notReadyFor": "60s"})), vms);
        let mut seen = 0;
        for (vm, pause, lost) in &failing {
            world.lose(*lost);
            let id = world.send(vm.index(vms), &Request::get("/"));
            if !world.is_open(id) {
                break;
            }
            world.respond(id, 500, "via_upstream", &[], true);
            seen += 1;
            world.pass(Duration::from_millis(*pause));
        }
        world.pass(500 * MS);
        prop_assert_eq!(world.phase("app") == "not-ready", seen >= 12);
        if seen >= 12 {
            // Failures that workers see before they know of them all may be dropped.
            let reason = world.reason("app");
            let count: u32 = reason.strip_prefix("consecutive-failures: ").unwrap().parse().unwrap();
            prop_assert!((12..=seen).contains(&count), "{}: {} seen", reason, seen);
        }
    }

    /// Its failures add to those that the newer policy counts. Only the newer policy's threshold decides.
    #[test]
    fn evidence_of_a_replaced_policys_workers_counts_once_by_the_newer_policys_threshold(
        vms in 1..4usize,
        (earlier, later) in (0..25usize, 0..25usize),
        places in vec((any::<Index>(), 20..300u64), 50),
    ) {
        let policy = |threshold: u32| judged(&json!({"consecutiveFailures": threshold, "notReadyFor": "60s"}));
        let mut world = World::new(&policy(3), vms);
        let vm = |request: usize| places[request].0.index(vms);
        let under_way: Vec<u32> = (0..earlier).map(|request| world.send(vm(request), &Request::get("/"))).collect();
        world.pass(SECOND);
        world.configure(&policy(30));
        // All workers know which policy is the newest.
        world.pass(SECOND);
        for (request, id) in under_way.iter().enumerate() {
            world.respond(*id, 500, "via_upstream", &[], true);
            world.pass(Duration::from_millis(places[request].1));
        }
        prop_assert_eq!(world.phase("app"), "ready");
        world.pass(SECOND);
        for request in 0..later {
            let id = world.send(vm(request), &Request::get("/"));
            world.respond(id, 500, "via_upstream", &[], true);
            world.pass(300 * MS);
            let seen = earlier + request + 1;
            if seen >= 30 {
                // The worker shares the last one on its tick, within the pause.
                prop_assert_eq!(world.reason("app"), "consecutive-failures: 30");
                break;
            }
            prop_assert_eq!(world.phase("app"), "ready");
        }
        prop_assert_eq!(world.phase("app") == "not-ready", earlier + later >= 30);
        prop_assert!(world.logged("(consecutive-failures: 3)").is_empty());
    }
}
