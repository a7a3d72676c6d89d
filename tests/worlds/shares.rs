//! The number of responses that shares are of, if a worker inspects only some of the successes.
//!
//! Each test compares with what was sent, or with a world in which each response is inspected.

use graygate::worker::fast_path::EACH;
use serde_json::{Value, json};

use super::sim::{Manner, Request, World};
use super::{MS, SECOND};

/// More headers than a worker reads at once, so that each response is inspected.
const MANY: usize = 100;

/// The most successes of a worker that no other stands for yet.
const PENDING: u64 = 2 * EACH as u64;

/// Returns a policy of three upstreams that are judged by shares alone.
fn policy(breaker: &Value) -> Value {
    let mut breaker = breaker.clone();
    breaker["consecutiveFailures"] = json!(100_000);
    breaker["minimumRequests"] = json!(20);
    let upstream = |name: &str| json!({"cluster": name, "circuitBreaker": breaker});
    json!({
        "name": "shop",
        "upstreams": {"app": upstream("app"), "db": upstream("db"), "web": upstream("web")},
        "probes": {"readiness": {"path": "/readyz", "checks": [{"upstream": "web"}]}},
        "gates": [{"upstream": "app"}, {"upstream": "db"}],
    })
}

fn failures(window: &str) -> Value {
    policy(&json!({"failurePercent": 50, "window": window}))
}

fn world(policy: &Value, workers: usize) -> World {
    let mut world = World::new(policy, workers);
    world.steer = "x-to";
    world.routes = ["app", "db", "web", "other"].map(|name| (name.to_owned(), name.to_owned())).into();
    world.set("other", Manner::Status(200));
    world.pass(SECOND);
    world
}

/// Sends a request to a cluster, and responds after `millis` milliseconds.
fn respond(world: &mut World, vm: usize, to: &str, status: u16, millis: u32) {
    let id = world.send(vm, &Request::get("/").with("x-to", to));
    if millis > 0 {
        world.pass(millis * MS);
    }
    if world.is_open(id) {
        world.respond(id, status, "via_upstream", &[], true);
    }
}

/// Returns the number of responses in an upstream's window, by the state that all workers share.
fn counted(world: &World, upstream: &str) -> u64 {
    let state = serde_json::to_value(world.state(upstream)).unwrap();
    let parts = state["evidence"]["window"]["parts"].as_array().unwrap();
    parts.iter().map(|part| part["all"].as_u64().unwrap()).sum()
}

/// Returns a number below 1,000 for each index. Neighbours have nothing in common.
fn mixed(index: u64) -> u64 {
    let mixed = index.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    ((mixed ^ (mixed >> 31)).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 40) % 1_000
}

