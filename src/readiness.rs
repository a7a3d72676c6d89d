//! Readiness: what a proxy knows about an upstream, and how it changes.
//!
//! ```text
//!            enough checks failed, or enough responses:
//!            in a row, or of the latest
//!   Ready ───────────────────────────────────────▶ NotReady ◀──────────┐
//!     ▲ ▲                                           │    │             │ a trial request or
//!     │ └── successThreshold checks passed ─────────┘    │ wait over   │ enough checks failed
//!     │                                                  ▼             │
//!     └──── trial.successes requests succeeded ──────── Trial ─────────┘
//! ```
//!
//! Where the policy gives `rampOver`, both ways back lead over a Ramp, on which a rising share of the requests goes,
//! and which is Ready in all other respects.
//!
//! - **Checks** follow the kubelet: consecutive results against thresholds. A check that could not be sent
//!   is no result. Passed checks count from the last change of phase on. They end any NotReady, and a
//!   Trial. With two exceptions: when responses fail again with no healthy time in between, the checks have
//!   shown that they don't see what is wrong, and what the responses began, the trial ends; and a wait that the
//!   upstream has asked for itself has to pass.
//! - **Responses** count if their request was sent in the phase that they are counted in. What arrives
//!   later is about the past and is dropped; so is a check started in an earlier generation. Where failures
//!   with no answer have a threshold of their own, they count towards that one alone.
//! - **Trial** begins when the wait is over, unless the checks say that the upstream is down: no user's
//!   request is spent on what a check knows already. It lets a few requests through, each on a lease, until
//!   its response has ended. A failure counts as soon as it is known, a success at the end, or when a lease
//!   expires whose response has begun. One that expires with no answer is a failure, as is one that is slower
//!   than it may be, or a client that leaves after it has waited. A client that leaves sooner, or has not sent
//!   all of its request, is none, nor is a request that never got as far as the upstream: these say nothing of
//!   it, and clients could else keep it out. An upstream that nothing guards has no trial: its traffic never
//!   stopped, so when the wait is over it is Ready until its responses say otherwise.
//! - **The wait** doubles with each trip, up to its cap, with up to a tenth of jitter on top. It starts over
//!   once the upstream has been Ready for as long as the longest wait. Where the failing responses asked to be
//!   left alone for longer, it is that long, up to a cap, and no check that passes cuts it short.
//!
//! An upstream is one state for the whole proxy. Every method is a pure update of it: the host reads the
//! state from the store that its workers share, applies one, and writes it back by compare-and-swap.

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
pub use admission::{Admission, Readiness, UpstreamStatus, is_let_in};
use check::{CheckFailure, CheckHistory};
pub use permit::{LeaseId, Permit};
pub use reason::{Share, UpstreamReason};
use streak::Streak;
use window::{ResponseCounts, ResponseWindow};

/// What is known of one upstream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpstreamState {
    /// What follows from it for a request.
    pub phase: Phase,
    /// Why it is in this phase.
    pub reason: UpstreamReason,
    /// Since when.
    pub since: Time,
    /// Goes up with each change of phase; tells evidence about this phase from evidence about an earlier one.
    pub generation: u32,
    /// When the upstream was first known.
    pub known_since: Time,
    /// The active checks' results.
    pub checks: CheckHistory,
    /// When it was last Ready, or on a ramp; when it was first known, if it never was.
    left_ready: Time,
    /// Consecutive failed responses.
    failures: u32,
    /// Consecutive requests without an answer, where they are counted apart.
    unanswered: u32,
    /// Until when failing responses asked to be left alone. While it is NotReady: the wait goes by it.
    retry_at: Option<Time>,
    /// What responses there were lately.
    window: ResponseWindow,
    /// Trips without a healthy time between them; sets the wait.
    trips: u32,
}

/// What follows for a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Forward it.
    Ready,
    /// Don't.
    NotReady {
        /// When a trial may begin; `None`: only checks end it.
        until: Option<Time>,
    },
    /// Forward it if it gets a lease.
    Trial {
        /// Requests under way.
        leases: Vec<TrialLease>,
        /// Requests that succeeded so far.
        successes: u32,
    },
    /// Forward a rising share of them.
    Ramp {
        /// When it is all.
        until: Time,
    },
}

impl Phase {
    /// The word in logs and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Phase::Ready => "ready",
            Phase::NotReady { .. } => "not-ready",
            Phase::Trial { .. } => "trial",
            Phase::Ramp { .. } => "ramp",
        }
    }
}

/// One request let through on trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrialLease {
    id: u64,
    from: Time,
    until: Time,
    /// Since when the upstream has all of the request, so that only it can be who keeps it waiting. `None`: not
    /// known yet, or it is no evidence.
    asked: Option<Time>,
    /// Whether its response has begun, and well.
    begun: bool,
}

