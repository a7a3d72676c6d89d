//! What is worth a second look before a policy goes to all proxies of a mesh.

use graygate::policy::document::Node;
use graygate::policy::{Mode, Policy};

use super::findings::Findings;
use super::model::{ProxySelector, Resource};
use crate::tree::get;

/// Notes a policy that all proxies of the mesh enforce at once. Whoever has gone through the steps of a rollout has its
/// percentage in the policy. `start` is the path to the policy.
pub fn check(
    resource: &Resource,
    start: &str,
    (document, policy): (&Node, &Policy),
    root: &str,
    findings: &mut Findings,
) {
    let is_everywhere = resource.namespace == root
        && resource.selector == ProxySelector::Labels(Vec::new())
        && resource.revision.is_none();
    if is_everywhere && policy.mode == Mode::Enforce && get(document, &["rollout"]).is_none() {
        findings.note(format!(
            "{start}.mode: enforce, in all proxies of the mesh at once; mode: shadow only counts, and rollout: {{percent: 1}} begins with one of a hundred"
        ));
    }
}
