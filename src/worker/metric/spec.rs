//! The table of metrics. The filter takes names and labels from here, and so do the reference page and the tool's
//! `stats_tags`.
//!
//! The filter needs only names, kinds and labels. Everything else takes no space in the module: a constant function drops
//! it at compile time.

use crate::proxy::MetricKind;

/// One metric.
pub struct MetricSpec {
    /// The name, without the prefix `graygate_` that all metrics have.
    pub name: &'static str,
    /// Whether it is a counter or a gauge.
    pub kind: MetricKind,
    /// The labels, in the order in which the name contains them.
    pub labels: &'static [&'static str],
    /// Whether it counts decisions of releases and gates. In mode `shadow` these have no effect, so the metric then has
    /// the label [`MODE`]. Everything else is the same in both modes. A gauge has no such label, because its last value
    /// would stay when the mode changes.
    pub counts_decisions: bool,
    /// The unit of the value.
    #[cfg(feature = "tool")]
    pub unit: &'static str,
    /// What it counts or shows, in one sentence.
    #[cfg(feature = "tool")]
    pub about: &'static str,
    /// The version of graygate that has it first.
    #[cfg(feature = "tool")]
    pub since: &'static str,
}

/// The prefix of all names.
pub const PREFIX: &str = "graygate_";

/// The label of decisions that have no effect, and its only value.
pub const MODE: (&str, &str) = ("mode", "shadow");

const POLICY: &str = "policy";
const RELEASE: &str = "release";
const VERSION: &str = "version";
const UPSTREAM: &str = "upstream";
const REASON: &str = "reason";
const RESULT: &str = "result";
const PLUGIN: &str = "plugin";
const REVISION: &str = "revision";

const FIRST: &str = "0.1.0";

/// Requests by the version that they got.
pub static ASSIGNMENTS: MetricSpec = MetricSpec::counter(
    "assignments_total",
    &[POLICY, RELEASE, VERSION, REASON],
    "requests",
    "Counts the requests of a release by the version that they get and the reason for it.",
    FIRST,
)
.of_decisions();

/// Requests of a version that went elsewhere.
pub static MISROUTED: MetricSpec = MetricSpec::counter(
    "misrouted_requests_total",
    &[POLICY, RELEASE, VERSION],
    "requests",
    "Counts the requests of a version that the routes are seen to send to another cluster or to none.",
    FIRST,
);

/// Responses of a version.
pub static RESPONSES: MetricSpec = MetricSpec::counter(
    "responses_total",
    &[POLICY, RELEASE, VERSION, RESULT],
    "responses",
    "Counts the responses of a version in a release with `rollback`, also if it only counts (`judge: false`).",
    FIRST,
)
.of_decisions();

/// Rollbacks of a version.
pub static ROLLBACKS: MetricSpec = MetricSpec::counter(
    "rollbacks_total",
    &[POLICY, RELEASE, VERSION, REASON],
    "rollbacks",
    "Counts the rollbacks of a version by the limit that it exceeded.",
    FIRST,
)
.of_decisions();

/// Steps of a schedule.
pub static SCHEDULE_STEPS: MetricSpec = MetricSpec::counter(
    "schedule_steps_total",
    &[POLICY, RELEASE],
    "steps",
    "Counts the steps of a release's schedule that have begun. `startsAt` is one of them.",
    FIRST,
)
.of_decisions();

/// The share of a version.
pub static SHARE: MetricSpec = MetricSpec::gauge(
    "version_share_basis_points",
    &[POLICY, RELEASE, VERSION],
    "basis points",
    "Shows the share that a version holds now, in hundredths of a percent. The shares of a release add up to 10,000.",
    FIRST,
);

/// Requests that a gate kept from their upstream.
pub static GATED: MetricSpec = MetricSpec::counter(
    "gated_requests_total",
    &[POLICY, UPSTREAM, REASON],
    "requests",
    "Counts the requests that a gate kept from an upstream, by the reason for which it is not ready.",
    FIRST,
)
.of_decisions();

/// Requests that got a fallback.
pub static FALLBACKS: MetricSpec = MetricSpec::counter(
    "fallback_requests_total",
    &[POLICY, UPSTREAM, "to"],
    "requests",
    "Counts the gated requests that went to another upstream, or got the static `answer`.",
    FIRST,
)
.of_decisions();

/// Requests that a closed gate let through.
pub static FAILED_OPEN: MetricSpec = MetricSpec::counter(
    "failed_open_requests_total",
    &[POLICY, UPSTREAM, REASON],
    "requests",
    "Counts the requests that a gate let through although its upstream is not ready.",
    FIRST,
)
.of_decisions();

/// Whether an upstream serves.
pub static READY: MetricSpec = MetricSpec::gauge(
    "upstream_ready",
    &[POLICY, UPSTREAM],
    "0 or 1",
    "Shows 1 while an upstream with a check or a breaker is ready or on a ramp, and otherwise 0.",
    FIRST,
);

/// Changes of an upstream's phase.
pub static TRANSITIONS: MetricSpec = MetricSpec::counter(
    "transitions_total",
    &[POLICY, UPSTREAM, "from", "to", REASON],
    "transitions",
    "Counts the transitions of an upstream from one phase to another, once for the whole proxy.",
    FIRST,
);

/// Checks.
pub static CHECKS: MetricSpec = MetricSpec::counter(
    "checks_total",
    &[POLICY, UPSTREAM, RESULT],
    "checks",
    "Counts the active checks of an upstream by their result.",
    FIRST,
);

