//! When a worker reports a response at once, and does not wait for its tick.
//!
//! It reports a failure from the second in a row that it has seen, so that an upstream that is down is found as
//! soon as with one worker. It does so a limited number of times between two ticks, as each report costs every
//! worker a moment. After it has reported failures, it reports the first answer that ends their row.

use crate::value::response::ResponseClass;

/// Limits how often a worker reports responses at once instead of on its tick.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReportThrottle {
    /// Failures in a row.
    row: u32,
    /// Reports at once since the last tick.
    reported: u32,
    /// Whether failures were reported whose end has not been.
    owes_recovery: bool,
}

/// The most reports at once between two ticks.
const MAX_REPORTS: u32 = 8;

impl ReportThrottle {
    /// Takes a tick, on which the worker reports everything.
    pub fn on_tick(&mut self) {
        self.reported = 0;
    }

    /// Whether one more success would change nothing.
    pub fn is_idle(&self) -> bool {
        self.row == 0 && !self.owes_recovery
    }

    /// Takes a response. Returns whether to report it at once.
    pub fn should_report_now(&mut self, class: ResponseClass) -> bool {
        if !class.is_failure() {
            self.row = 0;
            return core::mem::take(&mut self.owes_recovery);
        }
        self.row = self.row.saturating_add(1);
        let now = self.row > 1 && self.reported < MAX_REPORTS;
        self.reported += u32::from(now);
        self.owes_recovery |= now;
        now
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn reports_at_once_from_the_second_failure_in_a_row_on_and_not_for_ever() {
        let mut throttle = ReportThrottle::default();
        let [failure, success] = [ResponseClass::Failure, ResponseClass::Success];
        let reported = [failure, success, failure, failure, failure, success, failure]
            .map(|class| throttle.should_report_now(class));
        assert_eq!(reported, [false, false, false, true, true, true, false]);
        assert!(!throttle.should_report_now(success), "no recovery to report");
        throttle.should_report_now(failure);
        let hurried = (0..100).filter(|_| throttle.should_report_now(ResponseClass::Unanswered)).count();
        assert_eq!(hurried, 6);
        throttle.on_tick();
        assert!(throttle.should_report_now(failure));
    }
}
