//! Decides which version a request gets, and why.
//!
//! The first of these rules that applies decides:
//!
//! 1. **incoming**: the steer header or member names a version and the release trusts it. If the release has no such
//!    version, the request gets the default version, as **no-such-version**.
//! 2. **match**: the request meets the `match` of a version, whatever its weight. The first such version in
//!    the document counts.
//! 3. **allowed**: the request's key is on the `allow` list of a version, whatever its weight.
//! 4. **existing-session**: the key was issued before the release started and the release has not ended. The
//!    request gets the default version.
//! 5. **sticky**: the version holds the bucket of the key. If the key is on its `deny` list, the request gets
//!    the default version, as **denied**.
//! 6. **rotation**: the request has no key. Each worker deals out the versions in turn, exactly by weight. If
//!    the release issues keys, the request gets a key of that version.
//!
//! If the upstream of that version is not Ready, the request gets the default version, as **fallback**. If the release steers
//! by `baggage` and the request's has no room for the version, the request gets the default version, as **not-carried**.

pub mod cookie;
pub mod split;

use std::borrow::Cow;
use std::collections::BTreeSet;

use crate::policy::release::Release;
use crate::policy::release::key::{Cookie, Key};
use crate::policy::release::steer::Steer;
use crate::value::authority::Authority;
use crate::value::code::CodeSpec;
use crate::value::date::Date;
use crate::value::hash;
use crate::value::request::{self, AUTHORITY, Headers, Request};
use crate::weights::number;
use split::Split;

/// The reason for which a request got its version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "tool", derive(strum::EnumIter))]
pub enum AssignmentReason {
    /// A trusted hop named the version.
    Incoming,
    /// A trusted hop named a version that this release does not have.
    NoSuchVersion,
    /// The request met the version's `match`.
    Match,
    /// The key is on the version's `allow` list.
    Allowed,
    /// The key was issued before the release started.
    ExistingSession,
    /// The version holds the bucket of the key.
    Sticky,
    /// The key is on the `deny` list of the version that holds its bucket.
    Denied,
    /// The request has no key.
    Rotation,
    /// The chosen version is not Ready.
    Fallback,
    /// The `baggage` of the request cannot carry the version.
    NotCarried,
}

impl AssignmentReason {
    /// All reasons.
    pub const ALL: [AssignmentReason; 10] = [
        AssignmentReason::Incoming,
        AssignmentReason::NoSuchVersion,
        AssignmentReason::Match,
        AssignmentReason::Allowed,
        AssignmentReason::ExistingSession,
        AssignmentReason::Sticky,
        AssignmentReason::Denied,
        AssignmentReason::Rotation,
        AssignmentReason::Fallback,
        AssignmentReason::NotCarried,
    ];

    /// Returns whether a request can get its version for this reason if the release steers this way.
    pub fn occurs(self, steer: &Steer) -> bool {
        self != AssignmentReason::NotCarried || steer.member().is_some()
    }

