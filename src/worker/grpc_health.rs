//! A gRPC health check that was forwarded to a hop. The filter rewrites the hop's response to that of the check, because
//! it can make no reply with a gRPC message.

use super::scope::Scope;
use crate::decision::probe::health::call::{HealthCall, HealthResponse};
use crate::proxy::{Body, Map, Proxy};

/// One health check, from its request to its response.
pub struct HealthExchange {
    call: HealthCall,
    response: Option<HealthResponse>,
    /// Whether the response's message has been written.
    written: bool,
}

impl HealthExchange {
    /// Creates the exchange of a health check that was forwarded.
    pub fn new(call: HealthCall) -> Self {
        HealthExchange { call, response: None, written: false }
    }

    /// Takes a part of the request's body.
    pub fn on_request_body(&mut self, proxy: &impl Proxy, size: usize, end: bool) {
        let part = match self.call.room().min(size) {
            0 => Vec::new(),
            size => proxy.body(Body::Request, size),
        };
        self.call.receive(&part, end);
    }

    /// Rewrites the response's headers. Each part of a response can be written only in the callback of that part.
    pub fn on_response_headers<P: Proxy>(&mut self, scope: &mut Scope<'_, P>, end: bool) {
        let proxy = scope.proxy;
        let map = Map::ResponseHeaders;
        // A gRPC message needs a body that it can replace.
        let hop = proxy.status(map) == Some(200) && !end;
        let response = self.call.outcome(scope.policy, hop);
        self.response = Some(response);
        scope.metrics.count_reply(proxy, scope.policy, response.cause());
        for (name, value) in
            [(":status", Some("200")), ("content-type", Some("application/grpc")), ("content-length", None)]
        {
            proxy.set_header(map, name, value.map(str::as_bytes));
        }
        if let Some(encodings) = response.accepted_encodings() {
            proxy.set_header(map, "grpc-accept-encoding", Some(encodings.as_bytes()));
        }
        if end {
            finish(proxy, map, response);
        }
    }

    /// Rewrites a part of the response's body. Adds the trailers if the response ends here.
    pub fn on_response_body(&mut self, proxy: &impl Proxy, size: usize, end: bool) {
        let Some(response) = self.response else {
            return;
        };
        let body = if core::mem::replace(&mut self.written, true) { &[] } else { response.body() };
        proxy.replace_body(Body::Response, size, body);
        if end {
            finish(proxy, Map::ResponseTrailers, response);
        }
    }

    /// Rewrites the response's trailers.
    pub fn on_response_trailers(&mut self, proxy: &impl Proxy) {
        if let Some(response) = self.response {
            finish(proxy, Map::ResponseTrailers, response);
        }
    }
}

/// Writes the gRPC status into the trailers, or into the headers of a response without a body.
fn finish(proxy: &impl Proxy, map: Map, response: HealthResponse) {
    proxy.set_header(map, "grpc-status", Some(response.status().to_string().as_bytes()));
    let message = Some(response.message()).filter(|message| !message.is_empty());
    if message.is_some() || map == Map::ResponseHeaders {
        proxy.set_header(map, "grpc-message", message.map(str::as_bytes));
    }
}
