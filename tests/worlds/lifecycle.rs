//! Startup and drain, which fail readiness on all workers regardless of its checks.

use serde_json::{Value, json};

use super::sim::{Answer, Manner, Request, World};
use super::{MS, SECOND, all_say, check_each_second, status};

/// Returns a policy whose readiness depends on `app`, and whose startup waits for `db`.
fn document() -> Value {
    let check = check_each_second();
    json!({
        "name": "shop",
        "upstreams": {
            "app": {"cluster": "app", "readinessProbe": check},
            "db": {"cluster": "db", "readinessProbe": check},
        },
        "probes": {
            "liveness": {"path": "/livez"},
            "startup": {"path": "/startupz", "checks": [{"upstream": "db"}]},
            "readiness": {"path": "/readyz", "checks": [{"upstream": "app"}]},
            "drain": {"path": "/drainz"},
        },
        "gates": [{"upstream": "app"}],
    })
}

/// Returns a proxy of four workers that has started.
fn world() -> World {
    let mut world = World::new(&document(), 4);
    world.pass(3 * SECOND);
    world
}

fn without(probe: &str) -> Value {
    let mut document = document();
    document["probes"].as_object_mut().unwrap().remove(probe);
    document
}

fn order(world: &mut World, vm: usize, method: &str) -> Answer {
    world.ask(vm, &Request::of(method, "/drainz"))
}

fn started(world: &World) -> u64 {
    let logged = world.logged("policy shop: started").len() as u64;
    assert_eq!(world.metric("lifecycle_changes_total", &["to=started"]), logged);
    logged
}

// -- startup ------------------------------------------------------------------

#[test]
fn readiness_waits_for_startup_on_all_workers_and_liveness_does_not() {
    let mut world = World::new(&document(), 4);
    world.set_checks("db", Manner::Status(500));
    for _ in 0..4 {
        world.pass(10 * SECOND);
        let answer = all_say(&mut world, "/readyz");
        assert_eq!(answer.status, 503);
        assert!(answer.body.contains("[+]app ok\n[-]startup failed: not started yet\n"), "{answer:?}");
        let answer = all_say(&mut world, "/startupz");
        assert!(answer.body.starts_with("[-]db failed: check-failed: status 500\n"), "{answer:?}");
        assert_eq!((answer.status, status(&mut world, "/livez")), (503, 200));
        // Users are served, and a single check can be requested.
        assert_eq!((world.get(0).status, status(&mut world, "/readyz/app")), (200, 200));
    }
    assert_eq!(started(&world), 0);
    world.set_checks("db", Manner::Status(200));
    world.pass(3 * SECOND);
    assert_eq!((status(&mut world, "/startupz"), status(&mut world, "/readyz")), (200, 200));
    assert_eq!(started(&world), 1);
}

#[test]
fn no_request_can_make_startup_pass() {
    let mut world = World::new(&document(), 4);
    world.set_checks("db", Manner::Status(500));
    world.pass(3 * SECOND);
    for path in ["/startupz?exclude=db", "/readyz?exclude=startup&exclude=db&exclude=app"] {
        assert_eq!(status(&mut world, path), 503, "{path}");
    }
    world.pass(3 * SECOND);
    assert_eq!(started(&world), 0);
}

#[test]
fn an_assumption_passes_startup_only_for_an_upstream_without_a_check() {
    for assume in ["ready", "notReady"] {
        let mut document = document();
        document["upstreams"]["db"]["assume"] = json!(assume);
        document["upstreams"]["db"]["readinessProbe"]["initialDelaySeconds"] = json!(600);
        let mut world = World::new(&document, 4);
        world.pass(60 * SECOND);
        let answer = all_say(&mut world, "/startupz");
        assert!(answer.body.starts_with("[-]db failed: not checked yet\n"), "{answer:?}");
        assert_eq!(started(&world), 0);
    }
    let mut document = document();
    document["upstreams"]["db"] = json!({"cluster": "db"});
    let mut world = World::new(&document, 4);
    world.pass(3 * SECOND);
    assert_eq!((status(&mut world, "/startupz"), started(&world)), (200, 1));
}

