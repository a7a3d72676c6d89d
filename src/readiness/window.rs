//! How many responses there were lately, and how many of them were bad: exact counts, by tenths of the window.

use core::time::Duration;

use serde::{Deserialize, Serialize};

use crate::value::response::ResponseClass;
use crate::value::time::Time;

/// So many responses, and so many failed and slow ones among them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResponseCounts {
    /// All.
    pub all: u32,
    /// The failed ones.
    pub failed: u32,
    /// The slow ones that did not fail.
    pub slow: u32,
}

impl ResponseCounts {
    /// Counts one more, unless it says nothing.
    pub fn add(&mut self, class: ResponseClass) {
        let one = |counts: bool| u32::from(counts);
        self.join(ResponseCounts {
            all: one(class != ResponseClass::Ignored),
            failed: one(class.is_failure()),
            slow: one(class == ResponseClass::Slow),
        });
    }

    fn join(&mut self, more: ResponseCounts) {
        self.all = self.all.saturating_add(more.all);
        self.failed = self.failed.saturating_add(more.failed);
        self.slow = self.slow.saturating_add(more.slow);
    }
}

/// Into how many parts a window is divided. It forgets one at a time, so it reaches back by nine of them to ten.
const PARTS: u32 = 10;

/// The counts of the last while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResponseWindow {
    /// The newest last.
    parts: [ResponseCounts; PARTS as usize],
    /// When the newest began.
    from: Time,
}

impl ResponseWindow {
    /// An empty window.
    pub fn new(now: Time) -> Self {
        ResponseWindow { parts: [ResponseCounts::default(); PARTS as usize], from: now }
    }

    /// Moves on to `now`, and adds what was seen since. `span` is how far the window reaches back.
    pub fn add(&mut self, span: Duration, now: Time, seen: ResponseCounts) {
        let part = span / PARTS;
        let passed = now.since(self.from).as_millis().checked_div(part.as_millis()).unwrap_or_default();
        // A clock that was set back would hold the window still.
        if passed >= PARTS.into() || now.is_due(self.from, self.from + span) {
            *self = ResponseWindow::new(now);
        } else {
            let passed = passed as u32;
            self.parts.rotate_left(passed as usize);
            for gone in self.parts.iter_mut().rev().take(passed as usize) {
                *gone = ResponseCounts::default();
            }
            self.from = self.from + part * passed;
        }
        self.append(seen);
    }

    /// Adds what was seen to its newest part, and leaves it where it stands.
    pub fn append(&mut self, seen: ResponseCounts) {
        if let Some(newest) = self.parts.last_mut() {
            newest.join(seen);
        }
    }

    /// All that is in it.
    pub fn counts(&self) -> ResponseCounts {
        let mut sum = ResponseCounts::default();
        for part in &self.parts {
            sum.join(*part);
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
    fn counts_what_was_seen_within_its_span() {
        let mut window = ResponseWindow::new(at(0));
        for second in 0..10 {
            window.add(SPAN, at(second * 1_000 + 999), all(1));
        }
        assert_eq!(window.counts(), all(10));
    }

    #[test]
    fn forgets_by_tenths() {
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
    fn is_empty_after_a_time_with_nothing() {
        let mut window = ResponseWindow::new(at(0));
        window.add(SPAN, at(0), all(5));
        window.add(SPAN, at(3_600_000), all(1));
        assert_eq!(window.counts(), all(1));
    }

    #[test]
    fn begins_anew_when_the_clock_was_set_back() {
        let mut window = ResponseWindow::new(at(0));
        window.add(SPAN, at(0), all(5));
        window.add(SPAN, Time::from_millis(0), all(1));
        assert_eq!(window.counts(), all(1));
        window.add(SPAN, Time::from_millis(12_000), all(0));
        assert_eq!(window.counts(), all(0));
    }
}