/// A change of phase: one log line and one count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// The phase that was left, by name.
    pub from: &'static str,
    /// The phase that was entered, by name.
    pub to: &'static str,
    /// Why.
    pub reason: UpstreamReason,
}

impl UpstreamState {
    /// What is known before the first verdict. `random` spreads the first check.
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

    /// What a request that needs the upstream may do. The operator's word stands above all that is known.
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

    /// Whether it counts as Ready, if not for all requests yet.
    pub fn serves(&self) -> bool {
        matches!(self.phase, Phase::Ready | Phase::Ramp { .. })
    }

    /// What is known of the upstream.
    pub fn status(&self, upstream: &Upstream) -> UpstreamStatus {
        let admission = self.admission(upstream);
        let held_back_since = (admission != Admission::Ready).then_some(self.left_ready);
        // Whoever only asks is no request that could be turned away.
        let admission =
            if matches!(admission, Admission::Ramp { .. }) { Admission::Ready } else { admission };
        let enough = |check: &Check| {
            self.reason == UpstreamReason::CheckPassed || self.checks.passed >= check.success_threshold
        };
        let verified = match &upstream.check {
            Some(check) => admission == Admission::Ready && (upstream.force.is_some() || enough(check)),
            // On trial, too: no trial would end without traffic.
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
        let ready = self.serves();
        match result {
            Ok(())
                if !ready
                    && !self.backoff_is_mandatory()
                    && self.checks.passed >= check.success_threshold =>
            {
                // What never was ready has nothing to recover from.
                let recovers = self.reason != UpstreamReason::Assumed;
                let breaker = upstream.breaker.as_ref().filter(|_| recovers && upstream.guarded);
                let next = breaker.map_or(Phase::Ready, |breaker| after_trial(breaker, now));
                self.enter(next, UpstreamReason::CheckPassed, now)
            }
            Err(failure) if self.checks.failed >= check.failure_threshold => match self.phase {
                // An assumption that the checks bear out has their reason from now on.
                Phase::NotReady { .. } if self.reason != UpstreamReason::Assumed => None,
                _ => {
                    if let Some(breaker) = &upstream.breaker {
                        self.forget(breaker, now);
                    }
                    self.enter(Phase::NotReady { until: None }, UpstreamReason::CheckFailed(failure), now)
                }
            },
            _ => None,
        }
    }

    /// Whether its next check is due at `now`, or within `slack`; see [`CheckHistory::is_due`].
    pub fn is_check_due(&self, check: &Check, now: Time, slack: Duration) -> bool {
        self.checks.is_due(check, self.serves(), self.known_since, now, slack)
    }

    /// Whether one more success says nothing that is not known, after the responses that one worker saw: while it is
    /// on trial, in a row of failures, or where shares are judged, it does.
    pub fn ignores_success(&self, breaker: &Breaker, streak: Streak) -> bool {
        let calm = || streak.ignores_success_after(self.failures, self.unanswered);
        breaker.shares.is_none() && !matches!(self.phase, Phase::Trial { .. }) && calm()
    }

    /// Whether the responses that one worker saw would make the upstream NotReady.
    pub fn would_trip(&self, upstream: &Upstream, now: Time, streak: Streak) -> bool {
        let breaker = upstream.breaker.as_ref();
        breaker.is_some_and(|breaker| self.after(breaker, now, streak).1.is_some())
    }

    /// The window with these responses in it, and why they are too many bad ones, if they are.
    fn after(
        &self,
        breaker: &Breaker,
        now: Time,
        streak: Streak,
    ) -> (ResponseWindow, Option<UpstreamReason>) {
        let mut window = self.window.clone();
        if let Some(shares) = &breaker.shares {
            window.add(shares.window, now, streak.counts());
        }
        let failures = streak.failures.worst_after(self.failures);
        let unanswered = streak.unanswered.worst_after(self.unanswered);
        let reason = if failures >= breaker.consecutive_failures {
            Some(UpstreamReason::ConsecutiveFailures(failures))
        } else if breaker.local_origin_failures.is_some_and(|most| unanswered >= most) {
            Some(UpstreamReason::LocalOriginFailures(unanswered))
        } else {
            too_many(breaker, window.counts())
        };
        (window, reason)
    }

    /// Takes the responses that one worker saw in `generation`. `random` spreads the wait that may follow.
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
        let (window, reason) = self.after(breaker, now, streak);
        self.extend(streak);
        self.window = window;
        self.trip(breaker, reason?, now, random)
    }

