//! The backoff that a failing response asks for. Until it ends, the upstream wants no further requests.
//!
//! HTTP uses `Retry-After`, as seconds or as a date (RFC 9110, section 10.2.3). gRPC uses
//! `grpc-retry-pushback-ms` (gRFC A6). The values are untrusted. A value that cannot be parsed is ignored.

use core::time::Duration;

use crate::value::date::Date;
use crate::value::time::Time;

/// Returns the end of the backoff in the value of a `retry-after` header.
///
/// `today` returns the date at `now`, and is called only for a date. The backoff is the time until then. What becomes of
/// the wall clock later does not change it.
pub fn of_http(value: &[u8], now: Time, today: impl Fn() -> Date) -> Option<Time> {
    let text = core::str::from_utf8(value).ok()?.trim();
    match text.parse() {
        Ok(seconds) => Some(now + Duration::from_secs(seconds)),
        Err(_) => Some(now + Date::from_http(text)?.since(today())),
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

    /// The example date in the RFC.
    const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

    const NOW: Time = Time::from_millis(60_000);

    /// Returns the end of the backoff in the value of `retry-after`, this long before [`DATE`].
    fn http(value: &[u8], before: Duration) -> Option<Time> {
        of_http(value, NOW, || Date::from_http(DATE).unwrap() - before)
    }

    #[test]
    fn a_value_is_seconds_or_a_date() {
        let five = Duration::from_secs(5);
        assert_eq!(http(b"120", five), Some(NOW + Duration::from_secs(120)));
        assert_eq!(http(b" 0 ", five), Some(NOW));
        assert_eq!(http(DATE.as_bytes(), five), Some(NOW + five));
        assert_eq!(of_grpc(b"1500", NOW), Some(NOW + Duration::from_millis(1_500)));
    }

    #[test]
    fn a_date_in_the_past_asks_for_no_backoff() {
        assert_eq!(of_http(DATE.as_bytes(), NOW, || Date::from_millis(u64::MAX)), Some(NOW));
    }

    #[test]
    fn seconds_do_not_depend_on_the_date() {
        assert_eq!(of_http(b"1", NOW, || panic!("asked for the date")), Some(NOW + Duration::from_secs(1)));
    }

    #[test]
    fn a_value_in_any_other_form_is_ignored() {
        for value in [&b""[..], b"-1", b"1.5", b"soon", b"\xff", b"Sun, 99 Nov 1994 08:49:37 GMT"] {
            assert_eq!(http(value, Duration::ZERO), None, "{value:?}");
            assert_eq!(of_grpc(value, NOW), None, "{value:?}");
        }
    }

    #[test]
    fn a_value_of_any_length_does_not_overflow() {
        let last = Time::from_millis(u64::MAX);
        assert_eq!(http(b"18446744073709551615", Duration::ZERO), Some(last));
        assert_eq!(http(b"99999999999999999999", Duration::ZERO), None);
        assert_eq!(of_grpc(b"18446744073709551615", NOW), Some(last));
    }
}
