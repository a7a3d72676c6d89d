//! Counters, and a gauge, in the proxy's own statistics.
//!
//! The ABI knows no labels, so they stand in the name as `.label=.=value;.;`, the form that Istio's
//! bootstrap already has patterns for. A tag pattern in the proxy's configuration turns them into labels.
//! All values come from the policy, save the status of an app that a probe passes through to: their number is
//! bounded.

use std::cell::RefCell;
use std::collections::BTreeMap;

use proxy_wasm::hostcalls;
use proxy_wasm::types::MetricType;

use crate::decision::Assignment;
use crate::decision::gate::fail_open::FailOpen;
use crate::decision::gate::{GateAction, GateBypass};
use crate::decision::release;
use crate::decision::reply::{ProbeTarget, ReplyCause};
use crate::policy::upstream::UpstreamId;
use crate::policy::{Mode, Policy};
use crate::readiness::Transition;
use crate::rollback::{RollbackCause as Fault, RollbackFinding};

thread_local! {
    /// The proxy gives a new id each time a name is defined and never frees one, so a VM defines each once,
    /// however often its policy changes.
    static IDS: RefCell<BTreeMap<String, u32>> = RefCell::default();
}

/// One thing that is counted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Count {
    Assignment {
        release: usize,
        version: usize,
        reason: release::AssignmentReason,
    },
    Probe {
        asked: ProbeTarget,
        code: u32,
        result: &'static str,
    },
    Gated {
        upstream: UpstreamId,
        reason: &'static str,
    },
    FailedOpen {
        upstream: UpstreamId,
        why: FailOpen,
    },
    Fallback {
        upstream: UpstreamId,
        /// Nothing where it is the static answer.
        to: Option<UpstreamId>,
    },
    Transition {
        upstream: UpstreamId,
        from: &'static str,
        to: &'static str,
        reason: &'static str,
    },
    Check {
        upstream: UpstreamId,
        result: &'static str,
    },
    Lifecycle {
        to: &'static str,
    },
    Response {
        release: usize,
        version: usize,
        result: &'static str,
    },
    Rollback {
        release: usize,
        version: usize,
        cause: Fault,
    },
    Schedule {
        release: usize,
    },
    /// A gauge: what is, not how often.
    Share {
        release: usize,
        version: usize,
    },
    /// A gauge.
    Ready {
        upstream: UpstreamId,
    },
    /// A gauge.
    Enforced,
    /// A gauge.
    Document,
}

/// The counters of one policy.
#[derive(Default)]
pub struct Counters {
    ids: RefCell<BTreeMap<Count, u32>>,
    /// Of assignments, which most requests of a release are: the ids by version and reason, for each release.
    assignments: Vec<Vec<Option<u32>>>,
}

impl Counters {
    /// Defines what may well be counted, so that it shows as 0 before it first happens: who watches for a rise
    /// would not see one from nothing.
    pub fn new(policy: &Policy) -> Self {
        let mut counters = Counters::default();
        for (release, of) in policy.releases.iter().enumerate() {
            let versions = 0..of.versions.len();
            let all = versions.flat_map(|version| {
                release::AssignmentReason::ALL.map(|reason| Count::Assignment { release, version, reason })
            });
            let ids = all.map(|count| define(MetricType::Counter, &count.name(policy))).collect();
            counters.assignments.push(ids);
        }
        counters.define(policy);
        counters
    }

    fn define(&self, policy: &Policy) {
        for (release, of) in policy.releases.iter().enumerate() {
            if of.schedule.changes() {
                self.add(policy, Count::Schedule { release }, 0);
            }
            for version in 0..of.versions.len() {
                let Some(rollback) = &of.rollback else {
                    continue;
                };
                for result in ["success", "slow", "failure"] {
                    self.add(policy, Count::Response { release, version, result }, 0);
                }
                for cause in Fault::ALL.into_iter().filter(|cause| cause.is_judged(rollback)) {
                    self.add(policy, Count::Rollback { release, version, cause }, 0);
                }
            }
        }
        for upstream in policy.gated.iter().filter(|_| policy.may_fail_open()) {
            for why in FailOpen::ALL {
                self.add(policy, Count::FailedOpen { upstream: *upstream, why }, 0);
            }
        }
        for (place, probe) in policy.probes.endpoints.iter().enumerate() {
            for (code, result) in [(probe.statuses.passed, "passed"), (probe.statuses.failed, "failed")] {
                self.add(policy, Count::Probe { asked: ProbeTarget::Endpoint(place), code, result }, 0);
            }
        }
    }