/// Replies to probes.
pub static PROBE_ANSWERS: MetricSpec = MetricSpec::counter(
    "probe_answers_total",
    &[POLICY, "probe", "code", RESULT],
    "replies",
    "Counts the replies to probes by their status, which for gRPC is the grpc-status.",
    FIRST,
);

/// Changes of the proxy's lifecycle.
pub static LIFECYCLE: MetricSpec = MetricSpec::counter(
    "lifecycle_changes_total",
    &[POLICY, "to"],
    "changes",
    "Counts how often the proxy has started, begun to drain, or stopped draining.",
    FIRST,
);

/// Whether the proxy drains.
pub static DRAINING: MetricSpec = MetricSpec::gauge(
    "draining",
    &[POLICY],
    "0 or 1",
    "Shows 1 while the proxy drains, and otherwise 0. Only a policy with `probes.drain` has it.",
    FIRST,
);

/// Whether the policy is enforced.
pub static ENFORCED: MetricSpec = MetricSpec::gauge(
    "policy_enforced",
    &[POLICY],
    "0 or 1",
    "Shows 1 on a proxy that enforces the policy, and 0 in `mode: shadow`, in `mode: off` or before its `rollout`.",
    FIRST,
);

/// The document in use.
pub static DOCUMENT: MetricSpec = MetricSpec::gauge(
    "policy_document",
    &[POLICY],
    "a hash",
    "Shows a number that is the same on all proxies that use the same document, and 0 after the policy has left.",
    FIRST,
);

/// Whether the newest document is wrong.
pub static REFUSED: MetricSpec = MetricSpec::gauge(
    "policy_refused",
    &[PLUGIN],
    "0 or 1",
    "Shows 1 while the newest document of a plugin is wrong, and otherwise 0.",
    FIRST,
);

/// Wrong documents.
pub static REFUSALS: MetricSpec = MetricSpec::counter(
    "policies_refused_total",
    &[PLUGIN],
    "documents",
    "Counts the wrong documents that a plugin got, once in each VM.",
    FIRST,
);

/// VMs that have died.
pub static DEATHS: MetricSpec = MetricSpec::counter(
    "vm_deaths_total",
    &[PLUGIN],
    "VMs",
    "Counts the VMs of a plugin that gave no sign of life for 20 seconds. A VM without ticks is not watched.",
    FIRST,
);

/// The module.
pub static BUILD: MetricSpec = MetricSpec::gauge(
    "build_info",
    &[VERSION, REVISION],
    "1",
    "Shows 1 with the version and commit of the module, from the first request or 5 seconds after the start. Shows 0 for an earlier module.",
    FIRST,
);

/// All metrics, in the order of the reference page.
#[cfg(feature = "tool")]
pub static METRICS: [&MetricSpec; 21] = [
    &ASSIGNMENTS,
    &SHARE,
    &MISROUTED,
    &SCHEDULE_STEPS,
    &RESPONSES,
    &ROLLBACKS,
    &READY,
    &TRANSITIONS,
    &CHECKS,
    &GATED,
    &FALLBACKS,
    &FAILED_OPEN,
    &PROBE_ANSWERS,
    &LIFECYCLE,
    &DRAINING,
    &ENFORCED,
    &DOCUMENT,
    &REFUSED,
    &REFUSALS,
    &DEATHS,
    &BUILD,
];

/// Returns all labels, each once. They are the tags that an Envoy needs in its `stats_tags`.
#[cfg(feature = "tool")]
pub fn labels() -> Vec<&'static str> {
    let mut labels = Vec::new();
    for label in METRICS.iter().flat_map(|spec| spec.labels).copied().chain([MODE.0]) {
        if !labels.contains(&label) {
            labels.push(label);
        }
    }
    labels
}

impl MetricSpec {
    #[cfg_attr(not(feature = "tool"), allow(unused_variables))]
    const fn new(
        (kind, name): (MetricKind, &'static str),
        labels: &'static [&'static str],
        unit: &'static str,
        about: &'static str,
        since: &'static str,
    ) -> Self {
        MetricSpec {
            name,
            kind,
            labels,
            counts_decisions: false,
            #[cfg(feature = "tool")]
            unit,
            #[cfg(feature = "tool")]
            about,
            #[cfg(feature = "tool")]
            since,
        }
    }

    const fn counter(
        name: &'static str,
        labels: &'static [&'static str],
        unit: &'static str,
        about: &'static str,
        since: &'static str,
    ) -> Self {
        Self::new((MetricKind::Counter, name), labels, unit, about, since)
    }

    const fn gauge(
        name: &'static str,
        labels: &'static [&'static str],
        unit: &'static str,
        about: &'static str,
        since: &'static str,
    ) -> Self {
        Self::new((MetricKind::Gauge, name), labels, unit, about, since)
    }

    const fn of_decisions(mut self) -> Self {
        self.counts_decisions = true;
        self
    }

    /// Returns the name in the proxy's statistics with these values of the labels. `has_no_effect` is whether it counts
    /// decisions that are not carried out.
    ///
    /// The ABI has no labels, so the name contains each as `label=.=value;.;`.
    pub fn full_name(&self, values: &[&str], has_no_effect: bool) -> String {
        debug_assert_eq!(self.labels.len(), values.len(), "{} has a value for each label", self.name);
        let mode = (has_no_effect && self.counts_decisions).then_some(MODE);
        let mut name = [PREFIX, self.name, "."].concat();
        for (label, value) in self.labels.iter().copied().zip(values.iter().copied()).chain(mode) {
            for part in [label, "=.=", value, ";.;"] {
                name.push_str(part);
            }
        }
        name
    }
}
