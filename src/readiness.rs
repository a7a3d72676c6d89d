//! What a proxy knows about an upstream, and how that changes.
//!
//! ```text
//!            enough checks or responses failed:
//!            in a row, or as a share of the window
//!   Ready ───────────────────────────────────────▶ NotReady ◀──────────┐
//!     ▲ ▲                                           │    │             │ a trial request or
//!     │ └── successThreshold checks passed ─────────┘    │ wait over   │ enough checks failed
//!     │                                                  ▼             │
//!     └──── trial.successes requests succeeded ──────── Trial ─────────┘
//! ```
//!
//! If the policy sets `rampOver`, both ways back lead over a Ramp. On a Ramp a rising share of the requests
//! is admitted. In all other respects it counts as Ready.
//!
//! # Checks
//!
//! Checks follow the kubelet, which compares consecutive results with thresholds.
//!
//! - A check that could not be sent has no result.
//! - Passed checks count from the last change of phase on. They end any NotReady and any Trial, except in two
//!   cases. If responses fail again with no healthy time in between, the checks do not see what is wrong.
//!   Only a trial then ends what the responses began. A wait that the upstream asked for is never cut short.
//!
//! # Responses
//!
//! A response counts only in the phase in which its request was sent. A later one shows the past, so it is
//! dropped. So is a check that started in an earlier generation. If missing responses have a separate
//! threshold, they count towards that threshold only.
//!
//! # Trials
//!
//! A trial begins when the wait is over, unless the checks show that the upstream is down. A user's request
//! would then only repeat what the checks show.
//!
//! - A trial admits a few requests, each on a lease that lasts until its response has ended.
//! - A failure counts as soon as it is known. A success counts at the end, or when a lease expires whose
//!   response has begun.
//! - A lease that expires without a response counts as a failure. So does a response that is too slow, or a
//!   client that leaves after a long wait.
//! - A client that leaves sooner counts for nothing. Neither does one that has not sent its whole request,
//!   nor a request that never reached the upstream. Such requests are no evidence, and clients could
//!   otherwise keep the upstream out.
//! - An upstream that no gate and no version guards has no trial, because its traffic never stopped. When its
//!   wait is over it is Ready until its responses fail again.
//!
//! # Waits
//!
//! The wait doubles with each trip up to its maximum, and up to a tenth of jitter is added.
//!
//! - It starts over once the upstream has been Ready for as long as the longest wait.
//! - If failing responses asked for a longer backoff, the wait is that long, up to a maximum. Passed checks
//!   do not cut it short.
//!
//! # Shared state
//!
//! The whole proxy has one state for each upstream. Every method is a pure update of it. A worker reads the
//! state from the shared store, applies an update, and writes it back by compare-and-swap.

mod admission;
pub mod check;
pub mod permit;
mod reason;
pub mod streak;
pub mod throttle;
pub mod window;

use core::time::Duration;

use serde::{Deserialize, Serialize};

use crate::policy::check::Check;
use crate::policy::upstream::{Breaker, Upstream};
use crate::value::response::{ResponseClass, Sample};
use crate::value::time::{Time, millis};
pub use admission::{Admission, Readiness, UpstreamStatus, is_admitted_on_ramp};
use check::{CheckFailure, CheckHistory};
pub use permit::{LeaseId, Permit};
pub use reason::{Share, UpstreamReason};
use streak::Streak;
use window::{ResponseCounts, ResponseWindow};

