//! Failure scenarios that combine checks, breaker, trial, ramp and gates.

use serde_json::{Value, json};

use super::sim::{Manner, Request, World};
use super::{MS, SECOND, judged};

/// Returns a policy whose `app` has a breaker and a check with these fields.
fn both(breaker: &Value, check: &Value) -> Value {
    let mut probe = json!({"httpGet": {}, "periodSeconds": 1, "failureThreshold": 3});
    for (name, value) in check.as_object().unwrap() {
        probe[name] = value.clone();
    }
    let mut breaker = breaker.clone();
    // A row of the default length does not count while the checks pass.
    breaker["consecutiveFailures"] = json!(5);
    let mut document = judged(&breaker);
    document["upstreams"]["app"]["readinessProbe"] = probe;
    document
}

/// Fails requests of one worker until `app` is not ready.
fn trip(world: &mut World, vm: usize) {
    world.set("app", Manner::Status(500));
    for _ in 0..5 {
        world.get(vm);
    }
    assert_eq!((world.phase("app"), world.reason("app").as_str()), ("not-ready", "consecutive-failures: 5"));
}

fn transitions(world: &World, labels: &[&str]) -> u64 {
    world.metric("transitions_total", labels)
}

// -- idle workers -------------------------------------------------------------

#[test]
fn the_worker_that_sees_the_last_failure_gates_at_once_and_the_others_within_a_tick() {
    let mut world = World::new(&judged(&json!({"notReadyFor": "1h", "maxNotReadyFor": "1h"})), 4);
    world.pass(SECOND);
    trip(&mut world, 2);
    assert!(world.get(2).is_gated());
    world.pass(250 * MS);
    // These workers have seen no failure, but they gate their very first request.
    for vm in 0..4 {
        assert_eq!(world.get(vm).details, "graygate_gate{shop|app|consecutive-failures}", "{vm}");
    }
}

#[test]
fn an_idle_worker_learns_of_a_recovery_on_another_worker() {
    let trial = json!({"requests": 1, "successes": 1});
    let mut world =
        World::new(&judged(&json!({"notReadyFor": "1s", "maxNotReadyFor": "1s", "trial": trial})), 4);
    trip(&mut world, 0);
    world.pass(300 * MS);
    assert!(world.get(3).is_gated());
    world.set("app", Manner::Status(200));
    world.pass(2 * SECOND);
    assert_eq!(world.get(0).status, 200);
    world.pass(300 * MS);
    assert_eq!((world.phase("app"), world.get(3).status), ("ready", 200));
}

// -- trials -------------------------------------------------------------------

#[test]
fn many_waiting_clients_do_not_overload_a_recovering_upstream() {
    // The share rises linearly on the ramp.
    let trial = json!({"requests": 2, "successes": 10, "leaseFor": "10s", "rampOver": "3s"});
    let mut world =
        World::new(&judged(&json!({"notReadyFor": "1s", "maxNotReadyFor": "1s", "trial": trial})), 4);
    trip(&mut world, 0);
    world.set("app", Manner::Slow(200 * MS));
    let (mut open, mut most) = (Vec::new(), 0);
    let mut thirds = [[0_u32; 2]; 3];
    let mut ramp = None;
    for turn in 0..2_400 {
        let before = world.phase("app");
        let id = world.start(turn % 4, &Request::get("/"));
        let through = world.is_open(id);
        match before {
            "trial" if through => open.push(id),
            "ramp" => {
                let begun = *ramp.get_or_insert(world.now());
                let third = usize::try_from((world.now() - begun) / 1_000).unwrap().min(2);
                thirds[third][0] += 1;
                thirds[third][1] += u32::from(through);
            }
            _ => {}
        }
        open.retain(|id| world.is_open(*id));
        most = most.max(open.len());
        world.pass(5 * MS);
    }
    assert_eq!((most, world.phase("app")), (2, "ready"));
    let [first, second, third] = thirds.map(|[all, served]| f64::from(served) / f64::from(all));
    assert!((0.05..0.28).contains(&first), "{first}");
    assert!((0.40..0.60).contains(&second), "{second}");
    assert!((0.72..0.95).contains(&third), "{third}");
    assert_eq!(transitions(&world, &["from=ramp"]), 1);
}

