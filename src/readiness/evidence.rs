//! The evidence about an upstream from its responses, and the rules by which it makes the upstream NotReady.
//!
//! A row counts if it is long enough and says something about the upstream. See [`HeardSuccesses::allow`] for the
//! rules about hosts, clients and time. A share counts by the policy's own numbers.

use serde::{Deserialize, Serialize};

use super::check::CheckHistory;
use super::heard::HeardSuccesses;
use super::reason::{Share, UpstreamReason};
use super::row::{ENOUGH_CLIENTS, Row};
use super::streak::Streak;
use super::window::{ResponseCounts, ResponseWindow};
use crate::policy::upstream::{Breaker, Shares, Upstream};
use crate::value::time::Time;

/// The responses in the current phase of an upstream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// The failures since the last success.
    pub failures: Row,
    /// The requests without a response since the last response, if they have a threshold of their own.
    pub unanswered: Row,
    /// The responses that broke off since the last one that ended well.
    pub broken_off: Row,
    /// The counts for shares.
    pub window: ResponseWindow,
}

impl Evidence {
    /// Returns no evidence.
    pub fn new(now: Time) -> Self {
        Evidence {
            failures: Row::default(),
            unanswered: Row::default(),
            broken_off: Row::default(),
            window: ResponseWindow::new(now),
        }
    }

    /// Returns whether the responses that came last were failures.
    pub fn has_row(&self) -> bool {
        !(self.failures.is_empty() && self.unanswered.is_empty() && self.broken_off.is_empty())
    }

    /// Returns the evidence with the responses of one worker added, and the window moved to `now`.
    pub fn with(&self, breaker: &Breaker, now: Time, streak: &Streak) -> Self {
        let mut evidence = self.clone();
        if let Some(shares) = &breaker.shares {
            evidence.window.add(shares.window, now, streak.counts());
        }
        evidence.extend_rows(streak);
        evidence
    }

    /// Returns whether each success counts, because a share is not far from its limit. `streak` is what one worker has not
    /// shared.
    pub fn needs_exact_shares(&self, breaker: &Breaker, streak: &Streak) -> bool {
        breaker.shares.as_ref().is_some_and(|shares| {
            let mut counts = self.window.counts();
            counts.merge(streak.counts());
            !are_far(shares, counts)
        })
    }

    /// Adds the responses of one worker without moving the window.
    pub fn append(&mut self, streak: &Streak) {
        self.window.append(streak.counts());
        self.extend_rows(streak);
    }

    fn extend_rows(&mut self, streak: &Streak) {
        self.failures = streak.failures.joined_to(&self.failures);
        self.unanswered = streak.unanswered.joined_to(&self.unanswered);
        self.broken_off = streak.broken_off.joined_to(&self.broken_off);
    }

    /// Returns the reason to trip, if there is one. `new` has the counts that the evidence did not have before.
    pub fn reason_to_trip(
        &self,
        (upstream, breaker): (&Upstream, &Breaker),
        checks: &CheckHistory,
        heard: &HeardSuccesses,
        now: Time,
        new: ResponseCounts,
    ) -> Option<UpstreamReason> {
        if let Some(limit) = &breaker.consecutive_failures {
            for row in [&self.failures, &self.broken_off] {
                let is_overruled = || limit.is_default && are_overruling(upstream, checks, row, now);
                if row.incidents >= limit.limit && heard.allow(row, now) && !is_overruled() {
                    return Some(UpstreamReason::ConsecutiveFailures(row.incidents));
                }
            }
        }
        let row = &self.unanswered;
        if breaker.local_origin_limit().is_some_and(|limit| row.incidents >= limit) && heard.allow(row, now) {
            return Some(UpstreamReason::LocalOriginFailures(row.incidents));
        }
        exceeded_share(breaker, self.window.counts(), new)
    }
}

/// A share counts as far from its limit up to the limit divided by this.
const FAR: u64 = 4;

/// Returns whether shares are so far from their limits that the number of successes need not be exact.
fn are_far(shares: &Shares, counts: ResponseCounts) -> bool {
    let is_far =
        |part: u32, percent: u32| u64::from(part) * 100 * FAR <= u64::from(counts.all) * u64::from(percent);
    shares.failure_percent.is_none_or(|percent| is_far(counts.failed, percent))
        && shares.slow.as_ref().is_none_or(|slow| is_far(counts.slow, slow.percent))
}

/// Returns whether checks that pass speak against a row. They do if few clients have failed, and the upstream responded
/// to all of them. Such failures may be of one path, which the checks do not use.
fn are_overruling(upstream: &Upstream, checks: &CheckHistory, row: &Row, now: Time) -> bool {
    let pass = upstream.check.as_ref().is_some_and(|check| checks.is_passing(check, now));
    pass && !row.unanswered && row.clients.len() < ENOUGH_CLIENTS
}

/// Returns the reason to trip by these counts, if there is one. `new` is what the window did not have before. A share that
/// rises only because good responses leave the window tells nothing new.
fn exceeded_share(breaker: &Breaker, counts: ResponseCounts, new: ResponseCounts) -> Option<UpstreamReason> {
    let shares = breaker.shares.as_ref()?;
    let reaches = |part: u32, percent: u32| {
        counts.all >= shares.minimum_requests
            && u64::from(part) * 100 >= u64::from(counts.all) * u64::from(percent)
    };
    let share = |part: u32| Share { part: part.min(counts.all), all: counts.all };
    if new.failed > 0 && shares.failure_percent.is_some_and(|percent| reaches(counts.failed, percent)) {
        return Some(UpstreamReason::FailureShare(share(counts.failed)));
    }
    let too_slow =
        new.slow > 0 && shares.slow.as_ref().is_some_and(|slow| reaches(counts.slow, slow.percent));
    too_slow.then(|| UpstreamReason::SlowShare(share(counts.slow)))
}
