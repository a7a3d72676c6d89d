//! A request that was forwarded, as evidence about its upstream and its versions.
//!
//! - A response counts once. A failure counts when its headers have come, and so does a slow response on trial. Anything
//!   else counts when the response has ended, because a response that breaks off is a failure.
//! - A response that the route's timeout cuts does not count.
//! - The failure of a gRPC service counts when its status has come, if the policy uses that status.
//! - If the client leaves during a response, the response counts by its beginning.
//! - If the client leaves before a response, only the time since its whole request had come is known. A breaker and a
//!   rollback count the request as slow after `slowerThan`. Before that it does not count.
//! - After `unansweredAfter` a breaker counts the request as unanswered, even if the client still waits.
//! - A response of the proxy itself does not count. See [`crate::value::response`].
//! - A request that the breaker must ignore does not count. On trial its response may pass, but not fail.

use core::time::Duration;

use super::scope::Scope;
use super::summary::{self, ResponseSummary};
use crate::decision::Assignment;
use crate::policy::release::rollback::Rollback;
use crate::policy::upstream::{Breaker, UpstreamId};
use crate::proxy::{Map, Proxy};
use crate::readiness::TrialOutcome;
use crate::readiness::permit::Permit;
use crate::value::response::{self, ResponseClass, Sample};
use crate::value::time::Time;

/// A request that was forwarded.
pub struct ForwardedRequest {
    /// The worker's epoch when the request was decided on.
    epoch: u64,
    /// The permits that it holds. Each is given back exactly once.
    permits: Vec<Permit>,
    /// The upstreams for which it does not count.
    ignored: Vec<UpstreamId>,
    /// The upstreams for which it has counted already, by its permit or because it waited too long.
    counted: Vec<UpstreamId>,
    /// The versions that it got in releases with a rollback, as the indexes of release and version.
    versions: Vec<(usize, usize)>,
    /// The time at which the whole request had been forwarded, if the policy uses times.
    sent: Option<Time>,
}

/// The wait of a request for its response.
#[derive(Debug)]
pub struct Wait {
    /// Whether the whole request has come. Until then the client may be the one that delays it.
    whole: bool,
    /// The time since which the upstream can have had the whole request, if anything depends on it.
    since: Option<Time>,
    /// The time of the next look at the request. `None` if none is needed.
    due: Option<Time>,
    /// Whether the upstream that the request went to is known.
    located: bool,
}

impl ForwardedRequest {
    /// Creates a request that is decided on now.
    pub fn new<P: Proxy>(scope: &Scope<'_, P>, permits: Vec<Permit>, ignored: Vec<UpstreamId>) -> Self {
        ForwardedRequest {
            epoch: scope.upstreams.epoch(),
            permits,
            ignored,
            counted: Vec::new(),
            versions: Vec::new(),
            sent: None,
        }
    }

