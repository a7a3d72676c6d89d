//! One worker's view of the upstreams: a snapshot of their shared state, and the responses that it has not shared yet.
//!
//! The protocol between workers:
//!
//! - A worker decides by its snapshot and reads the shared state on its tick. Only a permit for an upstream on trial is
//!   taken from the shared state at once, because no two requests may get the same one.
//! - A worker shares the responses that it has seen on its tick. It shares them at once if [`ReportThrottle`] says so, or
//!   if they would trip the breaker.
//! - A worker that reads of failures shares its next success at once, because it may show that they are not the
//!   upstream's.
//! - Each response is shared once. If the update could not be written, the responses are kept for the next one.
//! - What belongs to an earlier phase is dropped. That is a response whose request was decided on before this worker knew
//!   of the phase, and responses that were seen in an earlier generation.
//! - A worker whose policy has been replaced still adds to the counts. Only a worker with the newer policy decides.
//!
//! With few upstreams, a worker claims the lead of each and reads its state on each tick. With many, that would take too
//! long. Then a tick does so only for the next part of them, in a [`Sweep`], and reads a state beyond that in these cases:
//!
//! - The worker has responses of the upstream to share, or time alone may change its state.
//! - The state has changed. Workers announce that in [`ChangeLog`], a change of phase at once and others on their ticks.
//!
//! So a worker learns of each change within the same two ticks. The sweep finds what was not announced, and renews leases,
//! which then last longer.

use core::time::Duration;

use super::changes::{ChangeLog, Mark, News};
use super::fast_path::{FastPath, INSPECTED, Redundancy};
use super::sweep::Sweep;
use super::{leader, store};
use crate::policy::Policy;
use crate::policy::upstream::{Breaker, Upstream, UpstreamId};
use crate::proxy::{Attribute, Proxy};
use crate::readiness::check::CheckFailure;
use crate::readiness::heard::{SAMPLE_PERIOD, SuccessSample};
use crate::readiness::permit::{LeaseId, Permit, PermitQuery};
use crate::readiness::row::RowFailure;
use crate::readiness::streak::Streak;
use crate::readiness::throttle::ReportThrottle;
use crate::readiness::{
    Admission, BreakerCounts, Phase, Transition, TrialOutcome, UpstreamReason, UpstreamState, UpstreamStatus,
};
use crate::value::hash;
use crate::value::lease::{Holder, LeaseRole};
use crate::value::peers::Peers;
use crate::value::response::{ResponseClass, Sample};
use crate::value::time::{Time, millis};

/// All upstreams of a policy.
pub struct UpstreamTable {
    entries: Vec<Entry>,
    /// For each upstream, whether a request has needed it since the last tick.
    needed: Vec<bool>,
    /// What this worker knows now.
    moment: Moment,
    /// The time of the last tick.
    ticked: Time,
    /// The upstream of which a sample is due, if the request that is decided on needs one.
    wants_sample: Option<UpstreamId>,
    fast_path: FastPath,
    sweep: Sweep,
    /// `None` if each tick reads all states anyway.
    changes: Option<ChangeLog>,
}

/// What a worker knew when it decided on a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// The number of changes of phase that it had learnt of, over all upstreams.
    epoch: u64,
    /// The number of failures that it had counted, over all upstreams.
    failures: u64,
}

/// One upstream.
struct Entry {
    /// The key of the shared state.
    key: String,
    /// The mark by which changes of the state are announced.
    mark: Mark,
    /// The shared state as this worker last read it.
    snapshot: UpstreamState,
    /// The responses that this worker has seen and not shared.
    unshared: Streak,
    throttle: ReportThrottle,
    /// Whether another worker leads the upstream with a newer and different policy.
    outdated: bool,
    /// The epoch in which this worker learnt of the current phase.
    epoch: u64,
    /// The number of counted failures, over all upstreams, up to the latest of this one. Zero without a row.
    failed: u64,
    /// The time of that failure.
    failed_at: Time,
    /// The number of successes since the last sample.
    successes: u32,
    /// The time of the last sample.
    sampled: Option<Time>,
    /// The number of requests since the last tick that needed the upstream.
    asked: u32,
    /// Whether this worker led the upstream when it last claimed the lead.
    leads: bool,
    /// Whether the state may have changed since this worker last read it.
    is_stale: bool,
    /// Whether the state is no assumption of an earlier policy that this one does not share.
    is_adopted: bool,
}

