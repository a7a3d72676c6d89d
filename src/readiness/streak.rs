//! The responses that one worker saw since it last updated the shared state.
//!
//! A worker sees its own responses in order, but not those of other workers. A streak is a piece of the longer
//! sequence of all. It has what it takes to append the piece: the rows at its end, and the time of its latest
//! success. A success ends the shared row only if it came after the row began. The success of a worker that shares
//! it late would otherwise hide the beginning of an outage.

use super::heard::SuccessSample;
use super::row::{Row, RowFailure};
use super::window::ResponseCounts;
use crate::value::response::{ResponseClass, Sample};
use crate::value::time::Time;

/// The responses that one worker saw, as a piece of a longer sequence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Streak {
    /// Failures, without those that are counted apart.
    pub failures: Run,
    /// Requests without a response, if they are counted apart.
    pub unanswered: Run,
    /// Responses that began well and broke off.
    pub broken_off: Run,
    /// A sample of its successes, if one is due.
    pub heard: Option<SuccessSample>,
    counts: ResponseCounts,
    /// Whether there was a success.
    has_success: bool,
}

/// A row at the end of a streak, and what ended the row before it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Run {
    row: Row,
    /// The time of the latest response that ended a row.
    ended: Option<Time>,
}

impl Run {
    fn end(&mut self, now: Time) {
        self.row = Row::default();
        self.ended = Some(now);
    }

    /// Returns the row at the end, if `before` was the row just before this piece.
    pub fn joined_to(&self, before: &Row) -> Row {
        let ends_before = self.ended.is_some_and(|ended| before.is_empty() || ended >= before.first);
        let mut joined = if ends_before { Row::default() } else { before.clone() };
        joined.append(&self.row);
        joined
    }
}

impl Streak {
    /// Returns the counts of all responses.
    pub fn counts(&self) -> ResponseCounts {
        self.counts
    }

    /// Returns whether there was a success.
    pub fn has_success(&self) -> bool {
        self.has_success
    }

    /// Returns whether no row is left at its end.
    pub fn ends_well(&self) -> bool {
        [&self.failures, &self.unanswered, &self.broken_off].iter().all(|run| run.row.is_empty())
    }

    /// Returns whether the last responses broke off.
    pub fn has_break_off(&self) -> bool {
        !self.broken_off.row.is_empty()
    }

    /// Appends the beginning of a response, or its absence. Returns whether it is a failure that is an incident of its
    /// own.
    ///
    /// If `unanswered_apart`, requests without a response form a separate row. They do not extend the row of
    /// failures. Any response ends their row, also a failure.
    pub fn add(&mut self, sample: Sample, failure: RowFailure, unanswered_apart: bool) -> bool {
        if sample.class == ResponseClass::Ignored {
            return false;
        }
        self.counts.add(sample);
        match sample.class {
            ResponseClass::Unanswered if unanswered_apart => self.unanswered.row.add(failure),
            ResponseClass::Failure | ResponseClass::Unanswered => {
                self.unanswered.end(failure.at);
                self.failures.row.add(failure)
            }
            // A slow response ends a row as well.
            ResponseClass::Success | ResponseClass::Ignored => {
                self.has_success = true;
                self.failures.end(failure.at);
                self.unanswered.end(failure.at);
                self.broken_off.row.on_begun();
                false
            }
        }
    }

    /// Appends the end of a response that began as a success.
    pub fn complete(&mut self, now: Time) {
        self.broken_off.end(now);
    }

    /// Appends the break-off of a response that began as a success. Returns whether it is an incident of its own.
    pub fn break_off(&mut self, failure: RowFailure) -> bool {
        self.counts.add_break_off();
        self.broken_off.row.add(failure)
    }
}

#[cfg(test)]
impl Streak {
    /// Returns the streak of these responses at `now`, each to a request that was sent after the response before. `S` is
    /// a success, `L` a slow one, `F` a failure, `X` a slow one. `U` is a missing one, which is counted apart.
    pub fn of(responses: &str, now: Time) -> Self {
        let mut streak = Streak::default();
        for response in responses.chars() {
            let class = match response {
                'S' | 'L' => ResponseClass::Success,
                'U' => ResponseClass::Unanswered,
                _ => ResponseClass::Failure,
            };
            let sample = Sample { slow: "LX".contains(response), ..class.into() };
            streak.add(sample, RowFailure::of(sample, now), true);
        }
        streak
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const NOW: Time = Time::from_millis(100_000);

    /// Returns the number of failures at the end of the sequence.
    fn count(responses: &str) -> u32 {
        responses.chars().fold(0, |tail, response| if response == 'S' { 0 } else { tail + 1 })
    }

    #[test]
    fn joined_pieces_count_the_same_as_the_whole_sequence() {
        // Every sequence of up to 8 responses, cut at every position.
        for length in 0..=8u32 {
            for bits in 0..1u32 << length {
                let whole: String = (0..length).map(|i| if bits >> i & 1 == 1 { 'S' } else { 'F' }).collect();
                for cut in 0..=whole.len() {
                    let (first, second) = whole.split_at(cut);
                    let before = Streak::of(first, NOW).failures.joined_to(&Row::default());
                    let joined = Streak::of(second, NOW).failures.joined_to(&before);
                    assert_eq!(joined.incidents, count(&whole), "{first}|{second}");
                }
            }
        }
    }

    #[test]
    fn missing_responses_form_a_separate_row_that_any_response_ends() {
        let rows = |responses| {
            let streak = Streak::of(responses, NOW);
            let joined = |run: &Run| run.joined_to(&Row::default()).incidents;
            (joined(&streak.failures), joined(&streak.unanswered))
        };
        assert_eq!(rows("UUU"), (0, 3));
        assert_eq!(rows("UUFUU"), (1, 2));
        assert_eq!(rows("FUFUF"), (3, 0));
        assert_eq!(rows("FULF"), (1, 0));
        assert_eq!(rows("FXXL"), (0, 0));
    }

    #[test]
    fn a_success_from_before_a_row_does_not_end_it() {
        let later = NOW + core::time::Duration::from_millis(100);
        let row = Streak::of("FF", later).failures.joined_to(&Row::default());
        assert_eq!(Streak::of("S", NOW).failures.joined_to(&row).incidents, 2);
        assert_eq!(Streak::of("S", later).failures.joined_to(&row).incidents, 0);
    }

    #[test]
    fn break_offs_form_a_row_that_a_response_that_ends_well_ends() {
        let failure = RowFailure::of(ResponseClass::Unanswered.into(), NOW);
        let begin = |streak: &mut Streak| streak.add(ResponseClass::Success.into(), failure, false);
        let mut streak = Streak::default();
        for incidents in 1..=3 {
            begin(&mut streak);
            streak.break_off(failure);
            assert_eq!(streak.broken_off.joined_to(&Row::default()).incidents, incidents);
        }
        begin(&mut streak);
        assert!(streak.has_break_off());
        streak.complete(NOW);
        assert!(!streak.has_break_off());
        assert_eq!((streak.counts().all, streak.counts().failed), (4, 3));
    }
}
