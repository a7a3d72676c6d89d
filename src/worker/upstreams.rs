//! What one worker knows of the upstreams: a snapshot of what is shared, and what it has seen since it last shared it.
//!
//! The protocol between workers:
//!
//! - A worker decides by its snapshot alone, and reads the shared state on its tick. Only an upstream on trial is asked
//!   for at once, as a permit is lent once.
//! - It shares what it has seen on its tick, and at once where [`ReportThrottle`] says so or where it would trip. Each
//!   piece is shared once: what loses its compare-and-swap is kept for the next.
//! - What belongs to an earlier phase is dropped: a response whose request was decided on before this worker learnt of the
//!   phase, and a piece whose generation is over.
//! - A worker whose policy has been replaced adds to what is counted, and leaves the verdict to the newer policy.

use core::time::Duration;

use super::fast_path::{FastPath, Redundancy};
use super::{leader, store};
use crate::policy::Policy;
use crate::policy::upstream::{Upstream, UpstreamId};
use crate::proxy::Proxy;
use crate::readiness::check::CheckFailure;
use crate::readiness::permit::{LeaseId, Permit};
use crate::readiness::streak::Streak;
use crate::readiness::throttle::ReportThrottle;
use crate::readiness::{
    Admission, Phase, Transition, TrialOutcome, UpstreamReason, UpstreamState, UpstreamStatus,
};
use crate::value::hash;
use crate::value::lease::{Holder, LeaseRole};
use crate::value::response::{ResponseClass, Sample};
use crate::value::time::Time;

/// All upstreams of a policy.
pub struct UpstreamTable {
    entries: Vec<Entry>,
    /// Whether a request has needed each of them since it was last shared.
    needed: Vec<bool>,
    /// Rises each time that this worker learns of a change of phase.
    epoch: u64,
    fast_path: FastPath,
}

/// One upstream.
struct Entry {
    key: String,
    snapshot: UpstreamState,
    /// Responses seen that have not been shared.
    unshared: Streak,
    throttle: ReportThrottle,
    /// Whether a newer policy judges the upstream, by settings of its own.
    outdated: bool,
    /// The epoch in which this worker learnt of the phase.
    epoch: u64,
}

/// A change of an upstream's state, as [`UpstreamTable::update`] applies it.
type Change<'c> = &'c mut dyn FnMut(&Upstream, &mut UpstreamState) -> Option<Transition>;

impl UpstreamTable {
    /// Starts with what the other workers know already.
    pub fn new(policy: &Policy, proxy: &impl Proxy, now: Time) -> Self {
        let entries = policy.upstreams.iter().map(|upstream| {
            let key = key(policy, upstream);
            let first = UpstreamState::new(upstream, now, proxy.random());
            store::seed(proxy, &key, &first);
            leader::seed(proxy, &key);
            let known = store::get(proxy, &key).filter(|known| !is_stale_assumption(known, &first));
            Entry {
                key,
                snapshot: known.unwrap_or(first),
                unshared: Streak::default(),
                throttle: ReportThrottle::default(),
                outdated: false,
                epoch: 0,
            }
        });
        UpstreamTable {
            entries: entries.collect(),
            needed: vec![false; policy.upstreams.len()],
            epoch: 0,
            fast_path: FastPath::default(),
        }
    }

    /// Returns the current epoch, for [`UpstreamTable::observe`].
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Returns the upstream's state as this worker last read it.
    pub fn snapshot(&self, id: UpstreamId) -> Option<&UpstreamState> {
        self.entries.get(id.0).map(|entry| &entry.snapshot)
    }

    /// Returns what a request that needs the upstream may do, and notes that one needs it.
    pub fn admission(&mut self, policy: &Policy, id: UpstreamId) -> Admission {
        self.need(id);
        let known = self.snapshot(id).zip(policy.upstream(id));
        // Every id of a policy has its entry.
        known.map_or(Admission::Ready, |(state, upstream)| state.admission(upstream))
    }

    fn need(&mut self, id: UpstreamId) {
        if let Some(needed) = self.needed.get_mut(id.0) {
            *needed = true;
        }
    }

    /// Returns what is known of the upstream.
    pub fn status(&self, policy: &Policy, id: UpstreamId) -> UpstreamStatus {
        let known = self.snapshot(id).zip(policy.upstream(id));
        known.map_or_else(UpstreamStatus::unknown, |(state, upstream)| state.status(upstream))
    }

    /// Lends a permit for an upstream on trial. `id` is unique to the request.
    pub fn lend(
        &mut self,
        policy: &Policy,
        proxy: &impl Proxy,
        id: UpstreamId,
        lease: u64,
    ) -> Option<Permit> {
        let (now, mut lent) = (proxy.now(), None);
        self.update(policy, proxy, id, &mut |upstream, state| {
            lent = state.lend_permit(upstream, now, lease);
            None
        })?;
        lent.map(|lease: LeaseId| Permit::new(id, lease))
    }

