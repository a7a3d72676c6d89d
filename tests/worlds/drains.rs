//! Drains that an upstream's checks tell of, and the order in which probes fail while a proxy drains.

use serde_json::{Value, json};

use super::sim::{Manner, Request, World};
use super::{MS, SECOND, all_say, status};

/// Returns a policy that drains with the upstream `envoy` and by order. Its group `lb` fails at once, its readiness ten
/// seconds later.
fn document() -> Value {
    let check = json!({"httpGet": {"path": "/ready"}, "periodSeconds": 1, "failureThreshold": 2, "successThreshold": 2});
    json!({
        "name": "shop",
        "upstreams": {
            "app": {"cluster": "app", "readinessProbe": {"httpGet": {}, "periodSeconds": 1}},
            "envoy": {"cluster": "admin", "readinessProbe": check},
        },
        "probes": {
            "liveness": {"path": "/livez"},
            "readiness": {"path": "/readyz", "checks": [{"upstream": "app"}]},
            "groups": {"lb": {"path": "/lbz"}, "deep": {"path": "/deepz"}},
            "drain": {
                "path": "/drainz",
                "alsoWhen": {"upstream": "envoy"},
                "groups": ["lb"],
                "readinessAfter": "10s",
            },
        },
    })
}

/// Returns a policy in which readiness follows `envoy` at once, and nobody can order a drain.
fn only_envoy() -> Value {
    let mut document = document();
    document["probes"]["drain"] = json!({"alsoWhen": {"upstream": "envoy"}});
    document
}

/// Returns a proxy of four workers whose checks have passed.
fn world(document: &Value) -> World {
    let mut world = World::new(document, 4);
    world.pass(5 * SECOND);
    world
}

/// Returns the status of the group `lb`, of readiness, of the other group and of liveness.
fn statuses(world: &mut World) -> [u16; 4] {
    ["/lbz", "/readyz", "/deepz", "/livez"].map(|path| status(world, path))
}

fn order(world: &mut World, vm: usize, method: &str) -> (u16, String) {
    let answer = world.ask(vm, &Request::of(method, "/drainz"));
    (answer.status, answer.body)
}

/// Returns how often a drain has begun and ended. The log and the counter agree.
fn begun_and_ended(world: &World) -> (usize, usize) {
    let begun = world.logged("policy shop: draining").len();
    let ended = world.logged("policy shop: no longer draining").len();
    assert_eq!(world.metric("lifecycle_changes_total", &["to=draining"]), begun as u64);
    assert_eq!(world.metric("lifecycle_changes_total", &["to=not-draining"]), ended as u64);
    (begun, ended)
}

// -- an upstream that drains ------------------------------------------------------

#[test]
fn the_proxy_drains_while_the_upstream_answers_that_it_does() {
    let mut world = world(&only_envoy());
    assert_eq!(status(&mut world, "/readyz"), 200);
    world.set_checks("admin", Manner::Status(503));
    world.pass(5 * SECOND);
    let answer = all_say(&mut world, "/readyz");
    assert_eq!(answer.status, 503);
    assert!(answer.body.starts_with("[+]app ok\n[-]drain failed: draining (upstream envoy)\n"), "{answer:?}");
    assert_eq!((status(&mut world, "/livez"), status(&mut world, "/")), (200, 200));
    assert_eq!(world.logged("draining"), ["policy shop: draining (upstream envoy)"]);
    world.set_checks("admin", Manner::Status(200));
    world.pass(5 * SECOND);
    assert_eq!(status(&mut world, "/readyz"), 200);
    assert_eq!(begun_and_ended(&world), (1, 1));
}

#[test]
fn it_takes_as_many_answers_in_a_row_as_the_thresholds_say() {
    let mut world = world(&only_envoy());
    // One answer in each second, alternately.
    for round in 0..20 {
        world.set_checks("admin", Manner::Status(if round % 2 == 0 { 503 } else { 200 }));
        world.pass(SECOND);
    }
    assert_eq!(begun_and_ended(&world), (0, 0));
}

#[test]
fn an_upstream_that_does_not_answer_neither_begins_nor_ends_a_drain() {
    let silences =
        [Manner::Refuses, Manner::Resets, Manner::Hangs, Manner::BreaksOff, Manner::NoHost, Manner::Missing];
    for silence in silences {
        let mut world = World::new(&only_envoy(), 4);
        world.set("admin", silence.clone());
        world.set_checks("admin", silence.clone());
        world.pass(60 * SECOND);
        assert_eq!((status(&mut world, "/readyz"), begun_and_ended(&world)), (200, (0, 0)), "{silence:?}");
        world.set("admin", Manner::Status(200));
        world.set_checks("admin", Manner::Status(503));
        world.pass(10 * SECOND);
        assert_eq!(status(&mut world, "/readyz"), 503, "{silence:?}");
        world.set("admin", silence.clone());
        world.set_checks("admin", silence.clone());
        world.pass(60 * SECOND);
        assert_eq!((status(&mut world, "/readyz"), begun_and_ended(&world)), (503, (1, 0)), "{silence:?}");
    }
}

