//! The interface between a worker and the proxy that runs it.
//!
//! A worker reaches the proxy only through [`Proxy`]. The filter implements the trait with the host calls of proxy-wasm.
//! The tests implement it with a simulated proxy. The trait does not assume a VM or a tick for each worker. An
//! implementation may call several workers on one thread, or one worker from a timer of its own.
//!
//! The current request is the one whose callback runs, or the one that [`Proxy::enter`] made current. Methods that take a
//! [`Map`] or a [`Body`] act on the message of the current callback. Outside the callback of that message, reads return
//! nothing and writes have no effect.

use core::time::Duration;

pub use log::Level;

use crate::decision::reply::Reply;
use crate::policy::module::ModuleKind;
use crate::value::date::Date;
use crate::value::parse::number;
use crate::value::time::Time;

/// The calls that a worker makes to the proxy.
pub trait Proxy {
    /// Returns the module that runs.
    fn module(&self) -> ModuleKind {
        ModuleKind::Full
    }

    /// Returns the time by a clock that never jumps and that all workers share.
    fn now(&self) -> Time;

    /// Returns the date by the wall clock. It may jump ahead or back.
    fn date(&self) -> Date;

    /// Returns a random number, or 0 if the proxy has no source of them.
    fn random(&self) -> u64;

    /// Returns the first value of a header. `name` must be in lower case. The value need not be UTF-8.
    fn header(&self, map: Map, name: &str) -> Option<Vec<u8>>;

    /// Returns all headers in the serialization that [`crate::value::request::HeaderMap`] reads.
    fn headers(&self, map: Map) -> Option<Vec<u8>>;

    /// Sets a header to this value. Removes it if `value` is `None`.
    fn set_header(&self, map: Map, name: &str, value: Option<&[u8]>);

    /// Adds a value to a header and keeps its present values.
    fn add_header(&self, map: Map, name: &str, value: &str);

    /// Replaces all headers with these.
    fn replace_headers(&self, map: Map, headers: &[(&str, &str)]);

    /// Returns the first bytes of a body, at most `max`.
    fn body(&self, body: Body, max: usize) -> Vec<u8>;

    /// Replaces the first `size` bytes of a body with `by`.
    fn replace_body(&self, body: Body, size: usize, by: &[u8]);

    /// Returns an attribute of the current request or of the proxy.
    fn attribute(&self, attribute: Attribute) -> Option<Vec<u8>>;

    /// Makes another context the current one, until [`Proxy::leave`]. Returns `false` if that context has ended. It is that of a
    /// request, or of a root of this VM.
    fn enter(&self, exchange: ExchangeId) -> bool;

    /// Leaves the context that [`Proxy::enter`] made current, for that of the worker's own root.
    fn leave(&self);

    /// Sends a reply to the current request. Returns `false` if the proxy did not accept the reply.
    fn reply(&self, reply: &Reply) -> bool;

    /// Forwards the current request, which [`Flow::Pause`] stopped. Until then its headers can be replaced.
    fn resume(&self);

    /// Sets an object of the request's filter state, which routes can match on, and has the route picked again. Both
    /// texts must be shorter than 128 bytes, as the names in a policy are.
    fn set_filter_state(&self, object: &str, value: &str);

    /// Sets the request's label for access logs.
    fn set_label(&self, label: &str);

    /// Reads a value that all workers share.
    fn load(&self, key: &str) -> Stored;

    /// Replaces a shared value if its version is still `seen`. A key that does not exist is created whatever `seen` is.
    ///
    /// # Errors
    ///
    /// Returns [`StoreError::Conflict`] if another worker has replaced the value since. Returns [`StoreError::Refused`]
    /// for any other failure.
    fn store(&self, key: &str, bytes: &[u8], seen: Option<StoreVersion>) -> Result<(), StoreError>;

    /// Sends an HTTP request to a cluster. Returns the id with which the worker later gets the end of the call.
    ///
    /// # Errors
    ///
    /// Returns [`NotSent`] if the proxy does not accept the request.
    fn http_call(
        &self,
        cluster: &str,
        headers: &[(&str, &str)],
        body: &[u8],
        timeout: Duration,
    ) -> Result<CallId, NotSent>;

