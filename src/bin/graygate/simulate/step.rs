//! One step of a simulation.

/// One step: the weights, and the users that each version has with them.
pub struct SimulationStep {
    /// The share of the buckets that each version holds, in hundredths of a percent.
    pub weights: Vec<u32>,
    /// The number of users of each version.
    pub users: Vec<u64>,
    /// The number of users by the version before and the version now: `flows[from][to]`. Includes users who stay. Empty
    /// at the first step.
    pub flows: Vec<Vec<u64>>,
    /// The least share of the buckets that has to move for these weights, in hundredths of a percent.
    pub least_moved: u32,
}

impl SimulationStep {
    /// Returns the moves between versions as (from, to, number of users), with the largest first.
    pub fn moves(&self) -> Vec<(usize, usize, u64)> {
        let all = self
            .flows
            .iter()
            .enumerate()
            .flat_map(|(from, row)| row.iter().enumerate().map(move |(to, count)| (from, to, *count)));
        let mut moves: Vec<_> = all.filter(|(from, to, count)| from != to && *count > 0).collect();
        moves.sort_by_key(|(_, _, count)| core::cmp::Reverse(*count));
        moves
    }

    /// Returns the number of users who changed their version.
    pub fn moved(&self) -> u64 {
        self.moves().iter().map(|(_, _, count)| count).sum()
    }
}