    /// Returns the fast path, with what one more success would tell.
    pub fn fast_path(&mut self, policy: &Policy) -> (&mut FastPath, Redundancy) {
        let redundancy = self.fast_path.redundancy().unwrap_or_else(|| self.redundancy(policy));
        self.fast_path.remember(redundancy);
        (&mut self.fast_path, redundancy)
    }

    fn redundancy(&self, policy: &Policy) -> Redundancy {
        let mut redundancy = Redundancy { of_all: true, succeeded: true };
        for (upstream, entry) in policy.upstreams.iter().zip(&self.entries) {
            let Some(breaker) = &upstream.breaker else {
                continue;
            };
            let by_use = upstream.check.as_ref().is_some_and(|check| check.periods.go_by_use());
            let ignores = entry.throttle.is_idle() && entry.snapshot.ignores_success(breaker, entry.unshared);
            redundancy.of_all &= !by_use && !entry.outdated && ignores;
            redundancy.succeeded &= entry.unshared.is_broken();
        }
        redundancy
    }

    /// Returns an entry for a change, after which one more success may tell something.
    fn entry_mut(&mut self, id: UpstreamId) -> Option<&mut Entry> {
        self.fast_path.forget();
        self.entries.get_mut(id.0)
    }

    /// Applies one update to the shared state, and takes the result as the snapshot. `change` may run several times; its
    /// last run counts. Returns nothing if it was not written, as it may lose to too many others.
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
        let (transition, state) = store::update(proxy, &entry.key, |known: Option<UpstreamState>| {
            let before = known.clone();
            let mut state = known.unwrap_or_else(|| fallback.clone());
            let transition = change(upstream, &mut state);
            let changed = before.as_ref() != Some(&state);
            ((transition, state.clone()), changed.then_some(state))
        })?;
        // What was seen of an earlier phase says nothing about this one.
        if entry.snapshot.generation != state.generation {
            entry.unshared = Streak::default();
            entry.throttle = ReportThrottle::default();
            self.epoch += 1;
            entry.epoch = self.epoch;
        }
        entry.snapshot = state;
        Some(transition)
    }
}

impl UpstreamTable {
    /// Reads the shared state of an upstream, and shares what this worker saw. If it leads the upstream, it also applies
    /// the passing of time.
    pub fn refresh(
        &mut self,
        policy: &Policy,
        proxy: &impl Proxy,
        id: UpstreamId,
        now: Time,
        leads: bool,
    ) -> Option<Transition> {
        self.fast_path.on_tick();
        let needed = self.needed.get_mut(id.0).is_some_and(core::mem::take);
        let entry = self.entry_mut(id)?;
        entry.throttle.on_tick();
        let unshared = core::mem::take(&mut entry.unshared);
        let (generation, outdated) = (entry.snapshot.generation, entry.outdated);
        let random = proxy.random();
        let shared = self.update(policy, proxy, id, &mut |upstream, state| {
            if let Some(check) = upstream.check.as_ref().filter(|_| needed) {
                state.checks.need(check, now);
            }
            if outdated {
                state.merge(generation, unshared);
                return None;
            }
            let transition = state.on_responses(upstream, now, generation, unshared, random);
            transition.or_else(|| leads.then(|| state.on_tick(upstream, now, random))?)
        });
        if let (None, Some(entry)) = (&shared, self.entry_mut(id)) {
            entry.unshared = unshared;
            if needed {
                self.need(id);
            }
        }
        shared?
    }

    /// Counts one response of the upstream, to a request that was decided on in `epoch`. While the upstream is Ready, a
    /// failure that may be the last one it takes is shared at once, and so is one of a row, within bounds. The rest waits
    /// for the tick, as does all that a policy sees which another one has replaced.
    pub fn observe(
        &mut self,
        policy: &Policy,
        proxy: &impl Proxy,
        id: UpstreamId,
        sample: Sample,
        epoch: u64,
    ) -> Option<Transition> {
        let upstream = policy.upstream(id)?;
        let breaker = upstream.breaker.as_ref().filter(|_| sample.class != ResponseClass::Ignored)?;
        self.need(id);
        let entry = self.entry_mut(id)?;
        // The request was decided on before this worker knew of the phase: its response is about the past.
        if epoch < entry.epoch {
            return None;
        }
        let generation = entry.snapshot.generation;
        if matches!(entry.snapshot.phase, Phase::Trial { .. }) {
            let (now, random) = (proxy.now(), proxy.random());
            return self.update(policy, proxy, id, &mut |upstream, state| {
                state.on_unpermitted_response(upstream, now, generation, sample, random)
            })?;
        }
        if !entry.snapshot.serves() {
            return None;
        }
        entry.unshared.add(sample, breaker.counts_apart());
        let bad = sample.class != ResponseClass::Success;
        let reports = entry.throttle.should_report_now(sample.class);
        let trips = || entry.snapshot.would_trip(upstream, proxy.now(), entry.unshared);
        let reports = reports || bad && trips();
        if entry.outdated || !reports {
            return None;
        }
        let unshared = core::mem::take(&mut entry.unshared);
        let (now, random) = (proxy.now(), proxy.random());
        let shared = self.update(policy, proxy, id, &mut |upstream, state| {
            state.on_responses(upstream, now, generation, unshared, random)
        });
        if let (None, Some(entry)) = (&shared, self.entry_mut(id)) {
            entry.unshared = unshared;
        }
        shared?
    }

