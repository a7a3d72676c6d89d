//! How soon all workers know, and which one leads them. Each worker ticks at its own time.

use std::time::Duration;

use graygate::readiness::Phase;
use graygate::value::lease::Lease;
use graygate::value::time::Time;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Value, json};

use super::life::{Event, Life, cases};
use super::sim::{Manner, Request, World};
use super::{MS, SECOND, judged};

/// The tick of all policies in this file.
const TICK: Duration = Duration::from_millis(250);

fn checked(period: u64) -> Value {
    let check = json!({"httpGet": {}, "periodSeconds": period, "failureThreshold": 2, "successThreshold": 2});
    let upstream = json!({"cluster": "app", "readinessProbe": check});
    json!({"name": "shop", "upstreams": {"app": upstream}, "gates": [{"upstream": "app"}]})
}

/// Returns workers with these offsets of their ticks, of which this one leads.
fn ticking(document: &Value, offsets: &[u64], leader: Index) -> World {
    let mut world = World::new(document, offsets.len());
    for (vm, offset) in offsets.iter().enumerate() {
        world.set_offset(vm, *offset);
    }
    world.pass(2 * TICK);
    // A restarted VM is the newest, so it becomes leader on its first tick.
    let leader = leader.index(offsets.len());
    world.kill(leader);
    world.configure_vm(leader);
    world.pass(2 * TICK);
    world
}

fn offsets() -> impl Strategy<Value = Vec<u64>> {
    vec(0..250u64, 1..6)
}

/// Sends a request, which fails if it is forwarded. Returns whether it was.
fn fail(world: &mut World, vm: usize) -> bool {
    let id = world.send(vm, &Request::get("/"));
    let passes = world.is_open(id);
    if passes {
        world.respond(id, 500, "via_upstream", &[], true);
    }
    passes
}

/// Returns whether each of the workers gates.
fn gating(world: &mut World, vms: usize) -> Vec<bool> {
    let gates = |vm| {
        let id = world.send(vm, &Request::get("/"));
        world.leave(id);
        world.answer(id).is_gated()
    };
    (0..vms).map(gates).collect()
}

fn all(world: &mut World, vms: usize, gate: bool) -> bool {
    gating(world, vms).iter().all(|gates| *gates == gate)
}

