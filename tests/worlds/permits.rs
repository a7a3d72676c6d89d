//! Permits of an upstream on trial: never more than the policy allows, and each is returned once.

use std::collections::BTreeMap;

use graygate::readiness::{Phase, UpstreamState};
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::life::{
    Change, Event, LEASE_FOR, Life, MAX_CONFLICTS, Parts, TRIAL_REQUESTS, cases, document, traffic_and_faults,
};
use super::sim::{Manner, Request, World};
use super::{APART, MS, SECOND};

/// The state of a lease.
#[derive(Clone, Copy, Debug, PartialEq)]
enum LeaseState {
    /// This request holds it.
    Held(u32),
    /// Its request returned it.
    Returned,
    /// It expired.
    Expired,
    /// Its trial ended.
    Ended,
}

/// One lease in a state.
#[derive(Clone, Copy, Debug)]
struct Lease {
    from: u64,
    until: u64,
    /// Whether a part of its request is still to come.
    is_part: bool,
}

/// Returns the leases of a state by id.
fn leases(state: &UpstreamState) -> BTreeMap<u64, Lease> {
    let Phase::Trial { leases, .. } = &state.phase else {
        return BTreeMap::new();
    };
    // The fields are private, so they are read from the stored form.
    let stored = serde_json::to_value(leases).unwrap();
    let number = |lease: &Value, field: &str| lease[field].as_u64().unwrap();
    let stored = stored.as_array().unwrap().iter();
    let read = |lease: &Value| Lease {
        from: number(lease, "from"),
        until: number(lease, "until"),
        is_part: lease["is_part"].as_bool().unwrap(),
    };
    stored.map(|lease| (number(lease, "id"), read(lease))).collect()
}

fn successes(state: &UpstreamState) -> u32 {
    if let Phase::Trial { successes, .. } = state.phase { successes } else { 0 }
}

/// All leases that were ever lent.
#[derive(Default)]
struct Ledger(BTreeMap<(String, u64), LeaseState>);

impl Ledger {
    fn record(&mut self, change: &Change) -> Result<(), TestCaseError> {
        let (before, after) = (leases(&change.before), leases(&change.after));
        prop_assert!(after.len() <= TRIAL_REQUESTS);
        let parts = || after.values().filter(|lease| lease.is_part);
        prop_assert!(parts().count() <= (TRIAL_REQUESTS - 1).max(1), "the last lease is for a whole request");
        prop_assert!(
            parts().all(|lease| lease.until - lease.from <= 1_000),
            "incomplete requests hold leases briefly"
        );
        let same = change.before.generation == change.after.generation;
        let lent: Vec<u64> = after.keys().filter(|id| !before.contains_key(id)).copied().collect();
        prop_assert!(lent.len() <= 1);
        for id in &lent {
            prop_assert!(same, "none is lent as a trial begins");
            prop_assert!(change.exchange.is_some(), "a lease is a request's");
            let lease = LeaseState::Held(change.exchange.unwrap());
            let known = self.0.insert((change.upstream.clone(), *id), lease);
            prop_assert_eq!(known, None, "each is lent once");
        }
        let mut expired = 0;
        for (id, Lease { until, .. }) in before.iter().filter(|(id, _)| !after.contains_key(id)) {
            let lease = self.0.get_mut(&(change.upstream.clone(), *id)).unwrap();
            let LeaseState::Held(owner) = *lease else {
                return Err(TestCaseError::fail(format!("returned twice: {lease:?}")));
            };
            let over = *until <= change.at;
            *lease = match change.exchange {
                _ if !same => LeaseState::Ended,
                Some(exchange) if exchange == owner => LeaseState::Returned,
                None if over => LeaseState::Expired,
                _ => return Err(TestCaseError::fail("taken from a request that holds it")),
            };
            expired += u32::from(*lease == LeaseState::Expired);
        }
        if same {
            let more = successes(&change.after) - successes(&change.before);
            prop_assert!(more <= 1.max(expired), "one request is one success");
        }
        Ok(())
    }

    /// Returns the requests that hold a lease.
    fn holders(&self) -> impl Iterator<Item = u32> {
        self.0
            .values()
            .filter_map(|lease| if let LeaseState::Held(exchange) = lease { Some(*exchange) } else { None })
    }
}

