//! The command line tool. It runs the filter's own code without a proxy.

mod check;
mod clock;
mod completions;
mod diff;
mod document;
mod embedded;
mod envoy;
mod explain;
mod failure;
mod found;
mod gateway;
mod init;
mod input;
mod istio;
mod man;
mod marks;
mod number;
mod pattern;
mod policy_argument;
mod policy_number;
mod progress;
mod reference;
mod render;
mod schema;
mod simulate;
mod source;
mod stats_tags;
mod status;
mod syntax;
mod tree;
mod warning;
mod wording;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

/// The end of the help text.
const EXIT_CODES: &str = "Exit codes:
  0  it worked
  1  the policy or a manifest has problems, or proxies differ
  2  the tool was called wrongly
  3  a file could not be read or written";

const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (commit ", env!("GRAYGATE_COMMIT"), ")");

/// Checks graygate policies, and shows what the filter does with them
///
/// The tool runs the filter's own code and needs no proxy.
#[derive(Parser)]
#[command(version = VERSION, after_help = EXIT_CODES, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Check the policies in files and directories, and print all problems
    Check(check::CheckArguments),
    /// Print what the filter would decide for a request, and why
    Explain(Box<explain::ExplainArguments>),
    /// Print the manifests for Istio or Envoy Gateway, or the configuration for an Envoy without them
    Render(Box<render::arguments::RenderArguments>),
    /// Print a page of the reference as Markdown
    Reference(reference::ReferenceArguments),
    /// Print a JSON Schema of the policy, for editors and other tools
    Schema(schema::SchemaArguments),
    /// Print, and draw, what a change of weights does to users
    Simulate(simulate::SimulateArguments),
    /// Print what a new policy changes, and which users move
    Diff(diff::DiffArguments),
    /// Read the status of many proxies, and print one table and who differs
    Status(status::StatusArguments),
    /// Print the number that a proxy shows in `graygate_policy_document` while it uses a policy
    PolicyNumber(policy_number::PolicyNumberArguments),
    /// Print what makes the labels of the metrics known to Envoy, Istio or Envoy Gateway
    StatsTags(stats_tags::StatsTagsArguments),
    /// Write a first policy, from options or from your answers
    Init(init::InitArguments),
    /// Print a script for your shell that completes the tool's arguments
    Completions(completions::CompletionsArguments),
    /// Write the tool's manual pages
    Man(man::ManArguments),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Check(arguments) => check::run(&arguments),
        Command::Explain(arguments) => explain::run(&arguments),
        Command::Render(arguments) => render::run(&arguments),
        Command::Reference(arguments) => reference::run(&arguments, Arguments::command()),
        Command::Schema(arguments) => schema::run(&arguments),
        Command::Simulate(arguments) => simulate::run(&arguments),
        Command::Diff(arguments) => diff::run(&arguments),
        Command::Status(arguments) => status::run(&arguments),
        Command::PolicyNumber(arguments) => policy_number::run(&arguments),
        Command::StatsTags(arguments) => stats_tags::run(&arguments),
        Command::Init(arguments) => init::run(&arguments),
        Command::Completions(arguments) => completions::run(&arguments, Arguments::command()),
        Command::Man(arguments) => man::run(&arguments, Arguments::command()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
