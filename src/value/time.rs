//! Points in time. The caller passes the time in. The core reads no clock.

use core::fmt;
use core::ops::Add;
use core::time::Duration;
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

/// A point in time, in milliseconds since the Unix epoch, by the proxy's wall clock.
///
/// The clock may jump. Code that waits for a point in time therefore also stores when the wait began, for
/// [`Time::is_due`]. Additions saturate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Time(u64);

/// The most by which a time may lie ahead of the clock before it counts as a jump. Workers read the clock at
/// slightly different moments.
const MAX_SKEW: Duration = Duration::from_secs(1);

impl Time {
    /// Returns the point `millis` milliseconds after the epoch.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Parses an RFC 3339 time in UTC, to the millisecond. Returns `None` if `text` is invalid or before the
    /// epoch.
    pub fn from_rfc3339(text: &str) -> Option<Self> {
        let span = humantime::parse_rfc3339(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
        Some(Self(millis(span)))
    }

    /// Returns the milliseconds since the epoch.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// Returns the time since the epoch.
    pub const fn since_epoch(self) -> Duration {
        Duration::from_millis(self.0)
    }

    /// Returns the time since `earlier`, or zero if `earlier` lies in the future.
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// Returns whether `deadline`, which was set at the time `set`, is due.
    ///
    /// If `set` lies more than a second ahead, the clock has been set back since. The deadline is then due,
    /// so no jump makes a wait longer than its setting. Workers read the clock one after another, so one
    /// worker's `set` may lie ahead of another's reading. A smaller difference therefore does not count as a
    /// jump.
    ///
    /// ```
    /// use core::time::Duration;
    /// use graygate::value::time::Time;
    ///
    /// let set = Time::from_millis(60_000);
    /// let deadline = set + Duration::from_secs(5);
    /// assert!(!Time::from_millis(64_999).is_due(set, deadline));
    /// assert!(Time::from_millis(65_000).is_due(set, deadline));
    /// // The clock was set back by 50 s, so the wait ends.
    /// assert!(Time::from_millis(10_000).is_due(set, deadline));
    /// ```
    pub fn is_due(self, set: Time, deadline: Time) -> bool {
        let clock_was_set_back = set > self + MAX_SKEW;
        deadline <= self || clock_was_set_back
    }
}

impl fmt::Display for Time {
    /// Writes the time as RFC 3339 in UTC, to the millisecond.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match UNIX_EPOCH.checked_add(self.since_epoch()) {
            Some(time) => humantime::format_rfc3339_millis(time).fmt(f),
            None => f.write_str("a time beyond all calendars"),
        }
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

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_deadline_is_due_once_it_is_reached() {
        let (set, now) = (Time::from_millis(9_000), Time::from_millis(10_000));
        assert!(now.is_due(set, Time::from_millis(10_000)));
        assert!(!now.is_due(set, Time::from_millis(10_001)));
    }

    #[test]
    fn a_clock_that_jumped_back_does_not_lengthen_a_wait() {
        let set = Time::from_millis(100_000);
        assert!(Time::from_millis(40_000).is_due(set, set + SECOND));
    }

    #[test]
    fn readings_up_to_a_second_apart_do_not_count_as_a_jump() {
        let set = Time::from_millis(100_000);
        assert!(!Time::from_millis(99_000).is_due(set, set + SECOND));
        assert!(Time::from_millis(98_999).is_due(set, set + SECOND));
    }

    #[test]
    fn additions_saturate() {
        let late = Time::from_millis(u64::MAX);
        assert_eq!(late + SECOND, late);
    }
}
