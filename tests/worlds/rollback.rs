//! A version that is worse than the default loses its share once for all workers, and permanently.

use std::time::Duration;

use serde_json::{Value, json};

use super::releases::{at, by, held, later, probe, share, shop, version, world_of};
use super::sim::{Manner, Request, World};
use super::{MS, SECOND};

/// Returns v1 and v2 with half of the requests each, and this `rollback`.
fn guarded(rollback: &Value) -> Value {
    let mut document = shop(&[50, 50]);
    document["releases"][0]["rollback"] = rollback.clone();
    document["releases"][0]["versions"][1]["match"] = json!([{"headers": {"x-tester": {}}}]);
    document
}

fn failures() -> Value {
    json!({"failurePercent": 5})
}

/// Sends pairs of requests without a key, one to each version, to the workers in turn.
fn pairs(world: &mut World, count: usize) {
    for pair in 0..count {
        for _ in 0..2 {
            world.get(pair % world.workers());
        }
    }
}

/// Makes all workers share what they have seen.
fn share_all(world: &mut World) {
    world.pass(SECOND);
}

/// Returns the counter of rollbacks and their log lines.
fn rollbacks(world: &World) -> (u64, Vec<String>) {
    (world.metric("rollbacks_total", &["policy=shop"]), world.logged("rolled back"))
}

fn responses(world: &World, version: &str, result: &str) -> u64 {
    world.metric("responses_total", &[&format!("version={version}"), &format!("result={result}")])
}

/// Returns whether v2 has no share left at any worker.
fn is_out(world: &mut World) -> bool {
    let workers = world.workers();
    (0..workers).all(|vm| {
        let users = held(world, vm, 50);
        let turns = (0..10).map(|_| version(world, vm, &Request::get("/"))).collect::<Vec<_>>();
        users.iter().chain(&turns).all(|version| version == "v1")
    })
}

/// Returns a world in which v2 has failed and is rolled back.
fn rolled_back(document: &Value, workers: usize) -> World {
    let mut world = world_of(document, workers);
    world.set("app-v2", Manner::Status(500));
    pairs(&mut world, 60);
    share_all(&mut world);
    assert_eq!(rollbacks(&world).0, 1);
    world
}

#[test]
fn a_version_whose_responses_have_a_header_of_fail_on_is_rolled_back() {
    let rollback = json!({"failurePercent": 5, "failOn": [{"header": "x-error", "exact": "yes"}]});
    let mut world = world_of(&guarded(&rollback), 2);
    for request in 0..120 {
        let id = world.send(request % 2, &Request::get("/"));
        let is_v2 = world.answer(id).cluster == "app-v2";
        let headers: &[(&str, &str)] = if is_v2 { &[("x-error", "yes")] } else { &[("x-error", "no")] };
        world.respond(id, 200, "via_upstream", headers, true);
    }
    share_all(&mut world);
    assert_eq!(rollbacks(&world).0, 1);
    assert_eq!(responses(&world, "v1", "failure"), 0);
    assert!(is_out(&mut world));
}

#[test]
fn a_rollback_by_failures_takes_minimum_requests_over_all_workers() {
    for (rollback, minimum) in [(failures(), 50), (json!({"failurePercent": 5, "minimumRequests": 60}), 60)] {
        let mut world = world_of(&guarded(&rollback), 4);
        world.set("app-v2", Manner::Status(500));
        pairs(&mut world, minimum - 1);
        later(&mut world, 20);
        assert_eq!(rollbacks(&world), (0, vec![]));
        assert!(!is_out(&mut world));
        let mut world = world_of(&guarded(&rollback), 4);
        world.set("app-v2", Manner::Status(500));
        pairs(&mut world, minimum - 1);
        share_all(&mut world);
        pairs(&mut world, 1);
        share_all(&mut world);
        let line = format!(
            "policy shop: release web: v2 rolled back: failures 100.0 % of {minimum} requests, above 5 %; v1 0.0 % of {minimum}"
        );
        assert_eq!(rollbacks(&world), (1, vec![line]));
        assert_eq!(world.metric("rollbacks_total", &["version=v2", "reason=failures"]), 1);
        assert!(is_out(&mut world));
        assert_eq!((share(&world, "v1"), share(&world, "v2")), (10_000, 0));
        let minimum = u64::try_from(minimum).unwrap();
        assert_eq!((responses(&world, "v2", "failure"), responses(&world, "v2", "success")), (minimum, 0));
    }
}

