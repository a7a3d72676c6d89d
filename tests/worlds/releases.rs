//! Which version a request gets, and why: the rows of the table in `docs/concepts.md`, in their order.

use std::collections::{BTreeMap, BTreeSet};

use graygate::decision::release::AssignmentReason;
use graygate::policy::release::steer::Steer;
use graygate::value::date::Date;
use serde_json::{Value, json};

use super::sim::{Manner, Request, World};
use super::{MS, SECOND};

/// When a world starts, in seconds since the epoch.
pub const BEGIN: i64 = 1_800_000_000;

/// Returns the time that many seconds after the start of a world, in the policy's format.
pub fn at(second: i64) -> String {
    Date::from_millis(u64::try_from(BEGIN + second).unwrap() * 1_000).to_string()
}

/// Returns the policy `shop` with the release `web` of the versions v1, v2 and so on, with these weights. The default
/// is v1, with the cluster `app-v1`. The key is the header `x-user`.
pub fn shop(weights: &[u32]) -> Value {
    let numbers = 1..=weights.len();
    let upstreams: serde_json::Map<_, _> = numbers
        .clone()
        .map(|number| (format!("up-{number}"), json!({"cluster": format!("app-v{number}")})))
        .collect();
    let version = |(number, weight): (usize, &u32)| {
        let (name, upstream) = (format!("v{number}"), format!("up-{number}"));
        json!({"name": name, "upstream": upstream, "weight": weight, "default": number == 1})
    };
    let versions: Vec<Value> = numbers.zip(weights).map(version).collect();
    let release = json!({
        "name": "web",
        "steer": {"header": "x-version"},
        "hashOn": [{"httpHeaderName": "x-user"}],
        "versions": versions,
    });
    json!({"name": "shop", "upstreams": upstreams, "releases": [release]})
}

/// Returns a world of this policy. Its routes evaluate `x-version` and select v1 for unknown values.
pub fn world_of(document: &Value, workers: usize) -> World {
    let mut world = World::new(document, workers);
    for version in ["v1", "v2", "v3"] {
        world.routes.insert(version.to_owned(), format!("app-{version}"));
    }
    world.route = "app-v1".to_owned();
    world
}

/// Returns a request of this user.
pub fn by(user: &str) -> Request {
    Request::get("/").with("x-user", user)
}

/// Returns a request that has this cookie among others.
pub fn with_cookie(value: &str) -> Request {
    Request::get("/").with("cookie", &format!("theme=dark; id={value}; x=1"))
}

/// Returns a key in the filter's own format, issued that many seconds after the start of the world.
pub fn made(second: i64, number: u64) -> String {
    format!("{:08x}-{number:016x}", BEGIN + second)
}

/// Returns the version that a request gets from a worker, by its cluster. No time passes.
pub fn version(world: &mut World, vm: usize, request: &Request) -> String {
    let id = world.send(vm, request);
    world.respond_as(id, &Manner::Status(200));
    world.answer(id).cluster.trim_start_matches("app-").to_owned()
}

/// Returns the version of each user at a worker.
pub fn held(world: &mut World, vm: usize, users: usize) -> Vec<String> {
    (0..users).map(|user| version(world, vm, &by(&format!("user-{user}")))).collect()
}

/// Lets time pass with ticks only in the last half second, and then until each worker has ticked.
pub fn later(world: &mut World, seconds: i64) {
    world.stall(u64::try_from(seconds * 1_000 - 500).unwrap());
    world.pass(550 * MS);
}

/// Returns the share of a version by its gauge, in hundredths of a percent.
pub fn share(world: &World, version: &str) -> u64 {
    world.metric("version_share_basis_points", &["policy=shop", "release=web", &format!("version={version}")])
}

