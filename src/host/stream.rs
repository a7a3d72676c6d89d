//! One request.

use std::borrow::Cow;
use std::rc::Rc;

use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::{Action, MapType};

use super::abi;
use super::worker::Worker;
use crate::engine;
use crate::policy::Policy;
use crate::policy::upstream::UpstreamId;
use crate::readiness::{Outcome, Permit};
use crate::request::Request;
use crate::response::{self, Verdict};

/// The context of one request.
pub struct Stream {
    worker: Rc<Worker>,
    /// Whether the reply is the filter's own, which is evidence of nothing.
    replied: bool,
    /// The worker's epoch when the request was decided on.
    epoch: u64,
    /// Permits it holds. Each goes back once, whatever the stream comes to.
    permits: Vec<(UpstreamId, Permit)>,
}

impl Stream {
    /// A request of the worker's.
    pub fn new(worker: Rc<Worker>) -> Self {
        Self { worker, replied: false, epoch: 0, permits: Vec::new() }
    }

    /// Gives back all permits, for upstreams that the request did not go to.
    fn give_back(&mut self) {
        for (upstream, permit) in core::mem::take(&mut self.permits) {
            self.worker.settle(upstream, permit, Outcome::Unused);
        }
    }
}

impl Context for Stream {}

impl HttpContext for Stream {
    fn on_http_request_headers(&mut self, _: usize, end_of_stream: bool) -> Action {
        let worker = Rc::clone(&self.worker);
        let Some(decision) = worker.decide(&ProxyRequest, end_of_stream) else {
            return Action::Continue;
        };
        self.epoch = worker.epoch();
        // Kept before anything else is done, so that each goes back whatever becomes of the stream.
        self.permits = decision.permits;
        match decision.action {
            engine::Action::Forward(edits) => {
                // A changed request header makes the proxy pick the route anew, so no call asks for it.
                for edit in edits {
                    // Can't fail while the request's headers are at hand, as they are in this callback.
                    let _ = hostcalls::set_map_value(MapType::HttpRequestHeaders, edit.header, edit.value);
                }
                for assignment in &decision.assignments {
                    worker.counters.assigned(&worker.policy, assignment);
                }
                Action::Continue
            }
            engine::Action::Reply(reply) => {
                self.give_back();
                self.replied = true;
                worker.counters.replied(&worker.policy, reply.cause);
                if !abi::send_local_response(reply.status, &reply.headers, &reply.body, &reply.details) {
                    log::error!("policy {}: the proxy took no reply: {}", worker.policy.name, reply.details);
                    return Action::Continue;
                }
                Action::Pause
            }
        }
    }

    fn on_http_response_headers(&mut self, _: usize, _: bool) -> Action {
        let policy = &self.worker.policy;
        if self.replied || !policy.observes_responses() {
            return Action::Continue;
        }
        let cluster = reached();
        let reached = |id: UpstreamId| is_of(policy, id, &cluster);
        let watched = policy.upstream_ids().filter(|(id, _)| reached(*id));
        let watched = watched.filter_map(|(id, upstream)| Some((id, upstream.breaker.as_ref()?)));
        let watched: Vec<_> = watched.collect();
        if !watched.is_empty() {
            let details = property(&["response", "code_details"]).unwrap_or_default();
            let status = status(MapType::HttpResponseHeaders);
            let permits = core::mem::take(&mut self.permits);
            for (id, breaker) in watched {
                let verdict = response::classify(status, &details, &breaker.fail_on);
                match permits.iter().find(|(held, _)| *held == id) {
                    Some((_, permit)) => self.worker.settle(id, *permit, Outcome::Seen(verdict)),
                    None => self.worker.observe(id, verdict, self.epoch),
                }
            }
            self.permits = permits.into_iter().filter(|(id, _)| !reached(*id)).collect();
        }
        self.give_back();
        Action::Continue
    }

    fn on_log(&mut self) {
        if self.permits.is_empty() {
            return;
        }
        // No response came by: the client has left, or the proxy has followed a redirect, which the upstream
        // that was reached has answered with.
        let details = property(&["response", "code_details"]);
        let redirected = details.is_some_and(|details| details == b"internal_redirect");
        let cluster = reached();
        for (id, permit) in core::mem::take(&mut self.permits) {
            let answered = redirected && is_of(&self.worker.policy, id, &cluster);
            let outcome = if answered { Outcome::Seen(Verdict::Success) } else { Outcome::Unused };
            self.worker.settle(id, permit, outcome);
        }
    }
}

/// The cluster that the request went to. Not the one that was decided on: the route table has the last word.
fn reached() -> Option<Vec<u8>> {
    property(&["xds", "cluster_name"])
}

fn is_of(policy: &Policy, id: UpstreamId, cluster: &Option<Vec<u8>>) -> bool {
    policy.upstream(id).is_some_and(|upstream| Some(upstream.cluster.as_bytes()) == cluster.as_deref())
}

/// The request's headers, each a host call away. To be used in the request's own callback alone.
struct ProxyRequest;

impl Request for ProxyRequest {
    fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        hostcalls::get_map_value_bytes(MapType::HttpRequestHeaders, name).ok()?.map(Cow::Owned)
    }
}

/// A property of the request, as bytes. Absent and unreadable are the same to those who ask.
fn property(path: &[&str]) -> Option<Vec<u8>> {
    hostcalls::get_property(path.to_vec()).ok()?
}

/// The `:status` of a response, or of a callout's.
pub fn status(map: MapType) -> Option<u16> {
    let bytes = hostcalls::get_map_value_bytes(map, ":status").ok()??;
    core::str::from_utf8(&bytes).ok()?.parse().ok()
}
