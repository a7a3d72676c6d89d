//! Requests without a key: versions in turn.

/// Deals versions out in turn, by smooth weighted round robin: after any number of turns each version is
/// within a turn or so of its exact share, and after as many turns as the weights' total exactly on it.
#[derive(Clone, Debug, Default)]
pub struct Rotation {
    credits: Vec<i64>,
}

/// The most turns that a worker may start ahead by.
const AHEAD: u64 = 10_000;

impl Rotation {
    /// Starts at a place in the cycle that `random` picks. If all started at the same place, the first
    /// requests of every worker of every proxy would all go to the same version.
    pub fn new(weights: &[u32], random: u64) -> Self {
        let mut rotation = Rotation { credits: vec![0; weights.len()] };
        let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
        for _ in 0..random % total.clamp(1, AHEAD) {
            rotation.next(weights);
        }
        rotation
    }

    /// The version whose turn it is. Nothing while the weights are all 0.
    pub fn next(&mut self, weights: &[u32]) -> Option<usize> {
        let mut total = 0;
        let mut best: Option<(usize, i64)> = None;
        for (place, (credit, weight)) in self.credits.iter_mut().zip(weights).enumerate() {
            let weight = i64::from(*weight);
            *credit += weight;
            total += weight;
            // A version of weight 0 never has a turn, whatever credit it kept from when it had weight.
            if weight > 0 && best.is_none_or(|(_, most)| *credit > most) {
                best = Some((place, *credit));
            }
        }
        let (place, _) = best?;
        if let Some(credit) = self.credits.get_mut(place) {
            *credit -= total;
        }
        Some(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn dealt(weights: &[u32], random: u64, turns: u32) -> Vec<u32> {
        let mut rotation = Rotation::new(weights, random);
        let mut counts = vec![0; weights.len()];
        for _ in 0..turns {
            counts[rotation.next(weights).unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn gives_exactly_the_weights_over_a_round_from_any_place_in_it() {
        for weights in [&[90, 10][..], &[1], &[3, 0, 2], &[5, 1, 1], &[0, 7]] {
            let total: u32 = weights.iter().sum();
            for random in 0..=u64::from(total) {
                assert_eq!(dealt(weights, random, total), weights, "{weights:?} from {random}");
            }
            assert_eq!(dealt(weights, u64::MAX, total), weights);
        }
    }

    #[test]
    fn spreads_a_small_share_evenly() {
        for tens in 1..10 {
            assert_eq!(dealt(&[9_000, 1_000], 0, tens * 10), [tens * 9, tens]);
        }
    }

    #[test]
    fn starts_at_different_places() {
        let first = |random| Rotation::new(&[90, 10], random).next(&[90, 10]);
        let on_v2 = (0..100).filter(|random| first(*random) == Some(1)).count();
        assert_eq!(on_v2, 10);
    }

    #[test]
    fn takes_the_largest_weights_and_none() {
        assert_eq!(dealt(&[u32::MAX, u32::MAX], u64::MAX, 1_000), [500, 500]);
        assert_eq!(dealt(&[u32::MAX, 0], u64::MAX, 1_000), [1_000, 0]);
        assert_eq!(Rotation::new(&[0, 0], 7).next(&[0, 0]), None);
        assert_eq!(Rotation::new(&[], 7).next(&[]), None);
    }
}
