//! Layouts, which map each bucket to the version that holds it.
//!
//! A layout follows from the weights alone, and from which version is the default. The default version has the
//! buckets that the others leave:
//!
//! - The first other version in the document lies at one end. It starts at bucket 0 if it comes after the
//!   default version, and at the last bucket if it comes before.
//! - The second one starts at the other end.
//! - Each further one has a bucket of its own to start at: in the middle, at a quarter, at three quarters, at an
//!   eighth and so on. It takes the free buckets from there on, and goes on at bucket 0 after the last one.
//!
//! So with two versions, each change moves exactly the users that must move. With three, each change between the
//! default version and another does. With any number, a version that is last in the document can rise from 0
//! and fall to 0 in that way.
//!
//! No rule that looks at the weights alone can do that for every change. Let A, B and C each share the users
//! with the default version at some time. The set of buckets of each must then depend on its own weight only. Let
//! any two of them also share all users between them. Their sets must then be complements for all weights that
//! add up to the total. Two versions with the same complement as a third have the same buckets, and yet must
//! have none in common.
//!
//! This is how many users move for random changes, in terms of the least that must. "End to end" is the
//! layout in which the versions follow each other without regard to the default:
//!
//! | versions | change | end to end | this rule |
//! |---|---|---|---|
//! | 3 | default and another | 1.40 | 1.00 |
//! | 3 | any two | 1.22 | 1.21 |
//! | 3 | all weights | 1.20 | 1.14 |
//! | 4 | default and another | 1.61 | 1.24 |
//! | 4 | all weights | 1.33 | 1.22 |
//! | 6 | default and another | 2.51 | 1.33 |
//! | 6 | all weights | 1.44 | 1.28 |
//!
//! A step of a schedule is computed from the layout before it ([`Layout::stepped`]). It moves the least for any
//! number of versions.

use core::ops::Range;

use crate::value::hash::BUCKETS;

