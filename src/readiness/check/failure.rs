//! The ways in which a check fails.

use core::fmt;

use serde::{Deserialize, Serialize};

/// How a check failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "tool", derive(strum::EnumIter))]
pub enum CheckFailure {
    /// The upstream responded with this status.
    Status(u16),
    /// There was no connection, or it ended before a response.
    #[default]
    Unreachable,
    /// There was no response within `timeoutSeconds`.
    TimedOut,
    /// The response broke off, was malformed, or was larger than the proxy buffers.
    Broken,
    /// It was redirected more often than the kubelet follows, or to an invalid address.
    Redirected,
    /// The gRPC call ended with this grpc-status.
    GrpcStatus(u32),
    /// The gRPC service reported this `ServingStatus`, which is not SERVING.
    NotServing(u32),
}

impl fmt::Display for CheckFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CheckFailure::Status(status) => write!(f, "status {status}"),
            CheckFailure::Unreachable => f.write_str("could not be reached"),
            CheckFailure::TimedOut => f.write_str("no response in time"),
            CheckFailure::Broken => f.write_str("the response broke off or was invalid"),
            CheckFailure::Redirected => f.write_str("redirected too often or to an invalid address"),
            CheckFailure::GrpcStatus(status) => write!(f, "grpc-status {status}"),
            CheckFailure::NotServing(2) => f.write_str("NOT_SERVING"),
            CheckFailure::NotServing(status) => write!(f, "not serving: serving status {status}"),
        }
    }
}
