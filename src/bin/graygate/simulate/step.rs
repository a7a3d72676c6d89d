//! The steps of a simulation: what is planned, and which users move.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use graygate::policy::release::Release;
use graygate::value::date::Date;
use graygate::value::hash;
use graygate::weights::layout::Layout;

/// A step to simulate.
pub struct PlannedStep {
    /// When it begins. `None` if nobody has said so.
    pub at: Option<Date>,
    /// The time it takes.
    pub over: Duration,
    /// Which version holds which bucket at its end.
    pub layout: Layout,
}

impl PlannedStep {
    /// Creates a step that takes no time.
    pub fn at_once(layout: Layout) -> Self {
        PlannedStep { at: None, over: Duration::ZERO, layout }
    }
}

/// Returns the steps of a release: its weights, then its schedule.
pub fn scheduled(release: &Release) -> Vec<PlannedStep> {
    let first =
        PlannedStep { at: release.starts_at, ..PlannedStep::at_once(release.schedule.first().clone()) };
    let changes = release.schedule.steps().map(|(change, layout)| PlannedStep {
        at: Some(change.at),
        over: change.over,
        layout: layout.clone(),
    });
    std::iter::once(first).chain(changes).collect()
}

/// One step: the weights, and the users that each version has with them.
pub struct SimulationStep {
    /// When it begins. `None` if nobody has said so.
    pub at: Option<Date>,
    /// The time it takes.
    pub over: Duration,
    /// The share of the buckets that each version holds, in hundredths of a percent.
    pub weights: Vec<u32>,
    /// The number of users of each version.
    pub users: Vec<u64>,
    /// The number of users by the version before and the version now. Includes users who stay. Empty at the first step.
    pub flows: BTreeMap<(usize, usize), u64>,
    /// The least share of the buckets that has to move for these weights, in hundredths of a percent.
    pub must_move_buckets: u32,
    /// The least number of users who have to move for each version to have this many.
    pub must_move: u64,
    /// The number of users who moved to a version that they had before. All had the default version before the release.
    pub moved_back: u64,
}

impl SimulationStep {
    /// Returns the moves between versions as (from, to, number of users), with the largest first.
    pub fn moves(&self) -> Vec<(usize, usize, u64)> {
        let moves = self.flows.iter().filter(|((from, to), _)| from != to);
        let mut moves: Vec<_> = moves.map(|((from, to), users)| (*from, *to, *users)).collect();
        moves.sort_by_key(|(_, _, users)| core::cmp::Reverse(*users));
        moves
    }

    /// Returns the number of users who changed their version.
    pub fn moved(&self) -> u64 {
        self.moves().iter().map(|(_, _, users)| users).sum()
    }
}

/// Returns the number of users in each bucket.
pub fn count_by_bucket(hashes: &[u64]) -> Vec<u64> {
    let mut counts = vec![0; usize::from(hash::BUCKETS)];
    for hash in hashes {
        if let Some(count) = counts.get_mut(usize::from(hash::bucket(*hash))) {
            *count += 1;
        }
    }
    counts
}

/// Counts the users of each version at each step, and how many moved since the step before.
pub fn simulate(
    plan: &[PlannedStep],
    versions: usize,
    default: usize,
    users_by_bucket: &[u64],
) -> Vec<SimulationStep> {
    let mut had: Vec<BTreeSet<usize>> = vec![BTreeSet::from([default]); users_by_bucket.len()];
    let mut last: Option<(&Layout, Vec<u64>)> = None;
    let steps = plan.iter().map(|planned| {
        let weights = planned.layout.shares(versions);
        let before = last.as_ref().map(|(layout, _)| *layout);
        let weights_before = before.map_or_else(|| weights.clone(), |before| before.shares(versions));
        let mut step = SimulationStep {
            at: planned.at,
            over: planned.over,
            must_move_buckets: gains(&weights, &weights_before).sum(),
            weights,
            users: vec![0; versions],
            flows: BTreeMap::new(),
            must_move: 0,
            moved_back: 0,
        };
        for ((bucket, users), had) in (0..).zip(users_by_bucket).zip(&mut had) {
            let Some(to) = planned.layout.holder(bucket) else {
                continue;
            };
            if let Some(count) = step.users.get_mut(to) {
                *count += users;
            }
            let is_back = !had.insert(to);
            let from = before.and_then(|before| before.holder(bucket));
            let Some(from) = from.filter(|_| *users > 0) else {
                continue;
            };
            *step.flows.entry((from, to)).or_default() += users;
            if from != to && is_back {
                step.moved_back += users;
            }
        }
        let users_before = last.as_ref().map_or(&step.users, |(_, users)| users);
        step.must_move = gains(&step.users, users_before).sum();
        last = Some((&planned.layout, step.users.clone()));
        step
    });
    steps.collect()
}

/// Returns what each version has gained, or 0 if it has lost.
fn gains<T: Copy + Ord + core::ops::Sub<Output = T> + 'static>(
    now: &[T],
    before: &[T],
) -> impl Iterator<Item = T> {
    let pairs: Vec<(T, T)> = now.iter().copied().zip(before.iter().copied()).collect();
    pairs.into_iter().map(|(now, before)| now.max(before) - before)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Simulates steps of v1, the default, and v2 with one user in each bucket.
    fn of_v2(shares: &[u32]) -> Vec<SimulationStep> {
        let plan = shares.iter().map(|share| PlannedStep::at_once(Layout::of(&[100 - share, *share], 0)));
        simulate(&plan.collect::<Vec<_>>(), 2, 0, &vec![1; usize::from(hash::BUCKETS)])
    }

    #[test]
    fn raised_weights_move_nobody_back() {
        let steps = of_v2(&[0, 10, 30, 100]);
        let moved: Vec<_> =
            steps.iter().map(|step| (step.moved(), step.must_move, step.moved_back)).collect();
        assert_eq!(moved, [(0, 0, 0), (1_000, 1_000, 0), (2_000, 2_000, 0), (7_000, 7_000, 0)]);
    }

    #[test]
    fn a_lowered_weight_moves_users_back_to_the_default_version() {
        let steps = of_v2(&[30, 10, 0]);
        assert_eq!(steps.iter().map(|step| step.moved_back).collect::<Vec<_>>(), [0, 2_000, 1_000]);
    }
}