#[test]
fn before_the_first_verdict_the_proxy_does_not_drain() {
    for assume in ["ready", "notReady"] {
        let mut document = only_envoy();
        document["upstreams"]["envoy"]["assume"] = json!(assume);
        document["upstreams"]["envoy"]["readinessProbe"]["initialDelaySeconds"] = json!(600);
        let mut world = World::new(&document, 4);
        world.set_checks("admin", Manner::Status(503));
        world.pass(300 * SECOND);
        assert_eq!((status(&mut world, "/readyz"), begun_and_ended(&world)), (200, (0, 0)), "{assume}");
    }
}

#[test]
fn neither_a_breaker_nor_force_makes_the_proxy_drain() {
    let mut document = only_envoy();
    document["upstreams"]["envoy"]["circuitBreaker"] = json!({"consecutiveFailures": 1});
    document["gates"] = json!([{"match": [{"uri": {"prefix": "/envoy"}}], "upstream": "envoy"}]);
    let mut world = world(&document);
    world.set("admin", Manner::Status(500));
    world.set_checks("admin", Manner::Status(200));
    world.routes = [("envoy".to_owned(), "admin".to_owned())].into();
    let to_envoy = Request::get("/envoy").with("x-version", "envoy");
    for _ in 0..20 {
        world.ask(0, &to_envoy);
        world.pass(50 * MS);
    }
    assert!(!world.logged("upstream envoy: ready -> not-ready (consecutive-failures").is_empty());
    assert_eq!((status(&mut world, "/readyz"), begun_and_ended(&world)), (200, (0, 0)));
    document["upstreams"]["envoy"]["force"] = json!("notReady");
    world.configure(&document);
    world.pass(10 * SECOND);
    assert_eq!((status(&mut world, "/readyz"), begun_and_ended(&world)), (200, (0, 0)));
}

#[test]
fn a_drain_that_an_upstream_tells_of_survives_updates_and_the_death_of_every_vm() {
    let mut world = world(&only_envoy());
    world.set_checks("admin", Manner::Status(503));
    world.pass(5 * SECOND);
    for vm in 0..4 {
        world.kill(vm);
        world.configure_vm(vm);
    }
    assert_eq!(status(&mut world, "/readyz"), 503);
    let mut newer = only_envoy();
    newer["probes"]["liveness"]["statuses"] = json!({"passed": 201});
    world.configure(&newer);
    for _ in 0..100 {
        assert_eq!((status(&mut world, "/livez"), status(&mut world, "/readyz")), (201, 503));
        world.pass(50 * MS);
    }
    assert_eq!(begun_and_ended(&world), (1, 0));
    world.set_checks("admin", Manner::Status(200));
    world.pass(5 * SECOND);
    assert_eq!((status(&mut world, "/readyz"), begun_and_ended(&world)), (200, (1, 1)));
}

#[test]
fn a_drain_ends_if_the_policy_no_longer_names_the_upstream() {
    let mut switch_alone = document();
    switch_alone["probes"]["drain"] = json!({"path": "/drainz"});
    let mut another = only_envoy();
    another["probes"]["drain"]["alsoWhen"]["upstream"] = json!("app");
    let mut none = only_envoy();
    none["probes"].as_object_mut().unwrap().remove("drain");
    for after in [switch_alone, another, none] {
        let mut world = world(&only_envoy());
        world.set_checks("admin", Manner::Status(503));
        world.pass(5 * SECOND);
        world.configure(&after);
        assert_eq!(status(&mut world, "/readyz"), 200);
        world.pass(5 * SECOND);
        assert_eq!((status(&mut world, "/readyz"), begun_and_ended(&world)), (200, (1, 1)));
    }
}

#[test]
fn an_order_ends_if_the_policy_no_longer_has_its_switch() {
    let mut world = world(&document());
    order(&mut world, 0, "POST");
    world.pass(SECOND);
    world.configure(&only_envoy());
    assert_eq!(status(&mut world, "/readyz"), 200);
    world.pass(SECOND);
    assert_eq!(begun_and_ended(&world), (1, 1));
}

#[test]
fn an_update_during_a_drain_hears_of_it_by_the_next_checks() {
    let mut before = only_envoy();
    before["probes"].as_object_mut().unwrap().remove("drain");
    let mut world = world(&before);
    world.set_checks("admin", Manner::Status(503));
    world.pass(60 * SECOND);
    assert_eq!(status(&mut world, "/readyz"), 200);
    world.configure(&only_envoy());
    world.pass(5 * SECOND);
    assert_eq!((status(&mut world, "/readyz"), begun_and_ended(&world)), (503, (1, 0)));
}

// -- who can end it ---------------------------------------------------------------

