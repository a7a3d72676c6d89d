//! Headers of requests and responses, for the real worker and a policy with all that reads them.
//!
//! The first byte picks the policy. Each further line is a request, or after `<` a response to the last one. The whole input is
//! also read as a header map in the form of the proxy.

use core::time::Duration;

use graygate::policy::Policy;
use graygate::value::request::{HeaderMap, serialize};
use serde_json::{Value, json};

use super::FULL;
use super::message::{self, Header};
use super::policy::{Known, check_decision};
use super::worlds::sim::{Manner, World};

/// The most lines of an input.
const MOST: usize = 16;

thread_local! {
    static POLICIES: Vec<(Value, Policy)> = policies();
}

/// Policies whose keys together read all headers that any key reads.
fn policies() -> Vec<(Value, Policy)> {
    let full: Value = serde_json::from_str(FULL).unwrap();
    let mut open = full.clone();
    for key in ["hosts", "rollout"] {
        open.as_object_mut().unwrap().remove(key);
    }
    let release = &mut open["releases"][0];
    release["match"] = json!([]);
    release["trustIncoming"] = true.into();
    open["gates"][0]["match"] = json!([]);
    let mut lanes = open.clone();
    lanes["releases"][0]["steer"] = json!({"baggage": "lane"});
    let breaker = &mut lanes["upstreams"]["app"]["circuitBreaker"];
    breaker["failOn"] =
        json!(["gateway-error", "retried", "resource-exhausted", {"header": "x-error", "regex": ".+"}]);
    lanes["upstreams"]["app"].as_object_mut().unwrap().remove("readinessProbe");
    let policies = [full, open, lanes].into_iter();
    policies
        .map(|document| (document.clone(), Policy::from_json(document.to_string().as_bytes()).unwrap()))
        .collect()
}

pub fn run(input: &[u8]) {
    check_map(input);
    let Some((first, rest)) = input.split_first() else { return };
    POLICIES.with(|policies| {
        let (document, policy) = &policies[usize::from(*first) % policies.len()];
        serve(document, policy, rest);
    });
}

/// Decides on each request, and serves it with the real worker.
fn serve(document: &Value, policy: &Policy, lines: &[u8]) {
    let mut world = World::new(document, 1);
    world.route = "app".to_owned();
    world.set("app", Manner::Status(200));
    let mut last = None;
    for line in lines.split(|byte| *byte == b'\n').take(MOST) {
        if let Some(response) = line.strip_prefix(b"<") {
            if let Some(id) = last.take() {
                respond(&mut world, id, message::headers(response));
            }
            continue;
        }
        let request = message::headers(line);
        for known in [Known::All, Known::Nothing, Known::First] {
            check_decision(policy, &request, known);
        }
        last = Some(world.send_bytes(0, request, line.len().is_multiple_of(2)));
        world.pass(Duration::from_millis(100));
    }
    world.pass(Duration::from_secs(1));
}

/// Gives a request the response of an upstream with these headers, in two parts, and the same headers as trailers.
fn respond(world: &mut World, id: u32, headers: Vec<Header>) {
    if !world.is_open(id) || world.is_paused(id) {
        return;
    }
    let status = headers.iter().find(|(name, _)| name == ":status");
    let status = status.and_then(|(_, value)| core::str::from_utf8(value).ok()?.parse().ok()).unwrap_or(200);
    let trailers: Vec<(String, String)> = headers
        .iter()
        .map(|(name, value)| (name.clone(), String::from_utf8_lossy(value).into_owned()))
        .collect();
    let trailers: Vec<(&str, &str)> =
        trailers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let headers = headers.into_iter().filter(|(name, _)| name != ":status").collect();
    world.respond_bytes(id, status, "via_upstream", headers, false);
    world.pass(Duration::from_millis(100));
    world.body(id, "body", false);
    world.trailers(id, &trailers);
    for (name, value) in world.answer(id).headers {
        message::check_value(&name, value.as_bytes());
    }
}

/// Checks that all ways to read a header map agree, even if the map is malformed.
fn check_map(bytes: &[u8]) {
    let map = HeaderMap(bytes);
    // A malformed map may claim far more headers than it has bytes.
    let pairs: Vec<(&[u8], &[u8])> = map.iter().collect();
    assert!(pairs.len() <= bytes.len() / 8);
    for (name, value) in &pairs {
        let Ok(name) = core::str::from_utf8(name) else { continue };
        let first = pairs.iter().find(|(known, _)| *known == name.as_bytes()).map(|(_, value)| *value);
        assert!(map.get(name).is_none_or(|value| Some(value) == first));
        assert!(map.joined(name).is_some_and(|joined| joined.len() >= value.len()));
    }
    let whole = serialize(pairs.iter().copied());
    let whole = HeaderMap(&whole);
    for (name, _) in &pairs {
        if let Ok(text) = core::str::from_utf8(name) {
            let first = pairs.iter().find(|(known, _)| known == name).map(|(_, value)| *value);
            assert_eq!(whole.get(text), first);
        }
    }
    assert!(whole.iter().eq(pairs));
}
