//! The report for people: one line for each finding, or an excerpt with the place marked on a terminal.

use std::io::IsTerminal;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};

use super::report::{CheckedFile, Finding, Report};
use super::severity::Severity;
use crate::failure::print_error;
use crate::source::LineColumn;

/// Prints all findings on standard error, and how many errors there are.
pub fn print_findings(report: &Report) {
    let is_terminal = std::io::stderr().is_terminal();
    for (file, finding) in report.findings() {
        match is_terminal {
            true => anstream::eprintln!("{}\n", excerpt(file, finding)),
            false => print_error(&line(file, finding)),
        }
    }
    if report.errors() > 0 {
        print_error(&report.count_line());
    }
}

/// Returns the findings of a file, each in one line.
pub fn lines(file: &CheckedFile) -> Vec<String> {
    file.findings.iter().map(|finding| line(file, finding)).collect()
}

/// Returns a finding in one line.
fn line(file: &CheckedFile, finding: &Finding) -> String {
    let place = match (&file.source, &finding.range) {
        (Some(source), Some(range)) => {
            let LineColumn { line, column } = source.place(range.start);
            format!(":{line}:{column}")
        }
        _ => String::new(),
    };
    let severity = match finding.severity {
        Severity::Error => "",
        Severity::Warning => "warning: ",
        Severity::Note => "note: ",
    };
    format!("{}{place}: {severity}{}", file.name, finding.words())
}

/// Returns a finding with the lines around it, in colours.
fn excerpt(file: &CheckedFile, finding: &Finding) -> String {
    let level = match finding.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
        Severity::Note => Level::NOTE,
    };
    let title = level.primary_title(finding.words());
    let group = match (&file.source, &finding.range) {
        (Some(source), Some(range)) if !source.text.is_empty() => {
            let range = source.widened(range.clone());
            let annotation = AnnotationKind::Primary.span(range);
            title.element(Snippet::source(&source.text).path(&file.name).annotation(annotation))
        }
        _ => Group::with_title(title).element(Origin::path(&file.name)),
    };
    Renderer::styled().render(&[group])
}
