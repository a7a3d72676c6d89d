//! Layouts, which map each bucket to the version that holds it.
//!
//! A layout follows from the weights alone. The versions lie end to end over the buckets, starting with the
//! last version of the document. Weight that moves between neighbours in the document therefore moves exactly
//! the users that must move. With two versions that is always so. A version of weight 0 takes no bucket, so
//! it can be added or removed anywhere.
//!
//! No rule that looks at the weights alone can move the least for every change among three versions. Let each
//! pair of versions share the users half and half, and change from one pair to the next. If each change moved
//! the least, the version in both pairs would keep its users and its partner would pass its users on. Back at
//! the first pair, with the same weights, each user would be on the other version.
//!
//! A step of a schedule is therefore computed from the layout before it ([`Layout::stepped`]). It moves the
//! least for any number of versions.

use core::ops::Range;
use std::collections::VecDeque;

use crate::value::hash::BUCKETS;

/// The version that holds each bucket, by its index in the release.
///
/// ```
/// use graygate::weights::layout::Layout;
///
/// let layout = Layout::of(&[90, 10]);
/// assert_eq!(layout.shares(2), [9_000, 1_000]);
/// // The last version starts at bucket 0.
/// assert_eq!(layout.holder(999), Some(1));
/// assert_eq!(layout.holder(1_000), Some(0));
///
/// // Raising a weight moves nobody back.
/// let raised = layout.stepped(&[70, 30]);
/// assert_eq!(raised.holder(999), Some(1));
/// assert_eq!(raised.shares(2), [7_000, 3_000]);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Layout {
    /// The end of each range and the version that holds it. Ends rise, no range is empty, and the last end is
    /// [`BUCKETS`].
    ranges: Vec<(u16, usize)>,
}

/// Buckets that move from one version to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shift {
    /// The version that loses buckets.
    pub from: usize,
    /// The version that gains them.
    pub to: usize,
    /// The buckets, as ranges in the order in which they move.
    pub ranges: Vec<Range<u16>>,
    /// Whether the last bucket of each range moves first.
    pub from_end: bool,
}

impl Layout {
    /// Returns the layout of these weights, one for each version. Their sum must be above 0.
    pub fn of(weights: &[u32]) -> Self {
        let total: u128 = weights.iter().map(|weight| u128::from(*weight)).sum();
        let mut sum = 0;
        let mut start = 0;
        let mut ranges = Vec::new();
        for (version, weight) in weights.iter().enumerate().rev() {
            sum += u128::from(*weight);
            // Rounding the running sum keeps each share within one bucket of the exact share, and each end
            // rises with its weight. An end is at most BUCKETS, so it fits.
            let end = ((sum * u128::from(BUCKETS) + total / 2) / total.max(1)) as u16;
            if end > start {
                ranges.push((end, version));
            }
            start = end;
        }
        Layout { ranges }
    }

    /// Returns the layout in which one version holds every bucket.
    pub fn whole(version: usize) -> Self {
        Layout { ranges: vec![(BUCKETS, version)] }
    }

    /// Returns the version that holds the bucket, or `None` if there is no such bucket.
    pub fn holder(&self, bucket: u16) -> Option<usize> {
        let index = self.ranges.partition_point(|(end, _)| *end <= bucket);
        self.ranges.get(index).map(|(_, version)| *version)
    }

    /// Returns the ranges of buckets, each with the version that holds it.
    pub fn ranges(&self) -> impl Iterator<Item = (Range<u16>, usize)> {
        let starts = core::iter::once(0).chain(self.ranges.iter().map(|(end, _)| *end));
        starts.zip(&self.ranges).map(|(start, (end, version))| (start..*end, *version))
    }

    /// Returns the number of buckets that each of `versions` versions holds.
    pub fn shares(&self, versions: usize) -> Vec<u32> {
        let mut shares = vec![0; versions];
        for (range, version) in self.ranges() {
            if let Some(share) = shares.get_mut(version) {
                *share += u32::from(range.end - range.start);
            }
        }
        shares
    }

    /// Returns the buckets that must move to reach these weights, and no others.
    ///
    /// Versions that lose buckets give them to versions that gain, both in the document's order. A loser
    /// gives its lowest buckets to a later version and its highest to an earlier one. With two versions, only
    /// their one border moves.
    pub fn shifts(&self, weights: &[u32]) -> Vec<Shift> {
        let current = self.shares(weights.len());
        let wanted = Layout::of(weights).shares(weights.len());
        let excess = |shares: &[u32], over: &[u32]| -> Vec<(usize, u32)> {
            let pairs = shares.iter().zip(over).enumerate();
            let pairs = pairs.map(|(version, (share, other))| (version, share.saturating_sub(*other)));
            pairs.filter(|(_, excess)| *excess > 0).collect()
        };
        let mut gains = excess(&wanted, &current);
        let mut shifts = Vec::new();
        for (from, mut loss) in excess(&current, &wanted) {
            let mut held = self.held_by(from);
            for (to, gain) in gains.iter_mut().filter(|(_, gain)| *gain > 0) {
                if loss == 0 {
                    break;
                }
                let count = loss.min(*gain);
                loss -= count;
                *gain -= count;
                let from_end = *to < from;
                let ranges = take(&mut held, count, from_end);
                if !ranges.is_empty() {
                    shifts.push(Shift { from, to: *to, ranges, from_end });
                }
            }
        }
        shifts
    }

