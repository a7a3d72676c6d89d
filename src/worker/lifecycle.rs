//! Where the proxy stands between its start and its end, as all of its workers know it.

use core::time::Duration;

use super::event::{Event, LifecycleChange};
use super::scope::Scope;
use super::{leader, store};
use crate::decision::probe;
use crate::policy::Policy;
use crate::policy::probe::ProbeKind;
use crate::proxy::Proxy;
use crate::value::lease::LeaseRole;
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

    fn refresh(&mut self, proxy: &impl Proxy) {
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
}

impl<P: Proxy> Scope<'_, P> {
    /// Returns whether the startup probe's checks have passed, by what this worker knows.
    pub fn has_started(&mut self) -> bool {
        probe::has_started(self.policy, &self.snapshot())
    }

    /// Reads where the proxy stands, and notes that it has started, if it has by what this worker knows. Only the newest
    /// policy's verdict counts: an older one may ask for less.
    pub fn refresh_lifecycle(&mut self, now: Time, span: Duration) {
        let probes = &self.policy.probes;
        let starts = probes.of(ProbeKind::Startup).is_some();
        if !starts && probes.drain.is_none() {
            return;
        }
        self.lifecycle.refresh(self.proxy);
        if !starts || self.lifecycle.seen.started {
            return;
        }
        let leads = leader::claim(self.proxy, &self.lifecycle.key, self.holder, now, span) == LeaseRole::Leads;
        if leads && self.has_started() {
            self.change(LifecycleChange::Started);
        }
    }

    /// Orders the proxy to drain, or to stop draining. Returns whether the order was written.
    pub fn drain(&mut self, draining: bool) -> bool {
        self.change(if draining { LifecycleChange::Draining } else { LifecycleChange::NotDraining })
    }

    /// Applies one change, and records it if it is one. Returns whether it was written.
    fn change(&mut self, change: LifecycleChange) -> bool {
        let changed = store::update(self.proxy, &self.lifecycle.key, |known: Option<Lifecycle>| {
            let before = known.unwrap_or_default();
            let mut after = before;
            match change {
                LifecycleChange::Started => after.started = true,
                LifecycleChange::Draining => after.draining = true,
                LifecycleChange::NotDraining => after.draining = false,
            }
            ((before, after), (before != after).then_some(after))
        });
        let Some((before, after)) = changed else {
            return false;
        };
        self.lifecycle.seen = after;
        if before != after {
            self.record(&Event::Lifecycle { policy: self.policy, change });
        }
        true
    }
}
