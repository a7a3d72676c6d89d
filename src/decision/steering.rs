//! What becomes of a request for its versions: what it, its response and the route table get of them.

use std::borrow::Cow;

use super::admit::admit;
use crate::decision::action::{ForwardEdits, HeaderEdit};
use crate::decision::release::split::Split;
use crate::decision::release::{self, Assignment, Choice, Issued, cookie};
use crate::policy::Policy;
use crate::policy::release::Release;
use crate::policy::release::key::Key;
use crate::policy::release::steer::Steer;
use crate::policy::release::version::HeaderEdits;
use crate::readiness::{Permit, Readiness};
use crate::value::request::{Headers, Request};
use crate::weights::number;

/// Picks a version in each release that the request is for, and gives what follows for it.
pub fn steer<'p: 'r, 'r, R: Request>(
    policy: &'p Policy,
    request: &mut Headers<'r, R>,
    readiness: &mut impl Readiness,
    splits: &mut [Split],
    assignments: &mut Vec<Assignment<'p>>,
    permits: &mut Vec<Permit>,
) -> ForwardEdits<'p> {
    let mut edits = ForwardEdits::default();
    let mut issued: Vec<Issued<'p>> = Vec::new();
    let mut ended: Vec<&'p Release> = Vec::new();
    let mut steers: Vec<Option<&str>> = Vec::new();
    let candidates = policy.release_index.find(request);
    for index in candidates.iter().copied() {
        let (Some(release), Some(split)) = (policy.releases.get(index), splits.get_mut(index)) else {
            continue;
        };
        let header = release.steer.header();
        if steers.contains(&header) || !release.matches.hold(request) || release.skip.any(request) {
            continue;
        }
        // The only one has no other to be told from.
        if candidates.len() > 1 {
            steers.push(header);
        }
        if !split.under_way() {
            ended.push(release);
        }
        let choice = release::choose(release, request, split, &issued, || readiness.now());
        let entered = enter(release, &choice, readiness, permits);
        write(release, split, &choice, entered.map(|(version, _)| version), request, &mut edits);
        issued.extend(choice.issued.clone());
        // Without versions, the route's weights alone decide, and nobody here knows how.
        if let Some((version, reason)) = entered {
            assignments.push(Assignment { release: index, choice, version, reason });
        }
    }
    strip_untrusted(policy, request, &mut edits.request);
    edits.response.extend(issued.iter().filter_map(|issued| {
        let issue = issued.cookie.issue.as_ref()?;
        Some(HeaderEdit::add("set-cookie", cookie::give(issued.cookie, issue, &issued.key)))
    }));
    for release in ended {
        // Two releases may have issued the same one.
        let edit = taken_back(policy, release, splits, request);
        edits.response.extend(edit.filter(|edit| !edits.response.contains(edit)));
    }
    edits
}

/// The version that the request gets for this choice, and why. Nothing where the release has none.
fn enter(
    release: &Release,
    choice: &Choice<'_>,
    readiness: &mut impl Readiness,
    permits: &mut Vec<Permit>,
) -> Option<(usize, release::AssignmentReason)> {
    release.versions.get(choice.version)?;
    let mut enter = |version: usize| match release.versions.get(version) {
        Some(version) => admit(version.upstream, readiness, permits).is_ok(),
        None => false,
    };
    // The default goes ahead even when it is not Ready: there is nowhere else to send the request. It
    // takes a permit all the same where there is one, or its trial would never end.
    if enter(choice.version) || choice.version == release.default {
        return Some((choice.version, choice.reason));
    }
    enter(release.default);
    Some((release.default, release::AssignmentReason::Fallback))
}

