//! A worker: one policy in one VM, and everything that it does in the proxy's callbacks.
//!
//! A worker owns its requests, its checks in flight, and its view of the state that all workers of the proxy share. It
//! reads no clock and does no I/O. It reaches the proxy only through [`Proxy`]. So the same worker runs in the filter
//! and, many at a time, in the simulated proxy of the tests.
//!
//! | module | holds |
//! |---|---|
//! | [`exchange`] | one request, from its headers to its end |
//! | [`exchanges`] | the exchanges of a worker, by id |
//! | [`forwarded`], [`summary`] | a forwarded request and its response, as evidence |
//! | [`fast_path`] | the responses that need no inspection |
//! | [`app_probe`], [`app_calls`] | probes that the app answers, and the calls that ask it |
//! | [`grpc_health`] | gRPC health checks that are forwarded to a hop |
//! | [`headers`] | the headers of the current request |
//! | [`upstreams`], [`releases`], [`gates`], [`lifecycle`] | the shared state of each, and how workers update it |
//! | [`sweep`], [`changes`] | which upstreams a tick looks at, if there are many |
//! | [`routes`], [`misrouted`] | whether the requests of each version reach its cluster |
//! | [`checks`] | checks in flight |
//! | [`calls`] | what all HTTP calls have in common |
//! | [`store`], [`leader`] | shared values, and the leases of leaders |
//! | [`event`], [`metrics`] | what is logged and counted |
//! | [`gauges`] | which policy's gauges are shown, and the end of those that leave |
//! | [`scope`] | what one callback works with |
//! | [`status`] | what the status page shows |
//! | [`signals`] | what has to be read from each response |
//! | [`budget`] | what the workers of a root may do on one tick |
//! | [`configuration`], [`last_good`] | a root's document, and what goes on instead of a wrong policy |
//! | [`root`] | a root context: the workers of one document |
//! | [`vm`] | the roots of one VM, by the ids of their contexts |
//! | [`pulse`] | which VMs of a plugin live |

mod app_calls;
mod app_probe;
pub mod budget;
mod calls;
mod changes;
mod checks;
mod configuration;
pub mod event;
mod exchange;
mod exchanges;
pub mod fast_path;
mod forwarded;
mod gates;
mod gauges;
mod grpc_health;
mod headers;
mod last_good;
mod leader;
mod lifecycle;
pub mod metric;
pub mod metrics;
mod misrouted;
mod plugin_metrics;
mod pulse;
mod releases;
mod root;
mod routes;
mod scope;
mod signals;
mod status;
pub mod store;
mod summary;
mod sweep;
mod upstreams;
pub mod vm;

use core::time::Duration;

use crate::decision::ready::ReadyReplies;
use crate::policy::upstream::{Upstream, UpstreamId};
use crate::policy::{Mode, Policy};
use crate::proxy::{Attribute, CallId, ExchangeId, Flow, Proxy};
use crate::value::lease::Holder;
use crate::value::time::Time;
use app_calls::AppCalls;
use app_probe::WAITING_TICK;
use budget::TickBudget;
use checks::{CheckResult, ChecksInFlight};
use exchange::Exchange;
use exchanges::{Exchanges, Looks};
use headers::{ReadingHabit, RequestHeaders};
use lifecycle::LifecycleView;
use metrics::Metrics;
use releases::ReleaseTable;
use routes::RouteWatch;
use scope::{Ids, Scope};
use signals::RequiredSignals;
use upstreams::{Turn, UpstreamTable};

