//! The backoff that a failing response asks for. Until it ends, the upstream wants no further requests.
//!
//! HTTP uses `Retry-After`, as seconds or as a date (RFC 9110, section 10.2.3). gRPC uses
//! `grpc-retry-pushback-ms` (gRFC A6). The values are untrusted. A value that cannot be parsed is ignored.

use core::time::Duration;
use std::time::UNIX_EPOCH;

use crate::value::time::{Time, millis};

/// Returns the end of the backoff in the value of a `retry-after` header.
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

/// Returns the end of the backoff in the value of a `grpc-retry-pushback-ms` header. A negative value forbids
/// a retry but gives no time, so it returns `None`.
pub fn of_grpc(value: &[u8], now: Time) -> Option<Time> {
    let pushback = core::str::from_utf8(value).ok()?.trim().parse().ok()?;
    Some(now + Duration::from_millis(pushback))
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    /// Sunday, 6 November 1994, 08:49:37: the example date in the RFC.
    const SHOWN: u64 = 784_111_777_000;

    #[test]
    fn a_value_is_seconds_or_a_date() {
        let now = Time::from_millis(SHOWN - 5_000);
        assert_eq!(of_http(b"120", now), Some(now + Duration::from_secs(120)));
        assert_eq!(of_http(b" 0 ", now), Some(now));
        assert_eq!(of_http(b"Sun, 06 Nov 1994 08:49:37 GMT", now), Some(Time::from_millis(SHOWN)));
        assert_eq!(of_grpc(b"1500", now), Some(now + Duration::from_millis(1_500)));
    }

    #[test]
    fn a_value_in_any_other_form_is_ignored() {
        let now = Time::from_millis(SHOWN);
        for value in [&b""[..], b"-1", b"1.5", b"soon", b"\xff", b"Sun, 99 Nov 1994 08:49:37 GMT"] {
            assert_eq!(of_http(value, now), None, "{value:?}");
            assert_eq!(of_grpc(value, now), None, "{value:?}");
        }
    }

    #[test]
    fn a_value_of_any_length_does_not_overflow() {
        let now = Time::from_millis(SHOWN);
        assert_eq!(of_http(b"18446744073709551615", now), Some(Time::from_millis(u64::MAX)));
        assert_eq!(of_http(b"99999999999999999999", now), None);
        assert_eq!(of_grpc(b"18446744073709551615", now), Some(Time::from_millis(u64::MAX)));
    }
}