/// Writes what the release does to a request that gets this version, and to its response.
fn write<'p: 'r, 'r, R: Request>(
    release: &'p Release,
    split: &Split,
    choice: &Choice<'p>,
    version: Option<usize>,
    request: &mut Headers<'r, R>,
    edits: &mut ForwardEdits<'p>,
) {
    let got = version.and_then(|version| release.versions.get(version));
    let value = match &release.steer {
        // A later hop may have the version that this one has not.
        Steer::Header(_) if choice.reason == release::AssignmentReason::NoSuchVersion => None,
        Steer::RandomValueHeader(_) => Some(Cow::Owned(number_for(split, choice, version).to_string())),
        steer => got.and_then(|version| steer.value(version)).map(Cow::Borrowed),
    };
    if let (Some(header), Some(value)) = (release.steer.header(), value) {
        request.override_visible(header, Some(value.clone()));
        edits.request.push(HeaderEdit::set(header, value));
    }
    if let (Steer::FilterState(object), Some(version)) = (&release.steer, got) {
        edits.filter_state.push((object, &version.name));
    }
    if let Some(version) = got {
        show(&version.request, request);
        edits.request.extend(edits_of(&version.request));
        edits.response.extend(edits_of(&version.response));
        edits
            .response
            .extend(release.response_header.as_ref().map(|header| HeaderEdit::set(header, &version.name)));
    }
}

/// The number by which the route picks this version: the choice's own, if it leads there.
fn number_for(split: &Split, choice: &Choice<'_>, version: Option<usize>) -> u64 {
    let forced = version.filter(|version| number::pick(split.weights(), choice.number) != Some(*version));
    let number = forced.and_then(|version| number::of(split.weights(), version, choice.number));
    number.unwrap_or(choice.number)
}

/// Shows the request as it is with these edits.
fn show<'p: 'r, 'r, R: Request>(edits: &'p HeaderEdits, request: &mut Headers<'r, R>) {
    for header in &edits.remove {
        request.override_visible(header, None);
    }
    for (header, value) in &edits.set {
        request.override_visible(header, Some(value.into()));
    }
    for (header, value) in &edits.add {
        // Of several values the first one is what a match sees.
        if request.get(header).is_none() {
            request.override_visible(header, Some(value.into()));
        }
    }
}

fn edits_of(edits: &HeaderEdits) -> impl Iterator<Item = HeaderEdit<'_>> {
    let remove = edits.remove.iter().map(|header| HeaderEdit::remove(header));
    let set = edits.set.iter().map(|(header, value)| HeaderEdit::set(header, value));
    remove.chain(set).chain(edits.add.iter().map(|(header, value)| HeaderEdit::add(header, value)))
}

/// What takes back the key that a release has issued that has ended, if the request carries one and no other
/// release still needs it.
fn taken_back<'p: 'r, 'r, R: Request>(
    policy: &'p Policy,
    release: &'p Release,
    splits: &[Split],
    request: &mut Headers<'r, R>,
) -> Option<HeaderEdit<'p>> {
    let own = release.issues()?;
    let needs = |(other, split): (&Release, &Split)| {
        let mut names = other.keys.iter().filter_map(Key::cookie);
        split.under_way() && names.any(|cookie| cookie.name == own.name)
    };
    if policy.releases.iter().zip(splits).any(needs) {
        return None;
    }
    let sent = request.cookie(&own.name)?;
    cookie::issued(sent)?;
    Some(HeaderEdit::add("set-cookie", cookie::take_back(own, own.issue.as_ref()?)))
}

/// What a request gets that goes to this cluster instead of where it should: nothing of a version's.
pub fn divert<'p, R: Request>(
    policy: &'p Policy,
    request: &Headers<'_, R>,
    header: &'p str,
    cluster: &'p str,
) -> ForwardEdits<'p> {
    let mut edits =
        ForwardEdits { request: vec![HeaderEdit::set(header, cluster)], ..ForwardEdits::default() };
    strip_untrusted(policy, request, &mut edits.request);
    edits
}

/// Removes the steer headers that came from outside and that no edit replaces: they must not pick a route
/// that no release gives the request.
pub fn strip_untrusted<'p, R: Request>(
    policy: &'p Policy,
    request: &Headers<'_, R>,
    edits: &mut Vec<HeaderEdit<'p>>,
) {
    let came = request.received_hidden(|header| !edits.iter().any(|edit| edit.header == header));
    let came = came.into_iter().filter_map(|index| policy.untrusted_headers.get(index));
    edits.extend(came.map(|header| HeaderEdit::remove(header)));
}
