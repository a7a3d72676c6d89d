//! One request, from its headers to its end.
//!
//! ```text
//!                        ┌─▶ Uninspected ──┐
//! decision ──▶ Waiting ──┼─▶ Unsettled ────┼──▶ Done
//!         │              └─▶ Begun ────────┘
//!         ├──▶ AppProbe, GrpcHealth ───────────▶ Done
//!         └──▶ answered, or nothing left to do: no exchange
//! ```
//!
//! A state owns the permits of its request. Every way out of a state gives them back or hands them to the next one.

use core::ops::ControlFlow;
use core::time::Duration;

use super::app_probe::{self, AppProbe, ProbeAction, ProbeQuery};
use super::event::Event;
use super::forwarded::{ForwardedRequest, Wait};
use super::grpc_health::HealthExchange;
use super::headers::{self, READ_AT_ONCE, RequestHeaders};
use super::scope::Scope;
use super::summary::{self, ResponseSummary};
use crate::decision::action::{Action, ForwardEdits, HeaderEdit};
use crate::decision::probe::{self, cache};
use crate::decision::reply::{Reply, ReplyCause};
use crate::decision::{Assignment, Decision};
use crate::policy::{Mode, Policy};
use crate::proxy::{Attribute, ExchangeId, Flow, Map, Proxy};
use crate::value::response::{self, VIA_UPSTREAM};
use crate::value::time::Time;

/// A request that there is something left to do for after its first callback.
pub struct Exchange {
    /// What is done to the response's headers.
    edits: Vec<HeaderEdit<'static>>,
    state: State,
}

/// How far it has come.
enum State {
    /// A user's request has gone on, and no response has come.
    Waiting(ForwardedRequest, Wait),
    /// A response has begun that is a success by its headers, and that was not inspected. See [`super::fast_path`].
    Uninspected(ForwardedRequest, ResponseSummary),
    /// A response has begun whose gRPC status is still to come.
    Unsettled(ForwardedRequest, ResponseSummary),
    /// A response has begun, and what is a failure of it has been counted. It may still break off.
    Begun(ForwardedRequest, ResponseSummary),
    /// A probe has gone on to the app.
    AppProbe(AppProbe),
    /// A gRPC health check has gone on, and is to be answered.
    GrpcHealth(HealthExchange),
    /// There is nothing more to learn.
    Done,
}

impl Exchange {
    /// Decides on a request in the callback of its headers, of which there are so many, and does what was decided. Returns
    /// what the proxy is to do with it now, and the exchange, if a later callback has anything to do.
    pub fn begin<P: Proxy>(scope: &mut Scope<'_, P>, headers: usize, end: bool) -> (Flow, Option<Self>) {
        if scope.policy.mode == Mode::Off {
            return (Flow::Continue, None);
        }
        let mut decision = scope.decide(&RequestHeaders::new(scope.proxy, headers));
        scope.metrics.count_bypasses(scope.proxy, scope.policy, &decision.bypasses);
        let permits = core::mem::take(&mut decision.permits);
        let ignored = core::mem::take(&mut decision.ignored);
        let mut request = ForwardedRequest::new(scope, permits, ignored);
        if scope.policy.mode == Mode::Shadow {
            return (Flow::Continue, shadow(scope, request, &decision, end));
        }
        let forwarded = match decision.action {
            Action::Forward(edits) => {
                forward(scope.proxy, &edits);
                let edits = edits.response.into_iter().map(HeaderEdit::into_owned).collect();
                return (Flow::Continue, Self::forwarded(scope, request, &decision.assignments, edits, end));
            }
            Action::Reply(reply) => ControlFlow::Break(reply),
            Action::Drain { draining, reply } => ControlFlow::Break(if scope.drain(draining) {
                reply
            } else {
                probe::drain::failed(scope.policy)
            }),
            Action::PassThrough { endpoint, probe, rule, head } => {
                pass_through(scope, &ProbeQuery { endpoint, probe, rule, head, whole: end })
            }
            Action::GrpcCheck { mut call, edits } => {
                call.receive(b"", end);
                headers::apply(scope.proxy, Map::RequestHeaders, &edits);
                ControlFlow::Continue(State::GrpcHealth(HealthExchange::new(call)))
            }
        };
        request.give_back(scope);
        match forwarded {
            ControlFlow::Continue(state) => (Flow::Continue, Some(Exchange { edits: Vec::new(), state })),
            ControlFlow::Break(reply) => (self::reply(scope, reply), None),
        }
    }

