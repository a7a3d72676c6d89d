//! One request.

use std::borrow::Cow;
use std::rc::Rc;

use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::{Action, MapType};

use super::abi;
use super::attribute::{attribute, status};
use super::fetch::{self, Fate, Fetch, Probing};
use super::health::Exchange;
use super::worker::{self, Worker};
use crate::action::{self, Change, Edit};
use crate::engine::Assignment;
use crate::policy::release::rollback::Rollback;
use crate::policy::upstream::UpstreamId;
use crate::policy::{Mode, Policy};
use crate::probe;
use crate::readiness::{Outcome, Permit};
use crate::replay;
use crate::reply::{Cause, Reply};
use crate::request::Request;
use crate::response::{self, Verdict};
use crate::time::Time;

/// The context of one request.
pub struct Stream {
    worker: Rc<Worker>,
    role: Role,
    /// The worker's epoch when the request was decided on.
    epoch: u64,
    /// Permits it holds. Each goes back once, whatever the stream comes to.
    permits: Vec<(UpstreamId, Permit)>,
    /// What is done to the response.
    edits: Vec<Edit<'static>>,
    /// The versions it got that a rollback may follow for: release and version, by their places.
    judged: Vec<(usize, usize)>,
    /// When it went on, where that is asked for.
    sent: Option<Time>,
}

/// What the request is.
enum Role {
    /// A user's request, on its way to an upstream. Its response alone is evidence.
    Traffic,
    /// Answered by the filter.
    Answered,
    /// A probe that went on to the app.
    Fetch(Fetch),
    /// A gRPC health check that is to be answered.
    Health(Exchange),
}

impl Stream {
    /// A request of the worker's.
    pub fn new(worker: Rc<Worker>) -> Self {
        Self {
            worker,
            role: Role::Traffic,
            epoch: 0,
            permits: Vec::new(),
            edits: Vec::new(),
            judged: Vec::new(),
            sent: None,
        }
    }

    /// Answers the request.
    fn reply(&mut self, mut reply: Reply) -> Action {
        let worker = Rc::clone(&self.worker);
        self.give_back();
        self.role = Role::Answered;
        worker.counters.replied(&worker.policy, reply.cause);
        if worker.policy.probes.marker_headers && matches!(reply.cause, Cause::Probe { .. }) {
            reply.headers.push((probe::SERVICE.to_owned(), worker.service.clone()));
        }
        if !abi::send_local_response(&reply) {
            log::error!("policy {}: the proxy took no reply: {}", worker.policy.name, reply.details);
            return Action::Continue;
        }
        Action::Pause
    }

    /// Answers a probe with what the app last said, or lets it through to the app.
    fn pass_through(&mut self, probing: &Probing<'_>) -> Action {
        let worker = Rc::clone(&self.worker);
        let Probing { endpoint, rule, .. } = *probing;
        match fetch::look_up(&worker, probing) {
            Fate::Replay(answer) => {
                self.reply(replay::reply(&worker.policy, endpoint, rule, answer, worker::now()))
            }
            Fate::Fetch(fetch) => {
                fetch::write_request(&worker.policy, probing);
                self.role = Role::Fetch(fetch);
                Action::Continue
            }
            Fate::Unknown => self.reply(replay::unknown(&worker.policy, endpoint)),
            Fate::Silence => self.reply(replay::silence(&worker.policy, endpoint)),
        }
    }

    /// Counts the versions that the request got, and notes those that its response is to be counted for.
    fn assigned(&mut self, worker: &Worker, assignments: &[Assignment<'_>]) {
        for assignment in assignments {
            worker.counters.assigned(&worker.policy, assignment);
            let release = worker.policy.releases.get(assignment.release);
            if let Some(rollback) = release.and_then(|release| release.rollback.as_ref()) {
                self.judged.push((assignment.release, assignment.version));
                if rollback.latency.is_some() {
                    self.sent = self.sent.or_else(|| Some(worker::now()));
                }
            }
        }
    }

    /// Counts what would be done, makes it the request's label, and does nothing of it.
    fn shadow(&mut self, worker: &Worker, action: &action::Action<'_>, assignments: &[Assignment<'_>]) {
        let policy = &worker.policy;
        let label = match action {
            action::Action::Forward(_) => {
                self.assigned(worker, assignments);
                explanation(policy, assignments)
            }
            action::Action::Reply(reply) | action::Action::Drain { reply, .. } => {
                if matches!(reply.cause, Cause::Probe { .. }) {
                    self.role = Role::Answered;
                }
                worker.counters.replied(policy, reply.cause);
                reply.details.clone()
            }
            action::Action::PassThrough { .. } | action::Action::GrpcCheck { .. } => {
                self.role = Role::Answered;
                return;
            }
        };
        if !label.is_empty() {
            let _ = hostcalls::set_property(vec!["graygate"], Some(label.as_bytes()));
        }
    }

