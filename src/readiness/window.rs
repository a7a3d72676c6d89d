//! Counts of recent responses, by tenths of a sliding window. Those of failures are exact. A success may stand for others
//! that were not inspected.

use core::time::Duration;

use serde::{Deserialize, Serialize};

use crate::value::response::{ResponseClass, Sample};
use crate::value::time::Time;

/// Counts of responses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResponseCounts {
    /// The number of all responses.
    pub all: u32,
    /// The number of failed responses.
    pub failed: u32,
    /// The number of slow responses, failed or not.
    pub slow: u32,
}

impl ResponseCounts {
    /// Counts one response, unless it is ignored.
    pub fn add(&mut self, sample: Sample) {
        let counts = sample.class != ResponseClass::Ignored;
        self.merge(ResponseCounts {
            all: if counts { sample.stands_for.saturating_add(1) } else { 0 },
            failed: u32::from(sample.class.is_failure()),
            slow: u32::from(counts && sample.slow),
        });
    }

    /// Counts the break-off of a response whose beginning was counted as a success.
    pub fn add_break_off(&mut self) {
        self.failed = self.failed.saturating_add(1);
    }

    /// Adds other responses.
    pub fn merge(&mut self, more: ResponseCounts) {
        self.all = self.all.saturating_add(more.all);
        self.failed = self.failed.saturating_add(more.failed);
        self.slow = self.slow.saturating_add(more.slow);
    }
}

/// The number of parts of a window. The window drops one part at a time, so it covers nine to ten of them.
const PARTS: u32 = 10;

/// The counts of a sliding window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResponseWindow {
    /// The parts, the newest last.
    parts: [ResponseCounts; PARTS as usize],
    /// The time at which the newest part began.
    from: Time,
}

impl ResponseWindow {
    /// Returns an empty window.
    pub fn new(now: Time) -> Self {
        ResponseWindow { parts: [ResponseCounts::default(); PARTS as usize], from: now }
    }

    /// Moves the window to `now` and adds the responses seen since. `span` is the length of the window.
    pub fn add(&mut self, span: Duration, now: Time, seen: ResponseCounts) {
        let part_span = span / PARTS;
        let elapsed = now.since(self.from).as_millis().checked_div(part_span.as_millis()).unwrap_or_default();
        if elapsed >= PARTS.into() || self.from + span <= now {
            *self = ResponseWindow::new(now);
        } else {
            let elapsed = elapsed as u32;
            self.parts.rotate_left(elapsed as usize);
            for reused in self.parts.iter_mut().rev().take(elapsed as usize) {
                *reused = ResponseCounts::default();
            }
            self.from = self.from + part_span * elapsed;
        }
        self.append(seen);
    }

    /// Adds responses to the newest part without moving the window.
    pub fn append(&mut self, seen: ResponseCounts) {
        if let Some(newest) = self.parts.last_mut() {
            newest.merge(seen);
        }
    }

    /// Returns the sum of all parts.
    pub fn counts(&self) -> ResponseCounts {
        let mut sum = ResponseCounts::default();
        for part in &self.parts {
            sum.merge(*part);
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const SPAN: Duration = Duration::from_secs(10);

    fn at(millis: u64) -> Time {
        Time::from_millis(1_000_000 + millis)
    }

    fn all(count: u32) -> ResponseCounts {
        ResponseCounts { all: count, ..ResponseCounts::default() }
    }

    #[test]
    fn a_response_counts_for_each_share_that_it_is_in() {
        let mut counts = ResponseCounts::default();
        for class in [ResponseClass::Success, ResponseClass::Failure, ResponseClass::Ignored] {
            for slow in [false, true] {
                counts.add(Sample { slow, ..class.into() });
            }
        }
        assert_eq!(counts, ResponseCounts { all: 4, failed: 2, slow: 2 });
    }

    #[test]
    fn a_window_counts_the_responses_within_its_span() {
        let mut window = ResponseWindow::new(at(0));
        for second in 0..10 {
            window.add(SPAN, at(second * 1_000 + 999), all(1));
        }
        assert_eq!(window.counts(), all(10));
    }

    #[test]
    fn a_window_drops_a_tenth_at_a_time() {
        let mut window = ResponseWindow::new(at(0));
        window.add(SPAN, at(500), all(5));
        window.add(SPAN, at(9_999), all(1));
        assert_eq!(window.counts(), all(6));
        window.add(SPAN, at(10_000), all(0));
        assert_eq!(window.counts(), all(1));
        window.add(SPAN, at(18_999), all(0));
        assert_eq!(window.counts(), all(1));
        window.add(SPAN, at(19_000), all(0));
        assert_eq!(window.counts(), all(0));
    }

    #[test]
    fn a_window_is_empty_after_an_idle_time() {
        let mut window = ResponseWindow::new(at(0));
        window.add(SPAN, at(0), all(5));
        window.add(SPAN, at(3_600_000), all(1));
        assert_eq!(window.counts(), all(1));
    }
}
