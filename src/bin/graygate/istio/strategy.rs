//! What becomes of requests while the module is not there or its VM has failed, as a resource says it.

use graygate::policy::document::Node;

use super::findings::Findings;
use super::model::{Filter, Resource};
use super::module_source::Allowed;

/// A filter that lets no request pass while it is not there takes down what it was to protect.
const CLOSED: &str = "so each request is denied while the module is not there or its VM has failed";

/// Reports a strategy that is missing, unknown, or that lets no request pass.
pub fn check(resource: &Resource, filter: &Filter, allowed: &[Allowed], findings: &mut Findings) {
    let (path, value) = &filter.fail;
    let start = format!("{}: {resource}: {path}", resource.file);
    let (strategies, other) = match resource.kind {
        "EnvoyFilter" => (["FAIL_OPEN", "FAIL_RELOAD", "FAIL_CLOSED"], "; for Istio 1.24 fail_open"),
        _ => (["FAIL_OPEN", "FAIL_RELOAD", "FAIL_CLOSE"], ""),
    };
    let [open, reload, closed] = strategies;
    let strategy = match value {
        None if filter.is_partial => return,
        None => {
            findings.problem(format!("{start}: missing, {CLOSED}; allowed: {open}, {reload}{other}"));
            return;
        }
        Some(Node::Text(strategy)) => strategy.as_str(),
        // The older field of an EnvoyFilter, and the numbers of the newer one.
        Some(Node::Bool(false) | Node::Integer(2)) => closed,
        Some(Node::Integer(1)) => reload,
        Some(_) => open,
    };
    if !strategies.contains(&strategy) {
        // A plugin has FAIL_CLOSE where an EnvoyFilter has FAIL_CLOSED.
        findings.problem(format!(
            "{start}: {strategy} is not allowed; allowed: {open}, {reload}, {closed}{other}"
        ));
    } else if strategy == closed && !allowed.contains(&Allowed::FailClose) {
        findings.problem(format!(
            "{start}: {strategy}, {CLOSED}; allowed: {open}, {reload}; --allow fail-close lets it pass"
        ));
    } else if strategy == reload && filter.module.as_ref().is_some_and(|module| !module.is_file()) {
        findings.note(format!(
            "{start}: {reload} is for a VM that failed; while the module can't be fetched, each request is denied all the same; FAIL_OPEN lets them pass"
        ));
    }
}
