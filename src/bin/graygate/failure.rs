//! How the tool ends, and how it prints.

use std::io::Write;

/// Why the tool ends without having done what it was asked.
#[derive(Debug)]
pub enum Failure {
    /// The policy has problems. They have been printed.
    Problems,
    /// The tool was called wrongly; this says how.
    Usage(String),
}

/// Prints a line, or says why it can't.
pub fn say(line: &str) -> Result<(), Failure> {
    writeln!(std::io::stdout(), "{line}").map_err(|error| Failure::Usage(format!("standard output: {error}")))
}