/// What a tick has to do for an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Claim its lead, and share and read its state.
    Claim,
    /// Share and read its state.
    Refresh,
    /// Nothing but sending its check, if this worker leads it and the check is due.
    Rest,
}

/// A change of an upstream's state, as [`UpstreamTable::update`] applies it.
type Change<'c> = &'c mut dyn FnMut(&Upstream, &mut UpstreamState) -> Option<Transition>;

/// A change with the unshared responses of one worker, and the generation that it saw them in.
type StreakChange<'c> = &'c mut dyn FnMut(&Upstream, &mut UpstreamState, u32, &Streak) -> Option<Transition>;

impl UpstreamTable {
    /// Creates the table with the state that the other workers share. `watched` is [`Policy::watched`] of all policies of
    /// the document together.
    pub fn new(policy: &Policy, watched: usize, proxy: &impl Proxy, now: Time) -> Self {
        let sweep = Sweep::new(policy.watched(), watched, policy.tick().unwrap_or_default());
        // The log is read before the states, so no change in between is missed.
        let changes = (!sweep.is_whole()).then(|| ChangeLog::new(proxy, policy));
        let random = proxy.random();
        let entries = policy.upstreams.iter().zip(0..).map(|(upstream, index)| {
            let key = key(policy, upstream);
            let first = UpstreamState::new(upstream, now, hash::pseudo_random(random.wrapping_add(index)));
            let stored: Option<UpstreamState> = store::get(proxy, &key);
            if stored.is_none() {
                store::seed(proxy, &key, &first);
                leader::seed(proxy, &key);
            }
            let is_stale = stored.as_ref().is_some_and(|known| is_stale_assumption(known, &first));
            let known = stored.filter(|_| !is_stale);
            Entry {
                mark: hash::key(0, key.as_bytes()) as Mark,
                key,
                snapshot: known.unwrap_or(first),
                unshared: Streak::default(),
                throttle: ReportThrottle::default(),
                outdated: false,
                epoch: 0,
                failed: 0,
                failed_at: now,
                successes: 0,
                sampled: None,
                asked: 0,
                leads: false,
                is_stale: false,
                is_adopted: !upstream.is_watched() && !is_stale,
            }
        });
        UpstreamTable {
            entries: entries.collect(),
            needed: vec![false; policy.upstreams.len()],
            moment: Moment::default(),
            ticked: now,
            wants_sample: None,
            fast_path: FastPath::new(policy.breakers().any(|breaker| breaker.shares.is_some()), random),
            sweep,
            changes,
        }
    }

    /// Returns the upstream of which a sample is due, if the request that is decided on needs one. Its response is then
    /// inspected. Otherwise the successes of an upstream with few requests would be lost among those of others.
    pub fn takes_sample(&mut self) -> Option<UpstreamId> {
        self.wants_sample.take()
    }

    /// Returns what this worker knows now, for [`UpstreamTable::observe`].
    pub fn moment(&self) -> Moment {
        self.moment
    }

    /// Returns the time of the last tick. It costs no host call.
    pub fn ticked(&self) -> Time {
        self.ticked
    }

    /// Starts a tick. Credits the successes that were not inspected to the upstreams that had successes, in equal
    /// parts, because it is not known whose they are. An upstream gets no more than there were requests that needed it,
    /// if any did.
    pub fn on_tick(&mut self, proxy: &impl Proxy, now: Time) {
        self.ticked = now;
        self.sweep.begin();
        self.read_changes(proxy);
        self.fast_path.on_tick();
        let passed = self.fast_path.take_passed();
        let active = self.entries.iter().filter(|entry| entry.unshared.has_success()).count();
        let each = passed.checked_div(u32::try_from(active).unwrap_or(u32::MAX)).unwrap_or_default();
        for entry in &mut self.entries {
            entry.throttle.on_tick();
            let asked = core::mem::take(&mut entry.asked);
            if entry.unshared.has_success() {
                let most = if asked == 0 { each } else { asked };
                entry.successes = entry.successes.saturating_add(each.min(most));
            }
        }
    }

