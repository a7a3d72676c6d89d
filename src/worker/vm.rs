//! The workers of one VM: a root context for each policy that it was given, and a worker for each root.
//!
//! The proxy names a request by its own id alone, so the worker that it belongs to is found here. A request outlives its
//! root's end, and the replacement of its root's policy, so a worker is kept until its requests have ended.

use super::Worker;
use crate::proxy::{CallId, ExchangeId, Flow, Proxy};

/// All contexts of a VM, by the ids that the proxy gives them.
pub struct Vm<P> {
    roots: Vec<Root<P>>,
    /// The request that was made known last, and its root. The proxy makes each known right before its headers.
    latest: (u32, u32),
}

/// A root context.
struct Root<P> {
    id: u32,
    proxy: P,
    /// The newest last. Earlier ones are kept until their requests have ended.
    workers: Vec<Worker>,
    /// Whether the context has ended.
    ended: bool,
}

impl<P: Proxy> Vm<P> {
    /// Creates a VM without a context.
    pub const fn new() -> Self {
        Vm { roots: Vec::new(), latest: (0, 0) }
    }

    /// Takes the beginning of a context: of a root, if `root` is 0, or else of a request. `proxy` is what the worker of a
    /// root will ask.
    pub fn create(&mut self, id: u32, root: u32, proxy: impl FnOnce() -> P) {
        if root == 0 {
            self.roots.push(Root { id, proxy: proxy(), workers: Vec::new(), ended: false });
        } else {
            self.latest = (id, root);
        }
    }

    /// Takes the end of a context.
    pub fn delete(&mut self, id: u32) {
        let mut any_ended = false;
        for root in &mut self.roots {
            root.ended |= root.id == id;
            any_ended |= root.ended;
            if root.workers.iter_mut().any(|worker| worker.on_end(&root.proxy, ExchangeId(id))) {
                break;
            }
        }
        if any_ended {
            self.roots.retain(|root| !root.ended || root.workers.iter().any(|worker| !worker.is_idle()));
        }
    }

    /// Gives a root its policy, of so many bytes. Returns whether it can be used.
    pub fn configure(&mut self, root: u32, size: usize) -> bool {
        let Some(root) = self.root(root) else {
            return false;
        };
        match Worker::configure(&root.proxy, size) {
            Ok(worker) => {
                root.workers.retain(|worker| !worker.is_idle());
                root.workers.push(worker);
                true
            }
            Err(_) => false,
        }
    }

    /// Ticks all workers of a root. Those of earlier policies may still have requests to count.
    pub fn on_tick(&mut self, root: u32) {
        self.for_each_worker(root, |worker, proxy| worker.on_tick(proxy));
    }

    /// Returns whether a worker of a root led any upstream on its last tick.
    pub fn leads(&self, root: u32) -> bool {
        self.roots.iter().any(|known| known.id == root && known.workers.iter().any(Worker::leads))
    }

    /// Takes the end of an HTTP call. `headers` is the number of its response's headers.
    pub fn on_http_call_response(&mut self, root: u32, call: u32, headers: usize) {
        self.for_each_worker(root, |worker, proxy| {
            worker.on_http_call_response(proxy, CallId(call), headers);
        });
    }

    /// Takes the end of a gRPC call: its status, and the size of its message.
    pub fn on_grpc_call_end(&mut self, root: u32, call: u32, status: u32, size: usize) {
        self.for_each_worker(root, |worker, proxy| {
            worker.on_grpc_call_end(proxy, CallId(call), status, size)
        });
    }

    /// Takes the headers of a request, of which there are so many. Returns what the proxy is to do with it now.
    pub fn on_request_headers(&mut self, id: u32, headers: usize, end: bool) -> Flow {
        let (latest, root) = self.latest;
        if latest != id {
            return Flow::Continue;
        }
        let Some(root) = self.root(root) else {
            return Flow::Continue;
        };
        match root.workers.last_mut() {
            Some(worker) => worker.on_request_headers(&root.proxy, ExchangeId(id), headers, end),
            None => Flow::Continue,
        }
    }

    /// Calls the worker that has something left to do for a request, if any has.
    pub fn with_exchange(&mut self, id: u32, act: impl FnOnce(&mut Worker, &P, ExchangeId)) {
        let id = ExchangeId(id);
        for root in &mut self.roots {
            if let Some(worker) = root.workers.iter_mut().find(|worker| worker.has(id)) {
                return act(worker, &root.proxy, id);
            }
        }
    }

    /// Iterates over the newest worker of each root, with the root's id.
    pub fn workers(&self) -> impl Iterator<Item = (u32, &Worker)> {
        self.roots.iter().filter_map(|root| Some((root.id, root.workers.last()?)))
    }

    fn for_each_worker(&mut self, id: u32, mut act: impl FnMut(&mut Worker, &P)) {
        if let Some(root) = self.root(id) {
            for worker in &mut root.workers {
                act(worker, &root.proxy);
            }
        }
    }

    fn root(&mut self, id: u32) -> Option<&mut Root<P>> {
        self.roots.iter_mut().find(|root| root.id == id)
    }
}

impl<P: Proxy> Default for Vm<P> {
    fn default() -> Self {
        Vm::new()
    }
}