    /// Notes that the upstream has all of a request since then that holds a permit.
    pub fn on_request_sent(&mut self, policy: &Policy, proxy: &impl Proxy, permit: &Permit, since: Time) {
        let lease = permit.lease();
        self.update(policy, proxy, permit.upstream(), &mut |upstream, state| {
            state.on_request_sent(upstream, lease, since);
            None
        });
    }

    /// Notes that the response to a request that holds a permit has begun, and well.
    pub fn on_response_begun(&mut self, policy: &Policy, proxy: &impl Proxy, permit: &Permit) {
        let lease = permit.lease();
        self.update(policy, proxy, permit.upstream(), &mut |_, state| {
            state.on_response_begun(lease);
            None
        });
    }

    /// Gives a permit back. If that is not written, its lease expires.
    pub fn give_back(
        &mut self,
        policy: &Policy,
        proxy: &impl Proxy,
        permit: Permit,
        outcome: TrialOutcome,
    ) -> Option<Transition> {
        let (id, lease) = permit.into_lease();
        let (now, random) = (proxy.now(), proxy.random());
        self.update(policy, proxy, id, &mut |upstream, state| {
            state.release_permit(upstream, now, lease, outcome, random)
        })?
    }

    /// Claims to lead the upstream for `span` from now on: to send its checks, and end its waits. Returns whether it
    /// does.
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
        entry.outdated = role == LeaseRole::Outdated;
        role == LeaseRole::Leads
    }

    /// Claims the check that is due, if one is, and notes that it starts now. Returns whether there was one. Two workers
    /// may both believe that they lead, for the moment in which the lease changes hands; only one of them gets the check.
    pub fn claim_check(
        &mut self,
        policy: &Policy,
        proxy: &impl Proxy,
        id: UpstreamId,
        now: Time,
        slack: Duration,
    ) -> bool {
        let (random, mut due) = (proxy.random(), false);
        let written = self.update(policy, proxy, id, &mut |upstream, state| {
            due = upstream.check.as_ref().is_some_and(|check| state.is_check_due(check, now, slack));
            if due {
                state.checks.start(now, random);
            }
            None
        });
        written.is_some() && due
    }

    /// Notes that a check could not be sent. Returns whether that is new.
    pub fn on_check_not_sent(&mut self, policy: &Policy, proxy: &impl Proxy, id: UpstreamId) -> bool {
        let mut known = false;
        let written = self.update(policy, proxy, id, &mut |_, state| {
            known = core::mem::replace(&mut state.checks.unsent, true);
            None
        });
        written.is_some() && !known
    }

    /// Takes the result of a check that was started in `generation`. If that is not written, the next check says the
    /// same.
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

    /// Replaces what an earlier policy assumed of an upstream by what this one assumes.
    /// Returns false if one could not be written.
    pub fn adopt_assumptions(&mut self, proxy: &impl Proxy, policy: &Policy) -> bool {
        let now = proxy.now();
        let mut all = true;
        for (id, upstream) in policy.upstream_ids() {
            let first = UpstreamState::new(upstream, now, proxy.random());
            let written = self.update(policy, proxy, id, &mut |_, state| {
                if is_stale_assumption(state, &first) {
                    *state = first.clone();
                }
                None
            });
            all &= written.is_some();
        }
        all
    }

    /// Returns whether the upstream is Ready, or on a ramp.
    pub fn is_ready(&self, policy: &Policy, id: UpstreamId) -> bool {
        let known = self.snapshot(id).zip(policy.upstream(id));
        let admission = known.map(|(state, upstream)| state.admission(upstream));
        matches!(admission, Some(Admission::Ready | Admission::Ramp { .. }))
    }
}

/// Returns whether what is `known` is only what an earlier policy assumed, and this one assumes otherwise, as in `first`.
fn is_stale_assumption(known: &UpstreamState, first: &UpstreamState) -> bool {
    known.reason == UpstreamReason::Assumed && known.phase != first.phase
}

/// Returns the key of what is known of an upstream. It holds a hash of what that knowledge is about, so that a change of
/// anything else, such as weights or thresholds, loses nothing.
fn key(policy: &Policy, upstream: &Upstream) -> String {
    let identity = hash::digest(store::LAYOUT.into(), &upstream.identity());
    format!("graygate/{}/upstream/{}/{identity:016x}", policy.name, upstream.name)
}