    fn read_changes(&mut self, proxy: &impl Proxy) {
        let Some(changes) = &mut self.changes else {
            return;
        };
        let marks = match changes.read(proxy) {
            News::Unknown => None,
            News::Of(marks) => Some(marks),
        };
        if marks.as_ref().is_some_and(Vec::is_empty) {
            return;
        }
        let mut marked = vec![marks.is_none(); 1 << Mark::BITS];
        for mark in marks.unwrap_or_default() {
            if let Some(marked) = marked.get_mut(usize::from(mark)) {
                *marked = true;
            }
        }
        for entry in &mut self.entries {
            entry.is_stale |= marked.get(usize::from(entry.mark)).is_some_and(|marked| *marked);
        }
    }

    /// Ends a tick. Announces which states this worker has changed.
    pub fn end_tick(&mut self, proxy: &impl Proxy) {
        if let Some(changes) = &mut self.changes {
            changes.share(proxy);
        }
    }

    /// Returns what the current tick has to do for a watched upstream. Called once a tick for each, in order.
    pub fn turn(&mut self, upstream: &Upstream, id: UpstreamId, now: Time) -> Turn {
        let Some(entry) = self.entries.get(id.0) else {
            return Turn::Rest;
        };
        let by_use = upstream.check.as_ref().is_some_and(|check| check.periods.go_by_use());
        let needed = by_use && self.needed.get(id.0).is_some_and(|needed| *needed);
        let has_work = entry.is_stale
            || needed
            || entry.unshared != Streak::default()
            || entry.snapshot.depends_on_time(upstream, now, entry.leads);
        match self.sweep.reaches_next() {
            true => Turn::Claim,
            false if has_work => Turn::Refresh,
            false => Turn::Rest,
        }
    }

    /// Returns whether this worker led the upstream when it last claimed the lead.
    pub fn leads(&self, id: UpstreamId) -> bool {
        self.entries.get(id.0).is_some_and(|entry| entry.leads)
    }

    /// Returns the time within which another worker takes over all leads that it may have.
    pub fn take_over(&self) -> Duration {
        self.sweep.take_over()
    }

    /// Returns for how long this worker claims a lead.
    pub fn lease(&self) -> Duration {
        self.sweep.lease()
    }

    /// Returns whether the worker has responses of the upstream to share.
    pub fn has_unshared(&self, id: UpstreamId) -> bool {
        self.entries.get(id.0).is_some_and(|entry| entry.unshared != Streak::default())
    }

    /// Returns the upstream's state as this worker last read it.
    pub fn snapshot(&self, id: UpstreamId) -> Option<&UpstreamState> {
        self.entries.get(id.0).map(|entry| &entry.snapshot)
    }

    /// Returns the id of the worker that leads the upstream, if one does.
    pub fn leader(&self, proxy: &impl Proxy, id: UpstreamId, now: Time) -> Option<u64> {
        self.entries.get(id.0).and_then(|entry| leader::holder(proxy, &entry.key, now))
    }

    /// Returns what the upstream's breaker has counted, as far as this worker knows.
    pub fn counted(&self, id: UpstreamId, breaker: &Breaker, now: Time) -> Option<BreakerCounts> {
        self.entries.get(id.0).map(|entry| entry.snapshot.counted(breaker, now, &entry.unshared))
    }

    /// Returns what a request that needs the upstream may do, and records that a request needs it.
    pub fn admission(&mut self, policy: &Policy, id: UpstreamId) -> Admission {
        self.need(id);
        if let Some(entry) = self.entries.get_mut(id.0) {
            entry.asked = entry.asked.saturating_add(1);
            // The upstream may never respond to the requests that need it.
            let is_due = entry.asked <= INSPECTED && entry.is_sample_due(self.ticked);
            self.wants_sample = is_due.then_some(id).or(self.wants_sample);
        }
        let known = self.snapshot(id).zip(policy.upstream(id));
        // The default is never used, because every upstream of the policy has an entry.
        known.map_or(Admission::Ready, |(state, upstream)| state.admission(upstream))
    }

