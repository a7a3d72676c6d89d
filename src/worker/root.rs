//! A root context: one document of a plugin in one VM, with a worker for each of its policies.
//!
//! The proxy has one timer for each root. It ticks as often as the worker that needs the shortest tick. The other workers
//! are ticked when they are due. In between, one tick may come soon, to look at a request.

use core::time::Duration;

use super::Worker;
use super::budget::TickBudget;
use super::configuration::{Configuration, Refusal, Unshared};
use super::headers::RequestHeaders;
use super::pulse::Pulse;
use crate::policy::host_index::HostIndex;
use crate::proxy::{ExchangeId, Flow, Proxy};
use crate::value::time::Time;

/// The tick of a root with something to share or to count and no worker that needs a tick.
const IDLE_TICK: Duration = Duration::from_millis(250);

/// The time after which the proxy has certainly taken or refused a document. It may load the module of another filter meanwhile.
const SETTLES_AFTER: Duration = Duration::from_secs(30);

/// How much before its time a tick must come, to be the one that a request has asked for.
const EARLY: Duration = Duration::from_millis(20);

/// The period of a tick that is to come soon, because of a request.
const SOON: Duration = Duration::from_millis(1);

/// A root context.
pub struct Root<P> {
    /// The id that the proxy gave to the context.
    pub id: u32,
    /// The proxy, for the workers of this root.
    pub proxy: P,
    /// The name of its plugin.
    pub plugin: String,
    /// The workers of earlier documents, which are kept until their requests have ended. After them, those of the newest
    /// document in its order.
    pub workers: Vec<Worker>,
    /// The number of workers of earlier documents.
    pub earlier: usize,
    /// Finds the worker of the newest document that a request is for.
    index: HostIndex,
    /// The workers that have exchanges. Most callbacks of a proxy with many policies are for no worker.
    pub busy: Vec<usize>,
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
    /// Whether that is another one than the workers need, because of a look at a request.
    is_off_beat: bool,
    /// The worker that has the first turn on the next tick.
    first: usize,
    /// The time of its next tick. `None` if it needs none.
    due: Option<Time>,
    /// When it got its newest document.
    configured: Time,
    /// Whether a request of its own has shown that the proxy uses its newest document.
    is_asked: bool,
    /// Whether the context has ended. The root is kept until the requests of its workers have ended.
    pub ended: bool,
}

impl<P: Proxy> Root<P> {
    /// Creates a root with its first document.
    pub fn new(id: u32, proxy: P, configuration: Configuration) -> Self {
        let now = proxy.now();
        let mut root = Root {
            id,
            plugin: configuration.plugin.clone(),
            proxy,
            workers: Vec::new(),
            earlier: 0,
            index: HostIndex::default(),
            busy: Vec::new(),
            unshared: None,
            refusal: None,
            pulse: None,
            serves: false,
            tick: Duration::ZERO,
            is_off_beat: false,
            first: 0,
            due: None,
            configured: now,
            is_asked: false,
            ended: false,
        };
        root.configure(configuration);
        root
    }

    /// Returns the workers of the newest document.
    pub fn newest(&self) -> impl Iterator<Item = &Worker> {
        self.workers.iter().skip(self.earlier)
    }

