//! The metrics of a policy that exist from the beginning, at 0.
//!
//! Prometheus sees no rise in a counter that begins at 1, so an alert on the first outage would never fire. All labels that
//! follow from the policy are listed here. Not listed are:
//!
//! - the statuses of an app's responses to a probe that passes through,
//! - the transitions out of a phase that only an earlier document made possible.
//!
//! Each metric takes memory and time in every scrape. So a document has at most [`MAX_METRICS`], apart from those of its
//! releases. They are left out by [`MetricRank`]. What is left out is defined when it is first counted.

use super::{CheckCount, LifecycleChange, Metric, ResponseCount};
use crate::decision::gate::fail_open::FailOpen;
use crate::decision::probe::drain::DrainReply;
use crate::decision::probe::health::NOT_GRPC;
use crate::decision::probe::health::call::HealthResponse;
use crate::decision::probe::result::ProbeStatus;
use crate::decision::probe::status::StatusReply;
use crate::decision::probe::{UNKNOWN, UNKNOWN_STATUS};
use crate::decision::release::AssignmentReason;
use crate::decision::reply::ProbeTarget;
use crate::policy::gate::Fallback;
use crate::policy::probe::{Basis, Probe, ProbeKind};
use crate::policy::upstream::UpstreamId;
use crate::policy::{Mode, Policy};
use crate::readiness::{Phase, possible};
use crate::rollback::RollbackCause;

/// The most metrics of a document that exist from the beginning, apart from those of its releases. Its policies share them by
/// their watched upstreams.
pub const MAX_METRICS: usize = 7_000;

/// What each policy may have of them at least.
const MIN_METRICS: usize = 100;

/// Returns the most metrics of a policy. `watched` is [`Policy::watched`] of all policies of the document.
pub fn most(policy: &Policy, watched: usize) -> usize {
    let share = MAX_METRICS * policy.watched() / watched.max(1);
    if watched == 0 { MAX_METRICS } else { share.max(MIN_METRICS) }
}

/// How soon a metric is left out in a policy that has too many. A rank is left out as a whole, with all that follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MetricRank {
    /// The shares of versions. They come first, as gauges wait for them.
    Shares,
    /// What releases count. It is never left out.
    Releases,
    /// What there is once for each probe, or once for the proxy.
    Proxy,
    /// The first sign of an outage: transitions from ready to not ready, checks that are not sent, gates that fail open.
    Outages,
    /// What follows an outage: all other transitions and checks, gated requests and fallbacks.
    Consequences,
    /// Replies to probes for one check.
    SingleChecks,
}

impl MetricRank {
    /// All ranks. The last ones are left out first.
    pub const ALL: &'static [MetricRank] = &[
        MetricRank::Shares,
        MetricRank::Releases,
        MetricRank::Proxy,
        MetricRank::Outages,
        MetricRank::Consequences,
        MetricRank::SingleChecks,
    ];
}

/// Returns the ranks of which a policy's metrics exist from the beginning, if it may have at most `most`.
pub fn ranks(policy: &Policy, most: usize) -> &'static [MetricRank] {
    let mut count = 0;
    let is_left_out = |rank: &MetricRank| {
        if *rank > MetricRank::Releases {
            of_rank(policy, *rank, &mut |_| count += 1);
        }
        count > most
    };
    let end = MetricRank::ALL.iter().position(is_left_out).unwrap_or(MetricRank::ALL.len());
    MetricRank::ALL.get(..end).unwrap_or_default()
}

/// Calls `act` with each metric of a policy that has this rank.
pub fn of_rank(policy: &Policy, rank: MetricRank, act: &mut dyn FnMut(Metric)) {
    if policy.mode == Mode::Off {
        return;
    }
    match rank {
        MetricRank::Shares => shares(policy, act),
        MetricRank::Releases => releases(policy, act),
        MetricRank::Proxy => proxy(policy, act),
        MetricRank::Outages => {
            transitions(policy, true, act);
            checks(policy, &[CheckCount::Error], act);
            failed_open(policy, act);
        }
        MetricRank::Consequences => {
            transitions(policy, false, act);
            checks(policy, &[CheckCount::Passed, CheckCount::Failed], act);
            gates(policy, act);
        }
        MetricRank::SingleChecks => single_checks(policy, act),
    }
}

fn shares(policy: &Policy, act: &mut dyn FnMut(Metric)) {
    for (release, of) in policy.releases.iter().enumerate() {
        for version in 0..of.versions.len() {
            act(Metric::Share { release, version });
        }
    }
}

