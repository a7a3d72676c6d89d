//! The fast path for successful responses changes no outcome.
//!
//! Each test runs one scenario twice. The second run adds so many headers to each response that none takes the fast
//! path. After each step, the shared states of all upstreams, the log and all responses must be equal. Only the samples of
//! successes may differ, because successes that were not inspected are counted by an estimate. This holds
//!
//! - for one worker and one policy, in any scenario;
//! - for several workers, if each response ends before its worker's next tick, and no worker has more than 16 redundant
//!   responses between two ticks. Only so many are certain to be inspected.
//!
//! A success on the fast path also does not end a row that began on another worker since the last tick. So in the test of
//! several workers, a worker ticks between a failure and its own next success.
//!
//! Beyond these bounds, a worker may not share a success that would have ended another worker's row of failures. The
//! row can then be counted as longer than it was.

use graygate::worker::fast_path::INSPECTED;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Value, json};

use super::life::{Event, Life, MAX_CONFLICTS, Parts, cases, document, traffic, traffic_and_faults};
use super::sim::{Request, World};
use super::{MS, judged};

/// More headers than a worker reads at once.
const MANY: usize = 100;

/// Returns two runs of the same proxy, of which the second never takes the fast path.
fn twins(policy: &Value, vms: usize) -> [Life; 2] {
    let mut lives = [0, 1].map(|_| Life::new(vec![policy.clone()], vms));
    lives[1].world.extra_headers = MANY;
    lives
}

/// Returns the lengths of the rows by which an upstream has tripped.
fn trips(world: &World, upstream: &str) -> Vec<u64> {
    let said = format!("upstream {upstream}: ");
    let lines = world.logged(&said);
    let length = |line: &String| {
        line.split_once("-> not-ready (consecutive-failures: ")?.1.strip_suffix(')')?.parse().ok()
    };
    lines.iter().filter_map(length).collect()
}

/// Compares the two runs. Returns whether they go on in the same way.
///
/// The rate of successes decides how long a row must last, so one run may trip by a row before the other. That ends the
/// comparison.
fn same([plain, inspected]: &[Life; 2], seen: usize) -> Result<bool, TestCaseError> {
    for upstream in ["app", "db"] {
        let states = [plain, inspected].map(|life| life.world.state(upstream));
        let trips = [plain, inspected].map(|life| trips(&life.world, upstream));
        if trips[0].len() != trips[1].len() {
            let (more, later) = if trips[0].len() > trips[1].len() {
                (&trips[0], &states[1])
            } else {
                (&trips[1], &states[0])
            };
            let length =
                serde_json::to_value(later).unwrap()["evidence"]["failures"]["events"].as_u64().unwrap();
            prop_assert_eq!(trips[0].len().abs_diff(trips[1].len()), 1);
            prop_assert!(
                more.last().is_some_and(|tripped_by| *tripped_by <= length),
                "{:?}: {:?}",
                more,
                later
            );
            return Ok(false);
        }
        if !trips[0].is_empty() && states[0].since != states[1].since {
            return Ok(false);
        }
        let [plain, inspected] = states.map(|state| {
            let mut state = serde_json::to_value(state).unwrap();
            state["heard"] = Value::Null;
            state
        });
        prop_assert_eq!(plain, inspected);
    }
    prop_assert_eq!(&plain.sent, &inspected.sent);
    for id in &plain.sent[seen..] {
        prop_assert_eq!(plain.world.answer(*id), inspected.world.answer(*id));
    }
    Ok(true)
}

fn plain_document() -> Value {
    document(Parts { check: false, breaker: true, gated: true, all_criteria: false })
}

