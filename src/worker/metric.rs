//! One counter or gauge with the values of its labels, and its name in the proxy's own statistics.
//!
//! [`spec`] has the table of metrics. The number of metrics is bounded, because all values come from the policy. The only
//! exception is the status of an app's response to a probe that passes through.

pub mod initial;
pub mod spec;

use crate::decision::gate::fail_open::FailOpen;
use crate::decision::release::AssignmentReason;
use crate::decision::reply::ProbeTarget;
use crate::policy::upstream::UpstreamId;
use crate::policy::{Mode, Policy};
use crate::rollback::RollbackCause;
use crate::value::code::CodeSpec;
use spec::MetricSpec;

/// A counter or a gauge, with its labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "tool", derive(strum::EnumDiscriminants))]
#[cfg_attr(
    feature = "tool",
    strum_discriminants(name(MetricVariant), derive(strum::EnumIter), doc = "The variants of [`Metric`].")
)]
pub enum Metric {
    /// Counts requests by the version that they got.
    Assignment {
        /// The index of the release in the policy.
        release: usize,
        /// The index of the version in the release.
        version: usize,
        /// The reason for which they got it.
        reason: AssignmentReason,
    },
    /// Counts replies and responses to probes.
    ProbeAnswer {
        /// The probe, or what else was asked for.
        target: ProbeTarget,
        /// The status of the reply or response.
        code: u32,
        /// The result as a code, such as `passed` or `failed`.
        result: &'static str,
    },
    /// Counts requests that a gate kept from its upstream.
    Gated {
        /// The upstream that is not ready.
        upstream: UpstreamId,
        /// The code of the reason for which it is not ready.
        reason: &'static str,
    },
    /// Counts requests that a closed gate let through.
    FailedOpen {
        /// The upstream that is not ready.
        upstream: UpstreamId,
        /// The reason for which its gate failed open.
        why: FailOpen,
    },
    /// Counts requests that got a fallback.
    Fallback {
        /// The upstream that is not ready.
        upstream: UpstreamId,
        /// The upstream to which the request went instead. `None` for the gate's static answer.
        to: Option<UpstreamId>,
    },
    /// Counts the transitions of an upstream.
    Transition {
        /// The upstream that entered another phase.
        upstream: UpstreamId,
        /// The phase that it left.
        from: &'static str,
        /// The phase that it entered.
        to: &'static str,
        /// The code of the reason.
        reason: &'static str,
    },
    /// Counts checks by result.
    Check {
        /// The upstream that was checked.
        upstream: UpstreamId,
        /// The result.
        result: CheckCount,
    },
    /// Counts changes of the proxy's lifecycle.
    Lifecycle {
        /// The change.
        to: LifecycleChange,
    },
    /// Counts the responses of a version in a release with a rollback.
    Response {
        /// The index of the release in the policy.
        release: usize,
        /// The index of the version in the release.
        version: usize,
        /// The result.
        result: ResponseCount,
    },
    /// Counts the rollbacks of a version.
    Rollback {
        /// The index of the release in the policy.
        release: usize,
        /// The index of the version in the release.
        version: usize,
        /// The limit that the version exceeded.
        cause: RollbackCause,
    },
    /// Counts the steps of a release's schedule that have begun.
    ScheduleStep {
        /// The index of the release in the policy.
        release: usize,
    },
    /// Counts the requests of a version that were found to go elsewhere than to its cluster.
    Misrouted {
        /// The index of the release in the policy.
        release: usize,
        /// The index of the version in the release.
        version: usize,
    },
    /// A gauge with the share of requests that a version gets, in hundredths of a percent.
    Share {
        /// The index of the release in the policy.
        release: usize,
        /// The index of the version in the release.
        version: usize,
    },
    /// A gauge that is 1 while the upstream is Ready or on a ramp, and otherwise 0.
    Ready {
        /// The upstream. Only an upstream with a check or a breaker has this gauge.
        upstream: UpstreamId,
    },
    /// A gauge that is 1 while the proxy drains, and otherwise 0.
    Draining,
    /// A gauge that is 1 if the policy's mode is `enforce`, and otherwise 0.
    Enforced,
    /// A gauge with a hash of the document. It shows which proxies have the same document.
    Document,
}

/// The result of a check, as it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "tool", derive(strum::EnumIter))]
pub enum CheckCount {
    /// It passed.
    Passed,
    /// It failed.
    Failed,
    /// It could not be sent.
    Error,
}