/// One policy in one VM.
pub struct Worker {
    policy: Policy,
    holder: Holder,
    signals: RequiredSignals,
    service: String,
    upstreams: UpstreamTable,
    releases: ReleaseTable,
    routes: RouteWatch,
    lifecycle: LifecycleView,
    metrics: Metrics,
    ids: Ids,
    reading: ReadingHabit,
    ready: ReadyReplies,
    exchanges: Exchanges<Box<Exchange>>,
    /// The first request that the next tick looks at.
    next_look: ExchangeId,
    checks: ChecksInFlight,
    app_calls: AppCalls,
    /// The tick that the worker needs now, or zero if it needs none.
    tick: Duration,
    /// The time of its next tick.
    next_tick: Time,
    /// Whether it has got a request.
    asked: bool,
    /// Whether the policy is in use. A policy that the proxy only validates never ticks, so it is never in use.
    in_use: bool,
    /// Whether the worker led any upstream on its last tick.
    leads: bool,
    /// The time until which it sends no checks, because its VM has begun to serve requests. Until then, a VM that serves
    /// none can take the lead.
    hands_over_until: Option<Time>,
}

/// The time for which a lead of something other than an upstream lasts without being renewed. It is at least four ticks, so
/// one late tick loses no lead.
const LEASE: Duration = Duration::from_secs(1);

/// The time after which a policy without a request is in use. Until then the proxy may still refuse it because of another
/// filter: it creates that filter next, which takes it tens of milliseconds, and other threads tick meanwhile.
const TRIED: Duration = Duration::from_millis(250);

/// The period of the first ticks of a policy that needs no periodic ticks. With few metrics, there is only one.
const FIRST_TICK: Duration = Duration::from_millis(50);

/// The tick while the proxy drains for a reason that the policy does not have. The worker tries to end the drain.
const ORPHANED_DRAIN_TICK: Duration = Duration::from_millis(250);

impl Worker {
    /// Creates the worker of a policy. It starts with the state that the other workers share. `document` is the hash of
    /// the policy's text. `watched` is [`Policy::watched`] of all policies of the root's document.
    pub fn start(proxy: &impl Proxy, policy: Policy, document: u64, watched: usize) -> Self {
        let mut worker = Self::new(proxy, policy, document, watched);
        worker.plan_tick(proxy.now());
        worker
    }

    fn new(proxy: &impl Proxy, policy: Policy, document: u64, watched: usize) -> Self {
        let now = proxy.now();
        let service = proxy.attribute(Attribute::NodeCluster).unwrap_or_default();
        gates::seed(proxy, &policy);
        app_probe::seed(proxy, &policy);
        misrouted::seed(proxy, &policy);
        let id = proxy.random();
        let mut worker = Worker {
            upstreams: UpstreamTable::new(&policy, watched, proxy, now),
            releases: ReleaseTable::new(proxy, &policy, now),
            routes: RouteWatch::new(&policy),
            lifecycle: LifecycleView::new(proxy, &policy),
            metrics: Metrics::new(&policy, watched),
            signals: RequiredSignals::of(&policy),
            holder: Holder { id, configured: now, policy: document, serves: false },
            service: String::from_utf8_lossy(&service).into_owned(),
            ids: Ids::new(id),
            reading: ReadingHabit::default(),
            ready: ReadyReplies::kept(),
            exchanges: Exchanges::default(),
            next_look: ExchangeId(0),
            checks: ChecksInFlight::default(),
            app_calls: AppCalls::default(),
            tick: Duration::ZERO,
            next_tick: now,
            asked: false,
            in_use: false,
            leads: false,
            hands_over_until: None,
            policy,
        };
        // An update that adds a startup probe must not fail readiness, so this worker uses what it knows at once. The
        // first tick shares it.
        if worker.scope(proxy).has_started() {
            worker.lifecycle.assume_started();
        }
        worker
    }

    /// Returns the policy that the worker applies.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Returns the tick that the worker needs now, or zero if it needs none.
    pub fn tick(&self) -> Duration {
        self.tick
    }

    /// Returns whether the worker takes part in a tick of its root at `now`. `period` is the root's tick. A worker that
    /// needs a longer one takes part if its next tick is due now, rather than at the root's next one.
    pub fn is_tick_due(&self, now: Time, period: Duration) -> bool {
        !self.tick.is_zero() && (self.tick <= period || self.next_tick <= now + period / 2)
    }

