//! Rules for an upstream's shared state in any sequence of events, and its recovery.

use std::collections::BTreeMap;
use std::time::Duration;

use graygate::readiness::{Phase, UpstreamReason};
use graygate::value::time::Time;
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::json;

use super::life::{Change, Event, Life, Parts, TRIAL_REQUESTS, cases, document, traffic_and_faults};
use super::sim::{Manner, Request, World};
use super::{MS, SECOND, judged};

/// A transition: the upstream, the phases before and after, and the reason.
type Transition = (String, &'static str, &'static str, UpstreamReason);

/// Returns the transition that a change makes, if any. Fails if it breaks a rule.
fn transition(change: &Change) -> Result<Option<Transition>, TestCaseError> {
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

/// Returns the log line of a transition.
fn line((upstream, from, to, reason): &Transition) -> String {
    format!("policy shop: upstream {upstream}: {from} -> {to} ({reason})")
}

fn policies(check: bool, gated: bool) -> Vec<serde_json::Value> {
    let of = |all_criteria| document(Parts { check, breaker: true, gated, all_criteria });
    vec![of(false), of(true)]
}

proptest! {
    #![proptest_config(cases(16))]

    #[test]
    fn each_transition_has_a_reason_one_log_line_and_one_count(
        (check, all_criteria) in any::<(bool, bool)>(),
        (breaker, gated) in (prop::bool::weighted(0.8), prop::bool::weighted(0.8)),
        vms in 1..5usize,
        events in vec(traffic_and_faults(60), 1..120),
    ) {
        let mut life = Life::new(vec![document(Parts { check, breaker, gated, all_criteria })], vms);
        let mut transitions: Vec<Transition> = Vec::new();
        for event in &events {
            life.apply(event);
            for change in life.changes() {
                transitions.extend(transition(&change)?);
                let phase = change.after.phase.name();
                prop_assert!(all_criteria || phase != "ramp");
                prop_assert!(gated || phase != "trial");
                let watched = breaker || check && change.upstream == "app";
                prop_assert!(watched || change.after.generation == 0);
            }
        }
        let lines: Vec<String> = transitions.iter().map(line).collect();
        prop_assert_eq!(life.world.logged(" -> "), lines);
        let mut counts = BTreeMap::new();
        for (upstream, from, to, reason) in &transitions {
            *counts.entry((upstream, from, to, reason.code())).or_insert(0) += 1;
        }
        for ((upstream, from, to, reason), count) in counts {
            let label = |name: &str, value: &str| format!("{name}={value}");
            let labels = [label("upstream", upstream), label("from", from), label("to", to), label("reason", reason)];
            let counted = life.world.metric("transitions_total", &labels.each_ref().map(String::as_str));
            prop_assert_eq!(counted, count);
        }
        prop_assert_eq!(life.world.metric("transitions_total", &[]), transitions.len() as u64);
    }

    /// A response to a request that was sent in an earlier phase does not affect the current one.
    #[test]
    fn a_response_counts_only_in_the_phase_in_which_its_request_was_sent(
        vms in 1..4usize,
        events in vec(traffic_and_faults(15), 1..120),
    ) {
        let mut life = Life::new(policies(true, true), vms);
        // The generations of both upstreams that the worker knew when it decided.
        let mut sent: BTreeMap<u32, [u32; 2]> = BTreeMap::new();
        for event in &events {
            let requests = life.sent.len();
            life.apply(event);
            let changes = life.changes();
            if let (Event::Send { vm, .. }, Some(id)) = (event, life.sent.get(requests)) {
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
    fn an_upstream_never_stays_not_ready_because_of_its_breaker_alone(
        vms in 1..5usize,
        events in vec(traffic_and_faults(60), 1..100),
    ) {
        let mut life = Life::new(policies(false, true), vms);
        for event in &events {
            life.apply(event);
        }
        life.end_all();
        // The longest wait that an upstream can ask for, its jitter, a new leader's election, and a tick.
        let longest = 20 * SECOND + 2 * SECOND + SECOND + 250 * MS;
        let mut passed = Duration::ZERO;
        while life.world.phase("app") == "not-ready" {
            prop_assert!(passed <= longest, "{:?}", life.world.state("app"));
            life.world.pass(100 * MS);
            passed += 100 * MS;
        }
    }

    /// A lost permit expires, a new one is lent, and successes end the trial.
    #[test]
    fn an_upstream_becomes_ready_after_any_faults_when_it_responds_again(
        check in any::<bool>(),
        vms in 1..5usize,
        events in vec(traffic_and_faults(60), 1..100),
    ) {
        let mut life = Life::new(policies(check, true), vms);
        for event in &events {
            life.apply(event);
        }
        life.end_all();
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
fn a_response_in_a_later_phase_does_not_count_in_it() {
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

/// The phase stays the same, but its reason changes from an assumption to a check.
#[test]
fn an_assumption_that_checks_confirm_is_logged_as_a_transition_to_the_same_phase() {
    let upstream = json!({"cluster": "app", "readinessProbe": {"httpGet": {}, "periodSeconds": 1}, "assume": "notReady"});
    let mut world = World::new(&json!({"name": "shop", "upstreams": {"app": upstream}}), 2);
    world.set("app", Manner::Status(500));
    world.pass(10 * SECOND);
    assert_eq!(world.reason("app"), "check-failed: status 500");
    let line = "policy shop: upstream app: not-ready -> not-ready (check-failed: status 500)";
    assert_eq!(world.logged(" -> "), [line]);
}
