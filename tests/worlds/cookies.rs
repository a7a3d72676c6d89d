//! The cookie for users without a key: when it is set, kept and removed.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::SECOND;
use super::releases::{BEGIN, at, by, later, made, probe, shop, version, with_cookie, world_of};
use super::sim::{Answer, Manner, Request, World};

const TAKEN_BACK: &str = "id=; Max-Age=0; Path=/; HttpOnly; SameSite=Lax";

/// Returns a policy whose users have a key in a header or else get a cookie.
fn issuing(weights: &[u32]) -> Value {
    let mut document = shop(weights);
    document["releases"][0]["hashOn"] =
        json!([{"httpHeaderName": "x-user"}, {"httpCookie": {"name": "id", "ttl": "24h"}}]);
    document
}

fn set_cookies(answer: &Answer) -> Vec<&str> {
    let found = answer.headers.iter().filter(|(name, _)| name == "set-cookie");
    found.map(|(_, value)| value.as_str()).collect()
}

/// Returns the key in the only cookie that the response sets.
fn given(answer: &Answer) -> String {
    let [cookie] = set_cookies(answer).try_into().unwrap();
    let (key, attributes) = cookie.strip_prefix("id=").unwrap().split_once("; ").unwrap();
    assert_eq!(attributes, "Max-Age=86400; Path=/; HttpOnly; SameSite=Lax");
    key.to_owned()
}

/// Returns the keys and versions of new users of a worker.
fn newcomers(world: &mut World, vm: usize, count: usize) -> BTreeMap<String, String> {
    let each = (0..count).map(|_| {
        let answer = world.get(vm);
        (given(&answer), answer.cluster.trim_start_matches("app-").to_owned())
    });
    each.collect()
}

/// Returns the version of each of these keys when its user returns. No response sets a cookie.
fn returning(world: &mut World, vm: usize, keys: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let each = keys.keys().map(|key| {
        let answer = world.ask(vm, &with_cookie(key));
        assert_eq!(set_cookies(&answer), Vec::<&str>::new(), "{key}");
        (key.clone(), answer.cluster.trim_start_matches("app-").to_owned())
    });
    each.collect()
}

fn on(keys: &BTreeMap<String, String>, version: &str) -> usize {
    keys.values().filter(|got| *got == version).count()
}

#[test]
fn new_users_are_split_exactly_and_keep_their_version_on_all_workers_for_days() {
    let mut world = world_of(&issuing(&[90, 10]), 3);
    let mut all = BTreeMap::new();
    for vm in 0..3 {
        let came = newcomers(&mut world, vm, 100);
        assert_eq!((on(&came, "v1"), on(&came, "v2")), (90, 10));
        all.extend(came);
    }
    assert_eq!(all.len(), 300);
    for day in 0..3 {
        later(&mut world, 86_400);
        assert_eq!(returning(&mut world, day, &all), all);
    }
}

#[test]
fn a_version_with_a_small_share_gets_its_own_keys() {
    let mut world = world_of(&issuing(&[499, 1]), 1);
    let came = newcomers(&mut world, 0, 500);
    assert_eq!((on(&came, "v1"), on(&came, "v2")), (499, 1));
    assert_eq!(returning(&mut world, 0, &came), came);
}

#[test]
fn a_key_contains_its_time_of_issue() {
    let mut world = world_of(&issuing(&[1, 1]), 1);
    for second in [10, 86_400] {
        later(&mut world, second);
        let now = world.date() / 1_000;
        let key = given(&world.get(0));
        assert_eq!(u64::from_str_radix(&key[..8], 16).unwrap(), now);
    }
}

#[test]
fn a_cookie_has_the_policys_attributes_when_set_and_when_removed() {
    let cookie = json!({
        "name": "id", "ttl": "90s", "path": "/shop", "domain": "example.com", "secure": true, "httpOnly": true,
        "sameSite": "None", "partitioned": true,
    });
    let scope = "Path=/shop; Domain=example.com; Secure; HttpOnly; SameSite=None; Partitioned";
    let mut document = issuing(&[1, 1]);
    document["releases"][0]["hashOn"] = json!([{"httpCookie": cookie}]);
    let mut world = world_of(&document, 1);
    let answer = world.get(0);
    let [line] = set_cookies(&answer).try_into().unwrap();
    assert!(line.ends_with(&format!("; Max-Age=90; {scope}")), "{line}");
    document["releases"][0]["versions"][1]["weight"] = json!(0);
    world.configure(&document);
    let answer = world.ask(0, &with_cookie(&made(0, 1)));
    assert_eq!(set_cookies(&answer), [format!("id=; Max-Age=0; {scope}")]);
}

