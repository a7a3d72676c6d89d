//! Trials: the leases of the requests that are admitted, and what becomes of them.
//!
//! No client can hold a trial up.
//!
//! - A request of which a part is still to come gets a short lease, and never the last one. Once it is whole, it
//!   gets a lease like any other. If its lease has ended before, it goes on without one.
//! - A request that meets several filters of one proxy takes one lease. Each filter tells the next one its lease.
//! - The client whose request failed the last trial gets no lease in the time in which others usually pass the
//!   next one, if there are other clients. If it fails a trial again, or the same host does, the wait does not grow.

use core::time::Duration;

use super::permit::{LeaseId, PermitQuery};
use super::phase::{Phase, Transition, TrialLease};
use super::reason::UpstreamReason;
use super::state::{UpstreamState, recovered_phase};
use crate::policy::upstream::{Breaker, Upstream};
use crate::value::peers::Peers;
use crate::value::response::{ResponseClass, Sample};
use crate::value::time::Time;

/// The longest lease of a request of which a part is still to come.
const LEASE_OF_PART: Duration = Duration::from_secs(1);

/// How long a trial is reserved at least for other clients than the one that failed the last trial.
const RESERVED: Duration = Duration::from_secs(1);

/// The longest such time.
const LONGEST_RESERVED: Duration = Duration::from_secs(10);

/// How often a request may meet a filter that shares its lease. An id that was made up or repeated thus gets no more.
const MEETINGS: u8 = 4;

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
        self.until <= now
    }

    /// Returns whether the response is too late, so that it has failed, whatever follows.
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
        if let Some(late) = leases.iter().find(|lease| lease.is_late(breaker, now)) {
            let peers = late.peers;
            return self.fail_trial(breaker, peers, UpstreamReason::TrialUnanswered, now, random);
        }
        let streaming = leases.iter().filter(|lease| lease.has_expired(now) && lease.response_begun);
        let successes = u32::try_from(streaming.count()).unwrap_or(u32::MAX);
        leases.retain(|lease| !lease.has_expired(now));
        self.add_successes(breaker, successes, now)
    }

    /// Returns a lease for one request on trial, or `None` if there is no trial or no lease left.
    pub fn lend_permit(&mut self, upstream: &Upstream, now: Time, query: &PermitQuery) -> Option<LeaseId> {
        let trial = &upstream.breaker.as_ref()?.trial;
        let generation = self.generation;
        // Twice as long as its successes usually take, because others may have to ask more often than once.
        let reserved = self.heard.usual_time_of(trial.successes.saturating_mul(2));
        let is_reserved = self.heard.has_several_clients()
            && self.failed_trial.is_some_and(|failed| failed.client == query.client)
            && now.since(self.since) < reserved.clamp(RESERVED, LONGEST_RESERVED);
        let Phase::Trial { leases, .. } = &mut self.phase else {
            return None;
        };
        let known = leases.iter_mut().find(|lease| query.held.contains(&lease.id));
        if let Some(lease) = known.filter(|lease| lease.met_again < MEETINGS) {
            lease.met_again += 1;
            return Some(LeaseId { id: lease.id, generation });
        }
        let parts = leases.iter().filter(|lease| lease.is_part).count();
        let most = usize::try_from(trial.requests).unwrap_or(usize::MAX);
        let most_parts = most.saturating_sub(1).max(1);
        if is_reserved || leases.len() >= most || !query.is_whole && parts >= most_parts {
            return None;
        }
        let span = if query.is_whole { trial.lease_for } else { trial.lease_for.min(LEASE_OF_PART) };
        leases.push(TrialLease {
            id: query.id,
            from: now,
            until: now + span,
            is_part: !query.is_whole,
            sent_at: None,
            response_begun: false,
            peers: Peers { host: 0, client: query.client },
            met_again: 0,
        });
        Some(LeaseId { id: query.id, generation })
    }

    /// Records that this host has had the whole request since then. It gets the whole lease from then on to
    /// respond.
    pub fn on_request_sent(&mut self, upstream: &Upstream, lease: LeaseId, since: Time, host: u32) {
        let Some(breaker) = &upstream.breaker else {
            return;
        };
        if let Some(lease) = self.trial_lease(lease) {
            lease.sent_at = Some(since);
            lease.is_part = false;
            lease.peers.host = host;
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
        let index = index.filter(|_| lease.generation == self.generation)?;
        // Another filter still holds the lease for the same request.
        if let Some(shared) = leases.get_mut(index).filter(|lease| lease.met_again > 0)
            && outcome == TrialOutcome::Unused
        {
            shared.met_again -= 1;
            return None;
        }
        let lease = leases.remove(index);
        match outcome {
            TrialOutcome::Unused => None,
            TrialOutcome::Seen(sample) => self.on_trial_response(upstream, now, sample, random),
            TrialOutcome::Left => {
                let breaker = upstream.breaker.as_ref()?;
                let waited = now.since(lease.sent_at?);
                if waited < breaker.trial_deadline()? {
                    return None;
                }
                self.fail_trial(breaker, lease.peers, UpstreamReason::TrialUnanswered, now, random)
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
            _ if sample.is_good() => self.add_successes(breaker, 1, now),
            _ => {
                // One host of several must not decide how long all of them are left alone.
                self.retry_at = sample.retry_at.filter(|_| !self.heard.has_several_hosts());
                self.fail_trial(breaker, sample.peers, UpstreamReason::TrialFailed, now, random)
            }
        }
    }

    fn fail_trial(
        &mut self,
        breaker: &Breaker,
        peers: Peers,
        reason: UpstreamReason,
        now: Time,
        random: u64,
    ) -> Option<Transition> {
        let failed = self.failed_trial.replace(peers);
        let is_same = failed.is_some_and(|failed| {
            self.heard.has_several_clients() && failed.client == peers.client
                || self.heard.has_several_hosts() && failed.host == peers.host
        });
        if is_same {
            self.wait(breaker, reason, now, random)
        } else {
            self.trip(breaker, reason, now, random)
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
        self.failed_trial = None;
        self.enter(recovered_phase(breaker, now), UpstreamReason::TrialPassed, now)
    }
}