#[test]
fn startup_passes_after_success_threshold_checks() {
    let mut document = document();
    document["upstreams"]["db"]["readinessProbe"]["successThreshold"] = json!(3);
    let mut world = World::new(&document, 4);
    while started(&world) == 0 {
        world.pass(50 * MS);
    }
    assert_eq!(world.metric("checks_total", &["upstream=db", "result=passed"]), 3);
}

#[test]
fn startup_passes_without_checks_and_respects_weights() {
    let mut document = document();
    document["probes"]["startup"] = json!({"path": "/startupz", "statuses": {"passed": 201}});
    let mut world = World::new(&document, 4);
    world.pass(SECOND);
    assert_eq!((status(&mut world, "/startupz"), status(&mut world, "/readyz")), (201, 200));
    let checks = json!([{"upstream": "app", "weight": 1}, {"upstream": "db", "weight": 2}]);
    document["probes"]["startup"] = json!({"path": "/startupz", "checks": checks, "minimumScore": 2});
    for (down, expected) in [("app", 200), ("db", 503)] {
        let mut world = World::new(&document, 4);
        world.set_checks(down, Manner::Status(500));
        world.pass(3 * SECOND);
        assert_eq!(status(&mut world, "/startupz"), expected, "{down}");
    }
}

#[test]
fn a_start_is_permanent() {
    let mut world = world();
    assert_eq!(started(&world), 1);
    world.set_checks("db", Manner::Status(500));
    world.pass(3 * SECOND);
    assert_eq!(world.phase("db"), "not-ready");
    assert_eq!((status(&mut world, "/startupz"), status(&mut world, "/readyz")), (200, 200));
    // Neither an update nor the death of all VMs undoes the start.
    let mut harder = document();
    let checks = json!([{"upstream": "db"}, {"upstream": "mq"}]);
    harder["upstreams"]["mq"] = json!({"cluster": "not-there", "readinessProbe": {"httpGet": {}}});
    harder["probes"]["startup"]["checks"] = checks;
    world.set("not-there", Manner::Missing);
    world.configure(&harder);
    for _ in 0..40 {
        assert_eq!((status(&mut world, "/startupz"), status(&mut world, "/readyz")), (200, 200));
        world.pass(50 * MS);
    }
    for vm in 0..4 {
        world.kill(vm);
        world.configure_vm(vm);
    }
    assert_eq!((status(&mut world, "/startupz"), status(&mut world, "/readyz")), (200, 200));
    assert_eq!(started(&world), 1);
}

#[test]
fn an_update_that_adds_a_startup_probe_does_not_fail_readiness_of_a_proxy_with_proof() {
    let mut before = without("startup");
    before["probes"]["readiness"]["checks"] = json!([{"upstream": "app"}, {"upstream": "db"}]);
    let mut after = document();
    after["probes"]["readiness"]["checks"] = before["probes"]["readiness"]["checks"].clone();
    let mut world = World::new(&before, 4);
    world.pass(3 * SECOND);
    world.prepare(&after);
    for vm in 0..4 {
        world.configure_vm(vm);
        assert_eq!(status(&mut world, "/readyz"), 200);
        world.pass(20 * MS);
    }
    for _ in 0..50 {
        assert_eq!(status(&mut world, "/readyz"), 200);
        world.pass(50 * MS);
    }
    assert_eq!((status(&mut world, "/startupz"), started(&world)), (200, 1));
    // A proxy without proof has not started.
    let mut world = World::new(&before, 4);
    world.set_checks("db", Manner::Status(500));
    world.pass(3 * SECOND);
    world.configure(&document());
    world.pass(3 * SECOND);
    assert_eq!(status(&mut world, "/startupz"), 503);
}