/// Returns how many requests got which version for which reason, without zeros.
pub fn assigned(world: &World) -> BTreeMap<(String, &'static str), u64> {
    let mut found = BTreeMap::new();
    for version in ["v1", "v2", "v3"] {
        for reason in AssignmentReason::ALL.map(AssignmentReason::code) {
            let labels = [&format!("version={version}"), &format!("reason={reason}")];
            let count = world.metric("assignments_total", &labels.map(String::as_str));
            found.insert((version.to_owned(), reason), count);
        }
    }
    found.retain(|_, count| *count > 0);
    found
}

/// Returns a check each second with thresholds of one.
pub fn probe() -> Value {
    json!({"httpGet": {"path": "/"}, "periodSeconds": 1, "failureThreshold": 1})
}

/// Returns a policy in which every reason can apply. Nearly all keys belong to v2.
fn with_all_reasons() -> Value {
    let mut document = shop(&[1, 9_999]);
    let release = &mut document["releases"][0];
    release["trustIncoming"] = json!(true);
    release["startsAt"] = json!(at(-3_600));
    release["hashOn"] = json!([{"httpCookie": {"name": "id"}}]);
    release["versions"][0]["allow"] = json!([made(0, 9)]);
    release["versions"][1]["match"] = json!([{"headers": {"x-tester": {}}}]);
    release["versions"][1]["allow"] = json!([made(-7_200, 1)]);
    release["versions"][1]["deny"] = json!([made(-7_200, 3), made(0, 2)]);
    document
}

#[test]
fn each_reason_takes_precedence_over_those_below_it() {
    let mut world = world_of(&with_all_reasons(), 2);
    let (old, new) = (|number| with_cookie(&made(-7_200, number)), |number| with_cookie(&made(0, number)));
    // Each request also has what would select the other version by a later reason.
    let rows = [
        (old(1).with("x-tester", "1").with("x-version", "v1"), "v1", "incoming"),
        (old(1).with("x-tester", "1").with("x-version", "v9"), "v1", "no-such-version"),
        (new(9).with("x-tester", "1"), "v2", "match"),
        (old(3).with("x-tester", "1").with("x-version", ""), "v2", "match"),
        (old(1), "v2", "allowed"),
        (new(9), "v1", "allowed"),
        (old(2), "v1", "existing-session"),
        (old(3), "v1", "existing-session"),
        (new(1), "v2", "sticky"),
        (with_cookie("alice"), "v2", "sticky"),
        (new(2), "v1", "denied"),
    ];
    let mut counted = BTreeMap::new();
    for (row, (request, expected, reason)) in rows.iter().enumerate() {
        assert_eq!(version(&mut world, row % 2, request), *expected, "{reason}, row {row}");
        *counted.entry(((*expected).to_owned(), *reason)).or_insert(0) += 1;
        assert_eq!(assigned(&world), counted, "{reason}, row {row}");
    }
    for request in [Request::get("/"), with_cookie("")] {
        version(&mut world, 0, &request);
    }
    assert_eq!(world.metric("assignments_total", &["reason=rotation"]), 2);
}

#[test]
fn a_version_that_is_not_ready_falls_back_to_the_default_whatever_led_to_it() {
    let mut document = with_all_reasons();
    document["upstreams"]["up-2"]["readinessProbe"] = probe();
    let mut world = world_of(&document, 2);
    let requests = [
        Request::get("/").with("x-version", "v2"),
        with_cookie("alice").with("x-tester", "1"),
        with_cookie(&made(-7_200, 1)),
        with_cookie(&made(0, 1)),
    ];
    let all = |world: &mut World| -> BTreeSet<String> {
        let each = requests.iter().flat_map(|request| [(0, request), (1, request)]);
        each.map(|(vm, request)| version(world, vm, request)).collect()
    };
    assert_eq!(all(&mut world), BTreeSet::from(["v2".to_owned()]));
    world.set_checks("app-v2", Manner::Status(500));
    world.pass(3 * SECOND);
    assert_eq!(all(&mut world), BTreeSet::from(["v1".to_owned()]));
    assert_eq!(world.metric("assignments_total", &["version=v1", "reason=fallback"]), 8);
    assert_eq!(world.metric("assignments_total", &["version=v2", "reason=fallback"]), 0);
    // Users who have the default version anyway keep their reason.
    version(&mut world, 0, &with_cookie(&made(0, 2)));
    assert_eq!(world.metric("assignments_total", &["reason=fallback"]), 8);
    assert_eq!(world.metric("assignments_total", &["reason=denied"]), 1);
    world.set_checks("app-v2", Manner::Status(200));
    world.pass(3 * SECOND);
    assert_eq!(all(&mut world), BTreeSet::from(["v2".to_owned()]));
}

