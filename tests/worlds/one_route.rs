//! Clients and counters see the same, whether or not the worker still handles a request that is forwarded.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

use super::MS;
use super::life::cases;
use super::sim::{Answer, Manner, Request, World};

/// Returns policies that leave nothing, or more and more, to do for a forwarded request.
fn variants(mode: &str) -> Vec<Value> {
    let shares = json!({"consecutiveFailures": 100_000, "failurePercent": 100, "minimumRequests": 1_000_000});
    let waits = json!({
        "consecutiveFailures": 100_000, "slowPercent": 100, "slowerThan": "30m", "minimumRequests": 1_000_000,
        "unansweredAfter": "1h", "failOn": ["5xx", "unavailable"],
    });
    let rollback = json!({"failurePercent": 99, "minimumRequests": 10_000});
    vec![
        policy(mode, None, None),
        policy(mode, Some(json!({"consecutiveFailures": 100_000})), None),
        policy(mode, Some(shares), None),
        policy(mode, Some(waits.clone()), None),
        policy(mode, Some(waits), Some(rollback)),
    ]
}

fn policy(mode: &str, breaker: Option<Value>, rollback: Option<Value>) -> Value {
    let mut upstreams = json!({});
    for cluster in ["v1", "v2", "app"] {
        upstreams[cluster] = json!({"cluster": cluster});
        if let Some(breaker) = &breaker {
            upstreams[cluster]["circuitBreaker"] = breaker.clone();
        }
    }
    upstreams["down"] = json!({"cluster": "down", "force": "notReady"});
    let mut release = json!({
        "name": "shop", "skip": [{"uri": {"prefix": "/static"}}], "steer": {"header": "x-version"},
        "responseHeader": "x-served-version",
        "hashOn": [{"httpHeaderName": "x-user"}, {"httpCookie": {"name": "gray-id", "ttl": "24h"}}],
        "versions": [
            {"name": "v1", "upstream": "v1", "weight": 60, "default": true,
                "headers": {"request": {"remove": ["x-debug"]}}},
            {"name": "v2", "upstream": "v2", "weight": 40, "match": [{"headers": {"x-tester": {"exact": "yes"}}}],
                "headers": {"request": {"set": {"x-canary": "yes"}}, "response": {"add": {"x-canary": "yes"}}}},
        ],
    });
    if let Some(rollback) = rollback {
        release["rollback"] = rollback;
    }
    json!({
        "name": "shop", "mode": mode, "upstreams": upstreams, "releases": [release],
        "probes": {"liveness": {"path": "/livez"}, "readiness": {"path": "/readyz", "checks": [{"upstream": "down"}]}},
        "gates": [
            {"match": [{"uri": {"prefix": "/down"}}], "upstream": "down"},
            {"match": [{"uri": {"prefix": "/offers"}}], "upstream": "down",
                "fallback": {"answer": {"status": 200, "body": "[]"}}},
            {"match": [{"uri": {"prefix": "/search"}}], "upstream": "down",
                "fallback": {"upstream": "app", "clusterHeader": "x-cluster"}},
            {"upstream": "app"},
        ],
    })
}

