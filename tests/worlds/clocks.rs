//! The wall clock is set ahead or back, and nothing begins or ends early or late. `schedule` covers what follows the wall
//! clock.

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::breaker::{until, with_check};
use super::evidence::{on_trial, trips_after};
use super::life::{Event, Life, Parts, cases, document, traffic_and_faults};
use super::releases::{shop, world_of};
use super::sim::{Manner, Request, World};
use super::{MS, SECOND, judged, world};

const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;

/// By how many milliseconds the wall clock is set ahead or back.
const JUMPS: [i64; 8] = [-30 * DAY, -HOUR, -10_000, -900, 900, 10_000, HOUR, 30 * DAY];

/// Has eight requests under way for a second and a half. The wall clock is set in the last half second.
fn eight_under_way(world: &mut World, jump: i64) {
    let requests: Vec<u32> = (0..8).map(|_| world.send(0, &Request::get("/"))).collect();
    world.pass(SECOND);
    world.jump(jump);
    world.pass(500 * MS);
    for id in requests {
        world.respond(id, 200, "via_upstream", &[], true);
    }
    world.pass(SECOND);
}

#[test]
fn requests_under_way_are_neither_unanswered_nor_slow() {
    for jump in JUMPS {
        for breaker in [
            json!({"unansweredAfter": "5s", "consecutiveFailures": 1}),
            json!({"unansweredAfter": "5s", "consecutiveLocalOriginFailures": 1}),
            json!({"slowPercent": 1, "slowerThan": "3s", "minimumRequests": 1}),
        ] {
            let mut world = world(&breaker);
            eight_under_way(&mut world, jump);
            assert_eq!(
                (world.phase("app"), world.state("app").generation),
                ("ready", 0),
                "{jump}: {breaker}"
            );
        }
    }
}

#[test]
fn no_version_is_rolled_back_for_its_latency() {
    for jump in JUMPS {
        let mut document = shop(&[0, 100]);
        document["releases"][0]["rollback"] =
            json!({"latency": {"percentile": 90, "above": "3s"}, "minimumRequests": 8});
        let mut world = world_of(&document, 1);
        for _ in 0..4 {
            eight_under_way(&mut world, jump);
        }
        assert_eq!(world.metric("responses_total", &["version=v2", "result=success"]), 32);
        assert_eq!(world.metric("rollbacks_total", &["policy=shop"]), 0, "{jump}");
    }
}

#[test]
fn checks_keep_their_rhythm_and_their_leader() {
    let calls = |jump: i64| {
        let mut world = World::new(&with_check(&json!({})), 3);
        world.pass(10_300 * MS);
        world.jump(jump);
        world.pass(10 * SECOND);
        world.calls_to("app").into_iter().map(|call| (call.at, call.vm)).collect::<Vec<_>>()
    };
    let undisturbed = calls(0);
    assert!(undisturbed.len() >= 20, "{undisturbed:?}");
    for jump in JUMPS {
        assert_eq!(calls(jump), undisturbed, "{jump}");
    }
}

#[test]
fn a_wait_keeps_its_length() {
    let wait = |jump: i64| {
        let mut world = World::new(&judged(&json!({"notReadyFor": "30s"})), 2);
        world.set("app", Manner::Status(500));
        assert!(trips_after(&mut world, 5).is_some());
        world.pass(10 * SECOND);
        world.jump(jump);
        until(&mut world, "trial", 60 * SECOND)
    };
    let undisturbed = wait(0);
    assert!((19_000..=24_000).contains(&undisturbed), "{undisturbed}");
    for jump in JUMPS {
        assert_eq!(wait(jump), undisturbed, "{jump}");
    }
}

#[test]
fn a_wait_until_a_date_lasts_as_long_as_it_was_when_the_response_came() {
    for jump in JUMPS {
        let mut world = world(&json!({"consecutiveFailures": 2, "notReadyFor": "1s", "maxRetryAfter": "1m"}));
        // The world begins at eight o'clock.
        world.jump(10_000);
        let date = "Fri, 15 Jan 2027 08:00:30 GMT".to_owned();
        world.set("app", Manner::With(503, vec![("retry-after", date)]));
        assert_eq!(world.gated(0, 2), 0);
        world.jump(jump);
        let rest = until(&mut world, "trial", 60 * SECOND);
        assert!((19_800..=22_400).contains(&rest), "{rest} after {jump}");
    }
}

