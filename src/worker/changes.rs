//! Which shared states of upstreams have changed lately.
//!
//! A worker of a policy with many upstreams does not read each of their states on each tick. It reads this list and then
//! only the states that have changed. The list names the latest changes only. A worker that has missed some reads all
//! states. A change that could not be announced is found by the sweep. See [`super::upstreams`].

use serde::{Deserialize, Serialize};

use super::store;
use crate::policy::Policy;
use crate::proxy::Proxy;

/// The maximum number of changes that the list names.
const MAX_NAMED: usize = 512;

/// Stands for a state: a part of the hash of its key. Several states may have the same mark. Then they are only read more
/// often than they need be.
pub type Mark = u16;

/// The list, as all workers share it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Changes {
    /// The number of changes so far.
    count: u64,
    /// The latest of them, each as the mark of the state that has changed. The newest is the last.
    latest: Vec<Mark>,
}

/// One worker's view of the changes.
pub struct ChangeLog {
    key: String,
    /// The number of changes that this worker has taken note of.
    seen: u64,
    /// The changes of this worker that the others do not know.
    unshared: Vec<Mark>,
}

/// The changes since a worker last looked.
#[derive(Debug, PartialEq, Eq)]
pub enum News {
    /// The states with these marks.
    Of(Vec<Mark>),
    /// More than the list names.
    Unknown,
}

impl ChangeLog {
    /// Creates the view. States that are read from now on include all changes so far.
    pub fn new(proxy: &impl Proxy, policy: &Policy) -> Self {
        let key = format!("graygate/{}/changes/{}", policy.name, store::LAYOUT);
        let known: Changes = store::get(proxy, &key).unwrap_or_default();
        ChangeLog { key, seen: known.count, unshared: Vec::new() }
    }

    /// Notes a change by this worker.
    pub fn note(&mut self, mark: Mark) {
        if !self.unshared.contains(&mark) {
            self.unshared.push(mark);
        }
    }

    /// Returns the changes since the last call.
    pub fn read(&mut self, proxy: &impl Proxy) -> News {
        let Changes { count, latest } = store::get(proxy, &self.key).unwrap_or_default();
        let new = usize::try_from(count.wrapping_sub(self.seen)).unwrap_or(usize::MAX);
        self.seen = count;
        match latest.len().checked_sub(new) {
            Some(known) => News::Of(latest.into_iter().skip(known).collect()),
            None => News::Unknown,
        }
    }

    /// Announces the changes of this worker. If that fails, the next call announces them.
    pub fn share(&mut self, proxy: &impl Proxy) {
        if self.unshared.is_empty() {
            return;
        }
        let own = &self.unshared;
        let written = store::update(proxy, &self.key, |known: Option<Changes>| {
            let Changes { count, mut latest } = known.unwrap_or_default();
            latest.extend(own);
            latest.drain(..latest.len().saturating_sub(MAX_NAMED));
            let after = count.wrapping_add(own.len() as u64);
            ((count, after), Some(Changes { count: after, latest }))
        });
        if let Some((before, after)) = written {
            self.unshared.clear();
            // Its own changes are no news, unless they would hide those of others.
            if before == self.seen {
                self.seen = after;
            }
        }
    }
}
