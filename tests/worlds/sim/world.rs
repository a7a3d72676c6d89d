//! A world: its VMs, their policies, and time.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use graygate::policy::module::ModuleKind;
use graygate::proxy::ExchangeId;
use graygate::worker::Worker;
use graygate::worker::vm::Vm;

use super::manner::Manner;
use super::proxy::SimProxy;
use super::series;
use super::surroundings::{Event, Phase, Surroundings};

/// A VM of the filter.
pub(super) struct SimVm {
    pub(super) contexts: Vm<SimProxy>,
    /// Whether each of its roots ticks, oldest first. The last one gets new requests.
    pub(super) ticks: Vec<bool>,
    /// How many milliseconds its ticks come after each multiple of the period.
    pub(super) offset: u64,
}

/// Returns the context id of a root. No request has the same.
pub(super) fn root_id(root: usize) -> u32 {
    0x4000_0000 + u32::try_from(root).unwrap()
}

/// A proxy with its upstreams and clients.
pub struct World {
    pub around: Rc<Surroundings>,
    pub(super) vms: Vec<SimVm>,
    pub(super) document: String,
    /// All documents that a VM has got.
    documents: BTreeSet<String>,
    pub(super) streams: u32,
    /// The requests that wait for the filter.
    pub(super) paused: BTreeSet<u32>,
    /// The period and the number of the timer of each root's next tick.
    timers: BTreeMap<(usize, usize), (u64, u64)>,
    /// The cluster for each value of the `steer` header.
    pub routes: BTreeMap<String, String>,
    /// The header that selects a request's cluster.
    pub steer: &'static str,
    /// The cluster of requests whose `steer` header selects none.
    pub route: String,
    /// The host that the router picks for requests. `None` if the cluster has none.
    pub host: Option<&'static str>,
    /// The route's timeout.
    pub timeout: Option<Duration>,
    /// How many more headers each response has. Responses with many headers do not take the fast path.
    pub extra_headers: usize,
    /// Whether new requests belong to the newest root, rather than to the one before.
    pub newest_serves: bool,
    /// Whether another filter holds up requests, so that the router does not get them.
    pub held_up: bool,
}

impl World {
    /// Starts a proxy with this document and this number of workers. Each cluster of its policies exists and responds 200.
    pub fn new(document: &serde_json::Value, workers: usize) -> Self {
        Self::with_module(ModuleKind::Full, document, workers)
    }

    /// Starts a proxy with this module.
    pub fn with_module(module: ModuleKind, document: &serde_json::Value, workers: usize) -> Self {
        let mut world = Self::unconfigured(workers);
        world.around.module.set(module);
        let policies = document["policies"].as_array().map_or(std::slice::from_ref(document), Vec::as_slice);
        for upstream in policies.iter().filter_map(|policy| policy["upstreams"].as_object()).flatten() {
            world.set(upstream.1["cluster"].as_str().unwrap(), Manner::Status(200));
        }
        assert!(world.configure(document), "{:?}", world.logged("refused"));
        world
    }

    /// Starts a proxy without a document.
    pub fn unconfigured(workers: usize) -> Self {
        let vms = (0..workers).map(|index| SimVm {
            contexts: Vm::new(),
            ticks: Vec::new(),
            offset: 7 * index as u64,
        });
        World {
            around: Rc::new(Surroundings::new()),
            vms: vms.collect(),
            document: String::new(),
            documents: BTreeSet::new(),
            streams: 0,
            paused: BTreeSet::new(),
            timers: BTreeMap::new(),
            routes: BTreeMap::new(),
            steer: "x-version",
            route: "app".to_owned(),
            host: Some("10.1.0.1:80"),
            timeout: None,
            extra_headers: 0,
            newest_serves: true,
            held_up: false,
        }
    }

    /// Sets how a cluster's upstream behaves towards requests and checks from now on.
    pub fn set(&mut self, cluster: &str, manner: Manner) {
        self.around.upstreams.borrow_mut().insert(cluster.to_owned(), manner);
    }

    /// Sets how a cluster's upstream behaves towards checks only.
    pub fn set_checks(&mut self, cluster: &str, manner: Manner) {
        self.around.checks.borrow_mut().insert(cluster.to_owned(), manner);
    }

