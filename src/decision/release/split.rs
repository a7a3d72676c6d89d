//! How a release divides its requests right now, in one worker.

use core::time::Duration;

use crate::policy::release::Release;
use crate::policy::release::steer::Steer;
use crate::value::hash;
use crate::value::time::{Time, millis};
use crate::weights::layout::Layout;
use crate::weights::number;
use crate::weights::rotation::Rotation;

/// One release's division of now, and one worker's place in it.
#[derive(Clone, Debug)]
pub struct Split {
    layout: Layout,
    shares: Vec<u32>,
    /// The versions' weights in the policy.
    weights: Vec<u32>,
    /// By what the versions take turns.
    turns: Vec<u32>,
    rotation: Rotation,
    under_way: bool,
    /// What the layout was made of: the schedule's, and what was given back of each version, as so many parts.
    made_of: (Layout, Vec<Option<(u64, u64)>>),
    /// By which time the schedule's was.
    time: Time,
    last_id: u64,
    last_number: u64,
}

impl Split {
    /// As it is at the time `scheduled`, which never runs back, and by the proxy's own clock at `now`.
    /// `rolled_back` tells for each version since when it is; `random` seeds the order of turns, and the ids.
    pub fn new(
        release: &Release,
        scheduled: Time,
        now: Time,
        rolled_back: &[Option<Time>],
        random: u64,
    ) -> Self {
        let mut split = Split {
            layout: Layout::default(),
            shares: Vec::new(),
            weights: release.versions.iter().map(|version| version.weight).collect(),
            turns: Vec::new(),
            rotation: Rotation::new(random),
            under_way: true,
            made_of: (Layout::default(), Vec::new()),
            time: scheduled,
            last_id: random,
            last_number: random,
        };
        split.update(release, scheduled, now, rolled_back);
        split
    }

    /// As it is at a later time. Whether anybody holds anything else now.
    pub fn update(
        &mut self,
        release: &Release,
        scheduled: Time,
        now: Time,
        rolled_back: &[Option<Time>],
    ) -> bool {
        self.time = scheduled;
        if release.versions.is_empty() {
            return false;
        }
        let layout = release.schedule.at(scheduled);
        self.under_way = layout.ranges().nth(1).is_some() || release.schedule.has_pending_changes(scheduled);
        let over = release.rollback.as_ref().map_or(Duration::ZERO, |rollback| rollback.over);
        let given = rolled_back.iter().map(|since| since.map(|since| given_back(since, over, now)));
        let made_of = (layout, given.collect::<Vec<_>>());
        if made_of == self.made_of {
            return false;
        }
        let mut layout = made_of.0.clone();
        for (version, given) in made_of.1.iter().enumerate() {
            if let Some((done, whole)) = given {
                layout = layout.given_back(version, release.default, *done, *whole);
            }
        }
        let changed = layout != self.layout;
        self.rotation.settle(&self.turns);
        self.shares = layout.shares(release.versions.len());
        self.turns = match release.steer {
            // As the route divides, and not in buckets.
            Steer::RandomValueHeader(_) => self.weights.clone(),
            _ => self.shares.clone(),
        };
        self.layout = layout;
        self.made_of = made_of;
        changed
    }

    /// By which time of the schedule it is.
    pub fn time(&self) -> Time {
        self.time
    }

    /// The layout.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// What each version holds, in hundredths of a percent.
    pub fn shares(&self) -> &[u32] {
        &self.shares
    }

    /// Returns the versions' weights in the policy.
    pub fn weights(&self) -> &[u32] {
        &self.weights
    }

    /// Whether it makes a difference who a user is, or will: more than one version has a share, or the schedule
    /// goes on. A rollback does not end it.
    pub fn under_way(&self) -> bool {
        self.under_way
    }

    /// The version whose turn it is.
    pub fn turn(&mut self) -> Option<usize> {
        self.rotation.next(&self.turns)
    }

    /// The next number for a route that picks by one.
    pub fn number(&mut self) -> u64 {
        self.last_number = number::next(self.last_number);
        self.last_number
    }

    /// An id that nobody has yet.
    pub fn id(&mut self) -> u64 {
        self.last_id = self.last_id.wrapping_add(1);
        // The counter's hash, as ids in a row would tell who came when.
        hash::pseudo_random(self.last_id)
    }
}

/// How much of what a version held is given back, as so many parts of so many. A clock that was set back since
/// then must not bring anything back.
fn given_back(since: Time, over: Duration, now: Time) -> (u64, u64) {
    if now.is_due(since, since + over) { (1, 1) } else { (millis(now.since(since)), millis(over)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Policy;
    use crate::value::hash::BUCKETS;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn at(second: u64) -> Time {
        Time::from_millis(second * 1_000)
    }

    /// v1 70, v2 20, v3 10, and whatever else is in `extra`.
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
    fn a_version_that_is_rolled_back_leaves_the_others_alone() {
        let release = release("");
        let before = Split::new(&release, at(0), at(0), &[], 0);
        let after = Split::new(&release, at(100), at(100), &[None, Some(at(100)), None], 0);
        assert_eq!(after.shares(), [9_000, 0, 1_000]);
        for bucket in 0..BUCKETS {
            let (had, has) = (before.layout().holder(bucket), after.layout().holder(bucket));
            assert!(had == has || (had, has) == (Some(1), Some(0)), "{bucket}");
        }
    }

    #[test]
    fn a_gradual_rollback_takes_its_time() {
        let release = release(r#","rollback":{"failurePercent":5,"over":"60s"}"#);
        let mut split = Split::new(&release, at(0), at(0), &[], 0);
        let gone = [None, Some(at(100)), None];
        let shares: Vec<u32> = [100, 115, 130, 160, 999]
            .map(|second| {
                split.update(&release, at(second), at(second), &gone);
                split.shares()[1]
            })
            .into();
        assert_eq!(shares, [2_000, 1_500, 1_000, 0, 0]);
    }

    #[test]
    fn an_update_tells_whether_it_changed_anything() {
        let extra = r#","schedule":[{"at":"1970-01-01T00:01:40Z","weights":{"v1":0,"v2":100,"v3":0}}]"#;
        let release = release(extra);
        let mut split = Split::new(&release, at(0), at(0), &[], 0);
        assert!(split.under_way());
        assert!(!split.update(&release, at(99), at(99), &[]));
        assert!(split.update(&release, at(100), at(100), &[]));
        assert!(!split.under_way());
    }
}
