//! How many responses or checks are bad, and the evidence for a share of them.

use core::fmt;

use serde::{Deserialize, Serialize};

/// The number of responses or checks, and how many of them are bad.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadCount {
    /// The number of all.
    pub all: u64,
    /// The number of bad ones.
    pub bad: u64,
}

impl BadCount {
    /// Adds the counts of `more`.
    pub fn add(&mut self, more: BadCount) {
        self.all += more.all;
        self.bad += more.bad;
    }

    /// Returns the share of bad ones, or 0 without any counts.
    pub fn share(self) -> f64 {
        if self.all == 0 { 0.0 } else { self.bad as f64 / self.all as f64 }
    }

    /// Returns G for two different shares against one common share. Returns 0 if this share is not above the
    /// `other`.
    pub fn g_above(self, other: BadCount) -> f64 {
        if self.share() <= other.share() {
            return 0.0;
        }
        let common = BadCount { all: self.all + other.all, bad: self.bad + other.bad }.share();
        self.g_against(common) + other.g_against(common)
    }

    /// Returns the logarithm of how much likelier these counts are by their own share than by `share`.
    pub fn g_against(self, share: f64) -> f64 {
        let term = |count: u64, expected: f64| {
            if count == 0 { 0.0 } else { count as f64 * (count as f64 / expected).ln() }
        };
        let all = self.all as f64;
        let good = self.all.saturating_sub(self.bad);
        term(self.bad, all * share) + term(good, all * (1.0 - share))
    }
}

impl fmt::Display for BadCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let permille = (self.bad * 1_000 + self.all / 2).checked_div(self.all).unwrap_or_default();
        write!(f, "{}.{} % of {}", permille / 10, permille % 10, self.all)
    }
}
