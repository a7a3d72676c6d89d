//! What becomes of a user's request, as evidence on the upstream and the versions that it went to.
//!
//! The rules: a response counts once. A failure counts when its headers are there, and so does a slow response to a
//! request on trial; anything else when the response has ended, as one that breaks off is a failure. One that the
//! route's timeout cuts says nothing. What is a failure of a gRPC service is known when its status is, where the policy
//! asks for that. A client that leaves in the middle of a response has seen it begin well. Of one that leaves before,
//! how long it has waited since all of its request was there is all that is known: a breaker takes it for a slow answer
//! after `slowerThan`, a rollback likewise; sooner it says nothing. After `unansweredAfter` a breaker takes it for no
//! answer, and does not wait for the client to leave. What the proxy itself answered says nothing; see
//! [`crate::value::response`]. Nor does a request that a breaker does not record: on trial it may pass, not fail.

use std::time::Duration;

use proxy_wasm::hostcalls;
use proxy_wasm::types::MapType;

use super::abi;
use super::attribute::{attribute, grpc_status, is_grpc, number, status};
use super::stream::FEW;
use super::waiting::Wait;
use super::worker::{self, Worker};
use crate::decision::Assignment;
use crate::policy::Policy;
use crate::policy::release::rollback::Rollback;
use crate::policy::upstream::{Breaker, UpstreamId};
use crate::readiness::{LeaseId, TrialOutcome};
use crate::value::request::HeaderMap;
use crate::value::response::{self, Classifier, ResponseClass, Sample, retry_after};
use crate::value::time::Time;

/// One request's evidence, from the decision to the end of the stream.
#[derive(Default)]
pub struct Evidence {
    /// The id of the stream's context.
    stream: u32,
    /// The worker's epoch when the request was decided on.
    epoch: u64,
    /// Permits it holds. Each goes back once, whatever the stream comes to.
    permits: Vec<(UpstreamId, LeaseId)>,
    /// Upstreams against which it is no evidence.
    ignored: Vec<UpstreamId>,
    /// Whether all of the request is there.
    asked: bool,
    /// Whether it is among those that wait.
    waits: bool,
    /// The versions it got that a rollback may follow for: release and version, by their places.
    versions: Vec<(usize, usize)>,
    /// When all of it had gone on, where that is asked for.
    sent: Option<Time>,
    /// Upstreams for which it has counted already: by a permit, or as it waited too long.
    tried: Vec<UpstreamId>,
    stage: Stage,
}

/// How far the response has come.
#[derive(Default)]
enum Stage {
    /// Nothing has come.
    #[default]
    Waiting,
    /// Its headers are there, and they say of no upstream that it failed: where it came from has not been asked.
    Well(Answer),
    /// Its headers are there, its gRPC status is not.
    Unsettled(Answer),
    /// What is a failure of it has been counted; it may still break off.
    Begun(Answer),
    /// There is nothing more to learn.
    Done,
}

/// A response, as far as it is judged.
#[derive(Default)]
struct Answer {
    status: Option<u16>,
    details: Vec<u8>,
    grpc_status: Option<u32>,
    cluster: Option<Vec<u8>>,
    /// How long its headers took, where that is asked for.
    took: Option<Duration>,
    /// How it broke off, if it did.
    broken: Option<Vec<u8>>,
}

impl Answer {
    /// What it says by its beginning, and by its gRPC status.
    fn classify(&self, words: Classifier<'_>) -> ResponseClass {
        words.classify(self.status, &self.details, self.grpc_status)
    }

    /// What it says by its end, where its beginning was no failure.
    fn ending(&self, words: Classifier<'_>) -> ResponseClass {
        match &self.broken {
            Some(details) => words.classify(self.status, details, self.grpc_status),
            None => self.classify(words),
        }
    }

    /// The verdict, or that it was slow.
    fn or_slow(&self, breaker: &Breaker, class: ResponseClass) -> ResponseClass {
        let slow = breaker.slower_than().zip(self.took).is_some_and(|(than, took)| took > than);
        if slow && class == ResponseClass::Success { ResponseClass::Slow } else { class }
    }

    fn is_of(&self, policy: &Policy, id: UpstreamId) -> bool {
        is_of(policy, id, self.cluster.as_deref())
    }
}

