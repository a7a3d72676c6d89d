//! The report as workflow commands of GitHub Actions, which shows them at the lines of a pull request.

use super::report::{CheckedFile, Finding, Report};
use super::severity::Severity;
use crate::source::LineColumn;

/// Returns one command for each finding.
pub fn write(report: &Report) -> Vec<String> {
    report.findings().map(|(file, finding)| command(file, finding)).collect()
}

fn command(file: &CheckedFile, finding: &Finding) -> String {
    let name = match finding.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Note => "notice",
    };
    let place = match (&file.source, &finding.range) {
        (Some(source), Some(range)) => {
            let LineColumn { line, column } = source.place(range.start);
            format!(",line={line},col={column}")
        }
        _ => String::new(),
    };
    format!("::{name} file={}{place},title=graygate::{}", property(&file.name), data(&finding.words()))
}

/// Escapes the text of a command.
fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// Escapes the value of a property of a command.
fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}
