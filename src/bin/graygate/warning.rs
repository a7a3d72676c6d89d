//! Warnings about a policy that is valid but may not do what is meant.

use graygate::policy::Policy;

/// Warns of probes in a policy that has hosts.
pub fn probes_warning(policy: &Policy) -> Option<String> {
    hosts_warning(policy).map(|warning| format!("policy {}: probes: {warning}", policy.name))
}

/// Warns of probes in a policy that has hosts. The warning is about `probes`.
pub fn hosts_warning(policy: &Policy) -> Option<&'static str> {
    let is_wrong = !policy.probes.is_empty() && !policy.hosts.are_all();
    is_wrong.then_some(
        "only requests for the policy's hosts are its probes. A kubelet sends the Pod's IP as the host, so probes of a kubelet belong into a policy without hosts, the last of the document",
    )
}
