//! Weights that change by the clock, at the same time on all workers and proxies, and that move no user back.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::releases::{at, by, held, later, share, shop, version, world_of};
use super::sim::World;
use super::{MS, SECOND};

const HOUR: i64 = 3_600;
const DAY: i64 = 24 * HOUR;
const USERS: usize = 100;

fn scheduled(weights: &[u32], steps: &Value) -> Value {
    let mut document = shop(weights);
    document["releases"][0]["schedule"] = steps.clone();
    document
}

fn steps(world: &World) -> (u64, Vec<String>) {
    (world.metric("schedule_steps_total", &["policy=shop", "release=web"]), world.logged("of its schedule"))
}

/// Returns the moves of users from one version to another.
fn moves(before: &[String], after: &[String]) -> BTreeSet<(String, String)> {
    let moved = before.iter().zip(after).filter(|(had, has)| had != has);
    moved.map(|(had, has)| (had.clone(), has.clone())).collect()
}

fn pair(from: &str, to: &str) -> (String, String) {
    (from.to_owned(), to.to_owned())
}

#[test]
fn all_workers_of_all_proxies_take_each_step_within_a_tick_for_days() {
    let document = scheduled(
        &[95, 5],
        &json!([
            {"at": at(DAY), "weights": {"v1": 70, "v2": 30}},
            {"at": at(3 * DAY), "weights": {"v1": 50, "v2": 50}},
            {"at": at(10 * DAY), "weights": {"v1": 0, "v2": 100}},
        ]),
    );
    let mut proxies = [world_of(&document, 4), world_of(&document, 1)];
    proxies[1].set_offset(0, 131);
    let mut holds: Option<Vec<String>> = None;
    for world in &mut proxies {
        world.pass(SECOND);
        let mut before = held(world, 0, USERS);
        let mut passed = 1;
        let mut all = vec![before.clone()];
        for (day, on_v2) in [(1, 3_000), (3, 5_000), (10, 10_000)] {
            later(world, day * DAY - passed - 1);
            world.pass(949 * MS);
            for vm in 0..world.workers() {
                assert_eq!(held(world, vm, USERS), before, "a millisecond before day {day}");
            }
            world.pass(251 * MS);
            let after = held(world, 0, USERS);
            assert_eq!(moves(&before, &after), BTreeSet::from([pair("v1", "v2")]));
            for vm in 0..world.workers() {
                assert_eq!(held(world, vm, USERS), after, "a tick after day {day}");
            }
            assert_eq!((share(world, "v1"), share(world, "v2")), (10_000 - on_v2, on_v2));
            world.pass(750 * MS);
            passed = day * DAY + 1;
            all.push(after.clone());
            before = after;
        }
        let all: Vec<String> = all.concat();
        assert_eq!(*holds.get_or_insert(all.clone()), all);
    }
}

#[test]
fn each_step_is_counted_and_logged_once_for_any_number_of_workers() {
    let document = scheduled(
        &[95, 5],
        &json!([
            {"at": at(-HOUR), "weights": {"v1": 90, "v2": 10}},
            {"at": at(HOUR), "weights": {"v1": 70, "v2": 30}},
            {"at": at(2 * HOUR), "over": "1h", "weights": {"v1": 0, "v2": 100}},
        ]),
    );
    let mut world = world_of(&document, 4);
    world.pass(SECOND);
    // Steps in the past are not logged, but their counters exist with the value 0.
    assert_eq!(steps(&world), (0, vec![]));
    assert!(world.metric_names().iter().any(|name| name.starts_with("graygate_schedule_steps_total.")));
    later(&mut world, HOUR);
    assert_eq!(steps(&world), (1, vec!["policy shop: release web: step 2 of its schedule".to_owned()]));
    // All writes fail for a while, and each worker tries again.
    world.stall(HOUR as u64 * 1_000 - 2_000);
    world.lose(40);
    world.pass(4 * SECOND);
    later(&mut world, 3 * DAY);
    let (count, lines) = steps(&world);
    assert_eq!((count, lines.len()), (2, 2));
    assert_eq!(lines[1], "policy shop: release web: step 3 of its schedule");
}

