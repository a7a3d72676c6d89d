//! What all workers of a root may do on one tick. Requests on the same thread wait meanwhile.

/// The most checks that are started. The proxy takes about 50 microseconds for each.
pub const MAX_CHECKS: usize = 128;

/// The most metrics that are defined. The proxy takes up to 100 microseconds for each, which it spends on the tags in the
/// name.
const MAX_METRICS: usize = 32;

/// The most requests held by other filters that are looked at. There may be thousands, and each look costs host calls.
const MAX_LOOKS: usize = 256;

/// What is left of the work of one tick. The workers of a root share it.
pub struct TickBudget {
    /// How many more checks may be started.
    pub checks: usize,
    /// How many more metrics may be defined.
    pub metrics: usize,
    /// How many more requests held by other filters may be looked at.
    pub looks: usize,
}

impl TickBudget {
    /// Returns the budget of a tick.
    pub fn new() -> Self {
        TickBudget { checks: MAX_CHECKS, metrics: MAX_METRICS, looks: MAX_LOOKS }
    }
}

impl Default for TickBudget {
    fn default() -> Self {
        Self::new()
    }
}