    /// Counts the response for each version that the request got, if it is that version's.
    fn judge(&mut self, cluster: &Option<Vec<u8>>, classify: impl Fn(&Rollback) -> Verdict) {
        let judged = core::mem::take(&mut self.judged);
        let policy = &self.worker.policy;
        for (place, version) in judged {
            let Some(release) = policy.releases.get(place) else {
                continue;
            };
            let own = release.versions.get(version).map(|version| version.cluster.as_bytes());
            let Some(rollback) = release.rollback.as_ref().filter(|_| own == cluster.as_deref()) else {
                continue;
            };
            let failed = match classify(rollback) {
                Verdict::Ignored => continue,
                verdict => verdict == Verdict::Failure,
            };
            let slow = self.is_slow(rollback);
            self.worker.releases.note(place, version, |tally| {
                tally.responses += 1;
                tally.failures += u64::from(failed);
                tally.slow += u64::from(slow);
            });
            let result = match (failed, slow) {
                (true, _) => "failure",
                (false, true) => "slow",
                (false, false) => "success",
            };
            self.worker.counters.responded(policy, place, version, result);
        }
    }

    fn is_slow(&self, rollback: &Rollback) -> bool {
        let waited = rollback.latency.zip(self.sent);
        waited.is_some_and(|(latency, sent)| worker::now().since(sent) > latency.above)
    }

    /// Starts the time that a response takes once all of the request is there: how long the client takes is its
    /// own affair.
    fn all_sent(&mut self) {
        if self.sent.is_some() {
            self.sent = Some(worker::now());
        }
    }

    /// Gives back all permits, for upstreams that the request did not go to.
    fn give_back(&mut self) {
        for (upstream, permit) in core::mem::take(&mut self.permits) {
            self.worker.settle(upstream, permit, Outcome::Unused);
        }
    }
}

impl Context for Stream {}

impl HttpContext for Stream {
    fn on_http_request_headers(&mut self, _: usize, end_of_stream: bool) -> Action {
        let worker = Rc::clone(&self.worker);
        let Some(decision) = worker.decide(&ProxyRequest, end_of_stream) else {
            return Action::Continue;
        };
        self.epoch = worker.epoch();
        // Kept before anything else is done, so that each goes back whatever becomes of the stream.
        self.permits = decision.permits;
        if worker.policy.mode == Mode::Shadow {
            self.shadow(&worker, &decision.action, &decision.assignments);
            return Action::Continue;
        }
        match decision.action {
            action::Action::Forward(passage) => {
                write(MapType::HttpRequestHeaders, &passage.request);
                for (object, value) in &passage.filter_state {
                    abi::set_filter_state(object, value);
                }
                self.edits = passage.response.into_iter().map(Edit::into_owned).collect();
                self.assigned(&worker, &decision.assignments);
                Action::Continue
            }
            action::Action::Reply(reply) => self.reply(reply),
            action::Action::Drain { draining, reply } => match worker.drain(draining) {
                true => self.reply(reply),
                false => self.reply(probe::drain::failed(&worker.policy)),
            },
            action::Action::PassThrough { endpoint, probe, rule, head } => {
                self.pass_through(&Probing { endpoint, probe, rule, head, whole: end_of_stream })
            }
            action::Action::GrpcCheck { mut call, edits } => {
                call.receive(b"", end_of_stream);
                write(MapType::HttpRequestHeaders, &edits);
                self.role = Role::Health(Exchange::new(call));
                Action::Continue
            }
        }
    }

    fn on_http_request_body(&mut self, size: usize, end_of_stream: bool) -> Action {
        if let Role::Health(exchange) = &mut self.role {
            exchange.on_request_body(size, end_of_stream);
        }
        if end_of_stream {
            self.all_sent();
        }
        Action::Continue
    }

    fn on_http_request_trailers(&mut self, _: usize) -> Action {
        if let Role::Health(exchange) = &mut self.role {
            exchange.on_request_body(0, true);
        }
        self.all_sent();
        Action::Continue
    }

