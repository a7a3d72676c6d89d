//! A point in time, as the host reports it. The core never asks for one itself.

use core::fmt;
use core::ops::Add;
use core::time::Duration;
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

/// Milliseconds since the Unix epoch by the proxy's wall clock.
///
/// The clock may jump. Code that waits for a point in time therefore also keeps when the wait began, for
/// [`Time::is_due`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Time(u64);

/// The most that two workers' readings of the clock may be apart, or a clock be set back unnoticed.
const APART: Duration = Duration::from_secs(1);

impl Time {
    /// The point `millis` milliseconds after the epoch.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// The point that `text` says in RFC 3339 and in UTC, to the millisecond.
    pub fn from_rfc3339(text: &str) -> Option<Self> {
        let span = humantime::parse_rfc3339(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
        Some(Self(millis(span)))
    }

    /// Milliseconds since the epoch.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// How long after the epoch.
    pub const fn since_epoch(self) -> Duration {
        Duration::from_millis(self.0)
    }

    /// How long ago `earlier` was; zero where it lies in the future.
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// Whether `deadline`, which was set at `set`, has come.
    ///
    /// Where `set` lies ahead, the clock has jumped back since. The deadline then counts as due, so that no
    /// jump makes anything wait longer than its own setting. A second ahead is no jump: workers read the
    /// clock one after another, so what one has just set may lie ahead of what another read before.
    pub fn is_due(self, set: Time, deadline: Time) -> bool {
        deadline <= self || set > self + APART
    }
}

impl fmt::Display for Time {
    /// In RFC 3339 and in UTC, to the millisecond.
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

/// `span` in whole milliseconds, saturating.
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
    fn a_deadline_is_due_when_it_has_come() {
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
    fn clocks_that_are_a_moment_apart_are_no_jump() {
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
