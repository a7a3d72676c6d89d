//! Points in time by the monotonic clock. The caller passes the time in. The core reads no clock.

use core::ops::Add;
use core::time::Duration;

use serde::{Deserialize, Serialize};

/// A point in time, in milliseconds, by the proxy's monotonic clock.
///
/// All workers of a proxy share that clock. It never jumps, whatever the wall clock is set to, so waits, leases and
/// measured spans use it. It has no fixed start, so a time has no meaning outside its proxy. A point that a person or
/// another server names is a [`Date`](super::date::Date). Additions saturate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Time(u64);

impl Time {
    /// Returns the point `millis` milliseconds after the start of the clock.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Returns the milliseconds since the start of the clock.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// Returns the time since `earlier`, or zero if `earlier` lies in the future.
    ///
    /// Workers read the clock one after another. So what another worker has just written may lie a moment ahead.
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Time;

    fn add(self, span: Duration) -> Time {
        Time(self.0.saturating_add(millis(span)))
    }
}

/// Returns `span` in whole milliseconds, saturating.
pub fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn additions_saturate() {
        let late = Time::from_millis(u64::MAX);
        assert_eq!(late + Duration::from_secs(1), late);
    }

    #[test]
    fn the_time_since_a_later_moment_is_zero() {
        assert_eq!(Time::from_millis(9).since(Time::from_millis(10)), Duration::ZERO);
    }
}
