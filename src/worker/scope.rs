//! What one callback of a worker works with: everything that its requests, checks and ticks have in common.
//!
//! The tables of upstreams and releases change what is known and return what has happened. A scope has them do so, and
//! records it.

use core::time::Duration;

use super::event::{Event, LifecycleChange};
use super::lifecycle::LifecycleView;
use super::metrics::Metrics;
use super::releases::ReleaseTable;
use super::signals::RequiredSignals;
use super::upstreams::UpstreamTable;
use crate::decision::release::split::Split;
use crate::decision::{self, Decision, probe};
use crate::policy::Policy;
use crate::policy::probe::ProbeKind;
use crate::policy::upstream::UpstreamId;
use crate::proxy::{NotSent, Proxy};
use crate::readiness::check::CheckFailure;
use crate::readiness::permit::Permit;
use crate::readiness::{Admission, Readiness, Transition, TrialOutcome, UpstreamStatus};
use crate::value::lease::Holder;
use crate::value::lifecycle::Lifecycle;
use crate::value::request::Request;
use crate::value::response::Sample;
use crate::value::time::Time;

/// A worker without its requests and checks under way, for the time of one callback.
pub struct Scope<'w, P> {
    /// The policy.
    pub policy: &'w Policy,
    /// The proxy.
    pub proxy: &'w P,
    /// This policy in this worker, among all of the proxy.
    pub holder: Holder,
    /// What has to be found out of each response.
    pub signals: RequiredSignals,
    /// The name of the proxy's own cluster, as its peers' health checks expect it.
    pub service: &'w str,
    /// What is known of the upstreams.
    pub upstreams: &'w mut UpstreamTable,
    /// How the releases divide their requests.
    pub releases: &'w mut ReleaseTable,
    /// Where the proxy stands.
    pub lifecycle: &'w mut LifecycleView,
    /// The counters and gauges.
    pub metrics: &'w mut Metrics,
    /// Numbers that no other request of the proxy has.
    pub ids: &'w mut Ids,
}

/// A source of ids that no other request of the proxy has.
pub struct Ids(u64);

impl Ids {
    /// Starts at a random number, which is the worker's own.
    pub fn new(random: u64) -> Self {
        Ids(random)
    }

    /// Returns the next one.
    pub fn take(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        self.0
    }
}