#[test]
fn a_trial_waits_for_its_first_request_without_a_limit() {
    let trial = json!({"requests": 1, "successes": 1, "leaseFor": "1s"});
    let mut world = World::new(&judged(&json!({"notReadyFor": "1s", "trial": trial})), 2);
    trip(&mut world, 0);
    world.set("app", Manner::Status(200));
    world.pass(300 * SECOND);
    assert_eq!((world.phase("app"), transitions(&world, &["from=trial"])), ("trial", 0));
    assert_eq!((world.get(0).status, world.phase("app")), (200, "ready"));
}

#[test]
fn an_upstream_that_breaks_off_every_response_does_not_pass_a_trial() {
    let trial = json!({"requests": 1, "successes": 1});
    let mut world =
        World::new(&judged(&json!({"notReadyFor": "1s", "maxNotReadyFor": "1s", "trial": trial})), 4);
    trip(&mut world, 0);
    world.set("app", Manner::BreaksOff);
    for turn in 0..600 {
        world.get(turn % 4);
        world.pass(100 * MS);
    }
    assert!(transitions(&world, &["from=trial", "to=not-ready", "reason=trial-failed"]) > 20);
    assert_eq!(transitions(&world, &["to=ready"]), 0);
}

#[test]
fn a_trial_request_answered_after_its_lease_fails_and_does_not_count_in_later_trials() {
    let trial = json!({"requests": 1, "successes": 1, "leaseFor": "1s"});
    let mut world =
        World::new(&judged(&json!({"notReadyFor": "1s", "maxNotReadyFor": "1s", "trial": trial})), 4);
    trip(&mut world, 0);
    world.set("app", Manner::Slow(3 * SECOND));
    let mut answered = 0;
    for turn in 0..300 {
        let id = world.start(turn % 4, &Request::get("/"));
        answered += u32::from(world.is_open(id));
        world.pass(100 * MS);
    }
    assert!(answered >= 5, "{answered}");
    let trials = transitions(&world, &["from=trial"]);
    assert!(trials >= 5);
    assert_eq!(transitions(&world, &["from=trial", "reason=trial-unanswered"]), trials);
}

#[test]
fn a_request_whose_response_has_begun_keeps_its_permit() {
    let trial = json!({"requests": 2, "successes": 3, "leaseFor": "1h"});
    let mut world = World::new(&judged(&json!({"notReadyFor": "1s", "trial": trial})), 4);
    trip(&mut world, 0);
    world.set("app", Manner::Streams);
    world.pass(2 * SECOND);
    let crowd: Vec<u32> = (0..40).map(|turn| world.start(turn % 4, &Request::get("/"))).collect();
    world.pass(60 * SECOND);
    let through: Vec<u32> = crowd.into_iter().filter(|id| world.is_open(*id)).collect();
    assert_eq!((through.len(), world.phase("app")), (2, "trial"));
    assert!(world.get(3).is_gated());
    // A client that leaves in the middle has seen a response that began well.
    for id in through {
        world.leave(id);
    }
    world.set("app", Manner::Status(200));
    assert_eq!((world.get(1).status, world.phase("app")), (200, "ready"));
}

// -- flapping -----------------------------------------------------------------

#[test]
fn a_flapping_upstream_changes_at_most_once_per_check_and_each_error_has_a_reason() {
    let mut world = World::new(&both(&json!({}), &json!({"failureThreshold": 1})), 4);
    let mut gated = 0;
    for turn in 0..400 {
        let bad = world.calls_to("app").len() % 2 == 1;
        world.set_checks("app", Manner::Status(if bad { 500 } else { 200 }));
        let answer = world.get(turn % 4);
        assert_eq!(answer.is_gated(), answer.status != 200);
        if answer.is_gated() {
            gated += 1;
            assert_eq!(answer.body, "policy shop: upstream app is not ready: check-failed: status 500\n");
        }
        world.pass(100 * MS);
    }
    let checks = world.calls_to("app").len() as u64;
    let (fallen, risen) = (transitions(&world, &["to=not-ready"]), transitions(&world, &["to=ready"]));
    assert!(fallen - risen <= 1 && fallen + risen == transitions(&world, &[]) && fallen + risen <= checks);
    assert!(fallen >= 10 && gated > 50, "{fallen} {gated}");
    assert_eq!(world.logged("ready -> not-ready (check-failed: status 500)").len() as u64, fallen);
}

