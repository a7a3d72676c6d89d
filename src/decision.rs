//! The request path: one function over probes, releases and gates, in this order.
//!
//! A probe is answered and nothing else happens: no version, no gate, no permit. Each release that another
//! request is for then picks a version; of several that steer by the same header the first one counts. Gates
//! come last, as which upstream a request needs may depend on its version: where a release with that upstream
//! is for the request, the gate holds only if the request goes to that version; else it holds for every
//! request it matches. The first gate that is closed decides; one that fails open leaves it to the next.
//!
//! A steer header from outside that no release trusts is as good as absent: nothing matches on it.

pub mod action;
mod admit;
pub mod gate;
pub mod probe;
pub mod release;
pub mod reply;
mod steering;

use crate::decision::action::{Action, ForwardEdits, HeaderEdit};
use crate::decision::gate::{GateAction, GateBypass, fail_open};
use crate::decision::release::split::Split;
use crate::decision::reply::GATE_HEADER;
use crate::policy::gate::Fallback;
use crate::policy::upstream::{Breaker, UpstreamId};
use crate::policy::{Mode, Policy};
use crate::readiness::{Permit, Readiness};
use crate::value::request::{Headers, Request};
use admit::admit;
pub use release::Assignment;

/// What is to happen to a request.
#[derive(Debug, PartialEq, Eq)]
pub struct Decision<'p> {
    /// What the host does.
    pub action: Action<'p>,
    /// The version it got in each release that it is for.
    pub assignments: Vec<Assignment<'p>>,
    /// Permits taken on its way. Whoever carries out the decision gives each back exactly once.
    pub permits: Vec<Permit>,
    /// Upstreams against which its response is no evidence.
    pub ignored: Vec<UpstreamId>,
    /// Closed gates on its way that did not reply.
    pub bypasses: Vec<GateBypass>,
}

/// Decides what is to happen to a request.
///
/// `splits` are this worker's, one for each release of the policy, in its order.
pub fn decide<'p, R: Request>(
    policy: &'p Policy,
    request: &R,
    readiness: &mut impl Readiness,
    splits: &mut [Split],
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
    let mut request = Headers::new(request, &policy.untrusted_headers);
    if let Some(ask) = probe::find(policy, &mut request) {
        decision.action = probe::answer(policy, ask, &mut request, readiness);
        if let Action::GrpcCheck { edits, .. } = &mut decision.action {
            steering::strip_untrusted(policy, &request, edits);
        }
        return decision;
    }
    decision.ignored = ignored(policy, &mut request);
    let edits = steering::steer(
        policy,
        &mut request,
        readiness,
        splits,
        &mut decision.assignments,
        &mut decision.permits,
    );
    let stopped = stop(policy, &mut request, readiness, &mut decision);
    decision.action = stopped.unwrap_or(Action::Forward(edits));
    if let Action::Forward(edits) = &mut decision.action {
        let told =
            decision.bypasses.iter().map(|bypass| HeaderEdit::add(GATE_HEADER, bypass.describe(policy)));
        edits.response.extend(told);
    }
    decision
}

/// The upstreams whose breaker is not to take the response to this request, as it came, as evidence.
fn ignored<'r, R: Request>(policy: &'r Policy, request: &mut Headers<'r, R>) -> Vec<UpstreamId> {
    let mut ignored = Vec::new();
    for id in &policy.selective {
        let breaker = policy.upstream(*id).and_then(|upstream| upstream.breaker.as_ref());
        let counts = |breaker: &'r Breaker, request: &mut Headers<'r, R>| {
            breaker.record.hold(request) && !breaker.ignore.any(request)
        };
        if breaker.is_some_and(|breaker| !counts(breaker, request)) {
            ignored.push(*id);
        }
    }
    ignored
}

/// What becomes of the request at the first gate that keeps it from going on, if one does.
fn stop<'p: 'r, 'r, R: Request>(
    policy: &'p Policy,
    request: &mut Headers<'r, R>,
    readiness: &mut impl Readiness,
    decision: &mut Decision<'_>,
) -> Option<Action<'p>> {
    let candidates = policy.gate_index.find(request);
    candidates.iter().filter_map(|index| policy.gates.get(*index)).find_map(|gate| {
        if goes_elsewhere(policy, gate.upstream, decision) || !gate.matches.hold(request) {
            return None;
        }
        let reason = admit(gate.upstream, readiness, &mut decision.permits).err()?;
        let bypass = |action, decision: &mut Decision<'_>| {
            let bypass = GateBypass { upstream: gate.upstream, reason, action };
            // Of several gates on one upstream, one is enough to tell.
            if !decision.bypasses.contains(&bypass) {
                decision.bypasses.push(bypass);
            }
        };
        match &gate.fallback {
            Some(Fallback::Upstream { upstream, header })
                if admit(*upstream, readiness, &mut decision.permits).is_ok() =>
            {
                bypass(GateAction::Upstream(*upstream), decision);
                // Whatever version it should have, it gets none.
                decision.assignments.clear();
                let cluster = policy.upstream(*upstream).map_or("", |upstream| upstream.cluster.as_str());
                return Some(Action::Forward(steering::divert(policy, request, header, cluster)));
            }
            // To a gRPC request the proxy can send a status of its own, but no message.
            Some(Fallback::Answer(answer))
                if !request.get("content-type").is_some_and(probe::health::is_grpc) =>
            {
                bypass(GateAction::Answer, decision);
                return Some(Action::Reply(gate::answer(policy, gate, answer, reason)));
            }
            _ => {}
        }
        if let Some(why) = fail_open::of_gate(policy, gate, readiness) {
            bypass(GateAction::FailOpen(why), decision);
            return None;
        }
        let known = readiness.status(gate.upstream);
        Some(Action::Reply(gate::reply(policy, gate, reason, &known, || readiness.now())))
    })
}

/// Whether the upstream is a version's and the request got another version.
fn goes_elsewhere(policy: &Policy, upstream: UpstreamId, decision: &Decision<'_>) -> bool {
    let versions = |assignment: &Assignment<'_>| {
        policy.releases.get(assignment.release).map(|release| &release.versions)
    };
    let of_release = |assignment: &&Assignment<'_>| {
        versions(assignment)
            .is_some_and(|versions| versions.iter().any(|version| version.upstream == upstream))
    };
    let goes_there = |assignment: &Assignment<'_>| {
        versions(assignment)
            .and_then(|versions| versions.get(assignment.version))
            .map(|version| version.upstream)
            == Some(upstream)
    };
    let mut concerned = decision.assignments.iter().filter(of_release).peekable();
    concerned.peek().is_some() && !concerned.any(goes_there)
}

#[cfg(test)]
mod tests;
