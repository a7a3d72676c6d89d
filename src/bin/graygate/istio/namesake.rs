//! Finds two filters in one proxy whose policies have the same name but disagree.
//!
//! Policies with the same name share their state, as an older and a newer version of one policy do. If both agree, that
//! is useful: the checks run once, and one drain order is enough. If they disagree, each undoes the other's state.

use graygate::policy::Policy;
use graygate::policy::release::Release;

use super::direction::Direction;
use super::model::{Filter, FilterPolicy, Resource};
use super::overlap::{self, MeshFacts};

/// Explains what one of two filters would undo of the other's state. Returns `None` if they cannot meet in one proxy,
/// have different names, or agree.
pub fn conflict(
    (one, filter): (&Resource, &Filter),
    (two, other): (&Resource, &Filter),
    mesh: MeshFacts<'_>,
) -> Option<String> {
    if filter.vm_id != other.vm_id || !share_kind(filter, other) || !overlap::share_proxies(one, two, mesh) {
        return None;
    }
    let others = other.compiled();
    filter.compiled().iter().find_map(|FilterPolicy { policy, .. }| {
        let other = others.iter().find(|other| other.policy.name == policy.name)?;
        let reason = disagreement(policy, &other.policy)?;
        Some(format!("{:?} is the name of that one's policy, too, and {reason}", policy.name))
    })
}

fn disagreement(one: &Policy, two: &Policy) -> Option<&'static str> {
    if one.probes.drain.is_some() != two.probes.drain.is_some() {
        return Some("whichever comes without drain ends the other's");
    }
    if reasons_to_drain(one) != reasons_to_drain(two) {
        return Some("whichever comes with other reasons to drain ends the other's");
    }
    let differ = with_rollback(one) != with_rollback(two);
    differ.then_some("whichever comes without a release that can be rolled back ends the other's rollback")
}

/// Returns whether the policy has a drain switch, and the upstream with which it drains.
fn reasons_to_drain(policy: &Policy) -> (bool, Option<&str>) {
    let also_when = policy.probes.drain.as_ref().and_then(|drain| drain.also_when);
    (policy.probes.drain_path().is_some(), also_when.map(|id| policy.name_of(id)))
}

/// Returns the releases that can be rolled back, by name.
fn with_rollback(policy: &Policy) -> Vec<&Release> {
    let mut releases: Vec<&Release> =
        policy.releases.iter().filter(|release| release.judging_rollback().is_some()).collect();
    releases.sort_by(|one, two| one.name.cmp(&two.name));
    releases
}

/// Returns whether one proxy can have both filters, by its kind: sidecar, gateway or waypoint.
fn share_kind(one: &Filter, two: &Filter) -> bool {
    let kind = |direction: Direction| match direction {
        Direction::Inbound | Direction::Outbound => "sidecar",
        Direction::Gateway | Direction::Waypoint => direction.name(),
    };
    // The directions of the rules leave out gateways if there are sidecars, so those of the listeners count.
    let kinds = |filter: &Filter| -> Vec<&str> {
        match filter.scopes.as_slice() {
            [] => filter.directions.iter().copied().map(kind).collect(),
            scopes => scopes.iter().map(|scope| kind(scope.direction)).collect(),
        }
    };
    let others = kinds(two);
    kinds(one).iter().any(|kind| others.contains(kind))
}
