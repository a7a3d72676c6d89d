//! A worker: one policy in one VM, and all that it does on the proxy's callbacks.
//!
//! A worker owns its requests, its checks under way, and its view of what all workers of the proxy share. It reads no
//! clock and does no I/O: everything that it asks of its surroundings goes through [`Proxy`]. So the same worker runs in
//! the filter and, many at a time, in a simulated world.
//!
//! | module | holds |
//! |---|---|
//! | [`exchange`] | one request, from its headers to its end |
//! | [`forwarded`], [`summary`] | a request that has gone on, and its response, as evidence |
//! | [`fast_path`] | when a response need not be inspected |
//! | [`app_probe`], [`grpc_health`] | probes that go on to the app or to a hop |
//! | [`upstreams`], [`releases`], [`gates`], [`lifecycle`] | what is known of each, and how workers share it |
//! | [`checks`] | active checks under way |
//! | [`store`], [`leader`] | shared values, and who leads |
//! | [`event`], [`metrics`] | what is logged and counted |
//! | [`scope`] | what one callback works with |
//! | [`vm`] | the workers of one VM, by the ids of their root contexts |

mod app_probe;
mod checks;
pub mod event;
mod exchange;
mod exchanges;
pub mod fast_path;
mod forwarded;
mod gates;
mod grpc_health;
mod headers;
mod leader;
mod lifecycle;
pub mod metrics;
mod releases;
mod scope;
mod signals;
pub mod store;
mod summary;
mod upstreams;
pub mod vm;

use core::time::Duration;

use crate::policy::problem::Problems;
use crate::policy::upstream::{Upstream, UpstreamId};
use crate::policy::{Mode, Policy};
use crate::proxy::{Attribute, Body, CallId, ExchangeId, Flow, Proxy};
use crate::value::hash;
use crate::value::lease::Holder;
use crate::value::time::Time;
use checks::{CheckResult, ChecksInFlight};
use event::Event;
use exchange::Exchange;
use exchanges::Exchanges;
use lifecycle::LifecycleView;
use metrics::Metrics;
use releases::ReleaseTable;
use scope::{Ids, Scope};
use signals::RequiredSignals;
use upstreams::UpstreamTable;

/// One policy in one VM.
pub struct Worker {
    policy: Policy,
    holder: Holder,
    signals: RequiredSignals,
    service: String,
    upstreams: UpstreamTable,
    releases: ReleaseTable,
    lifecycle: LifecycleView,
    metrics: Metrics,
    ids: Ids,
    exchanges: Exchanges<Box<Exchange>>,
    checks: ChecksInFlight,
    tick: Duration,
    /// Whether the policy has come into use; one that the proxy only tries out never ticks.
    in_use: bool,
    /// Whether it led any upstream on its last tick.
    leads: bool,
}

/// The most problems of a refused policy that are logged, as each VM logs them all.
const LOGGED: usize = 20;

/// A worker that does not renew its lease in this time is given up. Four ticks at least.
const LEASE: Duration = Duration::from_secs(1);

/// After how long a policy that needs no ticks has its only one.
const FIRST_TICK: Duration = Duration::from_millis(50);

/// The period at which a worker tries to end an order to drain for which its policy has no switch.
const ORPHANED_DRAIN_TICK: Duration = Duration::from_millis(250);

impl Worker {
    /// Reads the policy document that the proxy hands over, of so many bytes, and starts with what other workers know
    /// already. Logs and counts a document that is refused.
    ///
    /// # Errors
    ///
    /// All problems of a document that is wrong in itself.
    pub fn configure(proxy: &impl Proxy, size: usize) -> Result<Self, Problems> {
        let text = proxy.body(Body::Configuration, size);
        let plugin = proxy.attribute(Attribute::PluginName).unwrap_or_default();
        let plugin = String::from_utf8_lossy(&plugin);
        let node = proxy.attribute(Attribute::NodeId).unwrap_or_default();
        let policy = match Policy::for_node(&text, &node) {
            Ok(policy) => policy,
            Err(problems) => {
                refuse(proxy, &plugin, &problems);
                return Err(problems);
            }
        };
        let document = hash::key(0, &text);
        if is_new(proxy, &plugin, &policy, document) {
            Event::PolicyLoaded { policy: &policy }.record(proxy);
        }
        let mut worker = Self::new(proxy, policy, document);
        if worker.policy.mode == Mode::Off {
            worker.scope(proxy).publish_in_use();
        } else {
            // Each policy has a first tick, by which it is in use.
            worker.tick = worker.tick_period().unwrap_or(FIRST_TICK);
            proxy.tick_every(worker.tick);
        }
        Ok(worker)
    }