#[test]
fn a_rollback_is_counted_and_logged_once_despite_write_conflicts() {
    for lost in [0, 1, 15, 40] {
        let mut world = world_of(&guarded(&failures()), 4);
        world.set("app-v2", Manner::Status(500));
        world.set_offset(0, 0);
        for vm in 1..4 {
            world.set_offset(vm, 0);
        }
        pairs(&mut world, 100);
        world.lose(lost);
        world.pass(2 * SECOND);
        let (count, lines) = rollbacks(&world);
        assert_eq!((count, lines.len()), (1, 1), "{lost}");
        assert!(is_out(&mut world));
    }
}

#[test]
fn a_request_counts_as_failed_by_the_releases_fail_on() {
    let out = ["v2".to_owned(), String::new()];
    for (manner, rollback, fails) in [
        (Manner::Status(500), failures(), true),
        (Manner::Status(503), failures(), true),
        (Manner::Status(404), failures(), false),
        (Manner::Refuses, failures(), true),
        (Manner::Resets, failures(), true),
        (Manner::NoHost, failures(), true),
        (Manner::BreaksOff, failures(), true),
        (Manner::Status(500), json!({"failurePercent": 5, "failOn": ["gateway-error"]}), false),
        (Manner::Status(502), json!({"failurePercent": 5, "failOn": ["gateway-error"]}), true),
        (Manner::Grpc(14), json!({"failurePercent": 5, "failOn": ["unavailable"]}), true),
        (Manner::Grpc(0), json!({"failurePercent": 5, "failOn": ["unavailable"]}), false),
        // The proxy's own limits do not count against any version.
        (Manner::Overflows, failures(), false),
    ] {
        let mut world = world_of(&guarded(&rollback), 2);
        if matches!(manner, Manner::Grpc(_)) {
            world.set("app-v1", Manner::Grpc(0));
        }
        world.set("app-v2", manner.clone());
        pairs(&mut world, 60);
        share_all(&mut world);
        assert_eq!(rollbacks(&world).0, u64::from(fails), "{manner:?} by {rollback}");
        assert_eq!(is_out(&mut world), fails, "{manner:?} by {rollback}");
    }
    // The route selects a cluster that does not exist.
    let mut world = world_of(&guarded(&failures()), 1);
    let [name, nowhere] = out;
    world.routes.insert(name, nowhere);
    pairs(&mut world, 60);
    share_all(&mut world);
    assert_eq!(rollbacks(&world).0, 1);
}

#[test]
fn a_request_to_another_cluster_or_answered_by_another_filter_does_not_count() {
    let mut world = world_of(&guarded(&failures()), 1);
    world.routes.insert("v2".to_owned(), "elsewhere".to_owned());
    world.set("elsewhere", Manner::Status(500));
    pairs(&mut world, 100);
    share_all(&mut world);
    assert_eq!(rollbacks(&world).0, 0);
    let mut world = world_of(&guarded(&failures()), 1);
    for _ in 0..200 {
        let id = world.send(0, &Request::get("/"));
        world.respond(id, 503, "ext_authz_denied", &[], true);
    }
    share_all(&mut world);
    assert_eq!(rollbacks(&world).0, 0);
    assert_eq!(world.metric("responses_total", &[]), 0);
}

#[test]
fn a_version_whose_headers_take_too_long_is_rolled_back_by_latency() {
    let rollback = json!({"latency": {"percentile": 90, "above": "300ms"}});
    for (takes, slow) in [(299, false), (300, false), (301, true), (2_000, true)] {
        let mut world = world_of(&guarded(&rollback), 2);
        world.set("app-v2", Manner::Slow(takes * MS));
        pairs(&mut world, 55);
        share_all(&mut world);
        assert_eq!(rollbacks(&world).0, u64::from(slow), "{takes} ms");
        if slow {
            assert_eq!(world.metric("rollbacks_total", &["version=v2", "reason=latency"]), 1);
            let [line] = rollbacks(&world).1.try_into().unwrap();
            assert!(line.contains("v2 rolled back: slower than 300ms 100.0 % of 5"), "{line}");
            assert!(responses(&world, "v2", "slow") >= 50);
        }
        assert_eq!(responses(&world, "v2", "success"), if slow { 0 } else { 55 });
    }
}

#[test]
fn a_client_that_leaves_counts_as_slow_only_after_the_latency_limit() {
    let rollback = json!({"latency": {"percentile": 90, "above": "300ms"}});
    for (waits, counts) in [(250, false), (400, true)] {
        let mut world = world_of(&guarded(&rollback), 1);
        world.set("app-v2", Manner::Hangs);
        for _ in 0..120 {
            let id = world.start(0, &Request::get("/"));
            world.leave_after(id, waits * MS);
            world.pass(waits * MS);
        }
        share_all(&mut world);
        assert_eq!(rollbacks(&world).0, u64::from(counts), "{waits} ms");
        let seen = responses(&world, "v2", "slow") + responses(&world, "v2", "success");
        assert_eq!(seen >= 50, counts);
        assert_eq!(seen == 0, !counts);
    }
}

