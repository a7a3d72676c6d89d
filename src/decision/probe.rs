//! Probes: which request is one, and what it is told.
//!
//! A health endpoint is asked by a GET or HEAD of its exact path, whatever the query, or of that path with
//! the name of one of its checks behind it. An upstream on trial counts as ready here: without traffic no
//! trial would end, and a failed readiness keeps the traffic away.

pub mod cache;
pub mod drain;
pub mod health;
mod json;
mod result;
mod text;

use crate::decision::action::Action;
use crate::decision::reply::{Header, ProbeTarget, Reply};
use crate::policy::Policy;
use crate::policy::probe::{
    Basis, Component, Details, Drain, GRPC_HEALTH, Probe, ProbeComponents, ProbeKind,
};
use crate::readiness::Readiness;
use crate::value::request::{self, Headers, Request};
use result::{ProbeResult, ProbeStatus};

/// What a request asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeRequest<'p> {
    /// A health endpoint, by its index in the policy; or one check of it.
    Endpoint(usize, &'p Probe, Option<&'p Component>),
    /// The switch that fails readiness.
    Drain(&'p Drain),
    /// gRPC's health service.
    Grpc,
}

/// What the request asks, if it is a probe.
pub fn find<'p: 'r, 'r, R: Request>(
    policy: &'p Policy,
    request: &mut Headers<'r, R>,
) -> Option<ProbeRequest<'p>> {
    let probes = &policy.probes;
    if probes.is_empty() {
        return None;
    }
    let ask = by_path(policy, request::path(request.get(":path")?))?;
    let method = request.get(":method");
    let asked = !matches!(ask, ProbeRequest::Endpoint(..)) || matches!(method, Some(b"GET" | b"HEAD"));
    (asked && probes.matches.hold(request)).then_some(ask)
}

fn by_path<'p>(policy: &'p Policy, path: &[u8]) -> Option<ProbeRequest<'p>> {
    let probes = &policy.probes;
    let endpoints = || probes.endpoints.iter().enumerate();
    if let Some((index, probe)) = endpoints().find(|(_, probe)| probe.path.as_bytes() == path) {
        return Some(ProbeRequest::Endpoint(index, probe, None));
    }
    if let Some(drain) = probes.drain.as_ref().filter(|drain| drain.path.as_bytes() == path) {
        return Some(ProbeRequest::Drain(drain));
    }
    if !probes.grpc_services.is_empty() && path.starts_with(GRPC_HEALTH.as_bytes()) {
        return Some(ProbeRequest::Grpc);
    }
    endpoints().find_map(|(index, probe)| {
        let rest = path.strip_prefix(probe.path.as_bytes())?;
        let name = if probe.path.ends_with('/') { rest } else { rest.strip_prefix(b"/")? };
        let mut components = probe.checks()?.components.iter();
        let named = |component: &&Component| {
            policy.upstream(component.upstream).is_some_and(|upstream| upstream.name.as_bytes() == name)
        };
        Some(ProbeRequest::Endpoint(index, probe, Some(components.find(named)?)))
    })
}

/// What is to happen to a request that asks.
pub fn answer<'p: 'r, 'r, R: Request>(
    policy: &'p Policy,
    ask: ProbeRequest<'p>,
    request: &mut Headers<'r, R>,
    readiness: &impl Readiness,
) -> Action<'p> {
    match ask {
        ProbeRequest::Endpoint(index, probe, component) => match (&probe.basis, component) {
            (Basis::Checks(_), Some(component)) => {
                Action::Reply(one_check(policy, index, probe, component, request, readiness))
            }
            (Basis::Checks(checks), None) => {
                let excluded = request::query_values(request.get(":path").unwrap_or_default(), "exclude");
                let excluded: Vec<&[u8]> = excluded.collect();
                let result = ProbeResult::of(policy, probe.kind, checks, readiness, &excluded);
                Action::Reply(reply(policy, probe, ProbeTarget::Endpoint(index), &result, request))
            }
            (Basis::App(rule), _) => {
                // The app has no say in what holds readiness back.
                let result = ProbeResult::of(policy, probe.kind, &ProbeComponents::default(), readiness, &[]);
                match result.status {
                    ProbeStatus::Failed => {
                        Action::Reply(reply(policy, probe, ProbeTarget::Endpoint(index), &result, request))
                    }
                    _ => {
                        let head = request.get(":method") == Some(b"HEAD");
                        Action::PassThrough { endpoint: index, probe, rule, head }
                    }
                }
            }
        },
        ProbeRequest::Drain(drain) => drain::answer(policy, drain, request, readiness),
        ProbeRequest::Grpc => health::answer(policy, request, readiness),
    }
}

