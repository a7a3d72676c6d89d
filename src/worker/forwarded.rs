//! A request that was forwarded, as evidence about its upstream and its versions.
//!
//! - A response counts once, when its headers have come. If it then breaks off soon, that is further evidence.
//! - The failure of a gRPC service counts when its status has come, if the policy uses that status.
//! - On trial a success counts when the response has ended.
//! - A response that the route's timeout cuts does not count as broken off. Nor does one that breaks off while a part of
//!   the request is still to come, or after a long time. Streams end as their ends like.
//! - If the client leaves before a response, only the time since its whole request had come is known. A breaker and a
//!   rollback count the request as slow after `slowerThan`. Before that it does not count. A caller whose own deadline
//!   has passed counts as a client that leaves.
//! - A request of which a part is still to come is no evidence if its connection is closed. Nor is one with a long body.
//!   The upstream may have refused the rest of it.
//! - After `unansweredAfter` a breaker counts the request as unanswered, even if the client still waits.
//! - A response of the proxy itself does not count. See [`crate::value::response`]. If one of the proxy's limits ends a
//!   whole request without a response, the request counts as unanswered.
//! - A request that the breaker must ignore does not count. On trial its response may pass, but not fail.

use core::time::Duration;

use super::metric::ResponseCount;
use super::routes::VersionIndex;
use super::scope::Scope;
use super::summary::{self, Attribution, ResponseSummary};
use super::upstreams::Moment;
use crate::decision::Assignment;
use crate::decision::release::AssignmentReason;
use crate::policy::release::rollback::Rollback;
use crate::policy::upstream::{Breaker, UpstreamId};
use crate::proxy::{ExchangeId, Map, Proxy};
use crate::readiness::TrialOutcome;
use crate::readiness::permit::{self, Permit};
use crate::rollback::users::UserId;
use crate::value::deadline::CallerDeadline;
use crate::value::response::{self, ResponseClass, Sample};
use crate::value::time::Time;

/// A request that was forwarded.
pub struct ForwardedRequest {
    /// What the worker knew when the request was decided on.
    moment: Moment,
    /// The upstream of which its response may be a sample that is due.
    takes_sample: Option<UpstreamId>,
    /// The permits that it holds. Each is given back exactly once.
    permits: Vec<Permit>,
    /// The upstreams for which it does not count.
    ignored: Vec<UpstreamId>,
    /// The upstreams for which it has counted already, by its permit or because it waited too long.
    counted: Vec<UpstreamId>,
    /// The versions that it got in releases with a rollback.
    versions: Vec<CountedVersion>,
    /// The versions that it got, if its response tells whether routes lead to them.
    routed: Vec<VersionIndex>,
    /// The time at which the whole request had been forwarded, if the policy or a deadline uses times.
    sent: Option<Time>,
    /// The caller's own deadline.
    deadline: CallerDeadline,
    /// How many bytes of its body have come.
    body: usize,
    /// Whether the whole request has come. Until then the client may be the one that delays it. An upgrade counts as
    /// whole, because what follows it needs a response first.
    whole: bool,
}

/// A version whose responses count, and the user that got it.
struct CountedVersion {
    /// The index of the release in the policy.
    release: usize,
    /// The index of the version in the release.
    version: usize,
    /// The user, or `None` if the request is a user of its own.
    user: Option<UserId>,
}

/// What a request's headers tell about how it may end.
#[derive(Clone, Copy, Debug, Default)]
pub struct RequestTraits {
    /// The caller's own deadline.
    pub deadline: CallerDeadline,
    /// Whether the request asks for an upgrade, or for a tunnel.
    pub is_upgrade: bool,
}

/// The wait of a request for its response.
#[derive(Debug)]
pub struct Wait {
    /// The time since which only the upstream can have delayed the request, if anything depends on it.
    since: Option<Time>,
    /// The time of the next look at the request. `None` if none is needed.
    due: Option<Time>,
    /// Whether another filter had the request at the last look.
    is_deferred: bool,
    /// Whether the upstream that the whole request went to is known.
    located: bool,
}

