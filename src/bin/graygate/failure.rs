//! How the tool fails, and how it prints.

use std::io::Write;

/// Why the tool failed.
#[derive(Debug)]
pub enum Failure {
    /// The policy has problems, which are printed already. The exit code is 1.
    Problems,
    /// The tool was called wrongly, or cannot read its input or write its output. Holds the message. The exit code is
    /// 2.
    Usage(String),
}

/// Prints a line on standard output.
pub fn print_line(line: &str) -> Result<(), Failure> {
    writeln!(std::io::stdout(), "{line}").map_err(|error| Failure::Usage(format!("standard output: {error}")))
}
