//! Who holds what when: a function of time alone, so that all proxies move at the same instant with no push.

use core::time::Duration;

use super::layout::Layout;
use crate::value::time::{Time, millis};

/// The layouts of a release over time.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Schedule {
    /// Who has everybody until it starts.
    default: usize,
    starts_at: Option<Time>,
    first: Layout,
    steps: Vec<Step>,
}

/// A change of the weights.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WeightChange {
    /// When it begins.
    pub at: Time,
    /// How long it takes, in a straight line.
    pub over: Duration,
    /// The weights at its end, one for each version.
    pub weights: Vec<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Step {
    change: WeightChange,
    /// At its end, laid out from that of the step before.
    layout: Layout,
}

impl Schedule {
    /// From these weights on, with these changes, which are in order and don't overlap. Before `starts_at`
    /// `default` has everybody.
    pub fn new(weights: &[u32], default: usize, starts_at: Option<Time>, changes: Vec<WeightChange>) -> Self {
        let first = Layout::of(weights);
        let mut last = first.clone();
        let steps = changes.into_iter().map(|change| {
            last = last.stepped(&change.weights);
            Step { change, layout: last.clone() }
        });
        let steps = steps.collect();
        Schedule { default, starts_at, first, steps }
    }

    /// The layout at this time.
    pub fn at(&self, now: Time) -> Layout {
        if self.starts_at.is_some_and(|start| now < start) {
            return Layout::whole(self.default);
        }
        let mut before = &self.first;
        for Step { change, layout } in &self.steps {
            if now < change.at {
                break;
            }
            if now < change.at + change.over {
                let shifts = before.shifts(&change.weights);
                return before.shifted(&shifts, millis(now.since(change.at)), millis(change.over));
            }
            before = layout;
        }
        before.clone()
    }

    /// The layout that it begins with, and that at the end of each step.
    pub fn layouts(&self) -> impl Iterator<Item = &Layout> {
        core::iter::once(&self.first).chain(self.steps.iter().map(|step| &step.layout))
    }

    /// How many of its changes have begun by then: the start, if it has one, and the steps.
    pub fn begun(&self, now: Time) -> usize {
        let started = self.starts_at.is_some_and(|start| start <= now);
        usize::from(started) + self.steps.iter().take_while(|step| step.change.at <= now).count()
    }

    /// What the change is called that is number `begun`.
    pub fn name(&self, begun: usize) -> String {
        match begun.checked_sub(usize::from(self.starts_at.is_some())) {
            Some(step @ 1..) => format!("step {step}"),
            _ => "start".to_owned(),
        }
    }

    /// Whether anything of it lies ahead, or is under way.
    pub fn goes_on(&self, now: Time) -> bool {
        let end = self.steps.last().map(|step| step.change.at + step.change.over);
        self.starts_at.max(end).is_some_and(|end| now < end)
    }

    /// Whether it changes at all.
    pub fn changes(&self) -> bool {
        self.starts_at.is_some() || !self.steps.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn at(second: u64) -> Time {
        Time::from_millis(second * 1_000)
    }

    fn change(second: u64, over: u64, weights: &[u32]) -> WeightChange {
        WeightChange { at: at(second), over: Duration::from_secs(over), weights: weights.to_vec() }
    }

    fn shares(schedule: &Schedule, second: u64) -> Vec<u32> {
        schedule.at(at(second)).shares(2)
    }

    #[test]
    fn a_step_is_taken_at_its_time() {
        let schedule = Schedule::new(&[90, 10], 0, None, vec![change(100, 0, &[70, 30])]);
        assert_eq!(shares(&schedule, 99), [9_000, 1_000]);
        assert_eq!(shares(&schedule, 100), [7_000, 3_000]);
        assert_eq!((schedule.begun(at(99)), schedule.begun(at(100))), (0, 1));
        assert!(schedule.goes_on(at(99)) && !schedule.goes_on(at(100)));
    }

    #[test]
    fn a_ramp_goes_in_a_straight_line() {
        let schedule = Schedule::new(&[100, 0], 0, None, vec![change(100, 50, &[0, 100])]);
        let on_v2 = [99, 100, 110, 125, 150, 1_000].map(|second| shares(&schedule, second)[1]);
        assert_eq!(on_v2, [0, 0, 2_000, 5_000, 10_000, 10_000]);
        assert!(schedule.goes_on(at(149)) && !schedule.goes_on(at(150)));
    }

    #[test]
    fn before_it_starts_the_default_version_has_everybody() {
        let schedule = Schedule::new(&[90, 10], 1, Some(at(100)), Vec::new());
        assert_eq!(schedule.at(at(99)), Layout::whole(1));
        assert_eq!(shares(&schedule, 100), [9_000, 1_000]);
        assert!(schedule.goes_on(at(99)) && !schedule.goes_on(at(100)));
    }

    #[test]
    fn steps_build_on_each_other() {
        let changes = vec![change(10, 0, &[60, 30, 10]), change(20, 10, &[40, 30, 30])];
        let schedule = Schedule::new(&[50, 30, 20], 0, None, changes);
        let middle = Layout::of(&[50, 30, 20]).stepped(&[60, 30, 10]);
        assert_eq!(schedule.at(at(15)), middle);
        assert_eq!(schedule.at(at(25)).shares(3), [5_000, 3_000, 2_000]);
        assert_eq!(schedule.at(at(30)), middle.stepped(&[40, 30, 30]));
    }
}
