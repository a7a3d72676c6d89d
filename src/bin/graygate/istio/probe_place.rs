//! Whether the kubelet's probes come to a filter.
//!
//! The kubelet's own probes pass no Envoy, unless the filter has a listener of its own or the rewriting of probes is off.
//! See `istio/probes.md`.

use graygate::policy::Policy;

use super::direction::{self, Direction};
use super::findings::Findings;
use super::model::{Filter, Object};
use crate::tree::{get, get_text, items};

/// The annotation of a Pod whose probes come to its port, and not to Istio's agent.
const REWRITE: &str = "sidecar.istio.io/rewriteAppHTTPProbers";

/// Notes probes that the filter does not answer, and those that are not the kubelet's. `start` is the path to the policy.
pub fn check(start: &str, filter: &Filter, policy: &Policy, objects: &[Object<'_>], findings: &mut Findings) {
    if policy.probes.is_empty() {
        return;
    }
    if let Some(off) = direction::off_warning(policy, filter.own_listener) {
        findings.note(format!("{start}.{off}"));
    }
    // No kubelet asks for the status page.
    let is_page_alone = policy.probes.count() == usize::from(policy.probes.status.is_some());
    if filter.own_listener || filter.is_partial || is_page_alone {
        return;
    }
    let place = if filter.directions.contains(&Direction::Waypoint) {
        "no probe of the kubelet passes a waypoint, so it answers others' alone"
    } else if filter.directions.contains(&Direction::Gateway) {
        "the kubelet asks a gateway's own port 15021, so the filter answers others' alone, such as a load balancer's"
    } else if filter.directions.contains(&Direction::Inbound) && !objects.iter().any(keeps_probes) {
        "the kubelet's own go past the sidecar's listeners, unless the Pods have sidecar.istio.io/rewriteAppHTTPProbers: \"false\" or the filter a listener of its own; see istio/probes.md"
    } else {
        return;
    };
    findings.note(format!("{start}.probes: {place}"));
}

/// Returns whether the object makes Pods whose probes come to their own port.
fn keeps_probes(object: &Object<'_>) -> bool {
    let template = ["spec", "template", "metadata", "annotations", REWRITE];
    let own = ["metadata", "annotations", REWRITE];
    [&template[..], &own[..]].iter().any(|keys| get_text(object.node, keys) == Some("false"))
        && (object.kind == "Pod"
            || !items(get(object.node, &["spec", "template", "spec", "containers"])).is_empty())
}
