//! A row: the failures since the last success.
//!
//! A row counts incidents. Failures with a common cause are one incident, such as those of all requests on one connection
//! that has closed. Two failures are one incident if both requests were under way together and the failures came
//! within [`APART`] of each other.

use core::time::Duration;

use serde::{Deserialize, Serialize};

use crate::value::peers::Peers;
#[cfg(test)]
use crate::value::response::{ResponseClass, Sample};
use crate::value::time::Time;

/// Failures that are further apart are two incidents, even if their requests were under way together. A timeout
/// that many requests reach one after the other is an incident for each.
pub const APART: Duration = Duration::from_millis(20);

/// The number of hosts that a row remembers. So many failing hosts are enough, however many there are.
pub const ENOUGH_HOSTS: usize = 6;

/// The number of clients that a row remembers. So many failing clients are enough, however many there are.
pub const ENOUGH_CLIENTS: usize = 3;

/// The number of responses that must begin without a break-off to end a row of break-offs.
const ENOUGH_BEGUN: u32 = 5;

/// One failure, as a row takes it.
#[derive(Clone, Copy, Debug)]
pub struct RowFailure {
    /// The time at which it became known.
    pub at: Time,
    /// The time of the worker's latest incident, if its request was sent after the worker knew of that incident.
    pub after: Option<Time>,
    /// Whether the upstream sent no response.
    pub unanswered: bool,
    /// The host and the client.
    pub peers: Peers,
    /// The end of the backoff that the response asked for.
    pub retry_at: Option<Time>,
}

#[cfg(test)]
impl RowFailure {
    /// Returns this sample at `now`. Its request was sent after the failure before.
    pub fn of(sample: Sample, now: Time) -> Self {
        RowFailure {
            at: now,
            after: Some(now),
            unanswered: sample.class == ResponseClass::Unanswered,
            peers: Peers { host: 1, ..sample.peers },
            retry_at: sample.retry_at,
        }
    }
}

/// Failures without a success in between.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// The number of incidents.
    pub incidents: u32,
    /// The time of the first incident. Meaningless without incidents, as are the other fields.
    pub first: Time,
    /// The time of the latest incident.
    last: Time,
    /// The time of an incident that the first one is certainly not a part of, nor of any before that.
    after: Option<Time>,
    /// The distinct hosts of its failures, up to [`ENOUGH_HOSTS`].
    pub hosts: Vec<u32>,
    /// The distinct clients of its failures, up to [`ENOUGH_CLIENTS`].
    pub clients: Vec<u32>,
    /// Whether a request of the row got no response.
    pub unanswered: bool,
    /// The number of incidents whose response asked for a backoff.
    asked: u32,
    /// The earliest and the latest end of these backoffs.
    retries: Option<(Time, Time)>,
    /// The number of responses that have begun since the latest incident. Only a row of break-offs counts them.
    begun: u32,
}

impl Row {
    /// Returns whether there is no failure.
    pub fn is_empty(&self) -> bool {
        self.incidents == 0
    }

    /// Adds a failure. Returns whether it is an incident of its own.
    pub fn add(&mut self, failure: RowFailure) -> bool {
        let RowFailure { at, after, unanswered, peers, retry_at } = failure;
        let is_incident = self.is_empty() || after.is_some() || at.since(self.last) >= APART;
        if self.is_empty() {
            (self.first, self.after) = (at, after);
        }
        if is_incident {
            self.incidents = self.incidents.saturating_add(1);
            self.last = at;
            self.begun = 0;
            if let Some(retry_at) = retry_at {
                self.asked = self.asked.saturating_add(1);
                self.widen((retry_at, retry_at));
            }
        }
        self.unanswered |= unanswered;
        remember(&mut self.hosts, peers.host, ENOUGH_HOSTS);
        remember(&mut self.clients, peers.client, ENOUGH_CLIENTS);
        is_incident
    }

    /// Counts a response that has begun. Ends a row of break-offs if enough have begun since the latest.
    pub fn on_begun(&mut self) {
        self.add_begun(1);
    }

