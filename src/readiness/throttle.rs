//! Decides when a worker reports a response at once instead of on its tick.
//!
//! A worker reports failures from the second in a row that it sees. An upstream that is down is then found as
//! soon as with one worker. The number of reports between two ticks is limited, because each report costs
//! every worker some time. After a worker has reported failures, it reports the first response that ends
//! their run.

use crate::value::response::ResponseClass;

/// Limits how often a worker reports responses at once instead of on its tick.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReportThrottle {
    /// The number of failures in a row.
    failures: u32,
    /// The number of reports at once since the last tick.
    reported: u32,
    /// Whether the worker has reported failures but not their end.
    owes_recovery: bool,
}

/// The maximum number of reports at once between two ticks.
const MAX_REPORTS: u32 = 8;

impl ReportThrottle {
    /// Takes a tick, on which the worker reports everything.
    pub fn on_tick(&mut self) {
        self.reported = 0;
    }

    /// Returns whether one more success would change nothing.
    pub fn is_idle(&self) -> bool {
        self.failures == 0 && !self.owes_recovery
    }

    /// Takes a response. Returns whether to report it at once.
    pub fn should_report_now(&mut self, class: ResponseClass) -> bool {
        if !class.is_failure() {
            self.failures = 0;
            return core::mem::take(&mut self.owes_recovery);
        }
        self.failures = self.failures.saturating_add(1);
        let report = self.failures > 1 && self.reported < MAX_REPORTS;
        self.reported += u32::from(report);
        self.owes_recovery |= report;
        report
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn reports_at_once_from_the_second_consecutive_failure_on_up_to_a_limit() {
        let mut throttle = ReportThrottle::default();
        let [failure, success] = [ResponseClass::Failure, ResponseClass::Success];
        let reported = [failure, success, failure, failure, failure, success, failure]
            .map(|class| throttle.should_report_now(class));
        assert_eq!(reported, [false, false, false, true, true, true, false]);
        assert!(!throttle.should_report_now(success), "no recovery to report");
        throttle.should_report_now(failure);
        let reports = (0..100).filter(|_| throttle.should_report_now(ResponseClass::Unanswered)).count();
        assert_eq!(reports, 6);
        throttle.on_tick();
        assert!(throttle.should_report_now(failure));
    }
}
