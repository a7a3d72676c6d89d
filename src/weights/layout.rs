//! Who holds which bucket.
//!
//! Weights alone give a layout: the versions lie end to end over the buckets, the last one of the document
//! first. Weight that moves between neighbours of the document then moves exactly the users that must move, and
//! so between any two where there are only two; a version of weight 0 takes no room and may come and go.
//!
//! No rule that knows nothing but the weights can do so for all changes among three versions. (Let each pair of
//! them share the users half and half. If each change from one pair to another moved the least, the version that
//! both have would keep its users, and its partner's would all pass on; going round the three pairs, each user
//! would end with the other version of the pair.) So a step of a schedule is laid out from the layout before it,
//! [`Layout::stepped`], and moves the least for any number of versions.

use core::ops::Range;

use crate::value::hash::BUCKETS;

/// All buckets, each with the version that holds it, by its index in the release.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Layout {
    /// Where each range ends, and whose it is; rising, the last end is [`BUCKETS`]. None is empty.
    ranges: Vec<(u16, usize)>,
}

/// A change of layout in the order in which it is made: bucket by bucket from one version to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shift {
    /// Who loses.
    pub from: usize,
    /// Who gains.
    pub to: usize,
    /// What.
    pub buckets: Vec<u16>,
}

impl Layout {
    /// The layout of these weights, one for each version. Their sum is above 0.
    pub fn of(weights: &[u32]) -> Self {
        let total: u128 = weights.iter().map(|weight| u128::from(*weight)).sum();
        let (mut sum, mut start) = (0, 0);
        let mut ranges = Vec::new();
        for (version, weight) in weights.iter().enumerate().rev() {
            sum += u128::from(*weight);
            // Rounding the running sum keeps each share within one bucket of what is exact, and each end rises
            // with its weights. An end is at most BUCKETS, so it fits.
            let end = ((sum * u128::from(BUCKETS) + total / 2) / total.max(1)) as u16;
            if end > start {
                ranges.push((end, version));
            }
            start = end;
        }
        Layout { ranges }
    }

    /// The layout in which one version holds everything.
    pub fn whole(version: usize) -> Self {
        Layout { ranges: vec![(BUCKETS, version)] }
    }

    /// Who holds the bucket.
    pub fn holder(&self, bucket: u16) -> Option<usize> {
        let index = self.ranges.partition_point(|(end, _)| *end <= bucket);
        self.ranges.get(index).map(|(_, version)| *version)
    }

    /// The ranges of buckets, each with its holder.
    pub fn ranges(&self) -> impl Iterator<Item = (Range<u16>, usize)> {
        let starts = core::iter::once(0).chain(self.ranges.iter().map(|(end, _)| *end));
        starts.zip(&self.ranges).map(|(start, (end, version))| (start..*end, *version))
    }

    /// How many buckets each of `versions` versions holds.
    pub fn shares(&self, versions: usize) -> Vec<u32> {
        let mut shares = vec![0; versions];
        for (range, version) in self.ranges() {
            if let Some(share) = shares.get_mut(version) {
                *share += u32::from(range.end - range.start);
            }
        }
        shares
    }

    /// What changes on the way to these weights: no more than must, whatever lies where.
    ///
    /// Who loses gives to who gains, both in the document's order: its lowest buckets to a later version, its
    /// highest to an earlier one. Two versions thus never leave their one border.
    pub fn shifts(&self, weights: &[u32]) -> Vec<Shift> {
        let (have, want) = (self.shares(weights.len()), Layout::of(weights).shares(weights.len()));
        let difference = |more: &[u32], less: &[u32]| -> Vec<(usize, u32)> {
            let pairs = more.iter().zip(less).enumerate();
            pairs.map(|(version, (more, less))| (version, more.saturating_sub(*less))).collect()
        };
        let mut gains = difference(&want, &have);
        let mut shifts = Vec::new();
        for (from, mut loss) in difference(&have, &want) {
            let mut held: Vec<u16> =
                self.ranges().filter(|(_, version)| *version == from).flat_map(|(range, _)| range).collect();
            for (to, gain) in &mut gains {
                let count = loss.min(*gain);
                loss -= count;
                *gain -= count;
                let buckets: Vec<u16> = match *to > from {
                    true => held.drain(..(count as usize).min(held.len())).collect(),
                    false => held.drain(held.len().saturating_sub(count as usize)..).rev().collect(),
                };
                if !buckets.is_empty() {
                    shifts.push(Shift { from, to: *to, buckets });
                }
            }
        }
        shifts
    }

