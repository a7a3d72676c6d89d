//! A gRPC health check on its way back: whatever answered it is made the response it is to be.

use proxy_wasm::hostcalls;
use proxy_wasm::types::{BufferType, MapType};

use super::attribute::status;
use super::worker::Worker;
use crate::decision::probe::health::call::{HealthCall, HealthResponse};

/// One check, from its request to its response.
pub struct Exchange {
    call: HealthCall,
    outcome: Option<HealthResponse>,
    /// Whether the response's message has been written.
    written: bool,
}

impl Exchange {
    /// A check that is on its way.
    pub fn new(call: HealthCall) -> Self {
        Exchange { call, outcome: None, written: false }
    }

    /// Takes a part of the request's body.
    pub fn on_request_body(&mut self, size: usize, end: bool) {
        let part = match self.call.room().min(size) {
            0 => None,
            size => hostcalls::get_buffer(BufferType::HttpRequestBody, 0, size).ok().flatten(),
        };
        self.call.receive(&part.unwrap_or_default(), end);
    }

    /// Makes the response's headers. All headers and buffers are at hand in the callback of their own, which
    /// is where each is written.
    pub fn on_response_headers(&mut self, worker: &Worker, end: bool) {
        // A message needs a body to stand in.
        let hop = status(MapType::HttpResponseHeaders) == Some(200) && !end;
        let outcome = self.call.outcome(&worker.policy, hop);
        self.outcome = Some(outcome);
        worker.counters.replied(&worker.policy, outcome.cause());
        let map = MapType::HttpResponseHeaders;
        for (name, value) in
            [(":status", Some("200")), ("content-type", Some("application/grpc")), ("content-length", None)]
        {
            let _ = hostcalls::set_map_value(map, name, value);
        }
        if end {
            finish(map, outcome);
        }
    }

    /// Makes the response's body, and its trailers where it ends here.
    pub fn on_response_body(&mut self, size: usize, end: bool) {
        let Some(outcome) = self.outcome else {
            return;
        };
        let body = if core::mem::replace(&mut self.written, true) { &[] } else { outcome.body() };
        let _ = hostcalls::set_buffer(BufferType::HttpResponseBody, 0, size, body);
        if end {
            finish(MapType::HttpResponseTrailers, outcome);
        }
    }

    /// Makes the trailers of a response that has some.
    pub fn on_response_trailers(&mut self) {
        if let Some(outcome) = self.outcome {
            finish(MapType::HttpResponseTrailers, outcome);
        }
    }
}

/// Writes the outcome where a gRPC client looks for it.
fn finish(map: MapType, outcome: HealthResponse) {
    let _ = hostcalls::set_map_value(map, "grpc-status", Some(&outcome.status().to_string()));
    let words = Some(outcome.message()).filter(|words| !words.is_empty());
    if words.is_some() || map == MapType::HttpResponseHeaders {
        let _ = hostcalls::set_map_value(map, "grpc-message", words);
    }
}