/// How long after its beginning a response may break off and still count as one that failed. A longer one is a stream
/// or a tunnel, or its client reads slowly.
const BREAK_OFF: Duration = Duration::from_secs(10);

/// The longest body, in bytes, that an upstream certainly had when its connection was closed. The proxy may still hold a
/// part of a longer one, although all of it has come.
const LARGE_BODY: usize = 65_536;

impl ForwardedRequest {
    /// Creates a request that is decided on now.
    pub fn new<P: Proxy>(scope: &mut Scope<'_, P>, permits: Vec<Permit>, ignored: Vec<UpstreamId>) -> Self {
        ForwardedRequest {
            moment: scope.upstreams.moment(),
            takes_sample: scope.upstreams.takes_sample(),
            permits,
            ignored,
            counted: Vec::new(),
            versions: Vec::new(),
            routed: Vec::new(),
            sent: None,
            deadline: CallerDeadline::default(),
            body: 0,
            whole: false,
        }
    }

    /// Marks a request on trial. Its permits are for one attempt of the proxy, so the router must not try again. Later
    /// filters of the same proxy learn which permits the request has.
    pub fn mark<P: Proxy>(&self, scope: &Scope<'_, P>) {
        if self.permits.is_empty() {
            return;
        }
        let leases = permit::write(self.permits.iter().map(|permit| permit.lease().id));
        for (name, value) in [
            (permit::HEADER, leases.as_str()),
            ("x-envoy-max-retries", "0"),
            ("x-envoy-hedge-on-per-try-timeout", "false"),
        ] {
            scope.proxy.set_header(Map::RequestHeaders, name, Some(value.as_bytes()));
        }
    }

