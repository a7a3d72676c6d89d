//! The part of a worker that its requests, checks and ticks have in common, for the time of one callback.
//!
//! The tables of upstreams and releases change the shared state and return transitions and events. The scope calls them
//! and records what they return.

use core::time::Duration;

use super::app_calls::AppCalls;
use super::event::Event;
use super::lifecycle::{self, LifecycleView};
use super::metric::LifecycleChange;
use super::metrics::Metrics;
use super::releases::ReleaseTable;
use super::routes::RouteWatch;
use super::signals::RequiredSignals;
use super::upstreams::{self, Moment, UpstreamTable};
use crate::decision::ready::ReadyReplies;
use crate::decision::release::split::Split;
use crate::decision::reply::Reply;
use crate::decision::{self, Decision, probe};
use crate::policy::Policy;
use crate::policy::probe::ProbeKind;
use crate::policy::upstream::UpstreamId;
use crate::proxy::{Map, NotSent, Proxy};
use crate::readiness::check::CheckFailure;
use crate::readiness::permit::{self, Permit, PermitQuery};
use crate::readiness::{Admission, Readiness, Transition, TrialOutcome, UpstreamStatus};
use crate::value::date::Date;
use crate::value::lease::Holder;
use crate::value::lifecycle::Lifecycle;
use crate::value::request::Request;
use crate::value::response::Sample;
use crate::value::time::Time;

/// A worker without its exchanges and its checks in flight, for the time of one callback.
pub struct Scope<'w, P> {
    /// The policy that the worker applies.
    pub policy: &'w Policy,
    /// The proxy that runs the worker.
    pub proxy: &'w P,
    /// The identity with which this worker claims leases.
    pub holder: Holder,
    /// The signals that the policy needs from each response.
    pub signals: &'w RequiredSignals,
    /// The name of the proxy's own cluster. The health checks of its peers expect it in replies to probes.
    pub service: &'w str,
    /// The upstreams' states as this worker last read them, with its unshared responses.
    pub upstreams: &'w mut UpstreamTable,
    /// How the releases divide their requests, with this worker's unshared observations.
    pub releases: &'w mut ReleaseTable,
    /// Whether the requests of each version reach its cluster.
    pub routes: &'w mut RouteWatch,
    /// The proxy's lifecycle as this worker last read it.
    pub lifecycle: &'w mut LifecycleView,
    /// The calls to the app for probes, and the requests that wait for them.
    pub app_calls: &'w mut AppCalls,
    /// The policy's counters and gauges.
    pub metrics: &'w mut Metrics,
    /// The latest replies, ready-made.
    pub ready: &'w mut ReadyReplies,
    /// The source of ids for permits and for calls to the app.
    pub ids: &'w mut Ids,
}

/// A source of ids. Each id is unique among all requests of the proxy.
pub struct Ids(u64);

impl Ids {
    /// Creates a source that counts up from a random number, so that the ids of two workers do not collide.
    pub fn new(random: u64) -> Self {
        Ids(random)
    }

    /// Returns the next id.
    pub fn take(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        self.0
    }
}

