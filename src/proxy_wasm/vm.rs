//! What one VM holds: a root for each policy that it was given, and the workers that go by them.

use super::host::Host;
use crate::proxy::{CallId, ExchangeId, Flow};
use crate::worker::Worker;

/// All contexts of a VM.
pub struct Vm {
    roots: Vec<Root>,
    /// The request that was made known last, and its root. The proxy makes each known right before its headers.
    latest: (u32, u32),
}

/// A root context.
struct Root {
    host: Host,
    /// The newest last. Earlier ones are kept until their requests have ended.
    workers: Vec<Worker>,
    /// Whether the context has ended. It is kept until its requests have ended, too.
    ended: bool,
}

impl Vm {
    /// Starts without a context.
    pub const fn new() -> Self {
        Vm { roots: Vec::new(), latest: (0, 0) }
    }

    /// Takes the beginning of a context: of a root, if it has no root above it, or else of a request.
    pub fn create(&mut self, id: u32, root: u32) {
        if root != 0 {
            self.latest = (id, root);
        } else {
            self.roots.push(Root { host: Host { root: id }, workers: Vec::new(), ended: false });
        }
    }

    /// Takes the end of a context.
    pub fn delete(&mut self, id: u32) {
        let mut ended = false;
        for root in &mut self.roots {
            ended |= root.ended;
            if root.workers.iter_mut().any(|worker| worker.on_end(&root.host, ExchangeId(id))) {
                break;
            }
            if root.host.root == id {
                (root.ended, ended) = (true, true);
                break;
            }
        }
        if ended {
            self.roots.retain(|root| !root.ended || root.workers.iter().any(|worker| !worker.is_idle()));
        }
    }

    /// Gives a root its policy. Returns whether it can be used.
    pub fn configure(&mut self, root: u32, size: usize) -> bool {
        let Some(root) = self.root(root) else {
            return false;
        };
        let worker = Worker::configure(&root.host, size);
        let usable = worker.is_ok();
        if let Ok(worker) = worker {
            root.workers.retain(|worker| !worker.is_idle());
            root.workers.push(worker);
        }
        usable
    }

    /// Ticks a root.
    pub fn tick(&mut self, root: u32) {
        self.with_root(root, |worker, host| {
            worker.on_tick(host);
            #[cfg(feature = "faults")]
            super::fault::on_tick(host, worker);
        });
    }

    /// Takes the end of an HTTP call.
    pub fn on_http_call_response(&mut self, root: u32, token: u32, headers: usize) {
        self.with_root(root, |worker, host| worker.on_http_call_response(host, CallId(token), headers));
    }

    /// Takes the end of a gRPC call.
    pub fn on_grpc_call_end(&mut self, root: u32, token: u32, status: u32, size: usize) {
        self.with_root(root, |worker, host| worker.on_grpc_call_end(host, CallId(token), status, size));
    }

    /// Takes the headers of a request.
    pub fn on_request_headers(&mut self, id: u32, headers: usize, end: bool) -> Flow {
        let (latest, root) = self.latest;
        if latest != id {
            return Flow::Continue;
        }
        let mut flow = Flow::Continue;
        self.with_root(root, |worker, host| {
            #[cfg(feature = "faults")]
            super::fault::on_request(host);
            flow = worker.on_request_headers(host, ExchangeId(id), headers, end);
        });
        flow
    }

    /// Does something with the worker that has something left to do for a request, if any has.
    pub fn with_exchange(&mut self, id: u32, act: impl FnOnce(&mut Worker, &Host, ExchangeId)) {
        let id = ExchangeId(id);
        for root in &mut self.roots {
            if let Some(worker) = root.workers.iter_mut().find(|worker| worker.has(id)) {
                return act(worker, &root.host, id);
            }
        }
    }

    fn with_root(&mut self, id: u32, act: impl FnOnce(&mut Worker, &Host)) {
        if let Some(root) = self.root(id)
            && let Some(worker) = root.workers.last_mut()
        {
            act(worker, &root.host);
        }
    }

    fn root(&mut self, id: u32) -> Option<&mut Root> {
        self.roots.iter_mut().find(|root| root.host.root == id)
    }
}
