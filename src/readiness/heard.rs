//! The latest successes: their hosts, their clients, and their rate.
//!
//! Each worker takes one sample a second. A sample has the host and the client of one success, and the number of
//! successes since the worker's sample before.

use core::time::Duration;

use serde::{Deserialize, Serialize};

use super::row::{ENOUGH_CLIENTS, ENOUGH_HOSTS, Row};
use crate::value::peers::Peers;
use crate::value::time::Time;

/// How often a worker takes a sample.
pub const SAMPLE_PERIOD: Duration = Duration::from_secs(1);

/// How long before a row a success may have been to bear on it.
const LATELY: Duration = Duration::from_secs(10);

/// The number of samples that are kept.
const SAMPLES: usize = 16;

/// The usual number of successes in the time for which none must have come.
const MISSED: u32 = 6;

/// The longest time until each worker has shared a success. It reads of the row on its next tick, and then shares the
/// next success at once.
const TELLING: Duration = Duration::from_millis(250);

/// The shortest time without a success that bears on a row. It is less than a tick of 250 ms, so that a row of which ticks
/// alone tell is judged on the next one.
const SHORTEST_SILENCE: Duration = Duration::from_millis(240);

/// The longest such time. At so low a rate, the row itself takes as long.
const LONGEST_SILENCE: Duration = LATELY;

/// How long a row must last if no request of it found a host. The requests may be for a subset that has none, and the
/// proxy refuses them at once itself.
const NO_HOST: Duration = Duration::from_secs(2);

/// One success out of several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SuccessSample {
    /// The time of the success.
    pub at: Time,
    /// The time since the worker's sample before, in milliseconds. Zero if there was none.
    pub span: u32,
    /// The number of successes in that time.
    pub successes: u32,
    /// The host and the client of this one.
    pub peers: Peers,
}

/// The latest successes of an upstream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeardSuccesses {
    /// The samples, the newest last.
    samples: Vec<SuccessSample>,
}

impl HeardSuccesses {
    /// Adds a sample.
    pub fn add(&mut self, sample: SuccessSample) {
        if self.samples.len() >= SAMPLES {
            self.samples.remove(0);
        }
        self.samples.push(sample);
    }

    /// Returns the samples that bear on a row.
    fn before(&self, row: &Row) -> impl Iterator<Item = &SuccessSample> {
        self.samples.iter().filter(|sample| sample.at + LATELY >= row.first)
    }

    /// Returns whether the row says something about the upstream, and not about one host, one client, or one
    /// moment.
    pub fn allow(&self, row: &Row, now: Time) -> bool {
        now.since(row.first) >= self.silence(row) && self.hosts_agree(row) && self.clients_agree(row)
    }

    /// Returns for how long a row must last without a success.
    fn silence(&self, row: &Row) -> Duration {
        let has_no_host = row.hosts.iter().all(|host| *host == 0);
        let least = if has_no_host { NO_HOST } else { Duration::ZERO };
        if self.before(row).next().is_none() {
            return least;
        }
        // Few clients of many may use one worker alone, so the others must have told of their successes.
        let is_of_few = self.has_several_clients() && row.clients.len() < ENOUGH_CLIENTS;
        let telling = if is_of_few { TELLING } else { Duration::ZERO };
        let silence = telling + self.usual_time_of(MISSED);
        silence.clamp(SHORTEST_SILENCE, LONGEST_SILENCE).max(least)
    }

    /// Returns how long this number of successes took lately. Zero if nothing is known.
    pub fn usual_time_of(&self, number: u32) -> Duration {
        let newest = self.samples.iter().map(|sample| sample.at).max().unwrap_or_default();
        let recent = || self.samples.iter().filter(|sample| sample.at + LATELY >= newest);
        let begun = |sample: &SuccessSample| {
            let span = Duration::from_millis(sample.span.into()).min(LATELY);
            newest.since(sample.at) + span
        };
        let span = recent().map(begun).max().unwrap_or_default();
        let successes: u32 = recent().fold(0, |sum, sample| sum.saturating_add(sample.successes));
        span.saturating_mul(number) / successes.max(1)
    }

    /// Returns whether more than half of the hosts that were heard of lately are failing, or enough of them.
    fn hosts_agree(&self, row: &Row) -> bool {
        let mut others: Vec<u32> = self.before(row).map(|sample| sample.peers.host).collect();
        others.retain(|host| !row.hosts.contains(host));
        others.sort_unstable();
        others.dedup();
        row.hosts.len() >= ENOUGH_HOSTS || row.hosts.len() > others.len()
    }