    fn on_http_response_headers(&mut self, _: usize, end_of_stream: bool) -> Action {
        let worker = Rc::clone(&self.worker);
        let policy = &worker.policy;
        match &mut self.role {
            Role::Fetch(fetch) => fetch.on_headers(&self.worker, end_of_stream),
            Role::Health(exchange) => exchange.on_response_headers(&self.worker, end_of_stream),
            Role::Answered | Role::Traffic => {}
        }
        if !matches!(self.role, Role::Traffic) {
            return Action::Continue;
        }
        write(MapType::HttpResponseHeaders, &self.edits);
        if !policy.observes_responses() {
            return Action::Continue;
        }
        let cluster = reached();
        let reached = |id: UpstreamId| is_of(policy, id, &cluster);
        let watched = policy.upstream_ids().filter(|(id, _)| reached(*id));
        let watched = watched.filter_map(|(id, upstream)| Some((id, upstream.breaker.as_ref()?)));
        let watched: Vec<_> = watched.collect();
        if !watched.is_empty() || !self.judged.is_empty() {
            let details = attribute(&["response", "code_details"]).unwrap_or_default();
            let status = status(MapType::HttpResponseHeaders);
            self.judge(&cluster, |rollback| response::classify(status, &details, &rollback.fail_on));
            let permits = core::mem::take(&mut self.permits);
            for (id, breaker) in watched {
                let verdict = response::classify(status, &details, &breaker.fail_on);
                match permits.iter().find(|(held, _)| *held == id) {
                    Some((_, permit)) => self.worker.settle(id, *permit, Outcome::Seen(verdict)),
                    None => self.worker.observe(id, verdict, self.epoch),
                }
            }
            self.permits = permits.into_iter().filter(|(id, _)| !reached(*id)).collect();
        }
        self.give_back();
        Action::Continue
    }

    fn on_http_response_body(&mut self, size: usize, end_of_stream: bool) -> Action {
        match &mut self.role {
            Role::Fetch(fetch) => fetch.on_body(&self.worker, size, end_of_stream),
            Role::Health(exchange) => exchange.on_response_body(size, end_of_stream),
            Role::Answered | Role::Traffic => {}
        }
        Action::Continue
    }

    fn on_http_response_trailers(&mut self, _: usize) -> Action {
        match &mut self.role {
            Role::Fetch(fetch) => fetch.complete(&self.worker),
            Role::Health(exchange) => exchange.on_response_trailers(),
            Role::Answered | Role::Traffic => {}
        }
        Action::Continue
    }

    fn on_log(&mut self) {
        if let Role::Fetch(fetch) = &mut self.role {
            fetch.give_up(&self.worker);
        }
        if self.permits.is_empty() && self.judged.is_empty() {
            return;
        }
        // No response came by: the client has left, or the proxy has followed a redirect, which the upstream
        // that was reached has answered with.
        let details = attribute(&["response", "code_details"]);
        let redirected = details.is_some_and(|details| details == b"internal_redirect");
        let cluster = reached();
        // Who has waited for longer than is allowed before leaving has seen a slow response, if no failed one.
        let slow = |rollback: &Rollback| self.is_slow(rollback);
        let waited = self.judged.iter().any(|(place, _)| {
            let release = self.worker.policy.releases.get(*place);
            release.and_then(|release| release.rollback.as_ref()).is_some_and(slow)
        });
        if waited && !redirected {
            self.judge(&cluster, |_| Verdict::Success);
        }
        for (id, permit) in core::mem::take(&mut self.permits) {
            let answered = redirected && is_of(&self.worker.policy, id, &cluster);
            let outcome = if answered { Outcome::Seen(Verdict::Success) } else { Outcome::Unused };
            self.worker.settle(id, permit, outcome);
        }
    }
}

/// Edits the headers of the message that is at hand. A change of a request's makes the proxy pick the route anew,
/// so no call asks for it.
fn write(map: MapType, edits: &[Edit<'_>]) {
    for Edit { header, change } in edits {
        // Can't fail while the message's headers are at hand, as they are in their callback.
        let _ = match change {
            Change::Set(value) => hostcalls::set_map_value(map, header, Some(value)),
            Change::Add(value) => hostcalls::add_map_value(map, header, value),
            Change::Remove => hostcalls::set_map_value(map, header, None),
        };
    }
}

/// The versions that a request got, and why, in words: `reviews=v2 sticky`.
fn explanation(policy: &Policy, assignments: &[Assignment<'_>]) -> String {
    let words = assignments.iter().filter_map(|assignment| {
        let release = policy.releases.get(assignment.release)?;
        let version = release.versions.get(assignment.version)?;
        Some(format!("{}={} {}", release.name, version.name, assignment.reason.code()))
    });
    words.collect::<Vec<_>>().join(", ")
}

/// The cluster that the request went to. Not the one that was decided on: the route table has the last word.
fn reached() -> Option<Vec<u8>> {
    attribute(&["xds", "cluster_name"])
}

fn is_of(policy: &Policy, id: UpstreamId, cluster: &Option<Vec<u8>>) -> bool {
    policy.upstream(id).is_some_and(|upstream| Some(upstream.cluster.as_bytes()) == cluster.as_deref())
}

/// The request's headers, each a host call away. To be used in the request's own callback alone.
struct ProxyRequest;

impl Request for ProxyRequest {
    fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        hostcalls::get_map_value_bytes(MapType::HttpRequestHeaders, name).ok()?.map(Cow::Owned)
    }

    fn source(&self) -> Option<Cow<'_, [u8]>> {
        attribute(&["source", "address"]).map(Cow::Owned)
    }
}
