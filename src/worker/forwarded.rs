//! A user's request that has gone on, as evidence about the upstream and the versions that it went to.
//!
//! - A response counts once. A failure counts when its headers have come, and so does a slow response to a request on
//!   trial. Anything else counts when the response has ended, as one that breaks off is a failure.
//! - A response that the route's timeout cuts does not count.
//! - The failure of a gRPC service counts when its status has come, if the policy asks for that.
//! - A client that leaves in the middle of a response has seen it begin well.
//! - Of a client that leaves before, only how long it has waited since all of its request had come is known. A breaker
//!   and a rollback count it as a slow answer after `slowerThan`; sooner it does not count.
//! - After `unansweredAfter` a breaker counts a request as one without an answer, and does not wait for the client to
//!   leave.
//! - What the proxy itself answered does not count; see [`crate::value::response`].
//! - A request that a breaker does not record counts for nothing. On trial it may pass, but not fail.

use core::time::Duration;

use super::scope::Scope;
use super::summary::{self, ResponseSummary};
use crate::decision::Assignment;
use crate::policy::release::rollback::Rollback;
use crate::policy::upstream::{Breaker, UpstreamId};
use crate::proxy::{Attribute, Map, Proxy};
use crate::readiness::TrialOutcome;
use crate::readiness::permit::Permit;
use crate::value::response::{self, ResponseClass, Sample};
use crate::value::time::Time;

/// A request that has gone on.
pub struct ForwardedRequest {
    /// The worker's epoch when the request was decided on.
    epoch: u64,
    /// Permits that it holds. Each is given back once, whatever happens to the request.
    permits: Vec<Permit>,
    /// Upstreams that it does not count for.
    ignored: Vec<UpstreamId>,
    /// Upstreams that it has counted for already: by a permit, or as it waited too long.
    counted: Vec<UpstreamId>,
    /// The versions that it got and that a rollback may follow for: release and version, by their indexes.
    versions: Vec<(usize, usize)>,
    /// When all of it had gone on, if that is asked for.
    sent: Option<Time>,
}

/// How long a request without a response has waited.
#[derive(Debug)]
pub struct Wait {
    /// Whether all of the request has come. Until then it is its client that keeps it waiting.
    whole: bool,
    /// Since when it waits, if that is asked for. By the proxy's clock, from the moment on in which the router had it.
    since: Option<Time>,
    /// When it is to be looked at next; never again if there is none.
    due: Option<Time>,
    /// Whether it is known where the request has gone.
    located: bool,
}

impl ForwardedRequest {
    /// Starts with what was decided on now.
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

