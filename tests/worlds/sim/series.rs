//! Checks that every counter of a policy was to exist at 0 from the beginning.

use std::collections::BTreeSet;

use graygate::policy::document::Node;
use graygate::policy::probe::Basis;
use graygate::policy::set::PolicySet;
use graygate::policy::{Mode, Policy};
use graygate::proxy::MetricKind;
use graygate::worker::metric::initial;

/// Returns the counters that no document lists for its beginning. `documents` are all that the world had.
pub fn unlisted<'m>(
    documents: &BTreeSet<String>,
    metrics: impl Iterator<Item = (&'m str, MetricKind)>,
) -> Vec<&'m str> {
    let policies: Vec<Policy> = documents.iter().flat_map(|document| policies(document)).collect();
    let listed: BTreeSet<String> = policies.iter().flat_map(names).collect();
    let is_unlisted = |name: &&str| {
        let in_force = name.replace("mode=.=shadow;.;", "");
        name.contains("policy=.=") && !listed.contains(&in_force) && !is_unbounded(&policies, name)
    };
    metrics
        .filter(|(_, kind)| *kind == MetricKind::Counter)
        .map(|(name, _)| name)
        .filter(is_unlisted)
        .collect()
}

fn policies(document: &str) -> Vec<Policy> {
    let document: Option<Node> = serde_json::from_str(document).ok();
    let set = document.and_then(|document| PolicySet::from_document(&document).ok());
    set.map(|set| set.policies).unwrap_or_default()
}

/// Returns the names that a policy's metrics have in mode `enforce`.
fn names(policy: &Policy) -> Vec<String> {
    let policy = Policy { mode: Mode::Enforce, ..policy.clone() };
    let mut names = Vec::new();
    for rank in initial::MetricRank::ALL {
        initial::of_rank(&policy, *rank, &mut |metric| names.push(metric.name(&policy)));
    }
    names
}

/// Returns whether the counter is one of those that cannot be listed: the status of an app's own response, and a phase that
/// only an earlier document made possible.
fn is_unbounded(policies: &[Policy], name: &str) -> bool {
    let endpoints = policies.iter().flat_map(|policy| &policy.probes.endpoints);
    let is_of_app = |name: &str| {
        let mut apps = endpoints.clone().filter(|probe| matches!(probe.basis, Basis::App(_)));
        apps.any(|probe| name.contains(&format!("probe=.={};.;", probe.name)))
    };
    name.contains("reason=.=policy-changed;.;")
        || name.starts_with("graygate_probe_answers_total.") && is_of_app(name)
}