#[test]
fn a_slow_upload_is_not_a_slow_response() {
    let rollback = json!({"latency": {"percentile": 90, "above": "300ms"}});
    let mut world = world_of(&guarded(&rollback), 1);
    for _ in 0..120 {
        let id = world.send(0, &Request::of("POST", "/").unfinished());
        world.pass(if world.answer(id).cluster == "app-v2" { 2 * SECOND } else { MS });
        world.finish_request(id);
        world.pass(100 * MS);
        world.respond_as(id, &Manner::Status(200));
    }
    share_all(&mut world);
    assert_eq!(responses(&world, "v2", "success"), 60);
    assert_eq!(rollbacks(&world).0, 0);
}

#[test]
fn a_version_whose_checks_fail_is_rolled_back_though_its_requests_succeed() {
    let mut document = guarded(&json!({"checks": {"failurePercent": 50}, "minimumRequests": 10}));
    for upstream in ["up-1", "up-2"] {
        // The threshold is so high that the upstream stays ready.
        document["upstreams"][upstream]["readinessProbe"] =
            json!({"httpGet": {"path": "/"}, "periodSeconds": 1, "failureThreshold": 1000});
    }
    for (v1, v2, count) in [
        (Manner::Status(200), Manner::Status(500), 1),
        (Manner::Status(500), Manner::Status(500), 0),
        (Manner::Status(500), Manner::Status(200), 0),
        // A check that cannot be sent does not count.
        (Manner::Status(200), Manner::Missing, 0),
    ] {
        let mut world = world_of(&document, 3);
        world.set_checks("app-v1", v1.clone());
        world.set_checks("app-v2", v2.clone());
        for _ in 0..30 {
            pairs(&mut world, 3);
            world.pass(SECOND);
        }
        assert_eq!(rollbacks(&world).0, count, "{v1:?}, {v2:?}");
        assert_eq!(world.metric("rollbacks_total", &["version=v2", "reason=checks"]), count);
        assert_eq!(rollbacks(&world).1.len() as u64, count);
        assert_eq!(world.metric("transitions_total", &[]), 0);
        assert_eq!(is_out(&mut world), count == 1, "{v1:?}, {v2:?}");
    }
}

#[test]
fn a_rollback_lasts_for_days_after_recovery_and_through_schedule_steps() {
    let mut document = guarded(&failures());
    document["releases"][0]["schedule"] = json!([
        {"at": at(3_600), "weights": {"v1": 20, "v2": 80}},
        {"at": at(2 * 86_400), "over": "4h", "weights": {"v1": 1, "v2": 99}},
    ]);
    let mut world = rolled_back(&document, 2);
    world.set("app-v2", Manner::Status(200));
    for _ in 0..12 {
        later(&mut world, 6 * 3_600);
        for _ in 0..20 {
            // For testers, the version works.
            let answer = world.ask(0, &Request::get("/").with("x-tester", "1"));
            assert_eq!((answer.status, answer.cluster.as_str()), (200, "app-v2"));
        }
        assert!(is_out(&mut world));
    }
    assert_eq!((share(&world, "v1"), share(&world, "v2")), (10_000, 0));
    let (count, lines) = rollbacks(&world);
    assert_eq!((count, lines.len()), (1, 1));
}

#[test]
fn match_allow_and_a_trusted_version_still_select_a_rolled_back_version() {
    let mut document = guarded(&failures());
    document["releases"][0]["trustIncoming"] = json!(true);
    document["releases"][0]["versions"][1]["allow"] = json!(["alice"]);
    let mut world = rolled_back(&document, 2);
    for vm in 0..2 {
        for request in
            [by("bob").with("x-tester", "1"), by("alice"), Request::get("/").with("x-version", "v2")]
        {
            assert_eq!(version(&mut world, vm, &request), "v2");
        }
        assert_eq!(version(&mut world, vm, &by("bob")), "v1");
    }
}