proptest! {
    #![proptest_config(cases(16))]

    /// The failing requests start after each worker has shared the earlier successes. These come so fast that the row
    /// must last for the shortest time.
    #[test]
    fn all_workers_gate_two_ticks_after_the_failing_requests(
        offsets in offsets(),
        leader in any::<Index>(),
        (healthy, turns) in (any::<bool>(), vec((any::<Index>(), 1..4u64), 20)),
        failing in vec((any::<Index>(), 20..100u64), 3),
    ) {
        let vms = offsets.len();
        let mut world = ticking(&judged(&json!({"consecutiveFailures": 3, "notReadyFor": "30s"})), &offsets, leader);
        let silence = if healthy { 240 } else { 0 };
        // The rate is known well only after some seconds.
        for (vm, pause) in turns.iter().cycle().take(if healthy { 4_000 } else { 0 }) {
            world.get(vm.index(vms));
            world.pass(Duration::from_millis(*pause));
        }
        world.pass(TICK + MS);
        prop_assert!(all(&mut world, vms, false));
        let mut begun = None;
        for (vm, pause) in failing {
            world.pass(Duration::from_millis(pause));
            fail(&mut world, vm.index(vms));
            begun.get_or_insert(world.now());
        }
        let lasted = world.now() - begun.unwrap();
        if silence > 0 {
            world.pass(Duration::from_millis(silence - 1 - lasted));
            prop_assert!(all(&mut world, vms, false), "{:?}", world.state("app"));
            world.pass(MS);
        } else {
            // A worker that has seen all failures does not wait.
            prop_assert!(vms > 1 || gating(&mut world, 1)[0]);
        }
        world.pass(2 * TICK);
        prop_assert!(all(&mut world, vms, true), "{:?}", world.state("app"));
    }

    /// The worker that sees the last failure gates at once, so no further request fails.
    #[test]
    fn a_row_on_one_worker_gates_there_at_once_and_on_all_workers_a_tick_later(
        offsets in offsets(),
        leader in any::<Index>(),
        vm in any::<Index>(),
    ) {
        let vms = offsets.len();
        let mut world = ticking(&judged(&json!({"consecutiveFailures": 3, "notReadyFor": "30s"})), &offsets, leader);
        let vm = vm.index(vms);
        let passed: Vec<bool> = (0..4).map(|_| fail(&mut world, vm)).collect();
        prop_assert_eq!(passed, [true, true, true, false]);
        world.pass(TICK);
        prop_assert!(all(&mut world, vms, true));
    }

    /// The first tick finds the waiting requests. With the second, the other workers know.
    #[test]
    fn all_workers_gate_two_ticks_after_requests_have_waited_too_long(
        offsets in offsets(),
        leader in any::<Index>(),
        waiting in vec((any::<Index>(), 20..100u64), 3),
    ) {
        let vms = offsets.len();
        let breaker = json!({"consecutiveFailures": 3, "notReadyFor": "30s", "unansweredAfter": "2s"});
        let mut world = ticking(&judged(&breaker), &offsets, leader);
        for (vm, pause) in waiting {
            world.pass(Duration::from_millis(pause));
            world.send(vm.index(vms), &Request::get("/"));
        }
        world.pass(2 * SECOND - MS);
        prop_assert!(all(&mut world, vms, false));
        world.pass(MS + 2 * TICK);
        prop_assert!(all(&mut world, vms, true), "{:?}", world.state("app"));
    }

    /// This holds for a trip on any worker, because the leader reads the state before it sends its next check.
    #[test]
    fn the_first_check_that_is_sent_after_a_trip_counts(
        offsets in offsets(),
        (leader, vm) in any::<(Index, Index)>(),
        pause in 0..2_000u64,
    ) {
        let vms = offsets.len();
        let mut policy = judged(&json!({"consecutiveFailures": 2, "notReadyFor": "60s"}));
        policy["upstreams"]["app"]["readinessProbe"] = json!({"httpGet": {}, "periodSeconds": 1});
        let mut world = ticking(&policy, &offsets, leader);
        world.pass(2 * SECOND + Duration::from_millis(pause));
        let sent = |world: &World| world.around.called.borrow().len();
        prop_assert!((0..2).all(|_| fail(&mut world, vm.index(vms))));
        let before = sent(&world);
        while sent(&world) == before {
            world.pass(MS);
        }
        world.pass(2 * MS);
        prop_assert_eq!(world.phase("app"), "ready");
        prop_assert_eq!(world.reason("app"), "check-passed");
    }

    #[test]
    fn all_workers_gate_and_ungate_a_tick_after_the_check_that_decides(
        offsets in offsets(), leader in any::<Index>(), period in 1..4u64,
    ) {
        let vms = offsets.len();
        let mut world = ticking(&checked(period), &offsets, leader);
        for (result, status, after) in [("failed", 500, true), ("passed", 200, false)] {
            world.set("app", Manner::Status(status));
            let results = |world: &World| world.metric("checks_total", &[&format!("result={result}")]);
            let before = results(&world);
            for check in 0..2 {
                prop_assert!(all(&mut world, vms, !after), "after {} checks", check);
                while results(&world) <= before + check {
                    world.pass(5 * MS);
                }
            }
            world.pass(TICK);
            prop_assert!(all(&mut world, vms, after));
        }
    }

    /// On the first tick the leader ends the wait. With the second, the other workers know.
    #[test]
    fn all_workers_start_a_trial_two_ticks_after_a_wait(
        offsets in offsets(), leader in any::<Index>(), vm in any::<Index>(),
    ) {
        let vms = offsets.len();
        let mut world = ticking(&judged(&json!({"consecutiveFailures": 3, "notReadyFor": "2s"})), &offsets, leader);
        prop_assert!((0..3).all(|_| fail(&mut world, vm.index(vms))));
        let Phase::NotReady { until: Some(until) } = world.state("app").phase else {
            return Err(TestCaseError::fail("not ready"));
        };
        let left = until.as_millis() - world.now();
        world.pass(Duration::from_millis(left) - MS);
        prop_assert!(all(&mut world, vms, true));
        world.pass(MS + 2 * TICK);
        prop_assert!(all(&mut world, vms, false));
        prop_assert_eq!(world.phase("app"), "trial");
    }
}

