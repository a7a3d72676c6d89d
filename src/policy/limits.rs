//! The most that a document may hold. If it has several policies, the limits apply to all of them together.
//!
//! Each VM of a proxy compiles the policies on the thread that serves requests, and requests wait meanwhile. The limits
//! keep that time, the work of each tick and the memory small. `make sizes` measures what policies at the limits cost.

use super::document::Node;
use super::gate::Gate;
use super::matcher::Matches;
use super::probe::{Basis, Probes};
use super::reader::{Fields, Value};
use super::release::Release;
use super::upstream::Upstream;
use crate::value::host::Hosts;
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
/// The most alternatives in all matches together. Each further name of a host counts as one.
pub const MAX_MATCHES: usize = 5_000;
/// The most references to upstreams in the checks of all probes together.
pub const MAX_PROBE_CHECKS: usize = 2_000;
/// The most checks a second of all upstreams together, each by its shortest period.
pub const MAX_CHECKS_PER_SECOND: u64 = 500;

/// What the policies of a document hold, as far as they have been read and are valid.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    upstreams: usize,
    releases: usize,
    gates: usize,
    versions: usize,
    weights: usize,
    keys: usize,
    matches: usize,
    checks: usize,
    /// The checks of a thousand seconds.
    rate: u64,
    /// The number of policies.
    policies: usize,
}

impl Totals {
    /// Reports that there is too much of something.
    fn refuse(&self, value: &Value<'_>, what: &str, count: u64, most: u64, advice: &str) -> Option<()> {
        if self.policies == 0 {
            return value.problem(format!("{count} {what}; allowed: at most {most}. {advice}"));
        }
        value.problem(format!(
            "{count} {what}, with those of the policies before it; allowed: at most {most} in one document. Give this proxy fewer policies."
        ))
    }
}

/// Reports a list or an object of a policy that has too many entries, before its entries are read. `totals` is what the
/// policies before it hold.
pub fn check_counts(fields: &Fields<'_>, totals: &Totals) -> Option<()> {
    let most = [
        ("upstreams", totals.upstreams, MAX_UPSTREAMS, "Split the policy by host or by team."),
        ("releases", totals.releases, MAX_RELEASES, "Split the policy by host or by team."),
        ("gates", totals.gates, MAX_GATES, "List several paths in one gate's match, or split the policy."),
    ];
    let mut is_valid = Some(());
    for (key, before, most, advice) in most {
        let value = fields.get(key);
        let count = value.map_or(0, |value| match value.node() {
            Node::List(items) => items.len(),
            Node::Object(entries) => entries.len(),
            _ => 0,
        });
        let sum = before + count;
        if sum > most && count > 0 {
            is_valid = value.and_then(|value| totals.refuse(value, key, sum as u64, most as u64, advice));
        }
    }
    is_valid
}

/// What a policy holds, as far as it is counted.
pub struct Contents<'p> {
    /// See [`super::Policy::hosts`].
    pub hosts: &'p Hosts,
    /// See [`super::Policy::upstreams`].
    pub upstreams: &'p [Upstream],
    /// See [`super::Policy::probes`].
    pub probes: &'p Probes,
    /// See [`super::Policy::releases`].
    pub releases: &'p [Release],
    /// See [`super::Policy::gates`].
    pub gates: &'p [Gate],
}

/// Reports what a policy has too much of in all, together with the policies before it. Adds it to their `totals` if it
/// has not.
pub fn check_sums(
    policy: &Contents<'_>,
    document: &Value<'_>,
    fields: &Fields<'_>,
    totals: &mut Totals,
) -> Option<()> {
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
    let matches: usize = matches().map(Matches::count).sum::<usize>() + policy.hosts.count();
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
    let sum = Totals {
        upstreams: totals.upstreams + policy.upstreams.len(),
        releases: totals.releases + policy.releases.len(),
        gates: totals.gates + policy.gates.len(),
        versions: totals.versions + versions().count(),
        weights: totals.weights + weights,
        keys: totals.keys + keys,
        matches: totals.matches + matches,
        checks: totals.checks + checks,
        rate: totals.rate + rate,
        policies: totals.policies + 1,
    };
    let sums = [
        (
            "releases",
            "versions in all releases",
            sum.versions,
            MAX_VERSIONS,
            "Split the policy by host or by team.",
        ),
        (
            "releases",
            "weights in all schedules",
            sum.weights,
            MAX_SCHEDULED_WEIGHTS,
            "Use fewer steps, and `over` for a ramp.",
        ),
        (
            "releases",
            "keys in all allow and deny lists",
            sum.keys,
            MAX_KEYS,
            "Set a header for these users instead, and use a version's match.",
        ),
        (
            "",
            "alternatives and names of hosts in all matches",
            sum.matches,
            MAX_MATCHES,
            "Use prefixes, or split the policy by host.",
        ),
        (
            "probes",
            "checks in all probes",
            sum.checks,
            MAX_PROBE_CHECKS,
            "Check only the upstreams that every request needs.",
        ),
    ];
    let mut is_valid = Some(());
    for (key, what, count, most, advice) in sums {
        if count > most {
            let value = fields.get(key).unwrap_or(document);
            is_valid = totals.refuse(value, what, count as u64, most as u64, advice);
        }
    }
    if sum.rate > MAX_CHECKS_PER_SECOND * 1_000 {
        let value = fields.get("upstreams").unwrap_or(document);
        let advice = "Use longer periods: with n upstreams, at least n / 500 seconds.";
        is_valid =
            totals.refuse(value, "checks a second", sum.rate.div_ceil(1_000), MAX_CHECKS_PER_SECOND, advice);
    }
    if is_valid.is_some() {
        *totals = sum;
    }
    is_valid
}
