//! The request path. One function applies probes, releases and gates, in this order.
//!
//! A probe is answered and nothing else happens. It gets no version, passes no gate and takes no permit.
//!
//! For any other request, each release that matches it picks a version. If several releases steer by the same
//! header, the first one counts.
//!
//! Gates come last, because the version may determine which upstream a request needs. If a matching release
//! has the gate's upstream, the gate holds only for requests that get that version. Otherwise it holds for
//! every request that it matches. A gate without a match holds for the requests whose route leads to its
//! upstream's cluster. The first closed gate decides. A gate that fails open leaves the request to the next
//! gate. A gate does the same with a CORS preflight that it does not reply to.
//!
//! A steer header from outside that no release trusts counts as absent, so nothing matches on it. So does a member of `baggage`
//! by which releases steer.

pub mod action;
mod admit;
pub mod gate;
pub mod probe;
pub mod ready;
pub mod release;
pub mod reply;
mod steering;

use std::rc::Rc;

use crate::decision::action::{Action, ForwardEdits, HeaderEdit};
use crate::decision::gate::{GateAction, GateBypass, cors, fail_open};
use crate::decision::probe::ProbeRequest;
use crate::decision::ready::{Occasion, ReadyReplies};
use crate::decision::release::split::Split;
use crate::decision::reply::GATE_HEADER;
use crate::policy::gate::{Fallback, Gate, OnPreflight};
use crate::policy::release::version::Version;
use crate::policy::upstream::UpstreamId;
use crate::policy::{Mode, Policy};
use crate::readiness::{Admission, Permit, Readiness, UpstreamReason};
use crate::value::content_type;
use crate::value::request::{Headers, Request};
use admit::admit;
pub use release::Assignment;

/// The decision on a request.
#[derive(Debug, PartialEq, Eq)]
pub struct Decision<'p> {
    /// What the worker does with the request.
    pub action: Action<'p>,
    /// The version that it gets in each release that matches it.
    pub assignments: Vec<Assignment<'p>>,
    /// The permits that it took. The worker must give each back exactly once.
    pub permits: Vec<Permit>,
    /// The upstreams for which its response is no evidence.
    pub ignored: Vec<UpstreamId>,
    /// The closed gates that did not reply to it.
    pub bypasses: Vec<GateBypass>,
}

impl Decision<'_> {
    /// Returns whether the request is forwarded as it came, and nothing is to be counted.
    pub fn is_to_let_pass(&self) -> bool {
        let is_unchanged = match &self.action {
            Action::Forward(edits) => {
                edits.request.is_empty() && edits.response.is_empty() && edits.filter_state.is_empty()
            }
            _ => false,
        };
        is_unchanged && self.assignments.is_empty() && self.permits.is_empty() && self.bypasses.is_empty()
    }
}

/// Decides on a request.
///
/// `splits` belong to this worker. There is one for each release of the policy, in the policy's order.
///
/// ```
/// use std::borrow::Cow;
///
/// use graygate::decision::action::Action;
/// use graygate::decision::decide;
/// use graygate::policy::Policy;
/// # use graygate::policy::upstream::UpstreamId;
/// use graygate::readiness::{Admission, Permit, Readiness, UpstreamReason, UpstreamStatus};
/// # use graygate::value::date::Date;
/// # use graygate::value::lifecycle::Lifecycle;
/// use graygate::value::request::Request;
/// # use graygate::value::time::Time;
///
/// /// A request that has only a path.
/// struct Get(&'static str);
///
/// impl Request for Get {
///     fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
///         (name == ":path").then_some(Cow::Borrowed(self.0.as_bytes()))
///     }
/// }
///
/// /// No upstream is ready.
/// struct NoneReady;
///
/// impl Readiness for NoneReady {
///     fn admission(&mut self, _: UpstreamId) -> Admission {
///         Admission::NotReady(UpstreamReason::Assumed)
///     }
/// #     fn lend_permit(&mut self, _: UpstreamId) -> Option<Permit> { None }
/// #     fn status(&self, _: UpstreamId) -> UpstreamStatus { UpstreamStatus::unknown() }
/// #     fn lifecycle(&self) -> Lifecycle { Lifecycle::default() }
/// #     fn now(&self) -> Time { Time::default() }
/// #     fn date(&self) -> Date { Date::default() }
/// #     fn random(&mut self) -> u64 { 0 }
/// }
///
/// let policy = Policy::from_json(
///     br#"{"name": "shop", "upstreams": {"app": {"cluster": "app"}},
///         "gates": [{"match": [{"uri": {"prefix": "/api"}}], "upstream": "app"}]}"#,
/// ).unwrap();
///
/// let gated = decide(&policy, &Get("/api/cart"), &mut NoneReady, &mut []);
/// assert!(matches!(gated.action, Action::Reply(reply) if reply.status == 503));
/// let other = decide(&policy, &Get("/help"), &mut NoneReady, &mut []);
/// assert!(matches!(other.action, Action::Forward(_)));
/// ```
pub fn decide<'p, R: Request>(
    policy: &'p Policy,
    request: &R,
    readiness: &mut impl Readiness,
    splits: &mut [Split],
) -> Decision<'p> {
    decide_with(policy, request, readiness, splits, &mut ReadyReplies::default())
}

