//! `versions` of a release: what each version serves, and which requests always or never get it.

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
    /// The name that the user chose. It is also the value of the steer header.
    pub name: String,
    /// The upstream that serves the version.
    pub upstream: UpstreamId,
    /// The cluster of that upstream.
    pub cluster: String,
    /// The version's part of the sum of all weights. 0 to 4,294,967,295.
    pub weight: u32,
    /// `match`: the requests that always get the version, whatever its weight. Empty means none.
    pub overrides: Matches,
    /// The keys that always get the version, whatever its weight. At most 10,000.
    pub allow: BTreeSet<String>,
    /// The keys that never get the version by their bucket. At most 10,000.
    pub deny: BTreeSet<String>,
    /// The header edits of the version's requests.
    pub request: HeaderEdits,
    /// The header edits of the version's responses.
    pub response: HeaderEdits,
}

impl Hash for Version {
    /// Leaves the upstream's ID out, as it is only a position in the policy. The cluster identifies the upstream.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Version { name, upstream: _, cluster, weight, overrides, allow, deny, request, response } = self;
        (name, cluster, weight, overrides, allow, deny, request, response).hash(state);
    }
}

/// Reads `versions`. Returns the versions and the index of the default version.
pub fn read(value: &Value<'_>, upstreams: Option<&[UpstreamDraft]>) -> Option<(Vec<Version>, usize)> {
    let items = value.list()?;
    let versions: Vec<_> = items.iter().map(|item| Version::read(item, upstreams)).collect();
    let versions: Vec<(Version, bool)> = versions.into_iter().collect::<Option<_>>()?;
    let mut version_by_key: BTreeMap<&str, &str> = BTreeMap::new();
    for (index, ((version, _), item)) in versions.iter().zip(&items).enumerate() {
        if versions.iter().take(index).any(|(other, _)| other.name == version.name) {
            item.problem::<()>(format!(
                "a second version named {:?}; give each a name of its own",
                version.name
            ));
        }
        for key in &version.allow {
            if let Some(other) = version_by_key.insert(key, &version.name) {
                item.problem::<()>(format!(
                    "allow has the key {key:?}, as has {other}; keep it in one of them"
                ));
            }
        }
    }
    let weights: Vec<u32> = versions.iter().map(|(version, _)| version.weight).collect();
    let default = versions.iter().position(|(_, default)| *default).unwrap_or_default();
    validate_weights(value, &weights, default, |index| items.get(index).cloned())?;
    let mut defaults = versions.iter().enumerate().filter(|(_, (_, default))| *default);
    match (defaults.next(), defaults.next()) {
        (Some((index, (version, _))), None) => {
            if !version.deny.is_empty() {
                let item = items.get(index).unwrap_or(value);
                item.problem::<()>("deny has no effect on the default version, which denied keys get. Move it to another version.");
            }
            Some((versions.into_iter().map(|(version, _)| version).collect(), index))
        }
        (None, _) => value.problem("no version is the default; add default: true to one of them"),
        _ => value.problem("more than one version is the default; keep default: true on one of them"),
    }
}

/// Refuses weights that are all 0. Reports a weight that is too small for one bucket, as it would silently act as 0.
/// `value_of` returns the value to report for the weight with an index.
pub fn validate_weights<'v>(
    value: &Value<'v>,
    weights: &[u32],
    default: usize,
    value_of: impl Fn(usize) -> Option<Value<'v>>,
) -> Option<()> {
    if weights.iter().all(|weight| *weight == 0) {
        return value.problem("the weights are all 0; make at least one larger");
    }
    let shares = Layout::of(weights, default).shares(weights.len());
    for (index, (weight, share)) in weights.iter().zip(shares).enumerate() {
        if *weight > 0 && share == 0 {
            value_of(index).as_ref().unwrap_or(value).problem::<()>(format!(
                "weight {weight} is less than 0.01 % of all weights, so it would act as 0. Use 0, or at least that share."
            ));
        }
    }
    Some(())
}

impl Version {
    fn read(value: &Value<'_>, upstreams: Option<&[UpstreamDraft]>) -> Option<(Self, bool)> {
        let fields = value.object()?;
        let name = fields.text("name");
        let upstream = upstream::read_required_reference(&fields, upstreams);
        let weight = fields.whole("weight");
        // A misspelt key is reported already, and a missing default version would be one more problem.
        let default = fields.boolean("default").map(|default| default || fields.is_misspelt("default"));
        let overrides = fields.read("match", Matches::default(), Matches::read);
        let allow = read_keys(&fields, "allow");
        let deny = read_keys(&fields, "deny");
        let headers = fields.read("headers", Default::default(), HeaderEdits::read);
        if let (Some(allow), Some(deny)) = (&allow, &deny)
            && let Some(key) = allow.intersection(deny).next()
        {
            value.problem::<()>(format!("both allow and deny have the key {key:?}; keep it in one of them"));
        }
        // Invalid values are reported already. Placeholders replace them, so that the list can still be validated.
        let upstream = upstream.unwrap_or(UpstreamId(0));
        let draft = upstreams.and_then(|upstreams| upstreams.get(upstream.0));
        let (request, response) = headers.unwrap_or_default();
        let version = Version {
            name: name?.to_owned(),
            upstream,
            cluster: draft.map_or_else(String::new, |upstream| upstream.cluster.clone()),
            weight: weight.unwrap_or(1),
            overrides: overrides.unwrap_or_default(),
            allow: allow.unwrap_or_default(),
            deny: deny.unwrap_or_default(),
            request,
            response,
        };
        Some((version, default?))
    }

    /// Returns whether some requests or keys get the version whatever its weight.
    pub fn is_overridden(&self) -> bool {
        !self.overrides.is_empty() || !self.allow.is_empty()
    }
}

fn read_keys(fields: &Fields<'_>, name: &str) -> Option<BTreeSet<String>> {
    fields.read_list(name, Value::text).map(|keys| keys.into_iter().map(str::to_owned).collect())
}
