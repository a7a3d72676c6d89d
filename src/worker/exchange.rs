//! One request, from its headers to its end.
//!
//! A request is an exchange while later callbacks have work to do for it.
//!
//! ```text
//!                        ┌─▶ Uninspected ──┐
//! decision ──▶ Waiting ──┼─▶ Unsettled ────┼──▶ Done
//!         │              └─▶ Begun ────────┘
//!         ├──▶ GrpcHealth ─────────────────────▶ Done
//!         └──▶ a reply, or no more work: no exchange
//! ```
//!
//! A state owns the permits of its request. When a state ends, it gives them back or moves them to the next state.

use core::ops::ControlFlow;
use core::time::Duration;
use std::borrow::Cow;
use std::rc::Rc;

use super::app_probe::{ProbeAction, ProbeQuery};
use super::exchanges::Looks;
use super::fast_path::Redundancy;
use super::forwarded::{ForwardedRequest, Wait};
use super::grpc_health::HealthExchange;
use super::headers::{self, READ_AT_ONCE, RequestHeaders};
use super::scope::Scope;
use super::summary::{self, PassedResponse, ResponseSummary};
use crate::decision::action::{Action, ForwardEdits, HeaderEdit};
use crate::decision::probe;
use crate::decision::{Assignment, Decision};
use crate::policy::{Mode, Policy};
use crate::proxy::{ExchangeId, Flow, Map, Proxy};
use crate::value::request::HeaderMap;
use crate::value::response;
use crate::value::time::Time;

/// A request for which work remains after its first callback.
pub struct Exchange {
    /// The edits to the response's headers.
    edits: Vec<HeaderEdit<'static>>,
    state: State,
}

enum State {
    /// The request was forwarded, and no response has come.
    Waiting(ForwardedRequest, Wait),
    /// A response has begun that is a success by its headers. It was not inspected. See [`super::fast_path`].
    Uninspected(ForwardedRequest, PassedResponse),
    /// A response has begun, and its gRPC status has not come.
    Unsettled(ForwardedRequest, Box<ResponseSummary>),
    /// A response has begun. If its beginning was a failure, that was counted. It may still break off.
    Begun(ForwardedRequest, Box<ResponseSummary>),
    /// A gRPC health check was forwarded to a hop. Its response is still to be rewritten.
    GrpcHealth(HealthExchange),
    /// Nothing is left to count. The edits may still apply.
    Done,
}

impl Exchange {
    /// Decides on a request in the callback of its headers and carries the decision out. Returns what the proxy must do
    /// with the request now, and an exchange if a later callback has work to do.
    pub fn begin<P: Proxy>(
        scope: &mut Scope<'_, P>,
        id: ExchangeId,
        headers: &RequestHeaders<'_, P>,
        end: bool,
    ) -> (Flow, Option<Box<Self>>) {
        if scope.policy.mode == Mode::Off {
            return (Flow::Continue, None);
        }
        let decision = scope.decide(headers, end);
        if decision.is_to_let_pass() && !scope.signals.responses {
            // No response is looked at, so none can be the sample that is due.
            scope.upstreams.takes_sample();
            return (Flow::Continue, None);
        }
        Self::carry_out(scope, id, decision, headers, end)
    }

