//! Trials: the leases of the requests that are admitted, and what becomes of them.

use core::time::Duration;

use super::permit::LeaseId;
use super::phase::{Phase, Transition, TrialLease};
use super::reason::UpstreamReason;
use super::state::{UpstreamState, recovered_phase};
use crate::policy::upstream::{Breaker, Upstream};
use crate::value::response::{ResponseClass, Sample};
use crate::value::time::Time;

/// The outcome of a request on trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrialOutcome {
    /// A response came.
    Seen(Sample),
    /// Its client left before a response.
    Left,
    /// It never reached the upstream.
    Unused,
}

impl TrialLease {
    fn has_expired(&self, now: Time) -> bool {
        now.is_due(self.from, self.until)
    }

    /// Returns whether the response is too late, so that it has failed, whatever follows. It is judged by the time
    /// that has passed. A clock that was set back ends leases, but is no evidence.
    fn is_late(&self, breaker: &Breaker, now: Time) -> bool {
        let span = self.until.since(self.from);
        let deadline = breaker.trial_deadline().unwrap_or(Duration::MAX).min(span);
        !self.response_begun && self.sent_at.is_some_and(|sent_at| now.since(sent_at) >= deadline)
    }
}

impl UpstreamState {
    /// Takes the passing of time on trial. Fails it if a response is too late, and ends leases that have expired.
    pub(super) fn on_trial_tick(&mut self, breaker: &Breaker, now: Time, random: u64) -> Option<Transition> {
        let Phase::Trial { leases, .. } = &mut self.phase else {
            return None;
        };
        if leases.iter().any(|lease| lease.is_late(breaker, now)) {
            return self.trip(breaker, UpstreamReason::TrialUnanswered, now, random);
        }
        let streaming = leases.iter().filter(|lease| lease.has_expired(now) && lease.response_begun);
        let successes = u32::try_from(streaming.count()).unwrap_or(u32::MAX);
        leases.retain(|lease| !lease.has_expired(now));
        self.add_successes(breaker, successes, now)
    }

    /// Returns a lease for one request on trial, or `None` if there is no trial or no lease left. `id` must
    /// be unique to the request.
    pub fn lend_permit(&mut self, upstream: &Upstream, now: Time, id: u64) -> Option<LeaseId> {
        let trial = &upstream.breaker.as_ref()?.trial;
        let Phase::Trial { leases, .. } = &mut self.phase else {
            return None;
        };
        if leases.len() >= usize::try_from(trial.requests).unwrap_or(usize::MAX) {
            return None;
        }
        let until = now + trial.lease_for;
        leases.push(TrialLease { id, from: now, until, sent_at: None, response_begun: false });
        Some(LeaseId { id, generation: self.generation })
    }

    /// Records that the upstream has had the whole request since then. The upstream gets the whole lease from
    /// then on to respond.
    pub fn on_request_sent(&mut self, upstream: &Upstream, lease: LeaseId, since: Time) {
        let Some(breaker) = &upstream.breaker else {
            return;
        };
        if let Some(lease) = self.trial_lease(lease) {
            lease.sent_at = Some(since);
            lease.from = since;
            lease.until = since + breaker.trial.lease_for;
        }
    }

    /// Records that the response to a request on trial has begun without a failure.
    pub fn on_response_begun(&mut self, lease: LeaseId) {
        if let Some(lease) = self.trial_lease(lease) {
            lease.response_begun = true;
        }
    }

    fn trial_lease(&mut self, id: LeaseId) -> Option<&mut TrialLease> {
        match &mut self.phase {
            Phase::Trial { leases, .. } if id.generation == self.generation => {
                leases.iter_mut().find(|lease| lease.id == id.id)
            }
            _ => None,
        }
    }

    /// Takes back the lease of a request on trial, with the outcome of the request.
    pub fn release_permit(
        &mut self,
        upstream: &Upstream,
        now: Time,
        lease: LeaseId,
        outcome: TrialOutcome,
        random: u64,
    ) -> Option<Transition> {
        let Phase::Trial { leases, .. } = &mut self.phase else {
            return None;
        };
        let index = leases.iter().position(|known| known.id == lease.id);
        let lease = leases.remove(index.filter(|_| lease.generation == self.generation)?);
        match outcome {
            TrialOutcome::Unused => None,
            TrialOutcome::Seen(sample) => self.on_trial_response(upstream, now, sample, random),
            TrialOutcome::Left => {
                let breaker = upstream.breaker.as_ref()?;
                let waited = now.since(lease.sent_at?);
                if waited < breaker.trial_deadline()? {
                    return None;
                }
                self.trip(breaker, UpstreamReason::TrialUnanswered, now, random)
            }
        }
    }

    /// Takes a response to a request that went to an upstream on trial without a permit. No gate and no
    /// version stood in its way.
    pub fn on_unpermitted_response(
        &mut self,
        upstream: &Upstream,
        now: Time,
        generation: u32,
        sample: Sample,
        random: u64,
    ) -> Option<Transition> {
        if generation != self.generation || !matches!(self.phase, Phase::Trial { .. }) {
            return None;
        }
        self.on_trial_response(upstream, now, sample, random)
    }

    fn on_trial_response(
        &mut self,
        upstream: &Upstream,
        now: Time,
        sample: Sample,
        random: u64,
    ) -> Option<Transition> {
        let breaker = upstream.breaker.as_ref()?;
        match sample.class {
            ResponseClass::Ignored => None,
            ResponseClass::Success if !sample.slow => self.add_successes(breaker, 1, now),
            ResponseClass::Success | ResponseClass::Failure | ResponseClass::Unanswered => {
                self.retry_at = sample.retry_at;
                self.trip(breaker, UpstreamReason::TrialFailed, now, random)
            }
        }
    }

    fn add_successes(&mut self, breaker: &Breaker, more: u32, now: Time) -> Option<Transition> {
        let Phase::Trial { successes, .. } = &mut self.phase else {
            return None;
        };
        *successes = successes.saturating_add(more);
        if *successes < breaker.trial.successes {
            return None;
        }
        self.enter(recovered_phase(breaker, now), UpstreamReason::TrialPassed, now)
    }
}