    /// Gives all VMs a policy. Workers of the previous one go on until they are ended. Returns whether it is accepted.
    pub fn configure(&mut self, document: &serde_json::Value) -> bool {
        self.document = document.to_string();
        let mut all = true;
        for vm in 0..self.vms.len() {
            all &= self.configure_vm(vm);
        }
        all
    }

    /// Gives one VM the latest policy of [`World::configure`] or [`World::prepare`].
    pub fn configure_vm(&mut self, vm: usize) -> bool {
        let root = self.vms[vm].ticks.len();
        *self.around.document.borrow_mut() = self.document.clone();
        self.documents.insert(self.document.clone());
        let (world, size) = (Rc::clone(&self.around), self.document.len());
        let usable = self.during(vm, Phase::Configure, None, |contexts| {
            contexts.configure(root_id(root), size, || SimProxy { world, vm, root })
        });
        self.vms[vm].ticks.push(usable);
        self.set_timers(vm);
        usable
    }

    /// Sets the policy for [`World::configure_vm`].
    pub fn prepare(&mut self, document: &serde_json::Value) {
        self.document = document.to_string();
    }

    /// Ends a VM as a panic does. Its workers return nothing that they hold.
    pub fn kill(&mut self, vm: usize) {
        // Its destructors must not run.
        core::mem::forget(core::mem::take(&mut self.vms[vm].contexts));
        self.vms[vm].ticks.fill(false);
        for stream in self.around.streams.borrow_mut().values_mut().filter(|stream| stream.vm == vm) {
            stream.over = true;
        }
    }

    /// Ends the roots of all policies except the newest, with their requests, as Envoy does once a listener has drained.
    pub fn end_earlier(&mut self, vm: usize) {
        let last = self.vms[vm].ticks.len() - 1;
        let streams = self.around.streams.borrow();
        let open = streams.iter().filter(|(_, stream)| stream.vm == vm && stream.root < last && !stream.over);
        let open: Vec<u32> = open.map(|(id, _)| *id).collect();
        drop(streams);
        for id in open {
            self.end(id, "downstream_local_disconnect");
        }
        for root in 0..last {
            self.end_root(vm, root);
        }
    }

    /// Ends a root but none of its requests.
    pub fn end_root(&mut self, vm: usize, root: usize) {
        self.vms[vm].ticks[root] = false;
        self.around.ended.borrow_mut().insert((vm, root));
        if self.around.module.get().sees_responses() {
            self.during(vm, Phase::None, None, |contexts| contexts.delete(root_id(root)));
        }
    }

    /// Sets how many milliseconds a VM's ticks come after each multiple of the period.
    pub fn set_offset(&mut self, vm: usize, offset: u64) {
        self.vms[vm].offset = offset;
    }

    /// Runs a callback of a VM in this phase and for this request.
    pub(super) fn during<T>(
        &mut self,
        vm: usize,
        phase: Phase,
        stream: Option<u32>,
        act: impl FnOnce(&mut Vm<SimProxy>) -> T,
    ) -> T {
        self.around.phase.set(phase);
        self.around.stream.set(stream);
        let result = act(&mut self.vms[vm].contexts);
        self.around.phase.set(Phase::None);
        self.around.stream.set(None);
        self.set_timers(vm);
        self.settle_paused();
        result
    }

    /// Sets the timer of each root of a VM that has none or that wants another period.
    fn set_timers(&mut self, vm: usize) {
        for root in 0..self.vms[vm].ticks.len() {
            let period = self.around.ticks.borrow().get(&(vm, root)).copied().unwrap_or(0);
            let known = self.timers.get(&(vm, root)).map(|(period, _)| *period);
            if !self.vms[vm].ticks[root] || known == Some(period) {
                continue;
            }
            let timer = self.around.queued.get();
            self.timers.insert((vm, root), (period, timer));
            if period > 0 {
                let (now, offset) = (self.around.now.get(), self.vms[vm].offset % period);
                let next = (now / period) * period + offset;
                // As in Envoy, where no tick comes early. Else, ticks of VMs keep the same distance, which tests rely on.
                let next = match self.around.module.get() {
                    ModuleKind::Requests => now + period,
                    ModuleKind::Full if next > now => next,
                    ModuleKind::Full => next + period,
                };
                self.around.at(next, Event::Tick { vm, root, timer });
            }
        }
    }

