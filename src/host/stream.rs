//! One request.

use core::cell::OnceCell;
use core::mem::take;
use std::borrow::Cow;
use std::rc::Rc;

use proxy_wasm::hostcalls;
use proxy_wasm::types::{Action, MapType};

use super::abi;
use super::attribute::attribute;
use super::evidence::Evidence;
use super::fetch::{self, Fate, Fetch, Probing};
use super::health::Exchange;
use super::worker::{self, Worker};
use crate::decision::Decision;
use crate::decision::action::{self, ForwardEdits, HeaderChange, HeaderEdit};
use crate::decision::probe;
use crate::decision::probe::cache;
use crate::decision::reply::{Reply, ReplyCause};
use crate::policy::{Mode, Policy};
use crate::readiness::Permit;
use crate::value::request::{HeaderMap, Request};

/// One request, as long as there is anything left to do for it.
pub struct Stream {
    worker: Rc<Worker>,
    role: Role,
    /// What is done to the response.
    edits: Vec<HeaderEdit<'static>>,
    evidence: Evidence,
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
    /// Decides on a request in the callback of its headers, of which there are so many. What the proxy does with it now,
    /// and the stream, if a later callback has anything to do. `id` is that of its context.
    pub fn begin(
        worker: &Rc<Worker>,
        id: u32,
        headers: usize,
        end_of_stream: bool,
    ) -> (Action, Option<Self>) {
        #[cfg(feature = "faults")]
        super::fault::on_request();
        if worker.policy.mode == Mode::Off {
            return (Action::Continue, None);
        }
        let Some(decision) = worker.decide(&ProxyRequest::new(headers)) else {
            return (Action::Continue, None);
        };
        if worker.policy.mode == Mode::Enforce
            && let Some(action) = settle_at_once(worker, &decision)
        {
            return (action, None);
        }
        let evidence = Evidence::new(id);
        let mut stream = Self { worker: Rc::clone(worker), role: Role::Traffic, edits: Vec::new(), evidence };
        let action = stream.carry_out(worker, decision, end_of_stream);
        let needed = match stream.role {
            Role::Traffic => !stream.edits.is_empty() || stream.evidence.is_needed(worker),
            Role::Answered => false,
            Role::Fetch(_) | Role::Health(_) => true,
        };
        (action, needed.then_some(stream))
    }

    /// Answers the request.
    fn reply(&mut self, mut reply: Reply) -> Action {
        self.evidence.give_back(&self.worker);
        self.role = Role::Answered;
        let worker = &self.worker;
        if worker.policy.probes.marker_headers && matches!(reply.cause, ReplyCause::Probe { .. }) {
            reply.headers.push((probe::SERVICE.into(), worker.service.clone().into()));
        }
        send(worker, &reply)
    }

    /// Answers a probe with what the app last said, or lets it through to the app.
    fn pass_through(&mut self, probing: &Probing<'_>) -> Action {
        let worker = Rc::clone(&self.worker);
        let Probing { endpoint, rule, .. } = *probing;
        match fetch::look_up(&worker, probing) {
            Fate::Replay(answer) => {
                self.reply(cache::reply(&worker.policy, endpoint, rule, answer, worker::now()))
            }
            Fate::Fetch(fetch) => {
                fetch::write_request(&worker.policy, probing);
                self.role = Role::Fetch(fetch);
                Action::Continue
            }
            Fate::Unknown => self.reply(cache::pending(&worker.policy, endpoint)),
            Fate::Silence => self.reply(cache::stale(&worker.policy, endpoint)),
        }
    }

