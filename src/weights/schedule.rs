//! Gives the layout of a release at each time.
//!
//! A schedule is a function of time alone. All proxies therefore take a step at the same moment, without a
//! push.

use core::time::Duration;

use super::layout::Layout;
use crate::value::date::Date;
use crate::value::time::millis;

/// The layouts of a release over time.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Schedule {
    /// The version that holds every bucket until the start.
    default: usize,
    starts_at: Option<Date>,
    /// The weights before the first step.
    weights: Vec<u32>,
    first: Layout,
    steps: Vec<Step>,
}

/// A change of the weights.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WeightChange {
    /// The date on which it begins.
    pub at: Date,
    /// The time it takes, in a straight line.
    pub over: Duration,
    /// The weights at its end, one for each version.
    pub weights: Vec<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Step {
    change: WeightChange,
    /// The layout at its end, computed from the layout before the step.
    layout: Layout,
}

impl Schedule {
    /// Creates a schedule that begins with these weights and makes these changes.
    ///
    /// The changes must be in order and must not overlap. Before `starts_at`, the version `default` holds
    /// every bucket.
    pub fn new(weights: &[u32], default: usize, starts_at: Option<Date>, changes: Vec<WeightChange>) -> Self {
        let first = Layout::of(weights, default);
        let mut last = first.clone();
        let mut steps = Vec::with_capacity(changes.len());
        for change in changes {
            last = last.stepped(&change.weights, default);
            steps.push(Step { change, layout: last.clone() });
        }
        Schedule { default, starts_at, weights: weights.to_vec(), first, steps }
    }

    /// Returns the layout on this date.
    pub fn at(&self, date: Date) -> Layout {
        if self.starts_at.is_some_and(|start| date < start) {
            return Layout::whole(self.default);
        }
        let mut before = &self.first;
        for Step { change, layout } in &self.steps {
            if date < change.at {
                break;
            }
            if date < change.at + change.over {
                let shifts = before.shifts(&change.weights, self.default);
                return before.shifted(&shifts, millis(date.since(change.at)), millis(change.over));
            }
            before = layout;
        }
        before.clone()
    }

    /// Returns the weights in force on this date, or `None` before the start and during a change that takes time.
    pub fn weights_at(&self, date: Date) -> Option<&[u32]> {
        if self.starts_at.is_some_and(|start| date < start) {
            return None;
        }
        match self.steps.iter().rev().find(|step| step.change.at <= date) {
            Some(Step { change, .. }) if date < change.at + change.over => None,
            Some(Step { change, .. }) => Some(&change.weights),
            None => Some(&self.weights),
        }
    }

    /// Returns the layout before the first change.
    pub fn first(&self) -> &Layout {
        &self.first
    }

    /// Returns each change with the layout at its end.
    pub fn steps(&self) -> impl Iterator<Item = (&WeightChange, &Layout)> {
        self.steps.iter().map(|step| (&step.change, &step.layout))
    }

    /// Returns the dates on which the layout comes to rest: the start, and the end of each step.
    pub fn rests(&self) -> impl Iterator<Item = Date> {
        let ends = self.steps.iter().map(|step| step.change.at + step.change.over);
        self.starts_at.into_iter().chain(ends)
    }

    /// Returns the number of changes that have begun by then. The start counts as a change if there is one.
    pub fn steps_begun(&self, date: Date) -> usize {
        let started = self.starts_at.is_some_and(|start| start <= date);
        usize::from(started) + self.steps.iter().take_while(|step| step.change.at <= date).count()
    }

    /// Returns the name of the change that `begun` counted last.
    pub fn name(&self, begun: usize) -> String {
        match begun.checked_sub(usize::from(self.starts_at.is_some())) {
            Some(step @ 1..) => format!("step {step}"),
            _ => "start".to_owned(),
        }
    }

    /// Returns whether a change is under way or still to come.
    pub fn has_pending_changes(&self, date: Date) -> bool {
        let end = self.steps.last().map(|step| step.change.at + step.change.over);
        self.starts_at.max(end).is_some_and(|end| date < end)
    }

    /// Returns the number of weights in all steps together.
    pub fn weights(&self) -> usize {
        self.steps.iter().map(|step| step.change.weights.len()).sum()
    }

    /// Returns whether the layout ever changes.
    pub fn changes(&self) -> bool {
        self.starts_at.is_some() || !self.steps.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn at(second: u64) -> Date {
        Date::from_millis(second * 1_000)
    }

    fn change(second: u64, over: u64, weights: &[u32]) -> WeightChange {
        WeightChange { at: at(second), over: Duration::from_secs(over), weights: weights.to_vec() }
    }

    fn shares(schedule: &Schedule, second: u64) -> Vec<u32> {
        schedule.at(at(second)).shares(2)
    }

    #[test]
    fn a_step_takes_effect_at_its_time() {
        let schedule = Schedule::new(&[90, 10], 0, None, vec![change(100, 0, &[70, 30])]);
        assert_eq!(shares(&schedule, 99), [9_000, 1_000]);
        assert_eq!(shares(&schedule, 100), [7_000, 3_000]);
        assert_eq!((schedule.steps_begun(at(99)), schedule.steps_begun(at(100))), (0, 1));
        assert!(schedule.has_pending_changes(at(99)) && !schedule.has_pending_changes(at(100)));
    }

    #[test]
    fn a_ramp_rises_in_a_straight_line() {
        let schedule = Schedule::new(&[100, 0], 0, None, vec![change(100, 50, &[0, 100])]);
        let on_v2 = [99, 100, 110, 125, 150, 1_000].map(|second| shares(&schedule, second)[1]);
        assert_eq!(on_v2, [0, 0, 2_000, 5_000, 10_000, 10_000]);
        assert!(schedule.has_pending_changes(at(149)) && !schedule.has_pending_changes(at(150)));
    }

    #[test]
    fn weights_are_in_force_between_changes() {
        let changes = vec![change(100, 0, &[70, 30]), change(200, 50, &[0, 100])];
        let schedule = Schedule::new(&[90, 10], 0, Some(at(50)), changes);
        let in_force = [49, 50, 99, 100, 199, 200, 249, 250].map(|second| schedule.weights_at(at(second)));
        let [first, second, third] = [[90, 10], [70, 30], [0, 100]];
        let expected = [None, Some(first), Some(first), Some(second), Some(second), None, None, Some(third)];
        assert_eq!(
            in_force.map(|weights| weights.map(<[u32]>::to_vec)),
            expected.map(|weights| weights.map(|weights| weights.to_vec()))
        );
    }

    #[test]
    fn before_the_start_the_default_version_holds_every_bucket() {
        let schedule = Schedule::new(&[90, 10], 1, Some(at(100)), Vec::new());
        assert_eq!(schedule.at(at(99)), Layout::whole(1));
        assert_eq!(shares(&schedule, 100), [9_000, 1_000]);
        assert!(schedule.has_pending_changes(at(99)) && !schedule.has_pending_changes(at(100)));
    }

    #[test]
    fn each_step_starts_from_the_layout_before_it() {
        let changes = vec![change(10, 0, &[60, 30, 10]), change(20, 10, &[40, 30, 30])];
        let schedule = Schedule::new(&[50, 30, 20], 0, None, changes);
        let middle = Layout::of(&[50, 30, 20], 0).stepped(&[60, 30, 10], 0);
        assert_eq!(schedule.at(at(15)), middle);
        assert_eq!(schedule.at(at(25)).shares(3), [5_000, 3_000, 2_000]);
        assert_eq!(schedule.at(at(30)), middle.stepped(&[40, 30, 30], 0));
    }
}