    /// Replaces the document. Workers of the earlier one that have no requests share what they have seen, and end.
    pub fn configure(&mut self, configuration: Configuration) {
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
        self.configured = self.proxy.now();
        self.is_asked = false;
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
    pub fn share(&mut self) {
        let (proxy, serves) = (&self.proxy, self.serves);
        let is_in_use = |unshared: &Unshared| serves || unshared.is_settled(proxy.now());
        self.unshared =
            self.unshared.take().filter(|unshared| !is_in_use(unshared) || !unshared.share(proxy));
    }

    /// Counts a wrong document, if its rise is seen now, or if it `must` be counted.
    pub fn count_refusal(&mut self, must: bool) {
        let proxy = &self.proxy;
        if let Some(refusal) = self.refusal.take_if(|refusal| must || refusal.is_due(proxy.now())) {
            refusal.count(proxy);
        }
    }

    /// Ticks the workers that are due. `serves` is whether the VM has served a request.
    pub fn on_tick(&mut self, vm: u64, serves: bool) {
        self.count_refusal(false);
        self.share();
        let now = self.proxy.now();
        if !self.proxy.module().sees_responses() {
            self.take_asked_tick(now);
            for worker in self.workers.iter_mut().filter(|worker| worker.awaits_look()) {
                worker.look_at_late_request(&self.proxy);
            }
        }
        let count = self.workers.len();
        let is_due =
            !self.is_off_beat || self.workers.iter().any(|worker| worker.is_tick_due(now, self.tick));
        // The proxy may still refuse a document that is not in use, and drop the root without a word.
        if let Some(pulse) = self.pulse.as_mut().filter(|_| is_due && self.unshared.is_none()) {
            pulse.beat(&self.proxy, vm, now);
        }
        let mut budget = TickBudget::new();
        for turn in 0..count {
            // The budget may not last for all, so each worker comes first in its turn.
            let index = (self.first + turn) % count;
            if let Some(worker) = self.workers.get_mut(index)
                && worker.is_tick_due(now, self.tick)
            {
                worker.on_tick(&self.proxy, serves, &mut budget);
            }
        }
        self.first = self.first.wrapping_add(usize::from(is_due));
        if self.earlier > 0 {
            self.drop_earlier();
        }
        self.set_tick();
    }

    /// Takes the headers of a request. `headers` is their number.
    pub fn on_request_headers(&mut self, id: ExchangeId, headers: usize, end: bool) -> Flow {
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
        let needs_tick = worker.tick() != tick || (worker.awaits_look() && self.tick != SOON);
        if !worker.is_idle() && !self.busy.contains(&index) {
            self.busy.push(index);
        }
        if needs_tick {
            // The request may belong to another root, whose timer it would be.
            self.proxy.leave();
            self.set_tick();
        }
        flow
    }

    /// Ends a request. Returns whether a worker had work for it.
    pub fn end_request(&mut self, id: ExchangeId) -> bool {
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
        let regular = ticks.min().or(waits.then_some(IDLE_TICK)).unwrap_or(Duration::ZERO);
        let looks = self.workers.iter().any(Worker::awaits_look);
        let tick = match self.is_off_beat {
            _ if looks => SOON,
            true => self.time_left(regular),
            false => regular,
        };
        self.is_off_beat = tick != regular;
        if tick.is_zero() {
            self.end_pulse();
        }
        if tick != self.tick {
            self.tick = tick;
            self.due = (!tick.is_zero()).then(|| self.proxy.now() + tick);
            self.proxy.tick_every(tick);
        }
    }

    /// Returns the time until a worker is due, or the regular tick if that is about the same. So a look at a request puts no
    /// worker's tick off.
    fn time_left(&self, regular: Duration) -> Duration {
        let now = self.proxy.now();
        let left =
            self.workers.iter().filter_map(Worker::next_tick).min().map(|next| next.since(now).max(SOON));
        left.filter(|left| *left + EARLY < regular).unwrap_or(regular)
    }

    /// Ends the watch of the VM by this root.
    pub fn end_pulse(&mut self) {
        if let Some(pulse) = &mut self.pulse {
            pulse.end(&self.proxy);
        }
    }

    /// Asks for a tick of the root that the current request belongs to.
    pub fn ask(&self) {
        self.proxy.tick_every(SOON);
    }

    /// Takes a tick. If it comes before its time, a request of this root has asked for it.
    fn take_asked_tick(&mut self, now: Time) {
        if self.due.is_none_or(|due| now + EARLY < due) {
            self.is_asked = true;
            self.proxy.tick_every(self.tick);
        }
        self.due = (!self.tick.is_zero()).then(|| now + self.tick);
    }

    /// Returns whether the proxy uses its newest document.
    pub fn is_in_use(&self, now: Time) -> bool {
        self.is_asked || self.serves || now >= self.configured + SETTLES_AFTER
    }
}