#[test]
fn users_with_a_key_get_no_cookie_and_an_empty_key_counts_as_missing() {
    let mut document = issuing(&[1, 1]);
    let keys = document["releases"][0]["hashOn"].as_array_mut().unwrap();
    keys.push(json!({"httpQueryParameterName": "uid"}));
    let mut world = world_of(&document, 1);
    for request in
        [by("alice"), with_cookie("alice"), with_cookie(&made(0, 1)), Request::get("/?a=b&uid=alice")]
    {
        assert_eq!(set_cookies(&world.ask(0, &request)), Vec::<&str>::new(), "{:?}", request.headers);
    }
    for request in [
        by(""),
        with_cookie(""),
        Request::get("/?uid=").with("cookie", "ID=alice; xid=alice"),
        Request::get("/?UID=alice"),
    ] {
        given(&world.ask(0, &request));
    }
}

#[test]
fn a_cookie_without_a_ttl_is_only_read() {
    for weights in [[1, 1], [1, 0]] {
        let mut document = issuing(&weights);
        document["releases"][0]["hashOn"] = json!([{"httpCookie": {"name": "id"}}]);
        let mut world = world_of(&document, 1);
        for request in [Request::get("/"), with_cookie(&made(0, 1))] {
            assert_eq!(set_cookies(&world.ask(0, &request)), Vec::<&str>::new());
        }
        assert_eq!(world.metric("assignments_total", &["reason=sticky"]), 1);
    }
}

#[test]
fn the_filters_own_cookie_is_removed_when_the_release_has_ended() {
    for weights in [[1, 0], [0, 1]] {
        let mut world = world_of(&issuing(&weights), 2);
        let own = with_cookie(&made(-86_400, 7));
        for vm in 0..2 {
            assert_eq!(set_cookies(&world.get(vm)), Vec::<&str>::new());
            assert_eq!(set_cookies(&world.ask(vm, &own)), [TAKEN_BACK]);
            assert_eq!(set_cookies(&world.ask(vm, &own.clone().with("x-user", "alice"))), [TAKEN_BACK]);
        }
        for foreign in ["alice", "", "6745ab00", "6745ab00-0123456789abcde", "6745ab00_0123456789abcdef"] {
            let answer = world.ask(0, &with_cookie(foreign));
            assert_eq!(set_cookies(&answer), Vec::<&str>::new(), "{foreign}");
        }
    }
}

#[test]
fn the_apps_cookies_are_kept_beside_the_filters() {
    let own = [("set-cookie", "session=abc".to_owned()), ("set-cookie", "b=2".to_owned())];
    for (weights, ours) in [([1, 1], 1), ([1, 0], 0)] {
        let mut world = world_of(&issuing(&weights), 1);
        for cluster in ["app-v1", "app-v2"] {
            world.set(cluster, Manner::With(200, own.to_vec()));
        }
        let answer = world.get(0);
        assert_eq!(set_cookies(&answer)[..2], ["session=abc", "b=2"]);
        assert_eq!(set_cookies(&answer).len(), 2 + ours);
        let answer = world.ask(0, &with_cookie(&made(0, 1)));
        assert_eq!(set_cookies(&answer)[..2], ["session=abc", "b=2"]);
        assert_eq!(set_cookies(&answer).len(), 3 - ours);
    }
}

