//! What the proxy tells of a request and its response beside their headers: its attributes, and statuses.

use proxy_wasm::hostcalls;
use proxy_wasm::types::MapType;

/// An attribute of the request, as bytes. Absent and unreadable are the same to those who ask.
pub fn attribute(path: &[&str]) -> Option<Vec<u8>> {
    hostcalls::get_property(path.to_vec()).ok()?
}

/// The `:status` of a response, or of a callout's.
pub fn status(map: MapType) -> Option<u16> {
    let bytes = hostcalls::get_map_value_bytes(map, ":status").ok()??;
    core::str::from_utf8(&bytes).ok()?.parse().ok()
}