/// The reply to a probe for one of its checks: that one's own result, whatever else holds readiness back.
fn one_check<'r, R: Request>(
    policy: &Policy,
    index: usize,
    probe: &Probe,
    component: &Component,
    request: &mut Headers<'r, R>,
    readiness: &impl Readiness,
) -> Reply {
    let alone = Component { required: true, weight: 0, ..*component };
    let alone = ProbeComponents { components: vec![alone], minimum_score: 0 };
    let result = match probe.kind {
        ProbeKind::Startup if !readiness.lifecycle().started => {
            ProbeResult::of_startup(policy, &alone, readiness)
        }
        _ => ProbeResult::of(policy, ProbeKind::Group, &alone, readiness, &[]),
    };
    reply(policy, probe, ProbeTarget::Check(index, component.upstream), &result, request)
}

/// Whether the startup probe's checks have passed by now. With none, there is nothing to wait for.
pub fn has_started(policy: &Policy, readiness: &impl Readiness) -> bool {
    let Some(checks) = policy.probes.of(ProbeKind::Startup).and_then(Probe::checks) else {
        return true;
    };
    ProbeResult::of_startup(policy, checks, readiness).status != ProbeStatus::Failed
}

/// The marker header by which another Envoy's health checks tell that they have reached the service they were
/// meant for. Its value is the host's to know.
pub const SERVICE: &str = "x-envoy-upstream-healthchecked-cluster";

/// The reply that says the verdict on what is asked, in the form that is asked for.
fn reply<'r, R: Request>(
    policy: &Policy,
    probe: &Probe,
    asked: ProbeTarget,
    result: &ProbeResult<'_>,
    request: &mut Headers<'r, R>,
) -> Reply {
    let name = asked.name(policy);
    let form = request.get("accept").and_then(json::media_type);
    let verbose = request::query_values(request.get(":path").unwrap_or_default(), "verbose").next().is_some();
    let lists = match policy.probes.details {
        Details::Never => false,
        Details::OnFailure => {
            let asked = verbose || form.is_some();
            asked || result.status != ProbeStatus::Passed || !result.unknown.is_empty()
        }
        Details::Always => true,
    };
    let body = match form {
        Some(_) => json::body(policy, &name, result, lists),
        None => text::body(policy, &name, result, lists).into_bytes(),
    };
    // The proxy answers faster than a cache would, so only the form whose specification has caches in mind
    // allows them, until the next check. An order to drain does not wait for that.
    let ordered = probe.kind == ProbeKind::Readiness && policy.probes.drain.is_some();
    let cache_control = match form {
        Some(_) if result.status == ProbeStatus::Passed && !ordered => {
            format!("max-age={}", result.news_in.as_secs()).into()
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
    let draining = result.held.iter().any(|(name, _)| *name == "drain");
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
    // These have no body; one that came all the same would be taken for the start of the next answer.
    let body = if matches!(status, 204 | 205 | 304) { Vec::new() } else { body };
    Reply::to_probe(policy, asked, status, result.status.name(), headers, body)
}

#[cfg(test)]
mod tests;
