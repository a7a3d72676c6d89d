//! Requests that wait for an answer, so that one that has waited for too long counts before it ends.
//!
//! Where a request has gone to is known only once the router has it, which no callback tells. So it is looked at on the
//! next tick; most have their answer by then.

use std::cell::RefCell;
use std::time::Duration;

use super::table::Table;
use crate::policy::upstream::UpstreamId;
use crate::readiness::LeaseId;
use crate::value::time::Time;

/// Those of one VM, by the id of their context: at most as many as are under way.
pub struct Waiting(RefCell<Table<Wait>>);

/// One request's wait.
#[derive(Clone)]
pub struct Wait {
    /// Since when all of it is there.
    pub since: Time,
    /// The worker's epoch when the request was decided on.
    pub epoch: u64,
    /// Upstreams for which it is not to count: it is no evidence, or has counted.
    pub settled: Vec<UpstreamId>,
    /// Permits that it holds, while nobody has looked where it has gone.
    pub permits: Vec<(UpstreamId, LeaseId)>,
    /// When it is to be looked at next; nothing if it never is again.
    due: Option<Time>,
}

impl Wait {
    /// A wait that begins, and that is looked at on the next tick.
    pub fn new(since: Time, epoch: u64, ignored: &[UpstreamId], permits: &[(UpstreamId, LeaseId)]) -> Self {
        let (settled, permits) = (ignored.to_vec(), permits.to_vec());
        Wait { since, epoch, settled, permits, due: Some(since) }
    }
}

impl Waiting {
    /// Nobody waits yet.
    pub const fn new() -> Self {
        Waiting(RefCell::new(Table::new()))
    }

    /// Notes that the request of this stream waits.
    pub fn begin(&self, stream: u32, wait: Wait) {
        if let Ok(mut waits) = self.0.try_borrow_mut() {
            waits.insert(stream, wait);
        }
    }

    /// Notes that it waits no more. For these upstreams it has counted, or is no evidence.
    pub fn end(&self, stream: u32) -> Vec<UpstreamId> {
        let wait = self.0.try_borrow_mut().ok().and_then(|mut waits| waits.remove(stream));
        wait.map(|wait| wait.settled).unwrap_or_default()
    }

    /// Those that are to be looked at now.
    pub fn late(&self, now: Time) -> Vec<(u32, Wait)> {
        let Ok(waits) = self.0.try_borrow() else {
            return Vec::new();
        };
        let due = waits.iter().filter(|(_, wait)| wait.due.is_some_and(|due| now.is_due(wait.since, due)));
        due.map(|(stream, wait)| (stream, wait.clone())).collect()
    }

    /// Notes that the router does not have the request yet: its wait begins now at the earliest.
    pub fn is_held_up(&self, stream: u32, now: Time) {
        self.change(stream, |wait| (wait.since, wait.due) = (now, Some(now)));
    }

    /// Notes for which upstreams a request has counted now, and after how long a wait it is to be looked at next.
    pub fn looked_at(&self, stream: u32, counted: &[UpstreamId], next: Option<Duration>) {
        self.change(stream, |wait| {
            wait.settled.extend(counted);
            wait.permits.clear();
            wait.due = next.map(|span| wait.since + span);
        });
    }

    fn change(&self, stream: u32, change: impl FnOnce(&mut Wait)) {
        if let Ok(mut waits) = self.0.try_borrow_mut()
            && let Some(wait) = waits.get_mut(stream)
        {
            change(wait);
        }
    }
}
