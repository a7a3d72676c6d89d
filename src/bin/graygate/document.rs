//! Reads a policy from a file in JSON or YAML.

use std::path::Path;

use graygate::policy::Policy;
use graygate::policy::document::Node;
use graygate::policy::problem::Problems;
use graygate::policy::set::PolicySet;
use serde_saphyr::{DuplicateKeyPolicy, options};

use crate::failure::{Failure, print_error};
use crate::input;
use crate::tree::get;

/// Reads the document in `file`, or on standard input if `file` is `-`.
///
/// The extension decides between JSON and YAML. Without a known extension, a document that begins with `{` is JSON.
///
/// # Errors
///
/// Returns a [`Failure`] if the file cannot be read or holds a Kubernetes manifest. Returns [`Problems`] inside if the
/// text cannot be parsed.
pub fn read(file: &Path) -> Result<Result<Node, Problems>, Failure> {
    let text = input::read(file)?;
    let document = parse(file, &text);
    if document.as_ref().is_ok_and(|document| get(document, &["apiVersion"]).is_some()) {
        let file = file.display();
        return Err(Failure::Usage(format!(
            "{file}: a manifest; allowed: a policy by itself, or graygate check --istio {file}"
        )));
    }
    Ok(document)
}

/// Reads and compiles the policies in `file`. Prints the document's problems, if there are any, to standard error.
pub fn policies(file: &Path) -> Result<PolicySet, Failure> {
    let compiled = read(file)?.and_then(|document| PolicySet::from_document(&document));
    compiled.map_err(|problems| {
        let count = problems.iter().count();
        for problem in problems.iter() {
            print_error(&format!("{}: {problem}", file.display()));
        }
        print_error(&format!("{}: {count} problem{}", file.display(), if count == 1 { "" } else { "s" }));
        Failure::Problems
    })
}

/// Warns of probes in a policy that has hosts.
pub fn probes_warning(policy: &Policy) -> Option<String> {
    let is_wrong = !policy.probes.is_empty() && !policy.hosts.are_all();
    is_wrong.then(|| format!(
        "policy {}: probes: only requests for the policy's hosts are its probes. A kubelet sends the Pod's IP as the host, so probes of a kubelet belong into a policy without hosts, the last of the document",
        policy.name
    ))
}

fn parse(file: &Path, text: &[u8]) -> Result<Node, Problems> {
    let is_json = match file.extension().and_then(|extension| extension.to_str()) {
        Some("json") => true,
        Some("yaml" | "yml") => false,
        _ => text.trim_ascii_start().starts_with(b"{"),
    };
    if is_json {
        return serde_json::from_slice(text).map_err(|error| unreadable("JSON", error));
    }
    let text = core::str::from_utf8(text).map_err(|error| unreadable("YAML", error))?;
    // Lets every repeated key through, as the policy's own check reports each with its path.
    let options = options! { duplicate_keys: DuplicateKeyPolicy::LastWins, strict_booleans: true };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| unreadable("YAML", error))
}

fn unreadable(kind: &str, error: impl core::fmt::Display) -> Problems {
    Problems::unreadable(format!("not a {kind} document: {error}"))
}
