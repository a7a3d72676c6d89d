//! Where a proxy stands between its start and its end: what readiness depends on beside the upstreams.
//!
//! One fact for the whole proxy, under the policy's name alone: no update of the policy takes a start back,
//! or ends a drain.

use serde::{Deserialize, Serialize};

/// Where a proxy stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lifecycle {
    /// Whether the startup probe's checks have passed once. Once they have, this stays.
    pub started: bool,
    /// Whether it was told to drain.
    pub draining: bool,
}

impl Lifecycle {
    /// What keeps readiness down whatever the upstreams do, as the name of a check and its reason.
    pub fn holds_back(self) -> Option<(&'static str, &'static str)> {
        match self {
            Lifecycle { draining: true, .. } => Some(("drain", "draining")),
            Lifecycle { started: false, .. } => Some(("startup", "not started yet")),
            _ => None,
        }
    }
}