#[test]
fn an_order_and_an_upstream_are_reasons_of_their_own() {
    let mut world = world(&document());
    let still = "policy shop: still draining (upstream envoy). DELETE takes back only an order\n";
    assert_eq!(order(&mut world, 0, "GET"), (200, "policy shop: not draining\n".to_owned()));
    let began = "policy shop: draining; readiness fails in 10.0 s\n";
    assert_eq!(order(&mut world, 0, "POST"), (200, began.to_owned()));
    world.set_checks("admin", Manner::Status(503));
    world.pass(20 * SECOND);
    let both = "policy shop: draining (by order, and upstream envoy)\n";
    assert_eq!(order(&mut world, 1, "GET"), (200, both.to_owned()));
    assert_eq!(order(&mut world, 2, "DELETE"), (409, still.to_owned()));
    world.pass(SECOND);
    let told = "policy shop: draining (upstream envoy)\n";
    assert_eq!(order(&mut world, 3, "GET"), (200, told.to_owned()));
    assert_eq!(status(&mut world, "/readyz"), 503);
    // Another order changes nothing but the reason. The drain goes on.
    assert_eq!(order(&mut world, 1, "POST"), (200, both.to_owned()));
    world.set_checks("admin", Manner::Status(200));
    world.pass(20 * SECOND);
    assert_eq!(order(&mut world, 1, "GET"), (200, "policy shop: draining\n".to_owned()));
    assert_eq!(order(&mut world, 1, "DELETE"), (200, "policy shop: not draining\n".to_owned()));
    world.pass(SECOND);
    assert_eq!((status(&mut world, "/readyz"), begun_and_ended(&world)), (200, (1, 1)));
}

#[test]
fn without_a_path_no_request_is_an_order() {
    let mut world = world(&only_envoy());
    assert_eq!(world.ask(0, &Request::of("POST", "/drainz")).cluster, "app");
    world.pass(5 * SECOND);
    assert_eq!((status(&mut world, "/readyz"), begun_and_ended(&world)), (200, (0, 0)));
}

// -- the order of telling -----------------------------------------------------------

#[test]
fn groups_fail_first_and_readiness_at_the_same_moment_on_all_workers() {
    for vm in 0..4 {
        let mut world = world(&document());
        order(&mut world, vm, "POST");
        world.pass(300 * MS);
        assert_eq!(statuses(&mut world), [503, 200, 200, 200]);
        world.pass(9_600 * MS);
        assert_eq!(statuses(&mut world), [503, 200, 200, 200]);
        // All workers change between two clocks that are a hundred milliseconds apart.
        world.pass(100 * MS);
        assert_eq!(statuses(&mut world), [503, 503, 200, 200]);
        order(&mut world, (vm + 1) % 4, "DELETE");
        world.pass(300 * MS);
        assert_eq!(statuses(&mut world), [200; 4]);
    }
}

#[test]
fn the_delay_counts_from_the_first_reason() {
    let mut world = world(&document());
    world.set_checks("admin", Manner::Status(503));
    while world.logged("policy shop: draining").is_empty() {
        world.pass(50 * MS);
    }
    world.pass(5 * SECOND);
    // Neither a second reason nor a repeated order delays readiness any further.
    for _ in 0..3 {
        order(&mut world, 0, "POST");
        world.pass(SECOND);
    }
    assert_eq!(statuses(&mut world), [503, 200, 200, 200]);
    world.pass(2 * SECOND);
    assert_eq!(statuses(&mut world), [503, 503, 200, 200]);
    // The order stands after the upstream has recovered.
    world.set_checks("admin", Manner::Status(200));
    world.pass(20 * SECOND);
    assert_eq!(statuses(&mut world), [503, 503, 200, 200]);
    assert_eq!(begun_and_ended(&world), (1, 0));
}

#[test]
fn the_delay_survives_updates_dead_vms_and_a_clock_that_jumps() {
    let mut world = world(&document());
    order(&mut world, 0, "POST");
    world.pass(5 * SECOND);
    world.jump(-3_600_000);
    for vm in 0..4 {
        world.kill(vm);
        world.configure_vm(vm);
    }
    let mut newer = document();
    newer["maxGatedPercent"] = json!(50);
    world.configure(&newer);
    assert_eq!(statuses(&mut world), [503, 200, 200, 200]);
    world.jump(7_200_000);
    world.pass(4_900 * MS);
    assert_eq!(statuses(&mut world), [503, 200, 200, 200]);
    world.pass(200 * MS);
    assert_eq!(statuses(&mut world), [503, 503, 200, 200]);
}

#[test]
fn an_update_of_the_delay_counts_from_the_same_beginning() {
    let mut world = world(&document());
    order(&mut world, 0, "POST");
    world.pass(5 * SECOND);
    let mut sooner = document();
    sooner["probes"]["drain"]["readinessAfter"] = json!("4s");
    world.configure(&sooner);
    assert_eq!(statuses(&mut world), [503, 503, 200, 200]);
    world.configure(&document());
    world.pass(SECOND);
    assert_eq!(statuses(&mut world), [503, 200, 200, 200]);
}

#[test]
fn without_groups_readiness_is_only_delayed() {
    let mut document = document();
    document["probes"]["drain"] = json!({"path": "/drainz", "readinessAfter": "2s"});
    let mut world = world(&document);
    order(&mut world, 0, "POST");
    world.pass(1_900 * MS);
    assert_eq!(statuses(&mut world), [200; 4]);
    world.pass(200 * MS);
    assert_eq!(statuses(&mut world), [200, 503, 200, 200]);
}