#[test]
fn with_three_versions_each_step_moves_only_the_users_that_it_has_to() {
    let steps = json!([
        {"at": at(HOUR), "weights": {"v1": 20, "v2": 60, "v3": 20}},
        {"at": at(2 * HOUR), "weights": {"v1": 20, "v2": 20, "v3": 60}},
        {"at": at(3 * HOUR), "weights": {"v1": 80, "v2": 10, "v3": 10}},
    ]);
    let document = scheduled(&[60, 20, 20], &steps);
    let mut world = world_of(&document, 2);
    let mut before = held(&mut world, 0, USERS);
    let wanted = [
        BTreeSet::from([pair("v1", "v2")]),
        BTreeSet::from([pair("v2", "v3")]),
        BTreeSet::from([pair("v2", "v1"), pair("v3", "v1")]),
    ];
    for wanted in wanted {
        later(&mut world, HOUR);
        let after = held(&mut world, 1, USERS);
        // Each step moves exactly the users that it has to.
        assert_eq!(moves(&before, &after), wanted);
        before = after;
    }
    // A proxy that learns of the policy after all steps has the same result.
    let mut late = world_of(&document, 1);
    late.jump(4 * HOUR * 1_000);
    late.pass(SECOND);
    assert_eq!(held(&mut late, 0, USERS), before);
    assert_eq!(share(&late, "v1"), 8_000);
}

#[test]
fn a_ramp_is_linear_and_moves_no_user_back() {
    let ramp = json!([{"at": at(DAY), "over": "4h", "weights": {"v1": 0, "v2": 100}}]);
    let mut world = world_of(&scheduled(&[80, 20], &ramp), 3);
    later(&mut world, DAY);
    let mut before = held(&mut world, 0, USERS);
    for part in 1..=16 {
        later(&mut world, 900);
        // A quarter of an hour is a 16th of it.
        let expected = 2_000 + 8_000 * part / 16;
        assert!(share(&world, "v2").abs_diff(expected) <= 2, "{part}: {}", share(&world, "v2"));
        let all: Vec<_> = (0..3).map(|vm| held(&mut world, vm, USERS)).collect();
        for after in &all {
            assert!(moves(&before, after).is_subset(&BTreeSet::from([pair("v1", "v2")])), "{part}");
            assert_eq!(*after, all[0], "{part}");
        }
        before = all[0].clone();
    }
    assert_eq!(before, vec!["v2"; USERS]);
    assert_eq!(steps(&world).0, 1);
}

#[test]
fn requests_without_a_key_follow_a_ramp() {
    let ramp = json!([{"at": at(0), "over": "1h", "weights": {"v1": 0, "v2": 100}}]);
    let mut world = world_of(&scheduled(&[100, 0], &ramp), 1);
    let mut on_v2 = 0;
    for _ in 0..300 {
        on_v2 += u32::from(version(&mut world, 0, &super::sim::Request::get("/")) == "v2");
        world.stall(12_000 - 250);
        world.pass(250 * MS);
    }
    assert!((147..=153).contains(&on_v2), "{on_v2}");
}

#[test]
fn a_step_gives_no_version_a_second_turn_in_a_row_that_neither_its_weights_nor_those_before_give_it() {
    let steps = json!([
        {"at": at(10), "weights": {"v1": 2, "v2": 2}},
        {"at": at(20), "over": "10s", "weights": {"v1": 1, "v2": 1}},
    ]);
    let mut world = world_of(&scheduled(&[1, 1], &steps), 1);
    let mut last = String::new();
    for second in 0..40 {
        for _ in 0..3 {
            let next = version(&mut world, 0, &super::sim::Request::get("/"));
            assert_ne!(next, last, "{second}");
            last = next;
        }
        world.pass(SECOND);
    }
}

#[test]
fn a_clock_that_is_set_back_neither_undoes_nor_repeats_a_step() {
    let document = scheduled(
        &[90, 10],
        &json!([
            {"at": at(DAY), "weights": {"v1": 50, "v2": 50}},
            {"at": at(2 * DAY), "over": "1h", "weights": {"v1": 0, "v2": 100}},
        ]),
    );
    let mut world = world_of(&document, 2);
    later(&mut world, DAY);
    later(&mut world, DAY + HOUR / 2);
    let there = held(&mut world, 0, USERS);
    world.jump(-2 * DAY * 1_000);
    world.pass(10 * SECOND);
    // A new VM, and one with a new policy, know how far the schedule was.
    world.kill(1);
    world.configure_vm(1);
    assert_eq!(held(&mut world, 1, USERS), there);
    let mut other = document.clone();
    other["probes"] = json!({"liveness": {"path": "/livez"}});
    world.configure(&other);
    world.pass(10 * SECOND);
    for vm in 0..2 {
        assert_eq!(held(&mut world, vm, USERS), there);
    }
    assert!(share(&world, "v2").abs_diff(7_500) <= 5, "{}", share(&world, "v2"));
    assert_eq!(steps(&world).0, 2);
    // When the clock reaches that time again, the schedule continues.
    later(&mut world, 2 * DAY + HOUR);
    assert_eq!(held(&mut world, 0, USERS), vec!["v2"; USERS]);
    assert_eq!(steps(&world).0, 2);
}