/// The upstreams that the response is of, as far as they are judged by responses.
fn judging<'p>(policy: &'p Policy, answer: &Answer) -> impl Iterator<Item = (UpstreamId, &'p Breaker)> {
    let reached = policy.upstream_ids().filter(|(id, _)| answer.is_of(policy, *id));
    reached.filter_map(|(id, upstream)| Some((id, upstream.breaker.as_ref()?)))
}

impl Evidence {
    /// Nothing known yet of the stream with this context.
    pub fn new(stream: u32) -> Self {
        Evidence { stream, ..Self::default() }
    }

    /// Whether anything may still come of it.
    pub fn is_needed(&self, worker: &Worker) -> bool {
        worker.asks.responses || !self.permits.is_empty() || !self.versions.is_empty()
    }

    /// Keeps the permits of a request that is decided on now, and for which upstreams it is no evidence. `asked`
    /// says whether all of it is there.
    pub fn hold(
        &mut self,
        worker: &Worker,
        permits: Vec<(UpstreamId, LeaseId)>,
        ignored: Vec<UpstreamId>,
        asked: bool,
    ) {
        self.epoch = worker.epoch();
        (self.permits, self.ignored, self.asked) = (permits, ignored, asked);
    }

    /// Notes that the request goes on, with these versions.
    pub fn forwarded(&mut self, worker: &Worker, assignments: &[Assignment<'_>]) {
        for assignment in assignments {
            worker.counters.assigned(assignment);
            if worker.judges_version(assignment) {
                self.versions.push((assignment.release, assignment.version));
            }
        }
        self.sent = worker.asks.time.then(worker::now);
        self.wait(worker);
    }

    /// From now on it waits for an answer, as all of it has gone on.
    fn wait(&mut self, worker: &Worker) {
        self.waits = self.asked && (worker.asks.waits || !self.permits.is_empty());
        if self.waits {
            let since = self.sent.unwrap_or_else(worker::now);
            worker.waiting.begin(self.stream, Wait::new(since, self.epoch, &self.ignored, &self.permits));
        }
    }

    /// It waits no more.
    fn stop_waiting(&mut self, worker: &Worker) {
        if core::mem::take(&mut self.waits) {
            self.tried.extend(worker.waiting.end(self.stream));
        }
    }

    /// Starts the time that a response takes once all of the request is there: how long the client takes is its
    /// own affair.
    pub fn all_sent(&mut self, worker: &Worker) {
        if core::mem::replace(&mut self.asked, true) || !matches!(self.stage, Stage::Waiting) {
            return;
        }
        if self.sent.is_some() {
            self.sent = Some(worker::now());
        }
        self.wait(worker);
    }

    /// Takes the response's headers, of which there are so many.
    pub fn on_headers(&mut self, worker: &Worker, headers: usize, end: bool) {
        self.stop_waiting(worker);
        let map = MapType::HttpResponseHeaders;
        let took = self.sent.map(|sent| worker::now().since(sent));
        // Most say nothing that is not known already, and each further question costs as much as all else does.
        let plain = self.permits.is_empty() && self.versions.is_empty();
        if plain
            && worker.takes_no_news()
            && headers <= FEW
            && let Some(status) = answered(map)
            && worker.is_no_news(status, took)
        {
            self.stage = match end {
                true => Stage::Done,
                false => Stage::Well(Answer {
                    status: Some(status),
                    details: response::VIA_UPSTREAM.to_vec(),
                    took,
                    ..Answer::default()
                }),
            };
            return;
        }
        let status = status(map);
        let cluster = reached();
        let policy = &worker.policy;
        let judged = |id| is_of(policy, id, cluster.as_deref());
        let mut upstreams = policy.upstream_ids().filter(|(_, upstream)| upstream.breaker.is_some());
        if self.versions.is_empty() && !upstreams.any(|(id, _)| judged(id)) {
            self.stage = Stage::Done;
            self.give_back(worker);
            return;
        }
        let answer = Answer {
            status,
            details: attribute(&["response", "code_details"]).unwrap_or_default(),
            grpc_status: if worker.asks.grpc_status { grpc_status(map) } else { None },
            cluster,
            took,
            broken: None,
        };
        let status_follows = worker.asks.grpc_status && answer.grpc_status.is_none() && !end && is_grpc();
        if status_follows {
            for (id, permit) in self.permits.iter().filter(|(id, _)| answer.is_of(policy, *id)) {
                worker.begun(*id, *permit);
            }
            self.stage = Stage::Unsettled(answer);
            return;
        }
        self.settle(worker, &answer, Some(map), end);
        self.stage = Stage::Begun(answer);
        if end {
            self.finish(worker, None);
        }
    }

    /// Takes the end of the response's body, where no trailers follow.
    pub fn on_body_end(&mut self, worker: &Worker) {
        self.finish(worker, None);
    }

    /// Takes the response's trailers.
    pub fn on_trailers(&mut self, worker: &Worker) {
        if let Stage::Unsettled(answer) = &mut self.stage {
            answer.grpc_status = grpc_status(MapType::HttpResponseTrailers);
        }
        self.finish(worker, Some(MapType::HttpResponseTrailers));
    }

    /// Takes the end of the stream.
    pub fn on_end(&mut self, worker: &Worker) {
        self.stop_waiting(worker);
        match &mut self.stage {
            Stage::Waiting => self.unanswered(worker),
            Stage::Well(answer) | Stage::Unsettled(answer) | Stage::Begun(answer) => {
                let details = attribute(&["response", "code_details"]).unwrap_or_default();
                let (broken, cut) = (response::broke_off(&details), response::was_cut(&details));
                if broken {
                    answer.broken = Some(details);
                }
                // With no status, a gRPC response that was left says nothing; nor does one that was cut, whoever was
                // the slow one.
                let told = !matches!(self.stage, Stage::Unsettled(_)) && !cut;
                if broken || told {
                    self.finish(worker, None);
                }
            }
            Stage::Done => {}
        }
        self.stage = Stage::Done;
        self.give_back(worker);
    }

    /// Counts what is left to count of a response that has ended, in the callback for this part of it.
    fn finish(&mut self, worker: &Worker, at_hand: Option<MapType>) {
        match core::mem::replace(&mut self.stage, Stage::Done) {
            Stage::Unsettled(mut answer) => {
                // How it ended is all there is to go by.
                if let Some(details) = answer.broken.take() {
                    answer.details = details;
                }
                self.settle(worker, &answer, at_hand, true);
                self.count_rest(worker, &answer);
            }
            Stage::Begun(answer) => self.count_rest(worker, &answer),
            // It has broken off, or has become news by now: a failure came in between, say.
            Stage::Well(mut answer) if answer.broken.is_some() || !worker.is_calm() => {
                answer.cluster = reached();
                self.count_rest(worker, &answer);
            }
            Stage::Well(_) => {}
            Stage::Waiting | Stage::Done => {}
        }
    }

    /// Gives back all permits, for upstreams that the request did not go to.
    pub fn give_back(&mut self, worker: &Worker) {
        for (upstream, permit) in core::mem::take(&mut self.permits) {
            worker.settle(upstream, permit, TrialOutcome::Unused);
        }
    }

    /// No response came by: the client has left, or the proxy has followed a redirect, which the upstream that
    /// was reached has answered with.
    fn unanswered(&mut self, worker: &Worker) {
        if self.permits.is_empty() && self.sent.is_none() {
            return;
        }
        let details = attribute(&["response", "code_details"]);
        let redirected = details.is_some_and(|details| details == b"internal_redirect");
        let cluster = reached();
        if redirected {
            for (id, permit) in core::mem::take(&mut self.permits) {
                let answered = is_of(&worker.policy, id, cluster.as_deref());
                let outcome = if answered {
                    TrialOutcome::Seen(ResponseClass::Success.into())
                } else {
                    TrialOutcome::Unused
                };
                worker.settle(id, permit, outcome);
            }
            return;
        }
        if !is_with_router() {
            return;
        }
        let (reached, others) = core::mem::take(&mut self.permits)
            .into_iter()
            .partition(|(id, _)| is_of(&worker.policy, *id, cluster.as_deref()));
        self.permits = others;
        for (id, permit) in &reached {
            worker.settle(*id, *permit, TrialOutcome::Left);
        }
        let Some(waited) = self.sent.filter(|_| self.asked).map(|sent| worker::now().since(sent)) else {
            return;
        };
        let left = Answer { cluster, took: Some(waited), ..Answer::default() };
        for (id, breaker) in judging(&worker.policy, &left) {
            let class = unanswered(breaker, waited).unwrap_or_else(|| {
                let slow = breaker.slower_than().is_some_and(|than| waited > than);
                if slow { ResponseClass::Slow } else { ResponseClass::Ignored }
            });
            let told = reached.iter().any(|(held, _)| *held == id) || self.tried.contains(&id);
            if !told && !self.ignored.contains(&id) {
                worker.observe(id, class.into(), self.epoch);
            }
        }
        self.count_versions(worker, &left, |rollback| {
            let slow = rollback.latency.is_some_and(|latency| waited > latency.above);
            slow.then_some(ResponseClass::Success)
        });
    }

    /// Counts the response where it is a failure, and gives back the permits that it is the end of.
    fn settle(&mut self, worker: &Worker, answer: &Answer, at_hand: Option<MapType>, end: bool) {
        let policy = &worker.policy;
        self.count_versions(worker, answer, |rollback| {
            Some(answer.classify(rollback.classifier())).filter(|class| class.is_failure())
        });
        let mut held = Vec::new();
        let permits = core::mem::take(&mut self.permits);
        for (id, breaker) in judging(policy, answer) {
            let class =
                self.unless_ignored(id, answer.or_slow(breaker, answer.classify(breaker.classifier())));
            // Only an answer of the upstream's own can ask for anything.
            let asks = class == ResponseClass::Failure && !breaker.max_retry_after.is_zero();
            let retry_at = at_hand.filter(|_| asks).and_then(|map| retry_at(map, worker::now()));
            let sample = Sample { class, retry_at };
            match permits.iter().find(|(held, _)| *held == id) {
                Some((_, permit)) if class == ResponseClass::Success => {
                    if !end {
                        worker.begun(id, *permit);
                    }
                    held.push((id, *permit));
                }
                Some((_, permit)) => {
                    worker.settle(id, *permit, TrialOutcome::Seen(sample));
                    self.tried.push(id);
                }
                None if class.is_failure() && !self.tried.contains(&id) => {
                    worker.observe(id, sample, self.epoch);
                }
                None => {}
            }
        }
        self.permits = permits.into_iter().filter(|(id, _)| !answer.is_of(policy, *id)).collect();
        self.give_back(worker);
        self.permits = held;
    }

    /// The verdict, where the request is evidence. One that is none may still speak in favour.
    fn unless_ignored(&self, id: UpstreamId, class: ResponseClass) -> ResponseClass {
        let ignored = class != ResponseClass::Success && self.ignored.contains(&id);
        if ignored { ResponseClass::Ignored } else { class }
    }

    /// Counts the response where its beginning was no failure, and gives back the permits that are still held.
    fn count_rest(&mut self, worker: &Worker, answer: &Answer) {
        self.count_versions(worker, answer, |rollback| {
            let begun = answer.classify(rollback.classifier());
            (!begun.is_failure()).then(|| answer.ending(rollback.classifier()))
        });
        let permits = core::mem::take(&mut self.permits);
        for (id, breaker) in judging(&worker.policy, answer) {
            let class = answer.or_slow(breaker, answer.ending(breaker.classifier()));
            if let Some((_, permit)) = permits.iter().find(|(held, _)| *held == id) {
                worker.settle(id, *permit, TrialOutcome::Seen(self.unless_ignored(id, class).into()));
                continue;
            }
            let counted = answer.classify(breaker.classifier()).is_failure() || self.ignored.contains(&id);
            if !counted && !self.tried.contains(&id) {
                worker.observe(id, class.into(), self.epoch);
            }
        }
    }

    fn count_versions(
        &self,
        worker: &Worker,
        answer: &Answer,
        classify: impl Fn(&Rollback) -> Option<ResponseClass>,
    ) {
        let policy = &worker.policy;
        for (place, version) in &self.versions {
            let Some(release) = policy.releases.get(*place) else {
                continue;
            };
            let own = release.versions.get(*version).map(|version| version.cluster.as_bytes());
            // Where the route leads to no cluster that is there, the version is what led to it.
            let reached = own == answer.cluster.as_deref() || response::had_no_cluster(&answer.details);
            let Some(rollback) = release.rollback.as_ref().filter(|_| reached) else {
                continue;
            };
            let failed = match classify(rollback) {
                None | Some(ResponseClass::Ignored) => continue,
                Some(class) => class.is_failure(),
            };
            let slow = rollback.latency.zip(answer.took).is_some_and(|(latency, took)| took > latency.above);
            worker.releases.note(*place, *version, |tally| {
                tally.responses += 1;
                tally.failures += u64::from(failed);
                tally.slow += u64::from(slow);
            });
            let result = match (failed, slow) {
                (true, _) => "failure",
                (false, true) => "slow",
                (false, false) => "success",
            };
            worker.counters.responded(policy, *place, *version, result);
        }
    }
}

/// Looks at the requests of this VM that wait for an answer: permits are for those that go to their upstream, and
/// whoever has waited for too long counts. `root` is the id of the root's context.
pub fn look_at_waiting(worker: &Worker, root: u32, now: Time) {
    let late = worker.waiting.late(now);
    for (stream, wait) in &late {
        // Each is asked where it went to. One that is gone by now has ended its wait itself.
        if hostcalls::set_effective_context(*stream).is_err() {
            continue;
        }
        if !is_with_router() {
            worker.waiting.is_held_up(*stream, now);
            continue;
        }
        let answer = Answer { cluster: reached(), ..Answer::default() };
        for (id, permit) in &wait.permits {
            match answer.is_of(&worker.policy, *id) {
                true if wait.settled.contains(id) => {}
                true => worker.sent(*id, *permit, wait.since),
                false => worker.settle(*id, *permit, TrialOutcome::Unused),
            }
        }
        let (mut counted, mut next) = (Vec::new(), None);
        let judging = judging(&worker.policy, &answer).filter(|(id, _)| !wait.settled.contains(id));
        for (id, breaker) in judging {
            match unanswered(breaker, now.since(wait.since)) {
                Some(class) => {
                    worker.observe(id, class.into(), wait.epoch);
                    counted.push(id);
                }
                None => next = next.into_iter().chain(breaker.unanswered_after).min(),
            }
        }
        worker.waiting.looked_at(*stream, &counted, next);
    }
    if !late.is_empty() {
        // Can't fail: it is the context that has been called.
        let _ = hostcalls::set_effective_context(root);
    }
}

/// Whether the router has the request at hand. Another filter may hold it up, which is not its upstream's doing.
fn is_with_router() -> bool {
    let attempts = attribute(&["upstream", "request_attempt_count"]);
    attempts.is_some_and(|count| count.iter().any(|byte| *byte != 0))
}

/// What a breaker takes a request for that has waited for so long with no answer, if it is too long.
fn unanswered(breaker: &Breaker, waited: Duration) -> Option<ResponseClass> {
    let vain = breaker.unanswered_after.is_some_and(|most| waited >= most);
    vain.then(|| breaker.classifier().unanswered())
}

/// The cluster that the request went to. Not the one that was decided on: the route table has the last word.
fn reached() -> Option<Vec<u8>> {
    attribute(&["xds", "cluster_name"])
}

/// The status of the response at hand, if an upstream has sent it. The router adds a header that tells to each such
/// response and to none of its own; only where it is told not to is there something more to ask.
fn answered(map: MapType) -> Option<u16> {
    let headers = abi::headers(map)?;
    let headers = HeaderMap(&headers);
    let sent = headers.get("x-envoy-upstream-service-time").is_some()
        || attribute(&["response", "code_details"]).is_some_and(|details| details == response::VIA_UPSTREAM);
    number(headers.get(":status").filter(|_| sent)?)
}

/// Until when the failing response at hand asks to be left alone.
fn retry_at(map: MapType, now: Time) -> Option<Time> {
    let value = |name| hostcalls::get_map_value_bytes(map, name).ok()?;
    let http = || retry_after::of_http(&value("retry-after")?, now);
    let grpc = || retry_after::of_grpc(&value("grpc-retry-pushback-ms")?, now);
    http().or_else(grpc)
}

fn is_of(policy: &Policy, id: UpstreamId, cluster: Option<&[u8]>) -> bool {
    policy.upstream(id).is_some_and(|upstream| Some(upstream.cluster.as_bytes()) == cluster)
}
