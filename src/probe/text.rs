//! An answer in the manner of the Kubernetes API server: a line for each check, and the verdict last.

use core::fmt::Write;

use super::verdict::{Finding, Health, Seconds, Verdict};
use crate::policy::Policy;

/// The body that says the verdict on `name`, and, with `lists`, what it rests on.
pub fn body(policy: &Policy, name: &str, verdict: &Verdict<'_>, lists: bool) -> String {
    // Room for most answers, as to grow costs more than to write.
    let mut body = String::with_capacity(if lists { 512 } else { 128 });
    // Writing to a String can't fail.
    if lists {
        let _ = list(&mut body, verdict);
    }
    let outcome = match verdict.outcome {
        super::Outcome::Degraded => "passed, degraded",
        outcome => outcome.word(),
    };
    for part in ["policy ", &policy.name, ": ", name, " ", outcome] {
        body.push_str(part);
    }
    if let Some(age) = verdict.oldest.filter(|_| lists) {
        let _ = write!(body, "; oldest answer {} s", Seconds(age));
    }
    body.push('\n');
    body
}

fn list(body: &mut String, verdict: &Verdict<'_>) -> core::fmt::Result {
    for Finding { name, component, health, .. } in &verdict.findings {
        match health {
            Health::Ok => writeln!(body, "[+]{name} ok")?,
            Health::Doubtful(doubt) => writeln!(body, "[+]{name} ok: {doubt}")?,
            Health::Excluded => writeln!(body, "[+]{name} excluded")?,
            Health::Failed(fault) => {
                write!(body, "[-]{name} failed: {fault}")?;
                match (component.weight, component.required) {
                    (0, true) => {}
                    (0, false) => body.write_str(" (optional)")?,
                    (weight, false) => write!(body, " (weight {weight})")?,
                    (weight, true) => write!(body, " (weight {weight}, required)")?,
                }
                body.push('\n');
            }
        }
    }
    for (name, reason) in &verdict.held {
        writeln!(body, "[-]{name} failed: {reason}")?;
    }
    if let Some(score) = verdict.score {
        writeln!(body, "{score}")?;
    }
    for name in &verdict.unknown {
        writeln!(body, "warning: no check {name:?} to exclude")?;
    }
    Ok(())
}
