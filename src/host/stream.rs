//! One request.

use std::borrow::Cow;
use std::rc::Rc;

use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::{Action, MapType};

use super::abi;
use super::worker::Worker;
use crate::engine;
use crate::policy::upstream::UpstreamId;
use crate::readiness::{Outcome, Permit};
use crate::request::Request;
use crate::response::{self, Verdict};

/// The context of one request.
pub struct Stream {
    worker: Rc<Worker>,
    /// Whether the reply is the filter's own, which is evidence of nothing.
    replied: bool,
    /// Permits it holds. Each goes back once, whatever the stream comes to.
    permits: Vec<(UpstreamId, Permit)>,
}

impl Stream {
    /// A request of the worker's.
    pub fn new(worker: Rc<Worker>) -> Self {
        Self { worker, replied: false, permits: Vec::new() }
    }

    /// Gives back all permits.
    fn settle(&mut self, outcome: Outcome) {
        for (upstream, permit) in core::mem::take(&mut self.permits) {
            self.worker.settle(upstream, permit, outcome);
        }
    }
}

impl Context for Stream {}

impl HttpContext for Stream {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        let worker = Rc::clone(&self.worker);
        let Some(decision) = worker.decide(&ProxyRequest) else {
            return Action::Continue;
        };
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
                self.settle(Outcome::Unused);
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
        // Not the upstream that was decided on but the one that was reached: the route table has the last word.
        let cluster = property(&["xds", "cluster_name"]);
        let reached = |id: UpstreamId| {
            policy
                .upstream(id)
                .is_some_and(|upstream| Some(upstream.cluster.as_bytes()) == cluster.as_deref())
        };
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
                    None => self.worker.observe(id, verdict),
                }
            }
            self.permits = permits.into_iter().filter(|(id, _)| !reached(*id)).collect();
        }
        // The rest are for upstreams that the request did not go to.
        self.settle(Outcome::Unused);
        Action::Continue
    }

    fn on_log(&mut self) {
        if self.permits.is_empty() {
            return;
        }
        // No response came by: the proxy has followed a redirect of the upstream's, or the client has left.
        let redirected =
            property(&["response", "code_details"]).is_some_and(|details| details == b"internal_redirect");
        self.settle(if redirected { Outcome::Seen(Verdict::Success) } else { Outcome::Unused });
    }
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