/// Returns two policies with the same trials.
fn policies() -> Vec<Value> {
    let of = |all_criteria| document(Parts { check: false, breaker: true, gated: true, all_criteria });
    vec![of(false), of(true)]
}

/// Applies these events to upstreams that start on trial, and checks all leases.
fn play(events: &[Event], vms: usize, exact: bool) -> Result<Ledger, TestCaseError> {
    let mut life = Life::new(policies(), vms);
    let mut ledger = Ledger::default();
    // All are forwarded before the first of them fails. They fail far enough apart to be separate events.
    let to = |upstream| Request::get("/").with("x-to", upstream);
    let failing: Vec<u32> =
        (0..6).map(|request| life.world.send(0, &to(["app", "db"][request % 2]))).collect();
    for pair in failing.chunks(2) {
        pair.iter().for_each(|id| life.world.respond(*id, 500, "via_upstream", &[], true));
        life.world.pass(APART);
    }
    life.world.pass(1_600 * MS);
    prop_assert_eq!((life.world.phase("app"), life.world.phase("db")), ("trial", "trial"));
    life.changes();
    for event in events {
        life.apply(event);
        for change in life.changes() {
            ledger.record(&change)?;
        }
        if exact {
            // A request that has ended holds no lease if its worker was alive to see the end.
            for holder in ledger.holders() {
                let died = matches!(event, Event::Die(_)) || !life.has_its_worker(holder);
                prop_assert!(died || life.world.is_open(holder), "request {} is over", holder);
            }
        }
    }
    life.end_all();
    life.world.pass(LEASE_FOR + 3 * SECOND);
    for change in life.changes() {
        ledger.record(&change)?;
    }
    prop_assert_eq!(ledger.holders().count(), 0);
    prop_assert!(["app", "db"].iter().all(|upstream| leases(&life.world.state(upstream)).is_empty()));
    Ok(ledger)
}

proptest! {
    #![proptest_config(cases(14))]

    #[test]
    fn a_permit_is_returned_once_when_its_request_ends(
        vms in 1..4usize,
        events in vec(traffic_and_faults(MAX_CONFLICTS), 1..120),
    ) {
        play(&events, vms, true)?;
    }

    #[test]
    fn a_permit_whose_return_is_lost_expires(
        vms in 1..4usize,
        events in vec(traffic_and_faults(100), 1..120),
    ) {
        play(&events, vms, false)?;
    }
}

/// Returns a world of `app` and `db`, both with gates. `app` is on trial and needs one success.
fn on_trial(vms: usize) -> World {
    on_trial_for(vms, 1)
}

/// Returns the same world with this many successes for a trial.
fn on_trial_for(vms: usize, successes: u32) -> World {
    let breaker = json!({
        "failOn": ["5xx", "unavailable"], "consecutiveFailures": 3, "notReadyFor": "1s",
        "trial": {"requests": 1, "successes": successes, "leaseFor": "5s"},
    });
    let upstream = |cluster: &str| json!({"cluster": cluster, "circuitBreaker": breaker});
    let document = json!({"name": "shop", "upstreams": {"app": upstream("app"), "db": upstream("db")},
    "gates": [
        {"upstream": "app", "match": [{"uri": {"prefix": "/"}}]},
        {"upstream": "db", "match": [{"uri": {"prefix": "/db"}}]},
    ]});
    let mut world = World::new(&document, vms);
    world.set("app", Manner::Status(500));
    (0..3).for_each(|_| drop(world.get(0)));
    world.pass(1_700 * MS);
    assert_eq!(world.phase("app"), "trial");
    world
}

fn lent(world: &World) -> usize {
    leases(&world.state("app")).len()
}

/// How a request ends.
type End<'e> = &'e dyn Fn(&mut World, u32);

