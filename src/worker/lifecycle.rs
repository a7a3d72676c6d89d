//! The lifecycle of the proxy, which all of its workers share.

use core::time::Duration;

use super::metric::LifecycleChange;
use super::{leader, store};
use crate::policy::Policy;
use crate::proxy::Proxy;
use crate::value::lease::{Holder, LeaseRole};
use crate::value::lifecycle::Lifecycle;
use crate::value::time::Time;

/// One worker's view of the lifecycle.
pub struct LifecycleView {
    /// The key has no layout in it, so another release of this module keeps the lifecycle.
    key: String,
    /// The key beside which the lead is. It has the layout in it, as a lease is not kept.
    lead: String,
    seen: Lifecycle,
}

impl LifecycleView {
    /// Reads the lifecycle that the other workers share. Changes nothing that exists, because the proxy validates a
    /// policy in a VM of its own and may then refuse it.
    pub fn new(proxy: &impl Proxy, policy: &Policy) -> Self {
        let key = format!("graygate/{}/lifecycle", policy.name);
        store::seed(proxy, &key, &Lifecycle::default());
        let lead = format!("{key}/{}", store::LAYOUT);
        leader::seed(proxy, &lead);
        let mut view = LifecycleView { key, lead, seen: Lifecycle::default() };
        view.refresh(proxy);
        view
    }

    /// Returns the lifecycle as this worker last read it.
    pub fn seen(&self) -> Lifecycle {
        self.seen
    }

    /// Reads the lifecycle again.
    pub fn refresh(&mut self, proxy: &impl Proxy) {
        self.seen = store::get(proxy, &self.key).unwrap_or_default();
    }

    /// Treats the proxy as started, in this worker only, until the next tick.
    pub fn assume_started(&mut self) {
        self.seen.started = true;
    }

    /// Returns whether the proxy has an order to drain for which the policy has no switch.
    pub fn has_orphaned_drain(&self, policy: &Policy) -> bool {
        self.seen.draining && policy.probes.drain.is_none()
    }

    /// Claims the lead for `span`. Only the leader decides whether the proxy has started. Returns whether this worker leads.
    pub fn claim_lead(&self, proxy: &impl Proxy, holder: Holder, now: Time, span: Duration) -> bool {
        leader::claim(proxy, &self.lead, holder, now, span) == LeaseRole::Leads
    }

    /// Applies one change to the shared lifecycle. Returns whether that changed anything, or `None` if it could not be
    /// written.
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
