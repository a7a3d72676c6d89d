//! Requests that wait for an answer, so that one that has waited for too long counts before it ends.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Duration;

use crate::policy::upstream::UpstreamId;
use crate::time::Time;

/// Those of one VM, by the id of their context: at most as many as are under way. Empty where no breaker asks.
#[derive(Default)]
pub struct Waiting(RefCell<HashMap<u32, Wait>>);

/// One request's wait.
struct Wait {
    since: Time,
    /// When it is to be looked at next; nothing if it never is again.
    due: Option<Time>,
    /// The worker's epoch when the request was decided on.
    epoch: u64,
    /// Upstreams for which it is not to count: it is no evidence, or has counted.
    settled: Vec<UpstreamId>,
}

/// A request that has waited for so long.
pub struct Late {
    /// The id of its context.
    pub stream: u32,
    /// How long it has waited.
    pub waited: Duration,
    /// The worker's epoch when the request was decided on.
    pub epoch: u64,
    /// Upstreams for which it is not to count.
    pub settled: Vec<UpstreamId>,
}

impl Waiting {
    /// Notes that all of a request has gone on, and when to look at it.
    pub fn begin(&self, stream: u32, since: Time, due: Time, epoch: u64, ignored: &[UpstreamId]) {
        if let Ok(mut waits) = self.0.try_borrow_mut() {
            waits.insert(stream, Wait { since, due: Some(due), epoch, settled: ignored.to_vec() });
        }
    }

    /// Notes that a request waits no more. For these upstreams it has counted, or is no evidence.
    pub fn end(&self, stream: u32) -> Vec<UpstreamId> {
        let wait = self.0.try_borrow_mut().ok().and_then(|mut waits| waits.remove(&stream));
        wait.map(|wait| wait.settled).unwrap_or_default()
    }

    /// Those that are to be looked at now.
    pub fn late(&self, now: Time) -> Vec<Late> {
        let Ok(waits) = self.0.try_borrow() else {
            return Vec::new();
        };
        let due = waits.iter().filter(|(_, wait)| wait.due.is_some_and(|due| now.is_due(wait.since, due)));
        let late = due.map(|(stream, wait)| Late {
            stream: *stream,
            waited: now.since(wait.since),
            epoch: wait.epoch,
            settled: wait.settled.clone(),
        });
        late.collect()
    }

    /// Notes for which upstreams a request has counted now, and after how long a wait it is to be looked at next.
    pub fn looked_at(&self, stream: u32, counted: &[UpstreamId], next: Option<Duration>) {
        if let Ok(mut waits) = self.0.try_borrow_mut()
            && let Some(wait) = waits.get_mut(&stream)
        {
            wait.settled.extend(counted);
            wait.due = next.map(|span| wait.since + span);
        }
    }
}
