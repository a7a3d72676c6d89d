//! The counters and gauges of one policy in one worker.
//!
//! This module counts what happens for each request or on a tick. What happens once for the whole proxy is an
//! [`super::event::Event`]. [`super::metric`] has the names.

use std::collections::BTreeMap;

use super::metric::initial::{self, MetricRank};
use super::metric::spec::{READY, SHARE};
use super::metric::{Metric, ResponseCount};
use crate::decision::Assignment;
use crate::decision::gate::{GateAction, GateBypass};
use crate::decision::release::AssignmentReason;
use crate::decision::reply::ReplyCause;
use crate::policy::identity::PolicyIdentity;
use crate::policy::release::Release;
use crate::policy::upstream::UpstreamId;
use crate::policy::{Mode, Policy};
use crate::proxy::{MetricId, MetricKind, Proxy};

/// What a worker has to do with the gauges of its policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GaugeRole {
    /// Another worker with a newer document shows them.
    Outdated,
    /// They are those of this worker's document, and not all of its metrics exist.
    Begins,
    /// They are those of this worker's document, and all of its metrics exist.
    Shows,
}

/// The names of the gauges that a document may leave behind, in ascending order: releases with their versions, and upstreams
/// without a release.
pub type GaugeNames = Vec<(String, String)>;

/// The metrics of one policy in one worker.
pub struct Metrics {
    ids: BTreeMap<Metric, MetricId>,
    /// The ids of assignment counters by version and reason, for each release. Every request that gets a version counts
    /// one, so they are not looked up in the map.
    assignments: Vec<Vec<Option<MetricId>>>,
    /// The ids of the counters of the latest kinds of replies, as most replies are of the same few kinds.
    replies: Vec<(ReplyCause, MetricId)>,
    /// The most metrics that exist from the beginning.
    most: usize,
    /// The ranks of the metrics that exist from the beginning.
    ranks: &'static [MetricRank],
    /// How many of these this worker has defined.
    defined: usize,
    /// Whether this worker's document decides on the gauges of the policy's name.
    role: GaugeRole,
    /// The gauges that leave with the policy before, while this worker defines the metrics.
    leaving: Option<GaugeNames>,
    /// How often they are still to be ended. A worker of the policy before may be in the middle of a tick.
    ends: u32,
}

/// The number of kinds of replies whose counters are found at once.
const REPLIES: usize = 8;

impl Metrics {
    /// Creates the metrics without defining any in the proxy. `watched` is [`Policy::watched`] of all policies of the root's
    /// document.
    pub fn new(policy: &Policy, watched: usize) -> Self {
        let count = |release: &Release| release.versions.len() * AssignmentReason::ALL.len();
        let assignments = policy.releases.iter().map(|release| vec![None; count(release)]).collect();
        Metrics {
            ids: BTreeMap::new(),
            assignments,
            replies: Vec::new(),
            most: initial::most(policy, watched),
            ranks: &[],
            defined: 0,
            role: GaugeRole::Outdated,
            leaving: None,
            ends: 0,
        }
    }

    /// Returns whether this worker has nothing to define, as far as it knows.
    pub fn are_complete(&self) -> bool {
        self.role != GaugeRole::Begins
    }

    /// Returns the worker's role with respect to the gauges.
    pub fn role(&self) -> GaugeRole {
        self.role
    }

    /// Takes the worker's role with respect to the gauges. Without a right to them, it sets none.
    pub fn take_role(&mut self, role: GaugeRole) {
        self.role = role;
        if role != GaugeRole::Begins {
            self.leaving = None;
        }
    }

    /// Returns whether [`Metrics::begin`] has told which gauges leave.
    pub fn has_begun(&self) -> bool {
        self.leaving.is_some()
    }

    /// Starts to define the metrics that exist from the beginning. `leaving` are the gauges that leave. `was_shown` is whether a policy
    /// before has set any.
    pub fn begin(&mut self, policy: &Policy, leaving: GaugeNames, was_shown: bool) {
        self.ranks = initial::ranks(policy, self.most);
        self.defined = 0;
        self.leaving = Some(leaving);
        self.ends = if was_shown { 2 } else { 1 };
    }

