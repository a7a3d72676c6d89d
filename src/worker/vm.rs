//! The workers of one VM. Each root context has one worker for each policy that it was given.
//!
//! The proxy identifies a request only by the id of its context, so this module finds the request's worker. A request may
//! outlive its root context and the root's policy, so a worker is kept until its requests have ended.

use super::Worker;
use crate::proxy::{CallId, ExchangeId, Flow, Proxy};

/// All contexts of a VM, by the ids that the proxy gives them.
pub struct Vm<P> {
    roots: Vec<Root<P>>,
    /// The ids of the request whose context was created last, and of its root. The proxy creates each context right before
    /// it hands over the request's headers.
    latest: (u32, u32),
    /// Whether any root of the VM has served a request. All of them use the connections of one thread.
    serves: bool,
}

/// A root context.
struct Root<P> {
    id: u32,
    proxy: P,
    /// One worker for each policy, the newest last. The earlier ones are kept until their requests have ended.
    workers: Vec<Worker>,
    /// Whether the context has ended. The root is kept until the requests of its workers have ended.
    ended: bool,
}

impl<P: Proxy> Vm<P> {
    /// Creates a VM without a context.
    pub const fn new() -> Self {
        Vm { roots: Vec::new(), latest: (0, 0), serves: false }
    }

    /// Takes the start of a context. If `root` is 0 it is a root context, and otherwise the context of a request. `proxy`
    /// creates the proxy for the workers of a root.
    pub fn create(&mut self, id: u32, root: u32, proxy: impl FnOnce() -> P) {
        if root == 0 {
            self.roots.push(Root { id, proxy: proxy(), workers: Vec::new(), ended: false });
        } else {
            self.latest = (id, root);
            self.serves = true;
        }
    }

    /// Takes the end of a context.
    pub fn delete(&mut self, id: u32) {
        let mut any_ended = false;
        for root in &mut self.roots {
            let ends = root.id == id && !root.ended;
            let ended_a_request =
                root.workers.iter_mut().any(|worker| worker.on_end(&root.proxy, ExchangeId(id)));
            root.ended |= ends;
            any_ended |= root.ended;
            // No tick follows that would share what the workers have seen.
            if ends || ended_a_request && root.ended {
                root.workers.iter_mut().for_each(|worker| worker.flush(&root.proxy));
            }
            if ended_a_request {
                break;
            }
        }
        if any_ended {
            self.roots.retain(|root| !root.ended || root.workers.iter().any(|worker| !worker.is_idle()));
        }
    }

    /// Gives a root its policy, whose document has `size` bytes. Returns whether the policy is valid.
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

    /// Ticks all workers of a root. Workers of earlier policies may still have requests to count.
    pub fn on_tick(&mut self, root: u32) {
        let serves = self.serves;
        self.for_each_worker(root, |worker, proxy| worker.on_tick(proxy, serves));
        if let Some(root) = self.root(root) {
            let newest = root.workers.len();
            let mut index = 0;
            root.workers.retain(|worker| {
                index += 1;
                index == newest || !worker.is_idle()
            });
        }
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

    /// Takes the headers of a request. `headers` is their number. Returns what the proxy must do with the request now.
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

    /// Calls `act` with the worker that has an exchange for the request, if one has.
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
        self.roots.iter_mut().find(|root| root.id == id && !root.ended)
    }
}

impl<P: Proxy> Default for Vm<P> {
    fn default() -> Self {
        Vm::new()
    }
}
