//! Times on the command line, and the current time.

use std::time::{SystemTime, UNIX_EPOCH};

use graygate::value::time::{Time, millis};

/// Parses a time as policies have it, in RFC 3339 and UTC.
pub fn time(text: &str) -> Result<Time, String> {
    let allowed = "allowed: a time in UTC as RFC 3339 has it, such as 2026-12-01T10:00:00Z";
    Time::from_rfc3339(text).ok_or_else(|| allowed.to_owned())
}

/// Returns the current time. Only the tool may read the clock, as the core gets the time as an argument.
#[allow(clippy::disallowed_methods)]
pub fn now() -> Time {
    let span = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time::from_millis(millis(span))
}
