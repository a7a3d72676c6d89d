//! What all HTTP calls of a worker have in common.

use crate::proxy::{Map, Proxy};

/// The `user-agent` of the proxy's own requests.
pub const USER_AGENT: &str = concat!("graygate/", env!("CARGO_PKG_VERSION"));

/// The `accept` of the proxy's own requests. Some apps respond 406 without one.
pub const ACCEPT: &str = "*/*";

/// The headers that have the proxy send a request once more if the connection is reset before a response. It removes them
/// itself.
///
/// The app may close a kept connection at the moment of the request. All calls have a safe method. In HTTP/1, Envoy gives a
/// request that it sends again an empty chunked body. A server that refuses that fails the call, as it would without this.
pub const RETRY_ON_RESET: [(&str, &str); 2] = [("x-envoy-retry-on", "reset"), ("x-envoy-max-retries", "1")];

/// Returns whether the upstream sent the response to the call that ends now. The response must have headers.
pub fn is_from_upstream(proxy: &impl Proxy) -> bool {
    // The router adds this header to every response of an upstream, and to none of its own.
    proxy.header(Map::CallResponseHeaders, "x-envoy-upstream-service-time").is_some()
}

/// Returns whether the proxy did not send the call because the cluster is at its limits. The response must have headers.
pub fn is_overloaded(proxy: &impl Proxy) -> bool {
    proxy.header(Map::CallResponseHeaders, "x-envoy-overloaded").is_some()
}