    fn need(&mut self, id: UpstreamId) {
        if let Some(needed) = self.needed.get_mut(id.0) {
            *needed = true;
        }
    }

    /// Returns the upstream's status by the snapshot, for probes and gates.
    pub fn status(&self, policy: &Policy, id: UpstreamId) -> UpstreamStatus {
        let known = self.snapshot(id).zip(policy.upstream(id));
        known.map_or_else(UpstreamStatus::unknown, |(state, upstream)| state.status(upstream))
    }

    /// Lends a permit for an upstream on trial.
    pub fn lend(
        &mut self,
        policy: &Policy,
        proxy: &impl Proxy,
        id: UpstreamId,
        query: &PermitQuery,
    ) -> Option<Permit> {
        let now = proxy.now();
        let mut lent = None;
        self.update(policy, proxy, id, &mut |upstream, state| {
            lent = state.lend_permit(upstream, now, query);
            None
        })?;
        lent.map(|lease: LeaseId| Permit::new(id, lease))
    }

    /// Returns the fast path, with the redundancy of one more success.
    pub fn fast_path(&mut self, policy: &Policy) -> (&mut FastPath, Redundancy) {
        let redundancy = self.redundancy(policy);
        self.fast_path.remember(redundancy);
        (&mut self.fast_path, redundancy)
    }

    /// Determines the redundancy. It may change with each response. So the upstream that has changed is looked at, or the one
    /// that needed successes before. The cost then does not grow with the number of upstreams.
    fn redundancy(&mut self, policy: &Policy) -> Redundancy {
        let needs_success = |(upstream, entry): (&Upstream, &Entry)| {
            let Some(breaker) = &upstream.breaker else {
                return false;
            };
            let by_use = upstream.check.as_ref().is_some_and(|check| check.periods.go_by_use());
            let is_calm =
                entry.throttle.is_idle() && entry.snapshot.needs_no_success(breaker, &entry.unshared);
            by_use || entry.outdated || !is_calm
        };
        let (known, changed) = self.fast_path.redundancy();
        let needs_success_at = |place: usize| {
            policy.upstreams.get(place).zip(self.entries.get(place)).is_some_and(needs_success)
        };
        let have_all_succeeded = || {
            let mut each = policy.upstreams.iter().zip(&self.entries);
            each.all(|(upstream, entry)| upstream.breaker.is_none() || entry.unshared.has_success())
        };
        match (known, changed) {
            (Some(known), None) => return known,
            (Some(Redundancy::OneMore { succeeded }), Some(changed)) if !needs_success_at(changed) => {
                return Redundancy::OneMore { succeeded: succeeded || have_all_succeeded() };
            }
            _ => {}
        }
        if needs_success_at(self.fast_path.blocker()) {
            return Redundancy::Needed;
        }
        if let Some(blocker) = policy.upstreams.iter().zip(&self.entries).position(needs_success) {
            self.fast_path.block(blocker);
            return Redundancy::Needed;
        }
        Redundancy::OneMore { succeeded: have_all_succeeded() }
    }

    /// Returns an entry to change, which may affect the redundancy.
    fn entry_mut(&mut self, id: UpstreamId) -> Option<&mut Entry> {
        self.fast_path.forget_one(id.0);
        self.entries.get_mut(id.0)
    }

    /// Returns an entry to change, if a request that was decided on at `moment` belongs to the current phase. If this worker did
    /// not know of the phase then, the response belongs to an earlier one.
    fn entry_in_phase(&mut self, id: UpstreamId, moment: Moment) -> Option<&mut Entry> {
        self.entry_mut(id).filter(|entry| moment.epoch >= entry.epoch)
    }

