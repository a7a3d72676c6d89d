//! Looks at where requests went, and records what [`super::routes`] finds.

use super::event::Event;
use super::metric::Metric;
use super::routes::{ALIKE, LateLook, Look, VersionIndex};
use super::scope::Scope;
use super::store;
use crate::policy::upstream::UpstreamId;
use crate::policy::{Mode, Policy};
use crate::proxy::{Attribute, Proxy};
use crate::value::hash;
use crate::value::response::{VIA_UPSTREAM, had_no_cluster};

/// The names of releases and versions whose requests go elsewhere, as all workers know it. An upstream that no request
/// reaches has no release.
type Misrouted = Vec<(String, String)>;

/// The place of requests without a route to a cluster.
const NO_ROUTE: u64 = 1;

/// Returns the place of requests that go to this cluster.
fn place_of(cluster: &[u8]) -> u64 {
    hash::key(1, cluster)
}

fn key(policy: &Policy) -> String {
    format!("graygate/{}/misrouted/{}", policy.name, store::LAYOUT)
}

/// Seeds the shared names, if requests of the policy can go elsewhere. See [`store::seed`].
pub fn seed(proxy: &impl Proxy, policy: &Policy) {
    if !policy.releases.is_empty() || !policy.gates.is_empty() {
        store::seed(proxy, &key(policy), &Misrouted::new());
    }
}

impl<P: Proxy> Scope<'_, P> {
    /// Looks at the response to a request that got these versions. `cluster` is the one that the request went to. Must be
    /// called in the callback of the response's headers.
    pub fn look_at_route(&mut self, assigned: &[VersionIndex], cluster: Option<&[u8]>) {
        self.take_route(assigned, cluster, |proxy| {
            let details = proxy.code_details();
            match cluster.filter(|_| details == VIA_UPSTREAM) {
                Some(cluster) => Some(place_of(cluster)),
                None if details == b"route_not_found" || had_no_cluster(&details) => Some(NO_ROUTE),
                None => None,
            }
        });
    }

    /// Looks at the request that a tick is to look at. One that has ended tells nothing. Afterwards, the context of the root
    /// is the current one.
    pub fn look_at_late_request(&mut self) {
        let Some(look) = self.routes.take_late_look() else {
            return;
        };
        if !self.proxy.enter(look.request) {
            return self.routes.take_ended(&look.versions);
        }
        // Before the router has it, the proxy tells the route that the request had as it came.
        if self.proxy.is_with_router() {
            let LateLook { versions, .. } = look;
            let cluster = self.proxy.attribute(Attribute::Cluster);
            self.take_route(&versions, cluster.as_deref(), |_| cluster.as_deref().map(place_of));
        } else {
            self.routes.look_again(look);
        }
        self.proxy.leave();
    }

    /// Takes where a request went that got these versions: its cluster, and its place, which is read only if it matters.
    fn take_route(
        &mut self,
        assigned: &[VersionIndex],
        cluster: Option<&[u8]>,
        place: impl FnOnce(&P) -> Option<u64>,
    ) {
        let policy = self.policy;
        let own = |(release, version): VersionIndex| {
            let version = policy.releases.get(release)?.versions.get(version)?;
            Some(version.cluster.as_bytes())
        };
        let mut is_explained = false;
        for index in assigned.iter().filter(|index| cluster.is_some() && own(**index) == cluster) {
            is_explained = true;
            if self.routes.take_right(*index, || self.proxy.now()) == Look::BecameRight {
                self.mark_misrouted(*index, false);
            }
        }
        // The request was for another release, or nothing is known about it.
        if is_explained {
            return;
        }
        let Some(place) = place(self.proxy) else {
            return;
        };
        for index in assigned {
            let others = policy.releases.get(index.0).into_iter().flat_map(|release| &release.versions);
            let is_certain = place != NO_ROUTE
                && others.into_iter().any(|other| Some(other.cluster.as_bytes()) == cluster);
            let look = self.routes.take_elsewhere(*index, place, is_certain, self.proxy.now());
            if let Look::Wrong { is_first } = look {
                let (release, version) = *index;
                self.metrics.count(self.proxy, policy, Metric::Misrouted { release, version });
                if is_first && self.mark_misrouted(*index, true) {
                    let to = cluster.filter(|_| place != NO_ROUTE).map(String::from_utf8_lossy);
                    self.record(&Event::Misrouted { policy, release, version, to: to.as_deref() });
                }
            }
        }
    }

    /// Looks at the response to a request that needed this upstream. `cluster` is the one that the request went to. Must be
    /// called in the callback of the response's headers.
    pub fn look_at_upstream(&mut self, id: UpstreamId, cluster: Option<&[u8]>) {
        let policy = self.policy;
        // The warning about a version says more.
        let is_said = self.routes.misses_version_of(policy, id);
        let (Some(upstream), Some(missed)) = (policy.upstream(id), self.routes.missed_mut(id)) else {
            return;
        };
        let Some(count) = missed else {
            return;
        };
        if cluster == Some(upstream.cluster.as_bytes()) {
            *missed = None;
            return;
        }
        // The number that has been said stays, so that it is said once.
        if is_said || *count >= ALIKE || !needs_upstream(policy, id) || !self.upstreams.is_ready(policy, id) {
            return;
        }
        let Some(cluster) = cluster.filter(|_| self.proxy.code_details() == VIA_UPSTREAM) else {
            return;
        };
        *count += 1;
        if *count == ALIKE && self.mark((String::new(), upstream.name.clone()), true) {
            let to = &String::from_utf8_lossy(cluster);
            self.record(&Event::Unreached { policy, upstream: id, requests: ALIKE, to });
        }
    }

    /// Shares whether the requests of a version go elsewhere. Returns whether that is new to the proxy.
    fn mark_misrouted(&self, (release, version): VersionIndex, is_misrouted: bool) -> bool {
        let release = self.policy.releases.get(release);
        let found = release
            .and_then(|release| Some((release.name.clone(), release.versions.get(version)?.name.clone())));
        found.is_some_and(|names| self.mark(names, is_misrouted))
    }

    /// Adds names to what is known to go elsewhere, or removes them. Returns whether that is new to the proxy.
    fn mark(&self, names: (String, String), is_misrouted: bool) -> bool {
        let is_new = store::update(self.proxy, &key(self.policy), |known: Option<Misrouted>| {
            let mut known = known.unwrap_or_default();
            if known.contains(&names) == is_misrouted {
                return (false, None);
            }
            if is_misrouted {
                known.push(names.clone());
            } else {
                known.retain(|known| *known != names);
            }
            (true, Some(known))
        });
        is_new.unwrap_or(false)
    }
}

/// Returns whether each request for which a decision asks for this upstream certainly needs it.
fn needs_upstream(policy: &Policy, id: UpstreamId) -> bool {
    let mut gates = policy.gates.iter().filter(|gate| gate.upstream == id);
    let mut releases = policy
        .releases
        .iter()
        .filter(|release| release.versions.iter().any(|version| version.upstream == id));
    // In mode `shadow` no request is steered to a version.
    gates.all(|gate| !gate.matches.is_empty())
        && releases.all(|release| policy.mode == Mode::Enforce && !release.matches.is_empty())
}
