//! Requests without a key: versions in turn.

use crate::value::hash;

/// Deals versions out in turn, exactly by weight: after as many turns as the weights' total in lowest terms, each
/// version has had exactly its share. Within that the order is by chance, or two releases would always deal the
/// same request to versions of the same kind.
#[derive(Clone, Debug, Default)]
pub struct Rotation {
    /// What each version is owed, in parts of a turn, by smooth weighted round robin.
    credits: Vec<i64>,
    /// The next turns, from the back.
    deck: Vec<usize>,
    random: u64,
}

/// The most turns that are shuffled together.
const DECK: u64 = 1_000;

impl Rotation {
    /// `random` seeds the order, which is each worker's own.
    pub fn new(random: u64) -> Self {
        Rotation { credits: Vec::new(), deck: Vec::new(), random }
    }

    /// The version whose turn it is. Nothing while the weights are all 0.
    pub fn next(&mut self, weights: &[u32]) -> Option<usize> {
        if self.deck.is_empty() {
            self.shuffle(weights);
        }
        self.deck.pop()
    }

    /// Puts back what has not been dealt, by these weights, which are no longer: what versions are owed stays.
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

    /// Makes a new deck: of one round, or of part of it where it is long.
    fn shuffle(&mut self, weights: &[u32]) {
        self.credits.resize(weights.len(), 0);
        let divisor = weights.iter().fold(0, |divisor, weight| gcd(divisor, u64::from(*weight)));
        let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
        for _ in 0..total.checked_div(divisor).unwrap_or_default().min(DECK) {
            self.deck.extend(turn(&mut self.credits, weights));
        }
        for last in (1..self.deck.len()).rev() {
            self.random = self.random.wrapping_add(1);
            let other = hash::pseudo_random(self.random) % (last as u64 + 1);
            self.deck.swap(last, other as usize);
        }
    }
}

/// One turn of smooth weighted round robin: each is given its weight, and who has most pays for all.
fn turn(credits: &mut [i64], weights: &[u32]) -> Option<usize> {
    let mut total = 0;
    let mut best: Option<(usize, i64)> = None;
    for (index, (credit, weight)) in credits.iter_mut().zip(weights).enumerate() {
        let weight = i64::from(*weight);
        *credit += weight;
        total += weight;
        // A version of weight 0 never has a turn, whatever credit it kept from when it had weight.
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
    fn gives_exactly_the_weights_over_a_round_whatever_the_order() {
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
    fn the_order_is_by_chance() {
        let first = |random| Rotation::new(random).next(&[90, 10]);
        let on_v2 = (0..1_000).filter(|random| first(random * 7_919) == Some(1)).count();
        assert!((60..140).contains(&on_v2), "{on_v2}");
    }

    #[test]
    fn two_rotations_know_nothing_of_each_other() {
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
    fn what_a_version_is_owed_outlives_a_change_of_weights() {
        let mut rotation = Rotation::new(3);
        let mut counts = [0, 0];
        // A ramp: a little more for v2 after every third turn.
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
    fn takes_the_largest_weights_and_none() {
        assert_eq!(dealt(&[u32::MAX, u32::MAX], u64::MAX, 1_000), [500, 500]);
        assert_eq!(dealt(&[u32::MAX, 0], u64::MAX, 1_000), [1_000, 0]);
        assert_eq!(Rotation::new(7).next(&[0, 0]), None);
        assert_eq!(Rotation::new(7).next(&[]), None);
    }
}