#[test]
fn a_rollback_survives_other_updates_and_ends_with_an_update_of_the_release() {
    let mut document = guarded(&failures());
    let mut other = shop(&[90, 10])["releases"][0].clone();
    other["name"] = json!("other");
    other["steer"] = json!({"header": "x-other"});
    document["releases"].as_array_mut().unwrap().push(other);
    let mut world = rolled_back(&document, 2);
    world.set("app-v2", Manner::Status(200));
    let versions = |document: &mut Value, weight: u32| {
        document["releases"][1]["versions"][1]["weight"] = json!(weight);
    };
    let updates: [&dyn Fn(&mut Value); 5] = [
        &|document| versions(document, 50),
        &|document| document["gates"] = json!([{"upstream": "up-1"}]),
        &|document| document["probes"] = json!({"liveness": {"path": "/livez"}}),
        &|document| document["upstreams"]["up-2"]["readinessProbe"] = probe(),
        &|document| document["upstreams"]["up-9"] = json!({"cluster": "app-v9"}),
    ];
    for (index, update) in updates.iter().enumerate() {
        update(&mut document);
        assert!(world.configure(&document));
        assert!(is_out(&mut world), "at once, update {index}");
        world.pass(SECOND);
        world.end_earlier(0);
        later(&mut world, 3_600);
        assert!(is_out(&mut world), "an hour after update {index}");
    }
    // A policy that is refused changes nothing.
    assert!(!world.configure(&json!({"name": "shop", "releases": 7})));
    world.configure(&document);
    assert!(is_out(&mut world));
    world.pass(MS);
    document["releases"][0]["versions"][1]["weight"] = json!(100);
    world.configure(&document);
    world.pass(SECOND);
    assert_eq!(share(&world, "v2"), 6_667);
    assert_eq!(rollbacks(&world).0, 1);
    // The version still fails, so it is rolled back again.
    world.set("app-v2", Manner::Status(500));
    for _ in 0..400 {
        world.get(0);
    }
    share_all(&mut world);
    let (count, lines) = rollbacks(&world);
    assert_eq!((count, lines.len()), (2, 2));
    assert!(is_out(&mut world));
}

#[test]
fn a_release_that_was_changed_and_restored_starts_over() {
    let first = guarded(&failures());
    let mut world = rolled_back(&first, 2);
    world.set("app-v2", Manner::Status(200));
    world.configure(&shop(&[100, 0]));
    world.pass(SECOND);
    world.configure(&first);
    world.pass(SECOND);
    assert_eq!(share(&world, "v2"), 5_000);
    assert!(!is_out(&mut world));
    world.set("app-v2", Manner::Status(500));
    pairs(&mut world, 60);
    share_all(&mut world);
    let (count, lines) = rollbacks(&world);
    assert_eq!((count, lines.len()), (2, 2));
    assert!(is_out(&mut world));
}

#[test]
fn a_gradual_rollback_is_linear_and_moves_no_user_back() {
    let mut world = world_of(&guarded(&json!({"failurePercent": 5, "over": "60s"})), 3);
    world.set("app-v2", Manner::Status(500));
    let mut before = held(&mut world, 0, 80);
    pairs(&mut world, 50);
    while rollbacks(&world).0 == 0 {
        world.pass(50 * MS);
    }
    let mut shares = vec![];
    for _ in 0..12 {
        world.stall(4_500);
        world.pass(500 * MS);
        let all: Vec<_> = (0..3).map(|vm| held(&mut world, vm, 80)).collect();
        for after in &all {
            assert!(before.iter().zip(after).all(|(had, has)| had == has || has == "v1"));
        }
        before = all[2].clone();
        shares.push(share(&world, "v2"));
    }
    for (index, held) in shares.iter().enumerate() {
        let expected = 5_000 * (11 - index as u64) / 12;
        assert!(held.abs_diff(expected) <= 60, "{shares:?}");
    }
    assert!(is_out(&mut world));
    let (count, lines) = rollbacks(&world);
    assert_eq!((count, lines.len()), (1, 1));
}

#[test]
fn a_gradual_rollback_keeps_its_pace_when_the_wall_clock_is_set() {
    let mut world = rolled_back(&guarded(&json!({"failurePercent": 5, "over": "1h"})), 2);
    later(&mut world, 60);
    let before = held(&mut world, 0, 80);
    for jump in [-86_400_000, 2 * 86_400_000] {
        world.jump(jump);
        world.pass(SECOND);
        assert!((4_900..4_950).contains(&share(&world, "v2")), "{} after {jump}", share(&world, "v2"));
        for vm in 0..2 {
            let after = held(&mut world, vm, 80);
            assert!(before.iter().zip(&after).all(|(had, has)| had == has || has == "v1"));
        }
    }
    later(&mut world, 3_600);
    assert!(is_out(&mut world));
}

