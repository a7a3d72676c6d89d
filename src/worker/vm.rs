//! The workers of one VM. A root context has one worker for each policy of its document.
//!
//! The proxy identifies a request only by the id of its context, so this module finds the request's worker. A request may
//! outlive its root context and the root's document, so a worker is kept until its requests have ended.
//!
//! To be told of the start and the end of each context costs each request. The module that acts on the headers of requests
//! alone is not told. While its VM has several roots, it asks which plugin a request is of. While a document of one plugin is
//! replaced, there are two roots for that, and it asks which of them live. It asks the same now and then. The newer one
//! counts from its first request on. Before that, the proxy may still refuse its document. A request shows its root only by
//! a tick that it asks for, so the first ones are still decided by the earlier document.

use core::time::Duration;

use super::Worker;
use super::configuration;
use super::root::Root;
use crate::proxy::{Attribute, CallId, ExchangeId, Flow, Proxy};
use crate::value::time::Time;

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
    /// When a request has last asked for a tick of its root.
    tick_asked: Option<Time>,
    /// How many requests have asked for their plugin, modulo 256.
    plugin_asks: u8,
}

/// The time after which another request asks for a tick of its root.
const ASKED_AGAIN: Duration = Duration::from_millis(50);

impl<P: Proxy> Vm<P> {
    /// Creates a VM without a context.
    pub const fn new() -> Self {
        Vm { roots: Vec::new(), latest: (0, 0), serves: false, id: None, tick_asked: None, plugin_asks: 0 }
    }

    /// Takes the start of a request's context, which belongs to this root. Only a module that sees the end of requests is told.
    pub fn create(&mut self, id: u32, root: u32) {
        if root != 0 {
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
            if ends {
                root.end_pulse();
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

    /// Gives a root its document, which has `size` bytes. Returns whether the proxy may use it. `proxy` creates the proxy for
    /// the workers of a root.
    pub fn configure(&mut self, id: u32, size: usize, proxy: impl FnOnce() -> P) -> bool {
        if let Some(place) = self.roots.iter().position(|root| root.id == id && !root.ended) {
            // Now it has the newest document.
            let mut root = self.roots.remove(place);
            let configuration = configuration::configure(&root.proxy, size, |_| Vec::new());
            let is_usable = configuration.is_some();
            configuration.into_iter().for_each(|configuration| root.configure(configuration));
            self.roots.push(root);
            return is_usable;
        }
        let proxy = proxy();
        if !proxy.module().sees_responses() {
            self.delete_ended_roots();
            proxy.leave();
        }
        let others = |plugin: &str| self.policies_of(plugin);
        let Some(configuration) = configuration::configure(&proxy, size, others) else {
            return false;
        };
        self.roots.push(Root::new(id, proxy, configuration));
        true
    }

    /// Returns whether the proxy tells of the start and the end of each context.
    fn is_told(&self) -> bool {
        self.roots.first().is_none_or(|root| root.proxy.module().sees_responses())
    }

    /// Returns the names of the policies of each root of this plugin.
    fn policies_of(&self, plugin: &str) -> Vec<Vec<String>> {
        let roots = self.roots.iter().filter(|root| !root.ended && root.plugin == plugin);
        let names = |root: &Root<P>| root.newest().map(|worker| worker.policy().name.clone()).collect();
        roots.map(names).collect()
    }

    /// Ticks the workers of a root that are due. Workers of earlier documents may still have requests to count.
    pub fn on_tick(&mut self, id: u32) {
        let (serves, mut vm) = (self.serves, self.id);
        if let Some(root) = self.root(id) {
            let vm = *vm.get_or_insert_with(|| root.proxy.random());
            root.on_tick(vm, serves);
        }
        self.id = vm;
        if !self.is_told() && self.roots.len() > 1 {
            self.delete_ended_roots();
        }
    }

    /// Deletes the roots that the proxy has ended without telling. Afterwards, the context of any root may be the current one.
    fn delete_ended_roots(&mut self) {
        let is_over = |root: &&Root<P>| !root.proxy.enter(ExchangeId(root.id));
        let ended: Vec<u32> = self.roots.iter().filter(is_over).map(|root| root.id).collect();
        ended.into_iter().for_each(|id| self.delete(id));
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
        let root = if self.is_told() {
            let (latest, root) = self.latest;
            if latest == id { self.root(root) } else { None }
        } else {
            self.serves = true;
            if self.roots.len() > 1 { self.find_root(ExchangeId(id)) } else { self.roots.first_mut() }
        };
        root.map_or(Flow::Continue, |root| root.on_request_headers(ExchangeId(id), headers, end))
    }

    /// Returns the root whose document decides on the current request, if there are several and the proxy does not tell.
    #[cold]
    fn find_root(&mut self, request: ExchangeId) -> Option<&mut Root<P>> {
        let plugin = self.roots.first()?.proxy.attribute(Attribute::PluginName).unwrap_or_default();
        let is_wanted = |root: &Root<P>| root.plugin.as_bytes() == plugin;
        self.plugin_asks = self.plugin_asks.wrapping_add(1);
        // To ask which roots live costs a call for each, so with one root of the plugin that is done now and then.
        if self.plugin_asks != 0 && self.roots.iter().filter(|root| is_wanted(root)).count() == 1 {
            return self.roots.iter_mut().find(|root| is_wanted(root));
        }
        self.delete_ended_roots();
        let first = self.roots.first()?;
        first.proxy.enter(request);
        let now = first.proxy.now();
        let newest = self.roots.iter().rfind(|root| is_wanted(root))?;
        if !newest.is_in_use(now) && self.tick_asked.is_none_or(|asked| now >= asked + ASKED_AGAIN) {
            newest.ask();
            self.tick_asked = Some(now);
        }
        let in_use = self.roots.iter().rposition(|root| is_wanted(root) && root.is_in_use(now));
        let place = in_use.or_else(|| self.roots.iter().position(is_wanted))?;
        self.roots.get_mut(place)
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
        self.roots.iter().flat_map(|root| root.newest().map(|worker| (root.id, worker)))
    }

    fn root(&mut self, id: u32) -> Option<&mut Root<P>> {
        self.roots.iter_mut().find(|root| root.id == id && !root.ended)
    }
}

impl<P: Proxy> Default for Vm<P> {
    fn default() -> Self {
        Vm::new()
    }
}
