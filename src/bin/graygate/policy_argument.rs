//! The arguments that name a policy. All subcommands that read one policy share them.

use std::path::{Path, PathBuf};

use clap::Args;
use graygate::policy::Policy;
use graygate::policy::host_index::HostIndex;
use graygate::policy::set::PolicySet;
use graygate::policy::spelling::nearest;

use crate::document;
use crate::failure::Failure;

/// The arguments that name a policy.
#[derive(Args)]
pub struct PolicyArgument {
    /// The policy, or a document of several, as YAML or JSON; "-" is standard input
    #[arg(value_name = "FILE", required_unless_present = "policy")]
    file: Option<PathBuf>,
    // An earlier version named the file this way.
    #[arg(long, value_name = "FILE", hide = true, conflicts_with = "file")]
    policy: Option<PathBuf>,
    /// Use only the policy with this name, if the document has several
    #[arg(long, value_name = "NAME")]
    pub policy_name: Option<String>,
}

impl PolicyArgument {
    /// Reads and compiles the policies, or the one that `--policy-name` names. Prints the document's problems, if there
    /// are any.
    pub fn read(&self) -> Result<PolicySet, Failure> {
        let file = self.file.as_ref().or(self.policy.as_ref()).map_or(Path::new("-"), PathBuf::as_path);
        let mut set = document::policies(file)?;
        if let Some(name) = &self.policy_name {
            check_name(name, &set.policies)?;
            set.policies.retain(|policy| policy.name == *name);
            set.index = HostIndex::new(set.policies.iter().map(|policy| &policy.hosts));
        }
        Ok(set)
    }
}

/// Refuses a name that none of the policies has.
pub fn check_name(name: &str, policies: &[Policy]) -> Result<(), Failure> {
    let names: Vec<&str> = policies.iter().map(|policy| policy.name.as_str()).collect();
    match names.contains(&name) {
        true => Ok(()),
        false => Err(unknown("--policy-name", name, "policy", &names)),
    }
}

/// Returns the failure of an option that names nothing that exists. Suggests the nearest name.
pub fn unknown(option: &str, name: &str, noun: &str, known: &[&str]) -> Failure {
    let suggestion = nearest(name, known).map(|near| format!("; did you mean {near:?}?"));
    let allowed = match known {
        [] => format!("the policy has no {noun} to name here"),
        known => format!("allowed: {}", known.join(", ")),
    };
    Failure::Usage(format!(
        "{option}: there is no {noun} {name:?}; {allowed}{}",
        suggestion.unwrap_or_default()
    ))
}
