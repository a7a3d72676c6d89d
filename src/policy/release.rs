//! `releases`: the versions of a service and who gets which.

use core::time::Duration;
use std::collections::HashSet;

use super::matcher::Matches;
use super::reader::{Fields, Value};
use super::upstream::{self, Upstream, UpstreamId};
use crate::hash;

/// A service with more than one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// The user's name for it; also what seeds its hash.
    pub name: String,
    /// Which requests it is for.
    pub matches: Matches,
    /// The header that tells Envoy's route table the version, in lower case.
    pub steer_header: String,
    /// Whether a version already on the request wins.
    pub trust_incoming: bool,
    /// Where the sticky key comes from; the first one present wins.
    pub keys: Vec<Key>,
    /// The versions, in the document's order. Not empty.
    pub versions: Vec<Version>,
    /// The place of the default version in `versions`.
    pub default: usize,
    /// The hash seed, derived from the name.
    pub seed: u64,
    /// Where each version's buckets end, with its place in `versions`.
    ///
    /// Versions lie end to end over the buckets, the last one of the document first. Weight that moves
    /// from an earlier version to a later one thus moves no user to an earlier one, and of two versions
    /// it moves exactly the share that must move.
    pub bounds: Vec<(u16, usize)>,
}

/// One version of a release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// The user's name for it; the value of the steer header.
    pub name: String,
    /// The upstream that serves it.
    pub upstream: UpstreamId,
    /// Its part of the sum of all weights.
    pub weight: u32,
    /// Requests that always get it, whatever the weight. Empty: none.
    pub overrides: Matches,
}

/// Where a sticky key is found, in the terms of Istio's `consistentHash`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// `httpHeaderName`, in lower case.
    Header(String),
    /// `httpCookie`, by its name.
    Cookie(String),
    /// `httpQueryParameterName`, as written: nothing is percent-decoded.
    QueryParameter(String),
    /// `useSourceIp`: where the request comes from, as the proxy sees it.
    SourceIp,
}

/// Reads `releases`.
pub fn read(value: &Value<'_>, upstreams: Option<&[Upstream]>) -> Option<Vec<Release>> {
    let items = value.list()?;
    let mut names = HashSet::new();
    let releases = items.iter().map(|item| {
        let release = Release::read(item, upstreams)?;
        if !names.insert(release.name.clone()) {
            return item
                .problem(format!("a second release named {:?}; allowed: one of each name", release.name));
        }
        Some(release)
    });
    // Collected before it is judged, so that a bad release doesn't hide the next one's problems.
    releases.collect::<Vec<_>>().into_iter().collect()
}

impl Release {
    fn read(value: &Value<'_>, upstreams: Option<&[Upstream]>) -> Option<Self> {
        let fields = value.object(&[
            "name",
            "match",
            "steer",
            "trustIncoming",
            "hashOn",
            "versions",
            "schedule",
            "rollback",
        ])?;
        let name = fields.require("name", "a name").and_then(Value::label);
        let matches = fields.read("match", Matches::default(), Matches::read);
        let steer_header =
            fields.require("steer", "an object such as {header: x-gray-version}").and_then(read_steer);
        let trust_incoming = fields.read("trustIncoming", false, Value::boolean);
        let keys = fields.each("hashOn", Key::read);
        let versions = fields.require("versions", "a list of versions");
        let versions = versions.and_then(|value| read_versions(value, upstreams));
        fields.later("schedule", |value| {
            let steps = value.list()?;
            Some(steps.iter().filter_map(|step| read_step(step, versions.as_deref())).count())
        });
        fields.later("rollback", read_rollback);

        // Steering would overwrite the key, or the cookies it is one of.
        if let (Some(steer), Some(keys)) = (&steer_header, &keys) {
            let is_key = |key: &Key| matches!(key, Key::Header(name) if name == steer);
            if steer == "cookie" || keys.iter().any(is_key) {
                let allowed = "a header that carries nothing else, such as x-gray-version";
                fields
                    .get("steer")?
                    .problem::<()>(format!("{steer:?} carries something else; allowed: {allowed}"));
            }
        }
        let (name, versions) = (name?.to_owned(), versions?);
        let default = versions.iter().position(|(_, default)| *default)?;
        let versions: Vec<Version> = versions.into_iter().map(|(version, _)| version).collect();
        Some(Release {
            matches: matches?,
            steer_header: steer_header?,
            trust_incoming: trust_incoming?,
            keys: keys?,
            default,
            seed: hash::seed(&name),
            bounds: bounds(&versions),
            versions,
            name,
        })
    }
}

