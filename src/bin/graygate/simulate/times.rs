//! Times as people read them: with an offset from UTC, and short enough for a column.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use graygate::value::date::Date;
use jiff::Timestamp;
use jiff::fmt::strtime;
use jiff::tz;

/// How long before or after UTC the clocks of the reader are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offset(tz::Offset);

impl FromStr for Offset {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = match text {
            "Z" | "z" => Some(tz::Offset::UTC),
            _ => strtime::parse("%:z", text).ok().and_then(|parsed| parsed.offset()),
        };
        parsed.map(Offset).ok_or("allowed: an offset from UTC such as +01:00, -05:30 or Z")
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let minutes = self.0.seconds() / 60;
        let sign = if minutes < 0 { '-' } else { '+' };
        write!(f, "{sign}{:02}:{:02}", minutes.abs() / 60, minutes.abs() % 60)
    }
}

/// A date in parts, all as text.
pub struct ClockTime {
    /// Such as 2026-12-01.
    pub date: String,
    /// Such as 10:00, with seconds only if there are some.
    pub clock: String,
}

impl Offset {
    /// Returns the time that the reader's clock shows on this date.
    pub fn time(self, date: Date) -> ClockTime {
        let millis = i64::try_from(date.as_millis()).unwrap_or(i64::MAX);
        let Ok(time) = Timestamp::from_millisecond(millis) else {
            return ClockTime { date: date.to_string(), clock: String::new() };
        };
        let time = self.0.to_datetime(time);
        let clock = match (time.second(), time.subsec_nanosecond()) {
            (0, 0) => time.strftime("%H:%M"),
            (_, 0) => time.strftime("%H:%M:%S"),
            _ => time.strftime("%H:%M:%S%.3f"),
        };
        ClockTime { date: time.strftime("%Y-%m-%d").to_string(), clock: clock.to_string() }
    }

    /// Returns date, time and offset in one, such as `2026-12-01 10:00 +01:00`.
    pub fn whole(self, date: Date) -> String {
        let ClockTime { date, clock } = self.time(date);
        format!("{date} {clock} {self}")
    }
}

/// Returns the two largest units of a duration, such as `1h 30m`.
pub fn short(span: Duration) -> String {
    const UNITS: [(&str, u64); 4] = [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];
    let seconds = span.as_secs();
    if seconds == 0 {
        return format!("{}ms", span.as_millis());
    }
    let mut rest = seconds;
    let parts = UNITS.iter().filter_map(|(unit, size)| {
        let count = rest / size;
        rest %= size;
        (count > 0).then(|| format!("{count}{unit}"))
    });
    parts.take(2).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_moves_the_clock_and_the_date() {
        let date = Date::from_rfc3339("2026-12-01T23:30:00Z").unwrap();
        let whole = |offset: &str| offset.parse::<Offset>().unwrap().whole(date);
        assert_eq!(whole("Z"), "2026-12-01 23:30 +00:00");
        assert_eq!(whole("+01:00"), "2026-12-02 00:30 +01:00");
        assert_eq!(whole("-05:30"), "2026-12-01 18:00 -05:30");
        let clock = |date: &str| "Z".parse::<Offset>().unwrap().time(Date::from_rfc3339(date).unwrap()).clock;
        assert_eq!(clock("2026-12-01T23:30:05Z"), "23:30:05");
        assert_eq!(clock("2026-12-01T23:30:00.25Z"), "23:30:00.250");
        for wrong in ["", "1", "+1:00", "+01:60", "01:00", "+01", "1h"] {
            assert!(wrong.parse::<Offset>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_duration_has_at_most_two_units() {
        let texts = [5_400, 7_200, 90_061, 45].map(|seconds| short(Duration::from_secs(seconds)));
        assert_eq!(texts, ["1h 30m", "2h", "1d 1h", "45s"]);
        assert_eq!(short(Duration::from_millis(250)), "250ms");
    }
}
