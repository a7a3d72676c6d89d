//! `versions` of a release.

use core::hash::{Hash, Hasher};
use std::collections::{BTreeMap, BTreeSet};

pub use super::headers::HeaderEdits;
use crate::policy::matcher::Matches;
use crate::policy::reader::{Fields, Value};
use crate::policy::upstream::{self, UpstreamDraft, UpstreamId};
use crate::weights::layout::Layout;

/// One version of a release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// The user's name for it; the value of the steer header.
    pub name: String,
    /// The upstream that serves it.
    pub upstream: UpstreamId,
    /// The cluster of that upstream.
    pub cluster: String,
    /// Its part of the sum of all weights.
    pub weight: u32,
    /// Requests that always get it, whatever the weight. Empty: none.
    pub overrides: Matches,
    /// Keys that always get it, whatever the weight.
    pub allow: BTreeSet<String>,
    /// Keys that never get it by their bucket.
    pub deny: BTreeSet<String>,
    /// What is done to its requests.
    pub request: HeaderEdits,
    /// What is done to its responses.
    pub response: HeaderEdits,
}

impl Hash for Version {
    /// Without the upstream's place in the policy, which says nothing of the version: its cluster does.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Version { name, upstream: _, cluster, weight, overrides, allow, deny, request, response } = self;
        (name, cluster, weight, overrides, allow, deny, request, response).hash(state);
    }
}

/// The most keys of one list.
const KEYS: usize = 10_000;

/// Reads `versions`, and the index of the default one.
pub fn read(value: &Value<'_>, upstreams: Option<&[UpstreamDraft]>) -> Option<(Vec<Version>, usize)> {
    let items = value.list()?;
    let versions: Vec<_> = items.iter().map(|item| Version::read(item, upstreams)).collect();
    let versions: Vec<(Version, bool)> = versions.into_iter().collect::<Option<_>>()?;
    let mut allowed: BTreeMap<&str, &str> = BTreeMap::new();
    for (index, ((version, _), item)) in versions.iter().zip(&items).enumerate() {
        if versions.iter().take(index).any(|(other, _)| other.name == version.name) {
            item.problem::<()>(format!(
                "a second version named {:?}; allowed: one of each name",
                version.name
            ));
        }
        for key in &version.allow {
            if let Some(other) = allowed.insert(key, &version.name) {
                item.problem::<()>(format!(
                    "allow has the key {key:?}, which {other} has, too; allowed: each key in one version's list"
                ));
            }
        }
    }
    if versions.is_empty() {
        return value.problem("an empty list; allowed: at least one version");
    }
    let weights: Vec<u32> = versions.iter().map(|(version, _)| version.weight).collect();
    judge_weights(value, &weights, |index| items.get(index).cloned())?;
    let mut defaults = versions.iter().enumerate().filter(|(_, (_, default))| *default);
    match (defaults.next(), defaults.next()) {
        (Some((index, (version, _))), None) => {
            if !version.deny.is_empty() {
                let item = items.get(index).unwrap_or(value);
                item.problem::<()>("deny on the default version, which is where the denied go; allowed: on any other version");
            }
            Some((versions.into_iter().map(|(version, _)| version).collect(), index))
        }
        (None, _) => value.problem("no version is the default; allowed: default: true on one of them"),
        _ => value.problem("more than one version is the default; allowed: default: true on one of them"),
    }
}

/// Notes weights that are all 0, or too small for a bucket, which would be none at all without a word. `at`
/// tells where each stands.
pub fn judge_weights<'v>(
    value: &Value<'v>,
    weights: &[u32],
    at: impl Fn(usize) -> Option<Value<'v>>,
) -> Option<()> {
    if weights.iter().all(|weight| *weight == 0) {
        return value.problem("the weights are all 0; allowed: at least one above 0");
    }
    let shares = Layout::of(weights).shares(weights.len());
    for (index, (weight, share)) in weights.iter().zip(shares).enumerate() {
        if *weight > 0 && share == 0 {
            at(index).as_ref().unwrap_or(value).problem::<()>(format!(
                "weight {weight} is less than 0.01 % of all weights; allowed: 0, or at least that share"
            ));
        }
    }
    Some(())
}

impl Version {
    fn read(value: &Value<'_>, upstreams: Option<&[UpstreamDraft]>) -> Option<(Self, bool)> {
        let fields =
            value.object(&["name", "upstream", "weight", "default", "match", "allow", "deny", "headers"])?;
        let name = fields.require("name", "a name").and_then(Value::label);
        let upstream = upstream::required_reference(&fields, upstreams);
        let weight = fields.require("weight", "a whole number from 0 to 4294967295");
        let weight = weight.and_then(|value| value.integer(0..=u32::MAX));
        let default = fields.read("default", false, Value::boolean);
        let overrides = fields.read("match", Matches::default(), Matches::read);
        let (allow, deny) = (read_keys(&fields, "allow"), read_keys(&fields, "deny"));
        let headers = fields.read("headers", Default::default(), HeaderEdits::read);
        if let (Some(allow), Some(deny)) = (&allow, &deny)
            && let Some(key) = allow.intersection(deny).next()
        {
            value.problem::<()>(format!("both allow and deny have the key {key:?}; allowed: one of them"));
        }
        // What is bad has been noted. A stand-in takes its place, so that the list can be judged all the same.
        let upstream = upstream.unwrap_or(UpstreamId(0));
        let cluster = upstreams.and_then(|upstreams| upstreams.get(upstream.0));
        let (request, response) = headers.unwrap_or_default();
        let version = Version {
            name: name?.to_owned(),
            upstream,
            cluster: cluster.map_or_else(String::new, |upstream| upstream.cluster.clone()),
            weight: weight.unwrap_or(1),
            overrides: overrides.unwrap_or_default(),
            allow: allow.unwrap_or_default(),
            deny: deny.unwrap_or_default(),
            request,
            response,
        };
        Some((version, default?))
    }

    /// Whether anything leads to it whatever its weight.
    pub fn is_overridden(&self) -> bool {
        !self.overrides.is_empty() || !self.allow.is_empty()
    }
}

fn read_keys(fields: &Fields<'_>, name: &str) -> Option<BTreeSet<String>> {
    fields.read(name, BTreeSet::new(), |value| {
        let items = value.list()?;
        if items.len() > KEYS {
            return value.problem(format!("{} keys; allowed: at most {KEYS}", items.len()));
        }
        Some(items.iter().filter_map(|item| item.text().map(str::to_owned)).collect())
    })
}
