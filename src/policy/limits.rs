//! The most that a policy may hold.
//!
//! Each VM of a proxy compiles the policy on the thread that serves requests, and requests wait meanwhile. The limits keep
//! that time, the work of each tick and the memory small. `make sizes` measures what policies at the limits cost.

use super::document::Node;
use super::gate::Gate;
use super::matcher::Matches;
use super::probe::{Basis, Probes};
use super::reader::{Fields, Value};
use super::release::Release;
use super::upstream::Upstream;
use crate::value::time::millis;

/// The largest document, in bytes.
pub const MAX_DOCUMENT_BYTES: usize = 1_048_576;
/// The most upstreams.
pub const MAX_UPSTREAMS: usize = 2_000;
/// The most releases.
pub const MAX_RELEASES: usize = 500;
/// The most versions of all releases together.
pub const MAX_VERSIONS: usize = 2_000;
/// The most gates.
pub const MAX_GATES: usize = 2_000;
/// The most weights in the schedules of all releases together.
pub const MAX_SCHEDULED_WEIGHTS: usize = 10_000;
/// The most keys in the `allow` and `deny` lists of all versions together.
pub const MAX_KEYS: usize = 40_000;
/// The most alternatives in all matches together. Each further host of an alternative counts as one.
pub const MAX_MATCHES: usize = 5_000;
/// The most references to upstreams in the checks of all probes together.
pub const MAX_PROBE_CHECKS: usize = 2_000;
/// The most checks a second of all upstreams together, each by its shortest period.
pub const MAX_CHECKS_PER_SECOND: u64 = 500;

/// Reports a list or an object of the document that has too many entries, before its entries are read.
pub fn check_counts(fields: &Fields<'_>) -> Option<()> {
    let most = [
        ("upstreams", MAX_UPSTREAMS, "Split the policy by host or by team."),
        ("releases", MAX_RELEASES, "Split the policy by host or by team."),
        ("gates", MAX_GATES, "List several paths in one gate's match, or split the policy."),
    ];
    let mut is_valid = Some(());
    for (key, most, advice) in most {
        let value = fields.get(key);
        let count = value.map_or(0, |value| match value.node() {
            Node::List(items) => items.len(),
            Node::Object(entries) => entries.len(),
            _ => 0,
        });
        if count > most {
            is_valid = value.and_then(|value| refuse(value, key, count as u64, most as u64, advice));
        }
    }
    is_valid
}

/// What a policy holds, as far as it is counted.
pub struct Contents<'p> {
    /// See [`super::Policy::upstreams`].
    pub upstreams: &'p [Upstream],
    /// See [`super::Policy::probes`].
    pub probes: &'p Probes,
    /// See [`super::Policy::releases`].
    pub releases: &'p [Release],
    /// See [`super::Policy::gates`].
    pub gates: &'p [Gate],
}

/// Reports what a policy has too much of in all.
pub fn check_sums(policy: &Contents<'_>, document: &Value<'_>, fields: &Fields<'_>) -> Option<()> {
    let releases = || policy.releases.iter();
    let versions = || releases().flat_map(|release| &release.versions);
    let matches = || {
        let of_releases = releases().flat_map(|release| [&release.matches, &release.skip]);
        let of_versions = versions().map(|version| &version.overrides);
        let breakers = policy.upstreams.iter().filter_map(|upstream| upstream.breaker.as_ref());
        let of_breakers = breakers.flat_map(|breaker| [&breaker.record, &breaker.ignore]);
        of_releases.chain(of_versions).chain(of_breakers).chain(policy.gates.iter().map(|gate| &gate.matches))
    };
    let weights: usize = releases().map(|release| release.schedule.weights()).sum();
    let keys: usize = versions().map(|version| version.allow.len() + version.deny.len()).sum();
    let matches: usize = matches().map(Matches::count).sum();
    let checks: usize = policy
        .probes
        .endpoints
        .iter()
        .map(|probe| match &probe.basis {
            Basis::Checks(checks) => checks.components.len(),
            Basis::App(_) => 0,
        })
        .sum();
    let rate: u64 = policy
        .upstreams
        .iter()
        .filter_map(|upstream| Some(1_000_000 / millis(upstream.check.as_ref()?.periods.shortest()).max(1)))
        .sum();
    let sums = [
        (
            "releases",
            "versions in all releases",
            versions().count(),
            MAX_VERSIONS,
            "Split the policy by host or by team.",
        ),
        (
            "releases",
            "weights in all schedules",
            weights,
            MAX_SCHEDULED_WEIGHTS,
            "Use fewer steps, and `over` for a ramp.",
        ),
        (
            "releases",
            "keys in all allow and deny lists",
            keys,
            MAX_KEYS,
            "Set a header for these users instead, and use a version's match.",
        ),
        (
            "",
            "alternatives and hosts in all matches",
            matches,
            MAX_MATCHES,
            "Use prefixes, or split the policy by host.",
        ),
        (
            "probes",
            "checks in all probes",
            checks,
            MAX_PROBE_CHECKS,
            "Check only the upstreams that every request needs.",
        ),
    ];
    let mut is_valid = Some(());
    for (key, what, count, most, advice) in sums {
        if count > most {
            let value = fields.get(key).unwrap_or(document);
            is_valid = refuse(value, what, count as u64, most as u64, advice);
        }
    }
    if rate > MAX_CHECKS_PER_SECOND * 1_000 {
        let value = fields.get("upstreams").unwrap_or(document);
        let advice = "Use longer periods: with n upstreams, at least n / 500 seconds.";
        is_valid = refuse(value, "checks a second", rate.div_ceil(1_000), MAX_CHECKS_PER_SECOND, advice);
    }
    is_valid
}

fn refuse(value: &Value<'_>, what: &str, count: u64, most: u64, advice: &str) -> Option<()> {
    value.problem(format!("{count} {what}; allowed: at most {most}. {advice}"))
}
