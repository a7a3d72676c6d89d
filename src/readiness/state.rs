//! The state of one upstream, and how checks, responses and time change it. What changes it on trial is in
//! [`super::trial`].

use core::time::Duration;

use serde::{Deserialize, Serialize};

use super::admission::{Admission, UpstreamStatus};
use super::check::{CheckFailure, CheckHistory};
use super::evidence::Evidence;
use super::heard::HeardSuccesses;
use super::phase::{Phase, Transition};
use super::reason::UpstreamReason;
use super::streak::Streak;
use super::window::ResponseCounts;
use crate::policy::check::Check;
use crate::policy::upstream::{Breaker, Upstream};
use crate::value::peers::Peers;
use crate::value::time::{Time, millis};

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
    pub(super) left_ready: Time,
    /// The responses in this phase.
    pub(super) evidence: Evidence,
    /// The end of the backoff that failing responses asked for, while the upstream is NotReady.
    pub(super) retry_at: Option<Time>,
    /// The latest successes, also of earlier phases.
    pub(super) heard: HeardSuccesses,
    /// The number of trips without a healthy time in between, which determines the wait.
    pub(super) trips: u32,
    /// The peers of the request that failed the last trial, until a trial passes.
    pub(super) failed_trial: Option<Peers>,
}

/// What a breaker has counted in the present phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerCounts {
    /// The length of the window, and the counts in it. `None` if the breaker has no window.
    pub window: Option<(Duration, ResponseCounts)>,
    /// The number of failures in a row.
    pub failures: u32,
    /// The number of requests in a row without a response, if they count apart.
    pub unanswered: u32,
    /// The number of responses in a row that broke off.
    pub broken_off: u32,
    /// The number of trips without a healthy time in between.
    pub trips: u32,
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
            evidence: Evidence::new(now),
            retry_at: None,
            heard: HeardSuccesses::default(),
            trips: 0,
            failed_trial: None,
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

    /// Returns whether [`UpstreamState::on_responses`] without responses, or [`UpstreamState::on_tick`] if this worker
    /// `leads`, may change the state at `now`.
    pub fn depends_on_time(&self, upstream: &Upstream, now: Time, leads: bool) -> bool {
        let ends = match self.phase {
            Phase::Ready | Phase::NotReady { until: None } => false,
            Phase::NotReady { until: Some(until) } | Phase::Ramp { until } => {
                until <= now || !upstream.guarded || upstream.breaker.is_none()
            }
            Phase::Trial { .. } => true,
        };
        self.has_row() || leads && ends
    }

    /// Returns whether one more success would at most be one more, after the responses that one worker saw. It is more than
    /// that on trial, after a failure, and while a share is not far from its limit.
    pub fn needs_no_success(&self, breaker: &Breaker, streak: &Streak) -> bool {
        let is_calm = !self.has_row() && streak.ends_well() && !matches!(self.phase, Phase::Trial { .. });
        is_calm && !self.evidence.needs_exact_shares(breaker, streak)
    }

    /// Returns whether the responses that were shared last were failures.
    pub fn has_row(&self) -> bool {
        self.evidence.has_row()
    }

    /// Returns whether responses have broken off since the last one that ended well.
    pub fn has_break_off(&self) -> bool {
        !self.evidence.broken_off.is_empty()
    }

    /// Returns what a breaker has counted in this phase. `unshared` is what the worker that asks has not shared.
    #[inline(never)]
    pub fn counted(&self, breaker: &Breaker, now: Time, unshared: &Streak) -> BreakerCounts {
        let evidence = self.evidence.with(breaker, now, unshared);
        BreakerCounts {
            window: breaker.shares.as_ref().map(|shares| (shares.window, evidence.window.counts())),
            failures: evidence.failures.incidents,
            unanswered: evidence.unanswered.incidents,
            broken_off: evidence.broken_off.incidents,
            trips: self.trips,
        }
    }

    /// Returns whether the responses that one worker saw would make the upstream NotReady.
    pub fn would_trip(&self, upstream: &Upstream, now: Time, streak: &Streak) -> bool {
        upstream.breaker.as_ref().is_some_and(|breaker| {
            let evidence = self.evidence.with(breaker, now, streak);
            self.reason_to_trip(upstream, breaker, &evidence, now, streak).is_some()
        })
    }

    /// Returns the reason to trip by this evidence, if there is one. `streak` is the part of it that is new.
    fn reason_to_trip(
        &self,
        upstream: &Upstream,
        breaker: &Breaker,
        evidence: &Evidence,
        now: Time,
        streak: &Streak,
    ) -> Option<UpstreamReason> {
        evidence.reason_to_trip((upstream, breaker), &self.checks, &self.heard, now, streak.counts())
    }

    /// Takes the responses that one worker saw in `generation`. Also judges a row that has lasted long enough by
    /// now. `random` adds jitter to the wait that may follow.
    pub fn on_responses(
        &mut self,
        upstream: &Upstream,
        now: Time,
        generation: u32,
        streak: &Streak,
        random: u64,
    ) -> Option<Transition> {
        let breaker = upstream.breaker.as_ref()?;
        if generation != self.generation || !self.serves() {
            return None;
        }
        if let Some(sample) = streak.heard {
            self.heard.add(sample);
        }
        self.evidence = self.evidence.with(breaker, now, streak);
        self.retry_at = self.evidence.failures.retry_at(self.heard.has_several_hosts());
        let reason = self.reason_to_trip(upstream, breaker, &self.evidence, now, streak)?;
        self.trip(breaker, reason, now, random)
    }

    /// Adds the responses that a worker saw under a policy that has since been replaced. It never trips,
    /// because the new policy judges them by its own thresholds and window.
    pub fn merge(&mut self, generation: u32, streak: &Streak) {
        if generation == self.generation && self.serves() {
            self.evidence.append(streak);
        }
    }

    /// Takes the passing of time. Ends waits, expired leases and ramps.
    ///
    /// Only the leader of the upstream calls it. While the proxy updates the policy, the settings of the
    /// newer version then count.
    pub fn on_tick(&mut self, upstream: &Upstream, now: Time, random: u64) -> Option<Transition> {
        let Some(breaker) = &upstream.breaker else {
            return self.end_phase_without_breaker(now);
        };
        match &self.phase {
            Phase::NotReady { until: Some(until) } => {
                let is_over = *until <= now;
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
            Phase::Trial { .. } => self.on_trial_tick(breaker, now, random),
            Phase::Ramp { until } => {
                let is_over = !upstream.guarded || *until <= now;
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

    pub(super) fn trip(
        &mut self,
        breaker: &Breaker,
        reason: UpstreamReason,
        now: Time,
        random: u64,
    ) -> Option<Transition> {
        self.forget_trips_if_healthy(breaker, now);
        self.trips = self.trips.saturating_add(1);
        self.wait(breaker, reason, now, random)
    }

    /// Makes the upstream NotReady for as long as the number of its trips says, or its responses asked for.
    pub(super) fn wait(
        &mut self,
        breaker: &Breaker,
        reason: UpstreamReason,
        now: Time,
        random: u64,
    ) -> Option<Transition> {
        let backoff = self.retry_at.map_or(Duration::ZERO, |at| at.since(now)).min(breaker.max_retry_after);
        let wait = with_jitter(wait_after(breaker, self.trips).max(backoff), random);
        let transition = self.enter(Phase::NotReady { until: Some(now + wait) }, reason, now);
        self.retry_at = (!backoff.is_zero()).then_some(now + backoff);
        transition
    }

    pub(super) fn enter(&mut self, phase: Phase, reason: UpstreamReason, now: Time) -> Option<Transition> {
        let transition = Transition { from: self.phase.name(), to: phase.name(), reason };
        if self.serves() {
            self.left_ready = now;
        }
        self.phase = phase;
        self.reason = reason;
        self.since = now;
        self.generation = self.generation.wrapping_add(1);
        self.checks.passed = 0;
        self.evidence = Evidence::new(now);
        self.retry_at = None;
        Some(transition)
    }
}

/// Returns the phase that follows once the upstream has shown that it works again.
pub(super) fn recovered_phase(breaker: &Breaker, now: Time) -> Phase {
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