    fn new(proxy: &impl Proxy, policy: Policy, document: u64) -> Self {
        let now = proxy.now();
        let service = proxy.attribute(Attribute::NodeCluster).unwrap_or_default();
        gates::seed(proxy, &policy);
        app_probe::seed(proxy, &policy);
        let id = proxy.random();
        let mut worker = Worker {
            upstreams: UpstreamTable::new(&policy, proxy, now),
            releases: ReleaseTable::new(proxy, &policy, now),
            lifecycle: LifecycleView::new(proxy, &policy),
            metrics: Metrics::new(proxy, &policy),
            signals: RequiredSignals::of(&policy),
            holder: Holder { id, configured: now, policy: document },
            service: String::from_utf8_lossy(&service).into_owned(),
            ids: Ids::new(id),
            exchanges: Exchanges::default(),
            checks: ChecksInFlight::default(),
            tick: Duration::ZERO,
            in_use: false,
            leads: false,
            policy,
        };
        // As an update that brings a startup probe must fail no readiness, what is known counts at once. The others learn
        // of it on the first tick.
        if worker.scope(proxy).has_started() {
            worker.lifecycle.assume_started();
        }
        worker
    }

    /// Returns the policy.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Returns what is known of the upstreams.
    pub fn upstreams(&self) -> &UpstreamTable {
        &self.upstreams
    }

    /// Returns whether it led any upstream on its last tick.
    pub fn leads(&self) -> bool {
        self.leads
    }

    /// Returns whether no request is left that it has something to do for.
    pub fn is_idle(&self) -> bool {
        self.exchanges.is_empty()
    }

    /// Returns whether there is anything left to do for this request.
    pub fn has(&self, id: ExchangeId) -> bool {
        self.exchanges.has(id)
    }

    fn scope<'w, P: Proxy>(&'w mut self, proxy: &'w P) -> Scope<'w, P> {
        self.split(proxy).0
    }

    /// Splits the worker into what a callback works with, and what it works on.
    fn split<'w, P: Proxy>(
        &'w mut self,
        proxy: &'w P,
    ) -> (Scope<'w, P>, &'w mut Exchanges<Box<Exchange>>, &'w mut ChecksInFlight) {
        let scope = Scope {
            policy: &self.policy,
            proxy,
            holder: self.holder,
            signals: self.signals,
            service: &self.service,
            upstreams: &mut self.upstreams,
            releases: &mut self.releases,
            lifecycle: &mut self.lifecycle,
            metrics: &mut self.metrics,
            ids: &mut self.ids,
        };
        (scope, &mut self.exchanges, &mut self.checks)
    }

    /// Decides on a request in the callback of its headers, of which there are so many. Returns what the proxy is to do
    /// with it now.
    pub fn on_request_headers(
        &mut self,
        proxy: &impl Proxy,
        id: ExchangeId,
        headers: usize,
        end: bool,
    ) -> Flow {
        let (mut scope, exchanges, _) = self.split(proxy);
        let (flow, exchange) = Exchange::begin(&mut scope, headers, end);
        if let Some(exchange) = exchange
            && let Some(lost) = exchanges.insert(id, Box::new(exchange))
        {
            lost.on_end(&mut scope);
        }
        flow
    }

    /// Takes a part of a request's body.
    pub fn on_request_body(&mut self, proxy: &impl Proxy, id: ExchangeId, size: usize, end: bool) {
        self.with_exchange(proxy, id, |exchange, scope| exchange.on_request_body(scope, size, end));
    }

    /// Takes a request's trailers.
    pub fn on_request_trailers(&mut self, proxy: &impl Proxy, id: ExchangeId) {
        self.with_exchange(proxy, id, |exchange, scope| exchange.on_request_trailers(scope));
    }

    /// Takes a response's headers, of which there are so many.
    pub fn on_response_headers(&mut self, proxy: &impl Proxy, id: ExchangeId, headers: usize, end: bool) {
        self.with_exchange(proxy, id, |exchange, scope| exchange.on_response_headers(scope, headers, end));
    }

    /// Takes a part of a response's body.
    pub fn on_response_body(&mut self, proxy: &impl Proxy, id: ExchangeId, size: usize, end: bool) {
        self.with_exchange(proxy, id, |exchange, scope| exchange.on_response_body(scope, size, end));
    }

    /// Takes a response's trailers.
    pub fn on_response_trailers(&mut self, proxy: &impl Proxy, id: ExchangeId) {
        self.with_exchange(proxy, id, |exchange, scope| exchange.on_response_trailers(scope));
    }

    /// Takes the end of a request, whatever happened to it. Returns whether it was one that there was something left to
    /// do for.
    pub fn on_end(&mut self, proxy: &impl Proxy, id: ExchangeId) -> bool {
        let Some(exchange) = self.exchanges.remove(id) else {
            return false;
        };
        exchange.on_end(&mut self.scope(proxy));
        true
    }

    fn with_exchange<P: Proxy>(
        &mut self,
        proxy: &P,
        id: ExchangeId,
        act: impl FnOnce(&mut Exchange, &mut Scope<'_, P>),
    ) {
        let (mut scope, exchanges, _) = self.split(proxy);
        if let Some(exchange) = exchanges.get_mut(id) {
            act(exchange, &mut scope);
        }
    }

    /// Takes the passing of time. What others saw comes in first, so that whether a check is due is judged by the newest
    /// state.
    pub fn on_tick(&mut self, proxy: &impl Proxy) {
        if !self.in_use {
            // Tried again on the next tick if it loses to too many other workers.
            self.in_use = self.scope(proxy).adopt();
            if self.in_use && self.tick_period().is_none() {
                proxy.tick_every(Duration::ZERO);
            }
        }
        let (now, slack) = (proxy.now(), self.tick / 2);
        let (mut scope, exchanges, checks) = self.split(proxy);
        let mut entered = false;
        for (id, exchange) in exchanges.iter_mut() {
            entered |= exchange.on_tick(&mut scope, id, now);
        }
        if entered {
            proxy.leave();
        }
        let mut any = false;
        for (id, upstream) in scope.policy.upstream_ids().filter(|(_, upstream)| upstream.is_watched()) {
            // Renewed while a check is under way, too: one that takes its time must not make another worker send the
            // next.
            let leads = scope.upstreams.claim_lead(proxy, id, scope.holder, now, LEASE);
            scope.refresh(id, now, leads);
            if leads {
                any = true;
                scope.publish_ready(id);
                scope.check(checks, (id, upstream), now, slack);
            }
        }
        scope.refresh_gates(now, LEASE);
        scope.refresh_lifecycle(now, LEASE);
        for event in scope.releases.refresh(proxy, scope.policy, scope.metrics, now) {
            scope.record(&event);
        }
        self.leads = any;
    }

    /// Takes the end of an HTTP call, of whose response so many headers have come; none if it broke off.
    pub fn on_http_call_response(&mut self, proxy: &impl Proxy, id: CallId, headers: usize) {
        let now = proxy.now();
        let (mut scope, _, checks) = self.split(proxy);
        let result = checks.on_http_response(proxy, scope.policy, id, headers, now);
        scope.finish_check(result);
    }

    /// Takes the end of a gRPC call: its status, and the size of its message.
    pub fn on_grpc_call_end(&mut self, proxy: &impl Proxy, id: CallId, status: u32, size: usize) {
        let (mut scope, _, checks) = self.split(proxy);
        let result = checks.on_grpc_end(proxy, id, status, size);
        scope.finish_check(result);
    }

    /// Returns how often this worker has to look at what is shared, if it ever has to again.
    fn tick_period(&self) -> Option<Duration> {
        let orphaned = self.lifecycle.has_orphaned_drain(&self.policy);
        self.policy.tick().or(orphaned.then_some(ORPHANED_DRAIN_TICK))
    }
}

