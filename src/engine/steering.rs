//! What becomes of a request for its versions: what it, its response and the route table get of them.

use std::borrow::Cow;

use super::{Assignment, Decision, admit};
use crate::action::{Edit, Passage};
use crate::policy::Policy;
use crate::policy::release::Release;
use crate::policy::release::key::Key;
use crate::policy::release::steer::Steer;
use crate::policy::release::version::HeaderEdits;
use crate::readiness::Readiness;
use crate::release::split::Split;
use crate::release::{self, Choice, Issued, cookie, number};
use crate::request::{Headers, Request};

/// Picks a version in each release that the request is for, and gives what follows for it.
pub fn steer<'p: 'r, 'r, R: Request>(
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
    let candidates = policy.release_index.find(request);
    for place in candidates.iter().copied() {
        let (Some(release), Some(split)) = (policy.releases.get(place), splits.get_mut(place)) else {
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
        let entered = enter(release, &choice, readiness, decision);
        write(release, &choice, entered.map(|(version, _)| version), request, &mut passage);
        issued.extend(choice.issued.clone());
        // Without versions, the route's weights alone decide, and nobody here knows how.
        if let Some((version, reason)) = entered {
            decision.assignments.push(Assignment { release: place, choice, version, reason });
        }
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
        Steer::RandomValueHeader(_) => Some(Cow::Owned(number_for(release, choice, version).to_string())),
        steer => got.and_then(|version| steer.value(version)).map(Cow::Borrowed),
    };
    if let (Some(header), Some(value)) = (release.steer.header(), value) {
        request.show(header, Some(value.clone()));
        passage.request.push(Edit::set(header, value));
    }
    if let (Steer::FilterState(object), Some(version)) = (&release.steer, got) {
        passage.filter_state.push((object, &version.name));
    }
    if let Some(version) = got {
        show(&version.request, request);
        passage.request.extend(edits(&version.request));
        passage.response.extend(edits(&version.response));
        passage
            .response
            .extend(release.response_header.as_ref().map(|header| Edit::set(header, &version.name)));
    }
}

/// The number by which the route picks this version: the choice's own, if it leads there.
fn number_for(release: &Release, choice: &Choice<'_>, version: Option<usize>) -> u64 {
    let forced = version.filter(|version| number::pick(&release.versions, choice.number) != Some(*version));
    let number = forced.and_then(|version| number::of(&release.versions, version, choice.number));
    number.unwrap_or(choice.number)
}

/// Shows the request as it is with these edits.
fn show<'p: 'r, 'r, R: Request>(edits: &'p HeaderEdits, request: &mut Headers<'r, R>) {
    for header in &edits.remove {
        request.show(header, None);
    }
    for (header, value) in &edits.set {
        request.show(header, Some(value.into()));
    }
    for (header, value) in &edits.add {
        // Of several values the first one is what a match sees.
        if request.get(header).is_none() {
            request.show(header, Some(value.into()));
        }
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
    let needs = |(other, split): (&Release, &Split)| {
        let mut names = other.keys.iter().filter_map(Key::cookie);
        split.under_way() && names.any(|cookie| cookie.name == own.name)
    };
    if policy.releases.iter().zip(splits).any(needs) {
        return None;
    }
    let sent = request.cookie(&own.name)?;
    cookie::issued(sent)?;
    Some(Edit::add("set-cookie", cookie::take_back(own, own.issue.as_ref()?)))
}

/// What a request gets that goes to this cluster instead of where it should: nothing of a version's.
pub fn divert<'p, R: Request>(
    policy: &'p Policy,
    request: &Headers<'_, R>,
    header: &'p str,
    cluster: &'p str,
) -> Passage<'p> {
    let mut passage = Passage { request: vec![Edit::set(header, cluster)], ..Passage::default() };
    strip_untrusted(policy, request, &mut passage.request);
    passage
}

/// Removes the steer headers that came from outside and that no edit replaces: they must not pick a route
/// that no release gives the request.
pub fn strip_untrusted<'p, R: Request>(
    policy: &'p Policy,
    request: &Headers<'_, R>,
    edits: &mut Vec<Edit<'p>>,
) {
    let came = request.hidden_that_came(|header| !edits.iter().any(|edit| edit.header == header));
    let came = came.into_iter().filter_map(|place| policy.untrusted_headers.get(place));
    edits.extend(came.map(|header| Edit::remove(header)));
}
