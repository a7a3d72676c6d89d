//! Events: what happens once for the whole proxy. An event has a log line, a counter, or both.
//!
//! Only this module logs. [`super::metrics`] counts what happens to each request. A new event needs a variant here, a
//! line in [`Event::line`], and a counter in [`Event::metric`]. The reference page takes its text and its example from
//! `examples`.
//!
//! What an operator must know is logged at `warn`, because the proxies of a mesh log nothing below that by default. That is
//! what changes how requests are served, with its end, and what the policy cannot do. All other lines are at `info`.

#[cfg(feature = "tool")]
pub mod examples;

use super::metric::{CheckCount, LifecycleChange, Metric};
use crate::policy::Policy;
use crate::policy::problem::Problem;
use crate::policy::upstream::UpstreamId;
use crate::proxy::{Level, MetricKind, NotSent, Proxy};
use crate::readiness::Transition;
use crate::rollback::RollbackFinding;

/// Something that happened once for the whole proxy.
#[cfg_attr(feature = "tool", derive(strum::EnumDiscriminants))]
#[cfg_attr(feature = "tool", strum_discriminants(name(EventVariant), derive(strum::EnumIter)))]
#[cfg_attr(feature = "tool", strum_discriminants(doc = "The variants of [`Event`]."))]
pub enum Event<'e> {
    /// A policy was refused, and this is one of its problems.
    Problem(&'e Problem),
    /// A refused policy has this many problems that were not logged.
    MoreProblems(usize),
    /// A policy is wrong, and something goes on instead.
    Instead {
        /// The name of the policy, or of the plugin if the policy's name cannot be read.
        whose: &'e str,
        /// Whether that is its last good document. If not, its requests pass unmanaged.
        is_last_good: bool,
    },
    /// A policy was loaded that is new to the proxy.
    PolicyLoaded {
        /// The policy in which it happened.
        policy: &'e Policy,
    },
    /// An upstream has entered another phase.
    Transition {
        /// The policy in which it happened.
        policy: &'e Policy,
        /// The upstream that entered the phase.
        upstream: UpstreamId,
        /// The phase that it left, the phase that it entered, and the reason.
        transition: Transition,
    },
    /// A release has begun a step of its schedule.
    ScheduleStep {
        /// The policy in which it happened.
        policy: &'e Policy,
        /// The index of the release in the policy.
        release: usize,
        /// The number of the step that has begun, counted from 1.
        begun: u64,
    },
    /// A version was rolled back.
    RolledBack {
        /// The policy in which it happened.
        policy: &'e Policy,
        /// The index of the release in the policy.
        release: usize,
        /// The version that was rolled back, and the evidence.
        finding: RollbackFinding,
    },
    /// Requests of a version have begun to go elsewhere than to its cluster.
    Misrouted {
        /// The policy in which it happened.
        policy: &'e Policy,
        /// The index of the release in the policy.
        release: usize,
        /// The index of the version in the release.
        version: usize,
        /// The cluster that they go to. `None` if no route or no cluster takes them.
        to: Option<&'e str>,
    },
    /// No request that needed an upstream has reached its cluster, and nothing else tells of it.
    Unreached {
        /// The policy in which it happened.
        policy: &'e Policy,
        /// The upstream.
        upstream: UpstreamId,
        /// The number of requests.
        requests: u32,
        /// The cluster that the last one went to.
        to: &'e str,
    },
    /// The gate of an upstream that is not ready has begun to fail open.
    FailsOpen {
        /// The policy in which it happened.
        policy: &'e Policy,
        /// The name of the upstream. It may be one of an earlier policy, and then has no id in this one.
        upstream: &'e str,
        /// The code of the reason, as [`crate::decision::gate::fail_open::FailOpen::code`] returns it.
        why: &'e str,
    },
    /// The gate of an upstream has stopped failing open.
    NoLongerFailsOpen {
        /// The policy in which it happened.
        policy: &'e Policy,
        /// The name of the upstream. It may be one of an earlier policy, and then has no id in this one.
        upstream: &'e str,
    },
    /// The proxy has started, begun to drain, or stopped draining.
    Lifecycle {
        /// The policy in which it happened.
        policy: &'e Policy,
        /// The change, which has one counter for each kind.
        change: LifecycleChange,
        /// The upstream whose checks tell of the drain that begins.
        upstream: Option<UpstreamId>,
    },
    /// A check has a result. This event has a counter but no log line.
    CheckResult {
        /// The policy in which it happened.
        policy: &'e Policy,
        /// The upstream that was checked.
        upstream: UpstreamId,
        /// Whether the check passed.
        passed: bool,
    },
    /// A check could not be sent. Every such check is counted. Only the first in a row is logged.
    CheckNotSent {
        /// The policy in which it happened.
        policy: &'e Policy,
        /// The upstream that the check was for.
        upstream: UpstreamId,
        /// The reason that the proxy gave.
        why: NotSent,
        /// Whether the check before it was sent.
        is_first: bool,
    },
    /// The proxy did not accept a reply.
    ReplyRefused {
        /// The policy in which it happened.
        policy: &'e Policy,
        /// The details of the reply, which say what it was for.
        details: &'e str,
    },
    /// The proxy did not accept a call for a probe that passes through. Only the first in a row is an event.
    AppNotCalled {
        /// The policy in which it happened.
        policy: &'e Policy,
        /// The index of the probe in the policy.
        endpoint: usize,
        /// The cluster that was to be called.
        cluster: &'e str,
        /// The reason that the proxy gave.
        why: NotSent,
    },
    /// A VM of a plugin has died. [`super::plugin_metrics`] counts it.
    VmDied {
        /// The plugin.
        plugin: &'e str,
    },
    /// The app's response to a probe could not be cached. No worker calls the app until the lease of the call expires.
    AnswerNotShared {
        /// The policy in which it happened.
        policy: &'e Policy,
    },
}

