//! How much a finding matters.

use serde::Serialize;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The filter would refuse the policy, would not get it, or could not do what it says.
    Error,
    /// The policy works, but may not do what is meant.
    Warning,
    /// Something that the check does not look at, or that is worth knowing.
    Note,
}
