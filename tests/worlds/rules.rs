//! What holds of an upstream's shared state whatever happens, in whichever order: its rules, and that it comes back.

use std::collections::BTreeMap;
use std::time::Duration;

use graygate::readiness::{Phase, UpstreamReason};
use graygate::value::time::Time;
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::json;

use super::life::{Act, Change, Life, Parts, TRIAL_REQUESTS, anything, cases, document};
use super::sim::{Manner, Request, World};
use super::{MS, SECOND, judged};

/// One change of phase: of which upstream, from where to where, and why.
type Step = (String, &'static str, &'static str, UpstreamReason);

/// Returns the change of phase that a write makes, if it makes one, and fails where it breaks a rule.
fn step(change: &Change) -> Result<Option<Step>, TestCaseError> {
    let (before, after) = (&change.before, &change.after);
    if let Phase::Trial { leases, .. } = &after.phase {
        prop_assert!(leases.len() <= TRIAL_REQUESTS);
    }
    if before.generation == after.generation {
        prop_assert_eq!(before.phase.name(), after.phase.name());
        prop_assert_eq!((before.reason, before.since), (after.reason, after.since));
        return Ok(None);
    }
    prop_assert_eq!(after.generation, before.generation + 1);
    prop_assert_ne!(before.phase.name(), after.phase.name());
    prop_assert_eq!(after.since, Time::from_millis(change.at));
    Ok(Some((change.upstream.clone(), before.phase.name(), after.phase.name(), after.reason)))
}

/// The line that the log has of it.
fn line((upstream, from, to, reason): &Step) -> String {
    format!("policy shop: upstream {upstream}: {from} -> {to} ({reason})")
}

fn policies(check: bool, guarded: bool) -> Vec<serde_json::Value> {
    let of = |wholly| document(Parts { check, breaker: true, guarded, wholly });
    vec![of(false), of(true)]
}

