//! Gates without a match: each stops only the requests whose route leads to its upstream's cluster.

use serde_json::{Value, json};

use super::sim::{Manner, Request, World};
use super::{SECOND, check_each_second, fail_checks, judged};

/// Returns a policy with the checked upstreams `app` and `db`, and these gates.
fn document(gates: &Value) -> Value {
    let check = check_each_second();
    json!({
        "name": "shop",
        "upstreams": {
            "app": {"cluster": "app", "readinessProbe": check},
            "db": {"cluster": "db", "readinessProbe": check},
            "spare": {"cluster": "spare", "readinessProbe": check},
        },
        "gates": gates,
    })
}

/// Returns a proxy whose routes lead to the cluster that the header `x-to` names, and else to `app`. The checks of `app` fail.
fn world(document: &Value) -> World {
    let mut world = World::new(document, 2);
    route_by(&mut world, "x-to", &["app", "db", "spare", "other"]);
    world.set("other", Manner::Status(200));
    fail_checks(&mut world, "app");
    world
}

fn route_by(world: &mut World, header: &'static str, clusters: &[&str]) {
    world.steer = header;
    world.routes = clusters.iter().map(|name| ((*name).to_owned(), (*name).to_owned())).collect();
}

fn to(cluster: &str) -> Request {
    Request::get("/").with("x-to", cluster)
}

#[test]
fn a_gate_without_a_match_stops_only_what_would_go_to_its_upstream() {
    for gates in [json!([{"upstream": "app"}]), json!([{"upstream": "app", "match": []}])] {
        let mut world = world(&document(&gates));
        for vm in 0..2 {
            assert!(world.ask(vm, &to("app")).is_gated());
            assert!(world.get(vm).is_gated());
            for cluster in ["db", "other"] {
                let answer = world.ask(vm, &to(cluster));
                assert_eq!((answer.status, answer.cluster.as_str()), (200, cluster));
                assert_eq!(answer.header("x-graygate-gate"), None);
            }
        }
        assert_eq!(world.metric("gated_requests_total", &[]), 4);
        world.set_checks("app", Manner::Status(200));
        world.pass(3 * SECOND);
        assert_eq!(world.ask(0, &to("app")).cluster, "app");
    }
}

#[test]
fn a_gate_with_a_match_stops_what_it_matches_whatever_the_route() {
    for matches in [json!([{"uri": {"prefix": "/"}}]), json!([{"hosts": ["shop"]}])] {
        let mut world = world(&document(&json!([{"upstream": "app", "match": matches}])));
        assert!(world.ask(0, &to("app")).is_gated());
        assert!(world.ask(0, &to("db")).is_gated());
    }
    let mut world = world(&document(&json!([{"upstream": "app", "match": [{"hosts": ["pay"]}]}])));
    assert!(!world.ask(0, &to("app")).is_gated());
}

#[test]
fn a_request_without_a_route_passes_a_gate_without_a_match() {
    let mut world = world(&document(&json!([{"upstream": "app"}])));
    world.route = String::new();
    let answer = world.get(0);
    assert_eq!((answer.is_gated(), answer.details.as_str()), (false, "cluster_not_found"));
}

#[test]
fn each_gate_without_a_match_decides_on_its_own_cluster() {
    let mut world = world(&document(&json!([{"upstream": "app"}, {"upstream": "db"}])));
    fail_checks(&mut world, "db");
    for name in ["app", "db"] {
        assert!(world.ask(0, &to(name)).details.contains(&format!("|{name}|")));
    }
    assert!(!world.ask(0, &to("other")).is_gated());
}

#[test]
fn a_request_that_goes_elsewhere_takes_no_permit() {
    let breaker = json!({"trial": {"requests": 1, "successes": 1, "leaseFor": "60s"}});
    let mut world = World::new(&judged(&breaker), 1);
    route_by(&mut world, "x-to", &["app", "other"]);
    world.set("other", Manner::Hangs);
    world.set("app", Manner::Status(500));
    for _ in 0..5 {
        world.get(0);
        world.pass(SECOND);
    }
    world.set("app", Manner::Status(200));
    world.pass(10 * SECOND);
    assert_eq!(world.phase("app"), "trial");
    let elsewhere = world.start(0, &to("other"));
    assert_eq!(world.sent_header(elsewhere, "x-graygate-permit"), None);
    assert!(!world.get(0).is_gated(), "the one permit is left");
    assert_eq!(world.phase("app"), "ready");
}

#[test]
fn a_request_that_goes_elsewhere_is_neither_diverted_nor_counted_as_let_through() {
    let fallback = json!({"upstream": "spare", "clusterHeader": "x-to"});
    let gates = json!([
        {"upstream": "app", "fallback": fallback},
        {"upstream": "app", "whenAllNotReady": "forward", "fallback": {"answer": {"body": "none"}}},
        {"upstream": "app", "whenAllNotReady": "forward"},
    ]);
    let mut world = World::new(&document(&gates), 1);
    route_by(&mut world, "x-path", &["app", "db"]);
    fail_checks(&mut world, "app");
    let preflight = Request::of("OPTIONS", "/")
        .with("origin", "https://shop.example")
        .with("access-control-request-method", "PUT");
    for request in [Request::get("/"), preflight] {
        let answer = world.ask(0, &request.clone().with("x-path", "db"));
        assert_eq!((answer.cluster.as_str(), answer.header("x-graygate-gate")), ("db", None));
        let diverted = world.ask(0, &request);
        assert!(diverted.header("x-graygate-gate").is_some_and(|told| told.contains("to=spare")));
    }
    assert_eq!(world.metric("fallback_requests_total", &[]), 2);
    assert_eq!(world.metric("failed_open_requests_total", &[]), 0);
}

