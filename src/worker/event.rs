//! What happens to a policy and is made known: one log line and one counter for each.
//!
//! Only this module logs. It counts what happens once for the proxy. What happens to each request is counted by
//! [`super::metrics`]. A new event is a variant here, its line in [`Event::line`], and its metric in [`Event::metric`].

use super::metrics::{Metric, metric_name};
use crate::policy::Policy;
use crate::policy::problem::Problem;
use crate::policy::upstream::UpstreamId;
use crate::proxy::{Level, MetricKind, NotSent, Proxy};
use crate::readiness::Transition;
use crate::rollback::RollbackFinding;

/// Something that has happened, once for the whole proxy.
pub enum Event<'e> {
    /// A policy was refused, for at least this problem.
    Problem(&'e Problem),
    /// It has this many more problems.
    MoreProblems(usize),
    /// The plugin's policy was refused.
    PolicyRefused {
        /// The name of the plugin.
        plugin: &'e str,
    },
    /// A policy was loaded that is new to the proxy.
    PolicyLoaded {
        /// The policy.
        policy: &'e Policy,
    },
    /// An upstream has changed its phase.
    Transition {
        /// The policy.
        policy: &'e Policy,
        /// Which upstream.
        upstream: UpstreamId,
        /// From where to where, and why.
        transition: Transition,
    },
    /// A release has begun a step of its schedule.
    ScheduleStep {
        /// The policy.
        policy: &'e Policy,
        /// The release, by its index in the policy.
        release: usize,
        /// The change of the schedule, by its number from 1 on.
        begun: u64,
    },
    /// A version was rolled back.
    RolledBack {
        /// The policy.
        policy: &'e Policy,
        /// The release, by its index in the policy.
        release: usize,
        /// Which version, and why.
        finding: RollbackFinding,
    },
    /// The gate of an upstream that is not ready lets requests through.
    FailsOpen {
        /// The policy.
        policy: &'e Policy,
        /// The name of the upstream.
        upstream: &'e str,
        /// Why, as [`crate::decision::gate::fail_open::FailOpen::code`] gives it.
        why: &'e str,
    },
    /// It no longer does.
    NoLongerFailsOpen {
        /// The policy.
        policy: &'e Policy,
        /// The name of the upstream.
        upstream: &'e str,
    },
    /// The proxy has started, drains, or no longer drains.
    Lifecycle {
        /// The policy.
        policy: &'e Policy,
        /// Which of them.
        change: LifecycleChange,
    },
    /// A check has a result. It is counted, and not logged.
    CheckResult {
        /// The policy.
        policy: &'e Policy,
        /// Which upstream's.
        upstream: UpstreamId,
        /// Whether it passed.
        passed: bool,
    },
    /// A check could not be sent. Each is counted; it is logged if the one before it could be sent.
    CheckNotSent {
        /// The policy.
        policy: &'e Policy,
        /// Which upstream's.
        upstream: UpstreamId,
        /// Why.
        why: NotSent,
        /// Whether the one before it could be sent.
        is_first: bool,
    },
    /// The proxy did not take a reply.
    ReplyRefused {
        /// The policy.
        policy: &'e Policy,
        /// The details of the reply.
        details: &'e str,
    },
    /// An answer of the app's to a probe could not be shared. Its lease expires; until then no other request asks the app.
    AnswerNotShared {
        /// The policy.
        policy: &'e Policy,
    },
}

/// A change of where the proxy stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LifecycleChange {
    /// The startup probe's checks have passed.
    Started,
    /// It was told to drain.
    Draining,
    /// It was told to stop draining.
    NotDraining,
}

impl LifecycleChange {
    /// Returns the word in metrics.
    pub fn code(self) -> &'static str {
        match self {
            LifecycleChange::Started => "started",
            LifecycleChange::Draining => "draining",
            LifecycleChange::NotDraining => "not-draining",
        }
    }

    /// Returns the word in the log.
    fn describe(self) -> &'static str {
        match self {
            LifecycleChange::NotDraining => "no longer draining",
            change => change.code(),
        }
    }
}