    /// Applies a change to the shared state and makes the result the snapshot. `change` may run several times, and its
    /// last run counts. Returns `None` if the state could not be written.
    fn update(
        &mut self,
        policy: &Policy,
        proxy: &impl Proxy,
        id: UpstreamId,
        change: Change<'_>,
    ) -> Option<Option<Transition>> {
        let upstream = policy.upstream(id)?;
        self.fast_path.forget();
        let entry = self.entries.get_mut(id.0)?;
        let fallback = &entry.snapshot;
        let (transition, state, changed) =
            store::update(proxy, &entry.key, |known: Option<UpstreamState>| {
                let before = known.clone();
                let mut state = known.unwrap_or_else(|| fallback.clone());
                let transition = change(upstream, &mut state);
                let changed = before.as_ref() != Some(&state);
                ((transition, state.clone(), changed), changed.then_some(state))
            })?;
        if let Some(changes) = self.changes.as_mut().filter(|_| changed) {
            changes.note(entry.mark);
            if transition.is_some() {
                changes.share(proxy);
            }
        }
        // Responses from an earlier phase are no evidence in this one.
        if entry.snapshot.generation != state.generation {
            // The next tick shows it, if this worker leads.
            entry.is_stale = true;
            entry.unshared = Streak::default();
            entry.throttle = ReportThrottle::default();
            entry.failed = 0;
            self.moment.epoch += 1;
            entry.epoch = self.moment.epoch;
        }
        entry.snapshot = state;
        Some(transition)
    }
}

impl UpstreamTable {
    /// Shares the responses that this worker has seen, and reads the upstream's state. The leader also applies the passing
    /// of time.
    pub fn refresh(
        &mut self,
        policy: &Policy,
        proxy: &impl Proxy,
        id: UpstreamId,
        now: Time,
        leads: bool,
    ) -> Option<Transition> {
        let needed = self.needed.get_mut(id.0).is_some_and(core::mem::take);
        let entry = self.entry_mut(id)?;
        let outdated = entry.outdated;
        let adopts = !entry.is_adopted && !outdated;
        let random = proxy.random();
        let shared = self.share(policy, proxy, id, &mut |upstream, state, generation, unshared| {
            if adopts {
                adopt_assumption(upstream, state, now, random);
            }
            if let Some(check) = upstream.check.as_ref().filter(|_| needed) {
                state.checks.need(check, now);
            }
            if outdated {
                state.merge(generation, unshared);
                return None;
            }
            let transition = state.on_responses(upstream, now, generation, unshared, random);
            if transition.is_none() && leads {
                return state.on_tick(upstream, now, random);
            }
            transition
        });
        match (&shared, self.entries.get_mut(id.0)) {
            (Some(_), Some(entry)) => {
                entry.is_stale = false;
                entry.is_adopted |= adopts;
            }
            _ if needed => self.need(id),
            _ => {}
        }
        shared?
    }

    /// Applies a change with the responses that this worker has not shared. If the state could not be written, keeps them
    /// for the next update and returns `None`.
    fn share(
        &mut self,
        policy: &Policy,
        proxy: &impl Proxy,
        id: UpstreamId,
        change: StreakChange<'_>,
    ) -> Option<Option<Transition>> {
        let entry = self.entry_mut(id)?;
        let unshared = core::mem::take(&mut entry.unshared);
        let generation = entry.snapshot.generation;
        let shared = self
            .update(policy, proxy, id, &mut |upstream, state| change(upstream, state, generation, &unshared));
        if let (None, Some(entry)) = (&shared, self.entry_mut(id)) {
            entry.unshared = unshared;
        }
        shared
    }

