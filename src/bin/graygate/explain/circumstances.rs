//! What holds for a request besides the request itself: the policy, the time, the state of upstreams and versions.

use graygate::decision::release::split::Split;
use graygate::policy::Policy;
use graygate::policy::release::Release;
use graygate::policy::release::steer::Steer;

use super::assumed::AssumedReadiness;

/// What holds for a request besides the request itself.
pub struct Circumstances<'p> {
    /// The policy that the request is for.
    pub policy: &'p Policy,
    /// Whether the output says which policy that is.
    pub shows_policy: bool,
    /// How each release of the policy divides its requests.
    pub splits: &'p [Split],
    /// The state of the upstreams, and the time.
    pub state: &'p AssumedReadiness<'p>,
    /// Whether the time is given, and not the present one.
    pub is_time_given: bool,
    /// The versions that are rolled back, as `RELEASE/VERSION`.
    pub rolled_back: &'p [String],
}

impl Circumstances<'_> {
    /// Returns whether the time makes a difference, or is given.
    pub fn shows_time(&self) -> bool {
        self.is_time_given || self.policy.releases.iter().any(|release| release.schedule.changes())
    }

    /// Returns the share of all keys that each version of the release holds, in hundredths of a percent. Returns nothing
    /// if the route's weights decide.
    pub fn shares(&self, release: usize) -> Vec<(&str, u32)> {
        let found = self.policy.releases.get(release).zip(self.splits.get(release));
        let Some((release, split)) = found.filter(|(release, _)| !is_divided_by_route(release)) else {
            return Vec::new();
        };
        let names = release.versions.iter().map(|version| version.name.as_str());
        names.zip(split.shares().iter().copied()).collect()
    }

    /// Returns the names of the versions of the release that are rolled back, in document order.
    pub fn rolled_back_of(&self, release: usize) -> Vec<&str> {
        let Some(release) = self.policy.releases.get(release) else {
            return Vec::new();
        };
        let is_rolled_back = |version: &str| {
            let mut named = self.rolled_back.iter().filter_map(|name| name.split_once('/'));
            named.any(|name| name == (release.name.as_str(), version))
        };
        let versions = release.versions.iter().enumerate().filter(|(index, _)| *index != release.default);
        versions.map(|(_, version)| version.name.as_str()).filter(|name| is_rolled_back(name)).collect()
    }
}

fn is_divided_by_route(release: &Release) -> bool {
    matches!(release.steer, Steer::RandomValueHeader(_))
}
