//! Recognizes probes and replies to them.
//!
//! A probe is a GET or HEAD of the exact path of a health endpoint, with any query. The path may be followed
//! by the name of one of its checks.
//!
//! A misspelt name is answered 404. Forwarded, the app's own 200 could pass for the check's result. No request
//! that the app may serve is taken from it beyond that: `/readyz/NAME` is ours only if
//!
//! - readiness has checks, so that some `/readyz/NAME` is a probe,
//! - its path does not end with `/`, as below `/` or `/health/` are the app's own pages,
//! - NAME is a possible name of an upstream, so it is one segment of the path and not empty.
//!
//! An upstream on trial counts as ready here. A trial needs traffic to end, and a failed readiness would keep
//! the traffic away.

pub mod cache;
pub mod drain;
pub mod health;
mod json;
pub mod result;
mod source;
pub mod status;
mod text;

use std::rc::Rc;

use crate::decision::action::Action;
use crate::decision::ready::{Occasion, ReadyReplies};
use crate::decision::reply::{Header, ProbeTarget, Reply};
use crate::policy::Policy;
use crate::policy::format::is_label;
use crate::policy::probe::{
    Basis, Component, Details, Drain, GRPC_HEALTH, Probe, ProbeComponents, ProbeKind, StatusPage,
};
use crate::readiness::Readiness;
use crate::value::code::CodeSpec;
use crate::value::date::Date;
use crate::value::request::{self, Headers, Request};
use result::{HeldBack, ProbeResult, ProbeStatus};

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeRequest<'p> {
    /// A health endpoint, by its index in the policy, or one check of it.
    Endpoint(usize, &'p Probe, Option<&'p Component>),
    /// A check of a health endpoint, by a name that none of its checks has.
    UnknownCheck(usize, &'p Probe, &'p ProbeComponents),
    /// The drain switch.
    Drain(&'p Drain),
    /// The status page.
    Status(&'p StatusPage),
    /// The gRPC health service.
    Grpc,
}

/// Returns what the request asks for, or `None` if it is not a probe.
pub fn find<'p: 'r, 'r, R: Request>(
    policy: &'p Policy,
    request: &mut Headers<'r, R>,
) -> Option<ProbeRequest<'p>> {
    let probes = &policy.probes;
    if probes.is_empty() {
        return None;
    }
    let probe = find_by_path(policy, request.path()?)?;
    let is_read = matches!(request.get(":method"), Some(b"GET" | b"HEAD"));
    if matches!(probe, ProbeRequest::Endpoint(..) | ProbeRequest::UnknownCheck(..)) && !is_read {
        return None;
    }
    probes.matches.hold(request).then_some(probe)
}

fn find_by_path<'p>(policy: &'p Policy, path: &[u8]) -> Option<ProbeRequest<'p>> {
    let probes = &policy.probes;
    let endpoints = || probes.endpoints.iter().enumerate();
    let mut names_check = false;
    for (index, probe) in endpoints() {
        match path.strip_prefix(probe.path.as_bytes()) {
            Some([]) => return Some(ProbeRequest::Endpoint(index, probe, None)),
            rest => names_check |= rest.is_some(),
        }
    }
    if let Some(drain) = &probes.drain
        && drain.path.as_ref().is_some_and(|switch| switch.as_bytes() == path)
    {
        return Some(ProbeRequest::Drain(drain));
    }
    if let Some(page) = probes.status.as_ref().filter(|page| page.path.as_bytes() == path) {
        return Some(ProbeRequest::Status(page));
    }
    if !probes.grpc_services.is_empty() && path.starts_with(GRPC_HEALTH.as_bytes()) {
        return Some(ProbeRequest::Grpc);
    }
    if !names_check {
        return None;
    }
    let mut unknown = None;
    for (index, probe) in endpoints() {
        let (Some(checks), Some(name)) = (probe.checks(), check_name(probe, path)) else {
            continue;
        };
        let is_named = |component: &&Component| policy.name_of(component.upstream).as_bytes() == name;
        if let Some(component) = checks.components.iter().find(is_named) {
            return Some(ProbeRequest::Endpoint(index, probe, Some(component)));
        }
        let is_name = core::str::from_utf8(name).is_ok_and(is_label);
        if is_name && !checks.components.is_empty() && !probe.path.ends_with('/') {
            unknown = unknown.or(Some(ProbeRequest::UnknownCheck(index, probe, checks)));
        }
    }
    unknown
}

