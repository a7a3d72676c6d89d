//! Applies versions to a request. Computes the edits of the request and its response, and what the route
//! table sees.

use std::borrow::Cow;

use super::admit::admit;
use crate::decision::action::{ForwardEdits, HeaderEdit};
use crate::decision::release::split::Split;
use crate::decision::release::{self, Assignment, AssignmentReason, Choice, Issued, cookie};
use crate::policy::Policy;
use crate::policy::release::Release;
use crate::policy::release::key::Key;
use crate::policy::release::steer::Steer;
use crate::policy::release::version::HeaderEdits;
use crate::readiness::{Permit, Readiness};
use crate::value::baggage;
use crate::value::request::{Headers, Request};
use crate::weights::number;

/// Picks a version in each release that matches the request, and adds the edits that follow.
pub fn steer<'p: 'r, 'r, R: Request>(
    policy: &'p Policy,
    request: &mut Headers<'r, R>,
    readiness: &mut impl Readiness,
    splits: &mut [Split],
    assignments: &mut Vec<Assignment<'p>>,
    permits: &mut Vec<Permit>,
    edits: &mut ForwardEdits<'p>,
) {
    let candidates = policy.release_index.find(request);
    if !candidates.is_empty() {
        let split = Candidates { policy, indexes: &candidates };
        return split.steer(request, readiness, splits, assignments, permits, edits);
    }
    strip_headers(policy, request, &mut edits.request);
    write_baggage(policy, request, edits);
}

/// The releases that a request may match.
struct Candidates<'p, 'c> {
    policy: &'p Policy,
    indexes: &'c [usize],
}

impl<'p> Candidates<'p, '_> {
    /// Picks a version in each that the request matches, and adds the edits that follow.
    #[inline(never)]
    fn steer<'r, R: Request>(
        &self,
        request: &mut Headers<'r, R>,
        readiness: &mut impl Readiness,
        splits: &mut [Split],
        assignments: &mut Vec<Assignment<'p>>,
        permits: &mut Vec<Permit>,
        edits: &mut ForwardEdits<'p>,
    ) where
        'p: 'r,
    {
        let Candidates { policy, indexes } = *self;
        let mut issued: Vec<Issued<'p>> = Vec::new();
        let mut ended: Vec<&'p Release> = Vec::new();
        let mut steers: Vec<&Steer> = Vec::new();
        for index in indexes.iter().copied() {
            let (Some(release), Some(split)) = (policy.releases.get(index), splits.get_mut(index)) else {
                continue;
            };
            let is_taken = steers.iter().any(|steer| steer.writes_as(&release.steer));
            let is_matched = policy.release_index.decides(index) || release.matches.hold(request);
            if is_taken || !is_matched || release.skip.may_any(request) {
                continue;
            }
            // A single candidate cannot share its header with another release.
            if indexes.len() > 1 {
                steers.push(&release.steer);
            }
            if !split.is_in_progress() && release.issues().is_some() {
                ended.push(release);
            }
            let choice = release::choose(release, request, split, &issued, || readiness.date());
            let is_carried = carry(release, &choice, choice.version, request);
            let assigned = enter(release, &choice, is_carried, readiness, permits);
            let user = release::user(release, request, &choice, &issued);
            let version = assigned.map(|(version, _)| version);
            add_edits(release, split, &choice, version, request, edits);
            let before = issued_before_redirect(release, split, request);
            let is_repeated = before.is_some();
            issued.extend(choice.issued.clone().or(before));
            // Without versions, only the route's weights decide, so the version is unknown here.
            if let Some((version, reason)) = assigned {
                assignments.push(Assignment { release: index, choice, version, reason, user, is_repeated });
            }
        }
        strip_headers(policy, request, &mut edits.request);
        write_baggage(policy, request, edits);
        edits.request.extend(cookie_edit(&issued, request));
        edits.response.extend(issued.iter().filter_map(|issued| {
            let issue = issued.cookie.issue.as_ref()?;
            Some(HeaderEdit::add("set-cookie", cookie::issue(issued.cookie, issue, &issued.key)))
        }));
        for release in ended {
            // Two releases may have issued the same cookie.
            let edit = take_back_cookie(policy, release, splits, request);
            edits.response.extend(edit.filter(|edit| !edits.response.contains(edit)));
        }
    }
}

