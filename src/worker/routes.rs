//! Whether the requests of each version reach the version's cluster.
//!
//! The filter only steers a request. The proxy's routes choose the cluster, and they may not know the version. So some
//! responses of each version are looked at: the first [`FIRST`], then one for each tick and one of [`EACH`]. While requests
//! of the version go elsewhere, all are looked at.
//!
//! A request went elsewhere if the response came from the cluster of another version of the release. A response from any
//! other cluster, and a request without a route, may be for another service that the release matches as well. They count only
//! if all of this holds:
//!
//! - No request of the version has reached its cluster, and the last [`ALIKE`] went to the same place.
//! - Another version is reached, so the release is in use here. None of its requests went to that place.
//!
//! Replies of the proxy itself are not looked at, because another filter may have sent them.
//!
//! The module that acts on the headers of requests alone sees no response. It looks at a request from a tick that comes soon
//! after the headers, at one request at a time and at one of [`EACH_LATE`], also while requests go elsewhere. A request that
//! has ended by then, or that has no route, tells nothing. It may have reached its version, so the count of those that went
//! to the same place begins again.
//!
//! An upstream that only a breaker judges is not known at all if no response comes from its cluster. That is so for a member
//! of an aggregate cluster, and for a name that no route has. It is said once, after [`ALIKE`] requests that needed it. Only
//! an explicit `match` tells that requests need an upstream. Without one, they may be for other services.

use core::time::Duration;

use crate::policy::Policy;
use crate::policy::upstream::UpstreamId;
use crate::proxy::ExchangeId;
use crate::value::time::Time;

/// How many responses of a version are looked at in the beginning.
const FIRST: u32 = 40;

/// After how many right responses in a row requests that went elsewhere count as over.
const RIGHT: u32 = 20;

/// One of this many later responses is looked at if the policy has no ticks.
const EACH: u32 = 256;

/// The same for the module that looks from a tick.
const EACH_LATE: u32 = 64;

/// How many requests in a row must go to the same unknown place.
pub const ALIKE: u32 = 20;

/// The time for which no request may have gone elsewhere before that counts as over. A part of a version's requests may
/// go elsewhere for ever, which is one finding.
const OVER: Duration = Duration::from_secs(60);

/// How many ticks look at a request while another filter has it.
const TRIES: u8 = 10;

/// A release and a version of it, by their indexes.
pub type VersionIndex = (usize, usize);

/// What this worker knows about the routes of all versions, by release and version.
pub struct RouteWatch {
    versions: Vec<Vec<VersionRoutes>>,
    /// For each upstream, how many requests that needed it went elsewhere. `None` once one has reached it.
    missed: Vec<Option<u32>>,
    /// The request that the next tick looks at, if one is due.
    late: Option<LateLook>,
}

/// A look at a request while it waits for its response.
pub struct LateLook {
    /// The id of its stream.
    pub request: ExchangeId,
    /// The versions that it got.
    pub versions: Vec<VersionIndex>,
    /// How many more ticks may look.
    tries: u8,
}

/// What this worker knows about the routes of one version.
#[derive(Clone, Default)]
struct VersionRoutes {
    /// The number of right responses in a row.
    right: u32,
    /// Whether any was right.
    is_reached: bool,
    /// The time of the last request that went elsewhere, while that is not over.
    wrong_at: Option<Time>,
    /// A hash of the last place that is no cluster of the release, or 0.
    place: u64,
    /// The number of requests in a row that went there.
    alike: u32,
    /// The number of looks in the beginning, also of those that told nothing.
    looks: u32,
    /// The tick of the last look.
    looked: Time,
    /// The number of requests since the last look.
    skipped: u32,
}

/// What a look at a response tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Nothing new.
    Nothing,
    /// The version's requests have begun to reach its cluster.
    BecameRight,
    /// The request went elsewhere.
    Wrong {
        /// Whether it is the first to do so.
        is_first: bool,
    },
}

impl RouteWatch {
    /// Creates the table of a worker that has seen nothing.
    pub fn new(policy: &Policy) -> Self {
        let versions =
            policy.releases.iter().map(|release| vec![VersionRoutes::default(); release.versions.len()]);
        let missed = policy.upstreams.iter().map(|upstream| {
            // Its checks tell whether it is reached.
            (upstream.breaker.is_some() && upstream.check.is_none()).then_some(0)
        });
        RouteWatch { versions: versions.collect(), missed: missed.collect(), late: None }
    }