    /// Follows a request that goes on with these versions. Returns nothing if nothing is left to do for it.
    fn forwarded<P: Proxy>(
        scope: &Scope<'_, P>,
        mut request: ForwardedRequest,
        assignments: &[Assignment<'_>],
        edits: Vec<HeaderEdit<'static>>,
        whole: bool,
    ) -> Option<Self> {
        request.assign(scope, assignments);
        if request.is_evidence(scope) {
            let wait = request.start(scope, whole);
            return Some(Exchange { edits, state: State::Waiting(request, wait) });
        }
        (!edits.is_empty()).then_some(Exchange { edits, state: State::Done })
    }

    /// Looks at a request that waits for a response, if it is time to. Returns whether it made the request the one at
    /// hand.
    pub fn on_tick<P: Proxy>(&mut self, scope: &mut Scope<'_, P>, id: ExchangeId, now: Time) -> bool {
        match &mut self.state {
            State::Waiting(request, wait) if wait.is_due(now) && scope.proxy.enter(id) => {
                request.look(scope, wait, now);
                true
            }
            _ => false,
        }
    }

    /// Takes a part of the request's body.
    pub fn on_request_body<P: Proxy>(&mut self, scope: &mut Scope<'_, P>, size: usize, end: bool) {
        match &mut self.state {
            State::GrpcHealth(health) => health.on_request_body(scope.proxy, size, end),
            State::Waiting(request, wait) if end => request.on_whole(scope, wait),
            _ => {}
        }
    }

    /// Takes the request's trailers, which end it.
    pub fn on_request_trailers<P: Proxy>(&mut self, scope: &mut Scope<'_, P>) {
        self.on_request_body(scope, 0, true);
    }

    /// Takes the response's headers, of which there are so many.
    pub fn on_response_headers<P: Proxy>(&mut self, scope: &mut Scope<'_, P>, headers: usize, end: bool) {
        match &mut self.state {
            State::AppProbe(probe) => probe.on_response_headers(scope, end),
            State::GrpcHealth(health) => health.on_response_headers(scope, end),
            _ => {
                headers::apply(scope.proxy, Map::ResponseHeaders, &self.edits);
                let state = core::mem::replace(&mut self.state, State::Done);
                self.state = state.on_response_headers(scope, headers, end);
            }
        }
    }

    /// Takes a part of the response's body.
    pub fn on_response_body<P: Proxy>(&mut self, scope: &mut Scope<'_, P>, size: usize, end: bool) {
        match &mut self.state {
            State::AppProbe(probe) => probe.on_response_body(scope, size, end),
            State::GrpcHealth(health) => health.on_response_body(scope.proxy, size, end),
            _ if end => self.finish(scope, None),
            _ => {}
        }
    }

    /// Takes the response's trailers, which end it.
    pub fn on_response_trailers<P: Proxy>(&mut self, scope: &mut Scope<'_, P>) {
        match &mut self.state {
            State::AppProbe(probe) => probe.complete(scope),
            State::GrpcHealth(health) => health.on_response_trailers(scope.proxy),
            State::Unsettled(_, response) => {
                response.grpc_status = scope.proxy.grpc_status(Map::ResponseTrailers);
                self.finish(scope, Some(Map::ResponseTrailers));
            }
            _ => self.finish(scope, None),
        }
    }

    /// Takes the end of a response. `at_hand` is the part of it that can be read now.
    fn finish<P: Proxy>(&mut self, scope: &mut Scope<'_, P>, at_hand: Option<Map>) {
        let state = core::mem::replace(&mut self.state, State::Done);
        self.state = match state {
            // A response can't end before it has begun.
            State::Waiting(..) => state,
            state => {
                state.finish(scope, at_hand);
                State::Done
            }
        };
    }

    /// Takes the end of the request, whatever happened to it.
    pub fn on_end<P: Proxy>(self, scope: &mut Scope<'_, P>) {
        self.state.on_end(scope);
    }
}

impl State {
    fn on_response_headers<P: Proxy>(self, scope: &mut Scope<'_, P>, headers: usize, end: bool) -> Self {
        let mut request = match self {
            State::Waiting(request, _)
            // Another filter has replaced a response that had begun.
            | State::Uninspected(request, _) | State::Unsettled(request, _) | State::Begun(request, _) => request,
            other => return other,
        };
        let took = request.took(scope);
        if let Some(response) = pass(scope, &request, headers, took) {
            let is_over = end || response.is_upgrade();
            return if is_over { State::Done } else { State::Uninspected(request, response) };
        }
        let grpc = scope.signals.grpc_status;
        let mut response = ResponseSummary::read(scope.proxy, took);
        if !request.is_judged_by(scope, &response) {
            request.give_back(scope);
            return State::Done;
        }
        response.inspect(scope.proxy, grpc);
        let end = end || response.is_upgrade();
        let status_follows = grpc && response.grpc_status.is_none() && !end && summary::is_grpc(scope.proxy);
        if status_follows {
            request.on_response_begun(scope, &response);
            return State::Unsettled(request, response);
        }
        request.count_beginning(scope, &response, Some(Map::ResponseHeaders), end);
        if end {
            request.count_end(scope, &response);
            return State::Done;
        }
        State::Begun(request, response)
    }

