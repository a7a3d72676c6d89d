//! Reads the numbers of options. What clap says of a wrong one is in Rust's words, such as `0..=100`.

use core::fmt::Display;
use core::ops::RangeInclusive;
use core::str::FromStr;

/// Returns a parser of whole numbers in a range.
pub fn within<N>(
    range: RangeInclusive<N>,
) -> impl Fn(&str) -> Result<N, String> + Clone + Send + Sync + 'static
where
    N: FromStr + PartialOrd + Display + Clone + Send + Sync + 'static,
{
    move |text: &str| {
        let number = text.parse::<N>().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| format!("write a whole number from {} to {}", range.start(), range.end()))
    }
}
