//! Gives requests without a key the versions in turn.

use crate::value::hash;

/// Deals out versions in turn, exactly by weight and as evenly as the weights allow.
///
/// In any run of turns that is as long as the total of the weights in lowest terms, each version has exactly its
/// weight in lowest terms. The turns therefore repeat with that period. Two releases with the same weights keep
/// in step on one worker, but each worker starts at random.
///
/// The version with the most weight comes first: each turn either goes to it or to all others together. The
/// next version divides the remaining turns in the same way, and so on. Each division is a line of whole
/// numbers, as in Bresenham's algorithm: it goes on by the weight, and each time that it passes the total, the
/// version has a turn. Such a division is exact from any start, so the start can be any random number.
///
/// A [shuffled](Rotation::shuffled) rotation deals out each such run in random order.
#[derive(Clone, Debug, Default)]
pub struct Rotation {
    /// The versions in the order in which they are asked. Versions of weight 0 have no turn and no division.
    divisions: Vec<Division>,
    /// The version that had the last turn.
    last: Option<usize>,
    random: u64,
    is_shuffled: bool,
    /// The next turns of a shuffled rotation. The last one comes first.
    deck: Vec<usize>,
}

/// The division of turns between one version and all versions after it.
#[derive(Clone, Copy, Debug)]
struct Division {
    version: usize,
    weight: i64,
    /// The sum of the weights of this version and of all after it.
    total: i64,
    /// How far the line has gone since the version's last turn. It is from 0 to below `total`, unless turns have been
    /// put back.
    progress: i64,
}

/// The maximum number of turns that are shuffled together.
const MAX_DECK: u64 = 1_000;

impl Rotation {
    /// Creates a rotation without versions. `random` seeds its start, and differs between workers.
    pub fn new(random: u64) -> Self {
        Rotation { random, ..Rotation::default() }
    }

    /// Creates a rotation whose turns do not repeat. It is for turns that are kept, as by users who are issued a key:
    /// users of two releases would otherwise always be on the same pair of versions.
    pub fn shuffled(random: u64) -> Self {
        Rotation { is_shuffled: true, ..Rotation::new(random) }
    }

    /// Sets the weights, one for each version. The progress of each version towards its next turn is kept, so no
    /// version has two turns in a row because of the change.
    pub fn set_weights(&mut self, weights: &[u32]) {
        self.put_back();
        let mut order: Vec<(usize, i64)> = Vec::with_capacity(weights.len());
        for (version, weight) in weights.iter().copied().map(i64::from).enumerate() {
            if weight > 0 {
                let position = order.partition_point(|(_, other)| *other >= weight);
                order.insert(position, (version, weight));
            }
        }
        let old = core::mem::take(&mut self.divisions);
        let versions = order.iter().map(|(version, _)| *version);
        let is_same_order = old.iter().map(|division| division.version).eq(versions);
        let last = order.iter().position(|(version, _)| Some(*version) == self.last);
        let mut total: i64 = order.iter().map(|(_, weight)| weight).sum();
        for (index, (version, weight)) in order.into_iter().enumerate() {
            let progress = match old.get(index) {
                Some(old) if is_same_order => scaled(old.progress, old.total, total),
                // The progress is random, as it would be after the last turn. A version that had that turn has just
                // started, and one before it in the order has gone on by its weight without a turn.
                _ if last == Some(index) => self.draw(0, weight),
                _ if last.is_some_and(|last| index < last) => self.draw(weight, total),
                _ => self.draw(0, total),
            };
            self.divisions.push(Division { version, weight, total, progress });
            total -= weight;
        }
    }

    /// Returns the version whose turn it is, or `None` if all weights are 0.
    pub fn take(&mut self) -> Option<usize> {
        if self.is_shuffled && self.deck.is_empty() {
            self.shuffle();
        }
        let turn = if self.is_shuffled { self.deck.pop() } else { self.turn() };
        self.last = turn;
        turn
    }

    /// Returns the next turn by the divisions.
    fn turn(&mut self) -> Option<usize> {
        self.divisions.iter_mut().find_map(|division| {
            division.progress += division.weight;
            let is_due = division.progress >= division.total;
            division.progress -= if is_due { division.total } else { 0 };
            is_due.then_some(division.version)
        })
    }

