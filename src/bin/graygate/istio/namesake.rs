//! Two filters in one proxy whose policies have one name. They share what they know, as an older and a newer form of one
//! policy would, which is of use where they agree: one row of checks, one order to drain. Where they don't, each undoes
//! what the other knows.

use graygate::policy::Policy;
use graygate::policy::release::Release;

use super::direction::Direction;
use super::model::{Filter, Resource};
use super::overlap;

/// What one of the two would undo of the other's.
pub fn between(
    (one, filter): (&Resource, &Filter),
    (two, other): (&Resource, &Filter),
    root: &str,
) -> Option<String> {
    if filter.vm != other.vm || !share_kind(filter, other) || !overlap::share_proxies(one, two, root) {
        return None;
    }
    let (policy, against) = (filter.compiled()?, other.compiled()?);
    if policy.name != against.name {
        return None;
    }
    let reason = disagreement(&policy, &against)?;
    Some(format!("{:?} is the name of that one's policy, too, and {reason}", policy.name))
}

fn disagreement(one: &Policy, two: &Policy) -> Option<&'static str> {
    if one.probes.drain.is_some() != two.probes.drain.is_some() {
        return Some("whichever comes without drain ends the other's");
    }
    let differ = changing(one) != changing(two);
    differ.then_some("whichever comes without a release that can be rolled back ends the other's rollback")
}

fn changing(policy: &Policy) -> Vec<&Release> {
    let mut releases: Vec<&Release> =
        policy.releases.iter().filter(|release| release.rollback.is_some()).collect();
    releases.sort_by(|one, two| one.name.cmp(&two.name));
    releases
}

/// Whether a proxy can be of both: a sidecar, a gateway or a waypoint.
fn share_kind(one: &Filter, two: &Filter) -> bool {
    let kinds = |filter: &Filter| {
        let directions =
            filter.directions.iter().copied().chain(filter.scopes.iter().map(|scope| scope.direction));
        directions
            .map(|direction| match direction {
                Direction::Inbound | Direction::Outbound => "sidecar",
                Direction::Gateway | Direction::Waypoint => direction.name(),
            })
            .collect::<Vec<_>>()
    };
    let others = kinds(two);
    kinds(one).iter().any(|kind| others.contains(kind))
}
