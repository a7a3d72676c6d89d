//! How a check failed.

use core::fmt;

use serde::{Deserialize, Serialize};

/// How a check failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CheckFailure {
    /// The upstream answered with this status.
    Status(u16),
    /// There was no connection, or it ended before an answer.
    Unreachable,
    /// No answer within `timeoutSeconds`.
    TimedOut,
    /// The answer broke off, was no answer that the proxy understands, or larger than it buffers.
    Broken,
    /// Redirected more often than the kubelet follows, or to what is no address.
    Redirected,
    /// The gRPC call ended with this grpc-status.
    GrpcStatus(u32),
    /// The gRPC service says that it is not serving, with this of the protocol's `ServingStatus`.
    NotServing(u32),
}

impl fmt::Display for CheckFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CheckFailure::Status(status) => write!(f, "status {status}"),
            CheckFailure::Unreachable => f.write_str("could not be reached"),
            CheckFailure::TimedOut => f.write_str("no answer in time"),
            CheckFailure::Broken => f.write_str("the answer broke off, or was none"),
            CheckFailure::Redirected => f.write_str("redirected too often, or to no address"),
            CheckFailure::GrpcStatus(status) => write!(f, "grpc-status {status}"),
            CheckFailure::NotServing(2) => f.write_str("NOT_SERVING"),
            CheckFailure::NotServing(status) => write!(f, "not serving: serving status {status}"),
        }
    }
}
