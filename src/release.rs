//! Releases: which version a request gets, and why.
//!
//! The order of precedence, stated here once:
//!
//! 1. **incoming**: the version that the steer header already names, where the release trusts it;
//! 2. **match**: the first version, in the document's order, whose own `match` the request meets, whatever
//!    its weight;
//! 3. **sticky**: the version that holds the bucket of the request's key;
//! 4. **rotation**: with no key, each worker deals the versions out in turn, exactly by weight.
//!
//! A version whose upstream is not Ready is then replaced by the default one: **fallback**.

use crate::hash;
use crate::policy::release::{Key, Release};
use crate::request::{self, Headers, Request};

/// Why a request got its version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// It carried the version from a trusted hop.
    Incoming,
    /// It met the version's own `match`.
    Match,
    /// By the bucket of its key.
    Sticky,
    /// It has no key.
    Rotation,
    /// The version it should have had is not Ready.
    Fallback,
}

impl Reason {
    /// All reasons, for those who count by reason.
    pub const ALL: [Reason; 5] =
        [Reason::Incoming, Reason::Match, Reason::Sticky, Reason::Rotation, Reason::Fallback];

    /// The word in metrics and explanations.
    pub fn code(self) -> &'static str {
        match self {
            Reason::Incoming => "incoming",
            Reason::Match => "match",
            Reason::Sticky => "sticky",
            Reason::Rotation => "rotation",
            Reason::Fallback => "fallback",
        }
    }
}

/// The version that a request should have, by its place in [`Release::versions`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice<'p> {
    /// The version.
    pub version: usize,
    /// Why.
    pub reason: Reason,
    /// For a sticky choice: where the key was found, and its bucket.
    pub bucket: Option<(&'p Key, u16)>,
}

/// Chooses the version for a request that the release is for.
pub fn choose<'p, R: Request>(
    release: &'p Release,
    request: &mut Headers<'_, R>,
    rotation: &mut Rotation,
) -> Choice<'p> {
    let by = |version, reason| Choice { version, reason, bucket: None };
    if release.trust_incoming
        && let Some(incoming) = request.get(&release.steer_header)
        && let Some(place) = release.versions.iter().position(|version| version.name.as_bytes() == incoming)
    {
        return by(place, Reason::Incoming);
    }
    let overridden = |request: &mut Headers<'_, R>| {
        release.versions.iter().position(|version| version.overrides.any(request))
    };
    if let Some(place) = overridden(request) {
        return by(place, Reason::Match);
    }
    for key in &release.keys {
        if let Some(bucket) = bucket(release, key, request) {
            let version = holder(release, bucket);
            return Choice { version, reason: Reason::Sticky, bucket: Some((key, bucket)) };
        }
    }
    by(rotation.next(release), Reason::Rotation)
}

/// The bucket of the key, if the request has it. An empty key is none: it would put all who have it together.
fn bucket<R: Request>(release: &Release, key: &Key, request: &mut Headers<'_, R>) -> Option<u16> {
    let value = match key {
        Key::Header(name) => request.get(name),
        Key::Cookie(name) => request.get("cookie").and_then(|header| request::cookie(header, name)),
    };
    value.filter(|value| !value.is_empty()).map(|value| hash::bucket(release.seed, value))
}

/// The version that holds a bucket.
fn holder(release: &Release, bucket: u16) -> usize {
    let found = release.bounds.iter().find(|(bound, _)| bucket < *bound);
    found.map_or(release.default, |(_, place)| *place)
}

/// Deals versions out in turn, by smooth weighted round robin: after any number of turns each version is
/// within a turn or so of its exact share, and after as many turns as the weights' total exactly on it.
#[derive(Clone, Debug, Default)]
pub struct Rotation {
    credits: Vec<i64>,
}

impl Rotation {
    /// Starts at a place in the cycle that `random` picks. If all started at the same place, the first
    /// requests of every worker of every proxy would all go to the same version.
    pub fn new(release: &Release, random: u64) -> Self {
        let mut rotation = Rotation { credits: vec![0; release.versions.len()] };
        let total: u64 = release.versions.iter().map(|version| u64::from(version.weight)).sum();
        for _ in 0..random % total.clamp(1, u64::from(hash::BUCKETS)) {
            rotation.next(release);
        }
        rotation
    }

    /// The version whose turn it is.
    pub fn next(&mut self, release: &Release) -> usize {
        let mut total = 0;
        let mut best: Option<(usize, i64)> = None;
        for (place, (credit, version)) in self.credits.iter_mut().zip(&release.versions).enumerate() {
            let weight = i64::from(version.weight);
            *credit += weight;
            total += weight;
            // A version of weight 0 never has credit, and so never a turn.
            if weight > 0 && best.is_none_or(|(_, most)| *credit > most) {
                best = Some((place, *credit));
            }
        }
        let place = best.map_or(release.default, |(place, _)| place);
        if let Some(credit) = self.credits.get_mut(place) {
            *credit -= total;
        }
        place
    }
}
