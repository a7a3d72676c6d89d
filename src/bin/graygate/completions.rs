//! `graygate completions` prints a script by which a shell completes the tool's arguments.

use std::io::{self, Write};

use clap::Args;
use clap_complete::{Shell, generate};

use crate::failure::Failure;

/// The end of the help text.
const EXAMPLES: &str = "Examples:
  source <(graygate completions bash)
  graygate completions zsh > _graygate
  graygate completions fish > graygate.fish";

/// The arguments of `completions`.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct CompletionsArguments {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Prints the script. `tool` describes the arguments of this tool.
pub fn run(arguments: &CompletionsArguments, mut tool: clap::Command) -> Result<(), Failure> {
    // Collects the script first, as the generator panics where output fails.
    let mut script = Vec::new();
    generate(arguments.shell, &mut tool, "graygate", &mut script);
    io::stdout().write_all(&script).map_err(|error| Failure::output(&error))
}
