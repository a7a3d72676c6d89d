//! Runs of consecutive failures in the responses that one worker saw since it last updated the shared state.
//!
//! A worker sees its own responses in order, but not those of other workers. It therefore keeps what it needs
//! to append its piece to a longer sequence. That is the first run, the last run and the longest run. Counts
//! are exact for one worker. Pieces of several workers are joined whole, in the order in which they arrive.

use super::window::ResponseCounts;
use crate::value::response::{ResponseClass, Sample};
use crate::value::time::Time;

/// The responses that one worker saw, as a piece of a longer sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Streak {
    /// Failures, without those that are counted apart.
    pub failures: FailureRuns,
    /// Requests without a response, if they are counted apart.
    pub unanswered: FailureRuns,
    counts: ResponseCounts,
    /// The end of the backoff that the failures of the last run asked for.
    retry_at: Option<Time>,
}

/// The runs of consecutive failures of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FailureRuns {
    /// The failures before the first success.
    head: u32,
    longest: u32,
    /// The failures after the last success. Without a success, all of them.
    tail: u32,
    /// Whether there was a success.
    broken: bool,
}

impl FailureRuns {
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

    /// Returns the longest run of failures, if `before` failures came just before this piece.
    pub fn longest_after(&self, before: u32) -> u32 {
        self.longest.max(before.saturating_add(self.head))
    }

    /// Returns the run of failures at the end, if `before` failures came just before this piece.
    pub fn tail_after(&self, before: u32) -> u32 {
        if self.broken { self.tail } else { before.saturating_add(self.tail) }
    }
}

impl Streak {
    /// Returns the counts of all responses.
    pub fn counts(&self) -> ResponseCounts {
        self.counts
    }

    /// Returns whether a response was no failure.
    pub fn is_broken(&self) -> bool {
        self.failures.broken
    }

    /// Returns the end of the backoff that the failures of the last run asked for.
    pub fn retry_at(&self) -> Option<Time> {
        self.retry_at
    }

    /// Returns whether one more success would end no run. `failures` and `unanswered` are the runs just
    /// before this piece.
    pub fn ignores_success_after(&self, failures: u32, unanswered: u32) -> bool {
        self.failures.tail_after(failures) == 0 && self.unanswered.tail_after(unanswered) == 0
    }

    /// Appends a response.
    ///
    /// If `unanswered_apart`, requests without a response form a separate run. They do not extend the run of
    /// failures. Any response ends their run, also a failure.
    pub fn add(&mut self, sample: Sample, unanswered_apart: bool) {
        if sample.class == ResponseClass::Ignored {
            return;
        }
        self.counts.add(sample);
        match sample.class {
            ResponseClass::Unanswered if unanswered_apart => self.unanswered.extend(),
            ResponseClass::Failure | ResponseClass::Unanswered => {
                self.failures.extend();
                self.unanswered.end();
            }
            // A slow success ends a run as well.
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
    /// Returns the streak of these responses. `S` is a success, `L` a slow one, `F` a failure, `X` a slow one.
    /// `U` is a missing one, which is counted apart.
    pub fn of(responses: &str) -> Self {
        let mut streak = Streak::default();
        for response in responses.chars() {
            let class = match response {
                'S' | 'L' => ResponseClass::Success,
                'U' => ResponseClass::Unanswered,
                _ => ResponseClass::Failure,
            };
            streak.add(Sample { slow: "LX".contains(response), ..class.into() }, true);
        }
        streak
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    /// Counts over the whole sequence, and returns the longest run and the last one.
    fn count(responses: &str) -> (u32, u32) {
        responses.chars().fold((0, 0), |(longest, tail), response| {
            let tail = if response == 'S' { 0 } else { tail + 1 };
            (longest.max(tail), tail)
        })
    }

    #[test]
    fn joined_pieces_count_the_same_as_the_whole_sequence() {
        // Every sequence of up to 8 responses, cut at every position.
        for length in 0..=8u32 {
            for bits in 0..1u32 << length {
                let whole: String = (0..length).map(|i| if bits >> i & 1 == 1 { 'S' } else { 'F' }).collect();
                for cut in 0..=whole.len() {
                    let (first, second) = whole.split_at(cut);
                    let (before_longest, before) = count(first);
                    let joined = Streak::of(second).failures;
                    let longest = before_longest.max(joined.longest_after(before));
                    assert_eq!((longest, joined.tail_after(before)), count(&whole), "{first}|{second}");
                }
            }
        }
    }

    #[test]
    fn missing_responses_form_a_separate_run_that_any_response_ends() {
        let runs = |responses| {
            let streak = Streak::of(responses);
            (streak.failures.longest_after(0), streak.unanswered.longest_after(0))
        };
        assert_eq!(runs("UUU"), (0, 3));
        assert_eq!(runs("UUFUU"), (1, 2));
        assert_eq!(runs("FUFUF"), (3, 1));
        assert_eq!(runs("FULF"), (1, 1));
        assert_eq!(runs("FXXL"), (3, 0));
    }

    #[test]
    fn the_latest_backoff_of_the_last_run_counts() {
        let with_backoff =
            |class, at| Sample { retry_at: Some(Time::from_millis(at)), ..Sample::from(class) };
        let mut streak = Streak::default();
        streak.add(with_backoff(ResponseClass::Failure, 9), false);
        streak.add(with_backoff(ResponseClass::Failure, 5), false);
        streak.add(ResponseClass::Failure.into(), false);
        assert_eq!(streak.retry_at(), Some(Time::from_millis(9)));
        streak.add(with_backoff(ResponseClass::Success, 100), false);
        assert_eq!(streak.retry_at(), None);
        streak.add(with_backoff(ResponseClass::Failure, 5), false);
        assert_eq!(streak.retry_at(), Some(Time::from_millis(5)));
    }
}
