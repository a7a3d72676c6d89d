//! Numbers for a route that picks by one: Envoy takes the remainder by the total of its weights and goes along
//! them, in the route's order.

use crate::policy::release::version::Version;

/// The version that the route picks by this number, where it has these versions. Nothing if they have no weight.
pub fn pick(versions: &[Version], number: u64) -> Option<usize> {
    let mut rest = number.checked_rem(total(versions))?;
    versions.iter().position(|version| {
        let weight = u64::from(version.weight);
        let found = rest < weight;
        rest = rest.saturating_sub(weight);
        found
    })
}

/// A number by which the route picks this version, for each `hash` the same. That of a version of weight 0 does
/// not exist.
pub fn of(versions: &[Version], version: usize, hash: u64) -> Option<u64> {
    let start: u64 = versions.iter().take(version).map(|version| u64::from(version.weight)).sum();
    let weight = u64::from(versions.get(version)?.weight);
    Some(start + hash.checked_rem(weight)?)
}

/// The next number of a sequence that goes through all remainders once, whatever the total, and does not linger.
pub fn next(last: u64) -> u64 {
    // A prime that no total of weights has as a factor, unless it is a multiple of it.
    last.wrapping_add(2_654_435_761)
}

fn total(versions: &[Version]) -> u64 {
    versions.iter().map(|version| u64::from(version.weight)).sum()
}
