//! The workers of one VM. A root context has one worker for each policy of its document.
//!
//! The proxy identifies a request only by the id of its context, so this module finds the request's worker. A request may
//! outlive its root context and the root's document, so a worker is kept until its requests have ended.
//!
//! The proxy has one timer for each root. It ticks as often as the worker that needs the shortest tick. The other workers
//! are ticked when they are due.

use core::time::Duration;

use super::Worker;
use super::budget::TickBudget;
use super::configuration::{self, Configuration, Refusal, Unshared};
use super::headers::RequestHeaders;
use super::pulse::Pulse;
use crate::policy::host_index::HostIndex;
use crate::proxy::{CallId, ExchangeId, Flow, Proxy};

/// The tick of a root with something to share or to count and no worker that needs a tick.
const IDLE_TICK: Duration = Duration::from_millis(250);

/// All contexts of a VM, by the ids that the proxy gives them.
pub struct Vm<P> {
    roots: Vec<Root<P>>,
    /// The ids of the request whose context was created last, and of its root. The proxy creates each context right before
    /// it hands over the request's headers.
    latest: (u32, u32),
    /// Whether any root of the VM has served a request. All of them use the connections of one thread.
    serves: bool,
    /// A random number, which identifies the VM. `None` before its first tick.
    id: Option<u64>,
}

/// A root context.
struct Root<P> {
    id: u32,
    proxy: P,
    /// The workers of earlier documents, which are kept until their requests have ended. After them, those of the newest
    /// document in its order.
    workers: Vec<Worker>,
    /// The number of workers of earlier documents.
    earlier: usize,
    /// Finds the worker of the newest document that a request is for.
    index: HostIndex,
    /// The workers that have exchanges. Most callbacks of a proxy with many policies are for no worker.
    busy: Vec<usize>,
    /// What is to be shared once the document is in use.
    unshared: Option<Unshared>,
    /// The newest document, if it is wrong and not counted yet.
    refusal: Option<Refusal>,
    /// The signs of life of the VM. `None` before the first document.
    pulse: Option<Pulse>,
    /// Whether it has got a request with its newest document.
    serves: bool,
    /// The current tick, or zero if the root does not tick.
    tick: Duration,
    /// The worker that has the first turn on the next tick.
    first: usize,
    /// Whether the context has ended. The root is kept until the requests of its workers have ended.
    ended: bool,
}

impl<P: Proxy> Vm<P> {
    /// Creates a VM without a context.
    pub const fn new() -> Self {
        Vm { roots: Vec::new(), latest: (0, 0), serves: false, id: None }
    }

    /// Takes the start of a context. If `root` is 0 it is a root context, and otherwise the context of a request. `proxy`
    /// creates the proxy for the workers of a root.
    pub fn create(&mut self, id: u32, root: u32, proxy: impl FnOnce() -> P) {
        if root == 0 {
            self.roots.push(Root {
                id,
                proxy: proxy(),
                workers: Vec::new(),
                earlier: 0,
                index: HostIndex::default(),
                busy: Vec::new(),
                unshared: None,
                refusal: None,
                pulse: None,
                serves: false,
                tick: Duration::ZERO,
                first: 0,
                ended: false,
            });
        } else {
            self.latest = (id, root);
            self.serves = true;
        }
    }

    /// Takes the end of a context.
    pub fn delete(&mut self, id: u32) {
        let mut any_ended = false;
        let mut ended_now = false;
        for root in &mut self.roots {
            let ends = root.id == id && !root.ended;
            let ended_a_request = root.end_request(ExchangeId(id));
            root.ended |= ends;
            any_ended |= root.ended;
            // No tick follows that would share what the workers have seen.
            if ends || ended_a_request && root.ended {
                root.count_refusal(true);
                root.share();
                root.workers.iter_mut().for_each(|worker| worker.flush(&root.proxy));
            }
            if ends && let Some(pulse) = &mut root.pulse {
                pulse.end(&root.proxy);
            }
            ended_now |= ends;
            if ended_a_request {
                break;
            }
        }
        if ended_now {
            self.leave(id);
        }
        if any_ended {
            self.roots.retain(|root| !root.ended || root.workers.iter().any(|worker| !worker.is_idle()));
        }
    }