impl<'w, P: Proxy> Scope<'w, P> {
    /// Decides on a request by the worker's current snapshot. `is_whole` tells whether the whole request has come.
    pub fn decide(&mut self, request: &impl Request, is_whole: bool) -> Decision<'w> {
        let policy = self.policy;
        let (mut snapshot, splits, ready) = self.split();
        snapshot.is_whole = is_whole;
        decision::decide_with(policy, request, &mut snapshot, splits, ready)
    }

    /// Returns the state that a request decides by, which is what this worker knows now.
    pub fn snapshot(&mut self) -> Snapshot<'_, P> {
        self.split().0
    }

    /// Borrows the snapshot separately from the splits and the replies.
    fn split(&mut self) -> (Snapshot<'_, P>, &mut [Split], &mut ReadyReplies) {
        let snapshot = Snapshot {
            policy: self.policy,
            proxy: self.proxy,
            upstreams: self.upstreams,
            lifecycle: self.lifecycle,
            ids: self.ids,
            random: None,
            is_whole: false,
        };
        (snapshot, self.releases.splits_mut(), self.ready)
    }

    /// Writes the event's log line and increments its counter.
    pub fn record(&self, event: &Event<'_>) {
        event.record(self.proxy);
    }

    /// Sends a reply to the current request, and counts it. Returns `false` if the proxy does not accept it.
    pub fn send(&mut self, reply: &Reply) -> bool {
        let policy = self.policy;
        self.metrics.count_reply(self.proxy, policy, reply.cause);
        let accepted = if policy.probes.marker_headers && reply.is_for_probe() {
            self.proxy.reply(&reply.with_header(probe::SERVICE, self.service.to_owned()))
        } else {
            self.proxy.reply(reply)
        };
        if !accepted {
            self.record(&Event::ReplyRefused { policy, details: &reply.details });
        }
        accepted
    }

    fn record_transition(&self, upstream: UpstreamId, transition: Option<Transition>) {
        if let Some(transition) = transition {
            self.record(&Event::Transition { policy: self.policy, upstream, transition });
        }
    }

    /// Counts the beginning of one response of the upstream, or its absence. See [`UpstreamTable::observe`].
    pub fn observe(&mut self, id: UpstreamId, sample: Sample, moment: Moment) {
        let transition = self.upstreams.observe(self.policy, self.proxy, id, sample, moment);
        self.record_transition(id, transition);
    }

    /// Counts the end of a response. See [`UpstreamTable::observe_end`].
    pub fn observe_end(&mut self, id: UpstreamId, is_broken_off: bool, moment: Moment) {
        let transition = self.upstreams.observe_end(self.policy, self.proxy, id, is_broken_off, moment);
        self.record_transition(id, transition);
    }

    /// Counts a response on trial that has no permit. See [`UpstreamTable::observe_on_trial`].
    pub fn observe_on_trial(&mut self, id: UpstreamId, sample: Sample, moment: Moment) {
        let transition = self.upstreams.observe_on_trial(self.policy, self.proxy, id, sample, moment);
        self.record_transition(id, transition);
    }

    /// Counts a request of which nothing more is to come, in whatever phase the upstream is.
    pub fn observe_whole(&mut self, id: UpstreamId, sample: Sample, moment: Moment) {
        self.observe(id, sample, moment);
        self.observe_on_trial(id, sample, moment);
    }

    /// Gives a permit back with the response to its request, whose context must be the current one.
    pub fn give_back_seen(&mut self, permit: Permit, sample: Sample) {
        let sample = upstreams::of_trial(self.proxy, sample);
        self.give_back(permit, TrialOutcome::Seen(sample));
    }

    /// Gives a permit back. See [`UpstreamTable::give_back`].
    pub fn give_back(&mut self, permit: Permit, outcome: TrialOutcome) {
        let id = permit.upstream();
        let transition = self.upstreams.give_back(self.policy, self.proxy, permit, outcome);
        self.record_transition(id, transition);
    }

    /// Shares what this worker has seen of the upstream and reads its state. See [`UpstreamTable::refresh`].
    pub fn refresh(&mut self, id: UpstreamId, now: Time, leads: bool) {
        let transition = self.upstreams.refresh(self.policy, self.proxy, id, now, leads);
        self.record_transition(id, transition);
    }

    /// Shares what this worker has seen of the releases and reads their state. See [`ReleaseTable::refresh`].
    pub fn refresh_releases(&mut self, now: Time) {
        for event in self.releases.refresh(self.proxy, self.policy, now) {
            self.record(&event);
        }
    }

    /// Takes the result of a check that was started in `generation`.
    pub fn on_check(&mut self, id: UpstreamId, generation: u32, result: Result<(), CheckFailure>) {
        let passed = result.is_ok();
        self.record(&Event::CheckResult { policy: self.policy, upstream: id, passed });
        self.releases.on_check(self.policy, id, passed);
        let transition = self.upstreams.on_check(self.policy, self.proxy, id, generation, result);
        self.record_transition(id, transition);
        self.hear_of_drain(id, result);
    }

    /// Takes what a check tells of a drain, if the policy listens to it. Only an answer of the upstream tells. If the
    /// upstream cannot be reached or hangs, a drain neither begins nor ends, because this is what an outage looks like.
    fn hear_of_drain(&mut self, id: UpstreamId, result: Result<(), CheckFailure>) {
        let check = self.policy.upstream(id).and_then(|upstream| upstream.check.as_ref());
        let Some(check) = check.filter(|_| lifecycle::tells_of_drain(self.policy, id)) else {
            return;
        };
        let threshold = match result {
            Ok(()) => check.success_threshold,
            Err(CheckFailure::Status(_) | CheckFailure::NotServing(_)) => check.failure_threshold,
            Err(_) => return,
        };
        let change = self.lifecycle.with_answer(result.is_ok(), threshold);
        self.change_lifecycle(change);
    }

    /// Records that a check could not be sent.
    pub fn on_check_not_sent(&mut self, id: UpstreamId, why: NotSent) {
        let is_first = self.upstreams.on_check_not_sent(self.policy, self.proxy, id);
        self.record(&Event::CheckNotSent { policy: self.policy, upstream: id, why, is_first });
    }

    /// Sets the gauge of whether the upstream is Ready.
    pub fn publish_ready(&mut self, id: UpstreamId) {
        let ready = self.upstreams.is_ready(self.policy, id);
        self.metrics.set_ready(self.proxy, self.policy, id, ready);
    }

    /// Returns whether this worker knows that the checks of the startup probe have passed.
    pub fn has_started(&mut self) -> bool {
        probe::has_started(self.policy, &self.snapshot())
    }

    /// Reads the proxy's lifecycle. If the worker leads and knows that the proxy has started, records the start. A worker
    /// with an older policy does not, because its startup probe may require less.
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
            self.change_lifecycle(|lifecycle| lifecycle.started = true);
        }
        if self.policy.probes.drain.is_some() {
            let draining = self.snapshot().lifecycle().is_draining();
            self.metrics.set_draining(self.proxy, self.policy, draining);
        }
    }

    /// Orders the proxy to drain or to stop draining. Returns whether the order was written.
    pub fn drain(&mut self, draining: bool) -> bool {
        self.change_lifecycle(|lifecycle| lifecycle.draining = draining)
    }

    /// Ends a drain for a reason that the policy does not have. Returns whether none is left.
    pub fn end_orphaned_drain(&mut self) -> bool {
        let change = self.lifecycle.without_orphans(self.policy);
        !self.lifecycle.has_orphaned_drain(self.policy) || self.change_lifecycle(change)
    }

    /// Changes the shared lifecycle, and records what begins or ends with it. Returns whether it was written.
    fn change_lifecycle(&mut self, change: impl Fn(&mut Lifecycle)) -> bool {
        let Some((before, after)) = self.lifecycle.change(self.proxy, change) else {
            return false;
        };
        let policy = self.policy;
        if !before.started && after.started {
            self.record(&Event::Lifecycle { policy, change: LifecycleChange::Started, upstream: None });
        }
        let change = match (before.is_draining(), after.is_draining()) {
            (false, true) => LifecycleChange::Draining,
            (true, false) => LifecycleChange::NotDraining,
            _ => return true,
        };
        // A policy that no longer has a drain has no later tick that would end the gauge.
        if change == LifecycleChange::NotDraining {
            self.metrics.set_draining(self.proxy, policy, false);
        }
        let also_when = policy.probes.drain.as_ref().and_then(|drain| drain.also_when);
        let upstream = also_when.filter(|_| after.upstream.draining);
        self.record(&Event::Lifecycle { policy, change, upstream });
        true
    }
}