/// Decides on a request. See [`decide`]. `ready` are replies of this policy that are kept.
pub fn decide_with<'p, R: Request>(
    policy: &'p Policy,
    request: &R,
    readiness: &mut impl Readiness,
    splits: &mut [Split],
    ready: &mut ReadyReplies,
) -> Decision<'p> {
    let mut decision = Decision {
        action: Action::Forward(ForwardEdits::default()),
        assignments: Vec::new(),
        permits: Vec::new(),
        ignored: Vec::new(),
        bypasses: Vec::new(),
    };
    if policy.mode == Mode::Off {
        return decision;
    }
    let mut request =
        Headers::new(request, &policy.untrusted_headers).hiding_members(&policy.untrusted_members);
    if let Some(probe) = probe::find(policy, &mut request) {
        decision.action = answer_probe(policy, probe, &mut request, readiness, ready);
        return decision;
    }
    if !policy.selective.is_empty() {
        decision.ignored = ignored(policy, &mut request);
    }
    let mut edits = ForwardEdits::default();
    let Decision { assignments, permits, .. } = &mut decision;
    steering::steer(policy, &mut request, readiness, splits, assignments, permits, &mut edits);
    if let Some(action) = apply_gates(policy, &mut request, readiness, &mut decision, ready) {
        decision.action = action;
    } else {
        decision.action = Action::Forward(edits);
    }
    if !decision.bypasses.is_empty()
        && let Action::Forward(edits) = &mut decision.action
    {
        let bypasses = decision.bypasses.iter();
        edits.response.extend(bypasses.map(|bypass| HeaderEdit::add(GATE_HEADER, bypass.header(policy))));
    }
    decision
}

/// Returns what happens to a probe.
#[inline(never)]
fn answer_probe<'p: 'r, 'r, R: Request>(
    policy: &'p Policy,
    probe: ProbeRequest<'p>,
    request: &mut Headers<'r, R>,
    readiness: &impl Readiness,
    ready: &mut ReadyReplies,
) -> Action<'p> {
    let mut action = probe::answer(policy, probe, request, readiness, ready);
    if let Action::GrpcCheck { edits, .. } = &mut action {
        steering::strip_untrusted(policy, request, edits);
    }
    action
}

/// Returns the upstreams whose breaker does not count the response to this request, by the request as it
/// arrived.
fn ignored<'r, R: Request>(policy: &'r Policy, request: &mut Headers<'r, R>) -> Vec<UpstreamId> {
    let mut ignored = Vec::new();
    for id in &policy.selective {
        let Some(breaker) = policy.upstream(*id).and_then(|upstream| upstream.breaker.as_ref()) else {
            continue;
        };
        let is_recorded = breaker.record.hold(request) && !breaker.ignore.may_any(request);
        if !is_recorded {
            ignored.push(*id);
        }
    }
    ignored
}