/// Returns what follows the path of the probe, without the slash between them.
fn check_name<'r>(probe: &Probe, path: &'r [u8]) -> Option<&'r [u8]> {
    let rest = path.strip_prefix(probe.path.as_bytes())?;
    if probe.path.ends_with('/') { Some(rest) } else { rest.strip_prefix(b"/") }
}

/// Returns what happens to a probe.
pub fn answer<'p: 'r, 'r, R: Request>(
    policy: &'p Policy,
    probe: ProbeRequest<'p>,
    request: &mut Headers<'r, R>,
    readiness: &impl Readiness,
    ready: &mut ReadyReplies,
) -> Action<'p> {
    match probe {
        ProbeRequest::Endpoint(index, probe, component) => match (&probe.basis, component) {
            (Basis::Checks(_), Some(component)) => {
                one_check(policy, (index, probe), component, request, readiness, ready)
            }
            (Basis::Checks(checks), None) => {
                let target = request.get(":path").unwrap_or_default();
                let excluded: Vec<&[u8]> = request::query_values(target, "exclude").collect();
                let result = ProbeResult::of(policy, probe, checks, readiness, &excluded);
                reply(policy, probe, ProbeTarget::Endpoint(index), &result, request, readiness, ready)
            }
            (Basis::App(rule), _) => {
                // The app cannot override what holds readiness back.
                let result = ProbeResult::of(policy, probe, &ProbeComponents::default(), readiness, &[]);
                match result.status {
                    ProbeStatus::Failed => {
                        reply(policy, probe, ProbeTarget::Endpoint(index), &result, request, readiness, ready)
                    }
                    _ => {
                        let head = request.get(":method") == Some(b"HEAD");
                        Action::PassThrough { endpoint: index, probe, rule, head }
                    }
                }
            }
        },
        ProbeRequest::UnknownCheck(index, probe, checks) => {
            Action::Reply(Rc::new(unknown_check(policy, index, probe, checks)))
        }
        ProbeRequest::Drain(drain) => drain::answer(policy, drain, request, readiness),
        ProbeRequest::Status(page) => status::answer(policy, page, request),
        ProbeRequest::Grpc => health::answer(policy, request, readiness),
    }
}

/// Returns the reply to a probe for one check. Only that check counts, whatever else holds readiness back.
fn one_check<'p, 'r, R: Request>(
    policy: &Policy,
    (index, probe): (usize, &Probe),
    component: &Component,
    request: &mut Headers<'r, R>,
    readiness: &impl Readiness,
    ready: &mut ReadyReplies,
) -> Action<'p> {
    let required = Component { required: true, weight: 0, ..*component };
    let alone = ProbeComponents { components: vec![required], minimum_score: 0 };
    let result = match probe.kind {
        ProbeKind::Startup if !readiness.lifecycle().started => {
            ProbeResult::of_startup(policy, &alone, readiness)
        }
        _ => ProbeResult::of_checks(policy, &alone, readiness),
    };
    reply(policy, probe, ProbeTarget::Check(index, component.upstream), &result, request, readiness, ready)
}

/// The status of the reply to a probe for a check that does not exist.
pub const UNKNOWN_STATUS: u32 = 404;

/// The code of that reply in metrics.
pub const UNKNOWN: CodeSpec = CodeSpec::new(
    "not-found",
    "`result` of `graygate_probe_answers_total`",
    "The path names a check that the probe does not have.",
    "Ask the probe itself with `?verbose`, which lists the names of its checks.",
);

/// Returns the reply to a probe for a check that does not exist. It names the checks only if the policy tells
/// clients their names.
fn unknown_check(policy: &Policy, index: usize, probe: &Probe, checks: &ProbeComponents) -> Reply {
    let name = &probe.name;
    let text = match policy.probes.details {
        Details::Never => format!("{name} has no check of this name"),
        Details::OnFailure | Details::Always => {
            let names: Vec<&str> =
                checks.components.iter().map(|component| policy.name_of(component.upstream)).collect();
            format!("{name} has no check of this name. It has: {}", names.join(", "))
        }
    };
    Reply::line_to_probe(policy, ProbeTarget::Endpoint(index), UNKNOWN_STATUS, UNKNOWN.code, &text)
}

