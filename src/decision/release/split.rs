//! How one worker divides the requests of a release at present.

use core::time::Duration;

use crate::policy::release::Release;
use crate::policy::release::steer::Steer;
use crate::value::date::Date;
use crate::value::hash;
use crate::value::time::{Time, millis};
use crate::weights::layout::Layout;
use crate::weights::number;
use crate::weights::rotation::Rotation;

/// The present division of a release's requests, and one worker's position in it.
#[derive(Clone, Debug)]
pub struct Split {
    layout: Layout,
    shares: Vec<u32>,
    /// The weights of the versions in the policy.
    weights: Vec<u32>,
    rotation: Rotation,
    is_in_progress: bool,
    inputs: LayoutInputs,
    /// The date for which the schedule was evaluated.
    date: Date,
    last_id: u64,
    last_number: u64,
}

/// The inputs from which a layout and the turns are computed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct LayoutInputs {
    /// The layout of the schedule.
    scheduled: Layout,
    /// The weights in force. `None` before the start of the release and during a change that takes time.
    weights: Option<Vec<u32>>,
    /// For each version, how many parts of how many have been given back of what it held. `None` if it was
    /// not rolled back.
    given_back: Vec<Option<(u64, u64)>>,
}

impl Split {
    /// Creates the division on the `date` of the schedule, which never runs back, and at `now`.
    ///
    /// `rolled_back` holds for each version when it was rolled back. `random` seeds the start of the turns
    /// and the ids.
    pub fn new(release: &Release, date: Date, now: Time, rolled_back: &[Option<Time>], random: u64) -> Self {
        let mut split = Split {
            layout: Layout::default(),
            shares: Vec::new(),
            weights: release.versions.iter().map(|version| version.weight).collect(),
            rotation: match release.issues() {
                Some(_) => Rotation::shuffled(random),
                None => Rotation::new(random),
            },
            is_in_progress: true,
            inputs: LayoutInputs::default(),
            date,
            last_id: random,
            last_number: random,
        };
        split.update(release, date, now, rolled_back);
        split
    }

    /// Moves the division to a later time. Returns whether the layout has changed.
    pub fn update(&mut self, release: &Release, date: Date, now: Time, rolled_back: &[Option<Time>]) -> bool {
        self.date = date;
        if release.versions.is_empty() {
            return false;
        }
        let layout = release.schedule.at(date);
        self.is_in_progress = layout.ranges().nth(1).is_some() || release.schedule.has_pending_changes(date);
        let over = release.rollback.as_ref().map_or(Duration::ZERO, |rollback| rollback.over);
        let given_back: Vec<_> = rolled_back
            .iter()
            .map(|rolled_back_at| rolled_back_at.map(|since| part_given_back(since, over, now)))
            .collect();
        let weights = match release.steer {
            // The route divides by these weights and not by buckets.
            Steer::RandomValueHeader(_) => Some(self.weights.clone()),
            _ => release.schedule.weights_at(date).map(<[u32]>::to_vec),
        };
        let inputs = LayoutInputs { scheduled: layout, weights, given_back };
        if inputs == self.inputs {
            return false;
        }
        let mut layout = inputs.scheduled.clone();
        for (version, part) in inputs.given_back.iter().enumerate() {
            if let Some((done, whole)) = part {
                layout = layout.given_back(version, release.default, *done, *whole);
            }
        }
        let has_changed = layout != self.layout;
        self.shares = layout.shares(release.versions.len());
        let is_rolled_back = inputs.given_back.iter().any(Option::is_some);
        // Shares are rounded to buckets. By the weights themselves, versions take turns exactly in each round.
        let turns = inputs.weights.as_ref().filter(|_| !is_rolled_back);
        self.rotation.set_weights(turns.unwrap_or(&self.shares));
        self.layout = layout;
        self.inputs = inputs;
        has_changed
    }

    /// Returns the date for which the schedule was evaluated.
    pub fn date(&self) -> Date {
        self.date
    }

    /// Returns the layout.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Returns the share that each version holds, in hundredths of a percent.
    pub fn shares(&self) -> &[u32] {
        &self.shares
    }

    /// Returns the versions' weights in the policy.
    pub fn weights(&self) -> &[u32] {
        &self.weights
    }

    /// Returns whether a user's identity matters, now or later. It does while several versions have a share,
    /// or while the schedule has changes to come. A rollback does not change that.
    pub fn is_in_progress(&self) -> bool {
        self.is_in_progress
    }

    /// Returns the version whose turn it is.
    pub fn turn(&mut self) -> Option<usize> {
        self.rotation.take()
    }

    /// Returns the next number for a route that picks by a number.
    pub fn number(&mut self) -> u64 {
        self.last_number = number::next(self.last_number);
        self.last_number
    }

    /// Returns an id that has not been issued.
    pub fn id(&mut self) -> u64 {
        self.last_id = self.last_id.wrapping_add(1);
        // The hash hides the counter, because consecutive ids would reveal who came when.
        hash::pseudo_random(self.last_id)
    }
}

