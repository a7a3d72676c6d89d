//! The report for programs, as JSON.

use serde::Serialize;

use super::report::{Report, ValidPolicy};
use super::severity::Severity;
use crate::source::LineColumn;

#[derive(Serialize)]
struct JsonReport<'r> {
    files: Vec<JsonFile<'r>>,
    problems: Vec<JsonProblem<'r>>,
    /// The number of problems that are errors.
    count: usize,
}

#[derive(Serialize)]
struct JsonFile<'r> {
    file: &'r str,
    /// The policies without problems.
    policies: &'r [ValidPolicy],
}

#[derive(Serialize)]
struct JsonProblem<'r> {
    file: &'r str,
    /// Counts from 1. `null` if the problem is with the file as a whole.
    line: Option<usize>,
    /// Counts characters from 1. `null` if the problem is with the file as a whole.
    column: Option<usize>,
    path: &'r str,
    message: &'r str,
    severity: Severity,
}

/// Returns the report as JSON.
pub fn write(report: &Report) -> serde_json::Result<String> {
    let problems = report.findings().map(|(file, finding)| {
        let place = file.source.as_ref().zip(finding.range.as_ref());
        let place = place.map(|(source, range)| source.place(range.start));
        JsonProblem {
            file: &file.name,
            line: place.map(|LineColumn { line, .. }| line),
            column: place.map(|LineColumn { column, .. }| column),
            path: &finding.path,
            message: &finding.message,
            severity: finding.severity,
        }
    });
    let files = report.files.iter().map(|file| JsonFile { file: &file.name, policies: &file.policies });
    serde_json::to_string_pretty(&JsonReport {
        files: files.collect(),
        problems: problems.collect(),
        count: report.errors(),
    })
}
