//! What one callback of a worker works with: everything that its requests, checks and ticks have in common.
//!
//! The modules beside this one each add what they do to [`Scope`]: upstreams, releases, gates, the lifecycle.

use core::cell::OnceCell;

use super::event::Event;
use super::lifecycle::LifecycleView;
use super::metrics::Metrics;
use super::releases::ReleaseTable;
use super::signals::RequiredSignals;
use super::upstreams::UpstreamTable;
use crate::decision::{self, Decision};
use crate::policy::Policy;
use crate::policy::probe::ProbeKind;
use crate::policy::upstream::UpstreamId;
use crate::proxy::Proxy;
use crate::readiness::UpstreamStatus;
use crate::readiness::{Admission, Readiness};
use crate::readiness::permit::Permit;
use crate::value::lease::Holder;
use crate::value::lifecycle::Lifecycle;
use crate::value::request::Request;
use crate::value::time::Time;

/// A worker without its requests and checks under way, for the time of one callback.
pub struct Scope<'w, P> {
    /// The policy.
    pub policy: &'w Policy,
    /// The proxy.
    pub proxy: &'w P,
    /// This policy in this worker, among all of the proxy.
    pub holder: Holder,
    /// What has to be found out of each response.
    pub signals: RequiredSignals,
    /// The name of the proxy's own cluster, as its peers' health checks expect it.
    pub service: &'w str,
    /// What is known of the upstreams.
    pub upstreams: &'w mut UpstreamTable,
    /// How the releases divide their requests.
    pub releases: &'w mut ReleaseTable,
    /// Where the proxy stands.
    pub lifecycle: &'w mut LifecycleView,
    /// The counters and gauges.
    pub metrics: &'w mut Metrics,
    /// Numbers that no other request of the proxy has.
    pub ids: &'w mut Ids,
}

/// A source of ids that no other request of the proxy has.
pub struct Ids(u64);

impl Ids {
    /// Starts at a random number, which is the worker's own.
    pub fn new(random: u64) -> Self {
        Ids(random)
    }

    /// Returns the next one.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        self.0
    }
}

impl<'w, P: Proxy> Scope<'w, P> {
    /// Decides what is to happen to a request.
    pub fn decide(&mut self, request: &impl Request) -> Decision<'w> {
        let mut snapshot = Snapshot {
            policy: self.policy,
            proxy: self.proxy,
            upstreams: self.upstreams,
            lifecycle: self.lifecycle.seen(),
            ids: self.ids,
            random: OnceCell::new(),
        };
        decision::decide(self.policy, request, &mut snapshot, self.releases.splits_mut())
    }

    /// Returns what is known at this moment, as a request sees it.
    pub fn snapshot(&mut self) -> Snapshot<'_, P> {
        Snapshot {
            policy: self.policy,
            proxy: self.proxy,
            upstreams: self.upstreams,
            lifecycle: self.lifecycle.seen(),
            ids: self.ids,
            random: OnceCell::new(),
        }
    }

    /// Writes the event's log line and counts it.
    pub fn record(&self, event: &Event<'_>) {
        event.record(self.proxy);
    }
}

/// What is known at the moment of a request.
pub struct Snapshot<'s, P> {
    policy: &'s Policy,
    proxy: &'s P,
    upstreams: &'s mut UpstreamTable,
    lifecycle: Lifecycle,
    ids: &'s mut Ids,
    /// Asked for once, and only if it makes a difference.
    random: OnceCell<u64>,
}

impl<P: Proxy> Readiness for Snapshot<'_, P> {
    fn admission(&mut self, id: UpstreamId) -> Admission {
        self.upstreams.admission(self.policy, id)
    }

    fn lend_permit(&mut self, id: UpstreamId) -> Option<Permit> {
        self.upstreams.lend(self.policy, self.proxy, id, self.ids.next())
    }

    fn status(&self, id: UpstreamId) -> UpstreamStatus {
        self.upstreams.status(self.policy, id)
    }

    fn lifecycle(&self) -> Lifecycle {
        let probes = &self.policy.probes;
        Lifecycle {
            started: self.lifecycle.started || probes.of(ProbeKind::Startup).is_none(),
            draining: self.lifecycle.draining && probes.drain.is_some(),
        }
    }

    fn now(&self) -> Time {
        self.proxy.now()
    }

    fn random(&self) -> u64 {
        *self.random.get_or_init(|| self.proxy.random())
    }
}
