//! Several policies in one document: a request is for the first whose hosts it meets, and they share nothing but the tick.

use serde_json::{Value, json};

use super::sim::{Answer, Manner, Request, World};
use super::{MS, SECOND};

/// Returns a policy for these hosts, with a check on an upstream of the same name and a gate on it for every request.
fn policy(name: &str, hosts: &[&str], period: f64) -> Value {
    let check = json!({"httpGet": {}, "periodSeconds": period, "failureThreshold": 1});
    let mut policy = json!({
        "name": name,
        "upstreams": {name: {"cluster": name, "readinessProbe": check}},
        "gates": [{"upstream": name, "match": [{"uri": {"prefix": "/"}}]}],
    });
    if !hosts.is_empty() {
        policy["hosts"] = json!(hosts);
    }
    policy
}

fn document(policies: &[Value]) -> Value {
    json!({"policies": policies})
}

/// Returns the policies of two teams, and one for all other hosts.
fn teams() -> Vec<Value> {
    vec![
        policy("reviews", &["reviews.shop"], 1.0),
        policy("ratings", &["*.ratings.example"], 1.0),
        policy("rest", &[], 1.0),
    ]
}

/// Returns a request for a host.
fn to(host: &str) -> Request {
    let mut request = Request::get("/");
    request.headers[2].1 = host.to_owned();
    request
}

fn ask(world: &mut World, vm: usize, host: &str) -> Answer {
    world.ask(vm, &to(host))
}

/// Fails the checks of all these clusters.
fn fail(world: &mut World, clusters: &[&str]) {
    clusters.iter().for_each(|cluster| world.set_checks(cluster, Manner::Status(500)));
    world.pass(3 * SECOND);
}

#[test]
fn a_request_is_for_the_first_policy_whose_hosts_it_meets() {
    let mut world = World::new(&document(&teams()), 2);
    fail(&mut world, &["reviews", "ratings", "rest"]);
    for headers in [0, 50] {
        for (host, name) in [
            ("reviews.shop", "reviews"),
            ("Reviews.Shop.svc.cluster.local:9080", "reviews"),
            ("a.ratings.example", "ratings"),
            ("ratings.example", "rest"),
            ("10.0.0.1:8080", "rest"),
        ] {
            let more = (0..headers).map(|number| format!("x-{number}"));
            let request = more.fold(to(host), |request, header| request.with(&header, "1"));
            let answer = world.ask(1, &request);
            assert_eq!(answer.details, format!("graygate_gate{{{name}|{name}|check-failed}}"), "{host}");
        }
    }
    for name in ["reviews", "ratings", "rest"] {
        let policy = format!("policy={name}");
        let gated = world.metric("gated_requests_total", &[&policy]);
        assert_eq!(gated, if name == "ratings" { 2 } else { 4 });
    }
}

#[test]
fn a_request_for_the_hosts_of_no_policy_passes_untouched() {
    // Also with a policy by itself that has hosts.
    for document in [document(&teams()[..2]), teams()[0].clone()] {
        let mut world = World::new(&document, 1);
        world.set("app", Manner::Status(200));
        fail(&mut world, &["reviews", "ratings"]);
        assert!(ask(&mut world, 0, "reviews.shop").is_gated());
        let request = to("payments.shop").with("x-version", "v2");
        let id = world.start(0, &request);
        world.pass(SECOND);
        assert_eq!(world.answer(id).status, 200);
        assert_eq!(world.forwarded_headers(id).len(), request.headers.len());
        assert_eq!(world.label(id), "");
        let without = Request { headers: vec![(":path".to_owned(), "/".to_owned())], whole: true };
        assert_eq!(world.ask(0, &without).status, 200);
    }
}

#[test]
fn a_short_name_is_a_service_on_proxies_of_its_namespace() {
    for (node, gated) in
        [("sidecar~1~a.shop~shop.svc.cluster.local", true), ("sidecar~1~a.pay~pay.svc.cluster.local", false)]
    {
        let mut world = World::unconfigured(1);
        *world.around.node.borrow_mut() = node.to_owned();
        world.set("app", Manner::Status(200));
        assert!(world.configure(&document(&teams()[..2])));
        fail(&mut world, &["reviews"]);
        assert_eq!(ask(&mut world, 0, "reviews:9080").is_gated(), gated, "{node}");
    }
}