/// The state of one upstream.
///
/// ```
/// use core::time::Duration;
/// use graygate::policy::Policy;
/// use graygate::readiness::check::CheckFailure;
/// use graygate::readiness::{Admission, UpstreamReason, UpstreamState};
/// use graygate::value::time::Time;
///
/// let policy = Policy::from_json(
///     br#"{"name": "shop", "upstreams": {"app": {
///         "cluster": "app", "readinessProbe": {"httpGet": {"path": "/healthz"}, "failureThreshold": 2}
///     }}}"#,
/// ).unwrap();
/// let upstream = &policy.upstreams[0];
/// let mut now = Time::from_millis(1_000);
/// let mut state = UpstreamState::new(upstream, now, 0);
/// assert_eq!(state.admission(upstream), Admission::Ready);
///
/// let failed = CheckFailure::Status(503);
/// assert_eq!(state.on_check(upstream, now, state.generation, Err(failed)), None);
/// now = now + Duration::from_secs(10);
/// let transition = state.on_check(upstream, now, state.generation, Err(failed)).unwrap();
/// assert_eq!((transition.from, transition.to), ("ready", "not-ready"));
/// assert_eq!(state.admission(upstream), Admission::NotReady(UpstreamReason::CheckFailed(failed)));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpstreamState {
    /// The phase, which decides on requests.
    pub phase: Phase,
    /// The reason of the phase.
    pub reason: UpstreamReason,
    /// The time at which the phase began.
    pub since: Time,
    /// Rises by one with each change of phase. It separates evidence about this phase from evidence about an
    /// earlier one.
    pub generation: u32,
    /// The time at which the proxy first knew the upstream.
    pub known_since: Time,
    /// The results of the active checks.
    pub checks: CheckHistory,
    /// The time at which it last stopped being Ready or on a ramp. If it never was, the time at which it was
    /// first known.
    left_ready: Time,
    /// The number of consecutive failed responses.
    failures: u32,
    /// The number of consecutive requests without a response, if they have a threshold of their own.
    unanswered: u32,
    /// The end of the backoff that failing responses asked for. While the upstream is NotReady, its wait
    /// follows it.
    retry_at: Option<Time>,
    window: ResponseWindow,
    /// The number of trips without a healthy time in between, which determines the wait.
    trips: u32,
}

/// What an upstream's state allows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Every request is admitted.
    Ready,
    /// No request is admitted.
    NotReady {
        /// The time at which a trial may begin. `None` if only checks end it.
        until: Option<Time>,
    },
    /// Requests with a lease are admitted.
    Trial {
        /// The leases of requests in flight.
        leases: Vec<TrialLease>,
        /// The number of requests that have succeeded so far.
        successes: u32,
    },
    /// A rising share of the requests is admitted.
    Ramp {
        /// The time from which all requests are admitted.
        until: Time,
    },
}

impl Phase {
    /// Returns the name in logs and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Phase::Ready => "ready",
            Phase::NotReady { .. } => "not-ready",
            Phase::Trial { .. } => "trial",
            Phase::Ramp { .. } => "ramp",
        }
    }
}

/// The lease of one request that was admitted on trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrialLease {
    id: u64,
    from: Time,
    until: Time,
    /// The time from which the upstream had the whole request, so that only the upstream can delay it. `None`
    /// if that is not known, or if the request is no evidence.
    sent_at: Option<Time>,
    /// Whether its response has begun without a failure.
    response_begun: bool,
}

/// A change of phase, which is logged once and counted once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// The name of the phase that ended.
    pub from: &'static str,
    /// The name of the phase that began.
    pub to: &'static str,
    /// The reason.
    pub reason: UpstreamReason,
}

impl UpstreamState {
    /// Returns the state before the first evidence. `random` spreads the first check.
    pub fn new(upstream: &Upstream, now: Time, random: u64) -> Self {
        UpstreamState {
            phase: if upstream.assume_ready { Phase::Ready } else { Phase::NotReady { until: None } },
            reason: UpstreamReason::Assumed,
            since: now,
            generation: 0,
            known_since: now,
            checks: CheckHistory::new(random),
            left_ready: now,
            failures: 0,
            unanswered: 0,
            retry_at: None,
            window: ResponseWindow::new(now),
            trips: 0,
        }
    }

    /// Returns what a request that needs the upstream may do. The operator's `force` overrides the state.
    pub fn admission(&self, upstream: &Upstream) -> Admission {
        match upstream.force {
            Some(true) => return Admission::Ready,
            Some(false) => return Admission::NotReady(UpstreamReason::Forced),
            None => {}
        }
        match self.phase {
            Phase::Ready => Admission::Ready,
            Phase::NotReady { .. } => Admission::NotReady(self.reason),
            Phase::Trial { .. } => Admission::Trial(UpstreamReason::OnTrial),
            Phase::Ramp { until } => {
                Admission::Ramp { from: self.since, until, reason: UpstreamReason::OnRamp }
            }
        }
    }

    /// Returns whether the upstream counts as Ready. On a ramp it does, although it does not admit all
    /// requests yet.
    pub fn serves(&self) -> bool {
        matches!(self.phase, Phase::Ready | Phase::Ramp { .. })
    }

