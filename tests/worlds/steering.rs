//! How releases tell the routes which version a request gets, and the header edits of versions.

use serde_json::{Value, json};

use super::SECOND;
use super::releases::{assigned, by, probe, shop, version, world_of};
use super::sim::{Manner, Request, World};

/// Returns a policy that steers like this. Testers get v2.
fn steered(steer: &Value, weights: &[u32]) -> Value {
    let mut document = shop(weights);
    document["releases"][0]["steer"] = steer.clone();
    document["releases"][0]["versions"][1]["match"] = json!([{"headers": {"x-tester": {}}}]);
    document
}

fn tester() -> Request {
    by("alice").with("x-tester", "1")
}

/// Returns the values of a header of this request as it was forwarded.
fn sent(world: &mut World, request: &Request, header: &str) -> Vec<String> {
    let id = world.send(0, request);
    world.respond_as(id, &Manner::Status(200));
    world.sent_headers(id, header)
}

/// Returns the version that a weighted route selects for a random value.
fn picked(number: &str, weights: &[u32]) -> usize {
    let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
    let rest = number.parse::<u64>().unwrap() % total;
    let ends = weights.iter().scan(0, |end, weight| {
        *end += u64::from(*weight);
        Some(*end)
    });
    ends.take_while(|end| *end <= rest).count() + 1
}

#[test]
fn a_header_has_the_versions_name_and_a_cluster_header_its_clusters() {
    for (steer, header, names) in [
        (json!({"header": "X-Version"}), "x-version", ["v1", "v2"]),
        (json!({"clusterHeader": "x-cluster"}), "x-cluster", ["app-v1", "app-v2"]),
    ] {
        let mut world = world_of(&steered(&steer, &[1, 0]), 1);
        assert_eq!(sent(&mut world, &by("alice"), header), [names[0]]);
        assert_eq!(sent(&mut world, &tester(), header), [names[1]]);
    }
}

#[test]
fn filter_state_has_the_versions_name_and_no_header_does() {
    let mut document = steered(&json!({"filterState": "envoy.string"}), &[1, 0]);
    document["releases"][0]["match"] = json!([{"uri": {"prefix": "/api"}}]);
    let mut world = world_of(&document, 1);
    for (path, request, states) in [
        ("/api", by("alice"), vec![("envoy.string".to_owned(), "v1".to_owned())]),
        ("/api", tester(), vec![("envoy.string".to_owned(), "v2".to_owned())]),
        ("/", tester(), vec![]),
    ] {
        let mut request = request;
        request.headers[1].1 = path.to_owned();
        let id = world.send(0, &request);
        assert_eq!(world.filter_state(id), states);
        for (name, value) in &request.headers {
            assert_eq!(world.sent_headers(id, name), [value.as_str()], "{name}");
        }
        assert_eq!(world.sent_headers(id, "x-version"), Vec::<String>::new());
    }
}

#[test]
fn a_random_value_makes_the_route_select_the_version_and_is_constant_for_a_key() {
    for weights in [[90, 10], [4, 3], [1, 1]] {
        let mut world = world_of(&steered(&json!({"randomValueHeader": "x-random"}), &weights), 2);
        for user in 0..40 {
            let request = by(&format!("user-{user}"));
            let before = assigned(&world);
            let [number] = sent(&mut world, &request, "x-random").try_into().unwrap();
            let after = assigned(&world);
            let got = format!("v{}", picked(&number, &weights));
            assert_eq!(
                after[&(got.clone(), "sticky")],
                before.get(&(got, "sticky")).unwrap_or(&0) + 1,
                "{weights:?}, user-{user}"
            );
            let again = world.send(1, &request);
            assert_eq!(world.sent_headers(again, "x-random"), [number]);
            // A tester's number selects v2, whatever the weights.
            let [number] = sent(&mut world, &tester(), "x-random").try_into().unwrap();
            assert_eq!(picked(&number, &weights), 2, "{weights:?}");
        }
    }
}

