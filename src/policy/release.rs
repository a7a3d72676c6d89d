//! `releases`: the versions of a service, and which requests get which version.

mod headers;
pub mod key;
pub mod rollback;
pub mod schedule;
pub mod steer;
pub mod version;

use std::collections::BTreeSet;

use super::document::Node;
use super::matcher::Matches;
use super::reader::Value;
use super::upstream::UpstreamDraft;
use crate::value::date::Date;
use crate::value::hash;
use crate::value::host::{self, Hosts, MeshPlace};
use crate::weights::schedule::Schedule;
use key::{Cookie, Key};
use rollback::Rollback;
use steer::Steer;
use version::Version;

/// The release of a service: its versions and how requests are divided among them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Release {
    /// The name that the user chose. It also seeds the hash.
    pub name: String,
    /// The requests that get a version. Empty means all. If the policy does not say it, they are the requests for the
    /// hosts of the versions' clusters, if all of these are clusters of Istio that name their host.
    pub matches: Matches,
    /// The requests, among those of `matches`, that get no version. Empty means none.
    pub skip: Matches,
    /// How the filter tells the proxy's routes which version a request gets.
    pub steer: Steer,
    /// Whether a version that is already on the request takes precedence.
    pub trust_incoming: bool,
    /// The sources of the sticky key, in order of precedence. The first key that the request has is used.
    pub keys: Vec<Key>,
    /// When the release starts to split. Before, every request gets the default version. A key that was issued before
    /// keeps its user on the default version.
    pub starts_at: Option<Date>,
    /// The response header that names the version, in lower case.
    pub response_header: Option<String>,
    /// The versions, in document order. Empty only if the weights of the route table alone decide.
    pub versions: Vec<Version>,
    /// The index of the default version in `versions`.
    pub default: usize,
    /// The hash seed, derived from the name.
    pub seed: u64,
    /// Which version holds which bucket at which time.
    pub schedule: Schedule,
    /// When a version is rolled back, which means that it loses its buckets. Also which of its responses count as failed or
    /// slow.
    pub rollback: Option<Rollback>,
}

/// Reads `releases`.
pub fn read(value: &Value<'_>, upstreams: Option<&[UpstreamDraft]>) -> Option<Vec<Release>> {
    let items = value.list()?;
    // Reads all releases before any failure counts, so that one invalid release does not hide the problems of the next.
    let mut releases: Vec<Option<Release>> = Vec::new();
    for item in &items {
        let release = Release::read(item, upstreams);
        let is_taken = |name: &str| releases.iter().flatten().any(|other| other.name == name);
        let duplicate = release.as_ref().filter(|release| is_taken(&release.name));
        releases.push(match duplicate {
            Some(Release { name, .. }) => {
                item.problem(format!("a second release named {name:?}; give each a name of its own"))
            }
            None => release,
        });
    }
    validate_header_edits(&items, &releases);
    releases.into_iter().collect()
}

/// Reports versions that edit a header that any release steers by. It would be unclear which of the two values counts,
/// and a value from outside could look like the filter's own.
fn validate_header_edits(items: &[Value<'_>], releases: &[Option<Release>]) {
    let steer_headers =
        || releases.iter().flatten().filter_map(|release| Some((release, release.steer.written_header()?)));
    for (item, release) in items.iter().zip(releases) {
        for version in release.iter().flat_map(|release| &release.versions) {
            for (steering, header) in steer_headers().filter(|(_, header)| version.request.edits(header)) {
                item.problem::<()>(format!(
                    "headers of {} edit {header:?}, by which {} steers; use any other header",
                    version.name, steering.name
                ));
            }
        }
    }
}

fn is_empty_list(value: &Value<'_>) -> bool {
    matches!(value.node(), Node::List(items) if items.is_empty())
}

/// Returns the hosts of the versions' clusters, or `None` if one of these does not name its host.
fn hosts_of_clusters(versions: &[Version], proxy: Option<MeshPlace<'_>>) -> Option<Hosts> {
    let names = versions.iter().map(|version| host::of_cluster(&version.cluster));
    let names: BTreeSet<&str> = names.collect::<Option<_>>()?;
    let mut hosts = Hosts::default();
    for name in names {
        hosts.add(name, proxy).ok()?;
    }
    Some(hosts).filter(|hosts| hosts.count() > 0)
}

impl Release {
    fn read(value: &Value<'_>, upstreams: Option<&[UpstreamDraft]>) -> Option<Self> {
        let fields = value.object()?;
        let name = fields.text("name");
        let matches = fields.read("match", Matches::default(), Matches::read);
        let skip = fields.read("skip", Matches::default(), Matches::read);
        let steer = fields.get("steer").and_then(Steer::read);
        let trust_incoming = fields.boolean("trustIncoming");
        let keys = Key::read_all(&fields);
        // A whole second, because an issued key holds its time in seconds.
        let starts_at = fields.optional("startsAt", |value| match value.date()? {
            time if time.as_millis() % 1_000 == 0 => Some(time),
            _ => value.refuse_as(&"a whole second"),
        });
        let response_header = fields.optional("responseHeader", |value| match value.header_name()? {
            name if name == "set-cookie" => {
                value.problem("\"set-cookie\" carries something else; use a header that carries nothing else")
            }
            name => Some(name),
        });
        let route_decides = matches!(steer, Some(Steer::RandomValueHeader(_))) && !fields.has("versions");
        let versions = if route_decides {
            Some((Vec::new(), 0))
        } else {
            fields.require("versions");
            fields.get("versions").and_then(|value| version::read(value, upstreams))
        };
        let known = versions.as_ref().map(|(versions, _)| versions.as_slice()).filter(|_| !route_decides);
        let with_default = known.zip(versions.as_ref().map(|(_, default)| *default));
        let steps = fields
            .read("schedule", Vec::new(), |value| schedule::read(value, with_default, starts_at.flatten()));
        let rollback = fields.optional("rollback", |value| Rollback::read(value, known.zip(upstreams)));
        if let (Some(steer), Some(keys), Some((versions, default))) = (&steer, &keys, &versions) {
            steer.validate(&fields, keys, trust_incoming == Some(true), versions, *default);
        }
        if let (Some([]), Some(versions)) = (keys.as_deref(), known)
            && versions.iter().any(|version| !version.allow.is_empty() || !version.deny.is_empty())
            && (!fields.has("hashOn") || fields.get("hashOn").is_some_and(is_empty_list))
        {
            fields.contradiction("versions", "allow and deny list keys, but no request has one. Add hashOn.");
        }
        let (versions, default) = versions?;
        let name = name?;
        let weights: Vec<u32> = versions.iter().map(|version| version.weight).collect();
        let starts_at = starts_at?;
        let own_hosts = || hosts_of_clusters(&versions, value.proxy()).map(Matches::of_hosts);
        Some(Release {
            matches: Some(matches?)
                .filter(|matches| !matches.is_empty())
                .or_else(own_hosts)
                .unwrap_or_default(),
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

    /// Returns the cookie that is issued to a request without a key, if the release issues one.
    pub fn issues(&self) -> Option<&Cookie> {
        self.keys.iter().filter_map(Key::cookie).find(|cookie| cookie.issue.is_some())
    }

    /// Returns whether the assignment of buckets can change while the policy stays the same.
    pub fn changes(&self) -> bool {
        self.schedule.changes() || self.judging_rollback().is_some()
    }

    /// Returns the rollback if it can roll a version back.
    pub fn judging_rollback(&self) -> Option<&Rollback> {
        self.rollback.as_ref().filter(|rollback| rollback.judges)
    }
}