    /// Returns what probes and gates need to know about the upstream.
    pub fn status(&self, upstream: &Upstream) -> UpstreamStatus {
        let admission = self.admission(upstream);
        let held_back_since = (admission != Admission::Ready).then_some(self.left_ready);
        // A status query is not a request, so the ramp cannot turn it away.
        let admission =
            if matches!(admission, Admission::Ramp { .. }) { Admission::Ready } else { admission };
        let has_passed = |check: &Check| {
            self.reason == UpstreamReason::CheckPassed || self.checks.passed >= check.success_threshold
        };
        let verified = match &upstream.check {
            Some(check) => admission == Admission::Ready && (upstream.force.is_some() || has_passed(check)),
            // An upstream on trial counts as verified. Otherwise a probe would keep the traffic away that
            // ends the trial.
            None => !matches!(admission, Admission::NotReady(_)),
        };
        let until = match self.phase {
            Phase::NotReady { until } if upstream.force.is_none() => until,
            _ => None,
        };
        UpstreamStatus {
            admission,
            held_back_since,
            until,
            last_result_at: self.checks.last_result_at,
            verified,
        }
    }

    /// Takes the result of a check that was started in `generation`.
    pub fn on_check(
        &mut self,
        upstream: &Upstream,
        now: Time,
        generation: u32,
        result: Result<(), CheckFailure>,
    ) -> Option<Transition> {
        self.checks.unsent = false;
        let check = upstream.check.as_ref().filter(|_| generation == self.generation)?;
        self.checks.last_result_at = Some(now);
        self.checks.record(result);
        match result {
            Ok(()) => self.on_check_passed(upstream, check, now),
            Err(failure) => self.on_check_failed(upstream, check, failure, now),
        }
    }

    fn on_check_passed(&mut self, upstream: &Upstream, check: &Check, now: Time) -> Option<Transition> {
        if self.serves() || self.backoff_is_mandatory() || self.checks.passed < check.success_threshold {
            return None;
        }
        // An upstream that was never Ready needs no ramp.
        let recovers = self.reason != UpstreamReason::Assumed;
        let breaker = upstream.breaker.as_ref().filter(|_| recovers && upstream.guarded);
        let next = breaker.map_or(Phase::Ready, |breaker| recovered_phase(breaker, now));
        self.enter(next, UpstreamReason::CheckPassed, now)
    }

    fn on_check_failed(
        &mut self,
        upstream: &Upstream,
        check: &Check,
        failure: CheckFailure,
        now: Time,
    ) -> Option<Transition> {
        if self.checks.failed < check.failure_threshold {
            return None;
        }
        // If the checks confirm an assumed NotReady, the reason becomes theirs.
        let is_not_ready = matches!(self.phase, Phase::NotReady { .. });
        if is_not_ready && self.reason != UpstreamReason::Assumed {
            return None;
        }
        if let Some(breaker) = &upstream.breaker {
            self.forget_trips_if_healthy(breaker, now);
        }
        self.enter(Phase::NotReady { until: None }, UpstreamReason::CheckFailed(failure), now)
    }

    /// Returns whether the next check is due at `now`, or within `slack`. See [`CheckHistory::is_due`].
    pub fn is_check_due(&self, check: &Check, now: Time, slack: Duration) -> bool {
        self.checks.is_due(check, self.serves(), self.known_since, now, slack)
    }

    /// Returns whether one more success would change nothing, after the responses that one worker saw. It
    /// does change something on trial, after a failure, or if the policy limits shares of responses.
    pub fn ignores_success(&self, breaker: &Breaker, streak: Streak) -> bool {
        if breaker.shares.is_some() || matches!(self.phase, Phase::Trial { .. }) {
            return false;
        }
        streak.ignores_success_after(self.failures, self.unanswered)
    }

    /// Returns whether the responses that one worker saw would make the upstream NotReady.
    pub fn would_trip(&self, upstream: &Upstream, now: Time, streak: Streak) -> bool {
        let Some(breaker) = &upstream.breaker else {
            return false;
        };
        let (_, reason) = self.evaluate(breaker, now, streak);
        reason.is_some()
    }