#[test]
fn policies_have_their_own_readiness_for_the_same_cluster_and_their_own_drain() {
    let named = |name: &str, threshold: u32| {
        let mut policy = policy(name, &[&format!("{name}.shop")], 1.0);
        policy["upstreams"][name]["cluster"] = json!("app");
        policy["upstreams"][name]["readinessProbe"]["failureThreshold"] = json!(threshold);
        policy["probes"] = json!({
            "readiness": {"path": "/readyz", "checks": [{"upstream": name}]}, "drain": {"path": "/drainz"},
        });
        policy
    };
    let mut world = World::new(&document(&[named("a", 1), named("b", 30)]), 2);
    world.set("app", Manner::Status(200));
    fail(&mut world, &["app"]);
    assert!(ask(&mut world, 0, "a.shop").is_gated());
    assert_eq!(ask(&mut world, 0, "b.shop").status, 200);
    world.set_checks("app", Manner::Status(200));
    world.pass(3 * SECOND);
    let mut order = to("a.shop");
    (order.headers[0].1, order.headers[1].1) = ("POST".to_owned(), "/drainz".to_owned());
    assert_eq!(world.ask(1, &order).status, 200);
    world.pass(SECOND);
    for (host, status) in [("a.shop", 503), ("b.shop", 200)] {
        let mut probe = to(host);
        probe.headers[1].1 = "/readyz".to_owned();
        assert_eq!(world.ask(0, &probe).status, status, "{host}");
    }
}

/// Returns how many values the workers read from the store in ten seconds.
fn loads(policies: &[Value]) -> u32 {
    let mut world = World::new(&document(policies), 1);
    world.pass(5 * SECOND);
    world.around.loads.set(0);
    world.pass(10 * SECOND);
    world.around.loads.get()
}

#[test]
fn the_root_ticks_as_often_as_its_fastest_policy_and_the_others_only_when_they_are_due() {
    let (fast, slow) = (policy("fast", &["fast.shop"], 0.2), policy("slow", &["slow.shop"], 30.0));
    for order in [[fast.clone(), slow.clone()], [slow.clone(), fast.clone()]] {
        let world = World::new(&document(&order), 1);
        assert_eq!(world.tick_of(0), 50);
        let both = loads(&order);
        let apart = loads(&order[..1]) + loads(&order[1..]);
        assert!(both <= apart + apart / 20 && both >= apart - apart / 20, "{both} reads, {apart} apart");
    }
    let mut world = World::new(&document(&[fast, slow.clone()]), 1);
    world.pass(SECOND);
    assert!(world.configure(&document(&[slow])));
    world.pass(SECOND);
    assert_eq!(world.tick_of(0), 250);
}

#[test]
fn each_policy_is_checked_at_its_own_period() {
    let policies = [policy("a", &["a.shop"], 0.2), policy("b", &["b.shop"], 1.0), policy("c", &[], 7.0)];
    let mut world = World::new(&document(&policies), 3);
    world.pass(10 * SECOND);
    let before = ["a", "b", "c"].map(|cluster| world.calls_to(cluster).len());
    world.pass(70 * SECOND);
    for (cluster, before, expected) in [("a", before[0], 350), ("b", before[1], 70), ("c", before[2], 10)] {
        let sent = world.calls_to(cluster).len() - before;
        assert!(sent.abs_diff(expected) <= 2, "{cluster}: {sent} checks");
    }
}

#[test]
fn a_waiting_probe_hastens_the_tick_and_a_policy_that_needs_none_does_not_tick() {
    let idle = json!({"name": "idle", "hosts": ["idle.shop"], "probes": {"liveness": {"path": "/livez"}}});
    let passing = json!({
        "name": "passing", "upstreams": {"app": {"cluster": "app"}},
        "probes": {"readiness": {"path": "/readyz", "passThrough": {"cacheSeconds": 2}}},
    });
    let mut world = World::new(&document(&[idle, passing]), 2);
    world.pass(6 * SECOND);
    assert_eq!((world.tick_of(0), world.tick_of(1)), (0, 0));
    world.around.call_takes.set(300 * MS);
    let first = world.start(0, &Request::get("/readyz"));
    let second = world.start(1, &Request::get("/readyz"));
    assert_eq!(world.tick_of(1), 50);
    world.pass(SECOND);
    assert_eq!((world.answer(first).status, world.answer(second).status), (200, 200));
    assert_eq!((world.tick_of(0), world.tick_of(1)), (0, 0));
}