    /// Returns whether the failing clients had at least half of the successes lately, or are enough.
    fn clients_agree(&self, row: &Row) -> bool {
        if row.clients.len() >= ENOUGH_CLIENTS {
            return true;
        }
        let of_row = self.before(row).filter(|sample| row.clients.contains(&sample.peers.client)).count();
        of_row * 2 >= self.before(row).count()
    }

    /// Returns whether the samples are of several clients.
    pub fn has_several_clients(&self) -> bool {
        self.are_several(|peers| peers.client)
    }

    /// Returns whether the samples are of several hosts.
    pub fn has_several_hosts(&self) -> bool {
        self.are_several(|peers| peers.host)
    }

    fn are_several(&self, peer: impl Fn(Peers) -> u32) -> bool {
        let mut peers = self.samples.iter().map(|sample| peer(sample.peers));
        let first = peers.next();
        peers.any(|other| Some(other) != first)
    }
}

#[cfg(test)]
mod tests {
    use super::super::row::RowFailure;
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const START: u64 = 100_000;

    fn at(millis: u64) -> Time {
        Time::from_millis(START + millis)
    }

    /// Successes of the last ten seconds, of these hosts and clients in turn.
    fn heard(per_second: u32, hosts: &[u32], clients: &[u32]) -> HeardSuccesses {
        let mut heard = HeardSuccesses::default();
        for second in 0..10usize {
            let peers = Peers { host: hosts[second % hosts.len()], client: clients[second % clients.len()] };
            let at = at(second as u64 * 1_000);
            heard.add(SuccessSample { at, span: 1_000, successes: per_second, peers });
        }
        heard
    }

    /// A row that begins at 10 s, of these hosts and clients.
    fn row(peers: &[(u32, u32)]) -> Row {
        let mut row = Row::default();
        for (host, client) in peers {
            let peers = Peers { host: *host, client: *client };
            row.add(RowFailure {
                at: at(10_000),
                after: Some(at(10_000)),
                unanswered: false,
                peers,
                retry_at: None,
            });
        }
        row
    }

    #[test]
    fn without_successes_lately_any_row_counts_at_once() {
        assert!(HeardSuccesses::default().allow(&row(&[(1, 1)]), at(10_000)));
        let mut old = HeardSuccesses::default();
        old.add(SuccessSample {
            at: Time::from_millis(START - 5_000),
            span: 0,
            successes: 9,
            peers: Peers::default(),
        });
        assert!(old.allow(&row(&[(1, 1)]), at(10_000)));
    }

    #[test]
    fn a_row_must_last_as_long_as_six_successes_usually_take() {
        for (per_second, silence) in [(1, 6_000), (2, 3_000), (10, 600), (100, 240), (1_000, 240)] {
            let heard = heard(per_second, &[1], &[1]);
            let row = row(&[(1, 1)]);
            let millis = u64::try_from(heard.silence(&row).as_millis()).unwrap();
            assert_eq!(millis, silence, "{per_second}");
            assert!(!heard.allow(&row, at(10_000 + silence - 1)));
            assert!(heard.allow(&row, at(10_000 + silence)));
        }
    }

    #[test]
    fn more_than_half_of_the_hosts_must_fail() {
        let allows = |hosts: &[u32], failing: &[u32]| {
            let failing: Vec<_> = failing.iter().map(|host| (*host, 1)).collect();
            heard(100, hosts, &[1]).allow(&row(&failing), at(11_000))
        };
        assert!(allows(&[1], &[1]));
        assert!(!allows(&[1, 2], &[1]));
        assert!(allows(&[1, 2], &[1, 2]));
        assert!(allows(&[1, 2, 3], &[1, 2]));
        assert!(!allows(&[1, 2, 3, 4, 5], &[1, 2]));
        assert!(allows(&[1, 2, 3, 4, 5], &[1, 2, 3]));
        let many: Vec<u32> = (1..=10).collect();
        assert!(!allows(&many, &[11, 12, 13, 14, 15]));
        assert!(allows(&many, &[11, 12, 13, 14, 15, 16]));
    }

    #[test]
    fn few_clients_must_have_had_half_of_the_successes() {
        let allows = |clients: &[u32], failing: &[u32]| {
            let failing: Vec<_> = failing.iter().map(|client| (1, *client)).collect();
            heard(100, &[1], clients).allow(&row(&failing), at(11_000))
        };
        assert!(allows(&[1], &[1]));
        assert!(allows(&[1, 2], &[1]));
        assert!(!allows(&[1, 2, 3], &[1]));
        assert!(!allows(&[2, 3, 4], &[1]));
        assert!(!allows(&[3, 4], &[1, 2]));
        assert!(allows(&[4, 5], &[1, 2, 3]));
    }
}