/// Reads `versions`, each with whether it is the default one.
fn read_versions(value: &Value<'_>, upstreams: Option<&[Upstream]>) -> Option<Vec<(Version, bool)>> {
    let items = value.list()?;
    let versions: Vec<_> = items.iter().map(|item| Version::read(item, upstreams)).collect();
    let versions: Vec<(Version, bool)> = versions.into_iter().collect::<Option<_>>()?;
    let mut names = HashSet::new();
    for ((version, _), item) in versions.iter().zip(&items) {
        if !names.insert(&version.name) {
            item.problem::<()>(format!(
                "a second version named {:?}; allowed: one of each name",
                version.name
            ));
        }
    }
    if versions.is_empty() {
        return value.problem("an empty list; allowed: at least one version");
    }
    // A share too small for a bucket would be none at all, without a word.
    let laid: Vec<Version> = versions.iter().map(|(version, _)| version.clone()).collect();
    let mut start = 0;
    for (bound, place) in bounds(&laid) {
        if let (Some(version), Some(item)) = (laid.get(place), items.get(place))
            && version.weight > 0
            && bound == start
        {
            item.problem::<()>(format!(
                "weight {} is less than 0.01 % of all weights; allowed: 0, or at least that share",
                version.weight
            ));
        }
        start = bound;
    }
    if versions.iter().all(|(version, _)| version.weight == 0) {
        return value.problem("the weights are all 0; allowed: at least one above 0");
    }
    match versions.iter().filter(|(_, default)| *default).count() {
        1 => Some(versions),
        0 => value.problem("no version is the default; allowed: default: true on one of them"),
        _ => value.problem("more than one version is the default; allowed: default: true on one of them"),
    }
}

impl Version {
    fn read(value: &Value<'_>, upstreams: Option<&[Upstream]>) -> Option<(Self, bool)> {
        let fields = value.object(&["name", "upstream", "weight", "default", "match"])?;
        let name = fields.require("name", "a name").and_then(Value::label);
        let upstream = upstream::required_reference(&fields, upstreams);
        let weight = fields.require("weight", "a whole number from 0 to 4294967295");
        let weight = weight.and_then(|value| value.integer(0..=u32::MAX));
        let default = fields.read("default", false, Value::boolean);
        let overrides = fields.read("match", Matches::default(), Matches::read);
        // What is bad has been noted. A stand-in takes its place, so that the list can be judged all the same.
        let version = Version {
            name: name?.to_owned(),
            upstream: upstream.unwrap_or(UpstreamId(0)),
            weight: weight.unwrap_or(1),
            overrides: overrides.unwrap_or_default(),
        };
        Some((version, default?))
    }
}

impl Key {
    fn read(value: &Value<'_>) -> Option<Self> {
        let fields =
            value.object(&["httpHeaderName", "httpCookie", "httpQueryParameterName", "useSourceIp"])?;
        let header =
            fields.read("httpHeaderName", None, |value| value.header_name(false).map(Key::Header).map(Some));
        let cookie = fields.read("httpCookie", None, |value| read_cookie(value).map(Key::Cookie).map(Some));
        let parameter = fields.read("httpQueryParameterName", None, |value| {
            Some(Some(Key::QueryParameter(value.text()?.to_owned())))
        });
        let source = fields.read("useSourceIp", None, |value| match value.boolean()? {
            true => Some(Some(Key::SourceIp)),
            false => value.refuse("true, or no such key"),
        });
        let mut keys = [header?, cookie?, parameter?, source?].into_iter().flatten();
        match (keys.next(), keys.next()) {
            (Some(key), None) => Some(key),
            _ => value.refuse("one of httpHeaderName, httpCookie, httpQueryParameterName, useSourceIp"),
        }
    }
}

/// Reads `httpCookie` and gives its name. What says how a cookie is issued comes with issuing.
fn read_cookie(value: &Value<'_>) -> Option<String> {
    let fields = value.object(&["name", "ttl", "path", "secure", "httpOnly", "sameSite"])?;
    let day = Duration::from_secs(86_400);
    fields.later("ttl", |value| value.duration(Duration::ZERO..=400 * day));
    fields.later("path", Value::path);
    fields.later("secure", Value::boolean);
    fields.later("httpOnly", Value::boolean);
    fields.later("sameSite", |value| value.choice(&[("Lax", ()), ("Strict", ()), ("None", ())]));
    // A cookie's name is a token, as a header's is, but its case counts.
    let name = fields.require("name", "a cookie's name")?;
    name.header_name(false)?;
    name.text().map(str::to_owned)
}