#[test]
fn random_values_without_a_key_split_each_round_exactly_with_and_without_versions() {
    for weights in [[90, 10], [9, 1], [4, 3]] {
        for versions in [true, false] {
            let mut document = shop(&weights);
            document["releases"][0]["steer"] = json!({"randomValueHeader": "x-random"});
            if !versions {
                document["releases"][0].as_object_mut().unwrap().remove("versions");
            }
            let mut world = world_of(&document, 1);
            let total = usize::try_from(weights[0] + weights[1]).unwrap();
            for round in 0..3 {
                let on_v2 = (0..total).filter(|_| {
                    let [number] = sent(&mut world, &Request::get("/"), "x-random").try_into().unwrap();
                    picked(&number, &weights) == 2
                });
                let on_v2 = on_v2.count();
                assert_eq!(on_v2, usize::try_from(weights[1]).unwrap(), "{weights:?}, {versions}, {round}");
            }
        }
    }
}

#[test]
fn a_raised_route_weight_moves_no_user_back_by_a_random_value() {
    let mut document = shop(&[1, 1]);
    document["releases"][0]["steer"] = json!({"randomValueHeader": "x-random"});
    document["releases"][0].as_object_mut().unwrap().remove("versions");
    let mut world = world_of(&document, 1);
    let mut moved = 0;
    for user in 0..500 {
        let [number] = sent(&mut world, &by(&format!("user-{user}")), "x-random").try_into().unwrap();
        let (before, after) = (picked(&number, &[90, 10]), picked(&number, &[70, 30]));
        assert!(before == 1 || after == 2);
        moved += usize::from(before != after);
    }
    assert!((50..150).contains(&moved), "{moved}");
}

/// For each mechanism with a header: the `steer`, the header value that would select v2, and the weights.
fn headers() -> [(Value, &'static str, &'static str, [u32; 2]); 3] {
    [
        (json!({"header": "x-version"}), "x-version", "v2", [1, 0]),
        (json!({"clusterHeader": "x-cluster"}), "x-cluster", "app-v2", [1, 0]),
        (json!({"randomValueHeader": "x-random"}), "x-random", "99", [9_999, 1]),
    ]
}

#[test]
fn a_clients_steer_header_is_overwritten_even_if_it_is_repeated() {
    for (steer, header, to_v2, weights) in headers() {
        let mut world = world_of(&steered(&steer, &weights), 1);
        let honest = sent(&mut world, &by("alice"), header);
        assert_eq!(honest.len(), 1);
        for spoofed in [to_v2, "v1", "", "nonsense", "-1", "v2,v2"] {
            let once = by("alice").with(header, spoofed);
            let twice = once.clone().with(header, to_v2);
            assert_eq!(sent(&mut world, &once, header), honest, "{header}: {spoofed}");
            assert_eq!(sent(&mut world, &twice, header), honest, "{header}: {spoofed}");
        }
    }
}

#[test]
fn a_clients_steer_header_is_removed_if_no_release_matches_the_request() {
    for (steer, header, to_v2, weights) in headers() {
        for (condition, prefix) in [("match", "/api"), ("skip", "/other")] {
            let mut document = steered(&steer, &weights);
            document["releases"][0][condition] = json!([{"uri": {"prefix": prefix}}]);
            let mut world = world_of(&document, 1);
            let mut request = tester().with(header, to_v2).with(header, to_v2);
            request.headers[1].1 = "/other".to_owned();
            assert_eq!(sent(&mut world, &request, header), Vec::<String>::new(), "{header}, {condition}");
        }
    }
}

#[test]
fn a_match_does_not_see_a_clients_steer_header() {
    let mut document = shop(&[1, 0]);
    document["releases"][0]["versions"][1]["match"] = json!([{"headers": {"x-version": {"exact": "v2"}}}]);
    let mut world = world_of(&document, 1);
    assert_eq!(version(&mut world, 0, &by("alice").with("x-version", "v2")), "v1");
}

#[test]
fn a_trusted_version_that_the_release_does_not_have_is_passed_to_the_next_hop() {
    let mut document = shop(&[0, 1]);
    document["releases"][0]["trustIncoming"] = json!(true);
    let mut world = world_of(&document, 1);
    for unknown in ["v9", "V2", "v2,v2"] {
        let request = by("alice").with("x-version", unknown);
        assert_eq!(sent(&mut world, &request, "x-version"), [unknown]);
    }
    assert_eq!(world.metric("assignments_total", &["version=v1", "reason=no-such-version"]), 3);
    assert_eq!(sent(&mut world, &by("alice").with("x-version", ""), "x-version"), ["v2"]);
    assert_eq!(world.metric("assignments_total", &["version=v2", "reason=sticky"]), 1);
}

