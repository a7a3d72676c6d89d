//! A difference between two documents, which the formats write.

use serde::Serialize;

use super::changes::SettingChange;
use super::consequences::Consequences;
use super::moves::ReleaseMoves;

/// What a new document changes.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DocumentDifference {
    /// The file of the old document.
    pub old: String,
    /// The file of the new document.
    pub new: String,
    /// When the new document takes over.
    pub at: String,
    /// The number of users in the sample.
    pub sampled_users: u32,
    /// The policies of both documents that differ, in the order of the new one.
    pub policies: Vec<PolicyDifference>,
    /// The names of the policies that stay as they are.
    pub same: Vec<String>,
}

/// What changes for one policy.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyDifference {
    /// The name, in the new document if it is there.
    pub name: String,
    /// What happens to the policy.
    pub fate: PolicyFate,
    /// The settings that differ.
    pub changes: Vec<SettingChange>,
    /// What follows from them.
    #[serde(flatten)]
    pub consequences: Consequences,
    /// The users of each release.
    pub releases: Vec<ReleaseMoves>,
}

/// What happens to a policy.
#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum PolicyFate {
    /// Only the new document has it.
    New,
    /// Only the old document has it.
    Removed,
    /// It has another name.
    Renamed,
    /// It differs.
    Changed,
}
