//! What a check of resources for Envoy Gateway found.

use crate::check::severity::Severity;

/// One finding.
#[derive(Debug, PartialEq, Eq)]
pub struct GatewayFinding {
    /// The index of the object among those that were checked.
    pub object: usize,
    /// The path to the value in the object.
    pub path: String,
    /// What is wrong, and how to mend it.
    pub message: String,
    /// How much it matters.
    pub severity: Severity,
}

/// The findings, in the order in which they were found.
#[derive(Debug, Default)]
pub struct GatewayFindings(pub Vec<GatewayFinding>);

impl GatewayFindings {
    /// Adds a problem with the value at a path of an object.
    pub fn problem(&mut self, object: usize, path: impl Into<String>, message: String) {
        self.add(Severity::Error, object, path.into(), message);
    }

    /// Adds a warning.
    pub fn warning(&mut self, object: usize, path: impl Into<String>, message: String) {
        self.add(Severity::Warning, object, path.into(), message);
    }

    /// Adds a note.
    pub fn note(&mut self, object: usize, path: impl Into<String>, message: String) {
        self.add(Severity::Note, object, path.into(), message);
    }

    fn add(&mut self, severity: Severity, object: usize, path: String, message: String) {
        let finding = GatewayFinding { object, path, message, severity };
        if !self.0.contains(&finding) {
            self.0.push(finding);
        }
    }
}
