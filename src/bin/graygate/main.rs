//! The command line tool: the filter's own code, asked without a proxy.

mod document;
mod explain;
mod istio;
mod render;
mod simulate;
mod tree;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Parser, Subcommand};
use graygate::policy::Policy;
use graygate::value::time::Time;

/// Checks graygate policies and explains what the filter makes of them.
#[derive(Parser)]
#[command(version, after_help = "Exit code: 0, 1 if the policy has problems, 2 for wrong usage.")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Check a policy, or Istio manifests that have policies, and print all problems
    Check {
        /// The policy, JSON or YAML; "-" is standard input
        #[arg(required_unless_present = "istio", conflicts_with = "istio")]
        file: Option<PathBuf>,
        /// Check the manifests in this directory instead, which are to be what is applied together; a file, or "-",
        /// standard input, will do as well; may be repeated
        #[arg(long, value_name = "DIR")]
        istio: Vec<PathBuf>,
        /// The root namespace of the mesh
        #[arg(long, value_name = "NAMESPACE", default_value = "istio-system", requires = "istio")]
        root_namespace: String,
    },
    /// Print what the filter would decide for a request, and why
    Explain(Box<explain::Arguments>),
    /// Print the Istio manifests for a policy
    Render(Box<render::Arguments>),
    /// Print, and draw, what a change of weights does to users
    Simulate(simulate::Arguments),
}

/// Why the tool ends without having done what it was asked.
#[derive(Debug)]
pub enum Failure {
    /// The policy has problems. They have been printed.
    Problems,
    /// The tool was called wrongly; this says how.
    Usage(String),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Check { file: Some(file), .. } => check(&file),
        Command::Check { file: None, istio, root_namespace } => istio::set::check(&istio, &root_namespace),
        Command::Explain(arguments) => explain::run(&arguments),
        Command::Render(arguments) => render::run(&arguments),
        Command::Simulate(arguments) => simulate::run(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Problems) => ExitCode::from(1),
        Err(Failure::Usage(message)) => {
            eprintln!("graygate: {message}");
            ExitCode::from(2)
        }
    }
}

fn check(file: &PathBuf) -> Result<(), Failure> {
    let policy = policy(file)?;
    say(&format!("{}: policy {}: no problems: {}", file.display(), policy.name, policy.summary()))
}

/// Prints a line, or says why it can't.
pub fn say(line: &str) -> Result<(), Failure> {
    writeln!(std::io::stdout(), "{line}").map_err(|error| Failure::Usage(format!("standard output: {error}")))
}

/// A time as a policy has it.
pub fn time(text: &str) -> Result<Time, String> {
    let allowed = "allowed: a time in UTC as RFC 3339 has it, such as 2026-12-01T10:00:00Z";
    Time::from_rfc3339(text).ok_or_else(|| allowed.to_owned())
}

/// The time now. The filter is told it; the tool may ask.
#[allow(clippy::disallowed_methods)]
pub fn now() -> Time {
    let span = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time::from_millis(graygate::value::time::millis(span))
}

/// Reads and compiles the policy in `file`, and prints its problems if it has any.
pub fn policy(file: &PathBuf) -> Result<Policy, Failure> {
    let compiled = document::read(file)?.and_then(|document| Policy::from_document(&document));
    compiled.map_err(|problems| {
        let count = problems.iter().count();
        for problem in problems.iter() {
            eprintln!("{}: {problem}", file.display());
        }
        eprintln!("{}: {count} problem{}", file.display(), if count == 1 { "" } else { "s" });
        Failure::Problems
    })
}