fn releases(policy: &Policy, act: &mut dyn FnMut(Metric)) {
    for (release, of) in policy.releases.iter().enumerate() {
        if of.schedule.changes() {
            act(Metric::ScheduleStep { release });
        }
        for version in 0..of.versions.len() {
            // In mode `shadow` no request is steered.
            if policy.mode == Mode::Enforce {
                act(Metric::Misrouted { release, version });
            }
            for reason in AssignmentReason::ALL.into_iter().filter(|reason| reason.occurs(&of.steer)) {
                act(Metric::Assignment { release, version, reason });
            }
            let Some(rollback) = &of.rollback else {
                continue;
            };
            for result in ResponseCount::ALL {
                act(Metric::Response { release, version, result });
            }
            for cause in RollbackCause::ALL.into_iter().filter(|cause| cause.is_judged(rollback)) {
                act(Metric::Rollback { release, version, cause });
            }
        }
    }
}

fn proxy(policy: &Policy, act: &mut dyn FnMut(Metric)) {
    let probes = &policy.probes;
    for to in LifecycleChange::ALL {
        let is_possible = match to {
            LifecycleChange::Started => probes.of(ProbeKind::Startup).is_some(),
            LifecycleChange::Draining | LifecycleChange::NotDraining => probes.drain.is_some(),
        };
        if is_possible {
            act(Metric::Lifecycle { to });
        }
    }
    for (index, probe) in probes.endpoints.iter().enumerate() {
        let target = ProbeTarget::Endpoint(index);
        answers(probe, target, has_doubts(probe), act);
        if names_checks(probe) && !probe.path.ends_with('/') {
            act(Metric::ProbeAnswer { target, code: UNKNOWN_STATUS, result: UNKNOWN.code });
        }
    }
    if let Some(drain) = probes.drain.as_ref().filter(|drain| drain.path.is_some()) {
        for reply in DrainReply::ALL {
            for code in reply.statuses(drain).iter().copied() {
                act(Metric::ProbeAnswer { target: ProbeTarget::Drain, code, result: reply.spec().code });
            }
        }
    }
    if probes.status.is_some() {
        for reply in StatusReply::ALL {
            for code in reply.statuses().iter().copied() {
                act(Metric::ProbeAnswer { target: ProbeTarget::Status, code, result: reply.spec().code });
            }
        }
    }
    if !probes.grpc_services.is_empty() {
        for response in HealthResponse::ALL {
            let (code, result) = (response.status(), response.spec().code);
            act(Metric::ProbeAnswer { target: ProbeTarget::Grpc, code, result });
        }
        let (code, result) = (NOT_GRPC, HealthResponse::Unreadable.spec().code);
        act(Metric::ProbeAnswer { target: ProbeTarget::Grpc, code, result });
    }
}

fn answers(probe: &Probe, target: ProbeTarget, has_doubts: bool, act: &mut dyn FnMut(Metric)) {
    let degraded = has_doubts.then_some((probe.statuses.degraded, ProbeStatus::Degraded));
    let passed = (probe.statuses.passed, ProbeStatus::Passed);
    let failed = (probe.statuses.failed, ProbeStatus::Failed);
    for (code, status) in [passed, failed].into_iter().chain(degraded) {
        act(Metric::ProbeAnswer { target, code, result: status.name() });
    }
}

/// Returns whether the probe has checks, and can be asked for one of them.
fn names_checks(probe: &Probe) -> bool {
    matches!(&probe.basis, Basis::Checks(checks) if !checks.components.is_empty())
}

/// Returns whether the probe can be degraded. A startup probe passes or fails.
fn has_doubts(probe: &Probe) -> bool {
    names_checks(probe) && probe.kind != ProbeKind::Startup
}

fn transitions(policy: &Policy, to_outage: bool, act: &mut dyn FnMut(Metric)) {
    let not_ready = Phase::NotReady { until: None }.name();
    let ready = Phase::Ready.name();
    for (upstream, of) in policy.upstream_ids() {
        possible::transitions(of, &mut |transition| {
            let (from, to, reason) = (transition.from, transition.to, transition.reason.code());
            if (from == ready && to == not_ready) == to_outage {
                act(Metric::Transition { upstream, from, to, reason });
            }
        });
    }
}

fn checks(policy: &Policy, results: &[CheckCount], act: &mut dyn FnMut(Metric)) {
    for (upstream, _) in policy.upstream_ids().filter(|(_, of)| of.check.is_some()) {
        for result in results.iter().copied() {
            act(Metric::Check { upstream, result });
        }
    }
}