    /// Counts the version a request got.
    pub fn assigned(&self, assignment: &Assignment<'_>) {
        let place = assignment.version * release::AssignmentReason::ALL.len() + assignment.reason as usize;
        let id = self.assignments.get(assignment.release).and_then(|ids| ids.get(place));
        if let Some(id) = id.copied().flatten() {
            increment(id, 1);
        }
    }

    /// Counts a reply.
    pub fn replied(&self, policy: &Policy, cause: ReplyCause) {
        let count = match cause {
            ReplyCause::Probe { asked, code, result } => Count::Probe { asked, code, result },
            ReplyCause::Gate { upstream, reason } => Count::Gated { upstream, reason: reason.code() },
        };
        self.add(policy, count, 1);
    }

    /// Counts closed gates that did not reply: those that failed open, and those that had something else for the
    /// request, which are gated requests all the same.
    pub fn passed(&self, policy: &Policy, passed: &[GateBypass]) {
        for GateBypass { upstream, reason, action } in passed {
            let to = match action {
                GateAction::FailOpen(why) => {
                    self.add(policy, Count::FailedOpen { upstream: *upstream, why: *why }, 1);
                    continue;
                }
                GateAction::Upstream(to) => {
                    self.replied(policy, ReplyCause::Gate { upstream: *upstream, reason: *reason });
                    Some(*to)
                }
                // The reply itself is counted with all replies.
                GateAction::Answer => None,
            };
            self.add(policy, Count::Fallback { upstream: *upstream, to }, 1);
        }
    }

    /// Counts a transition.
    pub fn changed(&self, policy: &Policy, upstream: UpstreamId, transition: Transition) {
        let Transition { from, to, reason } = transition;
        self.add(policy, Count::Transition { upstream, from, to, reason: reason.code() }, 1);
    }

    /// Counts that the proxy is now `started`, `draining`, or `not-draining`.
    pub fn lived(&self, policy: &Policy, to: &'static str) {
        self.add(policy, Count::Lifecycle { to }, 1);
    }

    /// Counts a check as `passed`, `failed`, or `error` where it could not be sent.
    pub fn checked(&self, policy: &Policy, upstream: UpstreamId, result: &'static str) {
        self.add(policy, Count::Check { upstream, result }, 1);
    }

    /// Counts a response of a version that a rollback may follow for: `success`, `failure` or `slow`.
    pub fn responded(&self, policy: &Policy, release: usize, version: usize, result: &'static str) {
        self.add(policy, Count::Response { release, version, result }, 1);
    }

    /// Counts a change that a release's schedule makes.
    pub fn begun(&self, policy: &Policy, release: usize) {
        self.add(policy, Count::Schedule { release }, 1);
    }

    /// Counts a rollback.
    pub fn rolled_back(&self, policy: &Policy, release: usize, finding: &RollbackFinding) {
        self.add(policy, Count::Rollback { release, version: finding.version, cause: finding.cause }, 1);
    }

    /// Notes what each version holds now, in hundredths of a percent.
    pub fn shared(&self, policy: &Policy, release: usize, shares: &[u32]) {
        for (version, share) in shares.iter().enumerate() {
            self.set(policy, Count::Share { release, version }, u64::from(*share));
        }
    }

    /// Notes that the policy is in use: whether this proxy does as it says, and a number that is the same on all
    /// proxies that were given the same document.
    pub fn in_use(&self, policy: &Policy, document: u64) {
        self.set(policy, Count::Enforced, u64::from(policy.mode == Mode::Enforce));
        self.set(policy, Count::Document, document & u64::from(u32::MAX));
    }

    /// Notes whether an upstream is Ready now, or on a ramp.
    pub fn is_ready(&self, policy: &Policy, upstream: UpstreamId, ready: bool) {
        self.set(policy, Count::Ready { upstream }, u64::from(ready));
    }

    fn set(&self, policy: &Policy, gauge: Count, value: u64) {
        if let Some(id) = self.id(policy, gauge) {
            // The id is one that the proxy gave, so it knows it.
            let _ = hostcalls::record_metric(id, value);
        }
    }

    fn add(&self, policy: &Policy, count: Count, amount: i64) {
        let id = self.id(policy, count);
        if let Some(id) = id.filter(|_| amount > 0) {
            increment(id, amount);
        }
    }