    /// Returns the window with these responses added, and the reason to trip if there is one.
    fn evaluate(
        &self,
        breaker: &Breaker,
        now: Time,
        streak: Streak,
    ) -> (ResponseWindow, Option<UpstreamReason>) {
        let mut window = self.window.clone();
        if let Some(shares) = &breaker.shares {
            window.add(shares.window, now, streak.counts());
        }
        let failures = streak.failures.longest_after(self.failures);
        let unanswered = streak.unanswered.longest_after(self.unanswered);
        let reason = if failures >= breaker.consecutive_failures {
            Some(UpstreamReason::ConsecutiveFailures(failures))
        } else if breaker.local_origin_failures.is_some_and(|most| unanswered >= most) {
            Some(UpstreamReason::LocalOriginFailures(unanswered))
        } else {
            exceeded_share(breaker, window.counts())
        };
        (window, reason)
    }

    /// Takes the responses that one worker saw in `generation`. `random` adds jitter to the wait that may
    /// follow.
    pub fn on_responses(
        &mut self,
        upstream: &Upstream,
        now: Time,
        generation: u32,
        streak: Streak,
        random: u64,
    ) -> Option<Transition> {
        let breaker = upstream.breaker.as_ref()?;
        if generation != self.generation || !self.serves() {
            return None;
        }
        let (window, reason) = self.evaluate(breaker, now, streak);
        self.extend_runs(streak);
        self.window = window;
        self.trip(breaker, reason?, now, random)
    }

    /// Adds the responses that a worker saw under a policy that has since been replaced. It never trips,
    /// because the new policy judges them by its own thresholds and window.
    pub fn merge(&mut self, generation: u32, streak: Streak) {
        if generation == self.generation && self.serves() {
            self.window.append(streak.counts());
            self.extend_runs(streak);
        }
    }

    fn extend_runs(&mut self, streak: Streak) {
        self.failures = streak.failures.tail_after(self.failures);
        self.unanswered = streak.unanswered.tail_after(self.unanswered);
        // A backoff belongs to its run of failures. A response that is no failure ends both.
        let earlier = if streak.is_broken() { None } else { self.retry_at };
        self.retry_at = earlier.max(streak.retry_at());
    }

    /// Takes the passing of time. Ends waits, expired leases and ramps.
    ///
    /// Only the leader of the upstream calls it. While the proxy updates the policy, the settings of the
    /// newer version then count.
    pub fn on_tick(&mut self, upstream: &Upstream, now: Time, random: u64) -> Option<Transition> {
        let Some(breaker) = &upstream.breaker else {
            return self.end_phase_without_breaker(now);
        };
        match &mut self.phase {
            Phase::NotReady { until: Some(until) } => {
                let is_over = now.is_due(self.since, *until);
                let check = upstream.check.as_ref();
                let is_down = check.is_some_and(|check| self.checks.failed >= check.failure_threshold);
                if !is_over || is_down {
                    return None;
                }
                let next = if upstream.guarded {
                    Phase::Trial { leases: Vec::new(), successes: 0 }
                } else {
                    Phase::Ready
                };
                self.enter(next, UpstreamReason::WaitOver, now)
            }
            // An update of the policy removed what guarded it.
            Phase::Trial { .. } if !upstream.guarded => {
                self.enter(Phase::Ready, UpstreamReason::WaitOver, now)
            }
            Phase::Trial { leases, .. } => {
                let has_expired = |lease: &TrialLease| now.is_due(lease.from, lease.until);
                // A response that is too late has failed, whatever follows. It is judged by the time that has
                // passed. A clock that was set back ends leases, but is no evidence.
                let is_late = |lease: &TrialLease| {
                    let lease_span = lease.until.since(lease.from);
                    let deadline = breaker.trial_deadline().unwrap_or(Duration::MAX).min(lease_span);
                    !lease.response_begun
                        && lease.sent_at.is_some_and(|sent_at| now.since(sent_at) >= deadline)
                };
                if leases.iter().any(is_late) {
                    return self.trip(breaker, UpstreamReason::TrialUnanswered, now, random);
                }
                let streaming = leases.iter().filter(|lease| has_expired(lease) && lease.response_begun);
                let successes = u32::try_from(streaming.count()).unwrap_or(u32::MAX);
                leases.retain(|lease| !has_expired(lease));
                self.add_successes(breaker, successes, now)
            }
            Phase::Ramp { until } => {
                let is_over = !upstream.guarded || now.is_due(self.since, *until);
                if is_over { self.enter(Phase::Ready, UpstreamReason::RampOver, now) } else { None }
            }
            Phase::Ready | Phase::NotReady { until: None } => None,
        }
    }

