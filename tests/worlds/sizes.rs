//! What large policies cost: the work of one callback is bounded, whatever the policy says.

use serde_json::{Value, json};

use super::sim::{Manner, Request, World};
use super::{MS, SECOND};

/// Returns a policy with this many releases of this many versions.
fn releases(count: usize, versions: usize) -> Value {
    let version = |index: usize| json!({"name": format!("v{index}"), "upstream": "app", "weight": 1, "default": index == 0});
    let release = |index: usize| {
        json!({
            "name": format!("r{index}"), "steer": {"header": format!("x-r{index}")},
            "match": [{"authority": {"exact": format!("r{index}.test")}}],
            "versions": (0..versions).map(version).collect::<Vec<_>>(),
        })
    };
    json!({
        "name": "shop", "upstreams": {"app": {"cluster": "app"}},
        "releases": (0..count).map(release).collect::<Vec<_>>(),
    })
}

/// The most metrics that one tick may define.
const MAX_DEFINED: usize = 34;

#[test]
fn the_metrics_of_many_versions_are_defined_over_several_ticks_by_one_worker() {
    let mut world = World::new(&releases(10, 10), 3);
    let mut count = world.metrics().len();
    assert_eq!(count, 4, "those of the plugin");
    let mut ticks = 0;
    while count < 4 + 3 + 10 * 10 * 10 {
        world.pass(10 * MS);
        let more = world.metrics().len() - count;
        assert!(more <= MAX_DEFINED, "{more} at once");
        count += more;
        ticks += 1;
        assert!(ticks < 400, "{count} are defined");
    }
    assert_eq!(world.metric("version_share_basis_points", &["release=r7"]), 10_000);
    // With nothing left to define, this policy needs no ticks once it is in use.
    world.pass(6 * SECOND);
    assert_eq!((0..3).map(|vm| world.tick_of(vm)).max(), Some(0));
}

/// Returns a policy with this many upstreams, each with a gate for a path of its own. `parts` are added to each upstream.
fn upstreams(count: usize, parts: &Value) -> Value {
    let upstream = |index: usize| {
        let mut upstream = json!({"cluster": format!("c{index}")});
        upstream.as_object_mut().unwrap().extend(parts.as_object().unwrap().clone());
        (format!("u{index}"), upstream)
    };
    let gate = |index: usize| json!({"upstream": format!("u{index}"), "match": [{"uri": {"exact": format!("/{index}")}}]});
    json!({
        "name": "shop",
        "upstreams": (0..count).map(upstream).collect::<serde_json::Map<_, _>>(),
        "gates": (0..count).map(gate).collect::<Vec<_>>(),
    })
}

fn check(period: f64) -> Value {
    json!({"readinessProbe": {"httpGet": {}, "periodSeconds": period, "failureThreshold": 1}})
}

/// Returns what the world has read from the store and written to it since the last call.
fn accesses(world: &World) -> u32 {
    world.around.loads.take() + world.around.writes.take()
}

const MANY: usize = 1_000;
const TICK: std::time::Duration = std::time::Duration::from_millis(250);

/// The most accesses to the store on one tick in which nothing happens: a sixteenth of the leads and states.
const MAX_AT_REST: u32 = 4 * 63 + 10;

#[test]
fn a_tick_reads_a_part_of_many_upstreams_if_nothing_happens() {
    let mut world = World::new(&upstreams(MANY, &json!({"circuitBreaker": {}})), 3);
    world.pass(20 * TICK);
    accesses(&world);
    for _ in 0..40 {
        world.pass(TICK);
        let accesses = accesses(&world);
        assert!(accesses <= 3 * MAX_AT_REST, "{accesses}");
    }
}

#[test]
fn the_checks_of_many_upstreams_begin_over_several_ticks_and_all_are_sent() {
    let mut world = World::new(&upstreams(MANY, &check(10.0)), 3);
    let sent = |world: &World| world.around.sent.borrow().len();
    let mut before = 0;
    for _ in 0..24 {
        world.pass(TICK);
        let now = sent(&world);
        assert!(now - before <= 128, "{} at once", now - before);
        before = now;
    }
    assert_eq!(before, MANY, "each upstream was checked once");
    world.pass(10 * SECOND);
    assert_eq!(sent(&world), 2 * MANY);
}

#[test]
fn all_workers_learn_within_two_ticks_that_one_of_many_upstreams_is_down_and_up_again() {
    let mut world = World::new(&upstreams(MANY, &check(2.0)), 3);
    world.pass(8 * SECOND);
    let gates = |world: &mut World, vm: usize, index: usize| {
        let id = world.send(vm, &Request::get(&format!("/{index}")));
        world.leave(id);
        world.answer(id).is_gated()
    };
    for (index, manner) in [(0, Manner::Refuses), (977, Manner::Refuses), (977, Manner::Status(200))] {
        let down = matches!(manner, Manner::Refuses);
        world.set(&format!("c{index}"), manner);
        let (phase, mut waited) = (if down { "not-ready" } else { "ready" }, 0);
        while world.phase(&format!("u{index}")) != phase {
            world.pass(10 * MS);
            waited += 1;
            // The worker that checks waits for two seconds once it serves requests, as another may take over.
            assert!(waited < 500, "the check has no effect");
        }
        world.pass(2 * TICK);
        for vm in 0..3 {
            assert_eq!(gates(&mut world, vm, index), down, "worker {vm}, upstream {index}");
        }
        assert_eq!(world.metric("upstream_ready", &[&format!("upstream=u{index}")]), u64::from(!down));
    }
}