/// Returns whether the startup probe's checks have passed. Without a startup probe the proxy counts as
/// started.
pub fn has_started(policy: &Policy, readiness: &impl Readiness) -> bool {
    let Some(checks) = policy.probes.of(ProbeKind::Startup).and_then(Probe::checks) else {
        return true;
    };
    ProbeResult::of_startup(policy, checks, readiness).status != ProbeStatus::Failed
}

/// The marker header by which another Envoy's health checks verify that they reached the intended service.
/// Its value is known to the worker.
pub const SERVICE: &str = "x-envoy-upstream-healthchecked-cluster";

/// Returns the reply with this result, in the form that the request accepts.
fn reply<'p, 'r, R: Request>(
    policy: &Policy,
    probe: &Probe,
    asked: ProbeTarget,
    result: &ProbeResult<'_>,
    request: &mut Headers<'r, R>,
    readiness: &impl Readiness,
    ready: &mut ReadyReplies,
) -> Action<'p> {
    let form = request.get("accept").and_then(json::media_type);
    let verbose = request::query_values(request.get(":path").unwrap_or_default(), "verbose").next().is_some();
    let lists = match policy.probes.details {
        Details::Never => false,
        Details::OnFailure => {
            let is_requested = verbose || form.is_some();
            is_requested || result.status != ProbeStatus::Passed || !result.unknown.is_empty()
        }
        Details::Always => true,
    };
    let draining = result.held.iter().any(|held| matches!(held, HeldBack::Draining(_)));
    let view = View { form, lists, draining };
    let make = || make_reply(policy, probe, asked, result, view, &|| readiness.date());
    if form.is_some() || lists {
        return Action::Reply(Rc::new(make()));
    }
    let age = result.oldest.map(|age| age.as_secs());
    ready.action(Occasion::Probe { asked, status: result.status, draining, age }, make)
}

/// The parts that a reply to a probe has.
#[derive(Clone, Copy)]
struct View {
    /// The media type, if it is a form of JSON.
    form: Option<&'static str>,
    /// Whether it lists the result of each check.
    lists: bool,
    /// Whether the proxy drains.
    draining: bool,
}

/// Creates the reply to a probe. Without a form and a list, it depends on what [`Occasion::Probe`] has alone.
#[inline(never)]
fn make_reply(
    policy: &Policy,
    probe: &Probe,
    asked: ProbeTarget,
    result: &ProbeResult<'_>,
    View { form, lists, draining }: View,
    today: &dyn Fn() -> Date,
) -> Reply {
    let name = asked.name(policy);
    let body = match form {
        Some(_) => json::body(policy, &name, result, lists, today),
        None => text::body(policy, &name, result, lists).into_bytes(),
    };
    // The proxy replies faster than a cache would. Only the form whose specification provides for caches
    // allows them, until the next check. An order to drain must not wait that long.
    let may_drain = policy.probes.fails_after(probe.kind, probe.fails_at_once).is_some();
    let cache_control = match form {
        Some(_) if result.status == ProbeStatus::Passed && !may_drain => {
            format!("max-age={}", result.fresh_for.as_secs()).into()
        }
        _ => "no-store".into(),
    };
    let mut headers: Vec<Header> = vec![
        ("content-type".into(), form.unwrap_or("text/plain; charset=utf-8").into()),
        ("cache-control".into(), cache_control),
        ("vary".into(), "accept".into()),
        ("x-content-type-options".into(), "nosniff".into()),
    ];
    headers.extend(result.oldest.map(|age| ("age".into(), age.as_secs().to_string().into())));
    let marker = match result.status {
        ProbeStatus::Degraded => Some("x-envoy-degraded"),
        ProbeStatus::Failed if draining => Some("x-envoy-immediate-health-check-fail"),
        _ => None,
    };
    headers.extend(marker.filter(|_| policy.probes.marker_headers).map(|name| (name.into(), "true".into())));
    let status = match result.status {
        ProbeStatus::Passed => probe.statuses.passed,
        ProbeStatus::Degraded => probe.statuses.degraded,
        ProbeStatus::Failed => probe.statuses.failed,
    };
    // These statuses have no body. A body would be taken for the start of the next response.
    let body = if matches!(status, 204 | 205 | 304) { Vec::new() } else { body };
    Reply::to_probe(policy, asked, status, result.status.name(), headers, body)
}

#[cfg(test)]
mod tests;