    #[inline(never)]
    fn carry_out<P: Proxy>(
        scope: &mut Scope<'_, P>,
        id: ExchangeId,
        mut decision: Decision<'_>,
        headers: &RequestHeaders<'_, P>,
        end: bool,
    ) -> (Flow, Option<Box<Self>>) {
        scope.metrics.count_bypasses(scope.proxy, scope.policy, &decision.bypasses);
        let permits = core::mem::take(&mut decision.permits);
        let ignored = core::mem::take(&mut decision.ignored);
        let mut request = ForwardedRequest::new(scope, permits, ignored);
        // Probes are answered in this mode too. Only decisions of releases and gates have no effect.
        if scope.policy.mode == Mode::Shadow && !decision.action.is_for_probe() {
            return (Flow::Continue, shadow(scope, request, &decision, headers, end));
        }
        if scope.policy.labels_enforced {
            label(scope, &decision);
        }
        let forwarded = match decision.action {
            Action::Forward(edits) => {
                forward(scope.proxy, &edits);
                request.mark(scope);
                request.watch_route(scope, id, &decision.assignments);
                let edits = edits.response.into_iter().map(HeaderEdit::into_owned).collect();
                let exchange = Self::forwarded(scope, request, &decision.assignments, edits, headers, end);
                return (Flow::Continue, exchange);
            }
            Action::Reply(reply) => ControlFlow::Break(reply),
            Action::Drain { draining, reply } => {
                let written = scope.drain(draining);
                let reply = if written { reply } else { probe::drain::failed(scope.policy) };
                ControlFlow::Break(Rc::new(reply))
            }
            Action::Status => ControlFlow::Break(Rc::new(probe::status::json(scope.policy, scope.status()))),
            // Only a policy that the module refuses has them.
            Action::PassThrough { .. } | Action::GrpcCheck { .. }
                if !scope.proxy.module().sees_responses() =>
            {
                ControlFlow::Continue((Flow::Continue, None))
            }
            Action::PassThrough { endpoint, probe, rule, head } => {
                match scope.pass_through(id, &ProbeQuery { endpoint, probe, rule, head }) {
                    ProbeAction::Reply(reply) => ControlFlow::Break(Rc::new(reply)),
                    ProbeAction::Wait => ControlFlow::Continue((Flow::Pause, None)),
                    ProbeAction::Forward => ControlFlow::Continue((Flow::Continue, None)),
                }
            }
            Action::GrpcCheck { mut call, edits } => {
                call.receive(b"", end);
                headers::apply(scope.proxy, Map::RequestHeaders, &edits);
                ControlFlow::Continue((Flow::Continue, Some(State::GrpcHealth(HealthExchange::new(call)))))
            }
        };
        request.give_back(scope);
        match forwarded {
            ControlFlow::Continue((flow, state)) => {
                (flow, state.map(|state| Box::new(Exchange { edits: Vec::new(), state })))
            }
            // If the proxy does not accept the reply, the request is forwarded.
            ControlFlow::Break(reply) => {
                (if scope.send(&reply) { Flow::Pause } else { Flow::Continue }, None)
            }
        }
    }

    /// Creates the exchange of a request that is forwarded with these versions. Returns `None` if no work remains.
    fn forwarded<P: Proxy>(
        scope: &mut Scope<'_, P>,
        mut request: ForwardedRequest,
        assignments: &[Assignment<'_>],
        edits: Vec<HeaderEdit<'static>>,
        headers: &RequestHeaders<'_, P>,
        whole: bool,
    ) -> Option<Box<Self>> {
        request.assign(scope, assignments);
        if request.is_evidence(scope) {
            let wait = request.start(scope, headers.traits(whole), whole);
            return Some(Box::new(Exchange { edits, state: State::Waiting(request, wait) }));
        }
        if edits.is_empty() { None } else { Some(Box::new(Exchange { edits, state: State::Done })) }
    }

    /// Checks on a request that waits for a response, if that is due. Returns whether it entered the request's context.
    /// The caller must then leave it.
    pub fn on_tick<P: Proxy>(
        &mut self,
        scope: &mut Scope<'_, P>,
        id: ExchangeId,
        now: Time,
        looks: &mut Looks<'_>,
    ) -> bool {
        match &mut self.state {
            State::Waiting(request, wait)
                if wait.is_due(now) && (!wait.is_deferred() || looks.take(id)) && scope.proxy.enter(id) =>
            {
                request.locate(scope, wait, now);
                true
            }
            _ => false,
        }
    }

    /// Takes a part of the request's body.
    pub fn on_request_body<P: Proxy>(&mut self, scope: &mut Scope<'_, P>, size: usize, end: bool) {
        match &mut self.state {
            State::GrpcHealth(health) => health.on_request_body(scope.proxy, size, end),
            State::Waiting(request, wait) => request.on_part(scope, wait, size, end),
            State::Uninspected(request, _) | State::Unsettled(request, _) | State::Begun(request, _) => {
                request.on_late_part(size, end);
            }
            _ => {}
        }
    }

    /// Takes the request's trailers, which end it.
    pub fn on_request_trailers<P: Proxy>(&mut self, scope: &mut Scope<'_, P>) {
        self.on_request_body(scope, 0, true);
    }

    /// Takes the response's headers. `headers` is their number.
    pub fn on_response_headers<P: Proxy>(&mut self, scope: &mut Scope<'_, P>, headers: usize, end: bool) {
        match &mut self.state {
            State::GrpcHealth(health) => health.on_response_headers(scope, end),
            _ => {
                let state = core::mem::replace(&mut self.state, State::Done);
                self.state = state.on_response_headers(scope, headers, end);
                // The response is judged by the headers that the upstream sent.
                headers::apply(scope.proxy, Map::ResponseHeaders, &self.edits);
            }
        }
    }

    /// Takes a part of the response's body.
    pub fn on_response_body<P: Proxy>(&mut self, scope: &mut Scope<'_, P>, size: usize, end: bool) {
        match &mut self.state {
            State::GrpcHealth(health) => health.on_response_body(scope.proxy, size, end),
            _ if end => self.finish(scope, None),
            _ => {}
        }
    }

    /// Takes the response's trailers, which end it.
    pub fn on_response_trailers<P: Proxy>(&mut self, scope: &mut Scope<'_, P>) {
        match &mut self.state {
            State::GrpcHealth(health) => health.on_response_trailers(scope.proxy),
            State::Unsettled(_, response) => {
                response.grpc_status = scope.proxy.grpc_status(Map::ResponseTrailers);
                self.finish(scope, Some(Map::ResponseTrailers));
            }
            _ => self.finish(scope, None),
        }
    }

    /// Takes the end of a response. `readable` is the map of it that can be read in this callback.
    fn finish<P: Proxy>(&mut self, scope: &mut Scope<'_, P>, readable: Option<Map>) {
        let state = core::mem::replace(&mut self.state, State::Done);
        self.state = match state {
            // A response cannot end before it has begun.
            State::Waiting(..) => state,
            state => {
                state.finish(scope, readable);
                State::Done
            }
        };
    }

    /// Takes the end of the request, whatever its cause.
    pub fn on_end<P: Proxy>(self, scope: &mut Scope<'_, P>) {
        self.state.on_end(scope);
    }
}

impl State {
    fn on_response_headers<P: Proxy>(self, scope: &mut Scope<'_, P>, headers: usize, end: bool) -> Self {
        let mut request = match self {
            State::Waiting(request, _)
            // The headers come again if another filter replaces a response that has begun.
            | State::Uninspected(request, _) | State::Unsettled(request, _) | State::Begun(request, _) => request,
            other => return other,
        };
        let took = request.took(scope);
        let stands_for = match take_fast_path(scope, &request, headers, took) {
            FastPathOutcome::Passes(response) if end || response.is_upgrade() => return State::Done,
            FastPathOutcome::Passes(response) => return State::Uninspected(request, response),
            FastPathOutcome::StandsFor(group) => group,
        };
        let grpc = scope.signals.grpc_status;
        let mut response = ResponseSummary { stands_for, ..ResponseSummary::read(scope.proxy, took) };
        request.look_at_route(scope, &response);
        if !request.is_judged_by(scope, &response) {
            request.give_back(scope);
            return State::Done;
        }
        response.inspect(scope.proxy, scope.signals);
        if !request.attribute(scope, &mut response) {
            return State::Done;
        }
        response.begun = scope.upstreams.ticked();
        let end = end || response.is_upgrade();
        let status_follows = grpc && response.grpc_status.is_none() && !end && summary::is_grpc(scope.proxy);
        if status_follows {
            request.on_response_begun(scope, &response);
            return State::Unsettled(request, Box::new(response));
        }
        request.count_beginning(scope, &response, Some(Map::ResponseHeaders), end);
        if end {
            request.count_end(scope, &response);
            return State::Done;
        }
        State::Begun(request, Box::new(response))
    }

