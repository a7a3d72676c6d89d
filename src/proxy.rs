//! The proxy, as a worker sees it: everything that a worker asks of its surroundings, and nothing else.
//!
//! A worker reaches the proxy through [`Proxy`] alone. The filter implements it by the host calls of proxy-wasm, a test
//! by a simulated world. The trait assumes neither a VM for each worker nor a tick on each: an implementation may call
//! several workers on one thread, or one worker from a timer of its own.
//!
//! Calls that take a [`Map`] or a [`Body`] act on the message of the current callback. Outside the callback of that
//! message, reads return nothing and writes have no effect.

use core::str::FromStr;
use core::time::Duration;

pub use log::Level;

use crate::decision::reply::Reply;
use crate::value::time::Time;

/// What a worker asks of its surroundings.
pub trait Proxy {
    /// Returns the wall clock's time.
    fn now(&self) -> Time;

    /// Returns a random number, or 0 if the proxy has none to give.
    fn random(&self) -> u64;

    /// Returns the first value of a header, by its lower-case name. The bytes need not be UTF-8.
    fn header(&self, map: Map, name: &str) -> Option<Vec<u8>>;

    /// Returns all headers in the form that [`crate::value::request::HeaderMap`] reads.
    fn headers(&self, map: Map) -> Option<Vec<u8>>;

    /// Sets a header to this value, or removes it.
    fn set_header(&self, map: Map, name: &str, value: Option<&str>);

    /// Adds a value to a header and keeps those that it has.
    fn add_header(&self, map: Map, name: &str, value: &str);

    /// Replaces all headers by these.
    fn replace_headers(&self, map: Map, headers: &[(&str, &str)]);

    /// Returns the first bytes of a body, at most `max`.
    fn body(&self, body: Body, max: usize) -> Vec<u8>;

    /// Replaces the first `size` bytes of a body.
    fn replace_body(&self, body: Body, size: usize, by: &[u8]);

    /// Returns an attribute of the request at hand, or of the proxy.
    fn attribute(&self, attribute: Attribute) -> Option<Vec<u8>>;

    /// Makes another request the one at hand, until [`Proxy::leave`]. Returns false if it has ended.
    fn enter(&self, exchange: ExchangeId) -> bool;

    /// Ends what [`Proxy::enter`] began.
    fn leave(&self);

    /// Answers the request at hand. Returns false if the proxy did not take the reply.
    fn reply(&self, reply: &Reply) -> bool;

    /// Gives the request an object of filter state that routes can match on, and has its route picked again. Both
    /// texts are shorter than 128 bytes, as the names of a policy are.
    fn set_filter_state(&self, object: &str, value: &str);

    /// Labels the request for access logs.
    fn set_label(&self, label: &str);

    /// Reads a value that all workers share.
    fn load(&self, key: &str) -> Stored;

    /// Replaces a shared value, if it is still the one that was read as `seen`. A key that does not exist yet is
    /// created whatever `seen` is.
    ///
    /// # Errors
    ///
    /// [`StoreError::Conflict`] if another worker has replaced it since.
    fn store(&self, key: &str, bytes: &[u8], seen: Option<StoreVersion>) -> Result<(), StoreError>;

    /// Sends an HTTP request without a body to a cluster. Its end comes to the worker with this id.
    ///
    /// # Errors
    ///
    /// [`NotSent`] if the proxy does not take the request.
    fn http_call(
        &self,
        cluster: &str,
        headers: &[(&str, &str)],
        timeout: Duration,
    ) -> Result<CallId, NotSent>;

    /// Calls a gRPC method without metadata. `target` is Envoy's `GrpcService` message. Ids are numbered apart from
    /// those of HTTP requests.
    ///
    /// # Errors
    ///
    /// [`NotSent`] if the proxy does not take the call.
    fn grpc_call(
        &self,
        target: &[u8],
        method: (&str, &str),
        message: &[u8],
        timeout: Duration,
    ) -> Result<CallId, NotSent>;

    /// Returns the status message of the gRPC call that has just ended. It may be another server's, so it need not be
    /// UTF-8.
    fn grpc_status_message(&self) -> Vec<u8>;

    /// Returns the id of the metric with this name. Defines it at 0 if the proxy does not have it yet.
    fn metric(&self, kind: MetricKind, name: &str) -> Option<MetricId>;

    /// Adds to a counter.
    fn add(&self, metric: MetricId, amount: u64);

    /// Sets a gauge.
    fn set(&self, metric: MetricId, value: u64);

    /// Writes a line to the proxy's log.
    fn log(&self, level: Level, line: &str);

    /// Has the worker ticked at this period; never again if it is zero.
    fn tick_every(&self, period: Duration);

    /// Returns the `:status` of a response, or of the response to a call.
    fn status(&self, map: Map) -> Option<u16> {
        number(&self.header(map, ":status")?)
    }

    /// Returns the `grpc-status` in these headers or trailers.
    fn grpc_status(&self, map: Map) -> Option<u32> {
        number(&self.header(map, "grpc-status")?)
    }

    /// Returns the proxy's details on how the request at hand was answered, or how it ended.
    fn code_details(&self) -> Vec<u8> {
        self.attribute(Attribute::CodeDetails).unwrap_or_default()
    }

    /// Returns whether the router has the request at hand. Another filter may hold it up, which is not the upstream's
    /// fault.
    fn is_with_router(&self) -> bool {
        let attempts = self.attribute(Attribute::AttemptCount);
        attempts.is_some_and(|count| count.iter().any(|byte| *byte != 0))
    }
}

/// Reads the number that a header's value is.
pub fn number<N: FromStr>(value: &[u8]) -> Option<N> {
    core::str::from_utf8(value).ok()?.parse().ok()
}

/// What the proxy is to do with a request after its first callback.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flow {
    /// Go on with it.
    #[default]
    Continue,
    /// Stop: it has been answered.
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
}

/// The body of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// The request's.
    Request,
    /// The response's.
    Response,
    /// The message that a gRPC call has returned.
    GrpcMessage,
    /// The policy document, while it is configured.
    Configuration,
}

/// What the proxy knows of a request or of itself, beside headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attribute {
    /// Where the request comes from, as `address:port`.
    SourceAddress,
    /// How it was answered, or how it ended: Envoy's `response.code_details`.
    CodeDetails,
    /// The cluster that its route leads to. The route table has the last word, so this may be another than the policy
    /// decided on.
    Cluster,
    /// How many times the router has sent it on; 0 or absent while the router does not have it.
    AttemptCount,
    /// The id of the proxy's node.
    NodeId,
    /// The name of the proxy's own cluster.
    NodeCluster,
    /// The name of the plugin that the policy was given to.
    PluginName,
}

/// Which request: the id that the proxy gave its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExchangeId(pub u32);

/// Which call of the worker's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CallId(pub u32);

/// Which metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MetricId(pub u32);

/// What kind of metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// It only rises.
    Counter,
    /// It has a value.
    Gauge,
}

/// A shared value as it was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// Its bytes, if the key exists.
    pub bytes: Option<Vec<u8>>,
    /// Which version they are, if the key exists.
    pub version: Option<StoreVersion>,
}

/// A version of a shared value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreVersion(pub u32);

/// Why a shared value was not replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreError {
    /// Another worker has replaced it.
    Conflict,
    /// The proxy refused it.
    Refused,
}

/// Why a call was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotSent {
    /// The proxy has no such cluster.
    NoCluster,
    /// The cluster has no host to connect to, or is at its limits.
    NoHost,
    /// The proxy could not read the call.
    Unreadable,
}