#[test]
fn a_clock_that_is_set_forward_briefly_takes_the_steps_until_then_permanently() {
    let document = scheduled(&[100, 0], &json!([{"at": at(5 * DAY), "weights": {"v1": 0, "v2": 100}}]));
    let mut world = world_of(&document, 2);
    world.pass(SECOND);
    assert_eq!(held(&mut world, 0, USERS), vec!["v1"; USERS]);
    world.jump(6 * DAY * 1_000);
    world.pass(SECOND);
    world.jump(-6 * DAY * 1_000);
    for _ in 0..5 {
        later(&mut world, DAY / 2);
        for vm in 0..2 {
            assert_eq!(held(&mut world, vm, USERS), vec!["v2"; USERS]);
        }
    }
    assert_eq!(steps(&world).0, 1);
}

#[test]
fn a_new_policy_or_vm_during_a_ramp_has_the_same_weights_as_the_others() {
    let ramp = json!([{"at": at(HOUR), "over": "10h", "weights": {"v1": 0, "v2": 100}}]);
    let mut document = scheduled(&[100, 0], &ramp);
    let mut world = world_of(&document, 2);
    later(&mut world, HOUR);
    let mut before = held(&mut world, 0, USERS);
    for hour in 1..=4 {
        later(&mut world, HOUR);
        match hour % 2 {
            0 => {
                world.kill(1);
                world.configure_vm(1);
            }
            _ => {
                document["probes"] = json!({"liveness": {"path": format!("/livez{hour}")}});
                world.configure(&document);
            }
        }
        // The step takes effect at once, before any tick.
        for vm in 0..2 {
            let after = held(&mut world, vm, USERS);
            assert!(moves(&before, &after).is_subset(&BTreeSet::from([pair("v1", "v2")])));
        }
        world.pass(SECOND);
        before = held(&mut world, 0, USERS);
        assert_eq!(held(&mut world, 1, USERS), before);
        assert!(share(&world, "v2").abs_diff(1_000 * hour) <= 2);
    }
    assert_eq!(steps(&world).0, 1);
}

#[test]
fn the_start_of_a_release_is_logged_and_counted_as_a_step() {
    let mut document = shop(&[0, 100]);
    document["releases"][0]["startsAt"] = json!(at(DAY));
    document["releases"][0]["versions"][1]["match"] = json!([{"headers": {"x-tester": {}}}]);
    let mut world = world_of(&document, 3);
    later(&mut world, DAY - 2);
    assert_eq!(held(&mut world, 1, USERS), vec!["v1"; USERS]);
    assert_eq!(version(&mut world, 2, &by("alice").with("x-tester", "1")), "v2");
    assert_eq!((share(&world, "v1"), share(&world, "v2")), (10_000, 0));
    world.pass(3 * SECOND);
    for vm in 0..3 {
        assert_eq!(held(&mut world, vm, USERS), vec!["v2"; USERS]);
    }
    assert_eq!(steps(&world), (1, vec!["policy shop: release web: start of its schedule".to_owned()]));
}

#[test]
fn past_steps_have_the_effect_of_the_last_ones_weights() {
    let past = json!([
        {"at": at(-2 * HOUR), "weights": {"v1": 80, "v2": 20}},
        {"at": at(-HOUR), "over": "30m", "weights": {"v1": 65, "v2": 35}},
    ]);
    let by_schedule = held(&mut world_of(&scheduled(&[95, 5], &past), 1), 0, USERS);
    assert_eq!(by_schedule, held(&mut world_of(&shop(&[65, 35]), 1), 0, USERS));
}

#[test]
fn a_changed_schedule_logs_only_the_following_steps() {
    let step = |hour: i64, v2: u32| json!({"at": at(hour * HOUR), "weights": {"v1": 100 - v2, "v2": v2}});
    let mut world = world_of(&scheduled(&[100, 0], &json!([step(1, 10), step(2, 20)])), 2);
    later(&mut world, HOUR);
    assert_eq!(steps(&world).0, 1);
    world.configure(&scheduled(&[100, 0], &json!([step(1, 10), step(3, 40)])));
    later(&mut world, HOUR);
    assert_eq!((steps(&world).0, share(&world, "v2")), (1, 1_000));
    later(&mut world, HOUR);
    assert_eq!((steps(&world).0, share(&world, "v2")), (2, 4_000));
}

#[test]
fn each_step_is_counted_if_a_clock_change_takes_several_at_once() {
    let step = |hour: i64, v2: u32| json!({"at": at(hour * HOUR), "weights": {"v1": 100 - v2, "v2": v2}});
    let mut world = world_of(&scheduled(&[100, 0], &json!([step(1, 10), step(2, 20), step(3, 30)])), 2);
    world.pass(SECOND);
    later(&mut world, DAY);
    assert_eq!(share(&world, "v2"), 3_000);
    let (count, lines) = steps(&world);
    assert_eq!((count, lines.len()), (3, 3));
}
