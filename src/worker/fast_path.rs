//! The fast path: a success that would tell nothing new is not inspected.
//!
//! Most responses are successes of healthy upstreams. Reading which upstream sent a response costs as much as all other
//! work on it. So while every upstream is healthy, a response that is a success for all breakers is not inspected.
//!
//! A success takes the fast path only if it would change no outcome of this worker. That is so if no upstream is on
//! trial, has a run of failures, is judged by shares, or is checked by use. The worker must also have reported the end
//! of every run of failures that it reported.
//!
//! Even then a success tells that the next run of failures on this worker begins after it. That matters when the runs
//! of several workers are joined. So the first success of each upstream after a tick is counted, even if its response began
//! before the tick.
//!
//! A later success on the fast path does not end a row that began on another worker in between. The worker learns of
//! the row on its next tick, and reports the next success at once. A row lasts long enough for that. See
//! [`crate::readiness::heard`].
//!
//! The upstream of a response is unknown until it is inspected, so at most [`INSPECTED`] redundant responses between two
//! ticks are inspected. With more upstreams in use, a joined run may count failures from before an uninspected success.

use crate::policy::Policy;
use crate::value::request::HeaderMap;

/// How redundant one more success is, over all upstreams with a breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Redundancy {
    /// Whether a success of any upstream tells at most that the upstream had one.
    pub of_all: bool,
    /// Whether every upstream has had a success since the last tick.
    pub succeeded: bool,
}

/// What a worker remembers between two responses.
#[derive(Default)]
pub struct FastPath {
    /// `None` if it may have changed.
    redundancy: Option<Redundancy>,
    /// The upstream for which a success was last not redundant, by its position. It is looked at first.
    blocker: usize,
    /// The number of redundant responses that were inspected since the last tick.
    inspected: u32,
    /// The number of responses that were not inspected since the last tick.
    passed: u32,
    /// The last status that was a success for all breakers. It saves classifying the status again, if the policy judges
    /// by no headers.
    good_status: Option<u16>,
}

/// The maximum number of redundant responses that are inspected between two ticks.
pub const INSPECTED: u32 = 16;

impl FastPath {
    /// Returns the redundancy of one more success, if it is remembered.
    pub fn redundancy(&self) -> Option<Redundancy> {
        self.redundancy
    }

    /// Remembers the redundancy until [`FastPath::forget`].
    pub fn remember(&mut self, redundancy: Redundancy) {
        self.redundancy = Some(redundancy);
    }

    /// Returns the upstream for which a success was last not redundant, by its position in the policy.
    pub fn blocker(&self) -> usize {
        self.blocker
    }

    /// Takes the upstream for which a success is not redundant now.
    pub fn block(&mut self, upstream: usize) {
        self.blocker = upstream;
    }

    /// Forgets the redundancy, because an upstream's state may have changed.
    pub fn forget(&mut self) {
        self.redundancy = None;
    }

    /// Takes a tick, after which redundant responses are inspected again.
    pub fn on_tick(&mut self) {
        self.inspected = 0;
    }

    /// Counts a response that is not inspected.
    pub fn pass(&mut self) {
        self.passed = self.passed.saturating_add(1);
    }

    /// Returns the number of responses that were not inspected since this was last called.
    pub fn take_passed(&mut self) -> u32 {
        core::mem::take(&mut self.passed)
    }

    /// Returns whether the next response needs no inspection if it is a success. If it does need one only to learn its
    /// upstream, counts it.
    pub fn may_pass(&mut self, redundancy: Redundancy) -> bool {
        let enough = redundancy.succeeded || self.inspected >= INSPECTED;
        self.inspected += u32::from(redundancy.of_all && !enough);
        redundancy.of_all && enough
    }

    /// Returns whether a response with this status is a success for all breakers. `headers` are its headers, or `None`
    /// if the policy judges by none.
    pub fn is_success(&mut self, policy: &Policy, status: u16, headers: Option<HeaderMap<'_>>) -> bool {
        let known = headers.is_none() && self.good_status == Some(status);
        let headers = headers.unwrap_or_default();
        let good = known || policy.breakers().all(|breaker| breaker.classifier().is_success(status, headers));
        if good {
            self.good_status = Some(status);
        }
        good
    }
}