    /// Counts the beginning of one response of the upstream, or its absence. `moment` is that of the decision on its
    /// request, whose context must be the current one.
    ///
    /// While the upstream is Ready, a failure is shared at once if it may trip the breaker, or if [`ReportThrottle`] says
    /// so. All other responses wait for the tick. So do all responses if a newer policy judges the upstream.
    pub fn observe(
        &mut self,
        policy: &Policy,
        proxy: &impl Proxy,
        id: UpstreamId,
        sample: Sample,
        moment: Moment,
    ) -> Option<Transition> {
        let upstream = policy.upstream(id)?;
        let breaker = upstream.breaker.as_ref().filter(|_| sample.class != ResponseClass::Ignored)?;
        self.need(id);
        let ticked = self.ticked;
        let known = self.moment.failures;
        let entry = self.entry_in_phase(id, moment).filter(|entry| entry.snapshot.serves())?;
        let is_failure = sample.class.is_failure();
        let takes_sample = !is_failure && entry.is_sample_due(ticked);
        let peers = if is_failure || takes_sample { peers(proxy) } else { Peers::default() };
        let sample = Sample { peers, ..sample };
        let now = proxy.now();
        let failure = entry.failure(sample, moment, now);
        let is_incident = entry.unshared.add(sample, failure, breaker.counts_apart());
        if takes_sample {
            entry.take_sample(now, peers);
        } else if !is_failure {
            entry.successes = entry.successes.saturating_add(sample.stands_for).saturating_add(1);
        }
        let is_news = if is_failure {
            is_incident && entry.throttle.should_report_now(sample.class)
        } else {
            // Responses that break off have begun as successes, and their row goes on.
            if !entry.has_break_off() {
                entry.failed = 0;
            }
            entry.throttle.should_report_now(sample.class) || entry.snapshot.has_row()
        };
        if is_incident {
            self.moment.failures = entry.note_incident(known, now);
        }
        self.share_if_due(policy, proxy, id, now, is_news, is_failure || sample.slow)
    }

    /// Counts the end of a response whose beginning was a success: well, or broken off.
    pub fn observe_end(
        &mut self,
        policy: &Policy,
        proxy: &impl Proxy,
        id: UpstreamId,
        is_broken_off: bool,
        moment: Moment,
    ) -> Option<Transition> {
        let known = self.moment.failures;
        let entry = self.entry_in_phase(id, moment).filter(|entry| entry.snapshot.serves())?;
        if !is_broken_off && !entry.has_break_off() {
            return None;
        }
        let now = proxy.now();
        if !is_broken_off {
            entry.unshared.complete(now);
            return self.share_if_due(policy, proxy, id, now, true, false);
        }
        let sample = Sample { peers: peers(proxy), ..ResponseClass::Unanswered.into() };
        let failure = entry.failure(sample, moment, now);
        if entry.unshared.break_off(failure) {
            self.moment.failures = entry.note_incident(known, now);
        }
        self.share_if_due(policy, proxy, id, now, false, true)
    }

    /// Counts a response of an upstream on trial that no permit counts, because no gate and no version stood in its
    /// way.
    pub fn observe_on_trial(
        &mut self,
        policy: &Policy,
        proxy: &impl Proxy,
        id: UpstreamId,
        sample: Sample,
        moment: Moment,
    ) -> Option<Transition> {
        let entry = self.entry_in_phase(id, moment)?;
        if sample.class == ResponseClass::Ignored || !matches!(entry.snapshot.phase, Phase::Trial { .. }) {
            return None;
        }
        let generation = entry.snapshot.generation;
        let (now, random) = (proxy.now(), proxy.random());
        let sample = of_trial(proxy, sample);
        self.update(policy, proxy, id, &mut |upstream, state| {
            state.on_unpermitted_response(upstream, now, generation, sample, random)
        })?
    }

    /// Shares what this worker has seen of an upstream that serves, if it is news or would trip the breaker.
    fn share_if_due(
        &mut self,
        policy: &Policy,
        proxy: &impl Proxy,
        id: UpstreamId,
        now: Time,
        is_news: bool,
        is_bad: bool,
    ) -> Option<Transition> {
        let upstream = policy.upstream(id)?;
        let entry = self.entry_mut(id)?;
        let would_trip = || entry.snapshot.would_trip(upstream, now, &entry.unshared);
        if entry.outdated || !(is_news || is_bad && would_trip()) {
            return None;
        }
        let random = proxy.random();
        self.share(policy, proxy, id, &mut |upstream, state, generation, unshared| {
            state.on_responses(upstream, now, generation, unshared, random)
        })?
    }

    /// Records that the upstream has had the whole request with this permit since `since`. The request's context must
    /// be the current one.
    pub fn on_request_sent(&mut self, policy: &Policy, proxy: &impl Proxy, permit: &Permit, since: Time) {
        let lease = permit.lease();
        let host = Peers::new(proxy.attribute(Attribute::UpstreamAddress).as_deref(), None).host;
        self.update(policy, proxy, permit.upstream(), &mut |upstream, state| {
            state.on_request_sent(upstream, lease, since, host);
            None
        });
    }

