//! The request path: one function over probes, releases and gates, in this order.
//!
//! A probe is answered and nothing else happens: no version, no gate, no permit. Each release that another
//! request is for then picks a version; of several that steer by the same header the first one counts. Gates
//! come last, as which upstream a request needs may depend on its version: where a release with that upstream
//! is for the request, the gate holds only if the request goes to that version; else it holds for every
//! request it matches.
//!
//! A steer header from outside that no release trusts is as good as absent: nothing matches on it.

use std::borrow::Cow;

use crate::action::{Action, Edit, Passage};
use crate::policy::release::Release;
use crate::policy::release::steer::Steer;
use crate::policy::release::version::HeaderEdits;
use crate::policy::upstream::UpstreamId;
use crate::policy::{Mode, Policy};
use crate::readiness::{self, Permit, Readiness, Standing};
use crate::release::split::Split;
use crate::release::{self, Choice, Issued, cookie, number};
use crate::reply::Reply;
use crate::request::{Headers, Request};
use crate::{gate, probe};

/// What is to happen to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision<'p> {
    /// What the host does.
    pub action: Action<'p>,
    /// The version it got in each release that it is for.
    pub assignments: Vec<Assignment<'p>>,
    /// Permits taken on its way. The host gives each back exactly once.
    pub permits: Vec<(UpstreamId, Permit)>,
}

/// The version that a request got, by its place in the release's versions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment<'p> {
    /// The release, by its place in the policy.
    pub release: usize,
    /// The version it should have.
    pub choice: Choice<'p>,
    /// The version it got.
    pub version: usize,
    /// Why it got that one.
    pub reason: release::Reason,
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
    let forward = Action::Forward(Passage::default());
    let mut decision = Decision { action: forward, assignments: Vec::new(), permits: Vec::new() };
    if policy.mode == Mode::Off {
        return decision;
    }
    let mut request = Headers::new(request);
    for header in &policy.untrusted_headers {
        request.show(header, None);
    }
    if let Some(ask) = probe::find(policy, &mut request) {
        decision.action = probe::answer(policy, ask, &mut request, readiness);
        if let Action::GrpcCheck { edits, .. } = &mut decision.action {
            strip_untrusted(policy, &request, edits);
        }
        return decision;
    }
    let passage = steer(policy, &mut request, readiness, splits, &mut decision);
    decision.action = match closed_gate(policy, &mut request, readiness, &mut decision) {
        Some(reply) => Action::Reply(reply),
        None => Action::Forward(passage),
    };
    decision
}

/// Picks a version in each release that the request is for, and gives what follows for it.
fn steer<'p: 'r, 'r, R: Request>(
    policy: &'p Policy,
    request: &mut Headers<'r, R>,
    readiness: &mut impl Readiness,
    splits: &mut [Split],
    decision: &mut Decision<'p>,
) -> Passage<'p> {
    let mut passage = Passage::default();
    let mut issued: Vec<Issued<'p>> = Vec::new();
    let mut ended: Vec<&'p Release> = Vec::new();
    let mut steers: Vec<Option<&str>> = Vec::new();
    for (place, (release, split)) in policy.releases.iter().zip(splits.iter_mut()).enumerate() {
        let header = release.steer.header();
        if steers.contains(&header) || !release.matches.hold(request) || release.skip.any(request) {
            continue;
        }
        steers.push(header);
        if !split.under_way() {
            ended.push(release);
        }
        let choice = release::choose(release, request, split, &issued, || readiness.now());
        let Some((version, reason)) = enter(release, &choice, readiness, decision) else {
            // The route's weights alone decide.
            write(release, &choice, None, request, &mut passage);
            issued.extend(choice.issued);
            continue;
        };
        write(release, &choice, Some(version), request, &mut passage);
        issued.extend(choice.issued.clone());
        decision.assignments.push(Assignment { release: place, choice, version, reason });
    }
    strip_untrusted(policy, request, &mut passage.request);
    passage.response.extend(issued.iter().filter_map(|issued| {
        let issue = issued.cookie.issue.as_ref()?;
        Some(Edit::add("set-cookie", cookie::give(issued.cookie, issue, &issued.key)))
    }));
    for release in ended {
        // Two releases may have issued the same one.
        let edit = taken_back(policy, release, splits, request);
        passage.response.extend(edit.filter(|edit| !passage.response.contains(edit)));
    }
    passage
}

/// The version that the request gets for this choice, and why. Nothing where the release has none.
fn enter<'p>(
    release: &'p Release,
    choice: &Choice<'p>,
    readiness: &mut impl Readiness,
    decision: &mut Decision<'p>,
) -> Option<(usize, release::Reason)> {
    release.versions.get(choice.version)?;
    let mut enter = |version: usize| match release.versions.get(version) {
        Some(version) => admit(version.upstream, readiness, decision).is_ok(),
        None => false,
    };
    // The default goes ahead even when it is not Ready: there is nowhere else to send the request. It
    // takes a permit all the same where there is one, or its trial would never end.
    if enter(choice.version) || choice.version == release.default {
        return Some((choice.version, choice.reason));
    }
    enter(release.default);
    Some((release.default, release::Reason::Fallback))
}

