//! `graygate policy-number` prints the number that a proxy shows while it uses a policy.

use std::path::PathBuf;

use clap::Args;

use crate::check::report::{CheckedFile, Report, ValidPolicy};
use crate::check::text;
use crate::failure::{Failure, print_line};
use crate::source::Source;

/// The end of the help text.
const EXAMPLES: &str = "The number does not depend on the form of the policy: YAML or JSON, the order of keys, comments and keys that
begin with x-. It depends on all else, also on what `graygate render` writes into the policy, such as --mode.

Examples:
  graygate policy-number policy.yaml
  graygate render policy.yaml --mode shadow | graygate policy-number -
  curl -s localhost:9901/stats/prometheus | grep graygate_policy_document";

/// The arguments of `policy-number`.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct PolicyNumberArguments {
    /// The policy, the configuration of Envoy or the manifest of Istio, as YAML or JSON; "-" is standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Prints the number of the only policy, or the name and the number of each.
pub fn run(arguments: &PolicyNumberArguments) -> Result<(), Failure> {
    let (source, problem) = Source::read(&arguments.file)?;
    let checked = CheckedFile::of(source, problem, true).0;
    if checked.errors() > 0 {
        let mut report = Report::default();
        report.files.push(checked.without_warnings());
        text::print_findings(&report);
        return Err(Failure::Problems);
    }
    match checked.policies.as_slice() {
        [ValidPolicy { number, .. }] => print_line(&number.to_string()),
        policies => {
            for ValidPolicy { name, number, .. } in policies {
                print_line(&format!("{name} {number}"))?;
            }
            Ok(())
        }
    }
}