    /// Records that the response to the request with this permit has begun without a failure.
    pub fn on_response_begun(&mut self, policy: &Policy, proxy: &impl Proxy, permit: &Permit) {
        let lease = permit.lease();
        self.update(policy, proxy, permit.upstream(), &mut |_, state| {
            state.on_response_begun(lease);
            None
        });
    }

    /// Gives a permit back with the outcome of its request. If that cannot be written, the permit's lease expires.
    pub fn give_back(
        &mut self,
        policy: &Policy,
        proxy: &impl Proxy,
        permit: Permit,
        outcome: TrialOutcome,
    ) -> Option<Transition> {
        let (id, lease) = permit.into_lease();
        let now = proxy.now();
        let random = proxy.random();
        self.update(policy, proxy, id, &mut |upstream, state| {
            state.release_permit(upstream, now, lease, outcome, random)
        })?
    }

    /// Claims the lead of the upstream for `span`, starting now. The leader sends the checks and applies the passing of
    /// time. Returns whether this worker leads.
    pub fn claim_lead(
        &mut self,
        proxy: &impl Proxy,
        id: UpstreamId,
        holder: Holder,
        now: Time,
        span: Duration,
    ) -> bool {
        let Some(entry) = self.entry_mut(id) else {
            return false;
        };
        let role = leader::claim(proxy, &entry.key, holder, now, span);
        let known = (entry.leads, entry.outdated);
        entry.leads = role == LeaseRole::Leads;
        entry.outdated = role == LeaseRole::Outdated;
        let is_new = known != (entry.leads, entry.outdated);
        // Another policy came or another worker went, so the other leads have changed as well.
        if is_new {
            self.sweep.hurry();
        }
        role == LeaseRole::Leads
    }

    /// Claims the check that is due and records that it starts now. Returns whether this worker must send it.
    ///
    /// Two workers may both believe that they lead while the lead changes. Only one of them gets the check.
    pub fn claim_check(
        &mut self,
        policy: &Policy,
        proxy: &impl Proxy,
        id: UpstreamId,
        now: Time,
        slack: Duration,
    ) -> bool {
        let random = proxy.random();
        let mut due = false;
        let written = self.update(policy, proxy, id, &mut |upstream, state| {
            due = upstream.check.as_ref().is_some_and(|check| state.is_check_due(check, now, slack));
            if due {
                state.checks.start(now, random);
            }
            None
        });
        written.is_some() && due
    }

    /// Records that a check could not be sent. Returns whether the one before it was sent.
    pub fn on_check_not_sent(&mut self, policy: &Policy, proxy: &impl Proxy, id: UpstreamId) -> bool {
        let mut known = false;
        let written = self.update(policy, proxy, id, &mut |_, state| {
            known = core::mem::replace(&mut state.checks.unsent, true);
            None
        });
        written.is_some() && !known
    }

    /// Takes the result of a check that was started in `generation`. If it cannot be written it is lost, and the next
    /// check has to replace it.
    pub fn on_check(
        &mut self,
        policy: &Policy,
        proxy: &impl Proxy,
        id: UpstreamId,
        generation: u32,
        result: Result<(), CheckFailure>,
    ) -> Option<Transition> {
        let now = proxy.now();
        self.update(policy, proxy, id, &mut |upstream, state| {
            state.on_check(upstream, now, generation, result)
        })?
    }

    /// Replaces what an earlier policy assumed about upstreams that nothing watches by what this policy assumes. Watched
    /// ones follow when they are first refreshed. Returns `false` if one of them could not be written.
    pub fn adopt_assumptions(&mut self, proxy: &impl Proxy, policy: &Policy) -> bool {
        let now = proxy.now();
        let mut all_written = true;
        for (id, _) in policy.upstream_ids().filter(|(_, upstream)| !upstream.is_watched()) {
            if self.entries.get(id.0).is_some_and(|entry| entry.is_adopted) {
                continue;
            }
            let written = self.update(policy, proxy, id, &mut |upstream, state| {
                adopt_assumption(upstream, state, now, 0);
                None
            });
            match self.entries.get_mut(id.0) {
                Some(entry) if written.is_some() => entry.is_adopted = true,
                _ => all_written = false,
            }
        }
        all_written
    }