    /// Notes the versions that it goes on with.
    pub fn assign<P: Proxy>(&mut self, scope: &Scope<'_, P>, assignments: &[Assignment<'_>]) {
        for assignment in assignments {
            scope.metrics.count_assignment(scope.proxy, assignment);
            let release = scope.policy.releases.get(assignment.release);
            if release.is_some_and(|release| release.rollback.is_some()) {
                self.versions.push((assignment.release, assignment.version));
            }
        }
    }

    /// Returns whether anything may still follow from it.
    pub fn is_evidence<P>(&self, scope: &Scope<'_, P>) -> bool {
        scope.signals.responses || !self.permits.is_empty() || !self.versions.is_empty()
    }

    /// Starts its wait for a response. `whole` says whether all of it has come.
    pub fn start<P: Proxy>(&mut self, scope: &Scope<'_, P>, whole: bool) -> Wait {
        self.sent = scope.signals.time.then(|| scope.proxy.now());
        let mut wait = Wait { whole, since: None, due: None, located: false };
        self.start_clock(scope, &mut wait);
        wait
    }

    /// Notes that all of it has come: how long the client takes is its own affair.
    pub fn on_whole<P: Proxy>(&mut self, scope: &Scope<'_, P>, wait: &mut Wait) {
        if core::mem::replace(&mut wait.whole, true) {
            return;
        }
        if self.sent.is_some() {
            self.sent = Some(scope.proxy.now());
        }
        self.start_clock(scope, wait);
    }

    /// Starts the time of its wait, if all of it has come and somebody asks. Where it has gone is known only once the
    /// router has it, which no callback tells, so it is looked at on the next tick. Most have their answer by then.
    fn start_clock<P: Proxy>(&self, scope: &Scope<'_, P>, wait: &mut Wait) {
        if wait.whole && (scope.signals.waits || !self.permits.is_empty()) {
            let since = self.sent.unwrap_or_else(|| scope.proxy.now());
            (wait.since, wait.due) = (Some(since), Some(since));
        }
    }

    /// Looks where a request that waits has gone, and counts it where it has waited for too long. The request is the one
    /// at hand.
    pub fn look<P: Proxy>(&mut self, scope: &mut Scope<'_, P>, wait: &mut Wait, now: Time) {
        if !scope.proxy.is_with_router() {
            (wait.since, wait.due) = (Some(now), Some(now));
            return;
        }
        let since = wait.since.unwrap_or(now);
        let policy = scope.policy;
        let there =
            ResponseSummary { cluster: scope.proxy.attribute(Attribute::Cluster), ..Default::default() };
        if !core::mem::replace(&mut wait.located, true) {
            for permit in core::mem::take(&mut self.permits) {
                let id = permit.upstream();
                if !there.is_of(policy, id) {
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
        for (id, breaker) in there.judged(policy) {
            if !self.counts_for(id) {
                continue;
            }
            match unanswered(breaker, now.since(since)) {
                Some(class) => {
                    scope.observe(id, class.into(), self.epoch);
                    self.counted.push(id);
                }
                None => next = next.into_iter().chain(breaker.unanswered_after).min(),
            }
        }
        wait.due = next.map(|span| since + span);
    }

    /// Returns whether it is evidence about the upstream, and has not counted for it.
    fn counts_for(&self, id: UpstreamId) -> bool {
        !self.ignored.contains(&id) && !self.counted.contains(&id)
    }

    /// Returns how long its response has taken, if that is asked for.
    pub fn took<P: Proxy>(&self, scope: &Scope<'_, P>) -> Option<Duration> {
        self.sent.map(|sent| scope.proxy.now().since(sent))
    }

    /// Returns whether its response may take the fast path, if it is a success.
    pub fn is_plain(&self) -> bool {
        self.permits.is_empty() && self.versions.is_empty()
    }

    /// Returns whether the response is evidence about any upstream or version.
    pub fn is_judged_by<P>(&self, scope: &Scope<'_, P>, response: &ResponseSummary) -> bool {
        !self.versions.is_empty() || response.judged(scope.policy).next().is_some()
    }

    /// Notes that the response has begun, and well, for the permits of the upstream that sends it.
    pub fn on_response_begun<P: Proxy>(&self, scope: &mut Scope<'_, P>, response: &ResponseSummary) {
        for permit in self.permits.iter().filter(|permit| response.is_of(scope.policy, permit.upstream())) {
            scope.upstreams.on_response_begun(scope.policy, scope.proxy, permit);
        }
    }

    /// Gives back all permits, for upstreams that the request did not go to.
    pub fn give_back<P: Proxy>(&mut self, scope: &mut Scope<'_, P>) {
        for permit in core::mem::take(&mut self.permits) {
            scope.give_back(permit, TrialOutcome::Unused);
        }
    }

    /// Takes the permit for this upstream out, if it holds one.
    fn take_permit(&mut self, id: UpstreamId) -> Option<Permit> {
        let index = self.permits.iter().position(|permit| permit.upstream() == id)?;
        Some(self.permits.swap_remove(index))
    }

    /// Ends a request whose client has left before an answer, or whose redirect the proxy has followed, which the
    /// upstream that was reached has answered with.
    pub fn on_unanswered<P: Proxy>(mut self, scope: &mut Scope<'_, P>, wait: &Wait) {
        if !self.permits.is_empty() || self.sent.is_some() {
            self.count_unanswered(scope, wait);
        }
        self.give_back(scope);
    }

    fn count_unanswered<P: Proxy>(&mut self, scope: &mut Scope<'_, P>, wait: &Wait) {
        let policy = scope.policy;
        let redirected = scope.proxy.code_details() == b"internal_redirect";
        let mut left =
            ResponseSummary { cluster: scope.proxy.attribute(Attribute::Cluster), ..Default::default() };
        let outcome = if redirected {
            TrialOutcome::Seen(ResponseClass::Success.into())
        } else if scope.proxy.is_with_router() {
            TrialOutcome::Left
        } else {
            return;
        };
        let mut held = Vec::new();
        for permit in core::mem::take(&mut self.permits) {
            if left.is_of(policy, permit.upstream()) {
                held.push(permit.upstream());
                scope.give_back(permit, outcome);
            } else {
                scope.give_back(permit, TrialOutcome::Unused);
            }
        }
        let waited = self.sent.filter(|_| wait.whole && !redirected);
        let Some(waited) = waited.map(|sent| scope.proxy.now().since(sent)) else {
            return;
        };
        left.took = Some(waited);
        for (id, breaker) in left.judged(policy) {
            let class = unanswered(breaker, waited).unwrap_or_else(|| {
                if breaker.is_slow(waited) { ResponseClass::Slow } else { ResponseClass::Ignored }
            });
            if !held.contains(&id) && self.counts_for(id) {
                scope.observe(id, class.into(), self.epoch);
            }
        }
        self.count_versions(scope, &left, |rollback| {
            rollback.is_slow(waited).then_some(ResponseClass::Success)
        });
    }

    /// Counts the response where it is a failure, and gives back the permits that it is the end of. `at_hand` is the part
    /// of the message that can be read now.
    pub fn count_beginning<P: Proxy>(
        &mut self,
        scope: &mut Scope<'_, P>,
        response: &ResponseSummary,
        at_hand: Option<Map>,
        end: bool,
    ) {
        self.count_versions(scope, response, |rollback| {
            Some(response.classify(rollback.classifier())).filter(|class| class.is_failure())
        });
        let mut held = Vec::new();
        for (id, breaker) in response.judged(scope.policy) {
            let class = response.or_slow(breaker, response.classify(breaker.classifier()));
            let class = self.unless_ignored(id, class);
            // Only an answer of the upstream's own can ask for anything.
            let asks = class == ResponseClass::Failure && !breaker.max_retry_after.is_zero();
            let at_hand = at_hand.filter(|_| asks);
            let retry_at = at_hand.and_then(|map| summary::retry_at(scope.proxy, map, scope.proxy.now()));
            let sample = Sample { class, retry_at };
            match self.take_permit(id) {
                Some(permit) if class == ResponseClass::Success => {
                    if !end {
                        scope.upstreams.on_response_begun(scope.policy, scope.proxy, &permit);
                    }
                    held.push(permit);
                }
                Some(permit) => {
                    scope.give_back(permit, TrialOutcome::Seen(sample));
                    self.counted.push(id);
                }
                None if class.is_failure() && !self.counted.contains(&id) => {
                    scope.observe(id, sample, self.epoch);
                }
                None => {}
            }
        }
        self.give_back(scope);
        self.permits = held;
    }

    /// Counts the response where its beginning was no failure, and gives back the permits that are still held.
    pub fn count_end<P: Proxy>(mut self, scope: &mut Scope<'_, P>, response: &ResponseSummary) {
        self.count_versions(scope, response, |rollback| {
            let begun = response.classify(rollback.classifier());
            (!begun.is_failure()).then(|| response.classify_end(rollback.classifier()))
        });
        for (id, breaker) in response.judged(scope.policy) {
            let class = response.or_slow(breaker, response.classify_end(breaker.classifier()));
            if let Some(permit) = self.take_permit(id) {
                scope.give_back(permit, TrialOutcome::Seen(self.unless_ignored(id, class).into()));
                continue;
            }
            let counted = response.classify(breaker.classifier()).is_failure();
            if !counted && self.counts_for(id) {
                scope.observe(id, class.into(), self.epoch);
            }
        }
        self.give_back(scope);
    }

    /// Returns the class, if the request is evidence. One that is none may still pass a trial.
    fn unless_ignored(&self, id: UpstreamId, class: ResponseClass) -> ResponseClass {
        let ignored = class != ResponseClass::Success && self.ignored.contains(&id);
        if ignored { ResponseClass::Ignored } else { class }
    }

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
            // Where the route leads to no cluster that is there, the version is what led to it.
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
    /// Returns whether it is to be looked at now.
    pub fn is_due(&self, now: Time) -> bool {
        self.since.zip(self.due).is_some_and(|(since, due)| now.is_due(since, due))
    }
}

/// Returns the class of a request that has waited for so long without an answer, if that is too long.
fn unanswered(breaker: &Breaker, waited: Duration) -> Option<ResponseClass> {
    let over = breaker.unanswered_after.is_some_and(|most| waited >= most);
    over.then(|| breaker.classifier().unanswered())
}