    /// Returns the code in metrics and explanations.
    pub fn code(self) -> &'static str {
        self.spec().code
    }

    /// Returns the code with its meaning.
    pub fn spec(self) -> CodeSpec {
        match self {
            AssignmentReason::Incoming => {
                const {
                    CodeSpec::new(
                        "incoming",
                        OF_ASSIGNMENTS,
                        "The steer header named the version already, and the release has `trustIncoming: true`.",
                        "",
                    )
                }
            }
            AssignmentReason::NoSuchVersion => {
                const {
                    CodeSpec::new(
                        "no-such-version",
                        OF_ASSIGNMENTS,
                        "The trusted steer header names a version that the release does not have, so the request gets the default version.",
                        "If an earlier hop should not know more versions, give both hops the same list.",
                    )
                }
            }
            AssignmentReason::Match => {
                const {
                    CodeSpec::new(
                        "match",
                        OF_ASSIGNMENTS,
                        "The request meets the version's `match`, whatever the weight.",
                        "",
                    )
                }
            }
            AssignmentReason::Allowed => {
                const {
                    CodeSpec::new(
                        "allowed",
                        OF_ASSIGNMENTS,
                        "The version's `allow` list has the request's key, whatever the weight.",
                        "",
                    )
                }
            }
            AssignmentReason::ExistingSession => {
                const {
                    CodeSpec::new(
                        "existing-session",
                        OF_ASSIGNMENTS,
                        "The key's cookie was issued before `startsAt`, so the request gets the default version.",
                        "",
                    )
                }
            }
            AssignmentReason::Sticky => {
                const {
                    CodeSpec::new(
                        "sticky",
                        OF_ASSIGNMENTS,
                        "The version holds the bucket of the request's key.",
                        "",
                    )
                }
            }
            AssignmentReason::Denied => {
                const {
                    CodeSpec::new(
                        "denied",
                        OF_ASSIGNMENTS,
                        "The `deny` list of the version that holds the bucket has the key, so the request gets the default version.",
                        "",
                    )
                }
            }
            AssignmentReason::Rotation => {
                const {
                    CodeSpec::new(
                        "rotation",
                        OF_ASSIGNMENTS,
                        "The request has none of the keys of `hashOn`, so the versions take turns.",
                        "If users are to stay on a version, add a key that their requests have, or a cookie with a `ttl`.",
                    )
                }
            }
            AssignmentReason::Fallback => {
                const {
                    CodeSpec::new(
                        "fallback",
                        OF_ASSIGNMENTS,
                        "The upstream of the chosen version is not ready, so the request gets the default version.",
                        "Look at `graygate_transitions_total` of the version's upstream.",
                    )
                }
            }
            AssignmentReason::NotCarried => {
                const {
                    CodeSpec::new(
                        "not-carried",
                        OF_ASSIGNMENTS,
                        "The request's `baggage` cannot carry the version: it would have more than 64 members or 8,192 bytes, or it is not UTF-8. So the request gets the default version.",
                        "Find out who puts so much into `baggage`, or steer by a header.",
                    )
                }
            }
        }
    }
}

/// Where the codes appear.
const OF_ASSIGNMENTS: &str = "`reason` of `graygate_assignments_total`, `graygate explain`";

/// The version that is chosen for a request, by its index in [`Release::versions`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice<'p> {
    /// The version.
    pub version: usize,
    /// The reason.
    pub reason: AssignmentReason,
    /// The key that was used, and the hash of its value.
    pub key: Option<(&'p Key, u64)>,
    /// The number for a route that picks by a number.
    pub number: u64,
    /// The key to issue to the client.
    pub issued: Option<Issued<'p>>,
}

/// A key that the filter issues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued<'p> {
    /// The cookie that holds the key.
    pub cookie: &'p Cookie,
    /// The key.
    pub key: String,
}

/// The version that a request got, by its index in the release's versions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment<'p> {
    /// The index of the release in the policy.
    pub release: usize,
    /// The version that was chosen for it.
    pub choice: Choice<'p>,
    /// The version that it got.
    pub version: usize,
    /// The reason for which it got that one.
    pub reason: AssignmentReason,
    /// The hash of the user's key, if the release may roll a version back. See [`user`].
    pub user: Option<u64>,
    /// Whether the request had this assignment before the proxy followed a redirect.
    pub is_repeated: bool,
}

/// Chooses the version for a request that the release matches.
///
/// `issued` are keys that other releases have issued for this request. If the release has no versions, only
/// the number of the choice counts.
pub fn choose<'p: 'r, 'r, R: Request>(
    release: &'p Release,
    request: &mut Headers<'r, R>,
    split: &mut Split,
    issued: &[Issued<'p>],
    date: impl Fn() -> Date,
) -> Choice<'p> {
    let choice = |version, reason| Choice { version, reason, key: None, number: 0, issued: None };
    if release.trust_incoming
        && let Some(incoming) = incoming(release, request)
    {
        let named = release.versions.iter().position(|version| {
            release.steer.value(version).is_some_and(|value| value.as_bytes() == &*incoming)
        });
        return match named {
            Some(index) => choice(index, AssignmentReason::Incoming),
            None => choice(release.default, AssignmentReason::NoSuchVersion),
        };
    }
    if let Some(index) = release.versions.iter().position(|version| version.overrides.any(request)) {
        return choice(index, AssignmentReason::Match);
    }
    let by_key = release.keys.iter().find_map(|key| choose_by_key(release, split, key, request, issued));
    by_key.unwrap_or_else(|| choose_by_turn(release, split, date))
}