#[test]
fn the_default_version_gets_its_requests_even_if_it_is_not_ready() {
    let mut document = shop(&[1, 1]);
    for upstream in ["up-1", "up-2"] {
        document["upstreams"][upstream]["readinessProbe"] = probe();
    }
    let mut world = world_of(&document, 1);
    let before = held(&mut world, 0, 50);
    world.set_checks("app-v1", Manner::Refuses);
    world.pass(3 * SECOND);
    assert_eq!(held(&mut world, 0, 50), before);
    assert_eq!(world.metric("assignments_total", &["reason=fallback"]), 0);
    world.set_checks("app-v2", Manner::Refuses);
    world.pass(3 * SECOND);
    assert_eq!(held(&mut world, 0, 50), vec!["v1"; 50]);
}

#[test]
fn a_denied_key_gets_the_default_only_if_its_bucket_belongs_to_that_version() {
    let before = held(&mut world_of(&shop(&[0, 1, 1]), 1), 0, 200);
    let mut document = shop(&[0, 1, 1]);
    let denied: Vec<String> = (0..150).map(|user| format!("user-{user}")).collect();
    document["releases"][0]["versions"][1]["deny"] = json!(denied);
    let mut world = world_of(&document, 1);
    for (user, (had, has)) in before.iter().zip(held(&mut world, 0, 200)).enumerate() {
        let expected = if had == "v2" && user < 150 { "v1" } else { had };
        assert_eq!(has, expected, "user-{user}");
    }
    let count = before.iter().take(150).filter(|had| *had == "v2").count();
    assert_eq!(assigned(&world)[&("v1".to_owned(), "denied")], u64::try_from(count).unwrap());
}

#[test]
fn allow_and_deny_compare_the_whole_key_exactly() {
    let mut document = shop(&[1, 0]);
    let release = &mut document["releases"][0];
    release["hashOn"] = json!([{"httpHeaderName": "x-user"}, {"httpCookie": {"name": "id"}}]);
    release["versions"][1]["allow"] = json!(["alice", "Zoë", "a b"]);
    let mut world = world_of(&document, 1);
    for (request, expected) in [
        (by("alice"), "v2"),
        (by("Zoë"), "v2"),
        (by("a b"), "v2"),
        (with_cookie("alice"), "v2"),
        (with_cookie("bob").with("x-user", "alice"), "v2"),
        (with_cookie("alice").with("x-user", "bob"), "v1"),
        (with_cookie("alice").with("x-user", ""), "v2"),
        (by("Alice"), "v1"),
        (by("alice2"), "v1"),
        (by("alic"), "v1"),
        (by("alice,bob"), "v1"),
        (by("a  b"), "v1"),
    ] {
        assert_eq!(version(&mut world, 0, &request), expected, "{:?}", request.headers);
    }
}

#[test]
fn workers_do_not_all_start_with_the_same_version() {
    for (weights, expected) in [(&[1, 1][..], 60..140), (&[90, 10], 5..40)] {
        let mut world = world_of(&shop(weights), 200);
        let first = |world: &mut World, vm| version(world, vm, &Request::get("/"));
        let on_v2 = (0..200).filter(|vm| first(&mut world, *vm) == "v2").count();
        assert!(expected.contains(&on_v2), "{weights:?}: {on_v2}");
    }
}