#[test]
fn adding_removing_and_reordering_policies_loses_no_state_of_the_others() {
    let [reviews, ratings, rest] = teams().try_into().unwrap();
    let mut world = World::new(&document(&[reviews.clone(), ratings.clone(), rest.clone()]), 2);
    fail(&mut world, &["reviews", "rest"]);
    let transitions = world.metric("transitions_total", &[]);
    let added = policy("added", &["added.shop"], 1.0);
    world.set("added", Manner::Status(200));
    for policies in [
        vec![ratings.clone(), reviews.clone(), rest.clone()],
        vec![added.clone(), reviews.clone(), rest.clone()],
        vec![reviews.clone(), added, ratings, rest.clone()],
        vec![reviews, rest],
    ] {
        assert!(world.configure(&document(&policies)));
        // No tick comes in between.
        for vm in 0..2 {
            assert!(ask(&mut world, vm, "reviews.shop").is_gated());
            assert!(ask(&mut world, vm, "other.shop").is_gated());
        }
        world.pass(2 * SECOND);
    }
    assert_eq!(world.metric("transitions_total", &[]), transitions);
    // The policies of earlier documents fall silent with their roots.
    (0..2).for_each(|vm| world.end_earlier(vm));
    world.pass(2 * SECOND);
    let silent = ["ratings", "added"].map(|cluster| world.calls_to(cluster).len());
    world.pass(5 * SECOND);
    assert_eq!(["ratings", "added"].map(|cluster| world.calls_to(cluster).len()), silent);
    assert_eq!(world.logged("policy reviews: loaded").len(), 1, "its own document has not changed");
}

#[test]
fn a_request_that_outlives_its_document_still_counts_for_its_policy() {
    let mut judged = policy("reviews", &["reviews.shop"], 1.0);
    judged["upstreams"]["reviews"] =
        json!({"cluster": "app", "circuitBreaker": {"consecutiveFailures": 2, "notReadyFor": "1h"}});
    let mut world = World::new(&document(&[judged.clone(), teams()[2].clone()]), 1);
    world.set("app", Manner::Status(200));
    world.pass(SECOND);
    let sent: Vec<u32> = (0..3).map(|_| world.send(0, &to("reviews.shop"))).collect();
    assert!(world.configure(&document(&[teams()[1].clone(), judged])));
    for id in sent {
        world.pass(100 * MS);
        world.respond(id, 500, "via_upstream", &[], true);
    }
    world.pass(SECOND);
    assert!(ask(&mut world, 0, "reviews.shop").is_gated());
}

/// Returns this many policies, each with this many upstreams that are checked, and a release.
fn many(count: usize, upstreams: usize) -> Value {
    let policy = |index: usize| {
        let check = json!({"httpGet": {}, "periodSeconds": 5});
        let upstreams = (0..upstreams)
            .map(|upstream| {
                let cluster = format!("c{index}-{upstream}");
                (format!("u{upstream}"), json!({"cluster": cluster, "readinessProbe": check}))
            })
            .collect::<serde_json::Map<_, _>>();
        let version = |name: &str, default: bool| json!({"name": name, "upstream": "u0", "weight": 1, "default": default});
        json!({
            "name": format!("p{index}"), "hosts": [format!("p{index}.shop")], "upstreams": upstreams,
            "releases": [{"name": "r", "steer": {"header": "x-v"}, "versions": [version("v1", true), version("v2", false)]}],
        })
    };
    document(&(0..count).map(policy).collect::<Vec<_>>())
}

#[test]
fn the_work_of_one_tick_is_bounded_for_all_policies_together() {
    let mut world = World::new(&many(40, 10), 1);
    // The gauges of policies and upstreams are not rationed.
    let defined =
        |world: &World| world.metric_names().iter().filter(|name| name.contains("release=.=")).count();
    let sent = |world: &World| world.around.sent.borrow().len();
    let mut metrics = 0;
    for _ in 0..400 {
        // Ticks of its own come in between.
        let before = (defined(&world), sent(&world));
        world.tick_now(0);
        let more = (defined(&world) - before.0, sent(&world) - before.1);
        assert!(more.0 <= 32 && more.1 <= 128, "{} metrics, {} checks", more.0, more.1);
        metrics += more.0;
        world.pass(10 * MS);
    }
    assert!(metrics > 300 && sent(&world) > 300, "{metrics} metrics, {} checks", sent(&world));
    world.pass(30 * SECOND);
    // Each gets its turn.
    for policy in 0..40 {
        assert_eq!(
            world.metric("version_share_basis_points", &[&format!("policy=p{policy}")]),
            10_000,
            "{policy}"
        );
        assert!(!world.calls_to(&format!("c{policy}-9")).is_empty(), "{policy}");
    }
}

#[test]
fn a_policy_with_mode_off_takes_its_requests_and_lets_them_pass() {
    let mut off = policy("reviews", &["reviews.shop"], 1.0);
    off["mode"] = json!("off");
    let mut world = World::new(&document(&[off, policy("rest", &[], 1.0)]), 1);
    world.set("app", Manner::Status(200));
    fail(&mut world, &["reviews", "rest"]);
    assert_eq!(ask(&mut world, 0, "reviews.shop").status, 200);
    assert!(ask(&mut world, 0, "other.shop").is_gated());
}
