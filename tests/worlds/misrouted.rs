//! Whether the requests of a version reach its cluster. The routes of the proxy decide that, not the filter.

use graygate::proxy::Level;
use serde_json::{Value, json};

use super::SECOND;
use super::releases::{by, shop, world_of};
use super::sim::{Manner, World};

fn misrouted(world: &World, version: &str) -> u64 {
    world.metric("misrouted_requests_total", &["policy=shop", "release=web", &format!("version={version}")])
}

fn warnings(world: &World) -> Vec<(Level, String)> {
    world.logged_at("requests of v")
}

/// Sends requests of many users to all workers. Upstreams respond at once.
fn send(world: &mut World, requests: usize) {
    for user in 0..requests {
        let id = world.send(user % world.workers(), &by(&format!("user-{user}")));
        world.respond_as(id, &Manner::Status(200));
    }
}

fn half() -> Value {
    shop(&[50, 50])
}

#[test]
fn requests_that_reach_their_version_count_nothing() {
    let mut world = world_of(&half(), 3);
    world.pass(SECOND);
    assert!(world.metric_names().iter().any(|name| name.starts_with("graygate_misrouted_requests_total.")));
    send(&mut world, 400);
    assert_eq!((misrouted(&world, "v1"), misrouted(&world, "v2"), warnings(&world)), (0, 0, vec![]));
}

#[test]
fn requests_of_a_version_that_reach_another_are_counted_and_warned_of_once() {
    let mut world = world_of(&half(), 3);
    // No route matches the header, so all requests take the default one.
    world.routes.clear();
    world.pass(SECOND);
    send(&mut world, 400);
    let sent = world.metric("assignments_total", &["version=v2"]);
    assert!(sent > 100);
    assert_eq!((misrouted(&world, "v1"), misrouted(&world, "v2")), (0, sent));
    let line = "policy shop: release web: requests of v2 go to cluster \"app-v1\" instead of its cluster \"app-v2\". \
        Check that a route matches x-version: v2 and leads to app-v2, that this route comes before the default one, and \
        that the policy names the route's cluster";
    assert_eq!(warnings(&world), [(Level::Warn, line.to_owned())]);
    // An update that mends nothing is not warned of again.
    world.configure(&shop(&[40, 60]));
    world.pass(SECOND);
    send(&mut world, 400);
    assert_eq!(warnings(&world).len(), 1);
}

#[test]
fn a_version_is_warned_of_again_only_after_its_requests_have_reached_it() {
    let mut document = half();
    // It makes the policy tick, and each tick takes a sample.
    document["probes"] = json!({"drain": {"path": "/drainz"}});
    let mut world = world_of(&document, 2);
    let routes = world.routes.clone();
    world.routes.clear();
    world.pass(SECOND);
    send(&mut world, 100);
    for (mended, lines) in [(false, 1), (true, 1), (false, 2), (false, 2)] {
        world.routes = if mended { routes.clone() } else { Default::default() };
        world.pass(61 * SECOND);
        send(&mut world, 200);
        assert_eq!(warnings(&world).len(), lines);
    }
}

#[test]
fn a_part_of_a_versions_requests_that_always_goes_elsewhere_is_one_finding() {
    let mut world = world_of(&half(), 2);
    let routes = world.routes.clone();
    world.pass(SECOND);
    for turn in 0..2_000 {
        world.routes = if turn % 50 == 0 { Default::default() } else { routes.clone() };
        let id = world.send(turn % 2, &by("user-3").with("x-turn", "1"));
        world.respond_as(id, &Manner::Status(200));
        let id = world.send(turn % 2, &by("user-1"));
        world.respond_as(id, &Manner::Status(200));
        world.pass(SECOND / 10);
    }
    assert!(misrouted(&world, "v2") > 0);
    assert_eq!(warnings(&world).len(), 1);
}

