//! One worker's view of the upstreams: a snapshot of their shared state, and the responses that it has not shared yet.
//!
//! The protocol between workers:
//!
//! - A worker decides by its snapshot and reads the shared state on its tick. Only a permit for an upstream on trial is
//!   taken from the shared state at once, because no two requests may get the same one.
//! - A worker shares the responses that it has seen on its tick. It shares them at once if [`ReportThrottle`] says so, or
//!   if they would trip the breaker.
//! - Each response is shared once. If the update could not be written, the responses are kept for the next one.
//! - What belongs to an earlier phase is dropped. That is a response whose request was decided on before this worker knew
//!   of the phase, and responses that were seen in an earlier generation.
//! - A worker whose policy has been replaced still adds to the counts. Only a worker with the newer policy decides.

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
    /// For each upstream, whether a request has needed it since the last tick.
    needed: Vec<bool>,
    /// The number of changes of phase that this worker has learnt of, over all upstreams.
    epoch: u64,
    fast_path: FastPath,
}

/// One upstream.
struct Entry {
    /// The key of the shared state.
    key: String,
    /// The shared state as this worker last read it.
    snapshot: UpstreamState,
    /// The responses that this worker has seen and not shared.
    unshared: Streak,
    throttle: ReportThrottle,
    /// Whether another worker leads the upstream with a newer and different policy.
    outdated: bool,
    /// The epoch in which this worker learnt of the current phase.
    epoch: u64,
}

/// A change of an upstream's state, as [`UpstreamTable::update`] applies it.
type Change<'c> = &'c mut dyn FnMut(&Upstream, &mut UpstreamState) -> Option<Transition>;

impl UpstreamTable {
    /// Creates the table with the state that the other workers share.
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

    /// Returns what a request that needs the upstream may do, and records that a request needs it.
    pub fn admission(&mut self, policy: &Policy, id: UpstreamId) -> Admission {
        self.need(id);
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

    /// Lends a permit for an upstream on trial. `lease` must be unique to the request.
    pub fn lend(
        &mut self,
        policy: &Policy,
        proxy: &impl Proxy,
        id: UpstreamId,
        lease: u64,
    ) -> Option<Permit> {
        let now = proxy.now();
        let mut lent = None;
        self.update(policy, proxy, id, &mut |upstream, state| {
            lent = state.lend_permit(upstream, now, lease);
            None
        })?;
        lent.map(|lease: LeaseId| Permit::new(id, lease))
    }

    /// Returns the fast path, with the redundancy of one more success.
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

    /// Returns an entry to change. The redundancy is forgotten, because the change may affect it.
    fn entry_mut(&mut self, id: UpstreamId) -> Option<&mut Entry> {
        self.fast_path.forget();
        self.entries.get_mut(id.0)
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
        let (transition, state) = store::update(proxy, &entry.key, |known: Option<UpstreamState>| {
            let before = known.clone();
            let mut state = known.unwrap_or_else(|| fallback.clone());
            let transition = change(upstream, &mut state);
            let changed = before.as_ref() != Some(&state);
            ((transition, state.clone()), changed.then_some(state))
        })?;
        // Responses from an earlier phase are no evidence in this one.
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
        self.fast_path.on_tick();
        let needed = self.needed.get_mut(id.0).is_some_and(core::mem::take);
        let entry = self.entry_mut(id)?;
        entry.throttle.on_tick();
        let unshared = core::mem::take(&mut entry.unshared);
        let generation = entry.snapshot.generation;
        let outdated = entry.outdated;
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
            if transition.is_none() && leads {
                return state.on_tick(upstream, now, random);
            }
            transition
        });
        if let (None, Some(entry)) = (&shared, self.entry_mut(id)) {
            entry.unshared = unshared;
            if needed {
                self.need(id);
            }
        }
        shared?
    }

    /// Counts one response of the upstream. `epoch` is the epoch in which its request was decided on.
    ///
    /// While the upstream is Ready, a failure is shared at once if it may trip the breaker, or if [`ReportThrottle`] says
    /// so. All other responses wait for the tick. So do all responses if a newer policy judges the upstream.
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
        // The request was decided on before this worker knew of the phase, so its response belongs to an earlier one.
        if epoch < entry.epoch {
            return None;
        }
        let generation = entry.snapshot.generation;
        if matches!(entry.snapshot.phase, Phase::Trial { .. }) {
            let now = proxy.now();
            let random = proxy.random();
            return self.update(policy, proxy, id, &mut |upstream, state| {
                state.on_unpermitted_response(upstream, now, generation, sample, random)
            })?;
        }
        if !entry.snapshot.serves() {
            return None;
        }
        entry.unshared.add(sample, breaker.counts_apart());
        let is_reported = entry.throttle.should_report_now(sample.class);
        let would_trip = || entry.snapshot.would_trip(upstream, proxy.now(), entry.unshared);
        let share_now = is_reported || !sample.is_good() && would_trip();
        if entry.outdated || !share_now {
            return None;
        }
        let unshared = core::mem::take(&mut entry.unshared);
        let now = proxy.now();
        let random = proxy.random();
        let shared = self.update(policy, proxy, id, &mut |upstream, state| {
            state.on_responses(upstream, now, generation, unshared, random)
        });
        if let (None, Some(entry)) = (&shared, self.entry_mut(id)) {
            entry.unshared = unshared;
        }
        shared?
    }

    /// Records that the upstream has had the whole request with this permit since `since`.
    pub fn on_request_sent(&mut self, policy: &Policy, proxy: &impl Proxy, permit: &Permit, since: Time) {
        let lease = permit.lease();
        self.update(policy, proxy, permit.upstream(), &mut |upstream, state| {
            state.on_request_sent(upstream, lease, since);
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
        entry.outdated = role == LeaseRole::Outdated;
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

    /// Replaces what an earlier policy assumed about upstreams by what this policy assumes. Returns `false` if one of them
    /// could not be written.
    pub fn adopt_assumptions(&mut self, proxy: &impl Proxy, policy: &Policy) -> bool {
        let now = proxy.now();
        let mut all_written = true;
        for (id, upstream) in policy.upstream_ids() {
            let first = UpstreamState::new(upstream, now, proxy.random());
            let written = self.update(policy, proxy, id, &mut |_, state| {
                if is_stale_assumption(state, &first) {
                    *state = first.clone();
                }
                None
            });
            all_written &= written.is_some();
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

/// Returns whether `known` is only an assumption of an earlier policy that differs from this policy's, which is `first`.
fn is_stale_assumption(known: &UpstreamState, first: &UpstreamState) -> bool {
    known.reason == UpstreamReason::Assumed && known.phase != first.phase
}

/// Returns the key of an upstream's shared state. It contains a hash of what the state is about. A change of anything
/// else, such as weights or thresholds, keeps the state.
fn key(policy: &Policy, upstream: &Upstream) -> String {
    let identity = hash::digest(store::LAYOUT.into(), &upstream.identity());
    format!("graygate/{}/upstream/{}/{identity:016x}", policy.name, upstream.name)
}