#[test]
fn a_policy_that_is_only_tried_or_refused_does_not_start_the_proxy() {
    let mut world = World::new(&document(), 4);
    world.set_checks("db", Manner::Status(500));
    world.pass(3 * SECOND);
    let mut easy = document();
    easy["probes"]["startup"] = json!({"path": "/startupz"});
    // Envoy configures the policy in one VM and ends that VM before its first tick.
    world.prepare(&easy);
    world.configure_vm(0);
    assert_eq!(started(&world), 0);
    easy["gates"][0]["upstream"] = json!("nowhere");
    assert!(!world.configure(&easy));
    assert_eq!(started(&world), 0);
}

#[test]
fn an_older_policy_that_still_ticks_does_not_decide_startup() {
    let mut easier = document();
    easier["probes"]["startup"]["checks"] = json!([{"upstream": "app"}]);
    let mut world = World::new(&easier, 4);
    world.set_checks("app", Manner::Status(500));
    world.set_checks("db", Manner::Status(500));
    world.pass(3 * SECOND);
    world.configure(&document());
    world.pass(3 * SECOND);
    // Its own check passes now. It still ticks until its last connections close.
    world.set_checks("app", Manner::Status(200));
    world.pass(30 * SECOND);
    assert_eq!((status(&mut world, "/startupz"), started(&world)), (503, 0));
    world.set_checks("db", Manner::Status(200));
    world.pass(3 * SECOND);
    assert_eq!((status(&mut world, "/startupz"), started(&world)), (200, 1));
}

// -- drain --------------------------------------------------------------------

const DRAINING: &str = "policy shop: draining\n";
const NOT_DRAINING: &str = "policy shop: not draining\n";

#[test]
fn a_drain_order_fails_only_readiness_on_all_workers_within_a_tick() {
    for vm in 0..4 {
        let mut world = world();
        assert_eq!(order(&mut world, vm, "GET").body, NOT_DRAINING);
        let answer = order(&mut world, vm, "POST");
        assert_eq!((answer.status, answer.body.as_str()), (200, DRAINING));
        assert_eq!(answer.details, "graygate_probe{shop|drain}");
        assert_eq!(world.ask(vm, &Request::get("/readyz")).status, 503);
        world.pass(260 * MS);
        let answer = all_say(&mut world, "/readyz");
        assert_eq!(answer.status, 503);
        assert!(answer.body.starts_with("[+]app ok\n[-]drain failed: draining\n"), "{answer:?}");
        for path in ["/livez", "/startupz", "/readyz/app", "/"] {
            assert_eq!(status(&mut world, path), 200, "{path}");
        }
        assert_eq!(status(&mut world, "/readyz?exclude=drain&exclude=app"), 503);
        world.pass(600 * MS);
        for other in 0..4 {
            assert_eq!(order(&mut world, other, "GET").body, DRAINING);
        }
        assert_eq!(order(&mut world, (vm + 1) % 4, "DELETE").body, NOT_DRAINING);
        world.pass(260 * MS);
        assert_eq!(status(&mut world, "/readyz"), 200);
    }
}

#[test]
fn draining_does_not_change_which_requests_are_gated() {
    let mut world = world();
    order(&mut world, 0, "POST");
    world.pass(SECOND);
    assert_eq!(status(&mut world, "/"), 200);
    world.set_checks("app", Manner::Status(500));
    world.pass(3 * SECOND);
    assert!(world.get(2).is_gated());
    world.set_checks("app", Manner::Status(200));
    world.pass(3 * SECOND);
    assert_eq!(status(&mut world, "/"), 200);
}