#[test]
fn a_version_whose_cluster_is_misspelt_is_found_if_its_requests_all_go_to_one_other_cluster() {
    let mut document = half();
    document["upstreams"]["up-2"]["cluster"] = json!("ap-v2");
    let mut world = world_of(&document, 2);
    world.set("app-v2", Manner::Status(200));
    world.pass(SECOND);
    send(&mut world, 400);
    assert!(misrouted(&world, "v2") > 50);
    let [(_, line)] = &warnings(&world)[..] else { panic!() };
    assert!(
        line.contains("requests of v2 go to cluster \"app-v2\" instead of its cluster \"ap-v2\""),
        "{line}"
    );
}

#[test]
fn a_version_without_a_route_or_whose_routes_cluster_is_missing_goes_nowhere() {
    for (details, counts) in [
        ("route_not_found", true),
        ("cluster_not_found", true),
        ("ext_authz_denied", false),
        ("direct_response", false),
    ] {
        let mut world = world_of(&half(), 2);
        world.routes.remove("v2");
        world.routes.insert("v1".to_owned(), "app-v1".to_owned());
        world.route = String::new();
        world.pass(SECOND);
        for user in 0..400 {
            let id = world.send(user % 2, &by(&format!("user-{user}")));
            match world.sent_header(id, "x-version").as_deref() {
                Some("v1") => world.respond_as(id, &Manner::Status(200)),
                _ => world.respond(id, 404, details, &[], true),
            }
        }
        assert_eq!(misrouted(&world, "v2") > 50, counts, "{details}");
        assert_eq!(warnings(&world).len(), usize::from(counts), "{details}");
        assert!(warnings(&world).iter().all(|(_, line)| line.contains("requests of v2 go to no cluster")));
    }
}

#[test]
fn requests_to_another_service_that_the_release_matches_count_nothing() {
    // The routes of the other service come first, whatever the version.
    for share_of_other in [2, 20, 1_000] {
        let mut world = world_of(&shop(&[90, 10]), 2);
        let routes = world.routes.clone();
        world.set("payments", Manner::Status(200));
        world.pass(SECOND);
        for turn in 0..3_000 {
            let is_other = turn % share_of_other != 0;
            world.routes = if is_other { Default::default() } else { routes.clone() };
            world.route = if is_other { "payments" } else { "app-v1" }.to_owned();
            let id = world.send(turn % 2, &by(&format!("user-{turn}")));
            world.respond_as(id, &Manner::Status(200));
        }
        assert_eq!(
            (world.metric("misrouted_requests_total", &[]), warnings(&world)),
            (0, vec![]),
            "{share_of_other}"
        );
    }
}

#[test]
fn what_the_filter_did_not_steer_counts_nothing() {
    let mut shadow = half();
    shadow["mode"] = json!("shadow");
    let mut trusting = half();
    trusting["releases"][0]["trustIncoming"] = json!(true);
    let mut by_number = half();
    by_number["releases"][0]["steer"] = json!({"randomValueHeader": "x-number"});
    by_number["releases"][0].as_object_mut().unwrap().remove("versions");
    let mut gated = half();
    gated["upstreams"]["spare"] = json!({"cluster": "spare"});
    gated["upstreams"]["db"] = json!({"cluster": "db", "force": "notReady"});
    gated["gates"] = json!([{"upstream": "db", "match": [{"uri": {"prefix": "/"}}], "fallback": {"upstream": "spare", "clusterHeader": "x-spare"}}]);
    let plain = by("bob");
    for (what, document, request) in [
        ("shadow", shadow, plain.clone()),
        ("a version of a later hop", trusting, plain.clone().with("x-version", "v9")),
        ("no versions", by_number, plain.clone()),
        ("a fallback", gated, plain),
    ] {
        let mut world = world_of(&document, 1);
        world.routes.clear();
        world.set("spare", Manner::Status(200));
        world.pass(SECOND);
        for user in 0..100 {
            let mut request = request.clone();
            request.headers.push(("x-n".to_owned(), user.to_string()));
            for (name, value) in &mut request.headers {
                if name == "x-user" {
                    *value = format!("user-{user}");
                }
            }
            let id = world.send(0, &request);
            if world.is_open(id) {
                world.respond_as(id, &Manner::Status(200));
            }
        }
        assert_eq!((world.metric("misrouted_requests_total", &[]), warnings(&world)), (0, vec![]), "{what}");
    }
}