#[test]
fn without_a_key_each_worker_splits_each_run_as_long_as_a_round_exactly_by_weight() {
    for (weights, round) in [
        (&[90, 10][..], [9, 1, 0]),
        (&[1, 1], [1, 1, 0]),
        (&[3, 2], [3, 2, 0]),
        (&[5, 3, 2], [5, 3, 2]),
        (&[4, 0, 1], [4, 0, 1]),
        (&[1, 1, 1], [1, 1, 1]),
        (&[2, 1], [2, 1, 0]),
        (&[5, 2], [5, 2, 0]),
        (&[6, 1], [6, 1, 0]),
        (&[11, 3], [11, 3, 0]),
    ] {
        let mut world = world_of(&shop(weights), 3);
        let mut got: [Vec<String>; 3] = Default::default();
        // The requests alternate between workers, so that no worker sees a round of all requests.
        for turn in 0..601 {
            let vm = (turn + turn / 4) % 3;
            let dealt = version(&mut world, vm, &Request::get("/"));
            got[vm].push(dealt);
        }
        for dealt in &got {
            assert!(dealt.len() > 150, "{weights:?}");
            for each in dealt.windows(round.iter().sum()) {
                let of = |version: &str| each.iter().filter(|had| *had == version).count();
                assert_eq!(["v1", "v2", "v3"].map(of), round, "{weights:?}: {each:?}");
            }
        }
    }
}

#[test]
fn weights_with_an_odd_total_have_a_long_round_that_is_exact() {
    let mut world = world_of(&shop(&[4, 3]), 1);
    let on_v2 = (0..5_000).filter(|_| version(&mut world, 0, &Request::get("/")) == "v2").count();
    assert_eq!(on_v2, 2_143);
}

#[test]
fn a_user_has_one_version_on_all_workers_and_proxies() {
    let mut world = world_of(&shop(&[70, 20, 10]), 3);
    let first = held(&mut world, 0, 300);
    for vm in 0..3 {
        assert_eq!(held(&mut world, vm, 300), first);
    }
    later(&mut world, 86_400);
    assert_eq!(held(&mut world_of(&shop(&[70, 20, 10]), 1), 0, 300), first);
    assert_eq!(held(&mut world, 0, 300), first);
    assert_eq!(BTreeSet::from_iter(&first).len(), 3);
}

#[test]
fn a_weight_raised_by_a_new_policy_moves_no_user_back() {
    let mut world = world_of(&shop(&[99, 1]), 2);
    let mut before = held(&mut world, 0, 250);
    for raised in [5, 10, 30, 60, 100] {
        assert!(world.configure(&shop(&[100 - raised, raised])));
        world.pass(SECOND);
        let after = held(&mut world, 1, 250);
        assert!(before.iter().zip(&after).all(|(had, has)| had == "v1" || has == "v2"), "{raised}");
        assert!(before != after, "{raised}");
        before = after;
    }
    assert_eq!(before, vec!["v2"; 250]);
}

#[test]
fn a_request_that_does_not_match_or_is_skipped_is_not_part_of_the_release() {
    let mut document = shop(&[0, 1]);
    let release = &mut document["releases"][0];
    release["match"] = json!([{"uri": {"prefix": "/api"}}]);
    release["skip"] = json!([{"uri": {"prefix": "/api/static"}}, {"headers": {"x-bot": {}}}]);
    release["responseHeader"] = json!("x-served");
    release["hashOn"] = json!([{"httpCookie": {"name": "id", "ttl": "24h"}}]);
    release["schedule"] = json!([{"at": at(3_600), "weights": {"v1": 1, "v2": 1}}]);
    let mut world = world_of(&document, 1);
    for request in [Request::get("/"), Request::get("/api/static/a"), Request::get("/api").with("x-bot", "1")]
    {
        let answer = world.ask(0, &request);
        assert_eq!(answer.cluster, "app-v1");
        assert_eq!((answer.header("x-served"), answer.header("set-cookie")), (None, None));
    }
    assert_eq!(assigned(&world), BTreeMap::new());
    let answer = world.ask(0, &Request::get("/api"));
    assert_eq!((answer.cluster.as_str(), answer.header("x-served")), ("app-v2", Some("v2")));
    assert!(answer.header("set-cookie").is_some());
}

