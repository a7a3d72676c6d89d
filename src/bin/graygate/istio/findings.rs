//! What a check of manifests found.

/// Problems, which fail the check, and notes on what it could not see.
#[derive(Default)]
pub struct Findings {
    /// The problems, each one line.
    pub problems: Vec<String>,
    /// The notes, each one line.
    pub notes: Vec<String>,
}

impl Findings {
    /// Adds a problem, unless it is there already.
    pub fn problem(&mut self, line: impl Into<String>) {
        add(&mut self.problems, line.into());
    }

    /// Adds a note, unless it is there already.
    pub fn note(&mut self, line: impl Into<String>) {
        add(&mut self.notes, line.into());
    }
}

fn add(lines: &mut Vec<String>, line: String) {
    if !lines.contains(&line) {
        lines.push(line);
    }
}