    /// Counts the versions that the request got, and keeps those that a rollback judges.
    pub fn assign<P: Proxy>(&mut self, scope: &Scope<'_, P>, assignments: &[Assignment<'_>]) {
        for assignment in assignments {
            scope.metrics.count_assignment(scope.proxy, assignment);
            let release = scope.policy.releases.get(assignment.release);
            if release.is_some_and(|release| release.rollback.is_some()) {
                self.versions.push((assignment.release, assignment.version));
            }
        }
    }

    /// Returns whether the request or its response may still count for anything.
    pub fn is_evidence<P>(&self, scope: &Scope<'_, P>) -> bool {
        scope.signals.responses || !self.permits.is_empty() || !self.versions.is_empty()
    }

    /// Starts the wait for a response. `whole` tells whether the whole request has come.
    pub fn start<P: Proxy>(&mut self, scope: &Scope<'_, P>, whole: bool) -> Wait {
        self.sent = scope.signals.time.then(|| scope.proxy.now());
        let mut wait = Wait { whole, since: None, due: None, located: false };
        self.start_clock(scope, &mut wait);
        wait
    }

    /// Takes the end of the request. The wait starts again, because the time that the client took does not count.
    pub fn on_whole<P: Proxy>(&mut self, scope: &Scope<'_, P>, wait: &mut Wait) {
        if core::mem::replace(&mut wait.whole, true) {
            return;
        }
        if self.sent.is_some() {
            self.sent = Some(scope.proxy.now());
        }
        self.start_clock(scope, wait);
    }

    /// Starts the clock of the wait, if the whole request has come and anything depends on it.
    ///
    /// The upstream is known only once the router has the request, and no callback reports that. So the next tick looks.
    /// Most requests have their response by then.
    fn start_clock<P: Proxy>(&self, scope: &Scope<'_, P>, wait: &mut Wait) {
        if wait.whole && (scope.signals.waits || !self.permits.is_empty()) {
            wait.start(self.sent.unwrap_or_else(|| scope.proxy.now()));
        }
    }

    /// Finds the upstream that a waiting request went to, and counts the request if it has waited too long. The caller
    /// must have entered the request's context.
    pub fn locate<P: Proxy>(&mut self, scope: &mut Scope<'_, P>, wait: &mut Wait, now: Time) {
        // The upstream cannot have the request before the router has it.
        if !scope.proxy.is_with_router() {
            wait.start(now);
            return;
        }
        let since = wait.since.unwrap_or(now);
        let policy = scope.policy;
        let reached = ResponseSummary::without_response(scope.proxy);
        if !core::mem::replace(&mut wait.located, true) {
            for permit in core::mem::take(&mut self.permits) {
                let id = permit.upstream();
                if !reached.is_of(policy, id) {
                    scope.give_back(permit, TrialOutcome::Unused);
                    continue;
                }
                if self.counts_for(id) {
                    scope.upstreams.on_request_sent(policy, scope.proxy, &permit, since);
                }
                self.permits.push(permit);
            }
        }
        let mut next: Option<Duration> = None;
        for (id, breaker) in reached.judged(policy) {
            if !self.counts_for(id) {
                continue;
            }
            match unanswered(breaker, now.since(since)) {
                Some(sample) => {
                    scope.observe(id, sample, self.epoch);
                    self.counted.push(id);
                }
                None => next = next.into_iter().chain(breaker.unanswered_after).min(),
            }
        }
        wait.due = next.map(|span| since + span);
    }

    /// Returns whether the request may count for the upstream and has not counted yet.
    fn counts_for(&self, id: UpstreamId) -> bool {
        !self.ignored.contains(&id) && !self.counted.contains(&id)
    }

    /// Returns the time that the response has taken so far, if the policy uses times.
    pub fn took<P: Proxy>(&self, scope: &Scope<'_, P>) -> Option<Duration> {
        self.sent.map(|sent| scope.proxy.now().since(sent))
    }

    /// Returns whether the response may take the fast path if it is a success.
    pub fn is_plain(&self) -> bool {
        self.permits.is_empty() && self.versions.is_empty()
    }

    /// Returns whether the response may count for any upstream or version.
    pub fn is_judged_by<P>(&self, scope: &Scope<'_, P>, response: &ResponseSummary) -> bool {
        !self.versions.is_empty() || response.judged(scope.policy).next().is_some()
    }

    /// Records that the response has begun without a failure, for the permit of the upstream that sends it.
    pub fn on_response_begun<P: Proxy>(&self, scope: &mut Scope<'_, P>, response: &ResponseSummary) {
        for permit in self.permits.iter().filter(|permit| response.is_of(scope.policy, permit.upstream())) {
            scope.upstreams.on_response_begun(scope.policy, scope.proxy, permit);
        }
    }

    /// Gives back all permits as unused.
    pub fn give_back<P: Proxy>(&mut self, scope: &mut Scope<'_, P>) {
        for permit in core::mem::take(&mut self.permits) {
            scope.give_back(permit, TrialOutcome::Unused);
        }
    }

    /// Removes and returns the permit for this upstream.
    fn take_permit(&mut self, id: UpstreamId) -> Option<Permit> {
        let index = self.permits.iter().position(|permit| permit.upstream() == id)?;
        Some(self.permits.swap_remove(index))
    }

    /// Takes the end of a request without a response. Either its client has left, or the proxy has followed an internal
    /// redirect. A redirect is a response of the upstream, although no callback shows it.
    pub fn on_unanswered<P: Proxy>(mut self, scope: &mut Scope<'_, P>, wait: &Wait) {
        if scope.proxy.code_details() == b"internal_redirect" {
            self.count_redirect(scope);
        } else if !self.permits.is_empty() || self.sent.is_some() {
            self.count_unanswered(scope, wait);
        }
        self.give_back(scope);
    }

    /// Counts a redirect that the proxy follows as a success of the upstream that responded with it. For the version,
    /// the request that follows counts.
    fn count_redirect<P: Proxy>(&mut self, scope: &mut Scope<'_, P>) {
        let reached = ResponseSummary::without_response(scope.proxy);
        for (id, _) in reached.judged(scope.policy) {
            let success: Sample = ResponseClass::Success.into();
            match self.take_permit(id) {
                Some(permit) => scope.give_back(permit, TrialOutcome::Seen(success)),
                None if self.counts_for(id) => scope.observe(id, success, self.epoch),
                None => {}
            }
        }
    }

    fn count_unanswered<P: Proxy>(&mut self, scope: &mut Scope<'_, P>, wait: &Wait) {
        let policy = scope.policy;
        // The upstream cannot have the request before the router has it.
        if !scope.proxy.is_with_router() {
            return;
        }
        let mut reached = ResponseSummary::without_response(scope.proxy);
        let mut counted_by_permit = Vec::new();
        for permit in core::mem::take(&mut self.permits) {
            if reached.is_of(policy, permit.upstream()) {
                counted_by_permit.push(permit.upstream());
                scope.give_back(permit, TrialOutcome::Left);
            } else {
                scope.give_back(permit, TrialOutcome::Unused);
            }
        }
        let waited = self.sent.filter(|_| wait.whole);
        let Some(waited) = waited.map(|sent| scope.proxy.now().since(sent)) else {
            return;
        };
        reached.took = Some(waited);
        for (id, breaker) in reached.judged(policy) {
            let sample = unanswered(breaker, waited).unwrap_or_else(|| {
                // A request that its client gave up late is slow, but no failure.
                let slow = breaker.is_slow(waited);
                let class = if slow { ResponseClass::Success } else { ResponseClass::Ignored };
                reached.sample(breaker, class)
            });
            if !counted_by_permit.contains(&id) && self.counts_for(id) {
                scope.observe(id, sample, self.epoch);
            }
        }
        // A slow version is counted by the time, so its class is that of a success.
        self.count_versions(scope, &reached, |rollback| {
            rollback.is_slow(waited).then_some(ResponseClass::Success)
        });
    }

    /// Counts the response if its beginning is a failure. Gives back every permit except one that a success of its
    /// upstream may still complete. `readable` is the map of the response that can be read in this callback.
    pub fn count_beginning<P: Proxy>(
        &mut self,
        scope: &mut Scope<'_, P>,
        response: &ResponseSummary,
        readable: Option<Map>,
        end: bool,
    ) {
        self.count_versions(scope, response, |rollback| {
            Some(response.classify(rollback.classifier())).filter(|class| class.is_failure())
        });
        let mut kept = Vec::new();
        for (id, breaker) in response.judged(scope.policy) {
            let sample = response.sample(breaker, response.classify(breaker.classifier()));
            let mut sample = self.unless_ignored(id, sample);
            // Only a response that the upstream itself sent may ask for a backoff.
            let may_ask = sample.class == ResponseClass::Failure && !breaker.max_retry_after.is_zero();
            let map = readable.filter(|_| may_ask);
            sample.retry_at = map.and_then(|map| summary::retry_at(scope.proxy, map, scope.proxy.now()));
            match self.take_permit(id) {
                Some(permit) if sample.is_good() => {
                    if !end {
                        scope.upstreams.on_response_begun(scope.policy, scope.proxy, &permit);
                    }
                    kept.push(permit);
                }
                Some(permit) => {
                    scope.give_back(permit, TrialOutcome::Seen(sample));
                    self.counted.push(id);
                }
                None if sample.class.is_failure() && !self.counted.contains(&id) => {
                    scope.observe(id, sample, self.epoch);
                }
                None => {}
            }
        }
        self.give_back(scope);
        self.permits = kept;
    }

    /// Counts the response if its beginning was not a failure. Gives back all remaining permits.
    pub fn count_end<P: Proxy>(mut self, scope: &mut Scope<'_, P>, response: &ResponseSummary) {
        self.count_versions(scope, response, |rollback| {
            let begun = response.classify(rollback.classifier());
            (!begun.is_failure()).then(|| response.classify_end(rollback.classifier()))
        });
        for (id, breaker) in response.judged(scope.policy) {
            let sample = response.sample(breaker, response.classify_end(breaker.classifier()));
            if let Some(permit) = self.take_permit(id) {
                scope.give_back(permit, TrialOutcome::Seen(self.unless_ignored(id, sample)));
                continue;
            }
            let counted = response.classify(breaker.classifier()).is_failure();
            if !counted && self.counts_for(id) {
                scope.observe(id, sample, self.epoch);
            }
        }
        self.give_back(scope);
    }

    /// Returns the sample, or an ignored one if the request does not count for the upstream. A good response stays one,
    /// because it may still pass a trial.
    fn unless_ignored(&self, id: UpstreamId, sample: Sample) -> Sample {
        let ignored = !sample.is_good() && self.ignored.contains(&id);
        if ignored { ResponseClass::Ignored.into() } else { sample }
    }

    /// Counts the response for each version that the request reached. `classify` returns `None` if it does not count yet.
    fn count_versions<P: Proxy>(
        &self,
        scope: &mut Scope<'_, P>,
        response: &ResponseSummary,
        classify: impl Fn(&Rollback) -> Option<ResponseClass>,
    ) {
        for (index, version) in &self.versions {
            let Some(release) = scope.policy.releases.get(*index) else {
                continue;
            };
            let own = release.versions.get(*version).map(|version| version.cluster.as_bytes());
            // If the route's cluster does not exist, the version that led to the route is at fault.
            let reached = own == response.cluster.as_deref() || response::had_no_cluster(&response.details);
            let Some(rollback) = release.rollback.as_ref().filter(|_| reached) else {
                continue;
            };
            let failed = match classify(rollback) {
                None | Some(ResponseClass::Ignored) => continue,
                Some(class) => class.is_failure(),
            };
            let slow = response.took.is_some_and(|took| rollback.is_slow(took));
            if let Some(seen) = scope.releases.observations_mut(*index, *version) {
                seen.responses += 1;
                seen.failures += u64::from(failed);
                seen.slow += u64::from(slow);
            }
            let result = match (failed, slow) {
                (true, _) => "failure",
                (false, true) => "slow",
                (false, false) => "success",
            };
            scope.metrics.count_response(scope.proxy, scope.policy, (*index, *version), result);
        }
    }
}

impl Wait {
    /// Starts the clock at `since`, and has the next tick look at the request.
    fn start(&mut self, since: Time) {
        self.since = Some(since);
        self.due = Some(since);
    }

    /// Returns whether a look at the request is due.
    pub fn is_due(&self, now: Time) -> bool {
        self.since.zip(self.due).is_some_and(|(since, due)| now.is_due(since, due))
    }
}

/// Returns the evidence of a request that has waited for `waited` without a response, if that is too long.
fn unanswered(breaker: &Breaker, waited: Duration) -> Option<Sample> {
    if waited < breaker.unanswered_after? {
        return None;
    }
    Some(Sample { slow: breaker.is_slow(waited), ..breaker.classifier().unanswered().into() })
}
