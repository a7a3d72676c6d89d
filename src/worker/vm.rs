//! The workers of one VM. A root context has one worker for each policy of its document.
//!
//! The proxy identifies a request only by the id of its context, so this module finds the request's worker. A request may
//! outlive its root context and the root's document, so a worker is kept until its requests have ended.
//!
//! To be told of the start and the end of each context costs each request. The module that acts on the headers of requests alone
//! is not told. Its VM finds the root of a request by [`Vm::root_of_plugin`], and the end of a root by
//! [`Vm::end_silent_roots`].

use super::Worker;
use super::configuration;
use super::root::Root;
use crate::proxy::{Attribute, CallId, ExchangeId, Flow, Proxy};

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

impl<P: Proxy> Vm<P> {
    /// Creates a VM without a context.
    pub const fn new() -> Self {
        Vm { roots: Vec::new(), latest: (0, 0), serves: false, id: None }
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
        if let Some(root) = self.root(id) {
            let configuration = configuration::configure(&root.proxy, size, &[]);
            let is_usable = configuration.is_some();
            configuration.into_iter().for_each(|configuration| root.configure(configuration));
            return is_usable;
        }
        let proxy = proxy();
        let is_told = proxy.module().sees_responses();
        let others = if is_told { Vec::new() } else { self.policies_of_plugin(&proxy) };
        let Some(configuration) = configuration::configure(&proxy, size, &others) else {
            return false;
        };
        self.roots.push(Root::new(id, proxy, configuration));
        self.watch_roots();
        true
    }

    /// Returns whether the proxy tells of the start and the end of each context.
    fn is_told(&self) -> bool {
        self.roots.first().is_none_or(|root| root.proxy.module().sees_responses())
    }

    /// Returns the names of the policies of each other root of the plugin that is configured now.
    fn policies_of_plugin(&self, proxy: &P) -> Vec<Vec<String>> {
        let plugin = proxy.attribute(Attribute::PluginName).unwrap_or_default();
        let roots = self.roots.iter().filter(|root| !root.ended && root.plugin == plugin);
        let names = |root: &Root<P>| root.newest().map(|worker| worker.policy().name.clone()).collect();
        roots.map(names).collect()
    }

    /// Has all roots tick while there are several and nothing tells of the end of one. Its ticks then tell.
    fn watch_roots(&mut self) {
        if self.is_told() {
            return;
        }
        let must_tick = self.roots.len() > 1;
        let Some((last, others)) = self.roots.split_last_mut() else {
            return;
        };
        for root in others {
            root.require_ticks(must_tick);
        }
        last.require_ticks(must_tick);
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
            self.end_silent_roots(id);
        }
    }

    /// Ends the roots whose ticks no longer come. `ticking` is the one that ticks now.
    fn end_silent_roots(&mut self, ticking: u32) {
        let Some(now) = self.roots.first().map(|root| root.proxy.now()) else {
            return;
        };
        let others = self.roots.iter_mut().filter(|root| root.id != ticking);
        let silent: Vec<u32> = others.filter_map(|root| root.is_silent(now).then_some(root.id)).collect();
        if silent.is_empty() {
            return;
        }
        silent.into_iter().for_each(|id| self.delete(id));
        self.watch_roots();
        if let Some(root) = self.root(ticking) {
            root.proxy.leave();
        }
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
            self.root_of_plugin()
        };
        root.map_or(Flow::Continue, |root| root.on_request_headers(ExchangeId(id), headers, end))
    }

    /// Returns the root of the current request, if the proxy does not tell which one it is. If there are several, the name of
    /// the plugin decides. If there are still several, its document is being replaced, and the newest one that is in use
    /// counts.
    fn root_of_plugin(&mut self) -> Option<&mut Root<P>> {
        let place = match self.roots.as_slice() {
            [first, _, ..] => {
                let plugin = first.proxy.attribute(Attribute::PluginName).unwrap_or_default();
                let of_plugin = |root: &Root<P>| root.plugin == plugin;
                let settled = self.roots.iter().rposition(|root| of_plugin(root) && root.is_settled());
                settled.or_else(|| self.roots.iter().position(of_plugin))?
            }
            _ => 0,
        };
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