fn failed_open(policy: &Policy, act: &mut dyn FnMut(Metric)) {
    for upstream in policy.gated.iter().copied().filter(|_| policy.may_fail_open()) {
        for why in FailOpen::ALL {
            act(Metric::FailedOpen { upstream, why });
        }
    }
}

fn gates(policy: &Policy, act: &mut dyn FnMut(Metric)) {
    for upstream in policy.gated.iter().copied() {
        for_each_reason(policy, upstream, &mut |reason| act(Metric::Gated { upstream, reason }));
    }
    // Two gates of one upstream may have the same fallback. To define a metric again changes nothing.
    for gate in &policy.gates {
        let upstream = gate.upstream;
        let to = match &gate.fallback {
            Some(Fallback::Upstream { upstream, .. }) => Some(*upstream),
            Some(Fallback::Answer(_)) => None,
            None => continue,
        };
        let mut can_close = false;
        for_each_reason(policy, upstream, &mut |_| can_close = true);
        if can_close {
            act(Metric::Fallback { upstream, to });
        }
    }
}

fn for_each_reason(policy: &Policy, upstream: UpstreamId, act: &mut dyn FnMut(&'static str)) {
    if let Some(upstream) = policy.upstream(upstream) {
        possible::reasons_to_wait(upstream, &mut |reason| act(reason.code()));
    }
}

fn single_checks(policy: &Policy, act: &mut dyn FnMut(Metric)) {
    for (index, probe) in policy.probes.endpoints.iter().enumerate() {
        for component in probe.checks().iter().flat_map(|checks| &checks.components) {
            answers(probe, ProbeTarget::Check(index, component.upstream), true, act);
        }
    }
}

#[cfg(not(target_arch = "wasm32"))]
#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Returns a policy whose upstreams each have a check, a breaker and a gate, with two releases.
    fn policy(upstreams: usize) -> Policy {
        let names: Vec<String> = (0..upstreams).map(|index| format!("u{index}")).collect();
        let check = json!({"httpGet": {}, "periodSeconds": 60});
        let upstream = |name| json!({"cluster": name, "readinessProbe": check, "circuitBreaker": {}});
        let release = |name: &str, first: usize| {
            let version = |index: usize| json!({"name": format!("v{index}"), "upstream": names[first + index], "weight": 1, "default": index == 0});
            json!({"name": name, "steer": {"header": "x-v"}, "versions": [version(0), version(1)]})
        };
        let document = json!({
            "name": "shop",
            "upstreams": names.iter().map(|name| (name.clone(), upstream(name))).collect::<serde_json::Map<_, _>>(),
            "releases": [release("one", 0), release("two", 2)],
            "gates": names.iter().map(|name| json!({"upstream": name})).collect::<Vec<_>>(),
        });
        Policy::from_json(document.to_string().as_bytes()).unwrap()
    }

    fn count(policy: &Policy, ranks: &[MetricRank]) -> usize {
        let mut count = 0;
        ranks.iter().for_each(|rank| of_rank(policy, *rank, &mut |_| count += 1));
        count
    }

    /// `docs/evaluate/limits.md` has these numbers.
    #[test]
    fn a_policy_has_so_many_metrics_from_the_beginning() {
        let policy = policy(50);
        let ranks = ranks(&policy, most(&policy, 50));
        assert_eq!(ranks, MetricRank::ALL);
        assert_eq!(count(&policy, ranks), 50 * (9 + 3 + 5) + 2 * 2 * (1 + 1 + 9));
    }

    #[test]
    fn a_large_policy_has_the_first_signs_of_an_outage_and_leaves_the_rest_out() {
        let policy = policy(2_000);
        let ranks = ranks(&policy, most(&policy, 2_000));
        assert_eq!(ranks.last(), Some(&MetricRank::Outages));
        assert_eq!(count(&policy, ranks), 2_000 * 3 + 2 * 2 * (1 + 1 + 9));
    }

    #[test]
    fn the_policies_of_a_document_share_the_metrics() {
        let policy = policy(50);
        assert_eq!(most(&policy, 50), MAX_METRICS);
        assert_eq!(most(&policy, 100), MAX_METRICS / 2);
        assert_eq!(most(&policy, 1_000), MAX_METRICS / 20);
        assert_eq!(most(&policy, 1_000_000), MIN_METRICS);
    }
}
