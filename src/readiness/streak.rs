//! Consecutive failures, as one worker sees them between two looks at the shared state.
//!
//! Workers see their own responses in order, but not each other's. A worker therefore keeps what it takes
//! to append its piece to a longer sequence: how it starts, how it ends, and the worst in between. Counts
//! are exact for one worker; several workers' pieces are joined whole, in the order they arrive.

use super::window::Counts;

/// A piece of a sequence of responses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Streak {
    /// Failures before the first success.
    head: u32,
    /// The most failures in a row.
    longest: u32,
    /// Failures after the last success; with no success, all of them.
    tail: u32,
    /// Whether there was a success.
    broken: bool,
    /// All responses.
    counts: Counts,
}

impl Streak {
    /// Whether nothing was seen.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// How many responses there were.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Appends a response that came, but late: it ends a row of failures.
    pub fn slow(&mut self) {
        self.succeeded();
        self.counts.slow = self.counts.slow.saturating_add(1);
    }

    /// Appends a success.
    pub fn succeeded(&mut self) {
        self.counts.all = self.counts.all.saturating_add(1);
        self.broken = true;
        self.tail = 0;
    }

    /// Appends a failure.
    pub fn failed(&mut self) {
        self.counts.all = self.counts.all.saturating_add(1);
        self.counts.failed = self.counts.failed.saturating_add(1);
        self.tail = self.tail.saturating_add(1);
        self.longest = self.longest.max(self.tail);
        if !self.broken {
            self.head = self.tail;
        }
    }

    /// The most failures in a row, where `before` of them came just before this piece.
    pub fn worst_after(&self, before: u32) -> u32 {
        self.longest.max(before.saturating_add(self.head))
    }

    /// Failures in a row at the end, where `before` of them came just before this piece.
    pub fn tail_after(&self, before: u32) -> u32 {
        if self.broken { self.tail } else { before.saturating_add(self.tail) }
    }
}

#[cfg(test)]
impl Streak {
    /// Of responses in a row: `S` for a success, `L` for one that came late, `F` for a failure.
    pub fn of(responses: &str) -> Self {
        let mut streak = Streak::default();
        for response in responses.chars() {
            match response {
                'S' => streak.succeeded(),
                'L' => streak.slow(),
                _ => streak.failed(),
            }
        }
        streak
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    /// The plain count over the whole sequence: (worst, tail).
    fn count(responses: &str) -> (u32, u32) {
        responses.chars().fold((0, 0), |(worst, tail), response| {
            let tail = if response == 'S' { 0 } else { tail + 1 };
            (worst.max(tail), tail)
        })
    }

    #[test]
    fn pieces_joined_give_the_count_over_the_whole() {
        // Every sequence of up to 8 responses, cut at every place.
        for length in 0..=8u32 {
            for bits in 0..1u32 << length {
                let whole: String = (0..length).map(|i| if bits >> i & 1 == 1 { 'S' } else { 'F' }).collect();
                for cut in 0..=whole.len() {
                    let (first, second) = whole.split_at(cut);
                    let (before_worst, before) = count(first);
                    let joined = Streak::of(second);
                    let worst = before_worst.max(joined.worst_after(before));
                    assert_eq!((worst, joined.tail_after(before)), count(&whole), "{first}|{second}");
                }
            }
        }
    }
}
