//! The fast path of a response: whether a success may be left uninspected, as it would tell nothing new.
//!
//! Most responses are successes of upstreams that are known to be well. To ask where each came from costs as much as all
//! else that is done for it. So while every upstream is known to be well, one that is a success by the words of all
//! breakers is not asked for more.
//!
//! A success that is passed over would have changed no outcome of this worker: no upstream is on trial, in a row of
//! failures, judged by shares, checked by how much it is used, or owed the end of a row. What it tells even then is that
//! the rows of this worker begin after it, which matters where another worker's rows are joined with them. So each
//! upstream's first success after a tick is counted, whether it began before the tick or after it. Whose response it is,
//! is not known before it is inspected, so at most [`INSPECTED`] redundant ones are. With more upstreams in use than that,
//! a row over several workers may come out longer by what was not told.

use core::time::Duration;

use crate::policy::Policy;

/// What one more success would tell of the upstreams that are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Redundancy {
    /// Nothing of any, but that it has had one.
    pub of_all: bool,
    /// Each has had one since the last tick.
    pub succeeded: bool,
}

/// What is remembered between two responses.
#[derive(Default)]
pub struct FastPath {
    /// Nothing if it may have changed.
    redundancy: Option<Redundancy>,
    /// Responses since the last tick that were inspected though they were redundant.
    inspected: u32,
    /// The latest status that was found to be a success by the words of all breakers.
    good_status: Option<u16>,
}

/// The most redundant responses between two ticks that are inspected.
pub const INSPECTED: u32 = 16;

impl FastPath {
    /// Returns what one more success would tell, if that is remembered.
    pub fn redundancy(&self) -> Option<Redundancy> {
        self.redundancy
    }

    /// Remembers what one more success would tell, until anything changes.
    pub fn remember(&mut self, redundancy: Redundancy) {
        self.redundancy = Some(redundancy);
    }

    /// Forgets it, as something has changed.
    pub fn forget(&mut self) {
        self.redundancy = None;
    }

    /// Begins to inspect responses again.
    pub fn on_tick(&mut self) {
        self.inspected = 0;
    }

    /// Returns whether the next response need not be inspected if it is a success.
    pub fn may_pass(&mut self, redundancy: Redundancy) -> bool {
        let enough = redundancy.succeeded || self.inspected >= INSPECTED;
        self.inspected += u32::from(redundancy.of_all && !enough);
        redundancy.of_all && enough
    }

    /// Returns whether a response that begins with this status after so long is a success by the words of all breakers.
    pub fn is_success(&mut self, policy: &Policy, status: u16, took: Option<Duration>) -> bool {
        let good = self.good_status == Some(status)
            || policy.breakers().all(|breaker| breaker.classifier().is_success(status));
        if good {
            self.good_status = Some(status);
        }
        let slow = |took| policy.breakers().any(|breaker| breaker.is_slow(took));
        good && !took.is_some_and(slow)
    }
}