    /// Ends the gauges of the policies that leave the VM with this root. If another root has a policy of that name, the gauges
    /// keep their values until its first tick. Otherwise they would be 0 in between.
    fn leave(&mut self, id: u32) {
        let others = self.roots.iter().filter(|root| root.id != id && !root.ended);
        let names: Vec<String> =
            others.flat_map(|root| &root.workers).map(|worker| worker.policy().name.clone()).collect();
        for root in self.roots.iter_mut().filter(|root| root.id == id) {
            for worker in &mut root.workers {
                if !names.contains(&worker.policy().name) {
                    worker.leave(&root.proxy);
                }
            }
        }
    }

    /// Gives a root its document, which has `size` bytes. Returns whether the proxy may use it.
    pub fn configure(&mut self, root: u32, size: usize) -> bool {
        let Some(root) = self.root(root) else {
            return false;
        };
        match configuration::configure(&root.proxy, size) {
            Some(configuration) => {
                root.configure(configuration);
                true
            }
            None => false,
        }
    }

    /// Ticks the workers of a root that are due. Workers of earlier documents may still have requests to count.
    pub fn on_tick(&mut self, root: u32) {
        let (serves, mut id) = (self.serves, self.id);
        if let Some(root) = self.root(root) {
            let vm = *id.get_or_insert_with(|| root.proxy.random());
            root.on_tick(vm, serves);
        }
        self.id = id;
    }

    /// Returns whether a worker of a root led any upstream on its last tick.
    pub fn leads(&self, root: u32) -> bool {
        self.roots.iter().any(|known| known.id == root && known.workers.iter().any(Worker::leads))
    }

    /// Takes the end of an HTTP call. `headers` is the number of its response's headers.
    pub fn on_http_call_response(&mut self, root: u32, call: u32, headers: usize) {
        if let Some(root) = self.root(root) {
            for worker in &mut root.workers {
                worker.on_http_call_response(&root.proxy, CallId(call), headers);
            }
        }
    }

    /// Takes the headers of a request. `headers` is their number. Returns what the proxy must do with the request now.
    pub fn on_request_headers(&mut self, id: u32, headers: usize, end: bool) -> Flow {
        let (latest, root) = self.latest;
        if latest != id {
            return Flow::Continue;
        }
        let Some(root) = self.root(root) else {
            return Flow::Continue;
        };
        root.on_request_headers(ExchangeId(id), headers, end)
    }

    /// Calls `act` with the worker that has an exchange for the request, if one has.
    pub fn with_exchange(&mut self, id: u32, act: impl FnOnce(&mut Worker, &P, ExchangeId)) {
        let id = ExchangeId(id);
        for root in &mut self.roots {
            for index in &root.busy {
                if let Some(worker) = root.workers.get_mut(*index)
                    && worker.has(id)
                {
                    return act(worker, &root.proxy, id);
                }
            }
        }
    }

    /// Iterates over the workers of each root's newest document, with the root's id.
    pub fn workers(&self) -> impl Iterator<Item = (u32, &Worker)> {
        self.roots
            .iter()
            .flat_map(|root| root.workers.iter().skip(root.earlier).map(|worker| (root.id, worker)))
    }

    fn root(&mut self, id: u32) -> Option<&mut Root<P>> {
        self.roots.iter_mut().find(|root| root.id == id && !root.ended)
    }
}

impl<P: Proxy> Root<P> {
    /// Replaces the document. Workers of the earlier one that have no requests share what they have seen, and end.
    fn configure(&mut self, configuration: Configuration) {
        for worker in self.workers.iter_mut().filter(|worker| worker.is_idle()) {
            worker.flush(&self.proxy);
        }
        self.earlier = self.workers.len();
        self.drop_earlier();
        self.workers.extend(configuration.workers);
        self.index = configuration.index;
        self.unshared = Some(configuration.unshared);
        self.pulse.get_or_insert(configuration.pulse);
        self.count_refusal(true);
        self.refusal = configuration.refusal;
        self.serves = false;
        self.set_tick();
    }