/// What a worker knows at the moment of a request.
pub struct Snapshot<'s, P> {
    policy: &'s Policy,
    proxy: &'s P,
    upstreams: &'s mut UpstreamTable,
    lifecycle: &'s LifecycleView,
    ids: &'s mut Ids,
    /// The random number of this request. It is read on its first use, because few requests use it.
    random: Option<u64>,
    /// Whether the whole request has come.
    is_whole: bool,
}

impl<P: Proxy> Readiness for Snapshot<'_, P> {
    fn admission(&mut self, id: UpstreamId) -> Admission {
        self.upstreams.admission(self.policy, id)
    }

    fn lend_permit(&mut self, id: UpstreamId) -> Option<Permit> {
        let held = self.proxy.header(Map::RequestHeaders, permit::HEADER);
        let query = PermitQuery {
            id: self.ids.take(),
            held: held.as_deref().map(permit::read).unwrap_or_default(),
            client: upstreams::client(self.proxy),
            is_whole: self.is_whole,
        };
        self.upstreams.lend(self.policy, self.proxy, id, &query)
    }

    fn status(&self, id: UpstreamId) -> UpstreamStatus {
        self.upstreams.status(self.policy, id)
    }

    fn lifecycle(&self) -> Lifecycle {
        let known = self.lifecycle.of(self.policy);
        let started = known.started || self.policy.probes.of(ProbeKind::Startup).is_none();
        Lifecycle { started, ..known }
    }

    fn now(&self) -> Time {
        self.proxy.now()
    }

    fn date(&self) -> Date {
        self.proxy.date()
    }

    fn random(&mut self) -> u64 {
        *self.random.get_or_insert_with(|| self.proxy.random())
    }
}