    fn add_begun(&mut self, more: u32) {
        self.begun = self.begun.saturating_add(more);
        if !self.is_empty() && self.begun >= ENOUGH_BEGUN {
            *self = Row::default();
        }
    }

    /// Appends the row of another worker, or a later one of the same worker.
    pub fn append(&mut self, later: &Row) {
        if later.is_empty() {
            // What begins before a row has no effect on it. Counting it would change the shared state on each tick.
            if !self.is_empty() {
                self.add_begun(later.begun);
            }
            return;
        }
        if self.is_empty() {
            self.clone_from(later);
            return;
        }
        let may_be_part = |incident: Time| {
            is_near(later.first, incident) && later.after.is_none_or(|after| after < incident)
        };
        let is_same_incident = may_be_part(self.first) || may_be_part(self.last);
        let more = later.incidents.saturating_sub(u32::from(is_same_incident));
        self.incidents = self.incidents.saturating_add(more);
        self.first = self.first.min(later.first);
        // A failure that belongs to an incident must not prolong it, or failures that come fast would all be one incident.
        if more > 0 {
            self.last = self.last.max(later.last);
        }
        self.unanswered |= later.unanswered;
        later.hosts.iter().for_each(|host| remember(&mut self.hosts, *host, ENOUGH_HOSTS));
        later.clients.iter().for_each(|client| remember(&mut self.clients, *client, ENOUGH_CLIENTS));
        self.asked = self.asked.saturating_add(later.asked);
        if let Some(retries) = later.retries {
            self.widen(retries);
        }
        self.begun = later.begun;
    }

    fn widen(&mut self, (earliest, latest): (Time, Time)) {
        let known = self.retries.unwrap_or((earliest, latest));
        self.retries = Some((known.0.min(earliest), known.1.max(latest)));
    }

    /// Returns the end of the backoff that the row asks for. Any failure may ask, and the latest end counts.
    ///
    /// If the upstream has several hosts, one of them must not keep all others from being used. Most incidents must then
    /// have asked, and the earliest end counts.
    pub fn retry_at(&self, has_several_hosts: bool) -> Option<Time> {
        let (earliest, latest) = self.retries?;
        match has_several_hosts {
            true => (self.asked > self.incidents / 2).then_some(earliest),
            false => Some(latest),
        }
    }
}

/// Returns whether failures at these times may be one incident.
fn is_near(one: Time, other: Time) -> bool {
    one.since(other) < APART && other.since(one) < APART
}

