//! The command line tool. It runs the filter's own code without a proxy.

mod clock;
mod document;
mod explain;
mod failure;
mod istio;
mod render;
mod simulate;
mod tree;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use failure::{Failure, print_line};
use istio::module_source::Allowed;

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
        /// The policy, or a document of several, JSON or YAML; "-" is standard input
        #[arg(required_unless_present = "istio", conflicts_with = "istio")]
        file: Option<PathBuf>,
        /// Check these manifests instead, which must be all that is applied together: directories, files, or "-" for
        /// standard input
        #[arg(long, value_name = "PATH", num_args = 1..)]
        istio: Vec<PathBuf>,
        /// The root namespace of the mesh
        #[arg(long, value_name = "NAMESPACE", default_value = "istio-system", requires = "istio")]
        root_namespace: String,
        /// Let this pass, which is a problem otherwise; may be repeated
        #[arg(long, value_enum, value_name = "WHAT", requires = "istio")]
        allow: Vec<Allowed>,
    },
    /// Print what the filter would decide for a request, and why
    Explain(Box<explain::ExplainArguments>),
    /// Print the Istio manifests for a policy
    Render(Box<render::arguments::RenderArguments>),
    /// Print, and draw, what a change of weights does to users
    Simulate(simulate::SimulateArguments),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Check { file: Some(file), .. } => check(&file),
        Command::Check { file: None, istio, root_namespace, allow } => {
            istio::set::check(&istio, &root_namespace, &allow)
        }
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
    for policy in document::policies(file)?.policies {
        let warnings = [document::probes_warning(&policy), istio::direction::off_warning(&policy, false)];
        for warning in warnings.into_iter().flatten() {
            eprintln!("{}: warning: {warning}", file.display());
        }
        let summary = policy.summary();
        print_line(&format!("{}: policy {}: no problems: {summary}", file.display(), policy.name))?;
    }
    Ok(())
}