    /// Returns the id of the metric with this name. If the proxy does not have the metric, defines it at 0. Returns `None`
    /// if that fails.
    fn metric(&self, kind: MetricKind, name: &str) -> Option<MetricId>;

    /// Adds to a counter.
    fn add(&self, metric: MetricId, amount: u64);

    /// Sets a gauge.
    fn set(&self, metric: MetricId, value: u64);

    /// Writes a line to the proxy's log.
    fn log(&self, level: Level, line: &str);

    /// Sets the tick of the root to which the current context belongs. It does not tick if `period` is zero.
    fn tick_every(&self, period: Duration);

    /// Returns the `:status` of a response, or of the response to a call.
    fn status(&self, map: Map) -> Option<u16> {
        number(&self.header(map, ":status")?)
    }

    /// Returns the `grpc-status` in these headers or trailers.
    fn grpc_status(&self, map: Map) -> Option<u32> {
        number(&self.header(map, "grpc-status")?)
    }

    /// Returns the proxy's code details of the current request, which tell who made the response or how the request
    /// ended.
    fn code_details(&self) -> Vec<u8> {
        self.attribute(Attribute::CodeDetails).unwrap_or_default()
    }

    /// Returns whether the router has the current request. Until then another filter may be delaying it, and the delay is
    /// no evidence about the upstream.
    fn is_with_router(&self) -> bool {
        self.attempts() > 0
    }

    /// Returns how often the router has sent the current request to an upstream. Hedged requests count as well.
    fn attempts(&self) -> u64 {
        let little_endian = self.attribute(Attribute::AttemptCount).unwrap_or_default();
        little_endian.iter().rev().fold(0, |count, byte| count << 8 | u64::from(*byte))
    }
}

/// What the proxy must do with a request after its first callback.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flow {
    /// Continue with the next filter.
    #[default]
    Continue,
    /// Stop, because the filter has sent a reply or will send one later.
    Pause,
}

/// The headers or trailers of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Map {
    /// The request's headers.
    RequestHeaders,
    /// The response's headers.
    ResponseHeaders,
    /// The response's trailers.
    ResponseTrailers,
    /// The headers of the response to an HTTP call.
    CallResponseHeaders,
    /// The trailers of the response to an HTTP call.
    CallResponseTrailers,
}

/// The body of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// The body of the request.
    Request,
    /// The body of the response.
    Response,
    /// The body of the response to an HTTP call.
    CallResponse,
    /// The policy document. It can be read only while the policy is configured.
    Configuration,
}

/// A property of a request or of the proxy that is not a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attribute {
    /// The address from which the request comes, as `address:port`.
    SourceAddress,
    /// The address of the host that the request was last sent to, as `address:port`.
    UpstreamAddress,
    /// Envoy's `response.code_details`, which tells who made the response or how the request ended.
    CodeDetails,
    /// The cluster of the request's route. The route table decides it, so it may differ from the cluster of the version
    /// that the policy chose.
    Cluster,
    /// The number of times that the router has sent the request to an upstream. 0 or absent before the router has it.
    AttemptCount,
    /// The id of the proxy's node.
    NodeId,
    /// The name of the proxy's own cluster.
    NodeCluster,
    /// The name of the plugin that has the policy.
    PluginName,
}

/// The id that the proxy gave to the stream of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExchangeId(pub u32);

/// The id that the proxy gave to a call that a worker made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CallId(pub u32);

/// The id that the proxy gave to a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MetricId(pub u32);

/// The kind of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// A value that only rises.
    Counter,
    /// A value that may rise and fall.
    Gauge,
}

/// A shared value as it was read. It has neither bytes nor a version if the key does not exist.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// The value.
    pub bytes: Option<Vec<u8>>,
    /// The version of the value, for [`Proxy::store`].
    pub version: Option<StoreVersion>,
}

/// A version of a shared value. It changes with each write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreVersion(pub u32);

/// The reason for which a shared value was not replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreError {
    /// Another worker has replaced the value since it was read.
    Conflict,
    /// The proxy refused the write.
    Refused,
}

/// The reason for which a call was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotSent {
    /// The proxy has no such cluster.
    NoCluster,
    /// The cluster has no host to connect to or is at its limits.
    NoHost,
}
