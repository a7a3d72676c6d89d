//! Releases: which version a request gets, and why.
//!
//! The order of precedence, stated here once:
//!
//! 1. **incoming**: the version that the steer header already names, where the release trusts it; and if it
//!    names none of the release's, the default version: **no-such-version**;
//! 2. **match**: the first version, in the document's order, whose own `match` the request meets, whatever
//!    its weight;
//! 3. **allowed**: the version that has the request's key on its list, whatever its weight;
//! 4. **existing-session**: the default version, for a key that was issued before the release started, until it
//!    has ended;
//! 5. **sticky**: the version that holds the bucket of the key; or the default one where that version's list says
//!    that the key is **denied**;
//! 6. **rotation**: with no key, each worker deals the versions out in turn, exactly by weight. Where the release
//!    issues keys, the request gets one of that version's.
//!
//! A version whose upstream is not Ready is then replaced by the default one: **fallback**.

pub mod cookie;
pub mod split;

use std::collections::BTreeSet;

use crate::policy::release::Release;
use crate::policy::release::key::{Cookie, Key};
use crate::policy::release::steer::Steer;
use crate::value::hash;
use crate::value::request::{self, Headers, Request};
use crate::value::time::Time;
use crate::weights::number;
use split::Split;

/// Why a request got its version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AssignmentReason {
    /// It carried the version from a trusted hop.
    Incoming,
    /// It carried a version from a trusted hop that this release does not have.
    NoSuchVersion,
    /// It met the version's own `match`.
    Match,
    /// Its key is on the version's list.
    Allowed,
    /// Its key was issued before the release started.
    ExistingSession,
    /// By the bucket of its key.
    Sticky,
    /// By the bucket of its key it would have had a version that has the key on its list of others.
    Denied,
    /// It has no key.
    Rotation,
    /// The version it should have had is not Ready.
    Fallback,
}

impl AssignmentReason {
    /// All reasons, for those who count by reason.
    pub const ALL: [AssignmentReason; 9] = [
        AssignmentReason::Incoming,
        AssignmentReason::NoSuchVersion,
        AssignmentReason::Match,
        AssignmentReason::Allowed,
        AssignmentReason::ExistingSession,
        AssignmentReason::Sticky,
        AssignmentReason::Denied,
        AssignmentReason::Rotation,
        AssignmentReason::Fallback,
    ];

    /// The word in metrics and explanations.
    pub fn code(self) -> &'static str {
        match self {
            AssignmentReason::Incoming => "incoming",
            AssignmentReason::NoSuchVersion => "no-such-version",
            AssignmentReason::Match => "match",
            AssignmentReason::Allowed => "allowed",
            AssignmentReason::ExistingSession => "existing-session",
            AssignmentReason::Sticky => "sticky",
            AssignmentReason::Denied => "denied",
            AssignmentReason::Rotation => "rotation",
            AssignmentReason::Fallback => "fallback",
        }
    }
}

/// The version that a request should have, by its index in [`Release::versions`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice<'p> {
    /// The version.
    pub version: usize,
    /// Why.
    pub reason: AssignmentReason,
    /// Where its key was found, and the key's hash.
    pub key: Option<(&'p Key, u64)>,
    /// For a route that picks by a number: the number that the request should have.
    pub number: u64,
    /// The key that it is to be given.
    pub issued: Option<Issued<'p>>,
}

/// A key that the filter issues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued<'p> {
    /// The cookie that holds it.
    pub cookie: &'p Cookie,
    /// The key.
    pub key: String,
}

/// The version that a request got, by its index in the release's versions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment<'p> {
    /// The release, by its index in the policy.
    pub release: usize,
    /// The version it should have.
    pub choice: Choice<'p>,
    /// The version it got.
    pub version: usize,
    /// Why it got that one.
    pub reason: AssignmentReason,
}

/// Chooses the version for a request that the release is for. `issued` are keys that other releases have issued
/// for it. Where the release has no versions, the number alone counts.
pub fn choose<'p: 'r, 'r, R: Request>(
    release: &'p Release,
    request: &mut Headers<'r, R>,
    split: &mut Split,
    issued: &[Issued<'p>],
    now: impl Fn() -> Time,
) -> Choice<'p> {
    let by = |version, reason| Choice { version, reason, key: None, number: 0, issued: None };
    if release.trust_incoming
        && let Some(header) = release.steer.header()
        && let Some(incoming) = request.get(header).filter(|incoming| !incoming.is_empty())
    {
        let named = release.versions.iter().position(|version| {
            release.steer.value(version).is_some_and(|value| value.as_bytes() == incoming)
        });
        return match named {
            Some(index) => by(index, AssignmentReason::Incoming),
            None => by(release.default, AssignmentReason::NoSuchVersion),
        };
    }
    if let Some(index) = release.versions.iter().position(|version| version.overrides.any(request)) {
        return by(index, AssignmentReason::Match);
    }
    let by_key = release.keys.iter().find_map(|key| by_key(release, split, key, request, issued));
    by_key.unwrap_or_else(|| by_turn(release, split, now))
}