    /// Returns whether a tick is to look at a request.
    pub fn is_late_look_due(&self) -> bool {
        self.late.is_some()
    }

    /// Has the next tick look at this request, which got these versions.
    pub fn look_later(&mut self, request: ExchangeId, versions: Vec<VersionIndex>) {
        self.late = Some(LateLook { request, versions, tries: TRIES - 1 });
    }

    /// Takes the request that this tick looks at.
    pub fn take_late_look(&mut self) -> Option<LateLook> {
        self.late.take()
    }

    /// Has the next tick look at the request again, unless enough have.
    pub fn look_again(&mut self, look: LateLook) {
        self.late = look.tries.checked_sub(1).map(|tries| LateLook { tries, ..look });
    }

    /// Takes a look that found its request ended.
    pub fn take_ended(&mut self, versions: &[VersionIndex]) {
        for index in versions {
            if let Some(known) = self.get_mut(*index) {
                known.alike = 0;
            }
        }
    }

    /// Returns whether the next request of this version is looked at, by its response or `late`, from a tick. `ticked` is
    /// the time of the last tick.
    pub fn takes_look(&mut self, (release, version): VersionIndex, ticked: Time, late: bool) -> bool {
        let Some(known) = self.get_mut((release, version)) else {
            return false;
        };
        let each = if late { EACH_LATE } else { EACH };
        let is_sample = known.looks < FIRST || known.looked != ticked || known.skipped >= each;
        let is_due = is_sample || (known.wrong_at.is_some() && !late);
        if is_due {
            (known.looked, known.skipped) = (ticked, 0);
            known.looks = known.looks.saturating_add(1);
        } else {
            known.skipped += 1;
        }
        is_due
    }

    fn get_mut(&mut self, (release, version): VersionIndex) -> Option<&mut VersionRoutes> {
        self.versions.get_mut(release)?.get_mut(version)
    }

    /// Takes a request that reached its version.
    pub fn take_right(&mut self, index: VersionIndex, now: impl Fn() -> Time) -> Look {
        let Some(known) = self.get_mut(index) else {
            return Look::Nothing;
        };
        let was_known = known.right >= RIGHT;
        known.right = known.right.saturating_add(1);
        known.is_reached = true;
        let is_over = known.wrong_at.is_none_or(|wrong| now().since(wrong) >= OVER);
        if known.right < RIGHT || !is_over || was_known && known.wrong_at.is_none() {
            return Look::Nothing;
        }
        known.wrong_at = None;
        Look::BecameRight
    }

    /// Takes a request that went to `place`. `is_certain` is whether that is the cluster of another version.
    pub fn take_elsewhere(&mut self, index: VersionIndex, place: u64, is_certain: bool, now: Time) -> Look {
        let (release, version) = index;
        let others = self.versions.get(release).into_iter().flatten().enumerate();
        let mut others = others.filter(|(other, _)| *other != version).map(|(_, known)| known);
        let is_used =
            others.clone().any(|other| other.is_reached) && others.all(|other| other.place != place);
        let Some(known) = self.get_mut(index) else {
            return Look::Nothing;
        };
        if !is_certain {
            known.alike = if known.place == place { known.alike.saturating_add(1) } else { 1 };
            known.place = place;
        }
        if !(is_certain || is_used && !known.is_reached && known.alike >= ALIKE) {
            return Look::Nothing;
        }
        known.right = 0;
        Look::Wrong { is_first: known.wrong_at.replace(now).is_none() }
    }

    /// Returns how many requests that needed the upstream went elsewhere. `None` once one has reached it, or if its checks
    /// tell.
    pub fn missed_mut(&mut self, id: UpstreamId) -> Option<&mut Option<u32>> {
        self.missed.get_mut(id.0)
    }

    /// Returns whether requests of a version with this upstream go elsewhere.
    pub fn misses_version_of(&self, policy: &Policy, id: UpstreamId) -> bool {
        policy.releases.iter().zip(&self.versions).any(|(release, known)| {
            let mut versions = release.versions.iter().zip(known);
            versions.any(|(version, known)| version.upstream == id && known.wrong_at.is_some())
        })
    }
}