    /// Counts the versions that the request got, and keeps those whose responses count.
    pub fn assign<P: Proxy>(&mut self, scope: &mut Scope<'_, P>, assignments: &[Assignment<'_>]) {
        for assignment in assignments {
            if !assignment.is_repeated {
                scope.metrics.count_assignment(scope.proxy, scope.policy, assignment);
            }
            let release = scope.policy.releases.get(assignment.release);
            if release.is_some_and(|release| release.rollback.is_some()) {
                let Assignment { release, version, user, .. } = *assignment;
                self.versions.push(CountedVersion { release, version, user: user.map(UserId::new) });
            }
        }
    }

    /// Determines whether the response, or a tick, is to tell if routes lead to the versions. The request must have been steered
    /// to them.
    pub fn watch_route<P: Proxy>(
        &mut self,
        scope: &mut Scope<'_, P>,
        id: ExchangeId,
        assignments: &[Assignment<'_>],
    ) {
        if scope.routes.is_late_look_due() {
            return;
        }
        let ticked = scope.upstreams.ticked();
        let late = !scope.proxy.module().sees_responses();
        let mut takes_look = false;
        for Assignment { release, version, reason, .. } in assignments {
            // The header names a version of a later hop, which routes may know.
            if *reason == AssignmentReason::NoSuchVersion {
                return;
            }
            takes_look |= scope.routes.takes_look((*release, *version), ticked, late);
        }
        if !takes_look {
            return;
        }
        let versions =
            assignments.iter().map(|assignment| (assignment.release, assignment.version)).collect();
        if late {
            scope.routes.look_later(id, versions);
        } else {
            self.routed = versions;
        }
    }

    /// Looks at where the request went, if its response is to tell. Must be called in the callback of the response's headers.
    pub fn look_at_route<P: Proxy>(&mut self, scope: &mut Scope<'_, P>, response: &ResponseSummary) {
        let routed = core::mem::take(&mut self.routed);
        if !routed.is_empty() {
            scope.look_at_route(&routed, response.cluster.as_deref());
        }
        if let Some(id) = self.takes_sample.take() {
            scope.look_at_upstream(id, response.cluster.as_deref());
        }
    }

    /// Returns whether the request or its response may still count for anything.
    pub fn is_evidence<P>(&self, scope: &Scope<'_, P>) -> bool {
        scope.signals.responses
            || !self.permits.is_empty()
            || !self.versions.is_empty()
            || !self.routed.is_empty()
    }

    /// Starts the wait for a response. `whole` tells whether the whole request has come.
    pub fn start<P: Proxy>(&mut self, scope: &Scope<'_, P>, traits: RequestTraits, whole: bool) -> Wait {
        let RequestTraits { deadline, is_upgrade } = traits;
        self.deadline = deadline;
        self.whole = whole || is_upgrade;
        self.sent = (scope.signals.time || deadline.is_set()).then(|| scope.proxy.now());
        let mut wait = Wait { since: None, due: None, is_deferred: false, located: false };
        self.start_clock(scope, &mut wait);
        wait
    }

    /// Takes a part of the request, and its end. The wait starts again, because the time that the client took does not
    /// count.
    pub fn on_part<P: Proxy>(&mut self, scope: &Scope<'_, P>, wait: &mut Wait, size: usize, end: bool) {
        let was_whole = self.whole;
        self.on_late_part(size, end);
        if was_whole {
            return;
        }
        if end && self.sent.is_some() {
            self.sent = Some(scope.proxy.now());
        }
        self.start_clock(scope, wait);
    }

    /// Takes a part of the request whose response has begun, and its end.
    pub fn on_late_part(&mut self, size: usize, end: bool) {
        self.body = self.body.saturating_add(size);
        self.whole |= end;
    }

    /// Starts the clock of the wait, if anything depends on it.
    ///
    /// The upstream is known only once the router has the request, and no callback reports that. So the next tick looks.
    /// Most requests have their response by then.
    fn start_clock<P: Proxy>(&self, scope: &Scope<'_, P>, wait: &mut Wait) {
        if scope.signals.unanswered_after.is_some() || self.whole && !self.permits.is_empty() {
            wait.start(self.sent.filter(|_| self.whole).unwrap_or_else(|| scope.proxy.now()));
        }
    }

    /// Finds the upstream that a waiting request went to, and counts the request if it has waited too long. The caller
    /// must have entered the request's context.
    pub fn locate<P: Proxy>(&mut self, scope: &mut Scope<'_, P>, wait: &mut Wait, now: Time) {
        // The upstream cannot have the request before the router has it.
        if !scope.proxy.is_with_router() {
            // A permit's clock must start soon.
            let longest = scope.signals.unanswered_after.filter(|_| self.permits.is_empty());
            wait.defer(now, longest.unwrap_or_default() / 4);
            return;
        }
        let since = wait.begin(now);
        let policy = scope.policy;
        let reached = ResponseSummary::without_response(scope.proxy);
        if self.whole && !core::mem::replace(&mut wait.located, true) {
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
                    scope.observe_whole(id, sample, self.moment);
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
        self.permits.is_empty()
            && self.versions.is_empty()
            && self.routed.is_empty()
            && self.takes_sample.is_none()
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
    pub fn on_unanswered<P: Proxy>(mut self, scope: &mut Scope<'_, P>) {
        if scope.proxy.code_details() == b"internal_redirect" {
            self.count_redirect(scope);
        } else if !self.permits.is_empty() || self.sent.is_some() {
            self.count_unanswered(scope);
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
                Some(permit) => scope.give_back_seen(permit, success),
                None if self.counts_for(id) => {
                    scope.observe_whole(id, success, self.moment);
                }
                None => {}
            }
        }
    }

    fn count_unanswered<P: Proxy>(&mut self, scope: &mut Scope<'_, P>) {
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
        let waited = self.sent.filter(|_| self.whole);
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
                scope.observe_whole(id, sample, self.moment);
            }
        }
        // A slow version is counted by the time, so its class is that of a success.
        self.count_versions(scope, &reached, |rollback| {
            rollback.is_slow(waited).then_some(ResponseClass::Success)
        });
    }

    /// Finds out whether a response that the proxy made itself is the upstream's fault. Returns `false` if the request
    /// ended as if its client had left, which is then counted.
    pub fn attribute<P: Proxy>(&mut self, scope: &mut Scope<'_, P>, response: &mut ResponseSummary) -> bool {
        let details = response.details.as_slice();
        let is_limit = response::is_limit(details);
        if is_limit || response::is_timeout(details) {
            let waited = self.sent.map(|sent| scope.proxy.now().since(sent)).unwrap_or_default();
            if self.deadline.is_set() && self.deadline.has_passed(waited) {
                self.count_unanswered(scope);
                self.give_back(scope);
                return false;
            }
        }
        if is_limit && self.whole && scope.proxy.is_with_router() {
            response.attribution = Attribution::Unanswered;
        } else if response::was_reset(details) && !self.is_certainly_with_upstream() {
            response.attribution = Attribution::Nobody;
        }
        true
    }

    fn is_certainly_with_upstream(&self) -> bool {
        self.whole && self.body <= LARGE_BODY
    }

    /// Returns whether a response that began at `begun` and breaks off now is evidence.
    pub fn may_break_off<P: Proxy>(&self, scope: &Scope<'_, P>, begun: Time) -> bool {
        self.is_certainly_with_upstream() && scope.upstreams.ticked().since(begun) < BREAK_OFF
    }

    /// Counts the beginning of the response. Gives back every permit except one that a success of its upstream may still
    /// complete. `readable` is the map of the response that can be read in this callback.
    pub fn count_beginning<P: Proxy>(
        &mut self,
        scope: &mut Scope<'_, P>,
        response: &ResponseSummary,
        readable: Option<Map>,
        end: bool,
    ) {
        self.count_versions(scope, response, |rollback| Some(response.classify(rollback.classifier())));
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
                    scope.give_back_seen(permit, sample);
                    self.counted.push(id);
                }
                None if self.counts_for(id) => {
                    scope.observe(id, sample, self.moment);
                    if !sample.is_good() {
                        scope.observe_on_trial(id, sample, self.moment);
                    }
                }
                None => {}
            }
        }
        self.give_back(scope);
        self.permits = kept;
    }

    /// Counts the end of a response whose beginning was no failure. Gives back all remaining permits.
    pub fn count_end<P: Proxy>(mut self, scope: &mut Scope<'_, P>, response: &ResponseSummary) {
        if response.broken.is_some() {
            self.count_broken_versions(scope, response);
        }
        for (id, breaker) in response.judged(scope.policy) {
            let begun = response.sample(breaker, response.classify(breaker.classifier()));
            let sample = response.sample(breaker, response.classify_end(breaker.classifier()));
            if let Some(permit) = self.take_permit(id) {
                scope.give_back_seen(permit, self.unless_ignored(id, sample));
            } else if begun.class == ResponseClass::Success && self.counts_for(id) {
                // If the beginning was slow, it has counted on trial.
                if begun.is_good() {
                    scope.observe_on_trial(id, sample, self.moment);
                }
                let is_broken_off = response.broken.is_some();
                if sample.class.is_failure() || !is_broken_off {
                    scope.observe_end(id, is_broken_off, self.moment);
                }
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

    /// Counts the response for each version that the request reached. `classify` returns `None` if it does not count.
    fn count_versions<P: Proxy>(
        &self,
        scope: &mut Scope<'_, P>,
        response: &ResponseSummary,
        classify: impl Fn(&Rollback) -> Option<ResponseClass>,
    ) {
        for counted in &self.versions {
            let Some(rollback) = counted.reached_rollback(scope, response) else {
                continue;
            };
            let failed = match classify(rollback) {
                None | Some(ResponseClass::Ignored) => continue,
                Some(class) => class.is_failure(),
            };
            let slow = response.took.is_some_and(|took| rollback.is_slow(took));
            if rollback.judges
                && let Some(seen) = scope.releases.observations_mut(counted.release, counted.version)
            {
                seen.add_response(counted.user, failed, slow);
            }
            let result = match (failed, slow) {
                (true, _) => ResponseCount::Failure,
                (false, true) => ResponseCount::Slow,
                (false, false) => ResponseCount::Success,
            };
            scope.metrics.count_response(scope.proxy, scope.policy, counted.indexes(), result);
        }
    }

    /// Counts the break-off of a response whose beginning has counted. The response becomes a failure.
    fn count_broken_versions<P: Proxy>(&self, scope: &mut Scope<'_, P>, response: &ResponseSummary) {
        for counted in &self.versions {
            let Some(rollback) = counted.reached_rollback(scope, response) else {
                continue;
            };
            let begun = response.classify(rollback.classifier());
            let fails = response.classify_end(rollback.classifier()).is_failure();
            if begun != ResponseClass::Success || !fails {
                continue;
            }
            if rollback.judges
                && let Some(seen) = scope.releases.observations_mut(counted.release, counted.version)
            {
                seen.add_break_off(counted.user);
            }
            scope.metrics.count_response(
                scope.proxy,
                scope.policy,
                counted.indexes(),
                ResponseCount::BrokenOff,
            );
        }
    }
}

impl CountedVersion {
    /// Returns the indexes of release and version.
    fn indexes(&self) -> (usize, usize) {
        (self.release, self.version)
    }

    /// Returns the rollback of the release if the response is of this version.
    fn reached_rollback<'w, P>(
        &self,
        scope: &Scope<'w, P>,
        response: &ResponseSummary,
    ) -> Option<&'w Rollback> {
        let release = scope.policy.releases.get(self.release)?;
        let own = release.versions.get(self.version).map(|version| version.cluster.as_bytes());
        // If the route's cluster does not exist, the version that led to the route is at fault.
        let reached = own == response.cluster.as_deref() || response::had_no_cluster(&response.details);
        release.rollback.as_ref().filter(|_| reached)
    }
}