    fn held_by(&self, version: usize) -> VecDeque<Range<u16>> {
        self.ranges().filter(|(_, holder)| *holder == version).map(|(range, _)| range).collect()
    }

    /// Returns the layout of these weights that moves the fewest buckets from this one.
    pub fn stepped(&self, weights: &[u32]) -> Self {
        self.shifted(&self.shifts(weights), 1, 1)
    }

    /// Returns the layout after `done` of `whole` parts of these shifts, which are shifts of this layout. A bucket
    /// that has moved stays moved as `done` rises. If `whole` is 0, all shifts are done.
    pub fn shifted(&self, shifts: &[Shift], done: u64, whole: u64) -> Self {
        let (done, whole) = if whole == 0 { (1, 1) } else { (done.min(whole), whole) };
        let mut moved: Vec<(Range<u16>, usize)> = Vec::new();
        for shift in shifts {
            let all: u128 = shift.ranges.iter().map(|range| range.len() as u128).sum();
            let rounded = (all * u128::from(done) + u128::from(whole) / 2) / u128::from(whole);
            let in_turn = shift.ranges.iter().cloned();
            let mut ranges: VecDeque<_> =
                if shift.from_end { in_turn.rev().collect() } else { in_turn.collect() };
            // At most BUCKETS, so it fits.
            let ranges = take(&mut ranges, rounded as u32, shift.from_end);
            moved.extend(ranges.into_iter().map(|range| (range, shift.to)));
        }
        self.with(moved)
    }

    /// Returns the layout after `done` of `whole` parts of the buckets of `version` went to `heir`. If the
    /// two are neighbours, the buckets next to those of the heir go first.
    pub fn given_back(&self, version: usize, heir: usize, done: u64, whole: u64) -> Self {
        let mut ranges: Vec<_> = self.held_by(version).into();
        let from_end = heir < version;
        if from_end {
            ranges.reverse();
        }
        self.shifted(&[Shift { from: version, to: heir, ranges, from_end }], done, whole)
    }

    /// Returns the layout in which these ranges have these holders. No two ranges overlap.
    fn with(&self, mut moved: Vec<(Range<u16>, usize)>) -> Self {
        moved.sort_unstable_by_key(|(range, _)| range.start);
        let mut moved = moved.into_iter().peekable();
        let mut layout = Layout { ranges: Vec::new() };
        for (range, version) in self.ranges() {
            while let Some((part, to)) = moved.next_if(|(part, _)| part.start < range.end) {
                layout.extend(part.start, version);
                layout.extend(part.end, to);
            }
            layout.extend(range.end, version);
        }
        layout
    }

    /// Gives a version the buckets from the present end up to `end`, if there are any.
    fn extend(&mut self, end: u16, version: usize) {
        match self.ranges.last_mut() {
            Some((last, _)) if end <= *last => {}
            Some((last, holder)) if *holder == version => *last = end,
            _ if end > 0 => self.ranges.push((end, version)),
            _ => {}
        }
    }
}