impl<P: Proxy> Scope<'_, P> {
    /// Takes over what an earlier policy has left: what it knew of releases and gates, an order to drain for which this
    /// policy has no switch, and its assumptions. Called once the policy is in use, because the proxy may refuse it
    /// before. Returns false if a part could not be written.
    fn adopt(&mut self) -> bool {
        self.publish_in_use();
        self.releases.publish_shares(self.proxy, self.policy, self.metrics);
        let releases = self.releases.adopt(self.proxy, self.policy);
        let gates = self.adopt_gates();
        let drain = !self.lifecycle.has_orphaned_drain(self.policy) || self.drain(false);
        let assumptions = self.upstreams.adopt_assumptions(self.proxy, self.policy);
        releases && gates && drain && assumptions
    }

    fn publish_in_use(&mut self) {
        self.metrics.set_in_use(self.proxy, self.policy, self.holder.policy);
    }

    /// Sends the upstream's next check, if it is due.
    fn check(
        &mut self,
        checks: &mut ChecksInFlight,
        (id, upstream): (UpstreamId, &Upstream),
        now: Time,
        slack: Duration,
    ) {
        let (Some(check), Some(state)) = (&upstream.check, self.upstreams.snapshot(id)) else {
            return;
        };
        let generation = state.generation;
        // Claimed before it is sent: if the lease changes hands now, the next holder knows.
        if checks.has(id, now)
            || !state.is_check_due(check, now, slack)
            || !self.upstreams.claim_check(self.policy, self.proxy, id, now, slack)
        {
            return;
        }
        if let Err(why) = checks.start(self.proxy, (id, upstream), check, generation, now) {
            self.on_check_not_sent(id, why);
        }
    }

    fn finish_check(&mut self, result: Option<CheckResult>) {
        if let Some(CheckResult { upstream, generation, result }) = result {
            self.on_check(upstream, generation, result);
        }
    }
}

/// Logs and counts a policy that is refused. The proxy's own record of it does not say why.
fn refuse(proxy: &impl Proxy, plugin: &str, problems: &Problems) {
    let count = problems.iter().count();
    for problem in problems.iter().take(LOGGED) {
        Event::Problem(problem).record(proxy);
    }
    if count > LOGGED {
        Event::MoreProblems(count - LOGGED).record(proxy);
    }
    Event::PolicyRefused { plugin }.record(proxy);
}

/// Returns whether this worker is the first of the proxy to be given this document, so that it is the one to say so.
fn is_new(proxy: &impl Proxy, plugin: &str, policy: &Policy, document: u64) -> bool {
    let key = format!("graygate/{}/loaded/{plugin}", policy.name);
    let first = store::update(proxy, &key, |last: Option<u64>| {
        let new = last != Some(document);
        (new, new.then_some(document))
    });
    first.unwrap_or(false)
}