#[test]
fn a_rollback_in_shadow_mode_does_not_apply_when_the_policy_is_enforced() {
    let enforced = guarded(&failures());
    let mut document = enforced.clone();
    document["mode"] = json!("shadow");
    let mut world = world_of(&document, 2);
    world.set("app-v2", Manner::Status(500));
    let split = held(&mut world_of(&enforced, 1), 0, 200);
    for (user, version) in split.iter().enumerate() {
        // Other routes select the same clusters as the release would.
        world.ask(user % 2, &by(&format!("user-{user}")).with("x-version", version));
    }
    share_all(&mut world);
    let [line] = rollbacks(&world).1.try_into().unwrap();
    assert!(line.ends_with(" (mode: shadow)"), "{line}");
    assert_eq!(world.metric("rollbacks_total", &["mode=shadow"]), 1);
    assert_eq!(world.metric("version_share_basis_points", &["version=v2"]), 0);
    world.configure(&enforced);
    assert_eq!(held(&mut world, 0, 200), split);
    world.pass(SECOND);
    assert_eq!(held(&mut world, 1, 200), split);
    assert_eq!(world.metric("rollbacks_total", &[]), 1);
    // From now on, what workers see decides.
    pairs(&mut world, 60);
    share_all(&mut world);
    assert!(is_out(&mut world));
    assert_eq!(
        (world.metric("rollbacks_total", &[]), world.metric("rollbacks_total", &["mode=shadow"])),
        (2, 1)
    );
}

#[test]
fn a_dead_worker_loses_only_the_evidence_that_it_had_not_shared() {
    let mut world = world_of(&guarded(&failures()), 2);
    world.set("app-v2", Manner::Status(500));
    let ask = |world: &mut World, vm: usize, pairs: usize| {
        for _ in 0..2 * pairs {
            world.get(vm);
        }
    };
    ask(&mut world, 0, 30);
    world.pass(SECOND);
    // These are lost.
    world.pass(MS * u32::try_from(250 - world.now() % 250).unwrap());
    ask(&mut world, 0, 15);
    world.kill(0);
    world.configure_vm(0);
    ask(&mut world, 1, 10);
    ask(&mut world, 0, 9);
    world.pass(SECOND);
    assert_eq!(rollbacks(&world).0, 0);
    ask(&mut world, 0, 1);
    world.pass(SECOND);
    let [line] = rollbacks(&world).1.try_into().unwrap();
    assert!(line.contains("failures 100.0 % of 50 requests"), "{line}");
    // All workers know what one has found, and a restarted VM knows it at once.
    assert!(is_out(&mut world));
    world.kill(1);
    world.configure_vm(1);
    assert!(is_out(&mut world));
    later(&mut world, 86_400);
    assert!(is_out(&mut world));
    assert_eq!(rollbacks(&world).0, 1);
}

/// A pseudo-random sequence with a fixed seed.
struct Random(u64);

impl Random {
    fn is_within(&mut self, percent: u64) -> bool {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % 100 < percent
    }
}

/// Sends requests, of which these percentages fail for v1 and v2, and lets two minutes pass.
fn two_minutes(world: &mut World, random: &mut Random, requests: usize, v1: u64, v2: u64) {
    for number in 0..requests {
        let id = world.send(number % world.workers(), &Request::get("/"));
        let percent = if world.answer(id).cluster == "app-v2" { v2 } else { v1 };
        world.respond(id, if random.is_within(percent) { 500 } else { 200 }, "via_upstream", &[], true);
    }
    world.pass(260 * MS);
    world.stall(119_740);
}

#[test]
fn a_day_with_one_percent_of_failures_does_not_cause_a_rollback() {
    let mut world = world_of(&guarded(&failures()), 2);
    let mut random = Random(1);
    for _ in 0..24 * 30 {
        two_minutes(&mut world, &mut random, 8, 1, 1);
    }
    assert!(responses(&world, "v2", "failure") > 20);
    assert_eq!(rollbacks(&world), (0, vec![]));
    assert_eq!(share(&world, "v2"), 5_000);
    // The same proxy then finds a failing version.
    for _ in 0..60 {
        two_minutes(&mut world, &mut random, 8, 1, 40);
    }
    assert_eq!(rollbacks(&world).0, 1);
}

#[test]
fn failures_of_both_versions_do_not_cause_a_rollback() {
    for (percent, weights) in [(100, [50, 50]), (30, [50, 50]), (30, [95, 5]), (20, [5, 95])] {
        let mut document = guarded(&failures());
        for (version, weight) in weights.iter().enumerate() {
            document["releases"][0]["versions"][version]["weight"] = json!(weight);
        }
        let mut world = world_of(&document, 2);
        let mut random = Random(3);
        // One hour without failures, one with failures, and one without.
        for failing in [0, percent, 0] {
            for _ in 0..30 {
                two_minutes(&mut world, &mut random, 8, failing, failing);
            }
        }
        assert_eq!(rollbacks(&world), (0, vec![]), "{percent} %, {weights:?}");
        assert!(responses(&world, "v2", "failure") > 0);
    }
}

