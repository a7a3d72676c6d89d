//! The fast path for successes changes no outcome.
//!
//! Each test plays one scenario twice: once as it is, and once with so many headers on each response that none takes the
//! fast path. What must be equal after each step: the whole of the shared state of each upstream, which holds its phase,
//! reason, generation and rows; the log; and each answer. That holds
//!
//! - for a proxy of one worker and one policy, in any scenario;
//! - for several workers, where each response ends before its worker's next tick, and no worker has more than 16 redundant
//!   responses between two ticks, as only so many are sure to be inspected.
//!
//! Beyond these bounds a worker may not tell of a success that would have divided a row which another worker has begun
//! meanwhile, so that row may be found longer.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Value, json};

use super::life::{Act, BEARABLE, Life, Parts, anything, cases, document, traffic};
use super::sim::{Request, World};
use super::{MS, judged};

/// More headers than are read at once.
const MANY: usize = 100;

/// Two lives of the same proxy, of which the second never takes the fast path.
fn twins(policy: &Value, vms: usize) -> [Life; 2] {
    let mut lives = [0, 1].map(|_| Life::new(vec![policy.clone()], vms));
    lives[1].world.extra_headers = MANY;
    lives
}

fn same([plain, inspected]: &[Life; 2], seen: usize) -> Result<(), TestCaseError> {
    for upstream in ["app", "db"] {
        prop_assert_eq!(plain.world.state(upstream), inspected.world.state(upstream));
    }
    prop_assert_eq!(&plain.sent, &inspected.sent);
    for id in &plain.sent[seen..] {
        prop_assert_eq!(plain.world.answer(*id), inspected.world.answer(*id));
    }
    Ok(())
}

fn plain_document() -> Value {
    document(Parts { check: false, breaker: true, guarded: true, wholly: false })
}

/// A request from its beginning to its end, with nothing in between.
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

/// The most redundant responses between two ticks that are sure to be inspected.
const INSPECTED: usize = 16;

proptest! {
    #![proptest_config(cases(20))]

    #[test]
    fn of_one_worker_changes_nothing(
        wholly in prop::bool::weighted(0.1),
        check in any::<bool>(),
        acts in vec(prop_oneof![4 => traffic(), 1 => anything(BEARABLE)], 1..120),
    ) {
        let policy = document(Parts { check, breaker: true, guarded: true, wholly });
        let mut twins = twins(&policy, 1);
        for act in acts.iter().filter(|act| !matches!(act, Act::Replace(_) | Act::EndEarlier(_))) {
            let seen = twins[0].sent.len();
            twins.iter_mut().for_each(|life| life.act(act));
            same(&twins, seen)?;
        }
        let logs = twins.each_ref().map(|life| life.world.logged(" -> "));
        prop_assert_eq!(&logs[0], &logs[1]);
    }

    #[test]
    fn of_several_workers_changes_nothing_within_its_bounds(
        vms in 2..4usize,
        acts in vec(short(), 1..150),
    ) {
        let mut twins = twins(&plain_document(), vms);
        let mut since_tick = vec![0; vms];
        for act in &acts {
            match act {
                Short::Pass(millis) => {
                    twins.iter_mut().for_each(|life| life.act(&Act::Pass(*millis)));
                    // By then each has ticked.
                    if *millis >= 250 {
                        since_tick.fill(0);
                    }
                }
                Short::Tick(vm) => {
                    twins.iter_mut().for_each(|life| life.act(&Act::Tick(*vm)));
                    since_tick[vm.index(vms)] = 0;
                }
                Short::Ask { vm, to, ends } => {
                    let vm = vm.index(vms);
                    if since_tick[vm] < INSPECTED {
                        since_tick[vm] += 1;
                        for life in &mut twins {
                            let id = ask(&mut life.world, vm, to, *ends);
                            life.sent.push(id);
                        }
                    }
                }
            }
            let seen = twins[0].sent.len().saturating_sub(1);
            same(&twins, seen)?;
        }
        let logs = twins.each_ref().map(|life| life.world.logged(" -> "));
        prop_assert_eq!(&logs[0], &logs[1]);
    }
}

/// Each worker's successes between its failures are told of, though most of them are not inspected.
#[test]
fn rows_of_two_workers_are_not_joined_over_the_successes_between() {
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

/// However many successes of another upstream this worker has had, by which it inspects no more than it has to.
#[test]
fn a_row_that_another_worker_has_told_of_is_ended_by_a_success_that_is_not_among_the_first() {
    let mut lives = twins(&plain_document(), 2);
    for life in &mut lives {
        let world = &mut life.world;
        let mut ask = |vm: usize, to: &str, status: u16| {
            ask(world, vm, to, Ends::Headers(status));
        };
        ask(1, "db", 500);
        ask(1, "db", 500);
        life.act(&Act::Pass(500));
        let world = &mut life.world;
        for (to, status, requests) in [("app", 200, 40), ("db", 200, 1), ("db", 500, 2)] {
            for _ in 0..requests {
                self::ask(world, 0, to, Ends::Headers(status));
            }
        }
        world.pass(500 * MS);
        assert_eq!(world.phase("db"), "ready");
    }
    same(&lives, 0).unwrap();
}

#[test]
fn a_success_that_ends_after_its_workers_tick_divides_a_row_of_two_workers() {
    let played = [0, MANY].map(|extra_headers| {
        let mut world = World::new(&judged(&json!({"consecutiveFailures": 3})), 2);
        world.extra_headers = extra_headers;
        world.pass(500 * MS);
        // One is inspected, and the next one is passed over. It ends after the tick.
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

fn exchange(world: &mut World, vm: usize, status: u16) -> u16 {
    let id = world.send(vm, &Request::get("/"));
    if world.is_open(id) {
        world.respond(id, status, "via_upstream", &[], true);
    }
    world.answer(id).status
}
