//! Dates on the command line, and today's date.

use std::time::SystemTime;

use graygate::value::date::Date;
use jiff::{Timestamp, civil};

/// Parses a date in RFC 3339 with any offset. A policy takes only UTC.
pub fn date(text: &str) -> Result<Date, String> {
    const EXAMPLE: &str = "write a time such as 2026-12-01T10:00:00Z or 2026-12-01T11:00:00+01:00";
    // `Timestamp` does not have the last day of the year 9999.
    if let Some(date) = Date::from_rfc3339(text) {
        return Ok(date);
    }
    match text.parse::<Timestamp>() {
        Ok(time) => u64::try_from(time.as_millisecond())
            .map(Date::from_millis)
            .map_err(|_| format!("the time is before 1970; {EXAMPLE}")),
        Err(_) if text.parse::<civil::DateTime>().is_ok() => {
            Err("the offset from UTC is missing; add Z for UTC, or an offset such as +01:00".to_owned())
        }
        Err(_) => Err(EXAMPLE.to_owned()),
    }
}

/// Returns today's date. Only the tool may read the clock, as the core gets dates as arguments.
#[allow(clippy::disallowed_methods)]
pub fn today() -> Date {
    Date::from_system(SystemTime::now()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_may_have_any_offset() {
        let expected = Date::from_rfc3339("2026-12-01T10:00:00Z").unwrap();
        for text in [
            "2026-12-01T10:00:00Z",
            "2026-12-01t10:00:00z",
            "2026-12-01 10:00:00Z",
            "2026-12-01T10:00:00.000Z",
            "2026-12-01T11:00:00+01:00",
            "2026-12-01T04:30:00-05:30",
            "2026-12-01T10:00:00-00:00",
        ] {
            assert_eq!(date(text), Ok(expected), "{text}");
        }
        assert_eq!(date("9999-12-31T23:59:59.999Z"), Ok(Date::LAST));
    }

    #[test]
    fn other_text_is_refused_with_a_way_to_mend_it() {
        for text in ["", "tomorrow", "2026-13-01T10:00:00Z", "10000-01-01T00:00:00Z", "2026-12-01T25:00:00Z"]
        {
            assert!(date(text).unwrap_err().starts_with("write a time such as"), "{text}");
        }
        for text in ["2026-12-01T10:00:00", "2026-12-01", "2026-12-01 10:00"] {
            assert!(date(text).unwrap_err().starts_with("the offset from UTC is missing"), "{text}");
        }
        assert!(date("1969-12-31T23:00:00Z").unwrap_err().starts_with("the time is before 1970"));
    }
}