#[test]
fn the_first_of_several_releases_with_the_same_steer_header_decides() {
    let mut document = shop(&[1, 0]);
    document["releases"][0]["match"] = json!([{"uri": {"prefix": "/api"}}]);
    let mut other = shop(&[0, 1])["releases"][0].clone();
    other["name"] = json!("rest");
    document["releases"].as_array_mut().unwrap().push(other);
    let mut world = world_of(&document, 1);
    assert_eq!(version(&mut world, 0, &Request::get("/api")), "v1");
    assert_eq!(version(&mut world, 0, &Request::get("/")), "v2");
    assert_eq!(world.metric("assignments_total", &["release=web"]), 1);
    assert_eq!(world.metric("assignments_total", &["release=rest"]), 1);
}

#[test]
fn the_response_names_its_version_if_the_policy_sets_response_header() {
    let mut document = shop(&[1, 0]);
    document["upstreams"]["up-2"]["readinessProbe"] = probe();
    document["releases"][0]["versions"][1]["allow"] = json!(["alice"]);
    let own = Manner::With(200, vec![("x-served", "the app's own word".to_owned())]);
    for marked in [false, true] {
        if marked {
            document["releases"][0]["responseHeader"] = json!("X-Served");
        }
        let mut world = world_of(&document, 1);
        world.set("app-v1", own.clone());
        world.set("app-v2", own.clone());
        let served = |world: &mut World, user: &str| -> Vec<String> {
            let answer = world.ask(0, &by(user));
            let found = answer.headers.into_iter().filter(|(name, _)| name == "x-served");
            found.map(|(_, value)| value).collect()
        };
        if !marked {
            assert_eq!(served(&mut world, "alice"), ["the app's own word"]);
            continue;
        }
        assert_eq!(served(&mut world, "alice"), ["v2"]);
        assert_eq!(served(&mut world, "bob"), ["v1"]);
        world.set_checks("app-v2", Manner::Status(500));
        world.pass(3 * SECOND);
        assert_eq!(served(&mut world, "alice"), ["v1"]);
    }
}

#[test]
fn each_version_has_a_counter_for_each_reason_before_its_first_request() {
    let mut world = world_of(&shop(&[1, 1]), 1);
    world.pass(SECOND);
    let names = world.metric_names();
    for version in ["v1", "v2"] {
        let steer = Steer::Header("x-version".to_owned());
        for reason in AssignmentReason::ALL.into_iter().filter(|reason| reason.occurs(&steer)) {
            let reason = reason.code();
            let name = format!(
                "graygate_assignments_total.policy=.=shop;.;release=.=web;.;version=.={version};.;reason=.={reason};.;"
            );
            assert!(names.contains(&name), "{name}");
        }
    }
    assert_eq!(world.metric("assignments_total", &[]), 0);
}

#[test]
fn a_gauge_shows_each_versions_share_and_follows_each_update() {
    let mut world = world_of(&shop(&[3, 1]), 2);
    world.pass(SECOND);
    assert_eq!((share(&world, "v1"), share(&world, "v2")), (7_500, 2_500));
    world.configure(&shop(&[999, 1]));
    world.pass(SECOND);
    assert_eq!((share(&world, "v1"), share(&world, "v2")), (9_990, 10));
    // A refused policy changes nothing.
    assert!(!world.configure(&json!({"name": "shop", "releases": [{}]})));
    world.pass(SECOND);
    assert_eq!((share(&world, "v1"), share(&world, "v2")), (9_990, 10));
}