#[test]
fn a_version_within_the_limit_stays_even_if_the_default_never_fails() {
    let mut world = world_of(&guarded(&json!({"failurePercent": 20})), 2);
    let mut random = Random(5);
    for _ in 0..2 * 30 {
        two_minutes(&mut world, &mut random, 20, 0, 12);
    }
    assert!(responses(&world, "v2", "failure") > 50);
    assert_eq!(rollbacks(&world), (0, vec![]));
}

#[test]
fn a_version_is_not_rolled_back_if_the_default_is_as_slow() {
    let mut world = world_of(&guarded(&json!({"latency": {"percentile": 90, "above": "50ms"}})), 2);
    for cluster in ["app-v1", "app-v2"] {
        world.set(cluster, Manner::Slow(100 * MS));
    }
    pairs(&mut world, 200);
    share_all(&mut world);
    assert_eq!(responses(&world, "v2", "slow"), 200);
    assert_eq!(rollbacks(&world).0, 0);
}

#[test]
fn every_response_is_counted_once_by_its_result() {
    let rollback = json!({"failurePercent": 5, "latency": {"percentile": 99, "above": "300ms"}, "minimumRequests": 10_000});
    let mut world = world_of(&guarded(&rollback), 3);
    let results = ["success", "slow", "failure", "broken-off"];
    for (manner, counted) in [
        (Manner::Status(200), &["success"][..]),
        (Manner::Status(404), &["success"]),
        (Manner::Slow(Duration::from_millis(301)), &["slow"]),
        (Manner::Status(500), &["failure"]),
        (Manner::Resets, &["failure"]),
        // It is a success when it begins. Its end counts in addition.
        (Manner::BreaksOff, &["success", "broken-off"]),
    ] {
        let before = results.map(|result| responses(&world, "v2", result));
        world.set("app-v2", manner.clone());
        pairs(&mut world, 30);
        world.pass(SECOND);
        let after = results.map(|result| responses(&world, "v2", result));
        let expected: Vec<u64> = results
            .iter()
            .zip(before)
            .map(|(each, count)| count + if counted.contains(each) { 30 } else { 0 })
            .collect();
        assert_eq!(after.to_vec(), expected, "{manner:?}");
    }
    assert_eq!(responses(&world, "v1", "success"), 180);
    assert_eq!(world.metric("responses_total", &["version=v1"]), 180);
}

#[test]
fn a_rollback_that_does_not_judge_counts_the_same_and_never_rolls_back() {
    let judging =
        json!({"failurePercent": 5, "latency": {"percentile": 99, "above": "300ms"}, "window": "1s"});
    let mut counting = judging.clone();
    counting["judge"] = json!(false);
    let alone = json!({"judge": false, "latency": {"above": "300ms"}});
    let results = ["success", "slow", "failure", "broken-off"];
    let manners =
        [Manner::Slow(Duration::from_millis(301)), Manner::Resets, Manner::BreaksOff, Manner::Status(503)];
    let counts = [judging, counting, alone].map(|rollback| {
        let mut world = world_of(&guarded(&rollback), 3);
        for manner in manners.clone() {
            world.set("app-v2", manner);
            for _ in 0..60 {
                world.ask(0, &Request::get("/").with("x-tester", "1"));
                world.ask(1, &Request::get("/").with("x-tester", "1"));
            }
            later(&mut world, 5);
        }
        let is_judged = rollback["judge"] != false;
        assert_eq!(rollbacks(&world).0, u64::from(is_judged), "{rollback}");
        assert_eq!(share(&world, "v2"), if is_judged { 0 } else { 5_000 });
        let names = world.metric_names();
        assert_eq!(names.iter().any(|name| name.contains("rollbacks_total")), is_judged);
        results.map(|result| responses(&world, "v2", result))
    });
    assert_eq!(counts, [[120, 120, 240, 120]; 3].map(|_| counts[0]));
    assert!(counts[0].iter().all(|count| *count > 0), "{counts:?}");
}

#[test]
fn a_response_that_breaks_off_late_does_not_count_as_broken_though_nothing_is_judged() {
    let mut world = world_of(&guarded(&json!({"judge": false})), 1);
    let id = world.send(0, &Request::get("/").with("x-tester", "1"));
    world.respond(id, 200, "via_upstream", &[], false);
    later(&mut world, 60);
    world.end(id, "upstream_reset_after_response_started{connection_termination}");
    assert_eq!((responses(&world, "v2", "success"), responses(&world, "v2", "broken-off")), (1, 0));
}

