//! Replies to probes as text, like those of the Kubernetes API server. The reply has a line for each check
//! and ends with the verdict.

use core::fmt::Write;

use super::result::{ComponentHealth, ComponentResult, ProbeResult, ProbeStatus, Seconds};
use crate::policy::Policy;

/// Returns the body with the result of the probe `name`. With `lists` it includes the result of each check.
pub fn body(policy: &Policy, name: &str, result: &ProbeResult<'_>, lists: bool) -> String {
    // This is enough for most replies. To grow costs more than to write.
    let mut body = String::with_capacity(if lists { 512 } else { 128 });
    // Writing to a String cannot fail.
    if lists {
        let _ = list(&mut body, result);
    }
    let verdict = match result.status {
        ProbeStatus::Degraded => "passed, degraded",
        status => status.name(),
    };
    for part in ["policy ", &policy.name, ": ", name, " ", verdict] {
        body.push_str(part);
    }
    if let Some(age) = result.oldest.filter(|_| lists) {
        let _ = write!(body, "; oldest answer {} s", Seconds(age));
    }
    body.push('\n');
    body
}

fn list(body: &mut String, result: &ProbeResult<'_>) -> core::fmt::Result {
    for ComponentResult { name, part, health, .. } in &result.components {
        match health {
            ComponentHealth::Ok => writeln!(body, "[+]{name} ok")?,
            ComponentHealth::Doubtful(doubt) => writeln!(body, "[+]{name} ok: {doubt}")?,
            ComponentHealth::Excluded => writeln!(body, "[+]{name} excluded")?,
            ComponentHealth::Failed(fault) => {
                write!(body, "[-]{name} failed: {fault}")?;
                match (part.weight, part.required) {
                    (0, true) => {}
                    (0, false) => body.write_str(" (optional)")?,
                    (weight, false) => write!(body, " (weight {weight})")?,
                    (weight, true) => write!(body, " (weight {weight}, required)")?,
                }
                body.push('\n');
            }
        }
    }
    for held in &result.held {
        writeln!(body, "[-]{} failed: {held}", held.name())?;
    }
    if let Some(score) = result.score {
        writeln!(body, "{score}")?;
    }
    for name in &result.unknown {
        writeln!(body, "warning: no check {name:?} to exclude")?;
    }
    Ok(())
}