/// Adds the edit of the request's `baggage`, if it changes.
fn write_baggage<'p, R: Request>(
    policy: &'p Policy,
    request: &mut Headers<'_, R>,
    edits: &mut ForwardEdits<'p>,
) {
    if let Some(baggage) = policy.steers_by_baggage.then(|| request.new_baggage()).flatten() {
        edits.request.push(HeaderEdit::replace(baggage::HEADER, baggage));
    }
}

/// The header that Envoy adds to a request when it follows a redirect.
const REDIRECTED: &str = "x-envoy-original-url";

/// Returns the edit that adds newly issued keys to the request's cookies, if there are any. If Envoy follows a redirect,
/// the request comes again and must get the same version.
fn cookie_edit<'p: 'r, 'r, R: Request>(
    issued: &[Issued<'p>],
    request: &mut Headers<'r, R>,
) -> Option<HeaderEdit<'p>> {
    let new: Vec<&Issued<'p>> =
        issued.iter().filter(|issued| request.cookie(&issued.cookie.name).is_none()).collect();
    if new.is_empty() {
        return None;
    }
    let sent = match request.get("cookie") {
        Some(sent) => core::str::from_utf8(sent).ok()?.to_owned(),
        None => String::new(),
    };
    let pairs = new.iter().map(|issued| format!("{}={}", issued.cookie.name, issued.key));
    let cookies: Vec<String> = Some(sent).filter(|sent| !sent.is_empty()).into_iter().chain(pairs).collect();
    Some(HeaderEdit::set("cookie", cookies.join("; ")))
}

/// Returns the key that was issued before Envoy followed a redirect. The response to the first pass, which would have
/// issued it, did not reach the client.
fn issued_before_redirect<'p: 'r, 'r, R: Request>(
    release: &'p Release,
    split: &Split,
    request: &mut Headers<'r, R>,
) -> Option<Issued<'p>> {
    let cookie = release.issues().filter(|_| split.is_in_progress())?;
    request.get(REDIRECTED)?;
    let key = request.cookie(&cookie.name).filter(|key| cookie::issued_at(key).is_some())?;
    Some(Issued { cookie, key: core::str::from_utf8(key).ok()?.to_owned() })
}

/// Writes the version into the request's `baggage`, if the release steers by that. Returns `false` if it cannot carry the
/// version. It then has no member of that key.
fn carry<R: Request>(
    release: &Release,
    choice: &Choice<'_>,
    version: usize,
    request: &mut Headers<'_, R>,
) -> bool {
    // A later hop may have the version that this one lacks.
    let (Some(key), false) = (release.steer.member(), choice.reason == AssignmentReason::NoSuchVersion)
    else {
        return true;
    };
    let is_carried = release.versions.get(version).is_none_or(|to| request.set_member(key, &to.name));
    if !is_carried {
        request.remove_member(key);
    }
    is_carried
}

/// Returns the version that the request gets by this choice, and the reason. Returns `None` if the release
/// has no versions. A request that cannot be steered to the version gets the default one, to which routes lead without.
fn enter(
    release: &Release,
    choice: &Choice<'_>,
    is_carried: bool,
    readiness: &mut impl Readiness,
    permits: &mut Vec<Permit>,
) -> Option<(usize, AssignmentReason)> {
    release.versions.get(choice.version)?;
    let mut is_admitted = |version: usize| {
        let version = release.versions.get(version);
        version.is_some_and(|version| admit(version.upstream, readiness, permits).is_ok())
    };
    // A request gets the default version even if that is not Ready, because there is no other. It takes a
    // permit if there is one. Otherwise the trial of the default version would never end.
    let is_default = choice.version == release.default;
    let is_served = (is_carried || is_default) && is_admitted(choice.version);
    if is_served || is_default {
        return Some((choice.version, choice.reason));
    }
    is_admitted(release.default);
    let reason = if is_carried { AssignmentReason::Fallback } else { AssignmentReason::NotCarried };
    Some((release.default, reason))
}

