//! Rows of failures, as one worker sees them between two looks at the shared state.
//!
//! Workers see their own responses in order, but not each other's. A worker therefore keeps what it takes
//! to append its piece to a longer sequence: how it starts, how it ends, and the worst in between. Counts
//! are exact for one worker; several workers' pieces are joined whole, in the order they arrive.

use super::window::ResponseCounts;
use crate::value::response::{ResponseClass, Sample};
use crate::value::time::Time;

/// A piece of a sequence of responses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Streak {
    /// Failures, save those that are counted apart.
    pub failures: Row,
    /// Requests that got no answer, where they are counted apart.
    pub unanswered: Row,
    /// All responses.
    counts: ResponseCounts,
    /// Until when the failing ones of the last row asked to be left alone.
    retry_at: Option<Time>,
}

/// The failures in a row of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// Before the first success.
    head: u32,
    /// The most of them.
    longest: u32,
    /// After the last success; with no success, all of them.
    tail: u32,
    /// Whether there was a success.
    broken: bool,
}

impl Row {
    fn end(&mut self) {
        self.broken = true;
        self.tail = 0;
    }

    fn extend(&mut self) {
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

impl Streak {
    /// How many responses there were.
    pub fn counts(&self) -> ResponseCounts {
        self.counts
    }

    /// Whether there was an answer that is no failure.
    pub fn is_broken(&self) -> bool {
        self.failures.broken
    }

    /// Until when the failing ones of the last row asked to be left alone.
    pub fn retry_at(&self) -> Option<Time> {
        self.retry_at
    }

    /// Whether one more success would end no row, where so many came just before this piece: of failures, and of
    /// requests without an answer.
    pub fn ignores_success_after(&self, failures: u32, unanswered: u32) -> bool {
        self.failures.tail_after(failures) == 0 && self.unanswered.tail_after(unanswered) == 0
    }

    /// Appends a response. Where `apart`, requests without an answer have a row of their own: any answer ends
    /// that one, a failing one too, and none of them goes into the other.
    pub fn add(&mut self, sample: Sample, apart: bool) {
        if sample.class == ResponseClass::Ignored {
            return;
        }
        self.counts.add(sample.class);
        match sample.class {
            ResponseClass::Unanswered if apart => self.unanswered.extend(),
            ResponseClass::Failure | ResponseClass::Unanswered => {
                self.failures.extend();
                self.unanswered.end();
            }
            // One that came late ends a row as well.
            _ => {
                self.failures.end();
                self.unanswered.end();
                self.retry_at = None;
            }
        }
        if sample.class.is_failure() {
            self.retry_at = self.retry_at.max(sample.retry_at);
        }
    }
}

#[cfg(test)]
impl Streak {
    /// Of responses in a row: `S` for a success, `L` for one that came late, `F` for a failure, `U` for none, which
    /// is counted apart.
    pub fn of(responses: &str) -> Self {
        let mut streak = Streak::default();
        for response in responses.chars() {
            let class = match response {
                'S' => ResponseClass::Success,
                'L' => ResponseClass::Slow,
                'U' => ResponseClass::Unanswered,
                _ => ResponseClass::Failure,
            };
            streak.add(class.into(), true);
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
                    let joined = Streak::of(second).failures;
                    let worst = before_worst.max(joined.worst_after(before));
                    assert_eq!((worst, joined.tail_after(before)), count(&whole), "{first}|{second}");
                }
            }
        }
    }

    #[test]
    fn what_got_no_answer_has_a_row_of_its_own_that_any_answer_ends() {
        let rows = |responses| {
            let streak = Streak::of(responses);
            (streak.failures.worst_after(0), streak.unanswered.worst_after(0))
        };
        assert_eq!(rows("UUU"), (0, 3));
        assert_eq!(rows("UUFUU"), (1, 2));
        assert_eq!(rows("FUFUF"), (3, 1));
        assert_eq!(rows("FULF"), (1, 1));
    }

    #[test]
    fn the_latest_wish_of_a_failing_response_counts() {
        let wish = |class, at| Sample { class, retry_at: Some(Time::from_millis(at)) };
        let mut streak = Streak::default();
        streak.add(wish(ResponseClass::Failure, 9), false);
        streak.add(wish(ResponseClass::Failure, 5), false);
        streak.add(ResponseClass::Failure.into(), false);
        assert_eq!(streak.retry_at(), Some(Time::from_millis(9)));
        streak.add(wish(ResponseClass::Success, 100), false);
        assert_eq!(streak.retry_at(), None);
        streak.add(wish(ResponseClass::Failure, 5), false);
        assert_eq!(streak.retry_at(), Some(Time::from_millis(5)));
    }
}
