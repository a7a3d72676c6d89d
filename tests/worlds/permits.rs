//! Permits for an upstream on trial: never more than the policy has, and each goes back once.

use std::collections::BTreeMap;

use graygate::readiness::{Phase, UpstreamState};
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::life::{Act, BEARABLE, Change, LEASE_FOR, Life, Parts, TRIAL_REQUESTS, anything, cases, document};
use super::sim::{Manner, Request, World};
use super::{MS, SECOND};

/// What became of a lease.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    /// It is held by this request.
    Held(u32),
    /// Its request gave it back.
    Returned,
    /// It ran out.
    Expired,
    /// Its trial ended.
    Ended,
}

/// The leases of a state: id, and from when to when each is lent.
fn leases(state: &UpstreamState) -> BTreeMap<u64, (u64, u64)> {
    let Phase::Trial { leases, .. } = &state.phase else {
        return BTreeMap::new();
    };
    // Their fields are the state's own; they are read as they are stored.
    let stored = serde_json::to_value(leases).unwrap();
    let number = |lease: &Value, field: &str| lease[field].as_u64().unwrap();
    let stored = stored.as_array().unwrap().iter();
    stored.map(|lease| (number(lease, "id"), (number(lease, "from"), number(lease, "until")))).collect()
}

fn successes(state: &UpstreamState) -> u32 {
    if let Phase::Trial { successes, .. } = state.phase { successes } else { 0 }
}

/// All leases that ever were.
#[derive(Default)]
struct Ledger(BTreeMap<(String, u64), Fate>);

impl Ledger {
    fn take(&mut self, change: &Change) -> Result<(), TestCaseError> {
        let (before, after) = (leases(&change.before), leases(&change.after));
        prop_assert!(after.len() <= TRIAL_REQUESTS);
        let same = change.before.generation == change.after.generation;
        let lent: Vec<u64> = after.keys().filter(|id| !before.contains_key(id)).copied().collect();
        prop_assert!(lent.len() <= 1);
        for id in &lent {
            prop_assert!(same, "none is lent as a trial begins");
            prop_assert!(change.exchange.is_some(), "a lease is a request's");
            let fate = Fate::Held(change.exchange.unwrap());
            let known = self.0.insert((change.upstream.clone(), *id), fate);
            prop_assert_eq!(known, None, "each is lent once");
        }
        let mut expired = 0;
        for (id, (from, until)) in before.iter().filter(|(id, _)| !after.contains_key(id)) {
            let fate = self.0.get_mut(&(change.upstream.clone(), *id)).unwrap();
            let Fate::Held(owner) = *fate else {
                return Err(TestCaseError::fail(format!("given back again: {fate:?}")));
            };
            // A clock that was set back by more than workers' readings may be apart ends a lease, too.
            let over = *until <= change.at || *from > change.at + 1_000;
            *fate = match change.exchange {
                _ if !same => Fate::Ended,
                Some(exchange) if exchange == owner => Fate::Returned,
                None if over => Fate::Expired,
                _ => return Err(TestCaseError::fail("taken from a request that holds it")),
            };
            expired += u32::from(*fate == Fate::Expired);
        }
        if same {
            let more = successes(&change.after) - successes(&change.before);
            prop_assert!(more <= 1.max(expired), "one request is one success");
        }
        Ok(())
    }

    /// The requests that hold a lease.
    fn holders(&self) -> impl Iterator<Item = u32> {
        self.0
            .values()
            .filter_map(|fate| if let Fate::Held(exchange) = fate { Some(*exchange) } else { None })
    }
}

/// Two policies that have the same trials.
fn policies() -> Vec<Value> {
    let of = |wholly| document(Parts { check: false, breaker: true, guarded: true, wholly });
    vec![of(false), of(true)]
}

