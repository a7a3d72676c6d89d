//! Numbers for a route that picks by one: Envoy takes the remainder by the total of its weights and goes along
//! them, in the route's order.

/// Returns the version that the route picks by this number, where it has these weights; `None` if they are all 0.
pub fn pick(weights: &[u32], number: u64) -> Option<usize> {
    let mut rest = number.checked_rem(total(weights))?;
    weights.iter().position(|weight| {
        let weight = u64::from(*weight);
        let found = rest < weight;
        rest = rest.saturating_sub(weight);
        found
    })
}

/// Returns a number by which the route picks this version, the same for the same `hash`; `None` if its weight
/// is 0.
pub fn of(weights: &[u32], version: usize, hash: u64) -> Option<u64> {
    let start: u64 = weights.iter().take(version).map(|weight| u64::from(*weight)).sum();
    let weight = u64::from(*weights.get(version)?);
    Some(start + hash.checked_rem(weight)?)
}

/// The next number of a sequence that goes through all remainders once, whatever the total, and does not linger.
pub fn next(last: u64) -> u64 {
    // A prime, so only a total that is a multiple of it does not get all remainders in turn.
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
    fn a_number_picks_along_the_weights_in_their_order() {
        let weights = [3, 0, 2];
        let picked = [0, 2, 3, 4, 5, 8, 9].map(|number| pick(&weights, number).unwrap());
        assert_eq!(picked, [0, 0, 2, 2, 0, 2, 2]);
        // 2^64 - 1 is a multiple of 5.
        assert_eq!(pick(&weights, u64::MAX), Some(0));
        assert_eq!(pick(&weights, u64::MAX - 1), Some(2));
    }

    #[test]
    fn a_number_picks_nothing_where_there_is_no_version() {
        assert_eq!(pick(&[], 7), None);
        assert_eq!(of(&[], 0, 7), None);
    }

    #[test]
    fn a_version_has_a_number_for_each_hash_that_picks_it() {
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
    fn a_sequence_goes_through_all_remainders_once_from_anywhere() {
        for total in (1..300).chain([1_000, 9_999, 10_000, 65_536]) {
            for start in [0, 1, 1 << 40] {
                let (mut seen, mut number) = (vec![false; total as usize], start);
                for _ in 0..total {
                    number = next(number);
                    let index = (number % total) as usize;
                    assert!(!core::mem::replace(&mut seen[index], true), "{total} from {start}");
                }
            }
        }
    }

    #[test]
    fn a_sequence_does_not_linger() {
        let mut number = 0;
        let tenth: Vec<bool> = core::iter::from_fn(|| {
            number = next(number);
            Some(number % 100 >= 90)
        })
        .take(1_000)
        .collect();
        let longest = tenth.split(|hit| *hit).map(<[bool]>::len).max();
        let together = tenth.split(|hit| !hit).map(<[bool]>::len).max();
        assert!(longest <= Some(18) && together == Some(1), "{longest:?} without, {together:?} with");
    }
}
