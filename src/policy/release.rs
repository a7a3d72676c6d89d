//! `releases`: the versions of a service and who gets which.

mod headers;
pub mod key;
pub mod rollback;
pub mod schedule;
pub mod steer;
pub mod version;

use super::matcher::Matches;
use super::reader::Value;
use super::upstream::UpstreamDraft;
use crate::value::hash;
use crate::value::time::Time;
use crate::weights::schedule::Schedule;
use key::{Cookie, Key};
use rollback::Rollback;
use steer::Steer;
use version::Version;

/// A service with more than one version.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Release {
    /// The user's name for it; also what seeds its hash.
    pub name: String,
    /// Which requests it is for.
    pub matches: Matches,
    /// Which of these it is not for all the same. Empty: none.
    pub skip: Matches,
    /// How the proxy's routes learn of the version.
    pub steer: Steer,
    /// Whether a version already on the request wins.
    pub trust_incoming: bool,
    /// Where the sticky key comes from; the first one present wins.
    pub keys: Vec<Key>,
    /// From when on it splits. Until then the default version has everybody, and an issued key from before
    /// keeps its user there.
    pub starts_at: Option<Time>,
    /// The response header that names the version, in lower case.
    pub response_header: Option<String>,
    /// The versions, in the document's order. Empty only where the route table's weights alone decide.
    pub versions: Vec<Version>,
    /// The index of the default version in `versions`.
    pub default: usize,
    /// The hash seed, derived from the name.
    pub seed: u64,
    /// Who holds which bucket when.
    pub schedule: Schedule,
    /// When a version loses what it holds.
    pub rollback: Option<Rollback>,
}

/// Reads `releases`.
pub fn read(value: &Value<'_>, upstreams: Option<&[UpstreamDraft]>) -> Option<Vec<Release>> {
    let items = value.list()?;
    // Collected before it is judged, so that a bad release doesn't hide the next one's problems.
    let mut releases: Vec<Option<Release>> = Vec::new();
    for item in &items {
        let release = Release::read(item, upstreams);
        let named = |name: &str| releases.iter().flatten().any(|other| other.name == name);
        let second = release.as_ref().filter(|release| named(&release.name));
        releases.push(match second {
            Some(Release { name, .. }) => {
                item.problem(format!("a second release named {name:?}; allowed: one of each name"))
            }
            None => release,
        });
    }
    judge_edits(&items, &releases);
    releases.into_iter().collect()
}

/// Notes versions that edit a header by which a release steers: its own, or another's. Which of the two counted
/// would be hard to tell, and what came from outside could look like it.
fn judge_edits(items: &[Value<'_>], releases: &[Option<Release>]) {
    let steers = || releases.iter().flatten().filter_map(|release| Some((release, release.steer.header()?)));
    for (item, release) in items.iter().zip(releases) {
        for version in release.iter().flat_map(|release| &release.versions) {
            for (steering, header) in steers().filter(|(_, header)| version.request.edits(header)) {
                item.problem::<()>(format!(
                    "headers of {} edit {header:?}, by which {} steers; allowed: any other header",
                    version.name, steering.name
                ));
            }
        }
    }
}

const KEYS: [&str; 11] = [
    "name",
    "match",
    "skip",
    "steer",
    "trustIncoming",
    "hashOn",
    "startsAt",
    "responseHeader",
    "versions",
    "schedule",
    "rollback",
];

impl Release {
    fn read(value: &Value<'_>, upstreams: Option<&[UpstreamDraft]>) -> Option<Self> {
        let fields = value.object(&KEYS)?;
        let name = fields.require("name", "a name").and_then(Value::label);
        let matches = fields.read("match", Matches::default(), Matches::read);
        let skip = fields.read("skip", Matches::default(), Matches::read);
        let steer = fields.require("steer", "an object such as {header: x-gray-version}");
        let steer = steer.and_then(Steer::read);
        let trust_incoming = fields.read("trustIncoming", false, Value::boolean);
        let keys = Key::read_all(&fields);
        // To the second, as issued keys tell when they were.
        let starts_at = fields.read("startsAt", None, |value| match value.time()? {
            time if time.as_millis() % 1_000 == 0 => Some(Some(time)),
            _ => value.refuse("a whole second"),
        });
        let response_header = fields.read("responseHeader", None, |value| match value.header_name(true)? {
            name if name == "set-cookie" => value.problem(
                "\"set-cookie\" carries something else; allowed: a header that carries nothing else",
            ),
            name => Some(Some(name)),
        });
        let bare = matches!(steer, Some(Steer::RandomValueHeader(_))) && fields.get("versions").is_none();
        let versions = match bare {
            true => Some((Vec::new(), 0)),
            false => fields
                .require("versions", "a list of versions")
                .and_then(|value| version::read(value, upstreams)),
        };
        let known = versions.as_ref().map(|(versions, _)| versions.as_slice()).filter(|_| !bare);
        let steps =
            fields.read("schedule", Vec::new(), |value| schedule::read(value, known, starts_at.flatten()));
        let rollback =
            fields.read("rollback", None, |value| Rollback::read(value, known.zip(upstreams)).map(Some));
        if let (Some(steer), Some(keys), Some((versions, default))) = (&steer, &keys, &versions) {
            steer.judge(&fields, keys, trust_incoming == Some(true), versions, *default);
        }
        if let (Some([]), Some(versions)) = (keys.as_deref(), known)
            && versions.iter().any(|version| !version.allow.is_empty() || !version.deny.is_empty())
            && fields.get("hashOn").is_none_or(|value| value.list().is_some_and(|list| list.is_empty()))
        {
            fields.contradiction(
                "versions",
                "allow and deny list keys, and there are none; allowed: with hashOn",
            );
        }
        let ((versions, default), name) = (versions?, name?);
        let weights: Vec<u32> = versions.iter().map(|version| version.weight).collect();
        let starts_at = starts_at?;
        Some(Release {
            matches: matches?,
            skip: skip?,
            steer: steer?,
            trust_incoming: trust_incoming?,
            keys: keys?,
            starts_at,
            response_header: response_header?,
            default,
            seed: hash::seed(name),
            schedule: Schedule::new(&weights, default, starts_at, steps?),
            rollback: rollback?,
            versions,
            name: name.to_owned(),
        })
    }

    /// The cookie that a request gets that has no key.
    pub fn issues(&self) -> Option<&Cookie> {
        self.keys.iter().filter_map(Key::cookie).find(|cookie| cookie.issue.is_some())
    }

    /// Whether who holds what can change while the policy stays.
    pub fn changes(&self) -> bool {
        self.schedule.changes() || self.rollback.is_some()
    }
}