/// Returns what names the version on a request that comes in. An empty value counts as absent.
fn incoming<'v, 'p: 'r, 'r, R: Request>(
    release: &'p Release,
    request: &'v mut Headers<'r, R>,
) -> Option<Cow<'v, [u8]>> {
    let incoming = match release.steer.member() {
        Some(key) => request.member(key),
        None => request.get(release.steer.header()?).map(Cow::Borrowed),
    };
    incoming.filter(|incoming| !incoming.is_empty())
}

/// Returns the choice by this key, or `None` if the request does not have it. An empty key counts as absent,
/// because it would put all of its users together.
fn choose_by_key<'p: 'r, 'r, R: Request>(
    release: &'p Release,
    split: &Split,
    key: &'p Key,
    request: &mut Headers<'r, R>,
    issued: &[Issued<'p>],
) -> Option<Choice<'p>> {
    let mut buffer = Vec::new();
    let value = value_of(key, request, issued, &mut buffer)?;
    let hash = hash::key(release.seed, value);
    let (version, reason) = version_of_key(release, split, key, value, hash);
    Some(Choice { version, reason, key: Some((key, hash)), number: hash, issued: None })
}

/// Returns the value of this key, or `None` if the request does not have it. `buffer` keeps a value that is no part of the
/// request.
fn value_of<'v, 'p: 'r, 'r, R: Request>(
    key: &'p Key,
    request: &'v mut Headers<'r, R>,
    issued: &'v [Issued<'p>],
    buffer: &'v mut Vec<u8>,
) -> Option<&'v [u8]> {
    let value = match key {
        Key::Header(name) => request.get(name),
        Key::Cookie(cookie) => {
            let new = issued.iter().find(|issued| issued.cookie.name == cookie.name);
            let sent = request.cookie(&cookie.name);
            new.map(|new| new.key.as_bytes()).or(sent)
        }
        Key::QueryParameter(name) => {
            request.get(":path").and_then(|target| request::query_values(target, name).next())
        }
        Key::Baggage(key) => {
            buffer.extend_from_slice(&request.member(key)?);
            Some(buffer.as_slice())
        }
        Key::Host => {
            buffer.extend_from_slice(Authority::of(request.get(AUTHORITY)?).host());
            Some(buffer.as_slice())
        }
        Key::Path => request.path(),
        Key::All(parts) => {
            for part in parts {
                let mut own = Vec::new();
                add_part(buffer, value_of(part, request, issued, &mut own)?);
            }
            // The first part has a separator before it, too.
            buffer.get(1..)
        }
        Key::SourceIp => {
            buffer.extend_from_slice(request.source()?.ip().to_string().as_bytes());
            Some(buffer.as_slice())
        }
    };
    value.filter(|value| !value.is_empty())
}

/// Adds a part of a combined key, with a `|` before it. Escapes `|` and `\` in the part, because ("a|b", "c") and
/// ("a", "b|c") must differ.
fn add_part(key: &mut Vec<u8>, part: &[u8]) {
    key.push(b'|');
    for byte in part {
        if matches!(byte, b'|' | b'\\') {
            key.push(b'\\');
        }
        key.push(*byte);
    }
}