/// How a forwarded request ends.
#[derive(Clone, Copy, Debug)]
enum End {
    Manner(&'static Manner),
    Body(u16),
    Leaves,
    LeavesLater,
}

const MANNERS: [Manner; 6] = [
    Manner::Status(200),
    Manner::Status(404),
    Manner::Status(500),
    Manner::Refuses,
    Manner::Grpc(14),
    Manner::BreaksOff,
];

fn end() -> impl Strategy<Value = End> {
    prop_oneof![
        6 => select(&MANNERS[..]).prop_map(|manner| {
            End::Manner(MANNERS.iter().find(|known| **known == manner).unwrap())
        }),
        2 => select(&[200, 503][..]).prop_map(End::Body),
        1 => Just(End::Leaves),
        1 => Just(End::LeavesLater),
    ]
}

fn request() -> impl Strategy<Value = Request> {
    let path = select(&["/", "/static/a", "/down", "/offers", "/search", "/livez", "/readyz?verbose"][..]);
    let header = select(
        &[
            ("x-user", "alice"),
            ("x-user", "bob"),
            ("cookie", "gray-id=1.2"),
            ("cookie", "user=carol"),
            ("x-version", "v2"),
            ("x-cluster", "app"),
            ("x-debug", "1"),
            ("x-tester", "yes"),
            ("content-type", "application/grpc"),
        ][..],
    );
    let method = select(&["GET", "POST", "HEAD"][..]);
    (method, path, vec(header, 0..4), any::<bool>()).prop_map(|(method, path, headers, whole)| {
        let of = Request::of(method, path);
        let request = headers.iter().fold(of, |request, (name, value)| request.with(name, value));
        if whole { request } else { request.unfinished() }
    })
}

/// All that is visible of a request: its forwarded headers, its label and its response.
type Seen = (Vec<(String, String)>, String, Answer);

fn play(world: &mut World, request: &Request, end: End) -> Seen {
    let id = world.send(0, request);
    if world.is_open(id) {
        if !request.whole {
            world.finish_request(id);
        }
        match end {
            End::Manner(manner) => world.respond_as(id, manner),
            End::Body(status) => {
                world.respond(id, status, "via_upstream", &[("x-canary", "no")], false);
                world.body(id, "some", false);
                world.body(id, "more", true);
            }
            End::Leaves => world.leave(id),
            End::LeavesLater => {
                world.respond(id, 200, "via_upstream", &[], false);
                world.pass(10 * MS);
                world.leave(id);
            }
        }
    }
    (world.forwarded_headers(id), world.label(id), world.answer(id))
}

/// Returns the counters of requests.
fn counted(world: &World) -> BTreeMap<String, u64> {
    let of_requests =
        ["assignments", "gated_requests", "fallback_requests", "failed_open_requests", "probe_answers"];
    let mut counts = BTreeMap::new();
    for counter in of_requests {
        let prefix = format!("graygate_{counter}_total.");
        for name in world.metric_names().iter().filter(|name| name.starts_with(&prefix)) {
            let labels: Vec<String> = name[prefix.len()..]
                .split(";.;")
                .filter(|label| !label.is_empty())
                .map(|label| label.trim_start_matches('.').replacen("=.=", "=", 1))
                .collect();
            let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
            // A policy defines some counters at 0 on its first tick, which may not have passed yet.
            let count = world.metric(&format!("{counter}_total"), &labels);
            counts.extend((count > 0).then(|| (name.clone(), count)));
        }
    }
    counts
}

proptest! {
    #![proptest_config(cases(6))]

    #[test]
    fn clients_and_counters_see_the_same_whatever_is_left_to_do_for_a_request(
        mode in select(&["enforce", "shadow"][..]),
        keyed in any::<bool>(),
        requests in vec((request(), end(), 0..400u32), 1..40),
    ) {
        let mut seen: Option<(Vec<Seen>, BTreeMap<String, u64>)> = None;
        // With a `rollback`, requests without a key are distributed again after the first tick. The order differs, but
        // each version gets as many.
        let requests: Vec<_> = requests
            .into_iter()
            .map(|(request, end, pause)| (if keyed { request.with("x-user", "dave") } else { request }, end, pause))
            .collect();
        for policy in variants(mode).into_iter().take(if keyed { 5 } else { 4 }) {
            let mut world = World::new(&policy, 1);
            prop_assert_eq!(world.logged("refused"), Vec::<String>::new());
            world.routes = ["v1", "v2"].map(|name| (name.to_owned(), name.to_owned())).into();
            let mut play = |(request, end, pause): &(Request, End, u32)| {
                let seen = play(&mut world, request, *end);
                world.pass(*pause * MS);
                seen
            };
            let played: Vec<Seen> = requests.iter().map(&mut play).collect();
            prop_assert!(world.logged(" -> ").is_empty());
            let counts = counted(&world);
            match &seen {
                None => seen = Some((played, counts)),
                Some((first, counted)) => {
                    prop_assert_eq!(&played, first);
                    prop_assert_eq!(&counts, counted);
                }
            }
        }
    }
}
