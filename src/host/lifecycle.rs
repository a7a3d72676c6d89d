//! Where the proxy stands, as all of its VMs know it.

use std::cell::Cell;
use std::time::Duration;

use super::{leader, store};
use crate::policy::Policy;
use crate::value::lease::{Holder, LeaseRole};
use crate::value::lifecycle::Lifecycle;
use crate::value::time::Time;

/// This VM's view of it.
pub struct Shared {
    policy: String,
    /// With no layout in it: another release of this module goes on from where this one stands.
    key: String,
    seen: Cell<Lifecycle>,
}

impl Shared {
    /// As the other VMs know it already. Nothing of it changes here: the proxy tries out a policy in a VM of
    /// its own, and may then refuse it.
    pub fn new(policy: &Policy) -> Self {
        let key = format!("graygate/{}/lifecycle", policy.name);
        store::seed(&key, &Lifecycle::default());
        leader::seed(&key);
        let shared = Shared { policy: policy.name.clone(), key, seen: Cell::default() };
        shared.refresh();
        shared
    }

    /// As this VM last saw it.
    pub fn seen(&self) -> Lifecycle {
        self.seen.get()
    }

    /// Takes a look.
    pub fn refresh(&self) {
        self.seen.set(store::get(&self.key).unwrap_or_default());
    }

    /// Takes the proxy as started, until the next look.
    pub fn assume_started(&self) {
        self.seen.set(Lifecycle { started: true, ..self.seen.get() });
    }

    /// Claims to say for `span` whether the proxy has started. Whether it does.
    pub fn claim_lead(&self, holder: Holder, now: Time, span: Duration) -> bool {
        leader::claim(&self.key, holder, now, span) == LeaseRole::Leads
    }

    /// Notes that startup has passed. Whether that is news; nothing if it is not written.
    pub fn start(&self) -> Option<bool> {
        self.change("started", |lifecycle| lifecycle.started = true)
    }

    /// Notes an order to drain, or to stop draining. Whether that is news; nothing if it is not written.
    pub fn drain(&self, draining: bool) -> Option<bool> {
        let event = if draining { "draining" } else { "no longer draining" };
        self.change(event, |lifecycle| lifecycle.draining = draining)
    }

    /// Applies one change, and makes it known if it is one.
    fn change(&self, event: &str, change: impl Fn(&mut Lifecycle)) -> Option<bool> {
        let (before, after) = store::update(&self.key, |known: Option<Lifecycle>| {
            let before = known.unwrap_or_default();
            let mut after = before;
            change(&mut after);
            ((before, after), (before != after).then_some(after))
        })?;
        self.seen.set(after);
        if before != after {
            log::info!("policy {}: {event}", self.policy);
        }
        Some(before != after)
    }
}
