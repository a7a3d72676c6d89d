//! The lifecycle of the proxy, which all of its workers share.

use core::time::Duration;

use super::{leader, store};
use crate::policy::Policy;
use crate::policy::upstream::UpstreamId;
use crate::proxy::Proxy;
use crate::value::hash;
use crate::value::lease::{Holder, LeaseRole};
use crate::value::lifecycle::{Lifecycle, UpstreamDrain};
use crate::value::time::Time;

/// One worker's view of the lifecycle.
pub struct LifecycleView {
    /// The key has no layout in it, so another release of this module keeps the lifecycle.
    key: String,
    /// The key beside which the lead is. It has the layout in it, as a lease is not kept.
    lead: String,
    /// The upstream whose checks tell of a drain, as a hash of its name. 0 if there is none.
    source: u64,
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
        let also_when = policy.probes.drain.as_ref().and_then(|drain| drain.also_when);
        let source = also_when.map_or(0, |id| hash::seed(policy.name_of(id)));
        let mut view = LifecycleView { key, lead, source, seen: Lifecycle::default() };
        view.refresh(proxy);
        view
    }

    /// Returns the lifecycle as this worker last read it.
    pub fn seen(&self) -> Lifecycle {
        self.seen
    }

    /// Returns the lifecycle as this worker last read it, without what the policy does not ask for.
    pub fn of(&self, policy: &Policy) -> Lifecycle {
        let upstream = self.seen.upstream.of(self.source);
        let draining = self.seen.draining && has_switch(policy);
        Lifecycle { draining, upstream, ..self.seen }
    }

    /// Reads the lifecycle again.
    pub fn refresh(&mut self, proxy: &impl Proxy) {
        self.seen = store::get(proxy, &self.key).unwrap_or_default();
    }

    /// Treats the proxy as started, in this worker only, until the next tick.
    pub fn assume_started(&mut self) {
        self.seen.started = true;
    }

    /// Returns whether the proxy drains for a reason that the policy does not have.
    pub fn has_orphaned_drain(&self, policy: &Policy) -> bool {
        let of_policy = self.of(policy);
        self.seen.draining != of_policy.draining || self.seen.upstream.draining != of_policy.upstream.draining
    }

    /// Claims the lead for `span`. Only the leader decides whether the proxy has started. Returns whether this worker leads.
    pub fn claim_lead(&self, proxy: &impl Proxy, holder: Holder, now: Time, span: Duration) -> bool {
        leader::claim(proxy, &self.lead, holder, now, span) == LeaseRole::Leads
    }

    /// Applies one change to the shared lifecycle. Returns it as it was before and as it is now, or `None` if it could
    /// not be written.
    pub fn change(
        &mut self,
        proxy: &impl Proxy,
        change: impl Fn(&mut Lifecycle),
    ) -> Option<(Lifecycle, Lifecycle)> {
        let now = proxy.now();
        let (before, after) = store::update(proxy, &self.key, |known: Option<Lifecycle>| {
            let before = known.unwrap_or_default();
            let after = before.changed(&change, now);
            ((before, after), (before != after).then_some(after))
        })?;
        self.seen = after;
        Some((before, after))
    }

    /// Returns the change that ends the reasons to drain which the policy does not have.
    pub fn without_orphans(&self, policy: &Policy) -> impl Fn(&mut Lifecycle) + use<> {
        let (has_switch, source) = (has_switch(policy), self.source);
        move |lifecycle| {
            lifecycle.draining &= has_switch;
            lifecycle.upstream = lifecycle.upstream.of(source);
        }
    }

    /// Returns the change that an answer to a check of the upstream makes.
    pub fn with_answer(&self, passed: bool, threshold: u32) -> impl Fn(&mut Lifecycle) + use<> {
        let source = self.source;
        move |lifecycle| {
            let mut upstream: UpstreamDrain = lifecycle.upstream.of(source);
            upstream.on_answer(passed, threshold);
            lifecycle.upstream = upstream;
        }
    }
}

fn has_switch(policy: &Policy) -> bool {
    policy.probes.drain.as_ref().is_some_and(|drain| drain.path.is_some())
}

/// Returns whether the checks of this upstream tell of a drain.
pub fn tells_of_drain(policy: &Policy, id: UpstreamId) -> bool {
    policy.probes.drain.as_ref().is_some_and(|drain| drain.also_when == Some(id))
}