/// Generates a VM that dies after this many milliseconds, and that is restarted this many later.
fn death() -> impl Strategy<Value = (Index, u32, u32)> {
    (any::<Index>(), 50..3_000u32, 50..3_000u32)
}

proptest! {
    #![proptest_config(cases(16))]

    /// At most one VM of a policy leads at a time. If any VM is alive, one leads within a second.
    #[test]
    fn one_vm_leads_and_another_takes_over_when_it_dies(
        offsets in offsets(),
        deaths in vec(death(), 1..8),
        lost in prop_oneof![Just(0u32), 0..16u32],
    ) {
        let vms = offsets.len();
        let mut life = Life::new(vec![checked(1)], vms);
        offsets.iter().enumerate().for_each(|(vm, offset)| life.world.set_offset(vm, *offset));
        let mut lease = Lease::none();
        let mut checks = Vec::new();
        // For how long no VM has been alive.
        let (mut alive, mut idle) = (vec![true; vms], 0);
        let (mut led, started) = (life.world.now(), life.world.now());
        let mut look = |life: &mut Life, alive: &[bool]| {
            let written = life.world.written();
            for value in written.iter().filter(|value| value.key.ends_with("/leader") && value.key.contains("/upstream/")) {
                let claim: Lease = postcard::from_bytes(&value.bytes).unwrap();
                let held = lease.holder.id != claim.holder.id && lease.until > Time::from_millis(value.at);
                prop_assert!(!held || lease.holder.configured < claim.holder.configured, "taken from who leads");
                (lease, led) = (claim, value.at);
            }
            let any = alive.iter().any(|alive| *alive);
            led = if any { led } else { life.world.now() };
            prop_assert!(life.world.now() - led <= 1_000 + 250, "nobody leads");
            Ok(())
        };
        let mut walk = |life: &mut Life, alive: &[bool], millis: u32, checks: &mut Vec<(u64, u64)>| {
            for _ in 0..millis.div_ceil(50) {
                life.world.lose(lost);
                let before = life.world.around.called.borrow().len();
                life.apply(&Event::Pass(50));
                let sent = life.world.around.called.borrow().len() - before;
                prop_assert!(sent <= 1, "a check is sent once");
                // Time without any VM does not count.
                idle += if alive.contains(&true) { 0 } else { 50 };
                checks.extend((sent == 1).then(|| (life.world.now(), idle)));
                look(life, alive)?;
            }
            Ok(())
        };
        for (vm, pause, back) in deaths {
            let index = vm.index(vms);
            walk(&mut life, &alive, pause, &mut checks)?;
            life.apply(&Event::Die(vm));
            alive[index] = false;
            walk(&mut life, &alive, back, &mut checks)?;
            life.apply(&Event::Revive(vm));
            alive[index] = true;
        }
        walk(&mut life, &alive, 3_000, &mut checks)?;
        // The margins are half a tick, and the 50 ms between two looks.
        let longest = Duration::from_secs(1) + SECOND + TICK + 100 * MS;
        let mut last = (started, 0);
        for (at, idle) in checks {
            let gap = Duration::from_millis(at - last.0);
            prop_assert!(last.0 == started || gap >= SECOND - TICK / 2 - 50 * MS, "sent twice: {gap:?}");
            prop_assert!(gap <= longest + Duration::from_millis(idle - last.1), "lost: {gap:?}");
            last = (at, idle);
        }
    }
}