/// The result of a response, as it is counted for a rollback.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "tool", derive(strum::EnumIter))]
pub enum ResponseCount {
    /// It is neither a failure nor slow.
    Success,
    /// It is no failure, but slow.
    Slow,
    /// It is a failure.
    Failure,
    /// It counted as a success or as slow, and then broke off.
    BrokenOff,
}

/// A change of the proxy's lifecycle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "tool", derive(strum::EnumIter))]
pub enum LifecycleChange {
    /// The startup probe's checks have passed.
    Started,
    /// The proxy was ordered to drain, or the checks of an upstream tell of a drain.
    Draining,
    /// No reason to drain is left, or a policy without one came into use.
    NotDraining,
}

const OF_CHECKS: &str = "`result` of `graygate_checks_total`";

impl CheckCount {
    /// Returns the code in metrics.
    pub fn spec(self) -> CodeSpec {
        match self {
            CheckCount::Passed => {
                const { CodeSpec::new("passed", OF_CHECKS, "The check got the response that it expects.", "") }
            }
            CheckCount::Failed => {
                const {
                    CodeSpec::new(
                        "failed",
                        OF_CHECKS,
                        "The check got another response, or none in time.",
                        "Send the same request to the upstream by hand. `{reason}` in the log says how the check failed.",
                    )
                }
            }
            CheckCount::Error => {
                const {
                    CodeSpec::new(
                        "error",
                        OF_CHECKS,
                        "Envoy did not send the check, so it says nothing about the upstream.",
                        "Compare `cluster` in the policy with Envoy's `/clusters`. The log has the cause once.",
                    )
                }
            }
        }
    }
}

const OF_RESPONSES: &str = "`result` of `graygate_responses_total`";

impl ResponseCount {
    /// All results.
    pub const ALL: [ResponseCount; 4] =
        [ResponseCount::Success, ResponseCount::Slow, ResponseCount::Failure, ResponseCount::BrokenOff];

    /// Returns the code in metrics.
    pub fn spec(self) -> CodeSpec {
        match self {
            ResponseCount::Success => {
                const { CodeSpec::new("success", OF_RESPONSES, "The response is neither a failure nor slow.", "") }
            }
            ResponseCount::Slow => {
                const {
                    CodeSpec::new(
                        "slow",
                        OF_RESPONSES,
                        "The response took longer than `rollback.latency.above`.",
                        "Compare the share of slow responses with that of the stable version. `latency.above` sets the limit.",
                    )
                }
            }
            ResponseCount::Failure => {
                const {
                    CodeSpec::new(
                        "failure",
                        OF_RESPONSES,
                        "The response is a failure by `rollback.failOn`.",
                        "Look at the version's own errors, and compare the share with that of the stable version.",
                    )
                }
            }
            ResponseCount::BrokenOff => {
                const {
                    CodeSpec::new(
                        "broken-off",
                        OF_RESPONSES,
                        "The response was counted as `success` or `slow`, and broke off later. It now counts as a failure.",
                        "Look for crashes of the version, and for timeouts of its streams.",
                    )
                }
            }
        }
    }
}

const OF_LIFECYCLE: &str = "`to` of `graygate_lifecycle_changes_total`, log";

impl LifecycleChange {
    /// All changes.
    pub const ALL: [LifecycleChange; 3] =
        [LifecycleChange::Started, LifecycleChange::Draining, LifecycleChange::NotDraining];

    /// Returns the code in metrics.
    pub fn spec(self) -> CodeSpec {
        match self {
            LifecycleChange::Started => {
                const {
                    CodeSpec::new(
                        "started",
                        OF_LIFECYCLE,
                        "The checks of `probes.startup` have passed for the first time.",
                        "",
                    )
                }
            }
            LifecycleChange::Draining => {
                const {
                    CodeSpec::new(
                        "draining",
                        OF_LIFECYCLE,
                        "Someone ordered the proxy to drain, or the upstream of `drain.alsoWhen` does. Readiness fails, after `readinessAfter`.",
                        "If nobody should have ordered it, send `DELETE` to the drain path and restrict `probes.drain.from`.",
                    )
                }
            }
            LifecycleChange::NotDraining => {
                const {
                    CodeSpec::new(
                        "not-draining",
                        OF_LIFECYCLE,
                        "The drain was taken back and the upstream of `drain.alsoWhen` passes, or the policy no longer has `probes.drain`.",
                        "",
                    )
                }
            }
        }
    }
}