impl Event<'_> {
    /// Writes the event's log line, if it has one, and counts it, if it is counted.
    pub fn record(&self, proxy: &impl Proxy) {
        if let Some((level, line)) = self.line() {
            proxy.log(level, &line);
        }
        let metric = self.metric().and_then(|name| proxy.metric(MetricKind::Counter, &name));
        if let Some(metric) = metric {
            proxy.add(metric, 1);
        }
    }

    /// Returns the log line and its level.
    fn line(&self) -> Option<(Level, String)> {
        let whose =
            |policy: &Policy, kind: &str, name: &str| format!("policy {}: {kind} {name}", policy.name);
        let upstream = |policy: &Policy, id| whose(policy, "upstream", policy.name_of(id));
        Some(match self {
            Event::Problem(problem) => (Level::Error, format!("policy refused: {problem}")),
            Event::MoreProblems(count) => (
                Level::Error,
                format!("policy refused: {count} more problems; `graygate check` prints them all"),
            ),
            Event::PolicyRefused { .. }
            | Event::CheckResult { .. }
            | Event::CheckNotSent { is_first: false, .. } => return None,
            Event::PolicyLoaded { policy } => {
                let tick = policy.tick().map(|tick| format!(", a tick each {} ms", tick.as_millis()));
                let line = format!(
                    "policy {}: loaded: {}{}",
                    policy.name,
                    policy.summary(),
                    tick.unwrap_or_default()
                );
                (Level::Info, line)
            }
            Event::Transition { policy, upstream: id, transition: Transition { from, to, reason } } => {
                (Level::Info, format!("{}: {from} -> {to} ({reason})", upstream(policy, *id)))
            }
            Event::ScheduleStep { policy, release, begun } => {
                let release = policy.releases.get(*release)?;
                let step = release.schedule.name(usize::try_from(*begun).unwrap_or(usize::MAX));
                let whose = whose(policy, "release", &release.name);
                (Level::Info, format!("{whose}: {step} of its schedule{}", policy.mode.mark()))
            }
            Event::RolledBack { policy, release, finding } => {
                let release = policy.releases.get(*release)?;
                let version = release.versions.get(finding.version).map_or("", |version| &version.name);
                let (whose, why) = (whose(policy, "release", &release.name), finding.describe(release));
                (Level::Warn, format!("{whose}: {version} rolled back: {why}{}", policy.mode.mark()))
            }
            Event::FailsOpen { policy, upstream, why } => {
                let whose = whose(policy, "upstream", upstream);
                let line =
                    format!("{whose}: not ready, and its gate fails open ({why}){}", policy.mode.mark());
                (Level::Warn, line)
            }
            Event::NoLongerFailsOpen { policy, upstream } => {
                let whose = whose(policy, "upstream", upstream);
                (Level::Info, format!("{whose}: its gate no longer fails open{}", policy.mode.mark()))
            }
            Event::Lifecycle { policy, change } => {
                (Level::Info, format!("policy {}: {}", policy.name, change.describe()))
            }
            Event::CheckNotSent { policy, upstream: id, why, .. } => {
                let cluster = policy.upstream(*id).map_or("", |upstream| &upstream.cluster);
                (
                    Level::Warn,
                    format!("{}: check not sent: {}", upstream(policy, *id), not_sent(*why, cluster)),
                )
            }
            Event::ReplyRefused { policy, details } => {
                (Level::Error, format!("policy {}: the proxy took no reply: {details}", policy.name))
            }
            Event::AnswerNotShared { policy } => {
                (Level::Warn, format!("policy {}: an answer of the app's could not be kept", policy.name))
            }
        })
    }

    /// Returns the name of the counter.
    fn metric(&self) -> Option<String> {
        Some(match self {
            Event::PolicyRefused { plugin } => metric_name("policies_refused_total", [("plugin", *plugin)]),
            Event::Transition { policy, upstream, transition: Transition { from, to, reason } } => {
                let (from, to, reason) = (*from, *to, reason.code());
                Metric::Transition { upstream: *upstream, from, to, reason }.name(policy)
            }
            Event::ScheduleStep { policy, release, .. } => {
                Metric::ScheduleStep { release: *release }.name(policy)
            }
            Event::RolledBack { policy, release, finding } => {
                let (version, cause) = (finding.version, finding.cause);
                Metric::Rollback { release: *release, version, cause }.name(policy)
            }
            Event::Lifecycle { policy, change } => Metric::Lifecycle { to: change.code() }.name(policy),
            Event::CheckResult { policy, upstream, passed } => {
                let result = if *passed { "passed" } else { "failed" };
                Metric::Check { upstream: *upstream, result }.name(policy)
            }
            Event::CheckNotSent { policy, upstream, .. } => {
                Metric::Check { upstream: *upstream, result: "error" }.name(policy)
            }
            Event::Problem(_)
            | Event::MoreProblems(_)
            | Event::PolicyLoaded { .. }
            | Event::FailsOpen { .. }
            | Event::NoLongerFailsOpen { .. }
            | Event::ReplyRefused { .. }
            | Event::AnswerNotShared { .. } => return None,
        })
    }
}

/// Returns why a check was not sent, for the log.
fn not_sent(why: NotSent, cluster: &str) -> String {
    match why {
        NotSent::NoCluster => format!("the proxy has no cluster {cluster:?}"),
        NotSent::NoHost => {
            format!("cluster {cluster:?} has no host to connect to, is at its limits, or is not there")
        }
        NotSent::Unreadable => format!("cluster {cluster:?}: ParseFailure"),
    }
}