/// An event of a scenario in which each request ends before the next event.
#[derive(Clone, Debug)]
enum Short {
    Ask { vm: Index, to: &'static str, ends: Ends },
    Pass(u32),
    Tick(Index),
}

#[derive(Clone, Copy, Debug)]
enum Ends {
    Headers(u16),
    Body(u16),
    BreaksOff,
    Leaves,
}

fn short() -> impl Strategy<Value = Short> {
    let ends = [
        Ends::Headers(200),
        Ends::Headers(200),
        Ends::Body(200),
        Ends::Headers(500),
        Ends::Headers(500),
        Ends::Body(500),
        Ends::BreaksOff,
        Ends::Leaves,
    ];
    let ask = (any::<Index>(), select(&["app", "app", "db", "other"][..]), select(ends.to_vec()));
    prop_oneof![
        12 => ask.prop_map(|(vm, to, ends)| Short::Ask { vm, to, ends }),
        2 => (0..300u32).prop_map(Short::Pass),
        3 => any::<Index>().prop_map(Short::Tick),
    ]
}

fn ask(world: &mut World, vm: usize, to: &str, ends: Ends) -> u32 {
    let id = world.send(vm, &Request::get("/").with("x-to", to));
    if !world.is_open(id) {
        return id;
    }
    match ends {
        Ends::Headers(status) => world.respond(id, status, "via_upstream", &[], true),
        Ends::Body(status) => {
            world.respond(id, status, "via_upstream", &[], false);
            world.body(id, "all", true);
        }
        Ends::BreaksOff => {
            world.respond(id, 200, "via_upstream", &[], false);
            world.end(id, "upstream_reset_after_response_started{connection_termination}");
        }
        Ends::Leaves => {
            world.respond(id, 200, "via_upstream", &[], false);
            world.leave(id);
        }
    }
    id
}

proptest! {
    #![proptest_config(cases(20))]

    #[test]
    fn the_fast_path_of_one_worker_changes_no_outcome(
        all_criteria in prop::bool::weighted(0.1),
        check in any::<bool>(),
        events in vec(prop_oneof![4 => traffic(), 1 => traffic_and_faults(MAX_CONFLICTS)], 1..120),
    ) {
        let policy = document(Parts { check, breaker: true, gated: true, all_criteria });
        let mut twins = twins(&policy, 1);
        for event in events.iter().filter(|event| !matches!(event, Event::Replace(_) | Event::EndEarlier(_))) {
            let seen = twins[0].sent.len();
            twins.iter_mut().for_each(|life| life.apply(event));
            if !same(&twins, seen)? {
                return Ok(());
            }
        }
        let logs = twins.each_ref().map(|life| life.world.logged(" -> "));
        prop_assert_eq!(&logs[0], &logs[1]);
    }

    #[test]
    fn the_fast_path_of_several_workers_changes_no_outcome_within_its_bounds(
        vms in 2..4usize,
        events in vec(short(), 1..150),
    ) {
        let mut twins = twins(&plain_document(), vms);
        let mut since_tick = vec![0_u32; vms];
        // Whether any worker has seen a failure since the last tick of each.
        let mut has_failed = vec![false; vms];
        for event in &events {
            match event {
                Short::Pass(millis) => {
                    twins.iter_mut().for_each(|life| life.apply(&Event::Pass(*millis)));
                    // All workers have ticked by then.
                    if *millis >= 250 {
                        since_tick.fill(0);
                        has_failed.fill(false);
                    }
                }
                Short::Tick(vm) => {
                    twins.iter_mut().for_each(|life| life.apply(&Event::Tick(*vm)));
                    since_tick[vm.index(vms)] = 0;
                    has_failed[vm.index(vms)] = false;
                }
                Short::Ask { vm, to, ends } => {
                    // Responses of one millisecond have no order, and a success may end a row that began after it.
                    twins.iter_mut().for_each(|life| life.apply(&Event::Pass(1)));
                    let vm = vm.index(vms);
                    let fails = matches!(ends, Ends::Headers(500) | Ends::Body(500) | Ends::BreaksOff);
                    if !matches!(ends, Ends::Headers(500) | Ends::Body(500)) && std::mem::take(&mut has_failed[vm]) {
                        twins.iter_mut().for_each(|life| life.world.tick_now(vm));
                        since_tick[vm] = 0;
                    }
                    let all_tick = |twins: &mut [Life; 2]| {
                        for life in twins {
                            [vm].into_iter().chain(0..vms).for_each(|vm| life.world.tick_now(vm));
                        }
                    };
                    // Responses that began before a break-off may count as if they had begun after it.
                    if matches!(ends, Ends::BreaksOff) {
                        all_tick(&mut twins);
                        since_tick.fill(0);
                        has_failed.fill(false);
                    }
                    if since_tick[vm] < INSPECTED {
                        since_tick[vm] += 1;
                        has_failed.iter_mut().for_each(|failed| *failed |= fails);
                        for life in &mut twins {
                            let id = ask(&mut life.world, vm, to, *ends);
                            life.sent.push(id);
                        }
                    }
                    // All workers must know of a break-off, because they count the responses that begin after it.
                    if matches!(ends, Ends::BreaksOff) {
                        all_tick(&mut twins);
                        since_tick.fill(0);
                        has_failed.fill(false);
                    }
                }
            }
            let seen = twins[0].sent.len().saturating_sub(1);
            if !same(&twins, seen)? {
                return Ok(());
            }
        }
        let logs = twins.each_ref().map(|life| life.world.logged(" -> "));
        prop_assert_eq!(&logs[0], &logs[1]);
    }
}

/// Workers share the successes between their failures, though they inspect only some of them.
#[test]
fn rows_of_two_workers_are_not_joined_across_successes_in_between() {
    let mut world = World::new(&judged(&json!({"consecutiveFailures": 5})), 2);
    for round in 0..50 {
        for vm in [0, 1] {
            for status in [200, 200, 500, 500, 500] {
                assert_eq!(exchange(&mut world, vm, status), status, "round {round}");
            }
            world.pass(17 * MS);
        }
    }
    assert_eq!(world.state("app").generation, 0);
}

/// This holds after any number of successes of another upstream, when the worker inspects as few as it may.
#[test]
fn a_success_after_many_others_ends_a_row_of_another_worker() {
    let mut lives = twins(&plain_document(), 2);
    for life in &mut lives {
        let world = &mut life.world;
        let mut ask = |vm: usize, to: &str, status: u16| {
            ask(world, vm, to, Ends::Headers(status));
        };
        ask(1, "db", 500);
        ask(1, "db", 500);
        life.apply(&Event::Pass(500));
        let world = &mut life.world;
        for (to, status, requests) in [("app", 200, 40), ("db", 200, 1), ("db", 500, 2)] {
            for _ in 0..requests {
                self::ask(world, 0, to, Ends::Headers(status));
            }
        }
        world.pass(500 * MS);
        assert_eq!(world.phase("db"), "ready");
    }
    assert!(same(&lives, 0).unwrap());
}

#[test]
fn a_success_that_ends_after_a_tick_divides_a_row_of_two_workers() {
    let played = [0, MANY].map(|extra_headers| {
        let mut world = World::new(&judged(&json!({"consecutiveFailures": 3})), 2);
        world.extra_headers = extra_headers;
        world.pass(500 * MS);
        // The worker inspects the first response and skips the second, which ends after the tick.
        exchange(&mut world, 0, 200);
        let id = world.send(0, &Request::get("/"));
        world.respond(id, 200, "via_upstream", &[], false);
        world.tick_now(0);
        exchange(&mut world, 1, 500);
        exchange(&mut world, 1, 500);
        world.body(id, "all", true);
        exchange(&mut world, 0, 500);
        world.tick_now(0);
        world.phase("app")
    });
    assert_eq!(played, ["ready", "ready"]);
}

#[test]
fn a_success_on_the_fast_path_ends_a_row_of_another_worker_only_after_the_next_tick() {
    for extra_headers in [0, MANY] {
        let mut world = World::new(&judged(&json!({"consecutiveFailures": 3})), 2);
        world.extra_headers = extra_headers;
        world.pass(500 * MS);
        exchange(&mut world, 0, 200);
        // The other worker learns of that.
        world.pass(500 * MS);
        exchange(&mut world, 0, 200);
        world.pass(MS);
        for _ in 0..3 {
            exchange(&mut world, 1, 500);
        }
        world.pass(MS);
        // Only the first success after a tick was inspected.
        exchange(&mut world, 0, 200);
        world.tick_now(0);
        assert_eq!(world.state("app").has_row(), extra_headers == 0);
        // Now the worker knows of the row, and shares the next success at once.
        exchange(&mut world, 0, 200);
        assert!(!world.state("app").has_row());
        world.pass(500 * MS);
        assert_eq!(world.phase("app"), "ready");
    }
}

fn exchange(world: &mut World, vm: usize, status: u16) -> u16 {
    let id = world.send(vm, &Request::get("/"));
    if world.is_open(id) {
        world.respond(id, status, "via_upstream", &[], true);
    }
    world.answer(id).status
}