fn read_steer(value: &Value<'_>) -> Option<String> {
    let fields = value.object(&["header", "clusterHeader", "randomValueHeader", "filterState"])?;
    fields.later("clusterHeader", |value| value.header_name(true));
    fields.later("randomValueHeader", |value| value.header_name(true));
    fields.later("filterState", |value| value.choice(&[("envoy.string", ())]));
    let later =
        ["clusterHeader", "randomValueHeader", "filterState"].iter().any(|key| fields.get(key).is_some());
    match fields.get("header") {
        Some(header) => header.header_name(true),
        None if later => None,
        None => value.refuse("{header: …}, the header that tells the route table the version"),
    }
}

/// Checks one step of a `schedule`.
fn read_step(value: &Value<'_>, versions: Option<&[(Version, bool)]>) -> Option<()> {
    let fields: Fields<'_> = value.object(&["at", "weights"])?;
    fields.require("at", "a time such as 2026-12-01T10:00:00Z").and_then(Value::text);
    let weights = fields.require("weights", "an object such as {v1: 70, v2: 30}").and_then(Value::entries)?;
    for (name, weight) in weights.iter() {
        weight.integer(0..=u32::MAX);
        if versions.is_some_and(|versions| !versions.iter().any(|(version, _)| version.name == name)) {
            weight.problem::<()>("no version of this release; allowed: the names under versions");
        }
    }
    Some(())
}

/// Checks `rollback`.
fn read_rollback(value: &Value<'_>) -> Option<()> {
    let (ms, hour) = (Duration::from_millis(1), Duration::from_secs(3_600));
    let fields = value.object(&["failurePercent", "latency", "minimumRequests", "window"])?;
    fields.get("failurePercent").and_then(|value| value.integer(1..=100));
    fields.get("minimumRequests").and_then(|value| value.integer(1..=1_000_000));
    fields.get("window").and_then(|value| value.duration(1_000 * ms..=hour));
    fields.get("latency").and_then(|value| {
        let fields = value.object(&["percentile", "above"])?;
        fields.get("percentile").and_then(|value| value.integer(1..=99));
        fields.get("above").and_then(|value| value.duration(ms..=hour))
    });
    Some(())
}

/// Lays the versions end to end over the buckets, the last one first; see [`Release::bounds`].
fn bounds(versions: &[Version]) -> Vec<(u16, usize)> {
    let total: u128 = versions.iter().map(|version| u128::from(version.weight)).sum();
    let mut sum = 0;
    let laid = versions.iter().enumerate().rev().map(|(place, version)| {
        sum += u128::from(version.weight);
        // Rounding the running sum keeps each share within one bucket, and every bound rises with its weights.
        // The total is above 0, and a bound is at most BUCKETS.
        let bound = (sum * u128::from(hash::BUCKETS) + total / 2) / total.max(1);
        (bound as u16, place)
    });
    laid.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn laid(weights: &[u32]) -> Vec<(u16, usize)> {
        let version = |weight: &u32| Version {
            name: String::new(),
            upstream: UpstreamId(0),
            weight: *weight,
            overrides: Matches::default(),
        };
        bounds(&weights.iter().map(version).collect::<Vec<_>>())
    }

    #[test]
    fn versions_lie_end_to_end_the_last_one_first() {
        assert_eq!(laid(&[90, 10]), [(1_000, 1), (10_000, 0)]);
        assert_eq!(laid(&[50, 30, 20]), [(2_000, 2), (5_000, 1), (10_000, 0)]);
    }

    #[test]
    fn weights_may_have_any_total() {
        assert_eq!(laid(&[u32::MAX, u32::MAX]), [(5_000, 1), (10_000, 0)]);
        assert_eq!(laid(&[2, 1]), [(3_333, 1), (10_000, 0)]);
        assert_eq!(laid(&[0, 7]), [(10_000, 1), (10_000, 0)]);
        assert_eq!(laid(&[1, 0]), [(0, 1), (10_000, 0)]);
    }
}
