//! One step of a simulation.

/// One step: the weights, and where they leave the users.
pub struct SimulationStep {
    /// Each version's share of the buckets, in hundredths of a percent.
    pub weights: Vec<u32>,
    /// How many users each version has.
    pub users: Vec<u64>,
    /// How many users came from which version to which, staying ones too: `flows[from][to]`. Empty at the first
    /// step.
    pub flows: Vec<Vec<u64>>,
    /// The least share of the buckets that must change hands, in hundredths of a percent.
    pub must: u32,
}

impl SimulationStep {
    /// The users who changed their version, with the versions: the most first.
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

    /// How many users changed their version.
    pub fn moved(&self) -> u64 {
        self.moves().iter().map(|(_, _, count)| count).sum()
    }
}