proptest! {
    #![proptest_config(cases(16))]

    /// And each has a reason, and is told of once, in the log and by a counter, by whichever worker brought it about.
    #[test]
    fn each_change_of_phase_is_one_line_and_one_count(
        (check, wholly) in any::<(bool, bool)>(),
        (breaker, guarded) in (prop::bool::weighted(0.8), prop::bool::weighted(0.8)),
        vms in 1..5usize,
        acts in vec(anything(60), 1..120),
    ) {
        let mut life = Life::new(vec![document(Parts { check, breaker, guarded, wholly })], vms);
        let mut steps: Vec<Step> = Vec::new();
        for act in &acts {
            life.act(act);
            for change in life.changes() {
                steps.extend(step(&change)?);
                let phase = change.after.phase.name();
                prop_assert!(wholly || phase != "ramp");
                prop_assert!(guarded || phase != "trial");
                let watched = breaker || check && change.upstream == "app";
                prop_assert!(watched || change.after.generation == 0);
            }
        }
        let told: Vec<String> = steps.iter().map(line).collect();
        prop_assert_eq!(life.world.logged(" -> "), told);
        let mut counts = BTreeMap::new();
        for (upstream, from, to, reason) in &steps {
            *counts.entry((upstream, from, to, reason.code())).or_insert(0) += 1;
        }
        for ((upstream, from, to, reason), count) in counts {
            let label = |name: &str, value: &str| format!("{name}={value}");
            let labels = [label("upstream", upstream), label("from", from), label("to", to), label("reason", reason)];
            let counted = life.world.metric("transitions_total", &labels.each_ref().map(String::as_str));
            prop_assert_eq!(counted, count);
        }
        prop_assert_eq!(life.world.metric("transitions_total", &[]), steps.len() as u64);
    }

    /// What a request shows of a phase that is over changes nothing of the one that is on.
    #[test]
    fn a_response_counts_for_the_phase_that_its_request_was_sent_in(
        vms in 1..4usize,
        acts in vec(anything(15), 1..120),
    ) {
        let mut life = Life::new(policies(true, true), vms);
        // The generations of both upstreams that the worker knew of when it had decided.
        let mut sent: BTreeMap<u32, [u32; 2]> = BTreeMap::new();
        for act in &acts {
            let requests = life.sent.len();
            life.act(act);
            let changes = life.changes();
            if let (Act::Send { vm, .. }, Some(id)) = (act, life.sent.get(requests)) {
                let seen = |upstream| life.world.seen(vm.index(vms), upstream).map_or(u32::MAX, |state| state.generation);
                sent.insert(*id, [seen(0), seen(1)]);
            }
            for change in changes {
                let known = change.exchange.and_then(|id| sent.get(&id));
                let generation = known.map(|known| known[usize::from(change.upstream == "db")]);
                if let Some(generation) = generation {
                    prop_assert!(change.before.generation <= generation);
                }
            }
        }
    }

    #[test]
    fn never_stay_not_ready_by_the_breaker_alone(
        vms in 1..5usize,
        acts in vec(anything(60), 1..100),
    ) {
        let mut life = Life::new(policies(false, true), vms);
        for act in &acts {
            life.act(act);
        }
        life.settle();
        // The longest wait that may be asked for and its jitter, a clock that is set back unnoticed, a leader that has
        // died, and a tick.
        let longest = 20 * SECOND + 2 * SECOND + SECOND + SECOND + 250 * MS;
        let mut passed = Duration::ZERO;
        while life.world.phase("app") == "not-ready" {
            prop_assert!(passed <= longest, "{:?}", life.world.state("app"));
            life.world.pass(100 * MS);
            passed += 100 * MS;
        }
    }

    /// A lost permit expires, a new one follows, and good answers end the trial.
    #[test]
    fn come_back_when_the_upstream_does(
        check in any::<bool>(),
        vms in 1..5usize,
        acts in vec(anything(60), 1..100),
    ) {
        let mut life = Life::new(policies(check, true), vms);
        for act in &acts {
            life.act(act);
        }
        life.settle();
        let since = life.world.now();
        while ["app", "db"].iter().any(|upstream| life.world.phase(upstream) != "ready") {
            let passed = life.world.now() - since;
            prop_assert!(passed < 90_000, "{:?} {:?}", life.world.state("app"), life.world.state("db"));
            life.world.pass(250 * MS);
            for vm in 0..vms {
                for to in ["app", "db"] {
                    life.world.ask(vm, &Request::get("/").with("x-to", to));
                }
            }
        }
    }
}

#[test]
fn a_response_that_comes_in_a_later_phase_shows_nothing_of_it() {
    let breaker = json!({"consecutiveFailures": 3, "notReadyFor": "1s", "trial": {"successes": 2}});
    let mut world = World::new(&judged(&breaker), 1);
    let mut early: Vec<u32> = (0..12).map(|_| world.send(0, &Request::get("/"))).collect();
    world.set("app", Manner::Status(500));
    (0..3).for_each(|_| drop(world.get(0)));
    let mut late = |world: &mut World, status: u16| {
        let phase = world.phase("app");
        for id in early.drain(..3) {
            world.respond(id, status, "via_upstream", &[], true);
        }
        assert_eq!(world.phase("app"), phase);
    };
    world.pass(2 * SECOND);
    assert_eq!(world.phase("app"), "trial");
    late(&mut world, 500);
    late(&mut world, 200);
    world.set("app", Manner::Status(200));
    (0..2).for_each(|_| drop(world.get(0)));
    assert_eq!(world.phase("app"), "ready");
    late(&mut world, 500);
}

/// The phase stays, but its reason is another one from now on: what was assumed has been seen.
#[test]
fn an_assumption_that_the_checks_bear_out_is_recorded_as_a_transition_to_the_same_phase() {
    let upstream = json!({"cluster": "app", "readinessProbe": {"httpGet": {}, "periodSeconds": 1}, "assume": "notReady"});
    let mut world = World::new(&json!({"name": "shop", "upstreams": {"app": upstream}}), 2);
    world.set("app", Manner::Status(500));
    world.pass(10 * SECOND);
    assert_eq!(world.reason("app"), "check-failed: status 500");
    let line = "policy shop: upstream app: not-ready -> not-ready (check-failed: status 500)";
    assert_eq!(world.logged(" -> "), [line]);
}