/// The version that holds each bucket, by its index in the release.
///
/// ```
/// use graygate::weights::layout::Layout;
///
/// // The first version is the default.
/// let layout = Layout::of(&[90, 10], 0);
/// assert_eq!(layout.shares(2), [9_000, 1_000]);
/// // The other one starts at bucket 0.
/// assert_eq!(layout.holder(999), Some(1));
/// assert_eq!(layout.holder(1_000), Some(0));
///
/// // Raising a weight moves nobody back.
/// let raised = layout.stepped(&[70, 30], 0);
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
    /// Returns the layout of these weights, one for each version, with this default version. The sum of the weights
    /// must be above 0.
    pub fn of(weights: &[u32], default: usize) -> Self {
        let others = weights.len().saturating_sub(1);
        let mut order = (0..weights.len()).filter(|version| *version != default);
        let first = order.next();
        let second = order.next();
        let (bottom, top) =
            if first.is_some_and(|first| first < default) { (second, first) } else { (first, second) };
        // From bucket 0 on, each version would lie in this order if no other were in the way.
        let order = bottom.into_iter().chain(order).chain([default]).chain(top);
        let shares = rounded_shares(weights, order);
        let share = |version: Option<usize>| shares.iter().find(|(other, _)| Some(*other) == version);
        let share = |version: Option<usize>| share(version).map_or(0, |(_, share)| *share);
        let (low, high) = (share(bottom), BUCKETS - share(top));
        let mut taken: Vec<(Range<u16>, usize)> = Vec::with_capacity(others + 3);
        if let Some(version) = bottom {
            place(&mut taken, 0..low, version);
        }
        if let Some(version) = top {
            place(&mut taken, high..BUCKETS, version);
        }
        let mut free = Vec::new();
        free.push(low..high);
        let further =
            shares.iter().filter(|(version, _)| ![bottom, top, Some(default)].contains(&Some(*version)));
        for ((version, share), start) in further.zip(anchors()) {
            take_free(&mut free, start, *share, |range| place(&mut taken, range, *version));
        }
        // The default version holds what no other takes.
        Layout::whole(default).with(taken)
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
    /// Versions that lose buckets give them to versions that gain, both in the document's order. A loser first gives
    /// the buckets that the gainer has in the layout of the new weights. Of two versions that lie next to each other, only
    /// the border between them then moves.
    pub fn shifts(&self, weights: &[u32], default: usize) -> Vec<Shift> {
        let current = self.shares(weights.len());
        let target = Layout::of(weights, default);
        let wanted = target.shares(weights.len());
        let excess = |shares: &[u32], over: &[u32]| -> Vec<(usize, u32)> {
            let pairs = shares.iter().zip(over).enumerate();
            let pairs = pairs.map(|(version, (share, other))| (version, share.saturating_sub(*other)));
            pairs.filter(|(_, excess)| *excess > 0).collect()
        };
        let mut gains = excess(&wanted, &current);
        let mut shifts = Vec::new();
        for (from, mut loss) in excess(&current, &wanted) {
            let mut held = self.held_by(from);
            for (to, gain) in &mut gains {
                let count = loss.min(*gain);
                if count == 0 {
                    continue;
                }
                loss -= count;
                *gain -= count;
                let wanted = target.held_by(*to);
                let from_end = starts_after(&wanted, &held);
                let mut in_turn = in_turn(common(&held, &wanted), from_end);
                in_turn.extend(self::in_turn(without(&held, &wanted), from_end));
                let (ranges, rest) = split_off(in_turn, count, from_end);
                held.clear();
                rest.into_iter().for_each(|range| add(&mut held, range));
                shifts.push(Shift { from, to: *to, ranges, from_end });
            }
        }
        shifts
    }

    /// Returns the buckets of a version, as ascending ranges.
    fn held_by(&self, version: usize) -> Vec<Range<u16>> {
        self.ranges().filter(|(_, holder)| *holder == version).map(|(range, _)| range).collect()
    }

    /// Returns the layout of these weights that moves the fewest buckets from this one.
    pub fn stepped(&self, weights: &[u32], default: usize) -> Self {
        self.shifted(&self.shifts(weights, default), 1, 1)
    }

    /// Returns the layout after `done` of `whole` parts of these shifts, which are shifts of this layout. A bucket
    /// that has moved stays moved as `done` rises. If `whole` is 0, all shifts are done.
    pub fn shifted(&self, shifts: &[Shift], done: u64, whole: u64) -> Self {
        let (done, whole) = if whole == 0 { (1, 1) } else { (done.min(whole), whole) };
        let mut moved: Vec<(Range<u16>, usize)> = Vec::new();
        for shift in shifts {
            let all: u128 = shift.ranges.iter().map(|range| range.len() as u128).sum();
            let rounded = (all * u128::from(done) + u128::from(whole) / 2) / u128::from(whole);
            // At most BUCKETS, so it fits.
            let (ranges, _) = split_off(shift.ranges.clone(), rounded as u32, shift.from_end);
            ranges.into_iter().for_each(|range| place(&mut moved, range, shift.to));
        }
        self.with(moved)
    }

    /// Returns the layout after `done` of `whole` parts of the buckets of `version` went to `heir`. If the
    /// two lie next to each other, the buckets next to those of the heir go first.
    pub fn given_back(&self, version: usize, heir: usize, done: u64, whole: u64) -> Self {
        let held = self.held_by(version);
        // An heir that holds nothing has no place, so the order does not matter.
        let from_end = starts_after(&self.held_by(heir), &held);
        let ranges = in_turn(held, from_end);
        self.shifted(&[Shift { from: version, to: heir, ranges, from_end }], done, whole)
    }

    /// Returns the layout in which these ranges, in ascending order, have these holders. No two ranges overlap.
    fn with(&self, moved: Vec<(Range<u16>, usize)>) -> Self {
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

/// Returns whether the first of some ascending ranges starts after the first of others.
fn starts_after(ranges: &[Range<u16>], others: &[Range<u16>]) -> bool {
    let start = |ranges: &[Range<u16>]| ranges.first().map(|range| range.start);
    start(ranges) > start(others)
}

/// Adds a range to ascending ones. A sort would add more to the module.
fn add(ranges: &mut Vec<Range<u16>>, range: Range<u16>) {
    let index = ranges.partition_point(|other| other.start < range.start);
    ranges.insert(index, range);
}

/// Adds a range and the version that gets it to ascending ones. Leaves out an empty range.
fn place(ranges: &mut Vec<(Range<u16>, usize)>, range: Range<u16>, version: usize) {
    if !range.is_empty() {
        let index = ranges.partition_point(|(other, _)| other.start < range.start);
        ranges.insert(index, (range, version));
    }
}

/// Returns ascending ranges in the order in which they move.
fn in_turn(mut ranges: Vec<Range<u16>>, from_end: bool) -> Vec<Range<u16>> {
    if from_end {
        ranges.reverse();
    }
    ranges
}

/// Returns the buckets that both have.
fn common(ranges: &[Range<u16>], others: &[Range<u16>]) -> Vec<Range<u16>> {
    let overlaps = ranges
        .iter()
        .flat_map(|range| others.iter().map(|other| range.start.max(other.start)..range.end.min(other.end)));
    overlaps.filter(|overlap| !overlap.is_empty()).collect()
}

/// Returns the buckets of `ranges` that are not in `others`, which ascend.
fn without(ranges: &[Range<u16>], others: &[Range<u16>]) -> Vec<Range<u16>> {
    let mut rest = Vec::new();
    for range in ranges {
        let mut start = range.start;
        for other in others.iter().filter(|other| other.end > range.start && other.start < range.end) {
            rest.push(start..other.start);
            start = other.end;
        }
        rest.push(start..range.end);
    }
    rest.retain(|range| !range.is_empty());
    rest
}

/// Splits ranges after their first `count` buckets. With `from_end`, the last bucket of each range is its first.
fn split_off(ranges: Vec<Range<u16>>, count: u32, from_end: bool) -> (Vec<Range<u16>>, Vec<Range<u16>>) {
    let (mut taken, mut rest) = (Vec::new(), Vec::new());
    let mut left = count;
    for range in ranges {
        // At most as long as the range, so it fits.
        let part = left.min(u32::from(range.end - range.start)) as u16;
        left -= u32::from(part);
        let border = if from_end { range.end - part } else { range.start + part };
        let (low, high) = (range.start..border, border..range.end);
        let (took, kept) = if from_end { (high, low) } else { (low, high) };
        taken.push(took);
        rest.push(kept);
    }
    taken.retain(|range| !range.is_empty());
    rest.retain(|range| !range.is_empty());
    (taken, rest)
}

/// Returns the number of buckets of each version, in this order. Rounding the running sum keeps each share within one
/// bucket of the exact one. The first version's share depends only on its own weight, and so does the last one's.
fn rounded_shares(weights: &[u32], order: impl Iterator<Item = usize>) -> Vec<(usize, u16)> {
    let total: u128 = weights.iter().map(|weight| u128::from(*weight)).sum();
    let mut sum = 0;
    let mut start = 0;
    let shares = order.map(|version| {
        sum += weights.get(version).map_or(0, |weight| u128::from(*weight));
        // It is at most BUCKETS, so it fits.
        let end = ((sum * u128::from(BUCKETS) + total / 2) / total.max(1)) as u16;
        let share = end - start;
        start = end;
        (version, share)
    });
    shares.collect()
}

/// Returns where further versions start: at 1/2, 1/4, 3/4, 1/8 and so on of all buckets.
fn anchors() -> impl Iterator<Item = u16> {
    // The bits of the number in reverse, as a fraction.
    (1..=u16::MAX).map(|number| ((u32::from(number.reverse_bits()) * u32::from(BUCKETS)) >> 16) as u16)
}

/// Takes `count` free buckets from `start` on, and then from bucket 0 on. `free` is in ascending order.
fn take_free(free: &mut Vec<Range<u16>>, start: u16, mut count: u16, mut take: impl FnMut(Range<u16>)) {
    let mut ordered: Vec<Range<u16>> = Vec::with_capacity(free.len() + 1);
    ordered.extend(free.iter().map(|range| range.start.max(start)..range.end));
    ordered.extend(free.iter().map(|range| range.start..range.end.min(start)));
    free.clear();
    for range in ordered.into_iter().filter(|range| !range.is_empty()) {
        let taken = count.min(range.end - range.start);
        count -= taken;
        let middle = range.start + taken;
        take(range.start..middle);
        if middle < range.end {
            add(free, middle..range.end);
        }
    }
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
    fn two_versions_lie_on_the_same_side_whichever_is_the_default() {
        for default in [0, 1] {
            assert_eq!(ranges(&Layout::of(&[90, 10], default)), [(0, 1_000, 1), (1_000, 10_000, 0)]);
        }
    }

    #[test]
    fn the_default_version_lies_between_the_two_others() {
        for (default, expected) in [
            (0, [(0, 3_000, 1), (3_000, 8_000, 0), (8_000, 10_000, 2)]),
            (1, [(0, 2_000, 2), (2_000, 5_000, 1), (5_000, 10_000, 0)]),
            (2, [(0, 3_000, 1), (3_000, 5_000, 2), (5_000, 10_000, 0)]),
        ] {
            assert_eq!(ranges(&Layout::of(&[50, 30, 20], default)), expected, "{default}");
        }
    }

    #[test]
    fn further_versions_start_in_the_middle_and_at_a_quarter_and_take_the_next_free_buckets() {
        assert_eq!(
            ranges(&Layout::of(&[60, 10, 10, 10, 10], 0)),
            [
                (0, 1_000, 1),
                (1_000, 2_500, 0),
                (2_500, 3_500, 4),
                (3_500, 5_000, 0),
                (5_000, 6_000, 3),
                (6_000, 9_000, 0),
                (9_000, 10_000, 2)
            ]
        );
        // The third one reaches the second one and goes on after the first one.
        assert_eq!(
            ranges(&Layout::of(&[10, 10, 30, 50], 0)),
            [(0, 1_000, 1), (1_000, 4_000, 3), (4_000, 5_000, 0), (5_000, 7_000, 3), (7_000, 10_000, 2)]
        );
        assert_eq!(anchors().take(6).collect::<Vec<_>>(), [5_000, 2_500, 7_500, 1_250, 6_250, 3_750]);
    }

    /// Returns how many buckets move between two layouts, and from which version to which.
    fn moves(before: &Layout, after: &Layout) -> Vec<(usize, usize, usize)> {
        let mut found: Vec<(usize, usize, usize)> = Vec::new();
        for bucket in 0..BUCKETS {
            let (from, to) = (before.holder(bucket).unwrap(), after.holder(bucket).unwrap());
            match found.iter_mut().find(|(_, known_from, known_to)| (*known_from, *known_to) == (from, to)) {
                Some((count, ..)) => *count += 1,
                None if from != to => found.push((1, from, to)),
                None => {}
            }
        }
        found
    }

    #[test]
    fn of_three_versions_only_users_of_the_default_and_of_the_changed_one_move() {
        let before = Layout::of(&[60, 30, 10], 0);
        for (weights, moved) in
            [([40, 30, 30], (2_000, 0, 2)), ([40, 50, 10], (2_000, 0, 1)), ([65, 30, 5], (500, 2, 0))]
        {
            let after = Layout::of(&weights, 0);
            assert_eq!(moves(&before, &after), [moved], "{weights:?}");
            // A step of a schedule leads to the same layout, so it can be replaced by the weights.
            assert_eq!(before.stepped(&weights, 0), after, "{weights:?}");
        }
        // Versions that are added last and removed from there move only their own users.
        let four = Layout::of(&[40, 30, 10, 20], 0);
        assert_eq!(moves(&before, &four), [(2_000, 0, 3)]);
        assert_eq!(moves(&four, &Layout::of(&[50, 30, 10, 10], 0)), [(1_000, 3, 0)]);
    }

    #[test]
    fn weights_may_have_any_total() {
        assert_eq!(Layout::of(&[u32::MAX, u32::MAX], 0), Layout::of(&[1, 1], 0));
        assert_eq!(ranges(&Layout::of(&[2, 1], 0)), [(0, 3_333, 1), (3_333, 10_000, 0)]);
    }

    #[test]
    fn a_version_of_weight_0_takes_no_buckets() {
        assert_eq!(Layout::of(&[0, 7], 0), Layout::whole(1));
        assert_eq!(Layout::of(&[1, 0], 0), Layout::whole(0));
        assert_eq!(Layout::of(&[7, 3, 0], 0), Layout::of(&[7, 3], 0));
        // It keeps its place, so that nobody else moves when it rises.
        assert_eq!(ranges(&Layout::of(&[7, 0, 3], 0)), [(0, 7_000, 0), (7_000, 10_000, 2)]);
    }

    #[test]
    fn each_bucket_has_exactly_one_holder() {
        let layout = Layout::of(&[90, 10], 0);
        let holders = [0, 999, 1_000, 9_999].map(|bucket| layout.holder(bucket));
        assert_eq!(holders, [Some(1), Some(1), Some(0), Some(0)]);
        assert_eq!(layout.holder(10_000), None);
        assert_eq!(layout.shares(2), [9_000, 1_000]);
    }

    #[test]
    fn a_step_of_two_versions_leads_to_the_layout_of_the_new_weights() {
        let mut layout = Layout::of(&[100, 0], 0);
        for weight in [1, 10, 60, 30, 100, 99, 0, 50] {
            let weights = [100 - weight, weight];
            layout = layout.stepped(&weights, 0);
            assert_eq!(layout, Layout::of(&weights, 0), "{weight}");
        }
    }

    #[test]
    fn a_step_leaves_versions_alone_whose_weight_does_not_change() {
        let before = Layout::of(&[50, 30, 20], 0);
        let after = before.stepped(&[60, 30, 10], 0);
        assert_eq!(after.shares(3), [6_000, 3_000, 1_000]);
        assert_eq!(
            before.shifts(&[60, 30, 10], 0),
            [Shift { from: 2, to: 0, ranges: vec![8_000..9_000; 1], from_end: false }]
        );
    }

    #[test]
    fn a_bucket_that_has_moved_stays_moved_during_a_ramp() {
        let before = Layout::of(&[80, 10, 10], 0);
        let shifts = before.shifts(&[20, 50, 30], 0);
        let mut last = before.clone();
        for done in 0..=100 {
            let now = before.shifted(&shifts, done, 100);
            for bucket in 0..BUCKETS {
                let moved = last.holder(bucket) != before.holder(bucket);
                assert!(!moved || now.holder(bucket) == last.holder(bucket));
            }
            last = now;
        }
        assert_eq!(last, before.stepped(&[20, 50, 30], 0));
    }

    #[test]
    fn a_part_of_a_shift_moves_its_first_buckets() {
        let mut layout = Layout::of(&[40, 30, 20, 10], 0);
        for weights in [[10, 30, 20, 40], [25, 25, 25, 25], [70, 0, 0, 30], [1, 33, 33, 33], [20, 50, 10, 20]]
        {
            let shifts = layout.shifts(&weights, 0);
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
            layout = layout.stepped(&weights, 0);
        }
    }

    #[test]
    fn buckets_that_are_given_back_go_to_the_heir_only() {
        let layout = Layout::of(&[80, 10, 10], 0);
        assert_eq!(layout.given_back(2, 0, 0, 4), layout);
        assert_eq!(layout.given_back(2, 0, 1, 4).shares(3), [8_250, 1_000, 750]);
        assert_eq!(layout.given_back(2, 0, 4, 4).shares(3), [9_000, 1_000, 0]);
        assert_eq!(layout.given_back(2, 0, 9, 0), layout.given_back(2, 0, 1, 1));
    }
}