#[test]
fn a_trusted_cluster_of_no_version_is_not_passed_on() {
    let mut document = shop(&[1, 0]);
    document["releases"][0]["trustIncoming"] = json!(true);
    document["releases"][0]["steer"] = json!({"clusterHeader": "x-cluster"});
    let mut world = world_of(&document, 1);
    for (came, went, reason) in [
        ("app-v2", "app-v2", "incoming"),
        ("ratings", "app-v1", "no-such-version"),
        ("up-2", "app-v1", "no-such-version"),
        ("", "app-v1", "sticky"),
    ] {
        let before = world.metric("assignments_total", &[&format!("reason={reason}")]);
        assert_eq!(sent(&mut world, &by("alice").with("x-cluster", came), "x-cluster"), [went]);
        assert_eq!(world.metric("assignments_total", &[&format!("reason={reason}")]), before + 1, "{came}");
    }
}

#[test]
fn a_hop_that_falls_back_writes_the_fallback_version() {
    let mut document = shop(&[1, 1]);
    document["releases"][0]["trustIncoming"] = json!(true);
    document["upstreams"]["up-2"]["readinessProbe"] = probe();
    let mut world = world_of(&document, 1);
    let request = by("alice").with("x-version", "v2");
    assert_eq!(sent(&mut world, &request, "x-version"), ["v2"]);
    world.set_checks("app-v2", Manner::Status(500));
    world.pass(3 * SECOND);
    assert_eq!(sent(&mut world, &request, "x-version"), ["v1"]);
}

#[test]
fn a_version_edits_only_the_headers_of_its_own_requests() {
    let mut document = steered(&json!({"header": "x-version"}), &[1, 0]);
    let edits = json!({"set": {"X-A": "b"}, "add": {"x-c": "d"}, "remove": ["X-E", "x-absent"]});
    document["releases"][0]["versions"][1]["headers"] = json!({"request": edits});
    let mut world = world_of(&document, 1);
    let full = |request: Request| {
        let pairs = [("x-a", "1"), ("x-a", "2"), ("x-c", "own"), ("x-e", "1"), ("x-e", "2"), ("x-g", "kept")];
        pairs.into_iter().fold(request, |request, (name, value)| request.with(name, value))
    };
    for (request, expected) in [
        (full(tester()), [vec!["b"], vec!["own", "d"], vec![], vec!["kept"]]),
        (tester(), [vec!["b"], vec!["d"], vec![], vec![]]),
        (full(by("alice")), [vec!["1", "2"], vec!["own"], vec!["1", "2"], vec!["kept"]]),
    ] {
        let got = ["x-a", "x-c", "x-e", "x-g"].map(|name| sent(&mut world, &request, name));
        assert_eq!(got, expected.map(|values| values.into_iter().map(str::to_owned).collect::<Vec<_>>()));
    }
}

#[test]
fn a_version_edits_only_the_headers_of_its_own_responses_also_after_a_fallback() {
    let mut document = steered(&json!({"header": "x-version"}), &[1, 0]);
    document["upstreams"]["up-2"]["readinessProbe"] = probe();
    let edits = json!({"set": {"x-f": "g"}, "add": {"x-h": "i"}, "remove": ["x-internal", "x-absent"]});
    document["releases"][0]["versions"][1]["headers"] = json!({"response": edits});
    document["releases"][0]["versions"][0]["headers"] = json!({"request": {"set": {"x-for": "v1"}}});
    let mut world = world_of(&document, 1);
    let own = ["x-f", "x-f", "x-h", "x-internal"].map(|name| (name, "own".to_owned())).to_vec();
    let got = |world: &mut World, request: &Request| {
        let answer = world.ask(0, request);
        ["x-f", "x-h", "x-internal"].map(|name| {
            let found = answer.headers.iter().filter(|(known, _)| known == name);
            found.map(|(_, value)| value.clone()).collect::<Vec<_>>().join(" ")
        })
    };
    assert_eq!(got(&mut world, &tester()), ["g", "i", ""]);
    for cluster in ["app-v1", "app-v2"] {
        world.set(cluster, Manner::With(200, own.clone()));
    }
    assert_eq!(got(&mut world, &tester()), ["g", "own i", ""]);
    assert_eq!(got(&mut world, &by("alice")), ["own own", "own", "own"]);
    world.set_checks("app-v2", Manner::Status(500));
    world.pass(3 * SECOND);
    assert_eq!(got(&mut world, &tester()), ["own own", "own", "own"]);
    assert_eq!(sent(&mut world, &tester(), "x-for"), ["v1"]);
}