impl Event<'_> {
    /// Writes the event's log line and increments its counter, as far as it has them.
    pub fn record(&self, proxy: &impl Proxy) {
        if let Some((level, line)) = self.line() {
            proxy.log(level, &line);
        }
        let metric = self.metric().and_then(|name| proxy.metric(MetricKind::Counter, &name));
        if let Some(metric) = metric {
            proxy.add(metric, 1);
        }
    }

    /// Returns the log line and its level. `None` if the event is not logged.
    fn line(&self) -> Option<(Level, String)> {
        let whose =
            |policy: &Policy, kind: &str, name: &str| format!("policy {}: {kind} {name}", policy.name);
        let upstream = |policy: &Policy, id| whose(policy, "upstream", policy.name_of(id));
        Some(match self {
            Event::Problem(problem) => (Level::Error, format!("policy refused: {problem}")),
            Event::MoreProblems(count) => (
                Level::Error,
                format!("policy refused: {count} more problems. Run `graygate check` to see all of them"),
            ),
            Event::Instead { whose, is_last_good } => {
                let instead = match is_last_good {
                    true => "its last good document stays in use",
                    false => "this proxy has no earlier good document, so requests pass unmanaged",
                };
                (Level::Error, format!("policy {whose}: refused, and {instead}"))
            }
            Event::CheckResult { .. } | Event::CheckNotSent { is_first: false, .. } => return None,
            Event::PolicyLoaded { policy } => {
                let tick = policy.tick().map(|tick| format!(", one tick every {} ms", tick.as_millis()));
                let line = format!(
                    "policy {}: loaded: {}{}",
                    policy.name,
                    policy.summary(),
                    tick.unwrap_or_default()
                );
                (Level::Info, line)
            }
            Event::Transition { policy, upstream: id, transition: Transition { from, to, reason } } => {
                // A trial only finds out whether the upstream is ready again. What an operator must know is whether it serves.
                let level = if serves(from) == serves(to) { Level::Info } else { Level::Warn };
                (level, format!("{}: {from} -> {to} ({reason})", upstream(policy, *id)))
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
                let whose = whose(policy, "release", &release.name);
                let why = finding.describe(release);
                (Level::Warn, format!("{whose}: {version} rolled back: {why}{}", policy.mode.mark()))
            }
            Event::Misrouted { policy, release, version, to } => {
                let release = policy.releases.get(*release)?;
                let version = release.versions.get(*version)?;
                let (name, cluster) = (&version.name, &version.cluster);
                let to = match to {
                    Some(to) => format!("cluster {to:?} instead of its cluster {cluster:?}"),
                    None => "no cluster, because no route matches them or the route's cluster does not exist"
                        .to_owned(),
                };
                let whose = whose(policy, "release", &release.name);
                let remedy = release.steer.describe(version);
                (
                    Level::Warn,
                    format!(
                        "{whose}: requests of {name} go to {to}. Check that {remedy}, that this route comes before the default one, and that the policy names the route's cluster"
                    ),
                )
            }
            Event::Unreached { policy, upstream: id, requests, to } => {
                let cluster = policy.upstream(*id).map_or("", |upstream| &upstream.cluster);
                let whose = upstream(policy, *id);
                let remedy = "Set its cluster to the one that the route names (an aggregate cluster's own name), or add a readinessProbe";
                (
                    Level::Warn,
                    format!(
                        "{whose}: its state is unknown: of {requests} requests that needed it, none went to its cluster {cluster:?}, and the last went to {to:?}. {remedy}"
                    ),
                )
            }
            Event::FailsOpen { policy, upstream, why } => {
                let whose = whose(policy, "upstream", upstream);
                let line =
                    format!("{whose}: not ready, and its gate fails open ({why}){}", policy.mode.mark());
                (Level::Warn, line)
            }
            Event::NoLongerFailsOpen { policy, upstream } => {
                let whose = whose(policy, "upstream", upstream);
                (Level::Warn, format!("{whose}: its gate no longer fails open{}", policy.mode.mark()))
            }
            Event::Lifecycle { policy, change, upstream } => {
                let is_start = *change == LifecycleChange::Started;
                let level = if is_start { Level::Info } else { Level::Warn };
                let text = match change {
                    LifecycleChange::NotDraining => "no longer draining",
                    change => change.spec().code,
                };
                let told = upstream.map(|id| format!(" (upstream {})", policy.name_of(id)));
                (level, format!("policy {}: {text}{}", policy.name, told.unwrap_or_default()))
            }
            Event::CheckNotSent { policy, upstream: id, why, .. } => {
                let cluster = policy.upstream(*id).map_or("", |upstream| &upstream.cluster);
                (
                    Level::Warn,
                    format!("{}: check not sent: {}", upstream(policy, *id), not_sent(*why, cluster)),
                )
            }
            Event::ReplyRefused { policy, details } => {
                (Level::Error, format!("policy {}: the proxy did not accept a reply: {details}", policy.name))
            }
            Event::AppNotCalled { policy, endpoint, cluster, why } => {
                let probe = policy.probes.endpoints.get(*endpoint).map_or("", |probe| &probe.name);
                let why = not_sent(*why, cluster);
                let line = "the app could not be called, so each request is forwarded to it";
                let remedy = "Set passThrough.upstream to an upstream that can be called";
                (Level::Warn, format!("{}: {line}: {why}. {remedy}", whose(policy, "probe", probe)))
            }
            Event::VmDied { plugin } => {
                let line = "a VM has died, and its worker thread may let requests pass unmanaged";
                (Level::Error, format!("plugin {plugin}: {line}. Restart the proxy, and report Envoy's log"))
            }
            Event::AnswerNotShared { policy } => {
                (Level::Warn, format!("policy {}: a response of the app could not be cached", policy.name))
            }
        })
    }

    /// Returns the full name of the counter. `None` if the event is not counted.
    fn metric(&self) -> Option<String> {
        Some(match self {
            Event::Transition { policy, upstream, transition: Transition { from, to, reason } } => {
                Metric::Transition { upstream: *upstream, from, to, reason: reason.code() }.name(policy)
            }
            Event::ScheduleStep { policy, release, .. } => {
                Metric::ScheduleStep { release: *release }.name(policy)
            }
            Event::RolledBack { policy, release, finding } => {
                let RollbackFinding { version, cause, .. } = *finding;
                Metric::Rollback { release: *release, version, cause }.name(policy)
            }
            Event::Lifecycle { policy, change, .. } => Metric::Lifecycle { to: *change }.name(policy),
            Event::CheckResult { policy, upstream, passed } => {
                let result = if *passed { CheckCount::Passed } else { CheckCount::Failed };
                Metric::Check { upstream: *upstream, result }.name(policy)
            }
            Event::CheckNotSent { policy, upstream, .. } => {
                Metric::Check { upstream: *upstream, result: CheckCount::Error }.name(policy)
            }
            Event::Problem(_)
            | Event::MoreProblems(_)
            | Event::Instead { .. }
            | Event::PolicyLoaded { .. }
            | Event::Misrouted { .. }
            | Event::Unreached { .. }
            | Event::FailsOpen { .. }
            | Event::NoLongerFailsOpen { .. }
            | Event::ReplyRefused { .. }
            | Event::AppNotCalled { .. }
            | Event::VmDied { .. }
            | Event::AnswerNotShared { .. } => return None,
        })
    }
}

/// Returns whether an upstream serves all requests in this phase, or a rising share of them.
fn serves(phase: &str) -> bool {
    matches!(phase, "ready" | "ramp")
}

/// Describes in the log why a call was not sent.
fn not_sent(why: NotSent, cluster: &str) -> String {
    match why {
        NotSent::NoCluster => format!("the proxy has no cluster {cluster:?}"),
        NotSent::NoHost => {
            format!("cluster {cluster:?} has no host to connect to, is at its limits, or does not exist")
        }
    }
}
