//! How upstreams behave.

use std::time::Duration;

/// How an upstream behaves towards a request or a check.
#[derive(Clone, Debug, PartialEq)]
pub enum Manner {
    /// Responds with this status.
    Status(u16),
    /// Responds 200 after this time.
    Slow(Duration),
    /// Responds with this status and these headers.
    With(u16, Vec<(&'static str, String)>),
    /// Responds as a gRPC service, with this status in the trailers.
    Grpc(u32),
    /// Responds 200 as a server of HTTP/2. It refuses a request with `connection: close` in this way.
    Http2(Box<Manner>),
    /// The proxy refuses a call that waits for a connection, because the cluster is at its limits.
    Overloads,
    /// Refuses the connection.
    Refuses,
    /// Closes the connection before a response.
    Resets,
    /// Responds 200 and closes the connection in the middle of the body.
    BreaksOff,
    /// Responds 200 and never ends the body.
    Streams,
    /// Never responds.
    Hangs,
    /// The cluster has no host.
    NoHost,
    /// The cluster is at its limits.
    Overflows,
    /// The cluster does not exist.
    Missing,
    /// Responds to a gRPC call with this status and message, without a body.
    GrpcFails(u32, &'static str),
}