/// Adds a peer to a list of distinct ones, unless the list is full.
fn remember(known: &mut Vec<u32>, peer: u32, room: usize) {
    if known.len() < room && !known.contains(&peer) {
        known.push(peer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    /// A failure whose request was sent when its worker knew of this incident.
    fn failure(at: u64, after: Option<u64>) -> RowFailure {
        let (at, after) = (Time::from_millis(at), after.map(Time::from_millis));
        RowFailure { at, after, unanswered: false, peers: Peers::default(), retry_at: None }
    }

    /// Failures of one worker, each with whether its request was sent after the worker knew of the one before.
    fn row(failures: &[(u64, bool)]) -> Row {
        row_after(None, failures)
    }

    /// The same, if the worker's latest incident before was at this time.
    fn row_after(mut before: Option<u64>, failures: &[(u64, bool)]) -> Row {
        let mut row = Row::default();
        for (at, is_fresh) in failures {
            if row.add(failure(*at, before.filter(|_| *is_fresh))) {
                before = Some(*at);
            }
        }
        row
    }

    #[test]
    fn failures_that_were_under_way_together_are_one_incident() {
        assert_eq!(row(&[(100, false), (100, false), (101, false), (119, false)]).incidents, 1);
    }

    #[test]
    fn failures_of_requests_sent_one_after_the_other_are_separate_incidents() {
        assert_eq!(row(&[(100, false), (101, true), (102, true)]).incidents, 3);
    }

    #[test]
    fn failures_far_enough_apart_are_separate_incidents() {
        assert_eq!(row(&[(100, false), (120, false), (130, false), (140, false)]).incidents, 3);
    }

    #[test]
    fn joined_rows_of_one_worker_count_the_same_as_the_whole_row() {
        let failures = [(100, false), (103, true), (104, false), (126, false), (127, true), (127, false)];
        let whole = row(&failures);
        for cut in 0..=failures.len() {
            let (first, second) = failures.split_at(cut);
            let mut joined = row(first);
            // The rest of an incident is no incident of its own.
            let rest = second.iter().skip_while(|(at, is_fresh)| {
                !is_fresh && joined.last != Time::default() && at - joined.last.as_millis() < 20
            });
            let before = (cut > 0).then(|| joined.last.as_millis());
            joined.append(&row_after(before, &rest.copied().collect::<Vec<_>>()));
            assert_eq!(joined.incidents, whole.incidents, "{cut}");
        }
    }

    #[test]
    fn rows_of_two_workers_that_fail_at_the_same_moment_share_an_incident() {
        let mut joined = row(&[(100, false)]);
        joined.append(&row(&[(102, false), (130, true)]));
        assert_eq!(joined.incidents, 2);
        // So do rows of workers that each had failures before.
        let mut joined = row(&[(100, false), (500, true)]);
        joined.append(&row_after(Some(100), &[(502, true)]));
        assert_eq!(joined.incidents, 2);
        joined.append(&row_after(Some(502), &[(503, true)]));
        assert_eq!(joined.incidents, 3);
    }

    #[test]
    fn rows_of_two_workers_whose_failures_alternate_count_each_of_them() {
        for other in [130, 160, 190, 250] {
            let mut joined = row(&[(100, false), (220, true)]);
            joined.append(&row(&[(other, false)]));
            assert_eq!(joined.incidents, 3, "{other}");
        }
        for other in [81, 119, 201, 239] {
            let mut joined = row(&[(100, false), (220, true)]);
            joined.append(&row(&[(other, false)]));
            assert_eq!(joined.incidents, 2, "{other}");
        }
    }

    #[test]
    fn failures_that_come_fast_and_are_shared_one_by_one_are_an_incident_each_20_ms() {
        let mut joined = Row::default();
        for at in (100..=1_100).step_by(10) {
            joined.append(&row(&[(at, false)]));
        }
        assert_eq!(joined.incidents, 51);
    }

    #[test]
    fn responses_that_begin_without_a_row_leave_no_trace() {
        let mut joined = Row::default();
        let mut begun = Row::default();
        begun.on_begun();
        joined.append(&begun);
        assert_eq!(joined, Row::default());
    }

    #[test]
    fn a_row_of_break_offs_ends_when_enough_responses_have_begun_since() {
        let mut row = row(&[(100, false)]);
        (0..4).for_each(|_| row.on_begun());
        row.add(failure(200, Some(100)));
        (0..4).for_each(|_| row.on_begun());
        assert_eq!(row.incidents, 2);
        row.on_begun();
        assert!(row.is_empty());
    }

    #[test]
    fn with_several_hosts_a_row_asks_for_a_backoff_only_if_most_of_its_failures_do() {
        let ask = |retries: &[Option<u64>], has_several_hosts| {
            let mut row = Row::default();
            for retry_at in retries {
                let retry_at = retry_at.map(Time::from_millis);
                row.add(RowFailure { retry_at, ..failure(100, Some(100)) });
            }
            row.retry_at(has_several_hosts).map(Time::as_millis)
        };
        for (retries, of_several, of_one) in [
            (&[Some(9), Some(5), Some(7)][..], Some(5), Some(9)),
            (&[Some(9), None, Some(7)], Some(7), Some(9)),
            (&[Some(9), None], None, Some(9)),
            (&[Some(9_000), None, None, None, None], None, Some(9_000)),
            (&[None, None], None, None),
        ] {
            assert_eq!((ask(retries, true), ask(retries, false)), (of_several, of_one), "{retries:?}");
        }
    }
}