#[test]
fn only_post_and_delete_are_drain_orders_and_other_methods_are_refused() {
    let mut world = world();
    for method in ["PUT", "PATCH", "OPTIONS"] {
        let answer = order(&mut world, 0, method);
        assert_eq!((answer.status, answer.header("allow")), (405, Some("GET, HEAD, POST, DELETE")));
    }
    for method in ["GET", "HEAD"] {
        assert_eq!(
            (order(&mut world, 0, method).status, order(&mut world, 0, method).body.as_str()),
            (200, NOT_DRAINING)
        );
    }
    world.pass(SECOND);
    assert_eq!(status(&mut world, "/readyz"), 200);
    // The order has a query, and its body has not arrived yet.
    let with_body = Request::of("POST", "/drainz?why=deploy").unfinished();
    assert_eq!(world.ask(0, &with_body).body, DRAINING);
}

#[test]
fn drain_orders_and_refusals_are_counted() {
    let mut document = document();
    document["probes"]["drain"]["from"] = json!(["10.0.0.0/8"]);
    let mut world = World::new(&document, 4);
    order(&mut world, 0, "POST");
    *world.around.source.borrow_mut() = "10.0.0.1:4711".to_owned();
    order(&mut world, 1, "POST");
    order(&mut world, 2, "DELETE");
    for (code, result) in [("403", "refused"), ("200", "draining"), ("200", "not-draining")] {
        let labels = ["probe=drain", &format!("code={code}"), &format!("result={result}")];
        assert_eq!(world.metric("probe_answers_total", &labels), 1, "{result}");
    }
}

#[test]
fn drain_orders_are_accepted_only_from_the_policys_addresses() {
    let local = json!(["127.0.0.0/8", "::1/128"]);
    let ten = json!(["10.0.0.0/8", "::ffff:0:0/96"]);
    let cases = [
        (&local, "127.0.0.1:50000", None),
        (&local, "[::1]:50000", None),
        (&local, "10.0.0.1:50000", Some("drain refused: 10.0.0.1 is not in drain.from")),
        (&ten, "10.255.255.255:1", None),
        (&ten, "127.0.0.1:50000", Some("drain refused: 127.0.0.1 is not in drain.from")),
        // Headers cannot supply the address, because addresses in headers have no port.
        (
            &local,
            "127.0.0.1:0",
            Some(
                "drain refused: 127.0.0.1 has no port, so the proxy took it from a header, which any client can set",
            ),
        ),
        (&local, "/run/envoy.sock", Some("drain refused: the source has no IP address")),
    ];
    for (from, source, refusal) in cases {
        let mut document = document();
        document["probes"]["drain"]["from"] = from.clone();
        let mut world = World::new(&document, 4);
        world.pass(3 * SECOND);
        *world.around.source.borrow_mut() = source.to_owned();
        for method in ["POST", "GET", "DELETE", "PUT", "POST"] {
            let answer = order(&mut world, 0, method);
            match refusal {
                Some(words) => {
                    assert_eq!(
                        (answer.status, answer.body),
                        (403, format!("policy shop: {words}\n")),
                        "{source}"
                    );
                }
                None => assert_ne!(answer.status, 403, "{source}"),
            }
        }
        world.pass(SECOND);
        assert_eq!(status(&mut world, "/readyz"), if refusal.is_some() { 200 } else { 503 }, "{source}");
    }
}

#[test]
fn a_drain_order_that_cannot_be_stored_is_refused_and_can_be_repeated() {
    let mut world = world();
    world.lose(16);
    let answer = order(&mut world, 0, "POST");
    let words = "policy shop: the order could not be stored: try again\n";
    assert_eq!((answer.status, answer.body.as_str()), (503, words));
    assert_eq!(status(&mut world, "/readyz"), 200);
    assert_eq!(order(&mut world, 0, "POST").body, DRAINING);
    assert_eq!(world.logged("draining").len(), 1);
}