    /// Returns whether another worker leads the upstream with a newer and different policy.
    pub fn is_outdated(&self, id: UpstreamId) -> bool {
        self.entries.get(id.0).is_some_and(|entry| entry.outdated)
    }

    /// Returns whether the upstream is Ready or on a ramp.
    pub fn is_ready(&self, policy: &Policy, id: UpstreamId) -> bool {
        let known = self.snapshot(id).zip(policy.upstream(id));
        let admission = known.map(|(state, upstream)| state.admission(upstream));
        matches!(admission, Some(Admission::Ready | Admission::Ramp { .. }))
    }
}

impl Entry {
    /// Returns a failure as a row takes it.
    fn failure(&self, sample: Sample, moment: Moment, now: Time) -> RowFailure {
        RowFailure {
            at: now,
            after: match sample.has_waited {
                true => Some(now),
                false => (self.failed > 0 && moment.failures >= self.failed).then_some(self.failed_at),
            },
            unanswered: sample.class == ResponseClass::Unanswered,
            peers: sample.peers,
            retry_at: sample.retry_at,
        }
    }

    fn is_sample_due(&self, ticked: Time) -> bool {
        let is_due = self.sampled.is_none_or(|sampled| ticked.since(sampled) >= SAMPLE_PERIOD);
        is_due && self.unshared.heard.is_none()
    }

    /// Notes an incident at `now`. `known` is the number of incidents before it, over all upstreams. Returns the new number.
    fn note_incident(&mut self, known: u64, now: Time) -> u64 {
        (self.failed, self.failed_at) = (known + 1, now);
        self.failed
    }

    /// Takes this success as the sample that is due.
    fn take_sample(&mut self, now: Time, peers: Peers) {
        let span = self.sampled.map_or(0, |sampled| millis(now.since(sampled)));
        let successes = self.successes.saturating_add(1);
        let span = u32::try_from(span).unwrap_or(u32::MAX);
        self.unshared.heard = Some(SuccessSample { at: now, span, successes, peers });
        self.successes = 0;
        self.sampled = Some(now);
    }

    fn has_break_off(&self) -> bool {
        self.snapshot.has_break_off() || self.unshared.has_break_off()
    }
}

/// Returns the client of the current request.
pub fn client(proxy: &impl Proxy) -> u32 {
    Peers::new(None, proxy.attribute(Attribute::SourceAddress).as_deref()).client
}

/// Returns the sample of the current request on trial. Its peers matter only if it fails the trial.
pub fn of_trial(proxy: &impl Proxy, sample: Sample) -> Sample {
    if sample.is_good() { sample } else { Sample { peers: peers(proxy), ..sample } }
}

/// Returns the peers of the current request.
fn peers(proxy: &impl Proxy) -> Peers {
    let host = proxy.attribute(Attribute::UpstreamAddress);
    let client = proxy.attribute(Attribute::SourceAddress);
    Peers::new(host.as_deref(), client.as_deref())
}

/// Returns whether `known` is only an assumption of an earlier policy that differs from this policy's, which is `first`.
fn is_stale_assumption(known: &UpstreamState, first: &UpstreamState) -> bool {
    known.reason == UpstreamReason::Assumed && known.phase != first.phase
}

/// Replaces an assumption of an earlier policy that this policy does not share.
fn adopt_assumption(upstream: &Upstream, state: &mut UpstreamState, now: Time, random: u64) {
    let first = UpstreamState::new(upstream, now, random);
    if is_stale_assumption(state, &first) {
        *state = first;
    }
}

/// Returns the key of an upstream's shared state. It contains a hash of what the state is about. A change of anything
/// else, such as weights or thresholds, keeps the state.
fn key(policy: &Policy, upstream: &Upstream) -> String {
    let identity = hash::digest(store::LAYOUT.into(), &upstream.identity());
    format!("graygate/{}/upstream/{}/{identity:016x}", policy.name, upstream.name)
}
