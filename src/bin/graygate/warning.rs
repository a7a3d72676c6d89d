//! Warnings about a policy that is valid but may not do what is meant.

use graygate::policy::Policy;
use graygate::policy::probe::{Probe, ProbeKind};

/// Warns of probes in a policy that has hosts.
pub fn probes_warning(policy: &Policy) -> Option<String> {
    hosts_warning(policy).map(|warning| format!("policy {}: probes: {warning}", policy.name))
}

/// Warns of an order of telling that tells nobody, or not in that order. Each warning is about the key before it.
pub fn drain_warnings(policy: &Policy) -> Vec<(&'static str, String)> {
    let Some(drain) = policy.probes.drain.as_ref().filter(|drain| !drain.readiness_after.is_zero()) else {
        return Vec::new();
    };
    let mut warnings = Vec::new();
    if !policy.probes.endpoints.iter().any(|probe| probe.fails_at_once) {
        let text = "nobody is told of a drain at once, as no group of probes is in drain.groups. Add the group that load balancers ask, or remove readinessAfter";
        warnings.push(("probes.drain.readinessAfter", text.to_owned()));
    }
    let is_asked = |probe: &Probe| {
        let checks = probe.checks().map(|checks| checks.components.as_slice()).unwrap_or_default();
        checks.iter().any(|component| Some(component.upstream) == drain.also_when)
    };
    if let Some(id) = drain.also_when.filter(|_| policy.probes.of(ProbeKind::Readiness).is_some_and(is_asked))
    {
        let name = policy.name_of(id);
        let text = format!(
            "readiness also has {name} in its checks, so it fails at once when {name} drains, and readinessAfter has no effect. Remove the check"
        );
        warnings.push(("probes.drain.alsoWhen", text));
    }
    warnings
}

/// Warns of probes in a policy that has hosts. The warning is about `probes`.
pub fn hosts_warning(policy: &Policy) -> Option<&'static str> {
    let is_wrong = !policy.probes.is_empty() && !policy.hosts.are_all();
    is_wrong.then_some(
        "only requests for the policy's hosts are its probes. A kubelet sends the Pod's IP as the host, so probes of a kubelet belong into a policy without hosts, the last of the document",
    )
}