    /// Takes the responses that a worker saw under a policy which another one has replaced: it is for that one to
    /// judge them, by its own thresholds and window.
    pub fn merge(&mut self, generation: u32, streak: Streak) {
        if generation == self.generation && self.serves() {
            self.window.append(streak.counts());
            self.extend(streak);
        }
    }

    fn extend(&mut self, streak: Streak) {
        self.failures = streak.failures.tail_after(self.failures);
        self.unanswered = streak.unanswered.tail_after(self.unanswered);
        // A wish is of its row: an answer that is no failure ends both.
        self.retry_at = if streak.is_broken() { None } else { self.retry_at }.max(streak.retry_at());
    }

    /// Takes the passing of time: a wait that is over, a trial request that never was answered. For whoever
    /// leads the upstream, so that while an update is under way the newer policy's settings count.
    pub fn on_tick(&mut self, upstream: &Upstream, now: Time, random: u64) -> Option<Transition> {
        let Some(breaker) = &upstream.breaker else {
            return self.unjudged(now);
        };
        match &mut self.phase {
            Phase::NotReady { until: Some(until) } => {
                let wait_over = now.is_due(self.since, *until);
                let down = upstream
                    .check
                    .as_ref()
                    .is_some_and(|check| self.checks.failed >= check.failure_threshold);
                let next = match upstream.guarded {
                    true => Phase::Trial { leases: Vec::new(), successes: 0 },
                    false => Phase::Ready,
                };
                (wait_over && !down).then(|| self.enter(next, UpstreamReason::WaitOver, now))?
            }
            // What guarded it went away with an update of the policy.
            Phase::Trial { .. } if !upstream.guarded => {
                self.enter(Phase::Ready, UpstreamReason::WaitOver, now)
            }
            Phase::Trial { leases, .. } => {
                let expired = |lease: &TrialLease| now.is_due(lease.from, lease.until);
                // What is slower than it may be has failed, whatever comes of it. By the time that has passed: a
                // clock that was set back ends leases, but shows nothing.
                let late = |lease: &TrialLease| {
                    let most =
                        breaker.trial_deadline().unwrap_or(Duration::MAX).min(lease.until.since(lease.from));
                    !lease.begun && lease.asked.is_some_and(|asked| now.since(asked) >= most)
                };
                if leases.iter().any(late) {
                    return self.trip(breaker, UpstreamReason::TrialUnanswered, now, random);
                }
                let endless = leases.iter().filter(|lease| expired(lease) && lease.begun).count();
                leases.retain(|lease| !expired(lease));
                self.succeed(breaker, u32::try_from(endless).unwrap_or(u32::MAX), now)
            }
            Phase::Ramp { until } => {
                let over = !upstream.guarded || now.is_due(self.since, *until);
                over.then(|| self.enter(Phase::Ready, UpstreamReason::RampOver, now))?
            }
            Phase::Ready | Phase::NotReady { until: None } => None,
        }
    }

    /// Ends what a breaker began that an update of the policy took away: nothing else would.
    fn unjudged(&mut self, now: Time) -> Option<Transition> {
        match self.phase {
            Phase::Ready | Phase::NotReady { until: None } => None,
            _ => self.enter(Phase::Ready, UpstreamReason::PolicyChanged, now),
        }
    }

    /// Asks to let one request through on trial. `id` is unique to the request.
    pub fn lend_permit(&mut self, upstream: &Upstream, now: Time, id: u64) -> Option<LeaseId> {
        let trial = &upstream.breaker.as_ref()?.trial;
        let Phase::Trial { leases, .. } = &mut self.phase else {
            return None;
        };
        if leases.len() >= usize::try_from(trial.requests).unwrap_or(usize::MAX) {
            return None;
        }
        leases.push(TrialLease { id, from: now, until: now + trial.lease_for, asked: None, begun: false });
        Some(LeaseId { id, generation: self.generation })
    }

    /// Notes that the upstream has all of a request since then that was let through on trial. From then on it has
    /// the whole of the lease to answer.
    pub fn on_request_sent(&mut self, upstream: &Upstream, lease: LeaseId, since: Time) {
        let span = upstream.breaker.as_ref().map(|breaker| breaker.trial.lease_for);
        if let Some((lease, span)) = self.lease(lease).zip(span) {
            (lease.asked, lease.from, lease.until) = (Some(since), since, since + span);
        }
    }

    /// Notes that the response to such a request has begun, and well.
    pub fn on_response_begun(&mut self, lease: LeaseId) {
        if let Some(lease) = self.lease(lease) {
            lease.begun = true;
        }
    }

    fn lease(&mut self, named: LeaseId) -> Option<&mut TrialLease> {
        match &mut self.phase {
            Phase::Trial { leases, .. } if named.generation == self.generation => {
                leases.iter_mut().find(|lease| lease.id == named.id)
            }
            _ => None,
        }
    }