    /// Returns the time by the monotonic clock, in milliseconds.
    pub fn now(&self) -> u64 {
        self.around.now.get()
    }

    /// Returns the date by the wall clock, in milliseconds since the epoch.
    pub fn date(&self) -> u64 {
        self.around.date()
    }

    /// Sets the wall clock forward or back. The monotonic clock and the events keep their time.
    pub fn jump(&mut self, millis: i64) {
        self.around.wall.set(self.around.wall.get().checked_add_signed(millis).unwrap());
    }

    /// Lets time pass in which nothing happens, as if the proxy were suspended. Events stay as far from now as they were.
    pub fn stall(&mut self, millis: u64) {
        self.around.now.set(self.now() + millis);
        let queue = core::mem::take(&mut *self.around.queue.borrow_mut());
        let queue = queue.into_iter().map(|((at, order), event)| ((at + millis, order), event));
        *self.around.queue.borrow_mut() = queue.collect();
    }

    /// Lets time pass and handles each event that is due.
    pub fn pass(&mut self, span: Duration) {
        let until = self.now() + u64::try_from(span.as_millis()).unwrap();
        while self.step(until) {}
        self.around.now.set(until);
    }

    /// Handles the next event if it is due by then. Returns whether one was.
    pub(super) fn step(&mut self, until: u64) -> bool {
        let next = self.around.queue.borrow().keys().next().copied();
        let Some(key) = next.filter(|(at, _)| *at <= until) else {
            return false;
        };
        let event = self.around.queue.borrow_mut().remove(&key).unwrap();
        self.around.now.set(key.0.max(self.now()));
        match event {
            Event::Tick { vm, root, timer } => {
                if self.timers.get(&(vm, root)).is_some_and(|(_, current)| *current == timer) {
                    self.timers.remove(&(vm, root));
                    self.tick(vm, root);
                }
            }
            Event::Call { vm, root, id, end } => {
                let headers = end.headers.len();
                *self.around.call.borrow_mut() = Some(end);
                self.during(vm, Phase::Call, None, |contexts| {
                    contexts.on_http_call_response(root_id(root), id, headers);
                });
            }
            Event::Respond { stream, manner } => self.respond_as(stream, &manner),
            Event::End { stream, details } => self.end(stream, &details),
        }
        true
    }

    /// Ticks one worker now.
    pub fn tick(&mut self, vm: usize, root: usize) {
        if self.vms[vm].ticks[root] {
            self.during(vm, Phase::None, None, |contexts| contexts.on_tick(root_id(root)));
        }
    }

    /// Ticks the newest worker of a VM now.
    pub fn tick_now(&mut self, vm: usize) {
        self.tick(vm, self.vms[vm].ticks.len() - 1);
    }

    /// Runs a callback for a request, if a worker still handles it.
    pub(super) fn call(
        &mut self,
        stream: u32,
        phase: Phase,
        act: impl FnOnce(&mut Worker, &SimProxy, ExchangeId),
    ) {
        let vm = self.stream(stream, |known| known.vm);
        self.during(vm, phase, Some(stream), |contexts| contexts.with_exchange(stream, act));
    }

    /// Returns the number of VMs.
    pub fn workers(&self) -> usize {
        self.vms.len()
    }

    /// Makes the next writes to the store fail with a conflict.
    pub fn lose(&mut self, writes: u32) {
        self.around.lose.set(writes);
    }

    /// Sets how a cluster's upstream behaves towards calls for this path.
    pub fn set_call_path(&mut self, cluster: &str, path: &str, manner: Manner) {
        self.around.call_paths.borrow_mut().insert((cluster.to_owned(), path.to_owned()), manner);
    }
}

impl Drop for World {
    /// Fails the test if a worker has read or called what Envoy does not allow at that point, or has counted what should
    /// have existed at 0 and did not.
    fn drop(&mut self) {
        for vm in 0..self.vms.len() {
            self.kill(vm);
        }
        if !std::thread::panicking() {
            assert!(self.around.misread.borrow().is_empty(), "{:?}", self.around.misread.borrow());
            let metrics = self.around.metrics.borrow();
            let metrics = metrics.iter().map(|(name, kind, _)| (name.as_str(), *kind));
            assert_eq!(series::unlisted(&self.documents, metrics), [""; 0], "not at 0 from the beginning");
        }
    }
}