    /// Counts what is left to count of a response that has ended.
    fn finish<P: Proxy>(self, scope: &mut Scope<'_, P>, at_hand: Option<Map>) {
        match self {
            State::Unsettled(mut request, mut response) => {
                // How it ended is all there is to go by.
                if let Some(details) = response.broken.take() {
                    response.details = details;
                }
                request.count_beginning(scope, &response, at_hand, true);
                request.count_end(scope, &response);
            }
            State::Begun(request, response) => request.count_end(scope, &response),
            State::Uninspected(request, mut response) => {
                let (fast_path, redundancy) = scope.upstreams.fast_path(scope.policy);
                // It has broken off, or it tells something by now: a failure or a tick has come in between.
                if response.broken.is_some() || !fast_path.may_pass(redundancy) {
                    response.cluster = scope.proxy.attribute(Attribute::Cluster);
                    request.count_end(scope, &response);
                }
            }
            State::Waiting(..) | State::AppProbe(_) | State::GrpcHealth(_) | State::Done => {}
        }
    }

    fn on_end<P: Proxy>(mut self, scope: &mut Scope<'_, P>) {
        let unsettled = matches!(self, State::Unsettled(..));
        match &mut self {
            State::Waiting(..) => {
                if let State::Waiting(request, wait) = self {
                    request.on_unanswered(scope, &wait);
                }
            }
            State::Uninspected(request, response)
            | State::Unsettled(request, response)
            | State::Begun(request, response) => {
                let details = scope.proxy.code_details();
                let (broken, cut) = (response::broke_off(&details), response::was_cut(&details));
                if broken {
                    response.broken = Some(details);
                }
                // Without its status, a gRPC response that was left does not count; nor does one that was cut, whoever
                // was slow.
                if broken || !unsettled && !cut {
                    self.finish(scope, None);
                } else {
                    request.give_back(scope);
                }
            }
            State::AppProbe(probe) => probe.on_end(scope),
            State::GrpcHealth(_) | State::Done => {}
        }
    }
}

/// Returns what is known of a response that takes the fast path, if it does.
fn pass<P: Proxy>(
    scope: &mut Scope<'_, P>,
    request: &ForwardedRequest,
    headers: usize,
    took: Option<Duration>,
) -> Option<ResponseSummary> {
    let (policy, proxy) = (scope.policy, scope.proxy);
    if !request.is_plain() || scope.signals.grpc_status {
        return None;
    }
    let (fast_path, redundancy) = scope.upstreams.fast_path(policy);
    if !fast_path.may_pass(redundancy) || headers > READ_AT_ONCE {
        return None;
    }
    let status = summary::upstream_status(proxy)?;
    fast_path.is_success(policy, status, took).then(|| ResponseSummary {
        status: Some(status),
        details: VIA_UPSTREAM.to_vec(),
        took,
        ..ResponseSummary::default()
    })
}

/// Edits a request that goes on.
fn forward(proxy: &impl Proxy, edits: &ForwardEdits<'_>) {
    headers::apply(proxy, Map::RequestHeaders, &edits.request);
    for (object, value) in &edits.filter_state {
        proxy.set_filter_state(object, value);
    }
}

/// Answers the request.
fn reply<P: Proxy>(scope: &mut Scope<'_, P>, mut reply: Reply) -> Flow {
    let (policy, proxy) = (scope.policy, scope.proxy);
    if policy.probes.marker_headers && matches!(reply.cause, ReplyCause::Probe { .. }) {
        reply.headers.push((probe::SERVICE.into(), scope.service.to_owned().into()));
    }
    scope.metrics.count_reply(proxy, policy, reply.cause);
    if proxy.reply(&reply) {
        return Flow::Pause;
    }
    scope.record(&Event::ReplyRefused { policy, details: &reply.details });
    Flow::Continue
}

/// Answers a probe with what the app last said, or sends it on to the app.
fn pass_through<P: Proxy>(scope: &mut Scope<'_, P>, query: &ProbeQuery<'_>) -> ControlFlow<Reply, State> {
    let (policy, endpoint) = (scope.policy, query.endpoint);
    match scope.look_up(query) {
        ProbeAction::Replay(answer) => {
            ControlFlow::Break(cache::reply(policy, endpoint, query.rule, answer, scope.proxy.now()))
        }
        ProbeAction::Fetch(probe) => {
            app_probe::write_request(scope.proxy, policy, query);
            ControlFlow::Continue(State::AppProbe(probe))
        }
        ProbeAction::Pending => ControlFlow::Break(cache::pending(policy, endpoint)),
        ProbeAction::Stale => ControlFlow::Break(cache::stale(policy, endpoint)),
    }
}

/// Counts what would be done, labels the request with it, and does nothing of it.
fn shadow<P: Proxy>(
    scope: &mut Scope<'_, P>,
    mut request: ForwardedRequest,
    decision: &Decision<'_>,
    end: bool,
) -> Option<Exchange> {
    let (label, exchange) = match &decision.action {
        Action::Forward(_) => {
            let exchange = Exchange::forwarded(scope, request, &decision.assignments, Vec::new(), end);
            (explain(scope.policy, decision), exchange)
        }
        Action::Reply(reply) | Action::Drain { reply, .. } => {
            let exchange = match reply.cause {
                ReplyCause::Probe { .. } => {
                    request.give_back(scope);
                    None
                }
                // It goes on, to no version that is known.
                ReplyCause::Gate { .. } => Exchange::forwarded(scope, request, &[], Vec::new(), end),
            };
            scope.metrics.count_reply(scope.proxy, scope.policy, reply.cause);
            (reply.details.clone(), exchange)
        }
        Action::PassThrough { .. } | Action::GrpcCheck { .. } => {
            request.give_back(scope);
            return None;
        }
    };
    if !label.is_empty() {
        scope.proxy.set_label(&label);
    }
    exchange
}

/// Describes the versions that a request got, and why, and the gates that let it pass: `reviews=v2 sticky`.
fn explain(policy: &Policy, decision: &Decision<'_>) -> String {
    let versions = decision.assignments.iter().filter_map(|assignment| {
        let release = policy.releases.get(assignment.release)?;
        let version = release.versions.get(assignment.version)?;
        Some(format!("{}={} {}", release.name, version.name, assignment.reason.code()))
    });
    let gates = decision.bypasses.iter().map(|bypass| bypass.describe(policy));
    versions.chain(gates).collect::<Vec<_>>().join(", ")
}
