//! Parsing of header values, which need not be UTF-8.

use core::str::FromStr;

/// Parses the value of a header as a number.
pub fn number<N: FromStr>(value: &[u8]) -> Option<N> {
    core::str::from_utf8(value).ok()?.parse().ok()
}