impl Metric {
    /// Returns the metric's row in the table.
    pub fn spec(self) -> &'static MetricSpec {
        match self {
            Metric::Assignment { .. } => &spec::ASSIGNMENTS,
            Metric::ProbeAnswer { .. } => &spec::PROBE_ANSWERS,
            Metric::Gated { .. } => &spec::GATED,
            Metric::FailedOpen { .. } => &spec::FAILED_OPEN,
            Metric::Fallback { .. } => &spec::FALLBACKS,
            Metric::Transition { .. } => &spec::TRANSITIONS,
            Metric::Check { .. } => &spec::CHECKS,
            Metric::Lifecycle { .. } => &spec::LIFECYCLE,
            Metric::Response { .. } => &spec::RESPONSES,
            Metric::Rollback { .. } => &spec::ROLLBACKS,
            Metric::ScheduleStep { .. } => &spec::SCHEDULE_STEPS,
            Metric::Misrouted { .. } => &spec::MISROUTED,
            Metric::Share { .. } => &spec::SHARE,
            Metric::Ready { .. } => &spec::READY,
            Metric::Draining => &spec::DRAINING,
            Metric::Enforced => &spec::ENFORCED,
            Metric::Document => &spec::DOCUMENT,
        }
    }

    /// Returns the name in the proxy's statistics, which contains the labels.
    pub fn name(self, policy: &Policy) -> String {
        let own = policy.name.as_str();
        let upstream = |id| policy.name_of(id);
        let release_name =
            |release: usize| policy.releases.get(release).map_or("", |release| release.name.as_str());
        let version_name = |release: usize, version: usize| {
            let version = policy.releases.get(release).and_then(|release| release.versions.get(version));
            version.map_or("", |version| version.name.as_str())
        };
        let name = |values: &[&str]| self.spec().full_name(values, policy.mode == Mode::Shadow);
        match self {
            Metric::Assignment { release, version, reason } => {
                name(&[own, release_name(release), version_name(release, version), reason.code()])
            }
            Metric::Response { release, version, result } => {
                name(&[own, release_name(release), version_name(release, version), result.spec().code])
            }
            Metric::Rollback { release, version, cause } => {
                name(&[own, release_name(release), version_name(release, version), cause.code()])
            }
            Metric::Misrouted { release, version } | Metric::Share { release, version } => {
                name(&[own, release_name(release), version_name(release, version)])
            }
            Metric::ScheduleStep { release } => name(&[own, release_name(release)]),
            Metric::Ready { upstream: id } => name(&[own, upstream(id)]),
            Metric::ProbeAnswer { target, code, result } => {
                name(&[own, &target.name(policy), &code.to_string(), result])
            }
            Metric::Gated { upstream: id, reason } => name(&[own, upstream(id), reason]),
            Metric::FailedOpen { upstream: id, why } => name(&[own, upstream(id), why.code()]),
            Metric::Fallback { upstream: id, to } => {
                name(&[own, upstream(id), to.map_or("answer", upstream)])
            }
            Metric::Transition { upstream: id, from, to, reason } => {
                name(&[own, upstream(id), from, to, reason])
            }
            Metric::Check { upstream: id, result } => name(&[own, upstream(id), result.spec().code]),
            Metric::Lifecycle { to } => name(&[own, to.spec().code]),
            Metric::Draining | Metric::Enforced | Metric::Document => name(&[own]),
        }
    }
}

