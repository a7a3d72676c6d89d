//! The fast path: a success that would tell nothing new is not inspected.
//!
//! Most responses are successes of healthy upstreams. Reading which upstream sent a response costs as much as all other
//! work on it. So while every upstream is healthy, a response that is a success for all breakers is not inspected.
//!
//! A success takes the fast path only if it would at most be one more. That is so if no upstream is on trial, has a run of
//! failures, has a share of failed or slow responses that is above a quarter of its limit, or is checked by use. The worker
//! must also have reported the end of every run of failures that it reported.
//!
//! # Shares
//!
//! A share needs the number of all responses. So if a breaker has shares, one of [`EACH`] successes is inspected, picked by
//! chance. It stands for those before it that were not. The estimate favours no upstream. It is made only of successes, and
//! only while there are many: the first [`INSPECTED`] after each tick are inspected. Failed and slow responses are always
//! inspected. So are all others once a share reaches a quarter of its limit. From then on it is exact, save for the
//! successes before.
//!
//! # What else a success tells
//!
//! The next run of failures on this worker begins after it. That matters when the runs of several workers are joined. So
//! the first success of each upstream after a tick is counted, even if its response began before the tick.
//!
//! A later success on the fast path does not end a row that began on another worker in between. The worker learns of
//! the row on its next tick, and reports the next success at once. A row lasts long enough for that. See
//! [`crate::readiness::heard`].
//!
//! The upstream of a response is unknown until it is inspected, so at most [`INSPECTED`] redundant responses between two
//! ticks are inspected. With more upstreams in use, a joined run may count failures from before an uninspected success.

use crate::policy::Policy;
use crate::value::hash;
use crate::value::request::HeaderMap;

/// How redundant one more success is, over all upstreams with a breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redundancy {
    /// An upstream needs each success.
    Needed,
    /// A success of any upstream is at most one more.
    OneMore {
        /// Whether every upstream has had a success since the last tick.
        succeeded: bool,
    },
}

/// What a worker remembers between two responses.
pub struct FastPath {
    /// `None` if it may have changed.
    redundancy: Option<Redundancy>,
    /// The only upstream that has changed since, by its position, if one has.
    changed: Option<usize>,
    /// The upstream for which a success was last not redundant, by its position. It is looked at first.
    blocker: usize,
    /// The number of redundant responses that were inspected since the last tick.
    inspected: u32,
    /// The number of responses that were not inspected since the last tick.
    passed: u32,
    /// The last status that was a success for all breakers. It saves classifying the status again, if the policy judges
    /// by no headers.
    good_status: Option<u16>,
    /// How successes are picked, if a breaker has shares.
    picks: Option<Picks>,
}

/// The successes that are picked for shares.
struct Picks {
    random: u64,
    /// How many successes pass before the next one is picked.
    left: u32,
    /// How many have passed for which none stands.
    passed: u32,
}

/// The maximum number of redundant responses that are inspected between two ticks.
pub const INSPECTED: u32 = 16;

/// While there are many successes, one of this many is inspected for shares.
pub const EACH: u32 = 8;

impl Picks {
    /// Returns whether the next success is picked.
    fn take(&mut self) -> bool {
        let is_picked = self.left == 0;
        self.left = if is_picked { self.next() } else { self.left - 1 };
        is_picked
    }

    /// Returns how many successes pass before the next one is picked, by chance: `EACH - 1` on average.
    fn next(&mut self) -> u32 {
        self.random = hash::pseudo_random(self.random);
        (self.random % u64::from(2 * EACH - 1)) as u32
    }
}

impl FastPath {
    /// Creates the fast path of a worker. `has_shares` tells whether any breaker has shares.
    pub fn new(has_shares: bool, random: u64) -> Self {
        let picks = has_shares.then_some(Picks { random, left: 0, passed: 0 });
        FastPath {
            redundancy: None,
            changed: None,
            blocker: 0,
            inspected: 0,
            passed: 0,
            good_status: None,
            picks,
        }
    }

    /// Returns the redundancy of one more success, if it is remembered, and the upstream that has changed since, if one has.
    pub fn redundancy(&self) -> (Option<Redundancy>, Option<usize>) {
        (self.redundancy, self.changed)
    }

    /// Remembers the redundancy until [`FastPath::forget`].
    pub fn remember(&mut self, redundancy: Redundancy) {
        self.redundancy = Some(redundancy);
        self.changed = None;
    }

    /// Returns the upstream for which a success was last not redundant, by its position in the policy.
    pub fn blocker(&self) -> usize {
        self.blocker
    }

    /// Takes the upstream for which a success is not redundant now.
    pub fn block(&mut self, upstream: usize) {
        self.blocker = upstream;
    }

    /// Forgets the redundancy, because the state of any upstream may have changed.
    pub fn forget(&mut self) {
        self.redundancy = None;
    }

    /// Takes that the state of one upstream may have changed.
    pub fn forget_one(&mut self, upstream: usize) {
        match self.changed {
            Some(other) if other != upstream => self.redundancy = None,
            _ => self.changed = Some(upstream),
        }
    }

    /// Takes a tick, after which redundant responses are inspected again.
    pub fn on_tick(&mut self) {
        self.inspected = 0;
    }

    /// Counts a response that is not inspected.
    pub fn pass(&mut self) {
        match &mut self.picks {
            Some(picks) => picks.passed = picks.passed.saturating_add(1),
            None => self.passed = self.passed.saturating_add(1),
        }
    }

    /// Returns the number of responses that were not inspected since this was last called, without those for which another
    /// stands.
    pub fn take_passed(&mut self) -> u32 {
        core::mem::take(&mut self.passed)
    }

    /// Returns for how many successes before it the one stands that is inspected now.
    pub fn take_group(&mut self) -> u32 {
        self.picks.as_mut().map(|picks| core::mem::take(&mut picks.passed)).unwrap_or_default()
    }

    /// Returns whether a success needs no inspection. If it does need one only to learn its upstream, counts it.
    pub fn may_pass(&mut self, redundancy: Redundancy) -> bool {
        let Redundancy::OneMore { succeeded } = redundancy else {
            return false;
        };
        if self.inspected < INSPECTED && !(succeeded && self.picks.is_none()) {
            self.inspected += 1;
            return false;
        }
        !self.picks.as_mut().is_some_and(Picks::take)
    }

    /// Returns whether the end of a success counts that was not inspected.
    pub fn counts_end(&mut self, redundancy: Redundancy) -> bool {
        match redundancy {
            Redundancy::Needed => true,
            // The next one that is picked stands for it.
            Redundancy::OneMore { .. } => self.picks.is_none() && !self.may_pass(redundancy),
        }
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