#[test]
fn any_end_of_a_request_returns_its_permit_at_once() {
    const BROKEN: &str = "upstream_reset_after_response_started{connection_termination}";
    let grpc = [("content-type", "application/grpc")];
    let begin = |world: &mut World, id, status| world.respond(id, status, "via_upstream", &[], false);
    let ends: [(&str, End); 14] = [
        ("answered", &|world, id| world.respond(id, 200, "via_upstream", &[], true)),
        ("failed", &|world, id| world.respond(id, 500, "via_upstream", &[], true)),
        ("refused", &|world, id| world.respond_as(id, &Manner::Refuses)),
        ("at the cluster's limits", &|world, id| world.respond_as(id, &Manner::Overflows)),
        ("answered by another filter", &|world, id| world.respond(id, 403, "rbac_access_denied", &[], true)),
        ("redirected", &|world, id| world.end(id, "internal_redirect")),
        ("left", &|world, id| world.leave(id)),
        ("begun and ended", &|world, id| {
            begin(world, id, 200);
            world.body(id, "all", true);
        }),
        ("begun and broken off", &|world, id| {
            begin(world, id, 200);
            world.end(id, BROKEN);
        }),
        ("begun and cut", &|world, id| {
            begin(world, id, 200);
            world.end(id, "response_timeout");
        }),
        ("begun and left", &|world, id| {
            begin(world, id, 200);
            world.leave(id);
        }),
        ("a gRPC status", &|world, id| world.respond_as(id, &Manner::Grpc(0))),
        ("gRPC, begun and left", &|world, id| {
            world.respond(id, 200, "via_upstream", &grpc, false);
            world.leave(id);
        }),
        ("gRPC, begun and broken off", &|world, id| {
            world.respond(id, 200, "via_upstream", &grpc, false);
            world.end(id, BROKEN);
        }),
    ];
    for (name, end) in ends {
        let mut world = on_trial_for(1, 10);
        let id = world.send(0, &Request::get("/"));
        assert_eq!(lent(&world), 1, "{name}");
        world.lose(MAX_CONFLICTS);
        end(&mut world, id);
        assert_eq!((lent(&world), world.is_open(id)), (0, false), "{name}");
        world.lose(0);
        // The trial goes on with another request or has ended.
        let over = world.phase("app") == "not-ready";
        assert_eq!(world.get(0).is_gated(), over, "{name}");
    }
}

#[test]
fn the_permit_of_a_request_that_another_gate_blocks_is_returned_at_once() {
    let mut world = on_trial(1);
    // On trial, one request at a time gets a permit, whatever cluster its route selects.
    world.route = "db".to_owned();
    for _ in 0..3 {
        let id = world.send(0, &Request::get("/"));
        world.respond(id, 500, "via_upstream", &[], true);
    }
    assert_eq!(world.phase("db"), "not-ready");
    for _ in 0..5 {
        assert!(world.ask(0, &Request::get("/db")).details.contains("|db|"));
        assert_eq!(lent(&world), 0);
    }
}

#[test]
fn the_permit_of_a_request_to_another_cluster_is_returned_on_the_next_tick_or_with_the_response() {
    let mut world = on_trial(1);
    world.route = "other".to_owned();
    world.set("other", Manner::Hangs);
    let id = world.start(0, &Request::get("/"));
    assert_eq!(lent(&world), 1);
    world.pass(251 * MS);
    assert_eq!((lent(&world), world.is_open(id)), (0, true));
    // This holds for a cluster whose upstream is judged itself, though its request goes on.
    world.route = "db".to_owned();
    let id = world.send(0, &Request::get("/"));
    assert_eq!(lent(&world), 1);
    world.respond(id, 200, "via_upstream", &[], false);
    assert_eq!((lent(&world), world.is_open(id)), (0, true));
    world.route = "other".to_owned();
    world.set("other", Manner::Status(500));
    world.get(0);
    assert_eq!((lent(&world), world.phase("app")), (0, "trial"));
}

#[test]
fn the_permit_of_a_request_that_another_filter_holds_up_expires_without_a_result() {
    let mut world = on_trial(1);
    world.held_up = true;
    let id = world.send(0, &Request::get("/"));
    assert_eq!(lent(&world), 1);
    world.pass(LEASE_FOR + 250 * MS);
    assert_eq!((lent(&world), world.phase("app")), (0, "trial"));
    world.end(id, "downstream_remote_disconnect");
    assert_eq!(world.phase("app"), "trial");
}

#[test]
fn the_permits_of_a_vm_that_died_expire() {
    let mut world = on_trial(2);
    world.set("app", Manner::Hangs);
    world.start(0, &Request::get("/"));
    world.kill(0);
    assert_eq!(lent(&world), 1);
    assert!(world.get(1).is_gated());
    world.pass(LEASE_FOR + 2 * SECOND);
    assert_eq!(lent(&world), 0);
    world.set("app", Manner::Status(200));
    assert_eq!(world.get(1).status, 200);
    assert_eq!(world.phase("app"), "ready");
}