    /// Returns the upstreams' states as this worker last read them.
    pub fn upstreams(&self) -> &UpstreamTable {
        &self.upstreams
    }

    /// Returns whether the worker led any upstream on its last tick.
    pub fn leads(&self) -> bool {
        self.leads
    }

    /// Returns whether a tick that comes soon is to look at a request.
    pub fn awaits_look(&self) -> bool {
        self.routes.is_late_look_due()
    }

    /// Looks at the request that waits for it. See [`Worker::awaits_look`].
    pub fn look_at_late_request(&mut self, proxy: &impl Proxy) {
        self.scope(proxy).look_at_late_request();
    }

    /// Returns the time of its next tick. `None` if it needs none.
    pub fn next_tick(&self) -> Option<Time> {
        (!self.tick.is_zero()).then_some(self.next_tick)
    }

    /// Returns whether the worker has no exchanges and no work for probes.
    pub fn is_idle(&self) -> bool {
        self.exchanges.is_empty() && self.app_calls.is_idle()
    }

    /// Returns whether the worker has an exchange for this request.
    pub fn has(&self, id: ExchangeId) -> bool {
        self.exchanges.has(id)
    }

    fn scope<'w, P: Proxy>(&'w mut self, proxy: &'w P) -> Scope<'w, P> {
        self.split(proxy).0
    }