/// Returns what the first closed gate does with the request. Returns `None` if no gate stops it.
fn apply_gates<'p: 'r, 'r, R: Request>(
    policy: &'p Policy,
    request: &mut Headers<'r, R>,
    readiness: &mut impl Readiness,
    decision: &mut Decision<'_>,
    ready: &mut ReadyReplies,
) -> Option<Action<'p>> {
    let candidates = policy.gate_index.find(request);
    for (index, gate) in candidates.iter().filter_map(|index| Some((*index, policy.gates.get(*index)?))) {
        let holds = if gate.matches.is_empty() {
            leads_to_upstream(policy, gate.upstream, request, readiness, decision)
        } else {
            let got = gets_version(policy, decision, &|version| version.upstream == gate.upstream);
            got != Some(false) && (policy.gate_index.decides(index) || gate.matches.may_hold(request))
        };
        if !holds {
            continue;
        }
        if is_exempt_preflight(gate, request, readiness) {
            // It needs little of the upstream, so its response would prove little. It must not end a trial.
            if !decision.ignored.contains(&gate.upstream) {
                decision.ignored.push(gate.upstream);
            }
            if let Some(action) = divert_preflight(policy, gate, request, readiness, decision) {
                return Some(action);
            }
            continue;
        }
        let Err(reason) = admit(gate.upstream, readiness, &mut decision.permits) else {
            continue;
        };
        match close(policy, gate, reason, request, readiness, decision) {
            Closed::Replies => return Some(reply(policy, (index, gate), reason, request, readiness, ready)),
            Closed::Diverts(action) => return Some(action),
            Closed::FailsOpen => {}
        }
    }
    None
}

/// The ways in which a closed gate handles a request.
enum Closed<'p> {
    /// It replies.
    Replies,
    /// It has a fallback.
    Diverts(Action<'p>),
    /// It leaves the request to the next gate.
    FailsOpen,
}

/// Returns what a closed gate does with the request, whose upstream is not Ready for `reason`.
#[inline(never)]
fn close<'p: 'r, 'r, R: Request>(
    policy: &'p Policy,
    gate: &'p Gate,
    reason: UpstreamReason,
    request: &mut Headers<'r, R>,
    readiness: &mut impl Readiness,
    decision: &mut Decision<'_>,
) -> Closed<'p> {
    if let Some(action) = fall_back(policy, gate, reason, request, readiness, decision) {
        return Closed::Diverts(action);
    }
    if let Some(why) = fail_open::of_gate(policy, gate, readiness) {
        record_bypass(decision, gate, reason, GateAction::FailOpen(why));
        return Closed::FailsOpen;
    }
    Closed::Replies
}

/// Returns the reply of a closed gate.
#[inline(never)]
fn reply<'p, R: Request>(
    policy: &'p Policy,
    (index, gate): (usize, &'p Gate),
    reason: UpstreamReason,
    request: &mut Headers<'_, R>,
    readiness: &impl Readiness,
    ready: &mut ReadyReplies,
) -> Action<'p> {
    let retry_after = gate::retry_after(gate, &readiness.status(gate.upstream), || readiness.now());
    if gate.cors.is_some() {
        let origin = cors::origin(request);
        return Action::Reply(Rc::new(gate::reply(policy, gate, reason, origin.as_deref(), retry_after)));
    }
    let occasion = Occasion::Gate { gate: index, reason, retry_after };
    ready.action(occasion, || gate::reply(policy, gate, reason, None, retry_after))
}

/// Returns whether the request is a preflight to which the gate does not reply. Reads no header while the
/// upstream is Ready.
fn is_exempt_preflight<R: Request>(
    gate: &Gate,
    request: &mut Headers<'_, R>,
    readiness: &mut impl Readiness,
) -> bool {
    gate.preflight == OnPreflight::Forward
        && readiness.admission(gate.upstream) != Admission::Ready
        && cors::is_preflight(request)
}

/// Returns what happens to such a preflight if the gate has another upstream to send it to. It takes no permit
/// of the gate's own upstream, because a later filter may answer it.
fn divert_preflight<'p: 'r, 'r, R: Request>(
    policy: &'p Policy,
    gate: &'p Gate,
    request: &mut Headers<'r, R>,
    readiness: &mut impl Readiness,
    decision: &mut Decision<'_>,
) -> Option<Action<'p>> {
    let Some(Fallback::Upstream { .. }) = gate.fallback else {
        return None;
    };
    let reason = readiness.admission(gate.upstream).reason()?;
    fall_back(policy, gate, reason, request, readiness, decision)
}

