//! How a release divides its requests right now, in one worker.

use super::layout::Layout;
use super::number;
use super::rotation::Rotation;
use crate::hash;
use crate::policy::release::Release;
use crate::time::{Time, millis};

/// One release's division of now, and one worker's place in it.
#[derive(Clone, Debug)]
pub struct Split {
    layout: Layout,
    shares: Vec<u32>,
    rotation: Rotation,
    under_way: bool,
    last_id: u64,
    last_number: u64,
}

impl Split {
    /// As it is at `now`. `rolled_back` tells for each version since when it is; `random` where this worker starts
    /// in the rotation, and which ids it gives.
    pub fn new(release: &Release, now: Time, rolled_back: &[Option<Time>], random: u64) -> Self {
        let mut split = Split {
            layout: Layout::default(),
            shares: Vec::new(),
            rotation: Rotation::default(),
            under_way: true,
            last_id: random,
            last_number: random,
        };
        split.update(release, now, rolled_back);
        split.rotation = Rotation::new(&split.shares, random);
        split
    }

    /// As it is at a later time. Whether any share has changed.
    pub fn update(&mut self, release: &Release, now: Time, rolled_back: &[Option<Time>]) -> bool {
        if release.versions.is_empty() {
            return false;
        }
        let mut layout = release.schedule.at(now);
        let many = layout.ranges().nth(1).is_some();
        self.under_way = many || release.schedule.goes_on(now);
        let over = release.rollback.as_ref().map_or(0, |rollback| millis(rollback.over));
        for (version, since) in rolled_back.iter().enumerate() {
            if let Some(since) = since {
                layout = layout.given_back(version, release.default, millis(now.since(*since)), over);
            }
        }
        let changed = layout != self.layout;
        self.shares = layout.shares(release.versions.len());
        self.layout = layout;
        changed
    }

    /// The layout.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// What each version holds, in hundredths of a percent.
    pub fn shares(&self) -> &[u32] {
        &self.shares
    }

    /// Whether it makes a difference who a user is, or will: more than one version has a share, or the schedule
    /// goes on. A rollback does not end it.
    pub fn under_way(&self) -> bool {
        self.under_way
    }

    /// The version whose turn it is.
    pub fn turn(&mut self) -> Option<usize> {
        self.rotation.next(&self.shares)
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
        hash::key(self.last_id, b"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::BUCKETS;
    use crate::policy::Policy;
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
        let before = Split::new(&release, at(0), &[], 0);
        let after = Split::new(&release, at(100), &[None, Some(at(100)), None], 0);
        assert_eq!(after.shares(), [9_000, 0, 1_000]);
        for bucket in 0..BUCKETS {
            let (had, has) = (before.layout().holder(bucket), after.layout().holder(bucket));
            assert!(had == has || (had, has) == (Some(1), Some(0)), "{bucket}");
        }
    }

    #[test]
    fn a_gradual_rollback_takes_its_time() {
        let release = release(r#","rollback":{"failurePercent":5,"over":"60s"}"#);
        let mut split = Split::new(&release, at(0), &[], 0);
        let gone = [None, Some(at(100)), None];
        let shares: Vec<u32> = [100, 115, 130, 160, 999]
            .map(|second| {
                split.update(&release, at(second), &gone);
                split.shares()[1]
            })
            .into();
        assert_eq!(shares, [2_000, 1_500, 1_000, 0, 0]);
    }

    #[test]
    fn an_update_tells_whether_it_changed_anything() {
        let extra = r#","schedule":[{"at":"1970-01-01T00:01:40Z","weights":{"v1":0,"v2":100,"v3":0}}]"#;
        let release = release(extra);
        let mut split = Split::new(&release, at(0), &[], 0);
        assert!(split.under_way());
        assert!(!split.update(&release, at(99), &[]));
        assert!(split.update(&release, at(100), &[]));
        assert!(!split.under_way());
    }
}