/// Lets these things happen, to upstreams that are on trial at first, and checks all that is lent.
fn play(acts: &[Act], vms: usize, exact: bool) -> Result<Ledger, TestCaseError> {
    let mut life = Life::new(policies(), vms);
    let mut ledger = Ledger::default();
    // All go on before the first of them fails.
    let to = |upstream| Request::get("/").with("x-to", upstream);
    let failing: Vec<u32> = ["app", "db"]
        .iter()
        .flat_map(|upstream| [*upstream; 3])
        .map(|upstream| life.world.send(0, &to(upstream)))
        .collect();
    for id in failing {
        life.world.respond(id, 500, "via_upstream", &[], true);
    }
    life.world.pass(1_600 * MS);
    prop_assert_eq!((life.world.phase("app"), life.world.phase("db")), ("trial", "trial"));
    life.changes();
    for act in acts {
        life.act(act);
        for change in life.changes() {
            ledger.take(&change)?;
        }
        if exact {
            // Whatever has become of a request, if its worker lived to see it.
            for holder in ledger.holders() {
                let died = matches!(act, Act::Die(_)) || !life.lived(holder);
                prop_assert!(died || life.world.is_open(holder), "request {} is over", holder);
            }
        }
    }
    life.settle();
    life.world.pass(LEASE_FOR + 3 * SECOND);
    for change in life.changes() {
        ledger.take(&change)?;
    }
    prop_assert_eq!(ledger.holders().count(), 0);
    prop_assert!(["app", "db"].iter().all(|upstream| leases(&life.world.state(upstream)).is_empty()));
    Ok(ledger)
}

proptest! {
    #![proptest_config(cases(14))]

    #[test]
    fn each_goes_back_once_as_soon_as_its_request_is_over(vms in 1..4usize, acts in vec(anything(BEARABLE), 1..120)) {
        play(&acts, vms, true)?;
    }

    #[test]
    fn one_whose_return_is_lost_for_good_expires(vms in 1..4usize, acts in vec(anything(100), 1..120)) {
        play(&acts, vms, false)?;
    }
}

/// A world of `app` and `db`, both behind gates, with `app` on trial, for which one success is enough.
fn on_trial(vms: usize) -> World {
    on_trial_for(vms, 1)
}

/// The same where it takes so many successes.
fn on_trial_for(vms: usize, successes: u32) -> World {
    let breaker = json!({
        "failOn": ["5xx", "unavailable"], "consecutiveFailures": 3, "notReadyFor": "1s",
        "trial": {"requests": 1, "successes": successes, "leaseFor": "5s"},
    });
    let upstream = |cluster: &str| json!({"cluster": cluster, "circuitBreaker": breaker});
    let document = json!({"name": "shop", "upstreams": {"app": upstream("app"), "db": upstream("db")},
        "gates": [{"upstream": "app"}, {"upstream": "db", "match": [{"uri": {"prefix": "/db"}}]}]});
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

/// What becomes of a request.
type End<'e> = &'e dyn Fn(&mut World, u32);

#[test]
fn whatever_ends_a_request_gives_its_permit_back_there_and_then() {
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
        world.lose(BEARABLE);
        end(&mut world, id);
        assert_eq!((lent(&world), world.is_open(id)), (0, false), "{name}");
        world.lose(0);
        // The trial goes on with another, or is over.
        let over = world.phase("app") == "not-ready";
        assert_eq!(world.get(0).is_gated(), over, "{name}");
    }
}

#[test]
fn of_a_request_that_another_gate_stops_goes_back_at_once() {
    let mut world = on_trial(1);
    // On trial, one request at a time gets a permit, whichever cluster its route leads to.
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
fn of_a_request_that_goes_to_another_cluster_goes_back_on_the_next_tick_or_with_the_response() {
    let mut world = on_trial(1);
    world.route = "other".to_owned();
    world.set("other", Manner::Hangs);
    let id = world.start(0, &Request::get("/"));
    assert_eq!(lent(&world), 1);
    world.pass(251 * MS);
    assert_eq!((lent(&world), world.is_open(id)), (0, true));
    // One of an upstream that is judged itself, too, though it goes on.
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
fn of_a_request_that_another_filter_holds_up_expires_and_shows_nothing() {
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
fn of_a_vm_that_has_died_expires() {
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