#[test]
fn the_filters_own_replies_neither_set_nor_remove_the_cookie() {
    for weights in [[1, 1], [1, 0]] {
        let mut document = issuing(&weights);
        document["upstreams"]["up-1"]["readinessProbe"] = probe();
        document["gates"] = json!([{"upstream": "up-1"}]);
        document["probes"] = json!({"liveness": {"path": "/livez"}});
        let mut world = world_of(&document, 1);
        world.set_checks("app-v1", Manner::Refuses);
        world.pass(3 * SECOND);
        let answer = world.ask(0, &Request::get("/livez").with("cookie", &format!("id={}", made(0, 1))));
        assert_eq!((answer.status, set_cookies(&answer)), (200, vec![]));
        let mut gated = 0;
        for request in [Request::get("/"), Request::get("/"), with_cookie(&made(0, 1))] {
            let answer = world.ask(0, &request);
            gated += u32::from(answer.is_gated());
            assert!(!answer.is_gated() || set_cookies(&answer).is_empty());
        }
        assert!(gated > 0);
    }
}

#[test]
fn all_workers_set_the_cookie_until_the_last_step_and_remove_it_afterwards() {
    let mut document = issuing(&[100, 0]);
    document["releases"][0]["schedule"] = json!([
        {"at": at(86_400), "weights": {"v1": 50, "v2": 50}},
        {"at": at(2 * 86_400), "over": "4h", "weights": {"v1": 0, "v2": 100}},
    ]);
    let mut world = world_of(&document, 3);
    let came = newcomers(&mut world, 0, 20);
    assert_eq!(on(&came, "v1"), 20);
    later(&mut world, 86_400 + 3_600);
    let half = newcomers(&mut world, 1, 20);
    assert_eq!((on(&half, "v1"), on(&half, "v2")), (10, 10));
    later(&mut world, 86_400 + 3 * 3_600 - 60);
    for vm in 0..3 {
        // A minute before the end.
        let late = returning(&mut world, vm, &came);
        assert!(on(&late, "v2") >= 19);
        newcomers(&mut world, vm, 1);
    }
    world.stall(59_000);
    world.pass(3 * SECOND);
    for vm in 0..3 {
        assert_eq!(set_cookies(&world.get(vm)), Vec::<&str>::new());
        let answer = world.ask(vm, &with_cookie(came.keys().next().unwrap()));
        assert_eq!((answer.cluster.as_str(), set_cookies(&answer)), ("app-v2", vec![TAKEN_BACK]));
    }
}

#[test]
fn a_new_policy_keeps_cookies_until_it_ends_the_release() {
    let mut world = world_of(&issuing(&[90, 10]), 2);
    let mut keys = newcomers(&mut world, 0, 200);
    for raised in [30, 60] {
        world.configure(&issuing(&[100 - raised, raised]));
        let after = returning(&mut world, 1, &keys);
        assert!(keys.iter().all(|(key, had)| had == "v1" || after[key] == "v2"));
        assert!(on(&after, "v2") > on(&keys, "v2"));
        keys = after;
        let came = newcomers(&mut world, 0, 100);
        assert_eq!(on(&came, "v2"), usize::try_from(raised).unwrap());
    }
    world.configure(&issuing(&[0, 100]));
    for key in keys.keys() {
        assert_eq!(set_cookies(&world.ask(1, &with_cookie(key))), [TAKEN_BACK]);
    }
    assert_eq!(set_cookies(&world.get(1)), Vec::<&str>::new());
}

/// Returns two releases that share a cookie: `web`, and `other`, which steers by `x-other`.
fn two(weights: &[u32], others: &[u32]) -> Value {
    let mut document = issuing(weights);
    let mut other = issuing(others)["releases"][0].clone();
    other["name"] = json!("other");
    other["steer"] = json!({"header": "x-other"});
    document["releases"].as_array_mut().unwrap().push(other);
    for (release, header) in document["releases"].as_array_mut().unwrap().iter_mut().zip(["x-a", "x-b"]) {
        release["responseHeader"] = json!(header);
    }
    document
}

#[test]
fn two_releases_with_the_same_cookie_set_it_once_and_both_use_it() {
    let mut world = world_of(&two(&[1, 1], &[1, 1]), 1);
    let mut pairs = BTreeSet::new();
    for _ in 0..40 {
        let first = world.get(0);
        let again = world.ask(0, &with_cookie(&given(&first)));
        for header in ["x-a", "x-b"] {
            assert_eq!(first.header(header), again.header(header));
        }
        pairs.insert(["x-a", "x-b"].map(|header| first.header(header).unwrap().to_owned()));
        assert_eq!(set_cookies(&again), Vec::<&str>::new());
    }
    assert_eq!(pairs.len(), 4);
}

