//! `reference`: prints a page of the reference as Markdown. Everything on it comes from the code.

mod command_line;
mod log_lines;
mod markdown;
mod metrics;
mod modules;
mod policy;
mod reasons;

use std::io::{self, Write};

use clap::{Args, ValueEnum};

use crate::failure::Failure;

/// The end of the help text.
const EXAMPLES: &str = "Examples:
  graygate reference policy > policy.md";

/// The arguments of `reference`.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct ReferenceArguments {
    /// The page to print
    #[arg(value_enum)]
    page: Page,
}

#[derive(Clone, Copy, ValueEnum)]
enum Page {
    /// The keys of a policy
    Policy,
    /// The metrics, with their labels
    Metrics,
    /// The codes in metrics, logs, replies and access logs
    Reasons,
    /// The lines that the filter logs
    LogLines,
    /// The modules, and which keys need which
    Modules,
    /// This tool's own commands and options
    CommandLine,
}

/// Prints the page.
pub fn run(arguments: &ReferenceArguments, tool: clap::Command) -> Result<(), Failure> {
    let page = match arguments.page {
        Page::Policy => policy::page(),
        Page::Metrics => metrics::page(),
        Page::Reasons => reasons::page(),
        Page::LogLines => log_lines::page(),
        Page::Modules => modules::page(),
        Page::CommandLine => command_line::page(tool),
    };
    io::stdout().write_all(page.as_bytes()).map_err(|error| Failure::output(&error))
}