/// The worker and the cluster of each request.
type Mix = fn(u64) -> (usize, &'static str);

#[test]
fn the_number_of_successes_of_each_upstream_is_about_right_whatever_the_mix() {
    let mixes: [(&str, Mix); 6] = [
        ("one upstream", |_| (0, "app")),
        ("two in turn", |number| (0, if number % 2 == 0 { "app" } else { "db" })),
        ("as often as successes are inspected", |number| {
            (0, if number % u64::from(EACH) == 0 { "app" } else { "db" })
        }),
        ("some rare, on two workers", |number| {
            let to = match mixed(number) {
                0..700 => "app",
                700..970 => "db",
                _ => "web",
            };
            (usize::from(mixed(number + 1_000_000) > 300), to)
        }),
        ("in bursts", |number| (0, ["app", "app", "db", "web"][(number / 50 % 4) as usize])),
        ("most to a cluster without a breaker", |number| {
            (0, if mixed(number) < 100 { "app" } else { "other" })
        }),
    ];
    for (name, mix) in mixes {
        let mut world = world(&failures("1h"), 2);
        let requests = 8_000;
        for number in 0..requests {
            let (vm, to) = mix(number);
            respond(&mut world, vm, to, 200, 0);
            world.pass(MS);
        }
        world.pass(SECOND);
        for upstream in ["app", "db", "web"] {
            let sent = (0..requests).filter(|number| mix(*number).1 == upstream).count() as u64;
            let counted = counted(&world, upstream);
            let most = 4 * (sent * u64::from(EACH)).isqrt() + 2 * PENDING;
            assert!(counted.abs_diff(sent) <= most, "{name}, {upstream}: {counted} of {sent}");
        }
    }
}

#[test]
fn with_few_responses_none_is_estimated() {
    let mut worlds = [0, MANY].map(|extra_headers| {
        let mut world = world(&failures("10s"), 1);
        world.extra_headers = extra_headers;
        world
    });
    for number in 0..2_000 {
        let to = if mixed(number) < 600 { "app" } else { "db" };
        let status = if mixed(number + 5_000) < 20 { 500 } else { 200 };
        for world in &mut worlds {
            respond(world, 0, to, status, 0);
            world.pass(16 * MS);
        }
        let [some, all] = &worlds;
        assert_eq!([counted(some, "app"), counted(some, "db")], [counted(all, "app"), counted(all, "db")]);
    }
}

/// Sends `calm` successes, one each millisecond, and then responses of which `bad` in 1,000 are bad. Returns the number of
/// these after which the gate closes.
fn closes_after(
    world: &mut World,
    calm: u64,
    bad: u64,
    is_bad: impl Fn(&mut World),
    most: u64,
) -> Option<u64> {
    for number in 0..calm {
        respond(world, (number % 2) as usize, if number % 3 == 0 { "db" } else { "app" }, 200, 0);
        world.pass(MS);
    }
    for number in 0..most {
        if world.phase("app") != "ready" {
            return Some(number);
        }
        if mixed(number + calm) < bad {
            is_bad(world);
        } else {
            respond(world, (number % 2) as usize, "app", 200, 0);
        }
        world.pass(MS);
    }
    None
}

#[test]
fn an_outage_is_found_about_as_soon_as_if_each_response_were_inspected() {
    for bad in [1_000, 800, 650] {
        let [some, all] = [0, MANY].map(|extra_headers| {
            let mut world = world(&failures("10s"), 2);
            world.extra_headers = extra_headers;
            closes_after(&mut world, 12_000, bad, |world| respond(world, 0, "app", 500, 0), 20_000)
        });
        let (some, all) = (some.expect("closed"), all.expect("closed"));
        assert!(some.abs_diff(all) <= all / 8 + 300, "{bad}: {some} and {all}");
    }
}

#[test]
fn a_share_below_its_limit_closes_no_gate() {
    for calm in [300, 5_000, 12_345] {
        for bad in [300, 430] {
            let mut world = world(&failures("10s"), 2);
            let closed =
                closes_after(&mut world, calm, bad, |world| respond(world, 1, "app", 500, 0), 12_000);
            assert_eq!(closed, None, "{bad} of 1,000 after {calm}");
        }
    }
}

#[test]
fn slow_responses_are_found_though_successes_are_estimated() {
    let mut world = world(&policy(&json!({"slowPercent": 50, "slowerThan": "20ms", "window": "10s"})), 2);
    let closed = closes_after(&mut world, 5_000, 900, |world| respond(world, 0, "app", 200, 30), 3_000);
    assert!(closed.is_some());
    assert!(world.reason("app").contains("slow"), "{}", world.reason("app"));
}

#[test]
fn each_success_is_inspected_while_a_share_is_above_a_quarter_of_its_limit() {
    let mut world = world(&failures("2s"), 1);
    // Sends for four seconds. Returns how many of 1,000 successes were inspected in the last one.
    let mut inspected = |bad: u64| {
        let mut before = (0, 0);
        let mut successes = 0;
        for number in 0..4_000 {
            if number == 3_000 {
                before = (world.around.clusters_read.get(), successes);
            }
            let is_bad = mixed(number) < bad;
            respond(&mut world, 0, "app", if is_bad { 500 } else { 200 }, 0);
            successes += u32::from(!is_bad);
            world.pass(MS);
        }
        let failed = 1_000 - (successes - before.1);
        1_000 * (world.around.clusters_read.get() - before.0 - failed) / (successes - before.1)
    };
    for (bad, is_exact) in
        [(0, false), (20, false), (60, false), (200, true), (400, true), (0, false), (60, false)]
    {
        let inspected = inspected(bad);
        assert_eq!(inspected >= 950, is_exact, "{bad} bad of 1,000: {inspected} inspected");
        assert!(is_exact || inspected < 400, "{bad} bad of 1,000: {inspected} inspected");
    }
}