#[test]
fn a_gate_that_fails_open_reports_only_its_own_requests() {
    let mut world = world(&document(&json!([{"upstream": "app", "whenAllNotReady": "forward"}])));
    assert_eq!(world.ask(0, &to("db")).header("x-graygate-gate"), None);
    assert!(world.ask(0, &to("app")).header("x-graygate-gate").is_some());
    assert_eq!(world.metric("failed_open_requests_total", &["upstream=app"]), 1);
}

#[test]
fn in_shadow_mode_a_gate_without_a_match_counts_only_its_own_requests() {
    let mut document = document(&json!([{"upstream": "app"}]));
    document["mode"] = json!("shadow");
    let mut world = world(&document);
    world.ask(0, &to("db"));
    assert_eq!(world.metric("gated_requests_total", &[]), 0);
    world.ask(0, &to("app"));
    assert_eq!(world.metric("gated_requests_total", &["mode=shadow"]), 1);
}

/// Returns a policy with a release of two versions and a gate on each of their upstreams.
fn released() -> Value {
    let check = check_each_second();
    json!({
        "name": "shop",
        "upstreams": {
            "v1": {"cluster": "app-v1", "readinessProbe": check},
            "v2": {"cluster": "app-v2", "readinessProbe": check},
            "same": {"cluster": "app-v1", "readinessProbe": check},
        },
        "releases": [{
            "name": "web",
            "match": [{"uri": {"prefix": "/web"}}],
            "steer": {"clusterHeader": "x-cluster"},
            "versions": [
                {"name": "v1", "upstream": "v1", "weight": 1, "default": true},
                {"name": "v2", "upstream": "v2", "weight": 0, "match": [{"headers": {"x-tester": {}}}]},
            ],
        }],
        "gates": [{"upstream": "v1"}, {"upstream": "same"}],
    })
}

/// The route that the proxy reports is that of the request as it came, before the version's header is on it.
#[test]
fn the_assigned_version_decides_and_not_the_route_without_it() {
    let mut world = World::new(&released(), 1);
    route_by(&mut world, "x-cluster", &["app-v1", "app-v2"]);
    world.route = "app-v2".to_owned();
    world.set_checks("app-v1", Manner::Status(500));
    world.pass(3 * SECOND);
    assert!(world.ask(0, &Request::get("/web")).is_gated());
    // Without a version, the route decides.
    assert_eq!(world.ask(0, &Request::get("/other")).cluster, "app-v2");
    world.route = "app-v1".to_owned();
    assert_eq!(world.ask(0, &Request::get("/web").with("x-tester", "1")).cluster, "app-v2");
    assert!(world.ask(0, &Request::get("/other")).is_gated());
}

/// Two upstreams may judge one cluster in different ways.
#[test]
fn the_assigned_version_decides_for_every_gate_on_its_cluster() {
    let mut document = released();
    document["upstreams"]["v1"].as_object_mut().unwrap().remove("readinessProbe");
    let mut world = World::new(&document, 1);
    route_by(&mut world, "x-cluster", &["app-v1", "app-v2"]);
    world.route = "app-v1".to_owned();
    fail_checks(&mut world, "app-v1");
    assert!(world.ask(0, &Request::get("/web")).details.contains("|same|"));
    assert_eq!(world.ask(0, &Request::get("/web").with("x-tester", "1")).cluster, "app-v2");
}

/// Returns a policy with a release without a match, whose versions have these clusters.
fn service(clusters: [&str; 2]) -> Value {
    json!({
        "name": "shop",
        "upstreams": {"v1": {"cluster": clusters[0]}, "v2": {"cluster": clusters[1]}},
        "releases": [{
            "name": "reviews",
            "steer": {"header": "x-version"},
            "versions": [
                {"name": "v1", "upstream": "v1", "weight": 1, "default": true},
                {"name": "v2", "upstream": "v2", "weight": 1},
            ],
        }],
    })
}

#[test]
fn a_release_without_a_match_acts_on_the_hosts_of_its_clusters_if_all_are_of_istio() {
    let reviews = "outbound|9080|v1|reviews.shop.svc.cluster.local";
    for (clusters, elsewhere) in [
        ([reviews, "outbound_.9080_.v2_.reviews.shop.svc.cluster.local"], false),
        ([reviews, "outbound|9080|v2|ratings.shop.svc.cluster.local"], false),
        ([reviews, "reviews-v2"], true),
        (["inbound|9080||", "reviews-v2"], true),
    ] {
        let mut world = World::new(&service(clusters), 1);
        let sent = |world: &mut World, host: &str| {
            let mut request = Request::get("/");
            request.headers[2].1 = host.to_owned();
            let id = world.start(0, &request);
            world.sent_header(id, "x-version").is_some()
        };
        for host in ["reviews.shop", "REVIEWS.shop.svc.cluster.local:9080"] {
            assert!(sent(&mut world, host), "{clusters:?}: {host}");
        }
        for host in ["payments.shop", "reviews.pay"] {
            assert_eq!(sent(&mut world, host), elsewhere, "{clusters:?}: {host}");
        }
    }
}
