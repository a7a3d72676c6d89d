//! Checks an EnvoyProxy for what graygate's metrics need.

use graygate::worker::metric::spec::labels;

use super::extension::GROUP;
use super::findings::GatewayFindings;
use crate::istio::model::Object;
use crate::tree::{get, get_text, items};

/// The beginning of the names of graygate's metrics.
const PREFIX: &str = "wasmcustom.graygate_";

/// Returns whether the object is an EnvoyProxy.
pub fn is_proxy(object: &Object<'_>) -> bool {
    (object.group, object.kind) == (GROUP, "EnvoyProxy")
}

/// Returns whether an EnvoyProxy lets rules share the clusters of their backends.
pub fn merges_backends(object: &Object<'_>) -> bool {
    get(object.node, &["spec", "mergeBackends"]).is_some()
}

/// Reports an EnvoyProxy without the labels of the metrics, or that leaves the metrics out.
pub fn check(index: usize, object: &Object<'_>, findings: &mut GatewayFindings) {
    let bootstrap = get(object.node, &["spec", "bootstrap"]);
    let text = bootstrap.and_then(|node| serde_json::to_string(node).ok()).unwrap_or_default();
    let missing: Vec<&str> =
        labels().into_iter().filter(|label| !text.contains(&format!("({label}="))).collect();
    if !missing.is_empty() {
        let path = if bootstrap.is_some() { "spec.bootstrap" } else { "spec" };
        findings.warning(index, path, format!("the bootstrap lacks the rules for the labels {}, so they stay in the names of graygate's metrics. Add what this prints: graygate stats-tags --for envoy-gateway", missing.join(", ")));
    }
    let path = "spec.telemetry.metrics.matches";
    let matches = items(get(object.node, &["spec", "telemetry", "metrics", "matches"]));
    let takes = |kind: Option<&str>, value: &str| match kind {
        Some("Prefix") => PREFIX.starts_with(value),
        // Other kinds may take them. Only a reader can tell.
        _ => value.contains("graygate"),
    };
    let is_taken = matches
        .iter()
        .any(|item| takes(get_text(item, &["type"]), get_text(item, &["value"]).unwrap_or_default()));
    if !matches.is_empty() && !is_taken {
        findings.warning(
            index,
            path,
            format!("leaves graygate's metrics out. Add {{type: Prefix, value: {PREFIX}}}"),
        );
    }
}
