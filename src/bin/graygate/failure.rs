//! How the tool fails, and how it prints.

use core::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

/// Why the tool ended before its work was done.
#[derive(Debug)]
pub enum Failure {
    /// The policy has problems, which are printed already. The exit code is 1.
    Problems,
    /// The tool was called wrongly. Holds the message. The exit code is 2.
    Usage(String),
    /// A file could not be read or written. Holds the message. The exit code is 3.
    Io(String),
    /// The reader of the output has ended, as `head` does once it has its lines. This is no error. The exit code is 0.
    ReaderLeft,
}

impl Failure {
    /// Returns the failure to read or write the file or stream with this name.
    pub fn io(name: impl Display, error: &io::Error) -> Self {
        Failure::Io(format!("{name}: {}", describe(error)))
    }

    /// Returns the failure to write to standard output.
    pub fn output(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::ReaderLeft,
            _ => Failure::io("standard output", error),
        }
    }

    /// Prints the message, if there is one, and returns the exit code.
    pub fn report(&self) -> ExitCode {
        match self {
            Failure::Problems => ExitCode::from(1),
            Failure::Usage(message) => {
                print_error(&format!("graygate: {message}"));
                ExitCode::from(2)
            }
            Failure::Io(message) => {
                print_error(&format!("graygate: {message}"));
                ExitCode::from(3)
            }
            Failure::ReaderLeft => ExitCode::SUCCESS,
        }
    }
}

/// Prints a line on standard output.
pub fn print_line(line: &str) -> Result<(), Failure> {
    writeln!(io::stdout(), "{line}").map_err(|error| Failure::output(&error))
}

/// Prints a line on standard error. Ignores errors: nobody is left to read about them, and the exit code still tells.
/// `eprintln!` would panic.
pub fn print_error(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Returns the text of an error without the number that Rust adds to it.
pub fn describe(error: &io::Error) -> String {
    let text = error.to_string();
    text.split_once(" (os error").map_or(text.clone(), |(words, _)| words.to_owned())
}