impl Wait {
    /// Starts the clock at `since`, and has the next tick look at the request.
    fn start(&mut self, since: Time) {
        self.since = Some(since);
        self.due = Some(since);
        self.is_deferred = false;
    }

    /// Has a later tick look again, because another filter has the request. Each look costs host calls, so the pause grows
    /// with the time that the filter takes, up to `longest`.
    fn defer(&mut self, now: Time, longest: Duration) {
        let since = *self.since.get_or_insert(now);
        self.due = Some(now + (now.since(since) / 2).min(longest));
        self.is_deferred = true;
    }

    /// Returns the time since which the router has had the request. If another filter had it at the last look, that is
    /// now, so that no time of the other filter counts.
    fn begin(&mut self, now: Time) -> Time {
        if core::mem::take(&mut self.is_deferred) {
            self.since = Some(now);
        }
        *self.since.get_or_insert(now)
    }

    /// Returns whether a look at the request is due.
    pub fn is_due(&self, now: Time) -> bool {
        self.due.is_some_and(|due| due <= now)
    }

    /// Returns whether another filter had the request at the last look.
    pub fn is_deferred(&self) -> bool {
        self.is_deferred
    }
}

/// Returns the evidence of a request that has waited for `waited` without a response, if that is too long.
fn unanswered(breaker: &Breaker, waited: Duration) -> Option<Sample> {
    if waited < breaker.unanswered_after? {
        return None;
    }
    Some(Sample {
        slow: breaker.is_slow(waited),
        has_waited: true,
        ..breaker.classifier().unanswered().into()
    })
}
