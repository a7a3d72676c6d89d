//! Numbers for a route that picks a cluster by a header value.
//!
//! Envoy takes the number's remainder by the total of the route's weights. It then walks along the weights in
//! the route's order.

/// Returns the version that a route with these weights picks by this number, or `None` if all weights are 0.
pub fn pick(weights: &[u32], number: u64) -> Option<usize> {
    let mut rest = number.checked_rem(total(weights))?;
    weights.iter().position(|weight| {
        let weight = u64::from(*weight);
        let found = rest < weight;
        rest = rest.saturating_sub(weight);
        found
    })
}

/// Returns a number by which the route picks this version, or `None` if its weight is 0. The same `hash`
/// always gives the same number.
pub fn of(weights: &[u32], version: usize, hash: u64) -> Option<u64> {
    let start: u64 = weights.iter().take(version).map(|weight| u64::from(*weight)).sum();
    let weight = u64::from(*weights.get(version)?);
    Some(start + hash.checked_rem(weight)?)
}

/// Returns the next number of a sequence that passes through every remainder once, whatever the total.
/// Neighbouring numbers are far apart.
pub fn next(last: u64) -> u64 {
    // A prime step passes through every remainder of any total that is not a multiple of the prime.
    last.wrapping_add(2_654_435_761)
}

fn total(weights: &[u32]) -> u64 {
    weights.iter().map(|weight| u64::from(*weight)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn a_number_picks_by_the_weights_in_their_order() {
        let weights = [3, 0, 2];
        let picked = [0, 2, 3, 4, 5, 8, 9].map(|number| pick(&weights, number).unwrap());
        assert_eq!(picked, [0, 0, 2, 2, 0, 2, 2]);
        // 2^64 - 1 is a multiple of 5.
        assert_eq!(pick(&weights, u64::MAX), Some(0));
        assert_eq!(pick(&weights, u64::MAX - 1), Some(2));
    }

    #[test]
    fn without_versions_no_number_picks_one() {
        assert_eq!(pick(&[], 7), None);
        assert_eq!(of(&[], 0, 7), None);
    }

    #[test]
    fn each_hash_gives_a_number_that_picks_the_version() {
        for weights in [&[90, 10][..], &[1], &[3, 0, 2], &[u32::MAX, u32::MAX], &[1, 9_999]] {
            for (index, weight) in weights.iter().enumerate() {
                for hash in [0, 1, 7, 89, 1 << 32, u64::MAX - 1, u64::MAX] {
                    let number = of(weights, index, hash);
                    assert_eq!(number.is_some(), *weight > 0);
                    assert_eq!(number.and_then(|number| pick(weights, number)), number.map(|_| index));
                    assert!(number.is_none_or(|number| number < total(weights)));
                }
            }
            assert_eq!(of(weights, weights.len(), 7), None);
        }
    }

    #[test]
    fn a_sequence_passes_through_every_remainder_once_from_any_start() {
        for total in (1..300).chain([1_000, 9_999, 10_000, 65_536]) {
            for start in [0, 1, 1 << 40] {
                let mut seen = vec![false; total as usize];
                let mut number = start;
                for _ in 0..total {
                    number = next(number);
                    let remainder = (number % total) as usize;
                    assert!(!seen[remainder], "{total} from {start}");
                    seen[remainder] = true;
                }
            }
        }
    }

    #[test]
    fn a_sequence_spreads_a_versions_turns() {
        let mut number = 0;
        // Whether each of 1,000 numbers picks a version that holds a tenth.
        let picks: Vec<bool> = core::iter::from_fn(|| {
            number = next(number);
            Some(number % 100 >= 90)
        })
        .take(1_000)
        .collect();
        let longest_without = picks.split(|hit| *hit).map(<[bool]>::len).max();
        let longest_with = picks.split(|hit| !hit).map(<[bool]>::len).max();
        assert!(
            longest_without <= Some(18) && longest_with == Some(1),
            "{longest_without:?} without, {longest_with:?} with"
        );
    }
}