#[cfg(feature = "tool")]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::decision::probe::drain::DrainReply;
    use crate::decision::probe::health::call::HealthResponse;
    use crate::policy::upstream::UpstreamId;
    use crate::readiness::UpstreamReason;
    use std::collections::BTreeSet;
    use strum::IntoEnumIterator;

    fn policy(mode: &str) -> Policy {
        let text = r#"{
            "name": "shop", "mode": "MODE",
            "upstreams": {"app": {"cluster": "app", "circuitBreaker": {}}},
            "probes": {"liveness": {"path": "/livez"}},
            "releases": [{
                "name": "web",
                "steer": {"header": "x-gray-version"},
                "versions": [{"name": "v1", "upstream": "app", "weight": 1, "default": true}]
            }]
        }"#;
        Policy::from_json(text.replace("MODE", mode).as_bytes()).unwrap()
    }

    fn example(variant: MetricVariant) -> Metric {
        let (release, version, upstream) = (0, 0, UpstreamId(0));
        match variant {
            MetricVariant::Assignment => {
                Metric::Assignment { release, version, reason: AssignmentReason::Sticky }
            }
            MetricVariant::ProbeAnswer => {
                Metric::ProbeAnswer { target: ProbeTarget::Endpoint(0), code: 200, result: "passed" }
            }
            MetricVariant::Gated => Metric::Gated { upstream, reason: "check-failed" },
            MetricVariant::FailedOpen => Metric::FailedOpen { upstream, why: FailOpen::MaxGated },
            MetricVariant::Fallback => Metric::Fallback { upstream, to: None },
            MetricVariant::Transition => {
                Metric::Transition { upstream, from: "ready", to: "not-ready", reason: "check-failed" }
            }
            MetricVariant::Check => Metric::Check { upstream, result: CheckCount::Passed },
            MetricVariant::Lifecycle => Metric::Lifecycle { to: LifecycleChange::Started },
            MetricVariant::Response => Metric::Response { release, version, result: ResponseCount::Slow },
            MetricVariant::Rollback => Metric::Rollback { release, version, cause: RollbackCause::Latency },
            MetricVariant::ScheduleStep => Metric::ScheduleStep { release },
            MetricVariant::Misrouted => Metric::Misrouted { release, version },
            MetricVariant::Share => Metric::Share { release, version },
            MetricVariant::Ready => Metric::Ready { upstream },
            MetricVariant::Draining => Metric::Draining,
            MetricVariant::Enforced => Metric::Enforced,
            MetricVariant::Document => Metric::Document,
        }
    }

    /// Returns the labels in a full name, each with a value that is not empty.
    fn labels_in<'n>(name: &'n str, spec: &MetricSpec) -> Vec<&'n str> {
        let labels = name.strip_prefix(&format!("graygate_{}.", spec.name)).unwrap();
        let pairs = labels.split_terminator(";.;").map(|label| label.split_once("=.=").unwrap());
        pairs.inspect(|(_, value)| assert_ne!(*value, "", "{name}")).map(|(label, _)| label).collect()
    }

    #[test]
    fn each_metric_has_the_labels_of_the_table() {
        for variant in MetricVariant::iter() {
            let metric = example(variant);
            let spec = metric.spec();
            assert_eq!(labels_in(&metric.name(&policy("enforce")), spec), spec.labels);
            let mode = spec.counts_decisions.then_some("mode");
            let in_shadow: Vec<_> = spec.labels.iter().copied().chain(mode).collect();
            assert_eq!(labels_in(&metric.name(&policy("shadow")), spec), in_shadow);
        }
    }

    #[test]
    fn the_table_has_each_metric_once() {
        let mut used: BTreeSet<_> =
            MetricVariant::iter().map(|variant| example(variant).spec().name).collect();
        used.extend([&spec::REFUSED, &spec::REFUSALS, &spec::DEATHS, &spec::BUILD].map(|spec| spec.name));
        let listed: Vec<_> = spec::METRICS.iter().map(|spec| spec.name).collect();
        assert_eq!(listed.len(), used.len());
        assert_eq!(BTreeSet::from_iter(listed), used);
    }

    #[test]
    fn counters_alone_end_with_total() {
        for spec in spec::METRICS {
            let is_counter = spec.kind == crate::proxy::MetricKind::Counter;
            assert_eq!(spec.name.ends_with("_total"), is_counter, "{}", spec.name);
        }
    }

    #[test]
    fn lists_of_codes_are_complete() {
        assert!(AssignmentReason::iter().eq(AssignmentReason::ALL));
        assert!(FailOpen::iter().eq(FailOpen::ALL));
        assert!(RollbackCause::iter().eq(RollbackCause::ALL));
        assert!(ResponseCount::iter().eq(ResponseCount::ALL));
        assert!(LifecycleChange::iter().eq(LifecycleChange::ALL));
        assert!(DrainReply::iter().eq(DrainReply::ALL));
        assert!(HealthResponse::iter().eq(HealthResponse::ALL));
        let reasons =
            |all: Vec<UpstreamReason>| all.into_iter().map(UpstreamReason::code).collect::<Vec<_>>();
        assert_eq!(reasons(UpstreamReason::iter().collect()), reasons(UpstreamReason::ALL.to_vec()));
    }
}