// -- checks and requests together ---------------------------------------------

#[test]
fn no_trial_request_is_sent_while_checks_fail() {
    for checks_first in [true, false] {
        let mut world = World::new(&both(&json!({"notReadyFor": "8s"}), &json!({"failureThreshold": 5})), 4);
        world.pass(2 * SECOND);
        world.set_checks("app", Manner::Status(500));
        if !checks_first {
            trip(&mut world, 0);
            world.set("app", Manner::Status(200));
        } else {
            world.pass(7 * SECOND);
        }
        world.pass(SECOND);
        let first = if checks_first { "check-failed: status 500" } else { "consecutive-failures: 5" };
        assert_eq!(world.reason("app"), first);
        for turn in 0..300 {
            // The upstream would respond well.
            let answer = world.get(turn % 4);
            assert!(answer.is_gated(), "{turn} {answer:?}");
            world.pass(100 * MS);
        }
        assert_eq!(transitions(&world, &[]), 1);
        world.set_checks("app", Manner::Status(200));
        world.pass(2 * SECOND);
        assert_eq!((world.get(1).status, world.reason("app").as_str()), (200, "check-passed"));
    }
}

#[test]
fn checks_end_a_trial_without_requests() {
    for (status, threshold, phase, reason) in
        [(500, 1_000, "not-ready", "check-failed: status 500"), (200, 8, "ready", "check-passed")]
    {
        let check = json!({"successThreshold": threshold});
        let mut world = World::new(&both(&json!({"notReadyFor": "2s"}), &check), 4);
        world.pass(SECOND);
        trip(&mut world, 0);
        world.set("app", Manner::Status(200));
        while world.phase("app") != "trial" {
            world.pass(100 * MS);
        }
        world.set_checks("app", Manner::Status(status));
        world.pass(10 * SECOND);
        assert_eq!((world.phase("app"), world.reason("app").as_str()), (phase, reason));
        assert_eq!(transitions(&world, &[]), 3);
    }
}

// -- idle times ---------------------------------------------------------------

#[test]
fn no_traffic_does_not_count_as_failures() {
    let least = json!({
        "consecutiveFailures": 1000, "failurePercent": 1, "slowPercent": 1, "slowerThan": "5s",
        "minimumRequests": 1, "window": "1s",
    });
    let mut world = World::new(&judged(&least), 4);
    for turn in 0..4 {
        world.pass(30 * SECOND);
        assert_eq!(world.get(turn).status, 200);
    }
    assert_eq!(transitions(&world, &[]), 0);
    world.pass(30 * SECOND);
    world.set("app", Manner::Status(500));
    world.get(0);
    world.pass(SECOND);
    assert_eq!(world.reason("app"), "failure-share: 1 of 1");
}

#[test]
fn after_idle_time_a_share_is_of_new_responses_only() {
    let shares =
        json!({"consecutiveFailures": 1000, "failurePercent": 50, "minimumRequests": 20, "window": "10s"});
    let mut world = World::new(&judged(&shares), 1);
    let ask = |world: &mut World, status, requests| {
        world.set("app", Manner::Status(status));
        for _ in 0..requests {
            world.get(0);
        }
    };
    ask(&mut world, 500, 15);
    world.pass(30 * SECOND);
    ask(&mut world, 200, 15);
    ask(&mut world, 500, 10);
    world.pass(SECOND);
    assert_eq!(transitions(&world, &[]), 0);
    // Without a pause in between, the same responses trip.
    let mut world = World::new(&judged(&shares), 1);
    ask(&mut world, 500, 15);
    ask(&mut world, 200, 15);
    ask(&mut world, 500, 10);
    world.pass(SECOND);
    assert_eq!(world.metric("transitions_total", &["reason=failure-share"]), 1);
}

// -- ten at once --------------------------------------------------------------