impl<'w, P: Proxy> Scope<'w, P> {
    /// Decides what is to happen to a request.
    pub fn decide(&mut self, request: &impl Request) -> Decision<'w> {
        let policy = self.policy;
        let (mut snapshot, splits) = self.snapshot_and_splits();
        decision::decide(policy, request, &mut snapshot, splits)
    }

    /// Returns what is known at this moment, as a request sees it.
    pub fn snapshot(&mut self) -> Snapshot<'_, P> {
        self.snapshot_and_splits().0
    }

    fn snapshot_and_splits(&mut self) -> (Snapshot<'_, P>, &mut [Split]) {
        let snapshot = Snapshot {
            policy: self.policy,
            proxy: self.proxy,
            upstreams: self.upstreams,
            lifecycle: self.lifecycle.seen(),
            ids: self.ids,
            random: None,
        };
        (snapshot, self.releases.splits_mut())
    }

    /// Writes the event's log line and counts it.
    pub fn record(&self, event: &Event<'_>) {
        event.record(self.proxy);
    }

    fn record_transition(&self, upstream: UpstreamId, transition: Option<Transition>) {
        if let Some(transition) = transition {
            self.record(&Event::Transition { policy: self.policy, upstream, transition });
        }
    }

    /// Counts one response of the upstream; see [`UpstreamTable::observe`].
    pub fn observe(&mut self, id: UpstreamId, sample: Sample, epoch: u64) {
        let transition = self.upstreams.observe(self.policy, self.proxy, id, sample, epoch);
        self.record_transition(id, transition);
    }

    /// Gives a permit back; see [`UpstreamTable::give_back`].
    pub fn give_back(&mut self, permit: Permit, outcome: TrialOutcome) {
        let id = permit.upstream();
        let transition = self.upstreams.give_back(self.policy, self.proxy, permit, outcome);
        self.record_transition(id, transition);
    }

    /// Reads and shares what is known of the upstream; see [`UpstreamTable::refresh`].
    pub fn refresh(&mut self, id: UpstreamId, now: Time, leads: bool) {
        let transition = self.upstreams.refresh(self.policy, self.proxy, id, now, leads);
        self.record_transition(id, transition);
    }

    /// Takes the result of a check that was started in `generation`.
    pub fn on_check(&mut self, id: UpstreamId, generation: u32, result: Result<(), CheckFailure>) {
        let passed = result.is_ok();
        self.record(&Event::CheckResult { policy: self.policy, upstream: id, passed });
        self.releases.on_check(self.policy, id, passed);
        let transition = self.upstreams.on_check(self.policy, self.proxy, id, generation, result);
        self.record_transition(id, transition);
    }

    /// Records that a check could not be sent.
    pub fn on_check_not_sent(&mut self, id: UpstreamId, why: NotSent) {
        let is_first = self.upstreams.on_check_not_sent(self.policy, self.proxy, id);
        self.record(&Event::CheckNotSent { policy: self.policy, upstream: id, why, is_first });
    }

    /// Publishes whether the upstream is Ready.
    pub fn publish_ready(&mut self, id: UpstreamId) {
        let ready = self.upstreams.is_ready(self.policy, id);
        self.metrics.set_ready(self.proxy, self.policy, id, ready);
    }

    /// Returns whether the startup probe's checks have passed, by what this worker knows.
    pub fn has_started(&mut self) -> bool {
        probe::has_started(self.policy, &self.snapshot())
    }

    /// Reads where the proxy stands, and notes that it has started, if it has by what this worker knows. Only the newest
    /// policy's verdict counts: an older one may ask for less.
    pub fn refresh_lifecycle(&mut self, now: Time, span: Duration) {
        let probes = &self.policy.probes;
        let starts = probes.of(ProbeKind::Startup).is_some();
        if !starts && probes.drain.is_none() {
            return;
        }
        self.lifecycle.refresh(self.proxy);
        if starts
            && !self.lifecycle.seen().started
            && self.lifecycle.claim_lead(self.proxy, self.holder, now, span)
            && self.has_started()
        {
            self.change_lifecycle(LifecycleChange::Started);
        }
    }

    /// Orders the proxy to drain, or to stop draining. Returns whether the order was written.
    pub fn drain(&mut self, draining: bool) -> bool {
        self.change_lifecycle(if draining { LifecycleChange::Draining } else { LifecycleChange::NotDraining })
    }

    fn change_lifecycle(&mut self, change: LifecycleChange) -> bool {
        let changed = self.lifecycle.change(self.proxy, change);
        if changed == Some(true) {
            self.record(&Event::Lifecycle { policy: self.policy, change });
        }
        changed.is_some()
    }
}

/// What is known at the moment of a request.
pub struct Snapshot<'s, P> {
    policy: &'s Policy,
    proxy: &'s P,
    upstreams: &'s mut UpstreamTable,
    lifecycle: Lifecycle,
    ids: &'s mut Ids,
    /// Asked for once, and only if it makes a difference.
    random: Option<u64>,
}

impl<P: Proxy> Readiness for Snapshot<'_, P> {
    fn admission(&mut self, id: UpstreamId) -> Admission {
        self.upstreams.admission(self.policy, id)
    }

    fn lend_permit(&mut self, id: UpstreamId) -> Option<Permit> {
        self.upstreams.lend(self.policy, self.proxy, id, self.ids.take())
    }

    fn status(&self, id: UpstreamId) -> UpstreamStatus {
        self.upstreams.status(self.policy, id)
    }

    fn lifecycle(&self) -> Lifecycle {
        let probes = &self.policy.probes;
        Lifecycle {
            started: self.lifecycle.started || probes.of(ProbeKind::Startup).is_none(),
            draining: self.lifecycle.draining && probes.drain.is_some(),
        }
    }

    fn now(&self) -> Time {
        self.proxy.now()
    }

    fn random(&mut self) -> u64 {
        *self.random.get_or_insert_with(|| self.proxy.random())
    }
}
