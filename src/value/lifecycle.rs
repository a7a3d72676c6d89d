//! Where a proxy stands between its start and its end: what readiness depends on beside the upstreams.
//!
//! One fact for the whole proxy, under the policy's name alone: no update of the policy takes a start back,
//! and none ends a drain but one that has no switch for it.

use serde::{Deserialize, Serialize};

/// Where a proxy stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lifecycle {
    /// Whether the startup probe's checks have passed once. Once they have, this stays.
    pub started: bool,
    /// Whether it was told to drain.
    pub draining: bool,
}