/// Returns how many parts of how many have been given back of what a version held.
fn part_given_back(since: Time, over: Duration, now: Time) -> (u64, u64) {
    if now >= since + over { (1, 1) } else { (millis(now.since(since)), millis(over)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Policy;
    use crate::value::hash::BUCKETS;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn on(second: u64) -> Date {
        Date::from_millis(second * 1_000)
    }

    fn at(second: u64) -> Time {
        Time::from_millis(second * 1_000)
    }

    /// Returns a release with weights v1 70, v2 20 and v3 10, and the fields in `extra`.
    fn release(extra: &str) -> Release {
        let version = |name: &str, weight: u32| {
            format!(r#"{{"name":"{name}","upstream":"a","weight":{weight},"default":{}}}"#, name == "v1")
        };
        let versions = [version("v1", 70), version("v2", 20), version("v3", 10)].join(",");
        let text = format!(
            r#"{{"name":"p","upstreams":{{"a":{{"cluster":"a"}}}},"releases":[{{"name":"reviews",
            "steer":{{"header":"x-v"}},"versions":[{versions}]{extra}}}]}}"#
        );
        Policy::from_json(text.as_bytes()).unwrap().releases.remove(0)
    }

    #[test]
    fn a_rollback_moves_only_the_users_of_its_version() {
        let release = release("");
        let before = Split::new(&release, on(0), at(0), &[], 0);
        let after = Split::new(&release, on(100), at(100), &[None, Some(at(100)), None], 0);
        assert_eq!(after.shares(), [9_000, 0, 1_000]);
        for bucket in 0..BUCKETS {
            let (had, has) = (before.layout().holder(bucket), after.layout().holder(bucket));
            assert!(had == has || (had, has) == (Some(1), Some(0)), "{bucket}");
        }
    }

    #[test]
    fn a_gradual_rollback_moves_shares_in_a_straight_line() {
        let release = release(r#","rollback":{"failurePercent":5,"over":"60s"}"#);
        let mut split = Split::new(&release, on(0), at(0), &[], 0);
        let rolled_back = [None, Some(at(100)), None];
        let shares: Vec<u32> = [100, 115, 130, 160, 999]
            .map(|second| {
                split.update(&release, on(second), at(second), &rolled_back);
                split.shares()[1]
            })
            .into();
        assert_eq!(shares, [2_000, 1_500, 1_000, 0, 0]);
    }

    /// Returns whether each window of these turns has as many of each version as expected.
    fn is_exact(turns: &[usize], expected: &[usize]) -> bool {
        let has_all = |window: &[usize]| {
            expected
                .iter()
                .enumerate()
                .all(|(version, count)| window.iter().filter(|turn| **turn == version).count() == *count)
        };
        turns.windows(expected.iter().sum()).all(has_all)
    }

    #[test]
    fn turns_follow_the_weights_in_force_exactly_and_the_shares_during_a_ramp() {
        let extra =
            r#","schedule":[{"at":"1970-01-01T00:01:40Z","over":"100s","weights":{"v1":1,"v2":1,"v3":1}}]"#;
        let release = release(extra);
        for random in 0..20 {
            let mut split = Split::new(&release, on(0), at(0), &[], random);
            let turns = |split: &mut Split, count| -> Vec<usize> {
                (0..count).filter_map(|_| split.turn()).collect()
            };
            assert!(is_exact(&turns(&mut split, 30), &[7, 2, 1]));
            let mut ramp = Vec::new();
            for second in 100..200 {
                split.update(&release, on(second), at(second), &[]);
                ramp.extend(turns(&mut split, 10));
            }
            // On average of the ramp, v1 has (70 + 33.3) / 2 %.
            let on_v1 = ramp.iter().filter(|turn| **turn == 0).count();
            assert!(on_v1.abs_diff(518) <= 3, "{on_v1}");
            split.update(&release, on(200), at(200), &[]);
            assert!(is_exact(&turns(&mut split, 30), &[1, 1, 1]));
        }
    }

    #[test]
    fn turns_follow_the_shares_after_a_rollback() {
        let release = release("");
        let mut split = Split::new(&release, on(0), at(0), &[None, Some(at(0)), None], 0);
        let turns: Vec<usize> = (0..30).filter_map(|_| split.turn()).collect();
        assert!(is_exact(&turns, &[9, 0, 1]));
    }

    #[test]
    fn an_update_returns_whether_the_layout_changed() {
        let extra = r#","schedule":[{"at":"1970-01-01T00:01:40Z","weights":{"v1":0,"v2":100,"v3":0}}]"#;
        let release = release(extra);
        let mut split = Split::new(&release, on(0), at(0), &[], 0);
        assert!(split.is_in_progress());
        assert!(!split.update(&release, on(99), at(99), &[]));
        assert!(split.update(&release, on(100), at(100), &[]));
        assert!(!split.is_in_progress());
    }
}