    /// Removes the workers of earlier documents whose requests have ended.
    fn drop_earlier(&mut self) {
        let count = self.workers.len();
        let (mut index, earlier) = (0, self.earlier);
        self.workers.retain_mut(|worker| {
            index += 1;
            let is_kept = index > earlier || !worker.is_idle();
            if !is_kept {
                worker.leave(&self.proxy);
            }
            is_kept
        });
        self.earlier -= count - self.workers.len();
        let workers = self.workers.iter().enumerate();
        self.busy = workers.filter(|(_, worker)| !worker.is_idle()).map(|(index, _)| index).collect();
    }

    /// Shares what is unshared, if the document is in use.
    fn share(&mut self) {
        let (proxy, serves) = (&self.proxy, self.serves);
        let is_in_use = |unshared: &Unshared| serves || unshared.is_settled(proxy.now());
        self.unshared =
            self.unshared.take().filter(|unshared| !is_in_use(unshared) || !unshared.share(proxy));
    }

    /// Counts a wrong document, if its rise is seen now, or if it `must` be counted.
    fn count_refusal(&mut self, must: bool) {
        let proxy = &self.proxy;
        if let Some(refusal) = self.refusal.take_if(|refusal| must || refusal.is_due(proxy.now())) {
            refusal.count(proxy);
        }
    }

    fn on_tick(&mut self, vm: u64, serves: bool) {
        self.count_refusal(false);
        self.share();
        let now = self.proxy.now();
        // The proxy may still refuse a document that is not in use, and drop the root without a word.
        if let Some(pulse) = self.pulse.as_mut().filter(|_| self.unshared.is_none()) {
            pulse.beat(&self.proxy, vm, now);
        }
        let mut budget = TickBudget::new();
        let count = self.workers.len();
        for turn in 0..count {
            // The budget may not last for all, so each worker comes first in its turn.
            let index = (self.first + turn) % count;
            if let Some(worker) = self.workers.get_mut(index)
                && worker.is_tick_due(now, self.tick)
            {
                worker.on_tick(&self.proxy, serves, &mut budget);
            }
        }
        self.first = self.first.wrapping_add(1);
        if self.earlier > 0 {
            self.drop_earlier();
        }
        self.set_tick();
    }

    fn on_request_headers(&mut self, id: ExchangeId, headers: usize, end: bool) -> Flow {
        self.serves = true;
        let headers = RequestHeaders::new(&self.proxy, headers);
        let position = if self.index.needs_authority() {
            self.index.find(headers.authority().as_deref())
        } else {
            self.index.find(None)
        };
        let Some(index) = position.map(|position| self.earlier + position) else {
            return Flow::Continue;
        };
        let Some(worker) = self.workers.get_mut(index) else {
            return Flow::Continue;
        };
        let tick = worker.tick();
        let flow = worker.on_request_headers(&self.proxy, id, &headers, end);
        let needs_tick = worker.tick() != tick;
        if !worker.is_idle() && !self.busy.contains(&index) {
            self.busy.push(index);
        }
        if needs_tick {
            self.set_tick();
        }
        flow
    }

    /// Ends a request. Returns whether a worker had work for it.
    fn end_request(&mut self, id: ExchangeId) -> bool {
        let found = self.busy.iter().position(|index| {
            self.workers.get_mut(*index).is_some_and(|worker| worker.on_end(&self.proxy, id))
        });
        let Some(place) = found else {
            return false;
        };
        let worker = self.busy.get(place).and_then(|index| self.workers.get(*index));
        if worker.is_none_or(Worker::is_idle) {
            self.busy.swap_remove(place);
        }
        true
    }

    /// Sets the tick that the root needs now. Setting it delays the next tick, so it is set only if it changes.
    fn set_tick(&mut self) {
        let ticks = self.workers.iter().map(Worker::tick).filter(|tick| !tick.is_zero());
        let waits = self.unshared.is_some() || self.refusal.is_some();
        let tick = ticks.min().or(waits.then_some(IDLE_TICK)).unwrap_or(Duration::ZERO);
        if tick != self.tick {
            self.tick = tick;
            self.proxy.tick_every(tick);
            if tick.is_zero()
                && let Some(pulse) = &mut self.pulse
            {
                pulse.end(&self.proxy);
            }
        }
    }
}

impl<P: Proxy> Default for Vm<P> {
    fn default() -> Self {
        Vm::new()
    }
}