#[test]
fn a_version_that_was_rolled_back_gets_its_users_again_once_nothing_is_judged() {
    let mut world = rolled_back(&guarded(&failures()), 2);
    let mut rollback = failures();
    rollback["judge"] = json!(false);
    world.configure(&guarded(&rollback));
    world.pass(SECOND);
    assert_eq!(share(&world, "v2"), 5_000);
    pairs(&mut world, 300);
    later(&mut world, 60);
    assert_eq!((rollbacks(&world).0, share(&world, "v2")), (1, 5_000));
    // It is judged again by what comes from then on.
    world.configure(&guarded(&failures()));
    world.pass(SECOND);
    assert_eq!(share(&world, "v2"), 5_000);
    pairs(&mut world, 60);
    share_all(&mut world);
    assert_eq!((rollbacks(&world).0, share(&world, "v2")), (2, 0));
}

/// Returns so many users of v2.
fn users_of_v2(count: usize) -> Vec<String> {
    let mut world = world_of(&shop(&[50, 50]), 1);
    let users = (0..).map(|user| format!("user-{user}"));
    users.filter(|user| version(&mut world, 0, &by(user)) == "v2").take(count).collect()
}

/// Sends requests of many users, who get good responses of both versions, to the workers in turn.
fn others(world: &mut World, rounds: usize) {
    for _ in 0..rounds {
        for user in 0..100 {
            version(world, user % world.workers(), &by(&format!("other-{user}")));
        }
    }
}

#[test]
fn a_slow_path_of_one_user_rolls_nothing_back_but_one_of_ten_users_does() {
    let rollback = json!({"latency": {"percentile": 99, "above": "300ms"}});
    for (users, rolled_back) in [(1, 0), (2, 0), (10, 1)] {
        let mut world = world_of(&guarded(&rollback), 2);
        others(&mut world, 10);
        let heavy = users_of_v2(users);
        let report = |user: &str| Request::get("/report").with("x-user", user);
        let slow: Vec<u32> = (0..100).map(|id| world.send(id % 2, &report(&heavy[id % users]))).collect();
        world.pass(400 * MS);
        slow.into_iter().for_each(|id| world.respond_as(id, &Manner::Status(200)));
        share_all(&mut world);
        others(&mut world, 10);
        share_all(&mut world);
        assert_eq!(responses(&world, "v2", "slow"), 100, "{users}");
        assert_eq!(rollbacks(&world).0, rolled_back, "{users}");
    }
}

#[test]
fn one_user_with_many_successes_does_not_hide_failures_of_others() {
    let mut world = world_of(&guarded(&failures()), 2);
    others(&mut world, 5);
    let users = users_of_v2(31);
    let (heavy, failing) = users.split_first().unwrap();
    for _ in 0..4 {
        for request in 0..1_000 {
            version(&mut world, request % 2, &by(heavy));
        }
        for (index, user) in failing.iter().enumerate() {
            let id = world.send(index % 2, &by(user));
            world.respond_as(id, &Manner::Status(500));
        }
        share_all(&mut world);
    }
    assert_eq!(rollbacks(&world).0, 1, "{:?}", responses(&world, "v2", "success"));
}

#[test]
fn a_version_that_fails_for_the_only_user_there_is_is_rolled_back() {
    let [user] = users_of_v2(1).try_into().unwrap();
    let mut world = world_of(&guarded(&failures()), 2);
    world.set("app-v2", Manner::Status(500));
    for second in 0..70 {
        world.ask(second % 2, &by(&user));
        share_all(&mut world);
        // Others may come within the window.
        assert!(second > 55 || rollbacks(&world).0 == 0, "{second}");
    }
    assert_eq!(rollbacks(&world).0, 1);
    assert_eq!(version(&mut world, 0, &by(&user)), "v1");
}

/// Sends 100 failing requests of testers of v2, or good ones, while many users are well.
fn tested(document: &Value, fails: bool, request: impl Fn(usize) -> Request) -> World {
    let mut world = world_of(document, 2);
    others(&mut world, 5);
    for number in 0..100 {
        let id = world.send(number % 2, &request(number));
        world.respond_as(id, &Manner::Status(if fails { 500 } else { 200 }));
    }
    share_all(&mut world);
    world
}