#[test]
fn a_match_can_use_every_part_of_a_request() {
    let condition = json!({
        "uri": {"prefix": "/API/"},
        "ignoreUriCase": true,
        "method": {"exact": "PUT"},
        "authority": {"prefix": "sh"},
        "headers": {"x-a": {"regex": "al.*|bob"}, "x-b": {}},
        "withoutHeaders": {"x-c": {"exact": "no"}},
        "queryParams": {"q": {"exact": "1"}},
        "cookies": {"gray": {"exact": "always"}},
        "sourceIpBlocks": ["127.0.0.0/24", "::1"],
    });
    let request = |method: &str, path: &str| Request::of(method, path).with("x-b", "").with("x-c", "yes");
    let always = |request: Request| request.with("cookie", "a=b; gray=always");
    let full = |path: &str| always(request("PUT", path)).with("x-a", "alice");
    let mut document = shop(&[1, 0]);
    document["releases"][0]["versions"][1]["match"] = json!([condition]);
    let mut world = world_of(&document, 1);
    for (request, expected) in [
        (full("/api/x?q=1"), "v2"),
        (always(request("PUT", "/Api/?p&q=1")).with("x-a", "bob"), "v2"),
        (full("/apix?q=1"), "v1"),
        (full("/api/x?q=2"), "v1"),
        (full("/api/x?qq=1"), "v1"),
        (always(request("POST", "/api/x?q=1")).with("x-a", "alice"), "v1"),
        (always(request("PUT", "/api/x?q=1")).with("x-a", "xbob"), "v1"),
        (always(request("PUT", "/api/x?q=1")), "v1"),
        (request("PUT", "/api/x?q=1").with("x-a", "bob").with("cookie", "xgray=always; gray=no"), "v1"),
        (always(Request::of("PUT", "/api/x?q=1")).with("x-a", "bob").with("x-c", "yes"), "v1"),
        (always(Request::of("PUT", "/api/x?q=1")).with("x-a", "bob").with("x-b", "").with("x-c", "no"), "v1"),
    ] {
        assert_eq!(version(&mut world, 0, &request), expected, "{:?}", request.headers);
    }
    let mut elsewhere = condition;
    elsewhere["sourceIpBlocks"] = json!(["10.0.0.0/8"]);
    document["releases"][0]["versions"][1]["match"] = json!([elsewhere]);
    let mut world = world_of(&document, 1);
    assert_eq!(version(&mut world, 0, &full("/api/x?q=1")), "v1");
}

#[test]
fn users_are_divided_by_tenant_and_user_together() {
    let mut document = shop(&[1, 1]);
    let parts = json!([{"httpHeaderName": "x-tenant"}, {"httpHeaderName": "x-user"}]);
    document["releases"][0]["hashOn"] = json!([{"all": parts}, {"httpHeaderName": "x-user"}]);
    let mut world = world_of(&document, 2);
    let mut seen = |vm, tenant: &str| -> Vec<String> {
        let of = |user| by(&format!("user-{user}")).with("x-tenant", tenant);
        (0..100).map(|user| version(&mut world, vm, &of(user))).collect()
    };
    let [acme, other] = [seen(0, "acme"), seen(0, "other")];
    assert_eq!(seen(1, "acme"), acme);
    // The same user of another tenant is another user.
    let differing = acme.iter().zip(&other).filter(|(one, other)| one != other).count();
    assert!((30..70).contains(&differing), "{differing}");
    assert_eq!(held(&mut world, 0, 100).len(), 100);
    assert_eq!(world.metric("assignments_total", &["reason=sticky"]), 400);
}

#[test]
fn a_path_without_its_query_is_a_key() {
    let mut document = shop(&[1, 1]);
    document["releases"][0]["hashOn"] = json!([{"usePath": true}]);
    let mut world = world_of(&document, 1);
    let mut seen = |query: &str| -> Vec<String> {
        let of = |page: usize| Request::get(&format!("/page-{page}{query}"));
        (0..60).map(|page| version(&mut world, 0, &of(page))).collect()
    };
    let plain = seen("");
    assert_eq!(seen("?x=1"), plain);
    assert!(plain.contains(&"v1".to_owned()) && plain.contains(&"v2".to_owned()));
}
