//! What a failing response asks for: to be left alone for a while.
//!
//! HTTP says it by `Retry-After`, as seconds or as a date (RFC 9110, section 10.2.3), gRPC by
//! `grpc-retry-pushback-ms` (gRFC A6). Whoever writes them is another server: what can't be read is no wish.

use core::time::Duration;
use std::time::UNIX_EPOCH;

use crate::value::time::{Time, millis};

/// Until when the value of a `retry-after` header asks.
pub fn of_http(value: &[u8], now: Time) -> Option<Time> {
    let text = core::str::from_utf8(value).ok()?.trim();
    match text.parse() {
        Ok(seconds) => Some(now + Duration::from_secs(seconds)),
        Err(_) => {
            let date = httpdate::parse_http_date(text).ok()?;
            Some(Time::from_millis(millis(date.duration_since(UNIX_EPOCH).ok()?)))
        }
    }
}

/// Until when the value of a `grpc-retry-pushback-ms` header asks. A negative one means not to retry, and no time.
pub fn of_grpc(value: &[u8], now: Time) -> Option<Time> {
    let pushback = core::str::from_utf8(value).ok()?.trim().parse().ok()?;
    Some(now + Duration::from_millis(pushback))
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    /// Sunday, 6 November 1994, 08:49:37, the date that the RFC shows.
    const SHOWN: u64 = 784_111_777_000;

    #[test]
    fn is_seconds_or_a_date() {
        let now = Time::from_millis(SHOWN - 5_000);
        assert_eq!(of_http(b"120", now), Some(now + Duration::from_secs(120)));
        assert_eq!(of_http(b" 0 ", now), Some(now));
        assert_eq!(of_http(b"Sun, 06 Nov 1994 08:49:37 GMT", now), Some(Time::from_millis(SHOWN)));
        assert_eq!(of_grpc(b"1500", now), Some(now + Duration::from_millis(1_500)));
    }

    #[test]
    fn in_any_other_form_asks_for_nothing() {
        let now = Time::from_millis(SHOWN);
        for value in [&b""[..], b"-1", b"1.5", b"soon", b"\xff", b"Sun, 99 Nov 1994 08:49:37 GMT"] {
            assert_eq!(of_http(value, now), None, "{value:?}");
            assert_eq!(of_grpc(value, now), None, "{value:?}");
        }
    }

    #[test]
    fn of_any_length_overflows_nothing() {
        let now = Time::from_millis(SHOWN);
        assert_eq!(of_http(b"18446744073709551615", now), Some(Time::from_millis(u64::MAX)));
        assert_eq!(of_http(b"99999999999999999999", now), None);
        assert_eq!(of_grpc(b"18446744073709551615", now), Some(Time::from_millis(u64::MAX)));
    }
}