    /// Counts a response that has ended, as far as its beginning was not counted.
    fn finish<P: Proxy>(self, scope: &mut Scope<'_, P>, readable: Option<Map>) {
        match self {
            State::Unsettled(mut request, mut response) => {
                // Its beginning was not counted, so its end is the only evidence.
                if let Some(details) = response.broken.take() {
                    response.details = details;
                }
                request.count_beginning(scope, &response, readable, true);
                request.count_end(scope, &response);
            }
            State::Begun(request, response) => request.count_end(scope, &response),
            State::Uninspected(request, response) => {
                let (fast_path, redundancy) = scope.upstreams.fast_path(scope.policy);
                // Its end counts if others have broken off. See [`super::upstreams`].
                if fast_path.counts_end(redundancy) {
                    request.count_end(scope, &response.into_summary(scope.proxy, None));
                }
            }
            State::Waiting(..) | State::GrpcHealth(_) | State::Done => {}
        }
    }

    fn on_end<P: Proxy>(mut self, scope: &mut Scope<'_, P>) {
        let unsettled = matches!(self, State::Unsettled(..));
        let (request, begun) = match &mut self {
            State::Uninspected(request, response) => (request, response.begun),
            State::Unsettled(request, response) | State::Begun(request, response) => {
                (request, response.begun)
            }
            State::Waiting(..) | State::GrpcHealth(_) | State::Done => {
                if let State::Waiting(request, _) = self {
                    request.on_unanswered(scope);
                }
                return;
            }
        };
        let details = scope.proxy.code_details();
        let is_broken = response::broke_off(&details);
        let counts = is_broken && request.may_break_off(scope, begun);
        if !counts && (unsettled || is_broken || response::is_timeout(&details)) {
            // It has not ended well, but nobody knows whose fault that is. A gRPC response whose status has not
            // come tells nothing else either.
            request.give_back(scope);
            return;
        }
        let broken = counts.then_some(details);
        match self {
            State::Uninspected(request, response) if counts => {
                request.count_end(scope, &response.into_summary(scope.proxy, broken));
            }
            State::Unsettled(request, mut response) => {
                response.broken = broken;
                State::Unsettled(request, response).finish(scope, None);
            }
            State::Begun(request, mut response) => {
                response.broken = broken;
                request.count_end(scope, &response);
            }
            other => other.finish(scope, None),
        }
    }
}

/// Whether a response takes the fast path.
enum FastPathOutcome {
    /// It does. It was not inspected.
    Passes(PassedResponse),
    /// It is to be inspected. Has the number of successes before it for which it stands if it is one.
    StandsFor(u32),
}

/// Decides in the callback of the response's headers whether it takes the fast path.
fn take_fast_path<P: Proxy>(
    scope: &mut Scope<'_, P>,
    request: &ForwardedRequest,
    headers: usize,
    took: Option<Duration>,
) -> FastPathOutcome {
    let policy = scope.policy;
    let is_plain = request.is_plain() && !scope.signals.grpc_status && !scope.signals.attempts;
    let (fast_path, redundancy) = scope.upstreams.fast_path(policy);
    if !is_plain || redundancy == Redundancy::Needed || headers > READ_AT_ONCE {
        return FastPathOutcome::StandsFor(0);
    }
    let bytes = scope.proxy.headers(Map::ResponseHeaders).unwrap_or_default();
    let headers = HeaderMap(&bytes);
    let Some(status) = summary::upstream_status(scope.proxy, headers) else {
        return FastPathOutcome::StandsFor(0);
    };
    let judged = (!scope.signals.headers.is_empty()).then_some(headers);
    let is_slow = took.zip(scope.signals.slower_than).is_some_and(|(took, limit)| took > limit);
    if is_slow || !fast_path.is_success(policy, status, judged) {
        return FastPathOutcome::StandsFor(0);
    }
    if !fast_path.may_pass(redundancy) {
        return FastPathOutcome::StandsFor(fast_path.take_group());
    }
    fast_path.pass();
    FastPathOutcome::Passes(PassedResponse { status, took, begun: scope.upstreams.ticked() })
}

/// Edits a request that is forwarded.
fn forward(proxy: &impl Proxy, edits: &ForwardEdits<'_>) {
    headers::apply(proxy, Map::RequestHeaders, &edits.request);
    for (object, value) in &edits.filter_state {
        proxy.set_filter_state(object, value);
    }
}

/// Handles a request that is no probe in mode `shadow`. Counts the decision and labels the request with it, but does not
/// carry it out.
fn shadow<P: Proxy>(
    scope: &mut Scope<'_, P>,
    request: ForwardedRequest,
    decision: &Decision<'_>,
    headers: &RequestHeaders<'_, P>,
    end: bool,
) -> Option<Box<Exchange>> {
    let assignments = match &decision.action {
        // The request is forwarded anyway, and no version counts.
        Action::Reply(reply) => {
            scope.metrics.count_reply(scope.proxy, scope.policy, reply.cause);
            &[][..]
        }
        _ => decision.assignments.as_slice(),
    };
    label(scope, decision);
    Exchange::forwarded(scope, request, assignments, Vec::new(), headers, end)
}

/// Labels a request with what a release or a gate decides on it, if one does. A probe gets no label, because its details
/// in the access log say all of it.
fn label<P: Proxy>(scope: &Scope<'_, P>, decision: &Decision<'_>) {
    let label = match &decision.action {
        action if action.is_for_probe() => return,
        // A reply says what its gate did. The versions that the request would have got do not count.
        Action::Reply(reply) => Cow::Borrowed(reply.details.as_str()),
        _ => Cow::Owned(explain(scope.policy, decision)),
    };
    if !label.is_empty() {
        scope.proxy.set_label(&label);
    }
}

/// Describes the versions that a request got with the reasons, and the closed gates that let it pass. For example
/// `reviews=v2 sticky`.
fn explain(policy: &Policy, decision: &Decision<'_>) -> String {
    let versions = decision.assignments.iter().filter_map(|assignment| {
        let release = policy.releases.get(assignment.release)?;
        let version = release.versions.get(assignment.version)?;
        Some(format!("{}={} {}", release.name, version.name, assignment.reason.code()))
    });
    let gates = decision.bypasses.iter().map(|bypass| bypass.describe(policy));
    versions.chain(gates).collect::<Vec<_>>().join(", ")
}