#[test]
fn the_cookie_is_kept_while_another_release_needs_it() {
    let own = with_cookie(&made(0, 1));
    for (weights, others) in [([1, 0], [1, 1]), ([1, 1], [1, 0])] {
        let mut world = world_of(&two(&weights, &others), 1);
        given(&world.get(0));
        assert_eq!(set_cookies(&world.ask(0, &own)), Vec::<&str>::new());
    }
    // A release that only reads the cookie keeps it, too.
    let mut document = two(&[1, 0], &[1, 1]);
    document["releases"][1]["hashOn"] = json!([{"httpCookie": {"name": "id"}}]);
    let mut world = world_of(&document, 1);
    assert_eq!(set_cookies(&world.ask(0, &own)), Vec::<&str>::new());
    // It is removed once, when both have ended.
    let mut world = world_of(&two(&[1, 0], &[1, 0]), 1);
    assert_eq!(set_cookies(&world.get(0)), Vec::<&str>::new());
    assert_eq!(set_cookies(&world.ask(0, &own)), [TAKEN_BACK]);
}

#[test]
fn two_releases_with_different_cookies_are_independent() {
    let mut document = two(&[1, 1], &[1, 1]);
    document["releases"][1]["hashOn"] = json!([{"httpCookie": {"name": "other-id", "ttl": "24h"}}]);
    let mut world = world_of(&document, 1);
    let mut pairs: BTreeMap<[String; 2], u32> = BTreeMap::new();
    for _ in 0..200 {
        let first = world.get(0);
        *pairs.entry(["x-a", "x-b"].map(|header| first.header(header).unwrap().to_owned())).or_default() += 1;
        let cookies = set_cookies(&first).into_iter().map(|line| line.split_once(';').unwrap().0);
        let cookies: Vec<&str> = cookies.collect();
        assert!(cookies[0].starts_with("id=") && cookies[1].starts_with("other-id="), "{cookies:?}");
        let again = world.ask(0, &Request::get("/").with("cookie", &cookies.join("; ")));
        for header in ["x-a", "x-b"] {
            assert_eq!(first.header(header), again.header(header));
        }
    }
    assert!(pairs.len() == 4 && pairs.values().all(|count| (20..=80).contains(count)), "{pairs:?}");
    document["releases"][0]["versions"][1]["weight"] = json!(0);
    world.configure(&document);
    let answer = world.ask(0, &with_cookie(&made(0, 1)));
    let lines = set_cookies(&answer);
    assert!(
        lines.contains(&TAKEN_BACK) && lines.iter().any(|line| line.starts_with("other-id=")),
        "{lines:?}"
    );
}

#[test]
fn existing_users_keep_the_default_version_until_the_release_has_ended() {
    let mut document = issuing(&[1, 99]);
    document["releases"][0]["startsAt"] = json!(at(3_600));
    document["releases"][0]["versions"][1]["allow"] = json!(["bob"]);
    document["releases"][0]["schedule"] = json!([{"at": at(5 * 86_400), "weights": {"v1": 0, "v2": 100}}]);
    let mut world = world_of(&document, 2);
    // Before the start all users have the default version, except by an override.
    let old = newcomers(&mut world, 0, 50);
    assert_eq!(on(&old, "v1"), 50);
    assert_eq!(version(&mut world, 1, &by("alice")), "v1");
    assert_eq!(version(&mut world, 1, &by("bob")), "v2");
    later(&mut world, 3_600);
    for vm in 0..2 {
        assert_eq!(returning(&mut world, vm, &old), old);
        let new = newcomers(&mut world, vm, 100);
        assert_eq!((on(&new, "v1"), on(&new, "v2")), (1, 99));
        assert_eq!(returning(&mut world, 1 - vm, &new), new);
    }
    assert_eq!(world.metric("assignments_total", &["reason=existing-session", "version=v1"]), 100);
    // Keys in another format are not sessions, whatever their age.
    assert_eq!(version(&mut world, 0, &by("alice")), "v2");
    assert_eq!(version(&mut world, 0, &with_cookie("carol")), "v2");
    later(&mut world, 4 * 86_400);
    assert_eq!(returning(&mut world, 0, &old), old);
    later(&mut world, 86_400);
    for key in old.keys() {
        let answer = world.ask(0, &with_cookie(key));
        assert_eq!((answer.cluster.as_str(), set_cookies(&answer)), ("app-v2", vec![TAKEN_BACK]));
    }
}