/// Adds the edits of the release for a request that gets this version.
fn add_edits<'p: 'r, 'r, R: Request>(
    release: &'p Release,
    split: &Split,
    choice: &Choice<'p>,
    version: Option<usize>,
    request: &mut Headers<'r, R>,
    edits: &mut ForwardEdits<'p>,
) {
    let assigned = version.and_then(|version| release.versions.get(version));
    let value = match &release.steer {
        // A later hop may have the version that this one lacks.
        Steer::Header(_) if choice.reason == AssignmentReason::NoSuchVersion => None,
        Steer::RandomValueHeader(_) => Some(Cow::Owned(number_for(split, choice, version).to_string())),
        steer => assigned.and_then(|version| steer.value(version)).map(Cow::Borrowed),
    };
    if let (Some(header), Some(value)) = (release.steer.header(), value) {
        request.override_visible(header, Some(value.clone()));
        edits.request.push(HeaderEdit::set(header, value));
    }
    if let Some(fallback) = version.filter(|version| *version != choice.version) {
        carry(release, choice, fallback, request);
    }
    let Some(version) = assigned else {
        return;
    };
    if let Steer::FilterState(object) = &release.steer {
        edits.filter_state.push((object, &version.name));
    }
    override_visible(&version.request, request);
    edits.request.extend(edits_of(&version.request));
    edits.response.extend(edits_of(&version.response));
    if let Some(header) = &release.response_header {
        edits.response.push(HeaderEdit::set(header, &version.name));
    }
}

/// Returns the number by which the route picks this version. It is the number of the choice if that leads to
/// the version.
fn number_for(split: &Split, choice: &Choice<'_>, version: Option<usize>) -> u64 {
    let picked = number::pick(split.weights(), choice.number);
    let other = version.filter(|version| picked != Some(*version));
    let number = other.and_then(|version| number::of(split.weights(), version, choice.number));
    number.unwrap_or(choice.number)
}

/// Applies these edits to what matches see of the request.
fn override_visible<'p: 'r, 'r, R: Request>(edits: &'p HeaderEdits, request: &mut Headers<'r, R>) {
    for header in &edits.remove {
        request.override_visible(header, None);
    }
    for (header, value) in &edits.set {
        request.override_visible(header, Some(value.into()));
    }
    for (header, value) in &edits.add {
        // A match sees the first of several values.
        if request.get(header).is_none() {
            request.override_visible(header, Some(value.into()));
        }
    }
}

fn edits_of(edits: &HeaderEdits) -> impl Iterator<Item = HeaderEdit<'_>> {
    let remove = edits.remove.iter().map(|header| HeaderEdit::remove(header));
    let set = edits.set.iter().map(|(header, value)| HeaderEdit::set(header, value));
    let add = edits.add.iter().map(|(header, value)| HeaderEdit::add(header, value));
    remove.chain(set).chain(add)
}

/// Returns the edit that takes back a cookie that an ended release issued. Returns `None` if the request
/// carries none, or if another release still needs it.
fn take_back_cookie<'p: 'r, 'r, R: Request>(
    policy: &'p Policy,
    release: &'p Release,
    splits: &[Split],
    request: &mut Headers<'r, R>,
) -> Option<HeaderEdit<'p>> {
    let own = release.issues()?;
    let needs_cookie = |(other, split): (&Release, &Split)| {
        let mut cookies = other.keys.iter().flat_map(Key::parts).filter_map(Key::cookie);
        split.is_in_progress() && cookies.any(|cookie| cookie.name == own.name)
    };
    if policy.releases.iter().zip(splits).any(needs_cookie) {
        return None;
    }
    let sent = request.cookie(&own.name)?;
    cookie::issued_at(sent)?;
    Some(HeaderEdit::add("set-cookie", cookie::take_back(own, own.issue.as_ref()?)))
}

/// Returns the edits for a request that is diverted to this cluster. It gets no edits of a version.
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

/// Removes the steer headers and members that came from outside and that no edit replaces, from a request that gets no
/// version. They must not pick a route that no release gives the request.
pub fn strip_untrusted<'p, R: Request>(
    policy: &'p Policy,
    request: &Headers<'_, R>,
    edits: &mut Vec<HeaderEdit<'p>>,
) {
    strip_headers(policy, request, edits);
    if let Some(baggage) = request.without_hidden_members() {
        edits.push(HeaderEdit::replace(baggage::HEADER, baggage));
    }
}

fn strip_headers<'p, R: Request>(
    policy: &'p Policy,
    request: &Headers<'_, R>,
    edits: &mut Vec<HeaderEdit<'p>>,
) {
    let received = request.received_hidden(|header| !edits.iter().any(|edit| edit.header == header));
    for header in received.into_iter().filter_map(|index| policy.untrusted_headers.get(index)) {
        edits.push(HeaderEdit::remove(header));
    }
}