/// What makes each of ten upstreams not ready: checks, failures in a row, or their share.
const JUDGED_BY: [&str; 3] = ["check-failed", "consecutive-failures", "failure-share"];

fn ten() -> World {
    let tried =
        json!({"notReadyFor": "1s", "maxNotReadyFor": "1s", "trial": {"requests": 1, "successes": 1}});
    let mut document = json!({"name": "shop", "upstreams": {}, "gates": []});
    for index in 0..10 {
        let name = format!("app-{index}");
        let mut breaker = tried.clone();
        let judge = match JUDGED_BY[index % 3] {
            "check-failed" => {
                json!({"readinessProbe": {"httpGet": {}, "periodSeconds": 1, "failureThreshold": 2}})
            }
            "consecutive-failures" => json!({"circuitBreaker": breaker}),
            _ => {
                for (field, value) in
                    [("consecutiveFailures", 1_000), ("failurePercent", 50), ("minimumRequests", 10)]
                {
                    breaker[field] = json!(value);
                }
                json!({"circuitBreaker": breaker})
            }
        };
        document["upstreams"][&name] = judge;
        document["upstreams"][&name]["cluster"] = json!(name);
        let gate = json!({"match": [{"headers": {"x-app": {"exact": name}}}], "upstream": name});
        document["gates"].as_array_mut().unwrap().push(gate);
    }
    let mut world = World::new(&document, 4);
    world.steer = "x-app";
    world.routes = (0..10).map(|index| format!("app-{index}")).map(|name| (name.clone(), name)).collect();
    world
}

/// Sends rounds of requests to all ten upstreams. Returns how many requests to each one got 200.
fn load(world: &mut World, rounds: usize) -> [usize; 10] {
    let mut served = [0; 10];
    for round in 0..rounds {
        for (index, served) in served.iter_mut().enumerate() {
            let request = Request::get("/").with("x-app", &format!("app-{index}"));
            *served += usize::from(world.ask((round + index) % 4, &request).status == 200);
        }
        world.pass(50 * MS);
    }
    served
}

#[test]
fn ten_upstreams_that_fail_at_once_are_gated_and_recover_independently() {
    let mut world = ten();
    assert_eq!(load(&mut world, 20), [20; 10]);
    for index in 0..10 {
        world.set(&format!("app-{index}"), Manner::Status(500));
    }
    load(&mut world, 60);
    for index in 0..10 {
        let (upstream, reason) =
            (format!("upstream=app-{index}"), format!("reason={}", JUDGED_BY[index % 3]));
        assert_eq!(transitions(&world, &[&upstream, "from=ready", &reason]), 1);
        assert!(world.metric("gated_requests_total", &[&upstream, &reason]) > 0, "{upstream} {reason}");
    }
    for recovered in [3, 7] {
        world.set(&format!("app-{recovered}"), Manner::Status(200));
        load(&mut world, 60);
    }
    let served = load(&mut world, 20);
    for (index, served) in served.into_iter().enumerate() {
        assert_eq!(served, if [3, 7].contains(&index) { 20 } else { 0 }, "{index}");
    }
    assert_eq!(transitions(&world, &["to=ready"]), 2);
    for index in 0..10 {
        world.set(&format!("app-{index}"), Manner::Status(200));
    }
    load(&mut world, 60);
    assert_eq!(load(&mut world, 20), [20; 10]);
    assert_eq!((transitions(&world, &["from=ready"]), transitions(&world, &["to=ready"])), (10, 10));
}

// -- one replica --------------------------------------------------------------

#[test]
fn the_only_replica_is_gated_and_receives_only_trial_requests() {
    let trial = json!({"requests": 1, "successes": 1});
    let mut world = World::new(&judged(&json!({"notReadyFor": "10s", "trial": trial})), 4);
    trip(&mut world, 0);
    world.pass(300 * MS);
    for turn in 0..200 {
        assert!(world.get(turn % 4).is_gated());
    }
    world.set("app", Manner::Status(200));
    world.pass(12 * SECOND);
    assert_eq!((world.get(3).status, world.reason("app").as_str()), (200, "trial-passed"));
}
