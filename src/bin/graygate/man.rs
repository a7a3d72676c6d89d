//! `graygate man` writes the tool's manual pages.

use std::path::PathBuf;

use clap::Args;

use crate::failure::{Failure, print_line};

/// The end of the help text.
const EXAMPLES: &str = "Examples:
  graygate man man1 && man ./man1/graygate-explain.1";

/// The arguments of `man`.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct ManArguments {
    /// The directory, which is created if it is not there
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

/// Writes a page for the tool and one for each subcommand. `tool` describes the arguments of this tool.
pub fn run(arguments: &ManArguments, tool: clap::Command) -> Result<(), Failure> {
    let directory = &arguments.directory;
    if directory.as_os_str() == "-" {
        return Err(Failure::Usage(
            "man writes several files, and \"-\" is standard output. Name a directory, such as man1."
                .to_owned(),
        ));
    }
    let failure = |error| Failure::io(directory.display(), &error);
    std::fs::create_dir_all(directory).map_err(failure)?;
    // `help` has the same text as the pages.
    clap_mangen::generate_to(tool.disable_help_subcommand(true), directory).map_err(failure)?;
    print_line(&format!("{}: a page for graygate and one for each subcommand", directory.display()))
}