    /// Ends a phase that a breaker began, if an update of the policy removed the breaker. Nothing else would
    /// end it.
    fn end_phase_without_breaker(&mut self, now: Time) -> Option<Transition> {
        match self.phase {
            Phase::Ready | Phase::NotReady { until: None } => None,
            _ => self.enter(Phase::Ready, UpstreamReason::PolicyChanged, now),
        }
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
            ResponseClass::Failure | ResponseClass::Unanswered | ResponseClass::Slow => {
                self.retry_at = sample.retry_at;
                self.trip(breaker, UpstreamReason::TrialFailed, now, random)
            }
            ResponseClass::Success => self.add_successes(breaker, 1, now),
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

    /// Returns whether passed checks may not cut short the current wait or trial.
    fn backoff_is_mandatory(&self) -> bool {
        match self.phase {
            Phase::NotReady { until: Some(_) } => self.trips > 1 || self.retry_at.is_some(),
            Phase::Trial { .. } => self.trips > 1,
            _ => false,
        }
    }

    /// Forgets earlier trips if the phase that ends was healthy for long enough.
    fn forget_trips_if_healthy(&mut self, breaker: &Breaker, now: Time) {
        if self.serves() && now.since(self.since) >= breaker.max_not_ready_for {
            self.trips = 0;
        }
    }

    fn trip(
        &mut self,
        breaker: &Breaker,
        reason: UpstreamReason,
        now: Time,
        random: u64,
    ) -> Option<Transition> {
        self.forget_trips_if_healthy(breaker, now);
        self.trips = self.trips.saturating_add(1);
        let backoff = self.retry_at.map_or(Duration::ZERO, |at| at.since(now)).min(breaker.max_retry_after);
        let wait = with_jitter(wait_after(breaker, self.trips).max(backoff), random);
        let transition = self.enter(Phase::NotReady { until: Some(now + wait) }, reason, now);
        self.retry_at = (!backoff.is_zero()).then_some(now + backoff);
        transition
    }

    fn enter(&mut self, phase: Phase, reason: UpstreamReason, now: Time) -> Option<Transition> {
        let transition = Transition { from: self.phase.name(), to: phase.name(), reason };
        if self.serves() {
            self.left_ready = now;
        }
        self.phase = phase;
        self.reason = reason;
        self.since = now;
        self.generation = self.generation.wrapping_add(1);
        self.checks.passed = 0;
        self.failures = 0;
        self.unanswered = 0;
        self.retry_at = None;
        self.window = ResponseWindow::new(now);
        Some(transition)
    }
}

/// Returns the reason to trip by these counts, if there is one.
fn exceeded_share(breaker: &Breaker, counts: ResponseCounts) -> Option<UpstreamReason> {
    let shares = breaker.shares.as_ref()?;
    let reaches = |part: u32, percent: u32| {
        counts.all >= shares.minimum_requests
            && u64::from(part) * 100 >= u64::from(counts.all) * u64::from(percent)
    };
    let share = |part| Share { part, all: counts.all };
    if shares.failure_percent.is_some_and(|percent| reaches(counts.failed, percent)) {
        return Some(UpstreamReason::FailureShare(share(counts.failed)));
    }
    let too_slow = shares.slow.as_ref().is_some_and(|slow| reaches(counts.slow, slow.percent));
    too_slow.then(|| UpstreamReason::SlowShare(share(counts.slow)))
}

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

fn recovered_phase(breaker: &Breaker, now: Time) -> Phase {
    match breaker.trial.ramp_over {
        span if span.is_zero() => Phase::Ready,
        span => Phase::Ramp { until: now + span },
    }
}

fn wait_after(breaker: &Breaker, trips: u32) -> Duration {
    let doublings = trips.saturating_sub(1).min(31);
    breaker.not_ready_for.saturating_mul(1 << doublings).min(breaker.max_not_ready_for)
}

/// Adds up to a tenth of jitter, so that proxies that tripped together do not return together.
fn with_jitter(wait: Duration, random: u64) -> Duration {
    wait + Duration::from_millis(random % (millis(wait) / 10 + 1))
}

#[cfg(test)]
mod tests;