    /// Shuffles the turns of one round, or of part of a long one.
    fn shuffle(&mut self) {
        let weights = self.divisions.iter().map(|division| division.weight.unsigned_abs());
        let divisor = weights.clone().fold(0, gcd);
        let round = weights.sum::<u64>().checked_div(divisor).unwrap_or_default();
        for _ in 0..round.min(MAX_DECK) {
            let turn = self.turn();
            self.deck.extend(turn);
        }
        for last in (1..self.deck.len()).rev() {
            let other = self.draw(0, last as i64 + 1);
            self.deck.swap(last, other as usize);
        }
    }

    /// Puts back the turns that were shuffled and not dealt, as if they had not been taken from the divisions.
    fn put_back(&mut self) {
        for turn in core::mem::take(&mut self.deck) {
            for division in &mut self.divisions {
                division.progress -= division.weight;
                if division.version == turn {
                    division.progress += division.total;
                    break;
                }
            }
        }
    }

    /// Returns a random number from `low` to below `high`.
    fn draw(&mut self, low: i64, high: i64) -> i64 {
        self.random = self.random.wrapping_add(1);
        let span = high.saturating_sub(low).max(1);
        // The remainder is below the span, so it fits.
        low + (hash::pseudo_random(self.random) % span.unsigned_abs()) as i64
    }
}

/// Returns the progress that is as far along `total` as `progress` is along `old_total`.
fn scaled(progress: i64, old_total: i64, total: i64) -> i64 {
    if total == old_total {
        return progress;
    }
    let [progress, old_total, total] =
        [progress, old_total, total].map(|number| u128::from(number.max(0).unsigned_abs()));
    // It is at most about the new total, so it fits.
    (progress * total / old_total.max(1)) as i64
}