    /// Takes a permit back, with what the request came to.
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
            TrialOutcome::Seen(sample) => self.tried(upstream, now, sample, random),
            TrialOutcome::Left => {
                let breaker = upstream.breaker.as_ref()?;
                let waited = lease.asked.zip(breaker.trial_deadline());
                let waited = waited.is_some_and(|(asked, patience)| now.since(asked) >= patience);
                waited.then(|| self.trip(breaker, UpstreamReason::TrialUnanswered, now, random))?
            }
        }
    }

    /// Takes a response to a request that went to the upstream on trial without a permit, as one may that no
    /// gate and no version stands before.
    pub fn on_unpermitted_response(
        &mut self,
        upstream: &Upstream,
        now: Time,
        generation: u32,
        sample: Sample,
        random: u64,
    ) -> Option<Transition> {
        let current = generation == self.generation && matches!(self.phase, Phase::Trial { .. });
        current.then(|| self.tried(upstream, now, sample, random))?
    }

    fn tried(&mut self, upstream: &Upstream, now: Time, sample: Sample, random: u64) -> Option<Transition> {
        let breaker = upstream.breaker.as_ref()?;
        match sample.class {
            ResponseClass::Ignored => None,
            ResponseClass::Failure | ResponseClass::Unanswered | ResponseClass::Slow => {
                self.retry_at = sample.retry_at;
                self.trip(breaker, UpstreamReason::TrialFailed, now, random)
            }
            ResponseClass::Success => self.succeed(breaker, 1, now),
        }
    }

    /// Counts so many successes more on trial.
    fn succeed(&mut self, breaker: &Breaker, more: u32, now: Time) -> Option<Transition> {
        let Phase::Trial { successes, .. } = &mut self.phase else {
            return None;
        };
        *successes = successes.saturating_add(more);
        let passed = *successes >= breaker.trial.successes;
        passed.then(|| self.enter(after_trial(breaker, now), UpstreamReason::TrialPassed, now))?
    }

    /// Whether a wait or a trial is on that passed checks can't cut short.
    fn backoff_is_mandatory(&self) -> bool {
        match self.phase {
            Phase::NotReady { until: Some(_) } => self.trips > 1 || self.retry_at.is_some(),
            Phase::Trial { .. } => self.trips > 1,
            _ => false,
        }
    }

    /// Forgets earlier trips where the phase that ends was a healthy time.
    fn forget(&mut self, breaker: &Breaker, now: Time) {
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
        self.forget(breaker, now);
        self.trips = self.trips.saturating_add(1);
        let asked = self.retry_at.map_or(Duration::ZERO, |at| at.since(now)).min(breaker.max_retry_after);
        let wait = jittered(wait(breaker, self.trips).max(asked), random);
        let transition = self.enter(Phase::NotReady { until: Some(now + wait) }, reason, now);
        self.retry_at = (!asked.is_zero()).then_some(now + asked);
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

/// Why these counts are too many bad ones, if they are.
fn too_many(breaker: &Breaker, counts: ResponseCounts) -> Option<UpstreamReason> {
    let shares = breaker.shares.as_ref()?;
    let reaches = |part: u32, percent: u32| {
        counts.all >= shares.minimum_requests
            && u64::from(part) * 100 >= u64::from(counts.all) * u64::from(percent)
    };
    let share = |part| Share { part, all: counts.all };
    if shares.failure_percent.is_some_and(|percent| reaches(counts.failed, percent)) {
        return Some(UpstreamReason::FailureShare(share(counts.failed)));
    }
    let slow = shares.slow.as_ref().is_some_and(|slow| reaches(counts.slow, slow.percent));
    slow.then(|| UpstreamReason::SlowShare(share(counts.slow)))
}

/// What a request on trial came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrialOutcome {
    /// A response came.
    Seen(Sample),
    /// Its client left before an answer.
    Left,
    /// It never went to the upstream.
    Unused,
}

/// What follows once the upstream has shown that it works again.
fn after_trial(breaker: &Breaker, now: Time) -> Phase {
    match breaker.trial.ramp_over {
        span if span.is_zero() => Phase::Ready,
        span => Phase::Ramp { until: now + span },
    }
}

/// The wait after the `trips`th trip in a row.
fn wait(breaker: &Breaker, trips: u32) -> Duration {
    let doublings = trips.saturating_sub(1).min(31);
    breaker.not_ready_for.saturating_mul(1 << doublings).min(breaker.max_not_ready_for)
}

/// The same with up to a tenth on top, so that proxies that saw the same do not come back at the same time.
fn jittered(wait: Duration, random: u64) -> Duration {
    wait + Duration::from_millis(random % (millis(wait) / 10 + 1))
}

#[cfg(test)]
mod tests;