    /// Returns whether the gauges of all shares are defined.
    pub fn shares_exist(&self, policy: &Policy) -> bool {
        let shares: usize = policy.releases.iter().map(|release| release.versions.len()).sum();
        policy.mode == Mode::Off || self.defined >= shares
    }

    /// Ends the gauges that leave. Returns whether nothing is left to define and to end.
    pub fn end_leaving(&mut self, proxy: &impl Proxy, policy: &Policy) -> bool {
        if let Some(leaving) = &self.leaving {
            end_gauges(leaving, proxy, &policy.name);
        }
        self.ends = self.ends.saturating_sub(1);
        self.defined == usize::MAX && self.ends == 0
    }

    /// Sets the gauges of a policy that has left the proxy.
    pub fn end(&mut self, proxy: &impl Proxy, policy: &Policy) {
        self.role = GaugeRole::Shows;
        self.set(proxy, policy, Metric::Enforced, 0);
        self.set(proxy, policy, Metric::Document, 0);
        if policy.probes.drain.is_some() {
            self.set_draining(proxy, policy, false);
        }
        self.role = GaugeRole::Outdated;
    }

    /// Defines the next metrics that exist from the beginning, at most `left`, from which it takes their number.
    pub fn define_some(&mut self, proxy: &impl Proxy, policy: &Policy, left: &mut usize) {
        let defined = self.defined;
        let end = defined.saturating_add(*left);
        let mut count = 0;
        let ranks = self.ranks;
        let mut define = |metric| {
            if (defined..end).contains(&count) {
                match metric {
                    Metric::Assignment { release, version, reason } => {
                        self.assignment_id(proxy, policy, (release, version, reason));
                    }
                    metric => {
                        self.id(proxy, policy, metric);
                    }
                }
            }
            count += 1;
        };
        for rank in ranks {
            initial::of_rank(policy, *rank, &mut define);
        }
        *left -= end.min(count).saturating_sub(defined);
        self.defined = if end < count { end } else { usize::MAX };
    }

    fn assignment_id(
        &mut self,
        proxy: &impl Proxy,
        policy: &Policy,
        (release, version, reason): (usize, usize, AssignmentReason),
    ) -> Option<MetricId> {
        let index = version * AssignmentReason::ALL.len() + reason as usize;
        let known = self.assignments.get_mut(release)?.get_mut(index)?;
        if known.is_none() {
            let metric = Metric::Assignment { release, version, reason };
            *known = proxy.metric(metric.spec().kind, &metric.name(policy));
        }
        *known
    }

    /// Counts one request by the version that it got.
    pub fn count_assignment(&mut self, proxy: &impl Proxy, policy: &Policy, assignment: &Assignment<'_>) {
        let Assignment { release, version, reason, .. } = *assignment;
        if let Some(id) = self.assignment_id(proxy, policy, (release, version, reason)) {
            proxy.add(id, 1);
        }
    }

    /// Counts one reply, or one response to a probe that was forwarded.
    pub fn count_reply(&mut self, proxy: &impl Proxy, policy: &Policy, cause: ReplyCause) {
        let known = self.replies.iter().position(|(known, _)| *known == cause);
        let id = match known.and_then(|place| self.replies.get(place)) {
            Some((_, id)) => Some(*id),
            None => self.remember_reply(proxy, policy, cause),
        };
        if let Some(id) = id {
            proxy.add(id, 1);
        }
    }

    #[inline(never)]
    fn remember_reply(&mut self, proxy: &impl Proxy, policy: &Policy, cause: ReplyCause) -> Option<MetricId> {
        let metric = match cause {
            ReplyCause::Probe { asked: target, code, result } => Metric::ProbeAnswer { target, code, result },
            ReplyCause::Gate { upstream, reason } => Metric::Gated { upstream, reason: reason.code() },
        };
        let id = self.id(proxy, policy, metric)?;
        if self.replies.len() >= REPLIES {
            self.replies.remove(0);
        }
        self.replies.push((cause, id));
        Some(id)
    }

