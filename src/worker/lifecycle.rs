//! Where the proxy stands between its start and its end, as all of its workers know it.

use core::time::Duration;

use super::event::LifecycleChange;
use super::{leader, store};
use crate::policy::Policy;
use crate::proxy::Proxy;
use crate::value::lease::{Holder, LeaseRole};
use crate::value::lifecycle::Lifecycle;
use crate::value::time::Time;

/// A worker's view of it.
pub struct LifecycleView {
    /// Without a layout in it: another release of this module goes on from where this one stands.
    key: String,
    seen: Lifecycle,
}

impl LifecycleView {
    /// Starts with what the other workers know already. Nothing of it changes here: the proxy tries out a policy in a VM
    /// of its own, and may then refuse it.
    pub fn new(proxy: &impl Proxy, policy: &Policy) -> Self {
        let key = format!("graygate/{}/lifecycle", policy.name);
        store::seed(proxy, &key, &Lifecycle::default());
        leader::seed(proxy, &key);
        let mut view = LifecycleView { key, seen: Lifecycle::default() };
        view.refresh(proxy);
        view
    }

    /// Returns it as this worker last read it.
    pub fn seen(&self) -> Lifecycle {
        self.seen
    }

    /// Reads it again.
    pub fn refresh(&mut self, proxy: &impl Proxy) {
        self.seen = store::get(proxy, &self.key).unwrap_or_default();
    }

    /// Takes the proxy as started until the next tick.
    pub fn assume_started(&mut self) {
        self.seen.started = true;
    }

    /// Returns whether an order to drain stands that the policy has no switch for.
    pub fn has_orphaned_drain(&self, policy: &Policy) -> bool {
        self.seen.draining && policy.probes.drain.is_none()
    }

    /// Claims to say for `span` whether the proxy has started. Returns whether it does.
    pub fn claim_lead(&self, proxy: &impl Proxy, holder: Holder, now: Time, span: Duration) -> bool {
        leader::claim(proxy, &self.key, holder, now, span) == LeaseRole::Leads
    }

    /// Applies one change. Returns whether it is one, or nothing if it was not written.
    pub fn change(&mut self, proxy: &impl Proxy, change: LifecycleChange) -> Option<bool> {
        let (before, after) = store::update(proxy, &self.key, |known: Option<Lifecycle>| {
            let before = known.unwrap_or_default();
            let mut after = before;
            match change {
                LifecycleChange::Started => after.started = true,
                LifecycleChange::Draining => after.draining = true,
                LifecycleChange::NotDraining => after.draining = false,
            }
            ((before, after), (before != after).then_some(after))
        })?;
        self.seen = after;
        Some(before != after)
    }
}
