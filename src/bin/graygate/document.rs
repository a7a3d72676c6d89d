//! Reads a policy from a file: one by itself in JSON or YAML, or the only one in a configuration of Envoy.

use std::path::Path;

use graygate::policy::document::Node;
use graygate::policy::problem::Problems;
use graygate::policy::set::PolicySet;

use crate::check::report::{CheckedFile, Report};
use crate::check::text;
use crate::failure::Failure;
use crate::found::{FileContents, FoundPolicy, PolicyHolder};
use crate::source::{Source, TextProblem};
use crate::syntax;

/// Reads the document in `file`, or on standard input if `file` is `-`.
///
/// # Errors
///
/// Returns a [`Failure`] if the file cannot be read or is a manifest. Returns the problems of its policies inside, each as
/// a line with its place.
pub fn read(file: &Path) -> Result<Result<Node, Vec<String>>, Failure> {
    let (source, problem) = Source::read(file)?;
    let name = source.name.clone();
    // A text that cannot be parsed has its problem among the findings.
    let documents = syntax::parse(&source).unwrap_or_default();
    let checked = CheckedFile::of(source, problem, true).0.without_warnings();
    if checked.errors() > 0 {
        return Ok(Err(text::lines(&checked)));
    }
    let found = only(&name, FileContents::of(documents, true))?;
    Ok(found.map(|found| found.node).map_err(|problems| vec![format!("{name}: {problems}")]))
}

/// Reads and compiles the policies in `file`. Prints the document's problems, if there are any, to standard error.
pub fn policies(file: &Path) -> Result<PolicySet, Failure> {
    let (source, problem) = Source::read(file)?;
    compile(source, problem)
}

/// Reads the document in `file` and compiles its policies. Prints the document's problems as [`policies`] does.
pub fn with_policies(file: &Path) -> Result<(Node, PolicySet), Failure> {
    let (source, problem) = Source::read(file)?;
    let name = source.name.clone();
    // A text that cannot be parsed has its problem printed below.
    let documents = syntax::parse(&source).unwrap_or_default();
    let set = compile(source, problem)?;
    match only(&name, FileContents::of(documents, true))? {
        Ok(found) => Ok((found.node, set)),
        Err(_) => Err(Failure::Problems),
    }
}

fn compile(source: Source, problem: Option<TextProblem>) -> Result<PolicySet, Failure> {
    let (checked, sets) = CheckedFile::of(source, problem, true);
    let mut sets = sets.into_iter();
    match (sets.next(), sets.next()) {
        (Some(_), Some(_)) if checked.errors() == 0 => Err(several(&checked.name)),
        (Some((PolicyHolder::Manifest, _)), None) if checked.errors() == 0 => Err(manifest(&checked.name)),
        (Some((PolicyHolder::Gateway, _)), None) if checked.errors() == 0 => Err(resource(&checked.name)),
        (Some((_, Some(set))), None) if checked.errors() == 0 => Ok(set),
        _ => {
            let mut report = Report::default();
            report.files.push(checked.without_warnings());
            text::print_findings(&report);
            Err(Failure::Problems)
        }
    }
}

/// Returns the only policy of a file.
fn only(file: &str, contents: FileContents) -> Result<Result<FoundPolicy, Problems>, Failure> {
    let words = contents.nothing_found();
    let mut policies = contents.policies.into_iter();
    match (policies.next(), policies.next()) {
        (Some(_), Some(_)) => Err(several(file)),
        (Some(found), None) if found.holder == PolicyHolder::Manifest => Err(manifest(file)),
        (Some(found), None) if found.holder == PolicyHolder::Gateway => Err(resource(file)),
        (Some(found), None) => Ok(Ok(found)),
        (None, _) => Ok(Err(Problems::unreadable(words))),
    }
}

fn several(file: &str) -> Failure {
    Failure::Usage(format!("{file}: has several policy documents. Give a file that has one."))
}

fn manifest(file: &str) -> Failure {
    Failure::Usage(format!(
        "{file}: a manifest; allowed: a policy by itself, or graygate check --istio {file}"
    ))
}

fn resource(file: &str) -> Failure {
    Failure::Usage(format!(
        "{file}: a resource for Envoy Gateway; allowed: a policy by itself, or graygate check {file}"
    ))
}