/// Writes what the release does to a request that gets this version, and to its response.
fn write<'p: 'r, 'r, R: Request>(
    release: &'p Release,
    choice: &Choice<'p>,
    version: Option<usize>,
    request: &mut Headers<'r, R>,
    passage: &mut Passage<'p>,
) {
    let got = version.and_then(|version| release.versions.get(version));
    let value = match &release.steer {
        // A later hop may have the version that this one has not.
        Steer::Header(_) if choice.reason == release::Reason::NoSuchVersion => None,
        Steer::RandomValueHeader(_) => {
            let number = match version {
                Some(version) if number::pick(&release.versions, choice.number) != Some(version) => {
                    number::of(&release.versions, version, choice.number)
                }
                _ => None,
            };
            Some(Cow::Owned(number.unwrap_or(choice.number).to_string()))
        }
        steer => got.and_then(|version| steer.value(version)).map(Cow::Borrowed),
    };
    match (&release.steer, value) {
        (Steer::FilterState(object), Some(Cow::Borrowed(value))) => {
            passage.filter_state.push((object, value))
        }
        (steer, Some(value)) => {
            if let Some(header) = steer.header() {
                request.show(header, Some(value.clone()));
                passage.request.push(Edit::set(header, value));
            }
        }
        (_, None) => {}
    }
    if let Some(version) = got {
        passage.request.extend(edits(&version.request));
        passage.response.extend(edits(&version.response));
        passage
            .response
            .extend(release.response_header.as_ref().map(|header| Edit::set(header, &version.name)));
    }
}

fn edits(edits: &HeaderEdits) -> impl Iterator<Item = Edit<'_>> {
    let remove = edits.remove.iter().map(|header| Edit::remove(header));
    let set = edits.set.iter().map(|(header, value)| Edit::set(header, value));
    remove.chain(set).chain(edits.add.iter().map(|(header, value)| Edit::add(header, value)))
}

/// What takes back the key that a release has issued that has ended, if the request carries one and no other
/// release still needs it.
fn taken_back<'p: 'r, 'r, R: Request>(
    policy: &'p Policy,
    release: &'p Release,
    splits: &[Split],
    request: &mut Headers<'r, R>,
) -> Option<Edit<'p>> {
    let own = release.issues()?;
    let mut others = policy.releases.iter().zip(splits).filter(|(_, split)| split.under_way());
    if others.any(|(other, _)| other.issues().is_some_and(|other| other.name == own.name)) {
        return None;
    }
    let sent = request.get("cookie").and_then(|header| crate::request::cookie(header, &own.name))?;
    cookie::issued(sent)?;
    Some(Edit::add("set-cookie", cookie::take_back(own, own.issue.as_ref()?)))
}

/// Removes the steer headers that came from outside and that no edit replaces: they must not pick a route
/// that no release gives the request.
fn strip_untrusted<'p, R: Request>(policy: &'p Policy, request: &Headers<'_, R>, edits: &mut Vec<Edit<'p>>) {
    for header in &policy.untrusted_headers {
        let steered = edits.iter().any(|edit| edit.header == *header);
        if !steered && request.came_with(header) {
            edits.push(Edit::remove(header));
        }
    }
}

/// The reply of the first gate that keeps the request from going on.
fn closed_gate<'r, R: Request>(
    policy: &'r Policy,
    request: &mut Headers<'r, R>,
    readiness: &mut impl Readiness,
    decision: &mut Decision<'_>,
) -> Option<Reply> {
    policy.gates.iter().find_map(|gate| {
        if goes_elsewhere(policy, gate.upstream, decision) || !gate.matches.hold(request) {
            return None;
        }
        let reason = admit(gate.upstream, readiness, decision).err()?;
        Some(gate::reply(policy, gate, reason))
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

/// Whether the request may go to the upstream; on trial, if it gets a permit. One permit does for all that
/// the request needs the upstream for.
fn admit(
    upstream: UpstreamId,
    readiness: &mut impl Readiness,
    decision: &mut Decision<'_>,
) -> Result<(), readiness::Reason> {
    match readiness.standing(upstream) {
        Standing::Ready => Ok(()),
        Standing::NotReady(reason) => Err(reason),
        Standing::Trial(_) if decision.permits.iter().any(|(held, _)| *held == upstream) => Ok(()),
        Standing::Trial(reason) => match readiness.lend(upstream) {
            Some(permit) => {
                decision.permits.push((upstream, permit));
                Ok(())
            }
            // The question brought news, and there is nothing on trial any more.
            None if readiness.standing(upstream) == Standing::Ready => Ok(()),
            None => Err(reason),
        },
    }
}

#[cfg(test)]
mod tests;