/// The choice by this key, if the request has it. An empty key is none: it would put all who have it together.
fn by_key<'p: 'r, 'r, R: Request>(
    release: &'p Release,
    split: &Split,
    key: &'p Key,
    request: &mut Headers<'r, R>,
    issued: &[Issued<'p>],
) -> Option<Choice<'p>> {
    let source;
    let value = match key {
        Key::Header(name) => request.get(name),
        Key::Cookie(cookie) => {
            let own = issued.iter().find(|issued| issued.cookie.name == cookie.name);
            let sent = request.cookie(&cookie.name);
            own.map(|own| own.key.as_bytes()).or(sent)
        }
        Key::QueryParameter(name) => {
            request.get(":path").and_then(|target| request::query_values(target, name).next())
        }
        Key::SourceIp => {
            source = request.source()?.ip().to_string();
            Some(source.as_bytes())
        }
    };
    let value = value.filter(|value| !value.is_empty())?;
    let hash = hash::key(release.seed, value);
    let (version, reason) = assign(release, split, key, value, hash);
    Some(Choice { version, reason, key: Some((key, hash)), number: hash, issued: None })
}

/// The version of a key with this value, and why.
fn assign(release: &Release, split: &Split, key: &Key, value: &[u8], hash: u64) -> (usize, AssignmentReason) {
    // A list is text, so a value that is none is on no list.
    let text = core::str::from_utf8(value).ok();
    let listed = |keys: &BTreeSet<String>| text.is_some_and(|text| keys.contains(text));
    if let Some(index) = release.versions.iter().position(|version| listed(&version.allow)) {
        return (index, AssignmentReason::Allowed);
    }
    let cookie = Some(value).filter(|_| matches!(key, Key::Cookie(_)) && split.under_way());
    if release.starts_at.zip(cookie.and_then(cookie::issued)).is_some_and(|(start, issued)| issued < start) {
        return (release.default, AssignmentReason::ExistingSession);
    }
    let index = holder(release, split, hash).unwrap_or(release.default);
    let denied = release.versions.get(index).is_some_and(|version| listed(&version.deny));
    if denied { (release.default, AssignmentReason::Denied) } else { (index, AssignmentReason::Sticky) }
}

/// Who holds a key with this hash.
fn holder(release: &Release, split: &Split, hash: u64) -> Option<usize> {
    match release.steer {
        Steer::RandomValueHeader(_) => number::pick(split.weights(), hash),
        _ => split.layout().holder(hash::bucket(hash)),
    }
}

/// The choice for a request with no key.
fn by_turn<'p>(release: &'p Release, split: &mut Split, now: impl Fn() -> Time) -> Choice<'p> {
    let version = split.turn().unwrap_or(release.default);
    let turn = split.number();
    let number = number::of(split.weights(), version, turn).unwrap_or(turn);
    let mut choice = Choice { version, reason: AssignmentReason::Rotation, key: None, number, issued: None };
    if let Some(cookie) = release.issues().filter(|_| split.under_way()) {
        // By the time that divides, so that who comes between a start and the tick that follows it is of before.
        let time = if release.starts_at.is_some() { split.time() } else { now() };
        let (key, hash) = new_key(release, split, version, time);
        choice.number = hash;
        choice.issued = Some(Issued { cookie, key });
    }
    choice
}

/// The most ids that are tried for one of a version's. On average it takes as many as the version's share goes
/// into the whole.
const TRIES: usize = 20 * hash::BUCKETS as usize;

/// A key that nobody has yet, with its hash: one that the version holds, so that users who come with no key are
/// divided as exactly as requests are.
fn new_key(release: &Release, split: &mut Split, version: usize, now: Time) -> (String, u64) {
    let mut key = cookie::NewKey::at(now);
    let mut tries = 0;
    loop {
        let hash = hash::key(release.seed, key.with_id(split.id()));
        tries += 1;
        if tries == TRIES || holder(release, split, hash).is_none_or(|holder| holder == version) {
            return (key.text(), hash);
        }
    }
}

#[cfg(test)]
mod tests;
