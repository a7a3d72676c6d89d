//! What the proxy tells of a request and its response beside their headers: its attributes, and statuses.

use core::str::FromStr;

use proxy_wasm::hostcalls;
use proxy_wasm::types::MapType;

/// An attribute of the request, as bytes. Absent and unreadable are the same to those who ask.
pub fn attribute(path: &[&str]) -> Option<Vec<u8>> {
    hostcalls::get_property(path.to_vec()).ok()?
}

/// The `:status` of a response, or of a callout's.
pub fn status(map: MapType) -> Option<u16> {
    number(&hostcalls::get_map_value_bytes(map, ":status").ok()??)
}

/// The gRPC status of a response, where it is in these headers or trailers.
pub fn grpc_status(map: MapType) -> Option<u32> {
    number(&hostcalls::get_map_value_bytes(map, "grpc-status").ok()??)
}

/// The number that a header's value is.
pub fn number<N: FromStr>(value: &[u8]) -> Option<N> {
    core::str::from_utf8(value).ok()?.parse().ok()
}

/// Whether the response at hand is a gRPC service's.
pub fn is_grpc() -> bool {
    let kind = hostcalls::get_map_value_bytes(MapType::HttpResponseHeaders, "content-type").ok().flatten();
    kind.is_some_and(|kind| kind.starts_with(b"application/grpc"))
}