#[test]
fn users_who_come_between_the_start_and_the_next_tick_count_as_existing_users() {
    let mut document = issuing(&[1, 99]);
    document["releases"][0]["startsAt"] = json!(at(60));
    let mut world = world_of(&document, 1);
    world.set_offset(0, 100);
    world.pass(60 * SECOND - super::MS);
    world.pass(50 * super::MS);
    assert_eq!(world.date() / 1_000, u64::try_from(BEGIN + 60).unwrap());
    let came = newcomers(&mut world, 0, 1);
    assert_eq!(on(&came, "v1"), 1);
    world.pass(3_600 * SECOND / 60);
    assert_eq!(returning(&mut world, 0, &came), came);
    assert_eq!(world.metric("assignments_total", &["reason=existing-session"]), 1);
}

#[test]
fn a_new_user_who_fell_back_gets_the_assigned_version_once_it_is_ready() {
    let mut document = issuing(&[1, 9]);
    document["upstreams"]["up-2"]["readinessProbe"] = probe();
    let mut world = world_of(&document, 1);
    world.set_checks("app-v2", Manner::Status(500));
    world.pass(3 * SECOND);
    let came = newcomers(&mut world, 0, 100);
    assert_eq!(on(&came, "v1"), 100);
    world.set_checks("app-v2", Manner::Status(200));
    world.pass(3 * SECOND);
    assert_eq!(on(&returning(&mut world, 0, &came), "v2"), 90);
}

#[test]
fn a_rollback_does_not_end_the_release() {
    let mut document = issuing(&[1, 1]);
    document["releases"][0]["rollback"] = json!({"failurePercent": 5});
    let mut world = world_of(&document, 1);
    let came = newcomers(&mut world, 0, 20);
    world.set("app-v2", Manner::Status(500));
    for _ in 0..120 {
        world.get(0);
    }
    world.pass(SECOND);
    assert_eq!(world.metric("rollbacks_total", &[]), 1);
    assert_eq!(on(&returning(&mut world, 0, &came), "v1"), 20);
    assert_eq!(on(&newcomers(&mut world, 0, 20), "v1"), 20);
}

/// Has the proxy follow a redirect of this request to another path: the request comes again as it was forwarded.
fn follow_redirect(world: &mut World, id: u32) -> u32 {
    let mut again = Request::get("/there").with("x-envoy-original-url", "http://shop/");
    for (name, value) in world.forwarded_headers(id) {
        if !name.starts_with(':') {
            again = again.with(&name, &value);
        }
    }
    world.end(id, "internal_redirect");
    world.send(0, &again)
}

#[test]
fn a_new_user_keeps_the_version_when_the_proxy_follows_a_redirect_and_is_counted_once() {
    let mut world = world_of(&issuing(&[50, 50]), 1);
    for _ in 0..20 {
        let first = world.send(0, &Request::get("/"));
        let version = world.answer(first).cluster;
        let second = follow_redirect(&mut world, first);
        assert_eq!(world.answer(second).cluster, version);
        world.respond(second, 200, "via_upstream", &[], true);
        let answer = world.answer(second);
        let user = world.ask(0, &with_cookie(&given(&answer)));
        assert_eq!(user.cluster, version);
    }
    assert_eq!(world.metric("assignments_total", &["reason=rotation"]), 20);
    // The requests of the returning users.
    assert_eq!(world.metric("assignments_total", &["reason=sticky"]), 20);
}

#[test]
fn the_app_gets_a_new_users_key_beside_the_other_cookies() {
    let mut world = world_of(&issuing(&[90, 10]), 1);
    let id = world.send(0, &Request::get("/").with("cookie", "theme=dark"));
    world.respond(id, 200, "via_upstream", &[], true);
    let key = given(&world.answer(id));
    assert_eq!(world.sent_header(id, "cookie"), Some(format!("theme=dark; id={key}")));
}
