//! Whether a proxy has started and whether it drains. Readiness depends on both, and on the upstreams.
//!
//! The whole proxy has one lifecycle for each policy name. An update of the policy never undoes a start. It
//! ends a drain only if the new policy has no drain switch.

use serde::{Deserialize, Serialize};

/// The lifecycle of a proxy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lifecycle {
    /// Whether the startup probe's checks have passed once. It never goes back to `false`.
    pub started: bool,
    /// Whether the proxy was ordered to drain.
    pub draining: bool,
}