/// Takes up to `count` buckets from ascending ranges: the first, or with `from_end` the last. Returns them as ranges in the
/// order in which they were taken.
fn take(held: &mut VecDeque<Range<u16>>, count: u32, from_end: bool) -> Vec<Range<u16>> {
    let mut taken = Vec::new();
    let mut left = count;
    while left > 0
        && let Some(range) = if from_end { held.pop_back() } else { held.pop_front() }
    {
        // At most as long as the range, so it fits.
        let part = left.min(u32::from(range.end - range.start)) as u16;
        left -= u32::from(part);
        let (took, rest) = if from_end {
            let border = range.end - part;
            (border..range.end, range.start..border)
        } else {
            let border = range.start + part;
            (range.start..border, border..range.end)
        };
        taken.push(took);
        if rest.is_empty() {
            continue;
        }
        if from_end { held.push_back(rest) } else { held.push_front(rest) }
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn ranges(layout: &Layout) -> Vec<(u16, u16, usize)> {
        layout.ranges().map(|(range, version)| (range.start, range.end, version)).collect()
    }

    #[test]
    fn versions_lie_end_to_end_starting_with_the_last() {
        assert_eq!(ranges(&Layout::of(&[90, 10])), [(0, 1_000, 1), (1_000, 10_000, 0)]);
        assert_eq!(
            ranges(&Layout::of(&[50, 30, 20])),
            [(0, 2_000, 2), (2_000, 5_000, 1), (5_000, 10_000, 0)]
        );
    }

    #[test]
    fn weights_may_have_any_total() {
        assert_eq!(Layout::of(&[u32::MAX, u32::MAX]), Layout::of(&[1, 1]));
        assert_eq!(ranges(&Layout::of(&[2, 1])), [(0, 3_333, 1), (3_333, 10_000, 0)]);
    }

    #[test]
    fn a_version_of_weight_0_takes_no_buckets() {
        assert_eq!(Layout::of(&[0, 7]), Layout::whole(1));
        assert_eq!(Layout::of(&[1, 0]), Layout::whole(0));
        let without = ranges(&Layout::of(&[7, 3]));
        assert_eq!(ranges(&Layout::of(&[7, 0, 3])).len(), without.len());
        assert_eq!(Layout::of(&[7, 0, 3]).holder(2_999), Some(2));
    }

    #[test]
    fn each_bucket_has_exactly_one_holder() {
        let layout = Layout::of(&[90, 10]);
        let holders = [0, 999, 1_000, 9_999].map(|bucket| layout.holder(bucket));
        assert_eq!(holders, [Some(1), Some(1), Some(0), Some(0)]);
        assert_eq!(layout.holder(10_000), None);
        assert_eq!(layout.shares(2), [9_000, 1_000]);
    }

    #[test]
    fn a_step_of_two_versions_leads_to_the_layout_of_the_new_weights() {
        let mut layout = Layout::of(&[100, 0]);
        for weight in [1, 10, 60, 30, 100, 99, 0, 50] {
            let weights = [100 - weight, weight];
            layout = layout.stepped(&weights);
            assert_eq!(layout, Layout::of(&weights), "{weight}");
        }
    }

    #[test]
    fn a_step_leaves_versions_alone_whose_weight_does_not_change() {
        let before = Layout::of(&[50, 30, 20]);
        let after = before.stepped(&[60, 30, 10]);
        assert_eq!(after.shares(3), [6_000, 3_000, 1_000]);
        let ranges = vec![1_000..2_000; 1];
        assert_eq!(before.shifts(&[60, 30, 10]), [Shift { from: 2, to: 0, ranges, from_end: true }]);
    }

    #[test]
    fn a_bucket_that_has_moved_stays_moved_during_a_ramp() {
        let before = Layout::of(&[80, 10, 10]);
        let shifts = before.shifts(&[20, 50, 30]);
        let mut last = before.clone();
        for done in 0..=100 {
            let now = before.shifted(&shifts, done, 100);
            for bucket in 0..BUCKETS {
                let moved = last.holder(bucket) != before.holder(bucket);
                assert!(!moved || now.holder(bucket) == last.holder(bucket));
            }
            last = now;
        }
        assert_eq!(last, before.stepped(&[20, 50, 30]));
    }

    #[test]
    fn a_part_of_a_shift_moves_its_first_buckets() {
        let mut layout = Layout::of(&[40, 30, 20, 10]);
        for weights in [[10, 30, 20, 40], [25, 25, 25, 25], [70, 0, 0, 30], [1, 33, 33, 33], [20, 50, 10, 20]]
        {
            let shifts = layout.shifts(&weights);
            for done in 0..=7 {
                let mut holders: Vec<usize> =
                    layout.ranges().flat_map(|(range, version)| range.map(move |_| version)).collect();
                for shift in &shifts {
                    let in_turn = shift.ranges.iter().flat_map(|range| {
                        let buckets: Vec<u16> = range.clone().collect();
                        if shift.from_end { buckets.into_iter().rev().collect() } else { buckets }
                    });
                    let all: usize = shift.ranges.iter().map(ExactSizeIterator::len).sum();
                    for bucket in in_turn.take((2 * all * done + 7) / 14) {
                        assert_eq!(holders[usize::from(bucket)], shift.from);
                        holders[usize::from(bucket)] = shift.to;
                    }
                }
                let shifted = layout.shifted(&shifts, done as u64, 7);
                let each: Vec<usize> = (0..BUCKETS).map(|bucket| shifted.holder(bucket).unwrap()).collect();
                assert_eq!(each, holders, "{done} of 7 to {weights:?}");
                assert!(
                    shifted.ranges.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 != pair[1].1)
                );
            }
            layout = layout.stepped(&weights);
        }
    }

    #[test]
    fn buckets_that_are_given_back_go_to_the_heir_only() {
        let layout = Layout::of(&[80, 10, 10]);
        assert_eq!(layout.given_back(2, 0, 0, 4), layout);
        assert_eq!(layout.given_back(2, 0, 1, 4).shares(3), [8_250, 1_000, 750]);
        assert_eq!(layout.given_back(2, 0, 4, 4).shares(3), [9_000, 1_000, 0]);
        assert_eq!(layout.given_back(2, 0, 9, 0), layout.given_back(2, 0, 1, 1));
    }
}