    /// Counts what would be done, makes it the request's label, and does nothing of it.
    fn shadow(&mut self, worker: &Worker, decision: &Decision<'_>) {
        let policy = &worker.policy;
        let label = match &decision.action {
            action::Action::Forward(_) => {
                self.evidence.forwarded(worker, &decision.assignments);
                explanation(policy, decision)
            }
            action::Action::Reply(reply) | action::Action::Drain { reply, .. } => {
                match reply.cause {
                    ReplyCause::Probe { .. } => self.role = Role::Answered,
                    // It goes on, to no version that is known.
                    ReplyCause::Gate { .. } => self.evidence.forwarded(worker, &[]),
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

    /// Does what was decided.
    fn carry_out(&mut self, worker: &Worker, mut decision: Decision<'_>, end_of_stream: bool) -> Action {
        // Kept before anything else is done, so that each goes back whatever becomes of the stream.
        let (permits, ignored) = (take(&mut decision.permits), take(&mut decision.ignored));
        let permits = permits.into_iter().map(Permit::into_lease).collect();
        self.evidence.hold(worker, permits, ignored, end_of_stream);
        worker.counters.passed(&worker.policy, &decision.bypasses);
        if worker.policy.mode == Mode::Shadow {
            self.shadow(worker, &decision);
            return Action::Continue;
        }
        match decision.action {
            action::Action::Forward(passage) => {
                forward(&passage);
                self.edits = passage.response.into_iter().map(HeaderEdit::into_owned).collect();
                self.evidence.forwarded(worker, &decision.assignments);
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

    /// Takes a part of the request's body.
    pub fn on_request_body(&mut self, size: usize, end_of_stream: bool) {
        if let Role::Health(exchange) = &mut self.role {
            exchange.on_request_body(size, end_of_stream);
        }
        if end_of_stream {
            self.evidence.all_sent(&self.worker);
        }
    }

    /// Takes the request's trailers.
    pub fn on_request_trailers(&mut self) {
        if let Role::Health(exchange) = &mut self.role {
            exchange.on_request_body(0, true);
        }
        self.evidence.all_sent(&self.worker);
    }

    /// Takes the response's headers, of which there are so many.
    pub fn on_response_headers(&mut self, headers: usize, end_of_stream: bool) {
        match &mut self.role {
            Role::Fetch(fetch) => fetch.on_headers(&self.worker, end_of_stream),
            Role::Health(exchange) => exchange.on_response_headers(&self.worker, end_of_stream),
            Role::Traffic => {
                write(MapType::HttpResponseHeaders, &self.edits);
                self.evidence.on_headers(&self.worker, headers, end_of_stream);
            }
            Role::Answered => {}
        }
    }

    /// Takes a part of the response's body.
    pub fn on_response_body(&mut self, size: usize, end_of_stream: bool) {
        match &mut self.role {
            Role::Fetch(fetch) => fetch.on_body(&self.worker, size, end_of_stream),
            Role::Health(exchange) => exchange.on_response_body(size, end_of_stream),
            Role::Traffic if end_of_stream => self.evidence.on_body_end(&self.worker),
            Role::Answered | Role::Traffic => {}
        }
    }

    /// Takes the response's trailers.
    pub fn on_response_trailers(&mut self) {
        match &mut self.role {
            Role::Fetch(fetch) => fetch.complete(&self.worker),
            Role::Health(exchange) => exchange.on_response_trailers(),
            Role::Traffic => self.evidence.on_trailers(&self.worker),
            Role::Answered => {}
        }
    }

    /// Takes the end of the stream, whatever it has come to.
    pub fn on_end(&mut self) {
        match &mut self.role {
            Role::Fetch(fetch) => fetch.give_up(&self.worker),
            Role::Traffic => self.evidence.on_end(&self.worker),
            Role::Answered | Role::Health(_) => self.evidence.give_back(&self.worker),
        }
    }
}

/// Does all that there is to do for most requests, of which nothing is left to do later. Nothing for any other.
fn settle_at_once(worker: &Worker, decision: &Decision<'_>) -> Option<Action> {
    if !decision.permits.is_empty() || !decision.bypasses.is_empty() {
        return None;
    }
    match &decision.action {
        action::Action::Forward(passage)
            if passage.response.is_empty()
                && !worker.asks.responses
                && !decision.assignments.iter().any(|assignment| worker.judges_version(assignment)) =>
        {
            forward(passage);
            decision.assignments.iter().for_each(|assignment| worker.counters.assigned(assignment));
            Some(Action::Continue)
        }
        action::Action::Reply(reply) if !worker.policy.probes.marker_headers => Some(send(worker, reply)),
        _ => None,
    }
}

/// Does what is done to a request that goes on.
fn forward(passage: &ForwardEdits<'_>) {
    write(MapType::HttpRequestHeaders, &passage.request);
    for (object, value) in &passage.filter_state {
        abi::set_filter_state(object, value);
    }
}

/// Sends a reply.
fn send(worker: &Worker, reply: &Reply) -> Action {
    worker.counters.replied(&worker.policy, reply.cause);
    if !abi::send_local_response(reply) {
        log::error!("policy {}: the proxy took no reply: {}", worker.policy.name, reply.details);
        return Action::Continue;
    }
    Action::Pause
}

/// Edits the headers of the message that is at hand. A change of a request's makes the proxy pick the route anew,
/// so no call asks for it.
fn write(map: MapType, edits: &[HeaderEdit<'_>]) {
    for HeaderEdit { header, change } in edits {
        // Can't fail while the message's headers are at hand, as they are in their callback.
        let _ = match change {
            HeaderChange::Set(value) => hostcalls::set_map_value(map, header, Some(value)),
            HeaderChange::Add(value) => hostcalls::add_map_value(map, header, value),
            HeaderChange::Remove => hostcalls::set_map_value(map, header, None),
        };
    }
}

/// The versions that a request got, and why, in words, and gates that let it pass: `reviews=v2 sticky`.
fn explanation(policy: &Policy, decision: &Decision<'_>) -> String {
    let words = decision.assignments.iter().filter_map(|assignment| {
        let release = policy.releases.get(assignment.release)?;
        let version = release.versions.get(assignment.version)?;
        Some(format!("{}={} {}", release.name, version.name, assignment.reason.code()))
    });
    words.chain(decision.bypasses.iter().map(|passed| passed.describe(policy))).collect::<Vec<_>>().join(", ")
}

/// At most so many headers are taken all at once. That costs little more than to ask for one of them, and less than to ask
/// for two.
pub const FEW: usize = 32;

/// The request's headers, which are host calls away. To be used in the request's own callback alone.
struct ProxyRequest {
    few: bool,
    all: OnceCell<Option<Vec<u8>>>,
}

impl ProxyRequest {
    /// With so many headers.
    fn new(headers: usize) -> Self {
        ProxyRequest { few: headers <= FEW, all: OnceCell::new() }
    }
}

impl Request for ProxyRequest {
    fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        hostcalls::get_map_value_bytes(MapType::HttpRequestHeaders, name).ok()?.map(Cow::Owned)
    }

    fn at_hand(&self) -> Option<HeaderMap<'_>> {
        let all = || if self.few { abi::headers(MapType::HttpRequestHeaders) } else { None };
        self.all.get_or_init(all).as_deref().map(HeaderMap)
    }

    fn source(&self) -> Option<Cow<'_, [u8]>> {
        attribute(&["source", "address"]).map(Cow::Owned)
    }
}
