//! Probes: which request is a probe, and what it is told.
//!
//! A probe is a GET or HEAD of a probe's exact path, whatever its query. An upstream on trial counts as
//! ready here: without traffic no trial would end, and a failed readiness keeps the traffic away.

use core::fmt::Write;

use crate::engine::{Cause, Readiness, Reply, Standing};
use crate::policy::Policy;
use crate::policy::probe::Probe;
use crate::request::{self, Headers, Request};

/// The probe that the request is, if it is one.
pub fn find<'p, R: Request>(policy: &'p Policy, request: &mut Headers<'_, R>) -> Option<&'p Probe> {
    if policy.probes.is_empty() {
        return None;
    }
    let path = request::path(request.get(":path")?);
    let probe = policy.probes.iter().find(|probe| probe.path.as_bytes() == path)?;
    matches!(request.get(":method"), Some(b"GET" | b"HEAD")).then_some(probe)
}

/// The answer to a probe: 200 or 503, and a line for each check in the manner of the Kubernetes API server.
pub fn answer(policy: &Policy, probe: &Probe, readiness: &impl Readiness) -> Reply {
    let mut body = String::new();
    let mut passed = true;
    for id in &probe.checks {
        let name = policy.upstream(*id).map_or("", |upstream| upstream.name.as_str());
        // Writing to a String can't fail.
        let _ = match readiness.standing(*id) {
            Standing::Ready => writeln!(body, "[+]{name} ok"),
            Standing::Trial(_) => writeln!(body, "[+]{name} ok: on trial"),
            Standing::NotReady(reason) => {
                passed = false;
                writeln!(body, "[-]{name} failed: {reason}")
            }
        };
    }
    let (status, verdict) = if passed { (200, "passed") } else { (503, "failed") };
    let _ = writeln!(body, "policy {}: {} {verdict}", policy.name, probe.kind.name());
    Reply {
        status,
        headers: [("content-type", "text/plain; charset=utf-8"), ("cache-control", "no-store")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec(),
        body,
        details: format!("graygate_probe{{{}|{}}}", policy.name, probe.kind.name()),
        cause: Cause::Probe { kind: probe.kind, passed },
    }
}
