//! `graygate check` prints all problems of a policy, or of Istio manifests that have policies.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::failure::{Failure, print_error, print_line};
use crate::istio::module_source::Allowed;
use crate::{document, istio};

/// The arguments of `check`.
#[derive(Args)]
pub struct CheckArguments {
    /// The policy, or a document of several, JSON or YAML; "-" is standard input
    #[arg(required_unless_present = "istio", conflicts_with = "istio")]
    file: Option<PathBuf>,
    /// Check these manifests instead, which must be all that is applied together: directories, files, or "-" for
    /// standard input
    #[arg(long, value_name = "PATH", num_args = 1..)]
    istio: Vec<PathBuf>,
    /// The root namespace of the mesh
    #[arg(
        long,
        value_name = "NAMESPACE",
        default_value = "istio-system",
        requires = "istio",
        conflicts_with = "file"
    )]
    root_namespace: String,
    /// Let this pass, which is a problem otherwise; may be repeated
    #[arg(long, value_enum, value_name = "WHAT", requires = "istio")]
    allow: Vec<Allowed>,
}

/// Checks the policy in the arguments, or the manifests.
pub fn run(arguments: &CheckArguments) -> Result<(), Failure> {
    match &arguments.file {
        Some(file) => check_policy(file),
        None => istio::set::check(&arguments.istio, &arguments.root_namespace, &arguments.allow),
    }
}

fn check_policy(file: &Path) -> Result<(), Failure> {
    for policy in document::policies(file)?.policies {
        let warnings = [document::probes_warning(&policy), istio::direction::off_warning(&policy, false)];
        for warning in warnings.into_iter().flatten() {
            print_error(&format!("{}: warning: {warning}", file.display()));
        }
        let summary = policy.summary();
        print_line(&format!("{}: policy {}: no problems: {summary}", file.display(), policy.name))?;
    }
    Ok(())
}
