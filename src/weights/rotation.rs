//! Gives requests without a key the versions in turn.

use crate::value::hash;

/// Deals out versions in turn, exactly by weight.
///
/// A round has as many turns as the total of the weights in lowest terms. After a round each version has had
/// exactly its share. The order within a round is random. Otherwise two releases would always give the same
/// request the same kind of version.
#[derive(Clone, Debug, Default)]
pub struct Rotation {
    /// The credit of each version, in parts of a turn, by smooth weighted round robin.
    credits: Vec<i64>,
    /// The next turns. The last one comes first.
    deck: Vec<usize>,
    random: u64,
}

/// The maximum number of turns that are shuffled together.
const MAX_DECK: u64 = 1_000;

impl Rotation {
    /// Creates a rotation. `random` seeds the order, and differs between workers.
    pub fn new(random: u64) -> Self {
        Rotation { credits: Vec::new(), deck: Vec::new(), random }
    }

    /// Returns the version whose turn it is, or `None` if all weights are 0.
    pub fn next(&mut self, weights: &[u32]) -> Option<usize> {
        if self.deck.is_empty() {
            self.shuffle(weights);
        }
        self.deck.pop()
    }

    /// Puts back the turns that were not dealt, which were shuffled by these weights. Call it before the
    /// weights change, so that each version keeps its credit.
    pub fn settle(&mut self, weights: &[u32]) {
        let total: i64 = weights.iter().map(|weight| i64::from(*weight)).sum();
        for index in core::mem::take(&mut self.deck) {
            for (credit, weight) in self.credits.iter_mut().zip(weights) {
                *credit -= i64::from(*weight);
            }
            if let Some(credit) = self.credits.get_mut(index) {
                *credit += total;
            }
        }
    }

    /// Shuffles the turns of one round, or of part of a long one.
    fn shuffle(&mut self, weights: &[u32]) {
        self.credits.resize(weights.len(), 0);
        let divisor = weights.iter().fold(0, |divisor, weight| gcd(divisor, u64::from(*weight)));
        let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
        for _ in 0..total.checked_div(divisor).unwrap_or_default().min(MAX_DECK) {
            self.deck.extend(turn(&mut self.credits, weights));
        }
        for last in (1..self.deck.len()).rev() {
            self.random = self.random.wrapping_add(1);
            let other = hash::pseudo_random(self.random) % (last as u64 + 1);
            self.deck.swap(last, other as usize);
        }
    }
}

/// Takes one turn of smooth weighted round robin. Each version gets its weight as credit, and the version
/// with the most credit pays the total.
fn turn(credits: &mut [i64], weights: &[u32]) -> Option<usize> {
    let mut total = 0;
    let mut best: Option<(usize, i64)> = None;
    for (index, (credit, weight)) in credits.iter_mut().zip(weights).enumerate() {
        let weight = i64::from(*weight);
        *credit += weight;
        total += weight;
        // A version of weight 0 never has a turn, even if it has credit from when it had weight.
        if weight > 0 && best.is_none_or(|(_, most)| *credit > most) {
            best = Some((index, *credit));
        }
    }
    let (index, _) = best?;
    if let Some(credit) = credits.get_mut(index) {
        *credit -= total;
    }
    Some(index)
}

fn gcd(one: u64, other: u64) -> u64 {
    if other == 0 { one } else { gcd(other, one % other) }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn dealt(weights: &[u32], random: u64, turns: u32) -> Vec<u32> {
        let mut rotation = Rotation::new(random);
        let mut counts = vec![0; weights.len()];
        for _ in 0..turns {
            counts[rotation.next(weights).unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn a_round_matches_the_weights_exactly_in_any_order() {
        for weights in [&[90, 10][..], &[1], &[3, 0, 2], &[5, 1, 1], &[0, 7]] {
            let total: u32 = weights.iter().sum();
            for random in 0..50 {
                assert_eq!(dealt(weights, random, total), weights, "{weights:?} by {random}");
            }
            assert_eq!(dealt(weights, u64::MAX, total), weights);
        }
    }

    #[test]
    fn a_round_is_as_short_as_the_weights_allow() {
        for tens in 1..10 {
            assert_eq!(dealt(&[9_000, 1_000], 0, tens * 10), [tens * 9, tens]);
        }
    }

    #[test]
    fn the_order_is_random() {
        let first = |random| Rotation::new(random).next(&[90, 10]);
        let on_v2 = (0..1_000).filter(|random| first(random * 7_919) == Some(1)).count();
        assert!((60..140).contains(&on_v2), "{on_v2}");
    }

    #[test]
    fn two_rotations_are_independent() {
        for weights in [[50, 50], [90, 10], [99, 1]] {
            let (mut one, mut other) = (Rotation::new(1), Rotation::new(1 << 32));
            let turns = 100_000;
            let both =
                (0..turns).filter(|_| one.next(&weights) == Some(1) && other.next(&weights) == Some(1));
            let (both, expected) =
                (both.count() as f64, f64::from(turns * weights[1] * weights[1]) / 10_000.0);
            assert!((both - expected).abs() < 5.0 * expected.sqrt(), "{weights:?}: {both}, not {expected}");
        }
    }

    #[test]
    fn a_versions_credit_survives_a_change_of_weights() {
        let mut rotation = Rotation::new(3);
        let mut counts = [0, 0];
        // A ramp gives v2 a little more after every third turn.
        let expected: f64 = (0..3_000u32).map(|turn| f64::from(turn / 3) / 1_000.0).sum();
        for turn in 0..3_000u32 {
            let weights = [1_000 - turn / 3, turn / 3];
            counts[rotation.next(&weights).unwrap()] += 1;
            if turn % 3 == 2 {
                rotation.settle(&weights);
            }
        }
        assert!((f64::from(counts[1]) - expected).abs() <= 3.0, "{counts:?}, not {expected}");
    }

    #[test]
    fn the_largest_weights_and_weights_of_0_are_accepted() {
        assert_eq!(dealt(&[u32::MAX, u32::MAX], u64::MAX, 1_000), [500, 500]);
        assert_eq!(dealt(&[u32::MAX, 0], u64::MAX, 1_000), [1_000, 0]);
        assert_eq!(Rotation::new(7).next(&[0, 0]), None);
        assert_eq!(Rotation::new(7).next(&[]), None);
    }
}