/// Returns the hash of the key by which the rollback of the release knows the user. Returns `None` if the request is a
/// user of its own, or if the release rolls nothing back.
///
/// A `match` may select one client's requests for a version, so without a key they count for the client's address. A
/// trusted version does not identify the client, because its hop is the one with the address.
pub fn user<'p: 'r, 'r, R: Request>(
    release: &'p Release,
    request: &mut Headers<'r, R>,
    choice: &Choice<'p>,
    issued: &[Issued<'p>],
) -> Option<u64> {
    release.judging_rollback()?;
    let is_matched = match choice.reason {
        AssignmentReason::Match => true,
        AssignmentReason::Incoming | AssignmentReason::NoSuchVersion => false,
        _ => {
            let new = choice.issued.as_ref().map(|_| choice.number);
            return choice.key.map(|(_, hash)| hash).or(new);
        }
    };
    let keys = release.keys.iter().filter(|key| !matches!(key, Key::SourceIp));
    let address = is_matched.then_some(&Key::SourceIp);
    keys.chain(address).find_map(|key| {
        let mut buffer = Vec::new();
        let value = value_of(key, request, issued, &mut buffer)?;
        Some(hash::key(release.seed, value))
    })
}

fn version_of_key(
    release: &Release,
    split: &Split,
    key: &Key,
    value: &[u8],
    hash: u64,
) -> (usize, AssignmentReason) {
    // A list holds text, so a value that is not UTF-8 is on no list.
    let text = core::str::from_utf8(value).ok();
    let is_on = |list: &BTreeSet<String>| text.is_some_and(|text| list.contains(text));
    if let Some(index) = release.versions.iter().position(|version| is_on(&version.allow)) {
        return (index, AssignmentReason::Allowed);
    }
    if matches!(key, Key::Cookie(_))
        && split.is_in_progress()
        && let Some(start) = release.starts_at
        && cookie::issued_at(value).is_some_and(|issued| issued < start)
    {
        return (release.default, AssignmentReason::ExistingSession);
    }
    let index = holder(release, split, hash).unwrap_or(release.default);
    let denied = release.versions.get(index).is_some_and(|version| is_on(&version.deny));
    if denied { (release.default, AssignmentReason::Denied) } else { (index, AssignmentReason::Sticky) }
}

/// Returns the version that holds a key with this hash.
fn holder(release: &Release, split: &Split, hash: u64) -> Option<usize> {
    match release.steer {
        Steer::RandomValueHeader(_) => number::pick(split.weights(), hash),
        _ => split.layout().holder(hash::bucket(hash)),
    }
}

fn choose_by_turn<'p>(release: &'p Release, split: &mut Split, date: impl Fn() -> Date) -> Choice<'p> {
    let version = split.turn().unwrap_or(release.default);
    let turn = split.number();
    let number = number::of(split.weights(), version, turn).unwrap_or(turn);
    let mut choice = Choice { version, reason: AssignmentReason::Rotation, key: None, number, issued: None };
    if let Some(cookie) = release.issues().filter(|_| split.is_in_progress()) {
        // The date of the split counts. A request between the start and the next tick then still belongs to
        // the time before the start.
        let date = if release.starts_at.is_some() { split.date() } else { date() };
        let (key, hash) = new_key(release, split, version, date);
        choice.number = hash;
        choice.issued = Some(Issued { cookie, key });
    }
    choice
}

/// The maximum number of ids to try for a key of a version. A version that holds a share of 1/n needs n tries
/// on average.
const MAX_TRIES: usize = 20 * hash::BUCKETS as usize;

/// Returns a new key that the version holds, and its hash. Users without a key are then divided as exactly as
/// requests are.
fn new_key(release: &Release, split: &mut Split, version: usize, date: Date) -> (String, u64) {
    let mut key = cookie::NewKey::at(date);
    let mut tries = 0;
    loop {
        let hash = hash::key(release.seed, key.with_id(split.id()));
        tries += 1;
        let has_version = holder(release, split, hash).is_none_or(|holder| holder == version);
        if has_version || tries == MAX_TRIES {
            return (key.text(), hash);
        }
    }
}

#[cfg(test)]
mod tests;
