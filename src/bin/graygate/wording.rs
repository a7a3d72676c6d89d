//! How the tool writes numbers and dates.

use graygate::value::date::Date;

/// Writes a share in percent, without digits that say nothing.
pub fn percent(hundredths: u32) -> String {
    format!("{} %", f64::from(hundredths) / 100.0)
}

/// Writes a date in RFC 3339, without milliseconds that are 0.
pub fn describe_date(date: Date) -> String {
    let text = date.to_string();
    text.strip_suffix(".000Z").map_or(text.clone(), |seconds| format!("{seconds}Z"))
}
