//! The report as SARIF 2.1.0, which code scanning of GitHub, GitLab and editors read.

use serde_json::{Value, json};

use super::report::{CheckedFile, Finding, Report};
use super::severity::Severity;

/// Returns the report as SARIF.
pub fn write(report: &Report) -> serde_json::Result<String> {
    let results: Vec<Value> = report.findings().map(|(file, finding)| result(file, finding)).collect();
    let rules: Vec<Value> =
        [Severity::Error, Severity::Warning, Severity::Note].into_iter().map(rule).collect();
    serde_json::to_string_pretty(&json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {
                "name": "graygate",
                "version": env!("CARGO_PKG_VERSION"),
                "rules": rules,
            }},
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    }))
}

/// Returns the ID of the rule, and the level, of a severity.
fn names(severity: Severity) -> (&'static str, &'static str) {
    match severity {
        Severity::Error => ("policy-problem", "error"),
        Severity::Warning => ("policy-warning", "warning"),
        Severity::Note => ("not-checked", "note"),
    }
}

fn rule(severity: Severity) -> Value {
    let (id, level) = names(severity);
    let text = match severity {
        Severity::Error => "The filter refuses the policy, or does not get it.",
        Severity::Warning => "The policy may not do what is meant.",
        Severity::Note => "The check does not look at this.",
    };
    json!({"id": id, "shortDescription": {"text": text}, "defaultConfiguration": {"level": level}})
}

fn result(file: &CheckedFile, finding: &Finding) -> Value {
    let (rule, level) = names(finding.severity);
    let mut physical = json!({"artifactLocation": {"uri": uri(&file.name)}});
    if let (Some(source), Some(range), Value::Object(fields)) = (&file.source, &finding.range, &mut physical)
    {
        let (start, end) = (source.place(range.start), source.place(source.widened(range.clone()).end));
        let region = json!({
            "startLine": start.line,
            "startColumn": start.column,
            "endLine": end.line,
            "endColumn": end.column,
        });
        fields.insert("region".to_owned(), region);
    }
    json!({
        "ruleId": rule,
        "level": level,
        "message": {"text": finding.words()},
        "locations": [{"physicalLocation": physical}],
    })
}

/// Returns the path of a file as a URI. A relative path is a relative reference, as it is in the repository.
fn uri(path: &str) -> String {
    let start = if path.starts_with('/') { "file://" } else { "" };
    let path = path.strip_prefix("./").unwrap_or(path);
    let mut uri = start.to_owned();
    for byte in path.bytes() {
        match byte {
            byte if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) => uri.push(char::from(byte)),
            byte => uri += &format!("%{byte:02X}"),
        }
    }
    uri
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_a_uri() {
        for (path, expected) in [
            ("a/b.yaml", "a/b.yaml"),
            ("./a b.yaml", "a%20b.yaml"),
            ("/tmp/é#1", "file:///tmp/%C3%A9%231"),
            ("c:d", "c%3Ad"),
        ] {
            assert_eq!(uri(path), expected);
        }
    }
}