#[test]
fn a_drain_survives_the_death_of_every_vm_and_policy_updates() {
    let mut world = world();
    order(&mut world, 0, "POST");
    for vm in 0..4 {
        world.kill(vm);
        world.configure_vm(vm);
    }
    assert_eq!(status(&mut world, "/readyz"), 503);
    let mut newer = document();
    newer["probes"]["liveness"]["statuses"] = json!({"passed": 201});
    world.configure(&newer);
    for _ in 0..40 {
        assert_eq!((status(&mut world, "/livez"), status(&mut world, "/readyz")), (201, 503));
        world.pass(50 * MS);
    }
    world.configure(&without("startup"));
    world.pass(3_600 * MS);
    assert_eq!(status(&mut world, "/readyz"), 503);
    assert_eq!(world.logged("draining").len(), 1);
}

#[test]
fn a_drain_ends_if_the_policy_no_longer_has_the_switch() {
    let mut world = world();
    order(&mut world, 0, "POST");
    world.pass(SECOND);
    world.configure(&without("drain"));
    // For workers of the new policy, which has no switch, the drain ends at once.
    assert_eq!(status(&mut world, "/readyz"), 200);
    assert_eq!(world.logged("no longer draining").len(), 0);
    world.pass(SECOND);
    assert_eq!(world.logged("policy shop: no longer draining").len(), 1);
    // When the switch is configured again, it is off.
    world.configure(&document());
    world.pass(SECOND);
    assert_eq!(order(&mut world, 1, "GET").body, NOT_DRAINING);
    assert_eq!(status(&mut world, "/readyz"), 200);
    assert_eq!(world.metric("lifecycle_changes_total", &["to=not-draining"]), 1);
}

#[test]
fn a_drain_order_to_the_older_policy_after_the_update_ends_as_well() {
    let mut world = World::new(&without("drain"), 4);
    world.pass(3 * SECOND);
    // VM 0 still has the policy with the switch, because its listener is draining its connections.
    world.prepare(&document());
    world.configure_vm(0);
    world.pass(SECOND);
    order(&mut world, 0, "POST");
    world.configure(&without("drain"));
    world.pass(2 * SECOND);
    assert_eq!(status(&mut world, "/readyz"), 200);
    assert_eq!(world.logged("no longer draining").len(), 1);
}

#[test]
fn an_update_that_is_refused_or_only_tried_does_not_end_a_drain() {
    let mut world = world();
    order(&mut world, 0, "POST");
    let mut wrong = without("drain");
    wrong["gates"][0]["upstream"] = json!("nowhere");
    assert!(!world.configure(&wrong));
    assert_eq!(world.logged("no longer draining").len(), 0);
    let mut world = self::world();
    order(&mut world, 0, "POST");
    world.pass(SECOND);
    world.prepare(&without("drain"));
    world.configure_vm(0);
    assert_eq!(order(&mut world, 1, "GET").body, DRAINING);
    assert_eq!(world.logged("no longer draining").len(), 0);
}

#[test]
fn a_start_and_a_drain_in_shadow_mode_take_effect_and_go_on_in_another_mode() {
    let mut shadow = document();
    shadow["mode"] = json!("shadow");
    let mut world = World::new(&shadow, 4);
    world.pass(3 * SECOND);
    assert_eq!((status(&mut world, "/readyz"), started(&world)), (200, 1));
    assert_eq!(order(&mut world, 0, "POST").body, DRAINING);
    world.pass(SECOND);
    assert_eq!(world.logged("draining"), ["policy shop: draining"]);
    assert_eq!((status(&mut world, "/readyz"), status(&mut world, "/livez")), (503, 200));
    // Users are served: a drain is an order about readiness, and gates are in shadow mode.
    assert_eq!(world.get(0).status, 200);
    for mode in ["enforce", "shadow"] {
        let mut document = document();
        document["mode"] = json!(mode);
        world.configure(&document);
        world.pass(SECOND);
        assert_eq!(status(&mut world, "/readyz"), 503, "{mode}");
    }
    order(&mut world, 1, "DELETE");
    world.pass(SECOND);
    assert_eq!((status(&mut world, "/readyz"), started(&world)), (200, 1));
    assert_eq!(world.metric("lifecycle_changes_total", &[]), 3);
}
