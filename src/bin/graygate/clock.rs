//! Dates on the command line, and today's date.

use std::time::SystemTime;

use graygate::value::date::Date;

/// Parses a date as policies have it, in RFC 3339 and UTC.
pub fn date(text: &str) -> Result<Date, String> {
    let allowed = "allowed: a time in UTC as RFC 3339 has it, such as 2026-12-01T10:00:00Z";
    Date::from_rfc3339(text).ok_or_else(|| allowed.to_owned())
}

/// Returns today's date. Only the tool may read the clock, as the core gets dates as arguments.
#[allow(clippy::disallowed_methods)]
pub fn today() -> Date {
    Date::from_system(SystemTime::now()).unwrap_or_default()
}