#[test]
fn requests_that_a_match_or_a_trusted_hop_selects_count_for_their_users() {
    let mut document = guarded(&failures());
    document["releases"][0]["trustIncoming"] = json!(true);
    let tester = |user: &str| Request::get("/").with("x-tester", "1").with("x-user", user);
    let trusted = |user: &str| Request::get("/").with("x-version", "v2").with("x-user", user);
    for (users, count) in [(1, 0), (5, 1)] {
        let user = |number: usize| format!("tester-{}", number % users);
        assert_eq!(rollbacks(&tested(&document, true, |number| tester(&user(number)))).0, count);
        assert_eq!(rollbacks(&tested(&document, true, |number| trusted(&user(number)))).0, count);
    }
    // Without a key, testers count for their address, which they share here. A trusted hop deals its requests out.
    let keyless = |name: &'static str, value: &'static str| move |_| Request::get("/").with(name, value);
    assert_eq!(rollbacks(&tested(&document, true, keyless("x-tester", "1"))).0, 0);
    assert_eq!(rollbacks(&tested(&document, true, keyless("x-version", "v2"))).0, 1);
}

#[test]
fn a_client_that_keeps_no_issued_cookie_is_no_single_user() {
    let mut document = guarded(&failures());
    document["releases"][0]["hashOn"] = json!([{"httpCookie": {"name": "id", "ttl": "1h"}}]);
    let mut world = world_of(&document, 2);
    world.set("app-v2", Manner::Status(500));
    pairs(&mut world, 60);
    share_all(&mut world);
    assert_eq!(rollbacks(&world).0, 1);
}

#[test]
fn websockets_on_one_version_and_polling_on_the_other_are_both_successes() {
    let mut world = world_of(&guarded(&failures()), 2);
    let socket = Request::get("/live").with("connection", "upgrade").with("upgrade", "websocket");
    for number in 0..200 {
        let id = world.send(number % 2, &socket);
        if world.answer(id).cluster == "app-v1" {
            world.respond_as(id, &Manner::Status(200));
            continue;
        }
        world.respond(id, 101, "via_upstream", &[], false);
        // The server closes first.
        world.end(id, "upstream_reset_after_response_started{connection_termination}");
    }
    share_all(&mut world);
    assert_eq!(["v1", "v2"].map(|version| responses(&world, version, "success")), [100, 100]);
    assert_eq!(["v1", "v2"].map(|version| responses(&world, version, "failure")), [0, 0]);
    assert_eq!(rollbacks(&world).0, 0);
}

#[test]
fn streams_that_begin_well_and_stay_open_count_as_successes_at_once() {
    let mut world = world_of(&guarded(&failures()), 2);
    for number in 0..200 {
        let id = world.send(number % 2, &Request::get("/events"));
        let is_v2 = world.answer(id).cluster == "app-v2";
        // One of fifty streams of v2 is refused.
        let status = if is_v2 && number % 100 == 1 { 500 } else { 200 };
        world.respond(id, status, "via_upstream", &[], status == 500);
    }
    share_all(&mut world);
    assert_eq!(responses(&world, "v1", "success"), 100);
    assert_eq!(responses(&world, "v2", "success") + responses(&world, "v2", "failure"), 100);
    assert!(responses(&world, "v2", "success") >= 98);
    assert_eq!(rollbacks(&world).0, 0);
}

#[test]
fn a_rollback_does_not_move_users_of_other_versions() {
    let mut document = shop(&[60, 20, 20]);
    document["releases"][0]["rollback"] = failures();
    let mut world = world_of(&document, 2);
    let before = held(&mut world, 0, 200);
    world.set("app-v2", Manner::Status(500));
    for request in 0..600 {
        world.get(request % 2);
    }
    share_all(&mut world);
    let after = held(&mut world, 1, 200);
    for (had, has) in before.iter().zip(&after) {
        assert_eq!(has, if had == "v2" { "v1" } else { had });
    }
    assert_eq!(["v1", "v2", "v3"].map(|version| share(&world, version)), [8_000, 0, 2_000]);
    assert_eq!(world.metric("rollbacks_total", &["version=v3"]), 0);
}

#[test]
fn rollback_counters_exist_with_the_value_0_from_the_start() {
    let rollback = json!({"failurePercent": 5, "latency": {"percentile": 99, "above": "300ms"}});
    let mut world = world_of(&guarded(&rollback), 1);
    world.pass(SECOND);
    let names = world.metric_names();
    let has = |name: &str, label: &str| {
        let found = names.iter().filter(|known| known.starts_with(name) && known.contains(label));
        found.count()
    };
    for result in ["success", "slow", "failure", "broken-off"] {
        assert_eq!(has("graygate_responses_total.", &format!("version=.=v2;.;result=.={result};.;")), 1);
    }
    for cause in ["failures", "latency"] {
        assert_eq!(has("graygate_rollbacks_total.", &format!("version=.=v2;.;reason=.={cause};.;")), 1);
    }
    assert_eq!(has("graygate_rollbacks_total.", "reason=.=checks;.;"), 0);
}