fn gcd(one: u64, other: u64) -> u64 {
    if other == 0 { one } else { gcd(other, one % other) }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn rotation(weights: &[u32], random: u64) -> Rotation {
        let mut rotation = Rotation::new(random);
        rotation.set_weights(weights);
        rotation
    }

    /// Returns this number of turns.
    fn turns(rotation: &mut Rotation, count: usize) -> Vec<usize> {
        (0..count).map(|_| rotation.take().unwrap()).collect()
    }

    fn counts(turns: &[usize], versions: usize) -> Vec<u32> {
        let mut counts = vec![0; versions];
        for turn in turns {
            counts[*turn] += 1;
        }
        counts
    }

    #[test]
    fn each_window_of_the_total_in_lowest_terms_is_exact() {
        for (weights, lowest) in [
            (&[1, 1, 1][..], &[1, 1, 1][..]),
            (&[2, 1], &[2, 1]),
            (&[5, 2], &[5, 2]),
            (&[6, 1], &[6, 1]),
            (&[11, 3], &[11, 3]),
            (&[90, 10], &[9, 1]),
            (&[3, 0, 2], &[3, 0, 2]),
            (&[u32::MAX, u32::MAX], &[1, 1]),
            (&[34, 33, 33], &[34, 33, 33]),
            (&[0, 7], &[0, 1]),
        ] {
            let total: u32 = lowest.iter().sum();
            for random in 0..50 {
                let turns = turns(&mut rotation(weights, random), 3 * total as usize);
                for window in turns.windows(total as usize) {
                    assert_eq!(counts(window, weights.len()), lowest, "{weights:?} by {random}");
                }
            }
        }
    }

    #[test]
    fn no_version_has_two_turns_in_a_row_if_others_can_have_one() {
        for weights in [&[1, 1][..], &[1, 1, 1], &[2, 1, 1], &[5, 2, 2, 1], &[4, 3, 1]] {
            for random in 0..50 {
                let turns = turns(&mut rotation(weights, random), 50);
                assert!(turns.windows(2).all(|pair| pair[0] != pair[1]), "{weights:?}: {turns:?}");
            }
        }
    }

    #[test]
    fn a_small_weight_has_its_turns_at_even_distances() {
        let turns = turns(&mut rotation(&[97, 3], 7), 1_000);
        let at: Vec<usize> = (0..1_000).filter(|turn| turns[*turn] == 1).collect();
        assert!(at.windows(2).all(|pair| (33..=34).contains(&(pair[1] - pair[0]))), "{at:?}");
    }

    #[test]
    fn the_first_turn_is_random_by_weight() {
        for (weights, version, range) in
            [(&[90, 10][..], 1, 60..140), (&[1, 1, 1], 0, 270..400), (&[60, 30, 10], 2, 60..140)]
        {
            let first = |random| rotation(weights, random).take();
            let count = (0..1_000).filter(|random| first(random * 7_919) == Some(version)).count();
            assert!(range.contains(&count), "{weights:?}: {count}");
        }
    }

    #[test]
    fn a_change_of_weights_keeps_the_progress_of_each_version() {
        let mut rotation = Rotation::new(3);
        let mut counts = [0, 0];
        // A ramp gives v2 a little more after every third turn.
        let expected: f64 = (0..3_000u32).map(|turn| f64::from(turn / 3) / 1_000.0).sum();
        for turn in 0..3_000u32 {
            if turn % 3 == 0 {
                rotation.set_weights(&[1_000 - turn / 3, turn / 3]);
            }
            counts[rotation.take().unwrap()] += 1;
        }
        assert!((f64::from(counts[1]) - expected).abs() <= 3.0, "{counts:?}, not {expected}");
    }

    #[test]
    fn a_change_of_weights_gives_no_version_a_second_turn_in_a_row() {
        for random in 0..200 {
            let mut rotation = rotation(&[51, 49], random);
            // The order of the versions changes, and so does the scale.
            for weights in [[49, 51], [5_000, 5_000], [4_990, 5_010], [5_010, 4_990], [1, 1], [49, 51]] {
                let before = turns(&mut rotation, 1)[0];
                rotation.set_weights(&weights);
                let more = usize::from(weights[1] > weights[0]);
                let after = turns(&mut rotation, 1)[0];
                // Only the version with more weight may sometimes have two.
                assert!(
                    after != before || after == more && weights[0] != weights[1],
                    "{weights:?} by {random}"
                );
            }
        }
    }

    #[test]
    fn shuffled_rounds_are_exact_and_two_rotations_independent() {
        for weights in [[50u32, 50], [90, 10], [98, 2]] {
            let round: u32 = weights.iter().sum::<u32>() / weights[1].min(10);
            let shuffled = |random| {
                let mut rotation = Rotation::shuffled(random);
                rotation.set_weights(&weights);
                turns(&mut rotation, 20_000)
            };
            let (one, other) = (shuffled(1), shuffled(1 << 32));
            for each in one.chunks_exact(round as usize) {
                assert_eq!(counts(each, 2)[1] * 100, round * weights[1], "{weights:?}");
            }
            let both = one.iter().zip(&other).filter(|turns| *turns == (&1, &1)).count() as f64;
            let expected = 2.0 * f64::from(weights[1] * weights[1]);
            assert!((both - expected).abs() < 5.0 * expected.sqrt(), "{weights:?}: {both}, not {expected}");
        }
    }

    #[test]
    fn shuffled_turns_that_were_not_dealt_count_for_nothing() {
        for random in 0..50 {
            let mut rotation = Rotation::shuffled(random);
            let mut counts = [0u32; 3];
            for turn in 0..3_000 {
                if turn % 3 == 0 {
                    rotation.set_weights(&[600 + turn % 2, 300 - turn % 2, 100]);
                }
                counts[rotation.take().unwrap()] += 1;
            }
            // A deck has 1,000 turns, of which three were dealt.
            let off = counts.iter().zip([1_800, 900, 300]).map(|(count, expected)| count.abs_diff(expected));
            assert!(off.max() <= Some(60), "{counts:?} by {random}");
        }
    }

    #[test]
    fn the_largest_weights_and_weights_of_0_are_accepted() {
        let many = vec![u32::MAX; 50];
        assert_eq!(counts(&turns(&mut rotation(&many, u64::MAX), 50), 50), [1; 50]);
        assert_eq!(counts(&turns(&mut rotation(&[u32::MAX, 0], 1), 9), 2), [9, 0]);
        assert_eq!(rotation(&[0, 0], 7).take(), None);
        assert_eq!(rotation(&[], 7).take(), None);
    }

    #[test]
    fn a_version_without_weight_has_no_turn_whatever_it_had_before() {
        let mut rotation = rotation(&[1, 1], 7);
        rotation.take();
        for weights in [[1, 0], [0, 1], [0, 0]] {
            rotation.set_weights(&weights);
            let expected = weights.iter().position(|weight| *weight > 0);
            assert_eq!([rotation.take(), rotation.take()], [expected; 2]);
        }
    }
}