    fn id(&self, policy: &Policy, count: Count) -> Option<u32> {
        let mut ids = self.ids.try_borrow_mut().ok()?;
        if let Some(id) = ids.get(&count) {
            return Some(*id);
        }
        let kind = match count {
            Count::Share { .. } | Count::Ready { .. } | Count::Enforced | Count::Document => {
                MetricType::Gauge
            }
            _ => MetricType::Counter,
        };
        let id = define(kind, &count.name(policy))?;
        ids.insert(count, id);
        Some(id)
    }
}

/// Counts a policy that was refused. The proxy's own record of it does not say why; the log does.
pub fn refused(plugin: &str) {
    if let Some(id) =
        define(MetricType::Counter, &format!("graygate_policies_refused_total.plugin=.={plugin};.;"))
    {
        increment(id, 1);
    }
}

fn increment(id: u32, amount: i64) {
    // The id is one that the proxy gave, so it knows it.
    let _ = hostcalls::increment_metric(id, amount);
}

/// The id of the metric with this name.
fn define(kind: MetricType, name: &str) -> Option<u32> {
    IDS.with(|ids| {
        let mut ids = ids.try_borrow_mut().ok()?;
        if let Some(id) = ids.get(name) {
            return Some(*id);
        }
        let id = hostcalls::define_metric(kind, name).ok()?;
        ids.insert(name.to_owned(), id);
        Some(id)
    })
}

impl Count {
    fn name(self, policy: &Policy) -> String {
        let upstream = |id| ("upstream", policy.name_of(id));
        let of = |release: usize, version: usize| {
            let release = policy.releases.get(release);
            let version = release.and_then(|release| release.versions.get(version));
            let version = version.map_or("", |version| version.name.as_str());
            [("release", release.map_or("", |release| release.name.as_str())), ("version", version)]
        };
        let (probe, status);
        let (name, labels) = match self {
            Count::Assignment { release, version, reason } => {
                ("assignments_total", [&of(release, version)[..], &[("reason", reason.code())]].concat())
            }
            Count::Response { release, version, result } => {
                ("responses_total", [&of(release, version)[..], &[("result", result)]].concat())
            }
            Count::Rollback { release, version, cause } => {
                ("rollbacks_total", [&of(release, version)[..], &[("reason", cause.code())]].concat())
            }
            Count::Schedule { release } => {
                let [name, _] = of(release, 0);
                ("schedule_steps_total", vec![name])
            }
            Count::Ready { upstream: id } => ("upstream_ready", vec![upstream(id)]),
            Count::Share { release, version } => ("version_share", of(release, version).to_vec()),
            Count::Probe { asked, code, result } => {
                (probe, status) = (asked.name(policy), code.to_string());
                (
                    "probe_answers_total",
                    vec![("probe", probe.as_ref()), ("code", status.as_str()), ("result", result)],
                )
            }
            Count::Gated { upstream: id, reason } => {
                ("gated_requests_total", vec![upstream(id), ("reason", reason)])
            }
            Count::FailedOpen { upstream: id, why } => {
                ("failed_open_requests_total", vec![upstream(id), ("reason", why.code())])
            }
            Count::Fallback { upstream: id, to } => {
                let to = to.map_or("answer", |to| upstream(to).1);
                ("fallback_requests_total", vec![upstream(id), ("to", to)])
            }
            Count::Transition { upstream: id, from, to, reason } => {
                ("transitions_total", vec![upstream(id), ("from", from), ("to", to), ("reason", reason)])
            }
            Count::Check { upstream: id, result } => ("checks_total", vec![upstream(id), ("result", result)]),
            Count::Lifecycle { to } => ("lifecycle_changes_total", vec![("to", to)]),
            Count::Enforced => ("policy_enforced", vec![]),
            Count::Document => ("policy_document", vec![]),
        };
        // These two tell the mode, or have nothing to do with it.
        let plain = matches!(self, Count::Enforced | Count::Document);
        let shadow = (policy.mode == Mode::Shadow && !plain).then_some(("mode", "shadow"));
        let all = [("policy", policy.name.as_str())].into_iter().chain(labels).chain(shadow);
        let labels = all.map(|(label, value)| format!("{label}=.={value};.;"));
        format!("graygate_{name}.{}", labels.collect::<String>())
    }
}
