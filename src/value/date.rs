//! Points in time by the wall clock.

use core::fmt;
use core::ops::{Add, Sub};
use core::time::Duration;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::time::millis;

/// A point in time by the wall clock, in milliseconds since the Unix epoch.
///
/// The wall clock may be set ahead or back at any moment. So a date is only for what a person or another server names or
/// reads, such as a step of a schedule. Everything else is a [`Time`](super::time::Time). Additions and subtractions
/// saturate.
///
/// ```
/// use core::time::Duration;
/// use graygate::value::date::Date;
///
/// let date = Date::from_rfc3339("2026-12-01T10:00:00Z").unwrap();
/// assert_eq!((date + Duration::from_secs(90)).to_string(), "2026-12-01T10:01:30.000Z");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Date(u64);

impl Date {
    /// The last date that RFC 3339 can write. It ends the year 9999.
    pub const LAST: Date = Date(253_402_300_799_999);

    /// Returns the date `millis` milliseconds after the epoch.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Returns the date that the system's clock calls `time`. Returns `None` if that is before the epoch.
    pub fn from_system(time: SystemTime) -> Option<Self> {
        Some(Self(millis(time.duration_since(UNIX_EPOCH).ok()?)))
    }

    /// Parses an RFC 3339 date and time in UTC, to the millisecond. Returns `None` if `text` is invalid or before the
    /// epoch.
    pub fn from_rfc3339(text: &str) -> Option<Self> {
        Self::from_system(humantime::parse_rfc3339(text).ok()?)
    }

    /// Parses a date as HTTP headers have it (RFC 9110, section 5.6.7). Returns `None` if `text` is invalid or before the
    /// epoch.
    pub fn from_http(text: &str) -> Option<Self> {
        Self::from_system(httpdate::parse_http_date(text).ok()?)
    }

    /// Returns the milliseconds since the epoch.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// Returns the time since `earlier`, or zero if `earlier` lies in the future.
    pub fn since(self, earlier: Date) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Display for Date {
    /// Writes the date as RFC 3339 in UTC, to the millisecond. A date after [`Date::LAST`] is written in words, because an
    /// error here is a panic in `to_string`, and a panic kills the VM.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match UNIX_EPOCH.checked_add(Duration::from_millis(self.0)) {
            Some(time) if *self <= Date::LAST => humantime::format_rfc3339_millis(time).fmt(f),
            _ => f.write_str("a date after the year 9999"),
        }
    }
}

impl Add<Duration> for Date {
    type Output = Date;

    fn add(self, span: Duration) -> Date {
        Date(self.0.saturating_add(millis(span)))
    }
}

impl Sub<Duration> for Date {
    type Output = Date;

    fn sub(self, span: Duration) -> Date {
        Date(self.0.saturating_sub(millis(span)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn additions_and_subtractions_saturate() {
        let (first, last) = (Date::from_millis(0), Date::from_millis(u64::MAX));
        assert_eq!((last + SECOND, first - SECOND), (last, first));
    }

    #[test]
    fn every_date_can_be_written() {
        assert_eq!(Date::from_millis(0).to_string(), "1970-01-01T00:00:00.000Z");
        assert_eq!(Date::LAST.to_string(), "9999-12-31T23:59:59.999Z");
        assert_eq!(Date::from_rfc3339(&Date::LAST.to_string()), Some(Date::LAST));
        for later in [Date::LAST + Duration::from_millis(1), Date::from_millis(u64::MAX)] {
            assert_eq!(later.to_string(), "a date after the year 9999");
        }
    }

    #[test]
    fn a_date_before_the_epoch_is_invalid() {
        assert_eq!(Date::from_rfc3339("1969-12-31T23:59:59Z"), None);
        assert_eq!(Date::from_rfc3339("1970-01-01T00:00:00.001Z"), Some(Date::from_millis(1)));
        assert_eq!(Date::from_http("Thu, 01 Jan 1970 00:00:01 GMT"), Some(Date::from_millis(1_000)));
    }
}
