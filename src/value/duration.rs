//! Durations, as Istio writes them, such as `300ms`, `1.5s` or `1h30m`.

use core::time::Duration;

/// Parses one or more decimal numbers, each with a unit (`h`, `m`, `s` or `ms`). Rounds each to the millisecond.
///
/// ```
/// use core::time::Duration;
/// use graygate::value::duration;
///
/// assert_eq!(duration::parse("1.5s"), Some(Duration::from_millis(1_500)));
/// assert_eq!(duration::parse("5"), None);
/// ```
pub fn parse(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at_checked(digits)?;
        let unit_end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at_checked(unit_end)?;
        let millis = match unit {
            "h" => 3_600_000,
            "m" => 60_000,
            "s" => 1_000,
            "ms" => 1,
            _ => return None,
        };
        total = total.checked_add(Duration::from_millis(multiply(number, millis)?))?;
        rest = tail;
    }
    (!text.is_empty()).then_some(total)
}

/// Multiplies a decimal number by `unit` and rounds. Uses integers, as parsing floats would add 10 kB of tables to the
/// module.
fn multiply(number: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let parse = |digits: &str| if digits.is_empty() { Some(0) } else { digits.parse::<u64>().ok() };
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // Further digits make no difference to the rounded result.
    let fraction = fraction.get(..9).unwrap_or(fraction);
    let denominator = 10_u64.pow(u32::try_from(fraction.len()).ok()?);
    let rounded = (parse(fraction)? * unit + denominator / 2) / denominator;
    let sum = parse(whole)?.checked_mul(unit)?.checked_add(rounded)?;
    (!whole.is_empty() || !fraction.is_empty()).then_some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn durations_are_parsed_as_istio_writes_them() {
        for (text, millis) in [
            ("0s", 0),
            ("300ms", 300),
            ("1.5s", 1_500),
            ("1h30m", 5_400_000),
            ("24h", 86_400_000),
            (".5s", 500),
            ("2.s", 2_000),
            ("0.0005s", 1),
            ("0.0004999s", 0),
            ("0.5ms", 1),
            ("1.00000000099h", 3_600_000),
        ] {
            assert_eq!(parse(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in [
            "",
            "5",
            "s",
            "5 s",
            "-1s",
            "1d",
            ".s",
            "99999999999999999999s",
            "9999999999999999999h",
            "1..5s",
            "1e3s",
            "5s5",
            "é",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