#[test]
fn versions_with_one_cluster_and_releases_that_match_the_same_request_count_nothing() {
    let mut same = half();
    same["upstreams"]["up-2"]["cluster"] = json!("app-v1");
    let mut two = half();
    let mut other = two["releases"][0].clone();
    other["name"] = json!("other");
    other["steer"] = json!({"header": "x-other"});
    two["releases"].as_array_mut().unwrap().push(other);
    for document in [same, two] {
        let mut world = world_of(&document, 2);
        let is_one = document["upstreams"]["up-2"]["cluster"] == "app-v1";
        if is_one {
            world.routes.clear();
        }
        world.pass(SECOND);
        send(&mut world, 400);
        assert_eq!((world.metric("misrouted_requests_total", &[]), warnings(&world)), (0, vec![]));
    }
}

#[test]
fn responses_are_looked_at_by_samples_and_wrong_ones_all() {
    let mut world = world_of(&half(), 1);
    world.pass(SECOND);
    let looks = |world: &mut World, requests: usize| {
        let id = |turn: usize| by(&format!("user-{turn}"));
        let mut open = 0;
        for turn in 0..requests {
            let id = world.send(0, &id(turn));
            open += usize::from(world.has_exchange(0, id));
            world.respond_as(id, &Manner::Status(200));
        }
        open
    };
    assert_eq!(looks(&mut world, 40), 40);
    let later = looks(&mut world, 3_000);
    assert!((45..=60).contains(&later), "{later}");
    world.routes.clear();
    let before = misrouted(&world, "v2");
    looks(&mut world, 2_000);
    assert!(misrouted(&world, "v2") - before > 700);
}

/// Returns a policy whose gate has a breaker on `db`, and the number of lines that say that nothing is known of it.
fn unreached(change: impl Fn(&mut Value), cluster: &str) -> usize {
    let mut document = json!({
        "name": "shop",
        "upstreams": {"db": {"cluster": "db", "circuitBreaker": {}}, "app": {"cluster": "app", "circuitBreaker": {}}},
        "gates": [{"upstream": "db", "match": [{"uri": {"prefix": "/"}}]}],
    });
    change(&mut document);
    let mut world = World::new(&document, 2);
    cluster.clone_into(&mut world.route);
    for turn in 0..200 {
        let id = world.send(turn % 2, &by("bob"));
        world.respond_as(id, &Manner::Status(200));
        world.pass(SECOND / 20);
    }
    let lines = world.logged_at("its state is unknown");
    for (level, line) in &lines {
        let begins = "policy shop: upstream db: its state is unknown: of 20 requests that needed it, none went to its \
            cluster \"db\", and the last went to \"app\".";
        assert!(line.starts_with(begins), "{line}");
        assert_eq!(*level, Level::Warn);
    }
    lines.len()
}

#[test]
fn an_upstream_that_no_request_reaches_and_no_check_knows_is_said_once() {
    assert_eq!(unreached(|_| {}, "app"), 1);
    assert_eq!(unreached(|document| document["mode"] = json!("shadow"), "app"), 1);
    assert_eq!(unreached(|_| {}, "db"), 0);
    let checked = |document: &mut Value| {
        document["upstreams"]["db"]["readinessProbe"] = json!({"httpGet": {}});
    };
    assert_eq!(unreached(checked, "app"), 0);
    // Without a match, the gate is not for requests to other services.
    let any = |document: &mut Value| {
        document["gates"][0].as_object_mut().unwrap().remove("match");
    };
    assert_eq!(unreached(any, "app"), 0);
}