#[test]
fn a_request_on_trial_has_its_whole_lease() {
    for jump in JUMPS {
        let mut world = world(&json!({"trial": {"requests": 1, "successes": 1, "leaseFor": "5s"}}));
        on_trial(&mut world);
        world.send(0, &Request::get("/"));
        world.jump(jump);
        world.pass(4_700 * MS);
        assert_eq!(world.phase("app"), "trial", "{jump}");
        world.pass(600 * MS);
        assert_eq!(world.reason("app"), "trial-unanswered", "{jump}");
    }
}

#[test]
fn a_window_keeps_what_it_has_counted() {
    for jump in JUMPS {
        let mut world = world(&json!({"consecutiveFailures": 1000, "failurePercent": 50}));
        world.set("app", Manner::Status(500));
        (0..19).for_each(|_| drop(world.get(0)));
        world.pass(SECOND);
        world.jump(jump);
        world.pass(SECOND);
        assert_eq!(world.phase("app"), "ready");
        assert_eq!(trips_after(&mut world, 50), Some(1), "{jump}");
        assert_eq!(world.reason("app"), "failure-share: 20 of 20");
    }
}

#[test]
fn a_ramp_keeps_its_share() {
    for jump in JUMPS {
        let trial = json!({"trial": {"requests": 1, "successes": 1, "rampOver": "1000s"}});
        let mut world = world(&trial);
        on_trial(&mut world);
        world.get(0);
        world.pass(500 * SECOND);
        world.jump(jump);
        world.pass(SECOND);
        assert_eq!(world.phase("app"), "ramp", "{jump}");
        let gated = world.gated(0, 400);
        assert!((160..=240).contains(&gated), "{gated} of 400 after {jump}");
    }
}

#[test]
fn a_cached_response_to_a_probe_is_fresh_for_as_long_as_the_policy_says() {
    let probes = json!({"readiness": {"path": "/readyz", "passThrough": {"cacheSeconds": 2}}});
    let document = json!({"name": "shop", "upstreams": {"app": {"cluster": "app"}}, "probes": probes});
    for jump in JUMPS {
        let mut world = World::new(&document, 1);
        let id = world.send(0, &Request::get("/readyz"));
        world.respond(id, 200, "via_upstream", &[], true);
        world.jump(jump);
        world.pass(1_900 * MS);
        let id = world.send(0, &Request::get("/readyz"));
        assert_eq!(world.answer(id).header("age"), Some("1"), "{jump}");
        world.pass(200 * MS);
        let id = world.send(0, &Request::get("/readyz"));
        assert!(world.is_open(id), "{jump}");
        world.leave(id);
    }
}

#[test]
fn a_probe_shows_the_date_of_a_check_by_the_wall_clock_of_now() {
    let mut document = with_check(&json!({}));
    document["probes"] =
        json!({"readiness": {"path": "/readyz", "checks": [{"upstream": "app"}]}, "details": "always"});
    let mut world = World::new(&document, 1);
    world.pass(10 * SECOND);
    world.jump(HOUR);
    let answer = world.ask(0, &Request::get("/readyz").with("accept", "application/json"));
    let body: Value = serde_json::from_str(&answer.body).unwrap();
    let check = &body["checks"]["app"][0];
    assert!(check["ageMilliseconds"].as_u64().unwrap() < 2_000, "{body}");
    assert!(check["time"].as_str().unwrap().starts_with("2027-01-15T09:00:0"), "{body}");
}

/// Returns all that workers did in a life: their writes, calls, log lines and metrics.
fn done(parts: Parts, vms: usize, events: &[Event]) -> Vec<String> {
    let mut life = Life::new(vec![document(parts), document(Parts { check: !parts.check, ..parts })], vms);
    for event in events {
        life.apply(event);
    }
    life.world.pass(Duration::from_secs(30));
    let writes: Vec<String> = life.world.written().iter().map(|written| format!("{written:?}")).collect();
    let around = &life.world.around;
    let rest = [
        format!("{:?}", around.sent.borrow()),
        format!("{:?}", around.log.borrow()),
        format!("{:?}", life.world.metrics()),
    ];
    writes.into_iter().chain(rest).collect()
}

proptest! {
    #![proptest_config(cases(48))]

    #[test]
    fn nothing_depends_on_the_wall_clock(
        check in any::<bool>(),
        vms in 1..4usize,
        events in vec(prop_oneof![9 => traffic_and_faults(20), 1 => (-DAY as i32..DAY as i32).prop_map(Event::Jump)], 1..80),
    ) {
        let parts = Parts { check, breaker: true, gated: true, all_criteria: true };
        let calm: Vec<Event> =
            events.iter().filter(|event| !matches!(event, Event::Jump(_))).cloned().collect();
        prop_assert_eq!(done(parts, vms, &events), done(parts, vms, &calm));
    }
}
