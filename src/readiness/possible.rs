//! The transitions and the reasons that the settings of an upstream make possible.
//!
//! Their counters exist before the first event, so that a rise from 0 to 1 is seen. Not listed is what ends a phase that
//! only an earlier document made possible, such as a ramp that the document no longer has.

use super::check::CheckFailure;
use super::phase::{Phase, Transition};
use super::reason::{Share, UpstreamReason};
use crate::policy::upstream::Upstream;

impl UpstreamReason {
    /// All reasons, with any details.
    pub const ALL: [UpstreamReason; 16] = [
        UpstreamReason::Assumed,
        UpstreamReason::CheckPassed,
        UpstreamReason::CheckFailed(CheckFailure::TimedOut),
        UpstreamReason::ConsecutiveFailures(0),
        UpstreamReason::LocalOriginFailures(0),
        UpstreamReason::FailureShare(Share { part: 0, all: 0 }),
        UpstreamReason::SlowShare(Share { part: 0, all: 0 }),
        UpstreamReason::Forced,
        UpstreamReason::OnTrial,
        UpstreamReason::OnRamp,
        UpstreamReason::WaitOver,
        UpstreamReason::TrialPassed,
        UpstreamReason::RampOver,
        UpstreamReason::TrialFailed,
        UpstreamReason::TrialUnanswered,
        UpstreamReason::PolicyChanged,
    ];
}

/// What an upstream can do by its settings.
struct Settings<'u> {
    upstream: &'u Upstream,
    /// Whether a trial can begin.
    has_trial: bool,
    /// Whether a ramp can begin.
    has_ramp: bool,
}

impl<'u> Settings<'u> {
    fn of(upstream: &'u Upstream) -> Self {
        let breaker = upstream.breaker.as_ref().filter(|_| upstream.guarded);
        let has_ramp = breaker.is_some_and(|breaker| !breaker.trial.ramp_over.is_zero());
        Settings { upstream, has_trial: breaker.is_some(), has_ramp }
    }

    /// Returns the phases from which a transition for this reason can start, and the one to which it leads.
    fn ways(&self, reason: UpstreamReason) -> Option<([Option<&'static str>; 4], &'static str)> {
        let ready = Phase::Ready.name();
        let not_ready = Phase::NotReady { until: None }.name();
        let trial = const { Phase::Trial { leases: Vec::new(), successes: 0 } }.name();
        let ramp =
            self.has_ramp.then_some(Phase::Ramp { until: crate::value::time::Time::from_millis(0) }.name());
        let Upstream { check, breaker, assume_ready, guarded, .. } = self.upstream;
        let on_trial = self.has_trial.then_some(trial);
        let serving = [Some(ready), ramp, None, None];
        let recovered = ramp.unwrap_or(ready);
        let breaker = breaker.as_ref();
        let shares = breaker.and_then(|breaker| breaker.shares.as_ref());
        let (is_possible, from, to) = match reason {
            UpstreamReason::CheckPassed => {
                (check.is_some(), [Some(not_ready), on_trial, None, None], recovered)
            }
            UpstreamReason::CheckFailed(_) => {
                let assumed = (!assume_ready).then_some(not_ready);
                (check.is_some(), [Some(ready), ramp, on_trial, assumed], not_ready)
            }
            UpstreamReason::ConsecutiveFailures(_) => {
                (breaker.is_some_and(|breaker| breaker.consecutive_failures.is_some()), serving, not_ready)
            }
            UpstreamReason::LocalOriginFailures(_) => {
                (breaker.is_some_and(|breaker| breaker.local_origin_limit().is_some()), serving, not_ready)
            }
            UpstreamReason::FailureShare(_) => {
                (shares.is_some_and(|shares| shares.failure_percent.is_some()), serving, not_ready)
            }
            UpstreamReason::SlowShare(_) => {
                (shares.is_some_and(|shares| shares.slow.is_some()), serving, not_ready)
            }
            UpstreamReason::WaitOver => {
                let next = if *guarded { trial } else { ready };
                (breaker.is_some(), [Some(not_ready), None, None, None], next)
            }
            UpstreamReason::TrialPassed => (true, [on_trial, None, None, None], recovered),
            UpstreamReason::TrialFailed | UpstreamReason::TrialUnanswered => {
                (true, [on_trial, None, None, None], not_ready)
            }
            UpstreamReason::RampOver => (true, [ramp, None, None, None], ready),
            UpstreamReason::Assumed
            | UpstreamReason::Forced
            | UpstreamReason::OnTrial
            | UpstreamReason::OnRamp
            | UpstreamReason::PolicyChanged => return None,
        };
        is_possible.then_some((from, to))
    }
}

/// Calls `act` with each transition that is possible.
pub fn transitions(upstream: &Upstream, act: &mut dyn FnMut(Transition)) {
    let settings = Settings::of(upstream);
    for reason in UpstreamReason::ALL {
        let Some((from, to)) = settings.ways(reason) else {
            continue;
        };
        for from in from.into_iter().flatten() {
            act(Transition { from, to, reason });
        }
    }
    // An upstream that was never Ready needs no ramp.
    if settings.has_ramp && upstream.check.is_some() && !upstream.assume_ready {
        let from = Phase::NotReady { until: None }.name();
        act(Transition { from, to: Phase::Ready.name(), reason: UpstreamReason::CheckPassed });
    }
}

/// Calls `act` with each reason for which requests can be kept from the upstream.
pub fn reasons_to_wait(upstream: &Upstream, act: &mut dyn FnMut(UpstreamReason)) {
    match upstream.force {
        Some(true) => return,
        Some(false) => return act(UpstreamReason::Forced),
        None => {}
    }
    let settings = Settings::of(upstream);
    let not_ready = Phase::NotReady { until: None }.name();
    for reason in UpstreamReason::ALL {
        let is_possible = match reason {
            UpstreamReason::Assumed => !upstream.assume_ready,
            UpstreamReason::OnTrial => settings.has_trial,
            UpstreamReason::OnRamp => settings.has_ramp,
            reason => settings
                .ways(reason)
                .is_some_and(|(from, to)| to == not_ready && from.iter().any(Option::is_some)),
        };
        if is_possible {
            act(reason);
        }
    }
}