    /// Borrows the scope separately from the exchanges and the checks, so that a callback can change both.
    fn split<'w, P: Proxy>(
        &'w mut self,
        proxy: &'w P,
    ) -> (Scope<'w, P>, &'w mut Exchanges<Box<Exchange>>, &'w mut ChecksInFlight) {
        let scope = Scope {
            policy: &self.policy,
            proxy,
            holder: self.holder,
            signals: &self.signals,
            service: &self.service,
            upstreams: &mut self.upstreams,
            releases: &mut self.releases,
            routes: &mut self.routes,
            lifecycle: &mut self.lifecycle,
            app_calls: &mut self.app_calls,
            metrics: &mut self.metrics,
            ready: &mut self.ready,
            ids: &mut self.ids,
        };
        (scope, &mut self.exchanges, &mut self.checks)
    }

    /// Decides on a request in the callback of its headers. Returns what the proxy must do with the request now.
    pub fn on_request_headers<P: Proxy>(
        &mut self,
        proxy: &P,
        id: ExchangeId,
        headers: &RequestHeaders<'_, P>,
        end: bool,
    ) -> Flow {
        self.asked = true;
        if self.reading.is_path_first() {
            headers.read_path_first();
        }
        let (mut scope, exchanges, _) = self.split(proxy);
        let (flow, exchange) = Exchange::begin(&mut scope, id, headers, end);
        if proxy.module().sees_responses()
            && let Some(exchange) = exchange
            && let Some(replaced) = exchanges.insert(id, exchange)
        {
            replaced.on_end(&mut scope);
        }
        if let Some(path_sufficed) = headers.path_sufficed() {
            self.reading.learn(path_sufficed);
        }
        if self.app_calls.is_waiting() && self.tick != WAITING_TICK {
            self.plan_tick(proxy.now());
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

    /// Takes a response's headers. `headers` is their number.
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

    /// Takes the end of a request, whatever its cause. Returns whether the worker had work for it.
    pub fn on_end(&mut self, proxy: &impl Proxy, id: ExchangeId) -> bool {
        if !proxy.module().sees_responses() {
            return false;
        }
        if self.app_calls.leave(id) {
            return true;
        }
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

    /// Runs one tick. For each upstream it reads what the other workers shared before it sends a check, because the newest
    /// state determines whether a check is due. `serves` is whether the VM has served a request. `budget` is what the tick
    /// may still do.
    pub fn on_tick(&mut self, proxy: &impl Proxy, serves: bool, budget: &mut TickBudget) {
        let now = proxy.now();
        if !self.in_use && !self.asked && now.since(self.holder.configured) < TRIED {
            // A tick of a policy that is refused must change nothing that workers share.
            self.next_tick = now + self.tick;
            return;
        }
        let is_off = self.policy.mode == Mode::Off;
        self.scope(proxy).claim_gauges();
        if !self.in_use {
            // If this fails, the next tick tries again.
            self.in_use = is_off || self.scope(proxy).adopt();
        }
        if is_off {
            self.scope(proxy).refresh_gauges(now, LEASE, &mut budget.metrics);
            self.next_tick = now + self.tick;
            return self.plan_tick(now);
        }
        if serves && !core::mem::replace(&mut self.holder.serves, serves) {
            self.hands_over_until = Some(now + self.upstreams.take_over());
        }
        let hands_over = self.hands_over_until.is_some_and(|until| now < until);
        let slack = self.tick / 2;
        let first_look = self.next_look;
        let (mut scope, exchanges, checks) = self.split(proxy);
        scope.upstreams.on_tick(proxy, now);
        let mut entered = false;
        let mut looks = Looks::new(&mut budget.looks);
        let exchanges = proxy.module().sees_responses().then(|| exchanges.iter_from(first_look));
        for (id, exchange) in exchanges.into_iter().flatten() {
            entered |= exchange.on_tick(&mut scope, id, now, &mut looks);
        }
        let next_look = looks.next.unwrap_or(first_look);
        if entered {
            proxy.leave();
        }
        let span = scope.upstreams.lease();
        let mut leads_any = false;
        for (id, upstream) in scope.policy.upstream_ids().filter(|(_, upstream)| upstream.is_watched()) {
            let turn = scope.upstreams.turn(upstream, id, now);
            if turn == Turn::Claim {
                // The lead is also renewed while a check is in flight. Otherwise another worker would send the next check
                // during a slow one.
                scope.upstreams.claim_lead(proxy, id, scope.holder, now, span);
            }
            let leads = scope.upstreams.leads(id);
            leads_any |= leads;
            if turn != Turn::Rest {
                scope.refresh(id, now, leads);
            }
            if leads && turn != Turn::Rest {
                scope.publish_ready(id);
            }
        }
        if !hands_over {
            scope.send_checks(checks, now, slack, &mut budget.checks);
        }
        scope.upstreams.end_tick(proxy);
        scope.refresh_gates(now, LEASE);
        scope.refresh_lifecycle(now, LEASE);
        scope.refresh_releases(now);
        if proxy.module().sees_responses() {
            scope.refresh_app_probes(now);
        }
        scope.refresh_gauges(now, LEASE, &mut budget.metrics);
        self.leads = leads_any;
        self.next_look = next_look;
        self.next_tick = now + self.tick;
        self.plan_tick(now);
    }

    /// Shares what the worker has seen since its last tick. Called when its root has ended, because no tick follows.
    pub fn flush(&mut self, proxy: &impl Proxy) {
        if proxy.module().sees_responses() {
            self.scope(proxy).abandon_app_probes();
        }
        if !self.in_use {
            return;
        }
        let now = proxy.now();
        let mut scope = self.scope(proxy);
        for (id, _) in scope.policy.upstream_ids().filter(|(_, upstream)| upstream.is_watched()) {
            if scope.upstreams.has_unshared(id) {
                scope.refresh(id, now, false);
            }
        }
        scope.upstreams.end_tick(proxy);
        scope.refresh_releases(now);
    }

    /// Ends the policy's gauges if the policy leaves the proxy with this worker.
    pub fn leave(&mut self, proxy: &impl Proxy) {
        if self.in_use {
            self.scope(proxy).end_gauges();
        }
    }

    /// Takes the end of an HTTP call. `headers` is the number of the response's headers, and 0 if no response came.
    pub fn on_http_call_response(&mut self, proxy: &impl Proxy, id: CallId, headers: usize) {
        let now = proxy.now();
        let (mut scope, _, checks) = self.split(proxy);
        let result = checks.on_response(&scope, id, headers, now);
        scope.finish_check(result);
        if proxy.module().sees_responses() {
            scope.on_app_response(id, headers);
        }
    }

    /// Determines the tick that the worker needs now.
    fn plan_tick(&mut self, now: Time) {
        // Every policy ticks until it is in use and its metrics exist.
        let has_begun = self.in_use && self.metrics.are_complete();
        let regular = self.tick_period().or((!has_begun).then_some(FIRST_TICK));
        let waiting = self.app_calls.is_waiting().then_some(WAITING_TICK);
        let tick = regular.into_iter().chain(waiting).min().unwrap_or(Duration::ZERO);
        if tick != self.tick {
            self.tick = tick;
            self.next_tick = now + tick;
        }
    }

    /// Returns the worker's regular tick, or `None` if it needs no periodic ticks.
    fn tick_period(&self) -> Option<Duration> {
        if self.policy.mode == Mode::Off {
            return None;
        }
        let orphaned = self.lifecycle.has_orphaned_drain(&self.policy);
        self.policy.tick().or(orphaned.then_some(ORPHANED_DRAIN_TICK))
    }
}

impl<P: Proxy> Scope<'_, P> {
    /// Takes over what an earlier policy left of releases, of gates and of assumptions about upstreams. Ends a drain for
    /// a reason that this policy does not have. Called on the first tick, because before that the proxy may still
    /// refuse the policy. Returns `false` if a part could not be written.
    fn adopt(&mut self) -> bool {
        let releases = self.releases.adopt(self.proxy, self.policy);
        let gates = self.adopt_gates();
        let drain = self.end_orphaned_drain();
        let assumptions = self.upstreams.adopt_assumptions(self.proxy, self.policy);
        releases && gates && drain && assumptions
    }

    /// Sends the checks that are due, of the upstreams that this worker leads, at most `left`. Goes on where the last tick
    /// stopped, so that no upstream waits for ever if there is more to send than a tick may.
    fn send_checks(&mut self, checks: &mut ChecksInFlight, now: Time, slack: Duration, left: &mut usize) {
        let policy = self.policy;
        let first = checks.next;
        let ids = || policy.upstream_ids().filter(|(_, upstream)| upstream.check.is_some());
        let from_first = ids().filter(|(id, _)| id.0 >= first).chain(ids().filter(|(id, _)| id.0 < first));
        for (id, upstream) in from_first {
            if *left == 0 {
                checks.next = id.0;
                break;
            }
            if self.upstreams.leads(id) && self.check(checks, (id, upstream), now, slack) {
                *left -= 1;
            }
        }
    }

    /// Sends the upstream's next check if it is due. Returns whether it is.
    fn check(
        &mut self,
        checks: &mut ChecksInFlight,
        (id, upstream): (UpstreamId, &Upstream),
        now: Time,
        slack: Duration,
    ) -> bool {
        let (Some(check), Some(state)) = (&upstream.check, self.upstreams.snapshot(id)) else {
            return false;
        };
        let generation = state.generation;
        // The check is claimed before it is sent. If the lead changes now, the next leader does not send it again.
        if !state.is_check_due(check, now, slack)
            || checks.has(id, now)
            || !self.upstreams.claim_check(self.policy, self.proxy, id, now, slack)
        {
            return false;
        }
        if let Err(why) = checks.start(self, id, check, generation, now) {
            self.on_check_not_sent(id, why);
        }
        true
    }

    fn finish_check(&mut self, result: Option<CheckResult>) {
        let Some(CheckResult { upstream, generation, result }) = result else {
            return;
        };
        match result {
            Ok(result) => self.on_check(upstream, generation, result),
            Err(why) => self.on_check_not_sent(upstream, why),
        }
    }
}
