//! The hop of gRPC health checks: a listener without a socket, which answers what the filter turns into gRPC.
//!
//! A reply that a proxy itself sends cannot carry a gRPC message. So the filter forwards a check to the hop by a header,
//! and writes the message on the way back.

use graygate::decision::probe::health::HOP;
use graygate::policy::document::Node;
use graygate::policy::probe::GRPC_HEALTH;

use super::cluster::{assignment, host};
use super::listener::{self, Manager};
use crate::tree::{list, number, object, text};

/// The name of the listener and of its cluster.
pub const NAME: &str = "graygate-hop";

/// Returns the route to the hop. It must come first.
pub fn route() -> Node {
    let marked = object([("name", text(HOP.0)), ("present_match", Node::Bool(true))]);
    let matched = object([("path", text(format!("{GRPC_HEALTH}Check"))), ("headers", list([marked]))]);
    let action = object([("cluster", text(NAME))]);
    object([("name", text(NAME)), ("match", matched), ("route", action)])
}

/// Returns the cluster of the hop. Its limits leave room for clients that never complete a check.
pub fn cluster() -> Node {
    let limits =
        ["max_connections", "max_pending_requests", "max_requests"].map(|name| (name, number(65_536)));
    let address = object([("envoy_internal_address", object([("server_listener_name", text(NAME))]))]);
    object([
        ("name", text(NAME)),
        ("type", text("STATIC")),
        ("circuit_breakers", object([("thresholds", list([object(limits)]))])),
        ("load_assignment", assignment(NAME, [host(address)])),
    ])
}

/// Returns the listener of the hop. The response must have a body, and must not be sent before the whole request is
/// there, hence the buffer.
pub fn listener() -> Node {
    let buffer = object([
        ("@type", text("type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer")),
        ("max_request_bytes", number(8_192)),
    ]);
    let filter = object([("name", text("buffer")), ("typed_config", buffer)]);
    let answer = object([("status", number(200)), ("body", object([("inline_string", text("hop"))]))]);
    let everything = object([("match", object([("prefix", text("/"))])), ("direct_response", answer)]);
    let manager = Manager {
        name: NAME,
        http_filters: vec![filter],
        virtual_hosts: vec![listener::virtual_host("all", ["*".to_owned()], vec![everything])],
        request_timeout: Some("5s"),
        has_access_log: false,
    };
    object([
        ("name", text(NAME)),
        ("internal_listener", Node::Object(Vec::new())),
        ("filter_chains", manager.filter_chains()),
    ])
}

/// Returns the extension without which Envoy refuses internal listeners.
pub fn bootstrap_extension() -> Node {
    let kind = "type.googleapis.com/envoy.extensions.bootstrap.internal_listener.v3.InternalListener";
    let config = object([("@type", text(kind))]);
    object([("name", text("envoy.bootstrap.internal_listener")), ("typed_config", config)])
}
