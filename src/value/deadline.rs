//! The deadline that a caller sets for its own request. If it passes, the upstream need not be at fault.

use core::time::Duration;

/// The deadlines in the headers of one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallerDeadline {
    /// The time for the whole request.
    pub overall: Option<Duration>,
    /// The time for each attempt of the proxy.
    pub per_try: Option<Duration>,
}

impl CallerDeadline {
    /// Reads the headers that Envoy's router obeys. Whether it does depends on the route. `get` returns the value of a
    /// header by its name. Invalid values count as absent.
    ///
    /// ```
    /// use core::time::Duration;
    /// use graygate::value::deadline::CallerDeadline;
    ///
    /// let deadline = CallerDeadline::read(|name| (name == "grpc-timeout").then(|| b"250m".to_vec()));
    /// assert_eq!(deadline.overall, Some(Duration::from_millis(250)));
    /// ```
    pub fn read<V: AsRef<[u8]>>(get: impl Fn(&str) -> Option<V>) -> Self {
        let millis = |name| {
            let millis: u64 = super::parse::number(get(name)?.as_ref())?;
            (millis > 0).then_some(Duration::from_millis(millis))
        };
        let grpc = get("grpc-timeout").and_then(|value| grpc_timeout(value.as_ref()));
        let overall = grpc
            .into_iter()
            .chain(millis("x-envoy-upstream-rq-timeout-ms"))
            .chain(millis("x-envoy-upstream-stream-duration-ms"))
            .min();
        CallerDeadline { overall, per_try: millis("x-envoy-upstream-rq-per-try-timeout-ms") }
    }

    /// Returns whether the caller set any deadline.
    pub fn is_set(&self) -> bool {
        self.overall.is_some() || self.per_try.is_some()
    }

    /// Returns whether a timeout after `waited` is the caller's own and not the route's.
    pub fn has_passed(&self, waited: Duration) -> bool {
        self.overall.into_iter().chain(self.per_try).any(|deadline| waited + CLOCK_STEP >= deadline)
    }
}

/// The clock counts in milliseconds, so a time between two readings may be longer by nearly one.
const CLOCK_STEP: Duration = Duration::from_millis(1);

/// Parses `grpc-timeout`: up to eight digits and a unit.
fn grpc_timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    let amount: u64 = super::parse::number(digits).filter(|_| digits.len() <= 8)?;
    Some(match unit {
        b'H' => Duration::from_secs(amount * 3_600),
        b'M' => Duration::from_secs(amount * 60),
        b'S' => Duration::from_secs(amount),
        b'm' => Duration::from_millis(amount),
        b'u' => Duration::from_micros(amount),
        b'n' => Duration::from_nanos(amount),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn read(name: &str, value: &str) -> CallerDeadline {
        CallerDeadline::read(|asked| (asked == name).then_some(value))
    }

    #[test]
    fn a_grpc_timeout_has_digits_and_a_unit() {
        for (value, millis) in [
            ("1H", Some(3_600_000)),
            ("2M", Some(120_000)),
            ("3S", Some(3_000)),
            ("99999999m", Some(99_999_999)),
            ("5000u", Some(5)),
            ("7000000n", Some(7)),
            ("", None),
            ("m", None),
            ("5", None),
            ("5x", None),
            ("-5m", None),
            ("123456789m", None),
            ("\u{fffd}", None),
        ] {
            assert_eq!(read("grpc-timeout", value).overall, millis.map(Duration::from_millis), "{value}");
        }
    }

    #[test]
    fn the_shorter_of_two_deadlines_counts() {
        let both = CallerDeadline::read(|name| match name {
            "grpc-timeout" => Some("3S"),
            "x-envoy-upstream-rq-timeout-ms" => Some("500"),
            _ => None,
        });
        assert_eq!(both.overall, Some(Duration::from_millis(500)));
        assert!(both.has_passed(Duration::from_millis(500)) && !both.has_passed(Duration::from_millis(400)));
    }

    #[test]
    fn zero_is_no_deadline() {
        assert!(!read("x-envoy-upstream-rq-timeout-ms", "0").is_set());
        assert!(read("x-envoy-upstream-rq-per-try-timeout-ms", "5").is_set());
    }
}