    /// Counts the closed gates that did not reply. A request that one let through is not a gated request. A request
    /// that got a fallback is one.
    pub fn count_bypasses(&mut self, proxy: &impl Proxy, policy: &Policy, bypasses: &[GateBypass]) {
        for GateBypass { upstream, reason, action, .. } in bypasses {
            let upstream = *upstream;
            let to = match action {
                GateAction::FailOpen(why) => {
                    self.count(proxy, policy, Metric::FailedOpen { upstream, why: *why });
                    continue;
                }
                GateAction::Upstream(to) => {
                    self.count_reply(proxy, policy, ReplyCause::Gate { upstream, reason: *reason });
                    Some(*to)
                }
                // `count_reply` counts the reply itself.
                GateAction::Answer => None,
            };
            self.count(proxy, policy, Metric::Fallback { upstream, to });
        }
    }

    /// Counts one response of a version in a release with a rollback.
    pub fn count_response(
        &mut self,
        proxy: &impl Proxy,
        policy: &Policy,
        (release, version): (usize, usize),
        result: ResponseCount,
    ) {
        self.count(proxy, policy, Metric::Response { release, version, result });
    }

    /// Sets the gauges of the shares that the versions of a release have now.
    pub fn set_shares(&mut self, proxy: &impl Proxy, policy: &Policy, release: usize, shares: &[u32]) {
        for (version, share) in shares.iter().enumerate() {
            self.set(proxy, policy, Metric::Share { release, version }, u64::from(*share));
        }
    }

    /// Sets the gauges of a policy that is in use. `document` is the hash of what is applied.
    pub fn set_in_use(&mut self, proxy: &impl Proxy, policy: &Policy, document: u64) {
        self.set(proxy, policy, Metric::Enforced, u64::from(policy.mode == Mode::Enforce));
        self.set(proxy, policy, Metric::Document, PolicyIdentity::number(document));
        // In this mode, nothing answers the probes that a drain would fail, and no later tick sets the gauge.
        if policy.mode == Mode::Off && policy.probes.drain.is_some() {
            self.set(proxy, policy, Metric::Draining, 0);
        }
    }

    /// Sets the gauge of whether the proxy drains.
    pub fn set_draining(&mut self, proxy: &impl Proxy, policy: &Policy, draining: bool) {
        self.set(proxy, policy, Metric::Draining, draining.into());
    }

    /// Sets the gauge of whether the upstream is Ready or on a ramp.
    pub fn set_ready(&mut self, proxy: &impl Proxy, policy: &Policy, upstream: UpstreamId, ready: bool) {
        self.set(proxy, policy, Metric::Ready { upstream }, u64::from(ready));
    }

    /// Counts one.
    pub fn count(&mut self, proxy: &impl Proxy, policy: &Policy, metric: Metric) {
        if let Some(id) = self.id(proxy, policy, metric) {
            proxy.add(id, 1);
        }
    }

    fn set(&mut self, proxy: &impl Proxy, policy: &Policy, metric: Metric, value: u64) {
        if self.role == GaugeRole::Outdated {
            return;
        }
        if let Some(id) = self.id(proxy, policy, metric) {
            proxy.set(id, value);
        }
    }

    fn id(&mut self, proxy: &impl Proxy, policy: &Policy, metric: Metric) -> Option<MetricId> {
        if let Some(id) = self.ids.get(&metric) {
            return Some(*id);
        }
        let id = proxy.metric(metric.spec().kind, &metric.name(policy))?;
        self.ids.insert(metric, id);
        Some(id)
    }
}

/// Sets all of these gauges to the values that they have after the end: an upstream counts as ready, and a version holds
/// nothing.
pub fn end_gauges(names: &[(String, String)], proxy: &impl Proxy, policy: &str) {
    for (release, name) in names {
        let (full, value) = match release.as_str() {
            "" => (READY.full_name(&[policy, name], false), 1),
            _ => (SHARE.full_name(&[policy, release, name], false), 0),
        };
        if let Some(id) = proxy.metric(MetricKind::Gauge, &full) {
            proxy.set(id, value);
        }
    }
}