    /// The layout of these weights that moves the least from this one.
    pub fn stepped(&self, weights: &[u32]) -> Self {
        self.shifted(&self.shifts(weights), 1, 1)
    }

    /// The layout after `done` parts of `whole` of these shifts. What has moved stays so as `done` rises.
    /// Of no parts at all, all are done.
    pub fn shifted(&self, shifts: &[Shift], done: u64, whole: u64) -> Self {
        let (done, whole) = if whole == 0 { (1, 1) } else { (done.min(whole), whole) };
        let mut holders: Vec<usize> =
            self.ranges().flat_map(|(range, version)| core::iter::repeat_n(version, range.len())).collect();
        for shift in shifts {
            let count = shift.buckets.len() as u128 * u128::from(done) + u128::from(whole) / 2;
            let count = count / u128::from(whole);
            for bucket in shift.buckets.iter().take(count as usize) {
                if let Some(holder) = holders.get_mut(usize::from(*bucket)) {
                    *holder = shift.to;
                }
            }
        }
        Self::from_holders(&holders)
    }

    /// The layout after `done` parts of `whole` of what `version` holds went to `heir`: the buckets next to those
    /// of the heir first, where the two are neighbours.
    pub fn given_back(&self, version: usize, heir: usize, done: u64, whole: u64) -> Self {
        let held = self.ranges().filter(|(_, holder)| *holder == version).flat_map(|(range, _)| range);
        let mut buckets: Vec<u16> = held.collect();
        if heir < version {
            buckets.reverse();
        }
        self.shifted(&[Shift { from: version, to: heir, buckets }], done, whole)
    }

    fn from_holders(holders: &[usize]) -> Self {
        let mut ranges: Vec<(u16, usize)> = Vec::new();
        for (bucket, version) in (0..BUCKETS).zip(holders) {
            match ranges.last_mut() {
                Some((end, last)) if last == version => *end = bucket + 1,
                _ => ranges.push((bucket + 1, *version)),
            }
        }
        Layout { ranges }
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
    fn versions_lie_end_to_end_the_last_one_first() {
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
    fn a_version_of_weight_0_takes_no_room() {
        assert_eq!(Layout::of(&[0, 7]), Layout::whole(1));
        assert_eq!(Layout::of(&[1, 0]), Layout::whole(0));
        let without = ranges(&Layout::of(&[7, 3]));
        assert_eq!(ranges(&Layout::of(&[7, 0, 3])).len(), without.len());
        assert_eq!(Layout::of(&[7, 0, 3]).holder(2_999), Some(2));
    }

    #[test]
    fn each_bucket_has_a_holder() {
        let layout = Layout::of(&[90, 10]);
        let holders = [0, 999, 1_000, 9_999].map(|bucket| layout.holder(bucket));
        assert_eq!(holders, [Some(1), Some(1), Some(0), Some(0)]);
        assert_eq!(layout.holder(10_000), None);
        assert_eq!(layout.shares(2), [9_000, 1_000]);
    }

    #[test]
    fn a_step_of_two_versions_gives_the_layout_of_its_weights() {
        let mut layout = Layout::of(&[100, 0]);
        for weight in [1, 10, 60, 30, 100, 99, 0, 50] {
            let weights = [100 - weight, weight];
            layout = layout.stepped(&weights);
            assert_eq!(layout, Layout::of(&weights), "{weight}");
        }
    }

    #[test]
    fn a_step_of_three_versions_leaves_alone_whose_weight_stays() {
        let before = Layout::of(&[50, 30, 20]);
        let after = before.stepped(&[60, 30, 10]);
        assert_eq!(after.shares(3), [6_000, 3_000, 1_000]);
        assert_eq!(
            before.shifts(&[60, 30, 10]),
            [Shift { from: 2, to: 0, buckets: (1_000..2_000).rev().collect() }]
        );
    }

    #[test]
    fn what_has_moved_stays_moved_while_a_ramp_goes_on() {
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
    fn what_is_given_back_goes_to_the_heir_alone() {
        let layout = Layout::of(&[80, 10, 10]);
        assert_eq!(layout.given_back(2, 0, 0, 4), layout);
        assert_eq!(layout.given_back(2, 0, 1, 4).shares(3), [8_250, 1_000, 750]);
        assert_eq!(layout.given_back(2, 0, 4, 4).shares(3), [9_000, 1_000, 0]);
        assert_eq!(layout.given_back(2, 0, 9, 0), layout.given_back(2, 0, 1, 1));
    }
}