#[test]
fn a_failure_that_one_worker_sees_closes_the_gate_of_one_of_many_upstreams_on_all() {
    let breaker = json!({"circuitBreaker": {"consecutiveFailures": 3}});
    let mut world = World::new(&upstreams(MANY, &breaker), 3);
    world.route = "c500".to_owned();
    world.pass(8 * SECOND);
    world.set("c500", Manner::Status(500));
    for turn in 0..12 {
        world.start(turn % 3, &Request::get("/500"));
        world.pass(100 * MS);
    }
    world.pass(2 * TICK);
    assert_eq!(world.phase("u500"), "not-ready");
    for vm in 0..3 {
        let id = world.send(vm, &Request::get("/500"));
        assert!(world.answer(id).is_gated(), "worker {vm}");
    }
}

#[test]
fn another_worker_takes_over_the_checks_of_many_upstreams_when_their_leader_dies() {
    let mut world = World::new(&upstreams(MANY, &check(2.0)), 2);
    world.pass(8 * SECOND);
    let leader = world.around.sent.borrow().last().unwrap().vm;
    world.kill(leader);
    world.pass(20 * SECOND);
    let from = world.around.sent.borrow().len();
    world.pass(4 * SECOND);
    let sent = world.around.sent.borrow();
    let checked: std::collections::BTreeSet<&str> =
        sent[from..].iter().map(|call| call.cluster.as_str()).collect();
    assert!(sent[from..].iter().all(|call| call.vm != leader));
    assert!(checked.len() > 9 * MANY / 10, "{} are checked", checked.len());
}

#[test]
fn an_update_of_many_upstreams_keeps_their_states_and_the_newer_policy_leads() {
    let mut world = World::new(&upstreams(MANY, &check(2.0)), 2);
    world.set("c700", Manner::Refuses);
    world.pass(8 * SECOND);
    let mut newer = upstreams(MANY, &check(2.0));
    newer["maxGatedPercent"] = json!(50);
    assert!(world.configure(&newer));
    for vm in 0..2 {
        let id = world.send(vm, &Request::get("/700"));
        assert!(world.answer(id).is_gated(), "at once on worker {vm}");
    }
    world.pass(3 * SECOND);
    let from = world.around.sent.borrow().len();
    world.pass(4 * SECOND);
    assert!(world.around.sent.borrow()[from..].iter().all(|call| call.root == 1), "the older policy checks");
}

/// Returns a world whose tick is 50 ms, with requests that another filter holds up. Each is from another client.
fn held(requests: usize, unanswered_after: &str) -> (World, Vec<u32>) {
    let upstream = json!({
        "cluster": "app",
        "readinessProbe": {"httpGet": {}, "periodSeconds": 0.2},
        "circuitBreaker": {"consecutiveFailures": 3, "unansweredAfter": unanswered_after},
    });
    let mut world = World::new(&json!({"name": "shop", "upstreams": {"app": upstream}}), 1);
    world.pass(SECOND);
    world.held_up = true;
    let send = |index: usize| {
        *world.around.source.borrow_mut() = format!("10.9.{}.{}:999", index / 250, index % 250);
        world.send(0, &Request::get("/"))
    };
    let sent = (0..requests).map(send).collect();
    (world, sent)
}

#[test]
fn requests_that_another_filter_holds_are_looked_at_ever_more_rarely() {
    let (mut world, _) = held(100, "80s");
    world.pass(SECOND);
    assert!(world.around.entered.take() <= 100 * 10);
    world.pass(20 * SECOND);
    let looks = world.around.entered.take();
    assert!(looks <= 100 * 8, "{looks} looks at 100 requests in 400 ticks");
}

#[test]
fn a_tick_looks_at_a_part_of_thousands_of_requests_that_another_filter_holds() {
    let (mut world, sent) = held(2_000, "1s");
    // The first tick after its decision looks at each.
    world.pass(100 * MS);
    world.around.entered.take();
    for _ in 0..40 {
        world.pass(50 * MS);
        let looks = world.around.entered.take();
        assert!(looks <= 256, "{looks}");
    }
    // Each has its turn, and after a second it counts as unanswered.
    sent.iter().for_each(|id| world.route(*id));
    world.pass(3 * SECOND);
    assert!(world.around.entered.take() >= 2 * 2_000);
    world.pass(3 * SECOND);
    assert_eq!(world.around.entered.take(), 0);
}

#[test]
fn requests_that_wait_for_a_response_are_looked_at_when_they_are_due() {
    let (mut world, sent) = held(100, "30s");
    sent.iter().for_each(|id| world.route(*id));
    world.pass(SECOND);
    world.around.entered.take();
    world.pass(25 * SECOND);
    assert_eq!(world.around.entered.take(), 0);
    world.pass(5 * SECOND);
    assert_eq!(world.around.entered.take(), 100);
}

#[test]
fn the_time_in_another_filter_does_not_count_as_waiting_for_a_response() {
    let (mut world, sent) = held(5, "2s");
    world.pass(20 * SECOND);
    sent.iter().for_each(|id| world.route(*id));
    world.pass(2 * SECOND - MS);
    assert_eq!(world.metric("transitions_total", &[]), 0);
    // The worker finds out that the router has them within a quarter of `unansweredAfter`.
    world.around.entered.take();
    world.pass(500 * MS + 100 * MS);
    assert_eq!(world.around.entered.take(), 5);
}