/// Returns the origin that a reply of the gate may have to name. Reads no header if it never does.
fn reply_origin<R: Request>(gate: &Gate, request: &mut Headers<'_, R>) -> Option<String> {
    gate.cors.as_ref()?;
    cors::origin(request)
}

/// Returns what the fallback of a closed gate does with the request. Returns `None` if the gate has no
/// fallback, or its fallback is not available to this request.
fn fall_back<'p: 'r, 'r, R: Request>(
    policy: &'p Policy,
    gate: &'p Gate,
    reason: UpstreamReason,
    request: &mut Headers<'r, R>,
    readiness: &mut impl Readiness,
    decision: &mut Decision<'_>,
) -> Option<Action<'p>> {
    match gate.fallback.as_ref()? {
        Fallback::Upstream { upstream, header } => {
            admit(*upstream, readiness, &mut decision.permits).ok()?;
            record_bypass(decision, gate, reason, GateAction::Upstream(*upstream));
            // A request to a fallback gets no version.
            decision.assignments.clear();
            let cluster = policy.upstream(*upstream).map_or("", |upstream| upstream.cluster.as_str());
            Some(Action::Forward(steering::divert(policy, request, header, cluster)))
        }
        Fallback::Answer(answer) => {
            // The proxy can reply to a gRPC request with a status, but not with a message.
            if request.get("content-type").is_some_and(content_type::is_grpc) {
                return None;
            }
            record_bypass(decision, gate, reason, GateAction::Answer);
            let origin = reply_origin(gate, request);
            Some(Action::Reply(Rc::new(gate::answer(policy, gate, answer, reason, origin.as_deref()))))
        }
    }
}

/// Records what a closed gate did instead of a reply, once for all gates on the same upstream. The client is
/// told the cause only if all of them tell it.
fn record_bypass(decision: &mut Decision<'_>, gate: &Gate, reason: UpstreamReason, action: GateAction) {
    let bypass = GateBypass::new(gate, reason, action);
    let is_same =
        |other: &&mut GateBypass| GateBypass { names_cause: bypass.names_cause, ..**other } == bypass;
    match decision.bypasses.iter_mut().find(is_same) {
        Some(known) => known.names_cause &= bypass.names_cause,
        None => decision.bypasses.push(bypass),
    }
}

/// Returns whether a request goes to the upstream, for a gate without a match.
///
/// The assigned version decides if the upstream is one of its release. The route that the version's headers lead to is not
/// known yet, and that without them would be another one. Otherwise the route decides. While the upstream is Ready that
/// makes no difference, so the route is not read.
fn leads_to_upstream<R: Request>(
    policy: &Policy,
    upstream: UpstreamId,
    request: &Headers<'_, R>,
    readiness: &impl Readiness,
    decision: &Decision<'_>,
) -> bool {
    let cluster = policy.upstream(upstream).map_or("", |upstream| upstream.cluster.as_str());
    gets_version(policy, decision, &|version| version.cluster == cluster).unwrap_or_else(|| {
        readiness.status(upstream).admission == Admission::Ready || request.is_routed_to(cluster)
    })
}

/// Returns whether the request got a version for which `is_wanted` is true. Returns `None` if no matching release has one.
fn gets_version(
    policy: &Policy,
    decision: &Decision<'_>,
    is_wanted: &dyn Fn(&Version) -> bool,
) -> Option<bool> {
    let mut got = None;
    for assignment in &decision.assignments {
        let versions = policy.releases.get(assignment.release).map(|release| &release.versions);
        let Some(versions) = versions.filter(|versions| versions.iter().any(is_wanted)) else {
            continue;
        };
        let is_assigned = versions.get(assignment.version).is_some_and(is_wanted);
        got = Some(is_assigned || got == Some(true));
    }
    got
}

#[cfg(test)]
mod tests;
