//! What the SDK does not offer: a local reply with details, filter state, randomness, a failed gRPC call's words as the
//! bytes they are, and callouts whose ends come to this crate's own [`super::callback`].
#![allow(unsafe_code)]

use std::time::Duration;

use proxy_wasm::hostcalls;
use proxy_wasm::types::{MapType, Status};

use crate::decision::reply::Reply;
use crate::value::time::millis;

#[cfg_attr(target_arch = "wasm32", link(wasm_import_module = "env"))]
unsafe extern "C" {
    fn proxy_send_local_response(
        status: u32,
        details: *const u8,
        details_size: usize,
        body: *const u8,
        body_size: usize,
        headers: *const u8,
        headers_size: usize,
        grpc_status: i32,
    ) -> u32;

    fn proxy_get_header_map_pairs(map: u32, pairs: *mut *mut u8, pairs_size: *mut usize) -> u32;

    fn proxy_get_status(code: *mut u32, words: *mut *mut u8, words_size: *mut usize) -> u32;

    fn proxy_http_call(
        cluster: *const u8,
        cluster_size: usize,
        headers: *const u8,
        headers_size: usize,
        body: *const u8,
        body_size: usize,
        trailers: *const u8,
        trailers_size: usize,
        timeout: u32,
        token: *mut u32,
    ) -> u32;

    fn proxy_grpc_call(
        target: *const u8,
        target_size: usize,
        service: *const u8,
        service_size: usize,
        method: *const u8,
        method_size: usize,
        metadata: *const u8,
        metadata_size: usize,
        message: *const u8,
        message_size: usize,
        timeout: u32,
        token: *mut u32,
    ) -> u32;
}

#[cfg_attr(target_arch = "wasm32", link(wasm_import_module = "wasi_snapshot_preview1"))]
unsafe extern "C" {
    fn random_get(buffer: *mut u8, size: usize) -> i32;
}

/// Lets the proxy work out the grpc-status from the HTTP status; it does so for gRPC requests alone.
const GRPC_STATUS_FROM_HTTP: i32 = -1;

/// Answers the request with the reply, whose details the access log shows; the SDK's own call sends none.
/// Whether the proxy took it.
pub fn send_local_response(reply: &Reply) -> bool {
    let Reply { status, body, details, .. } = reply;
    let grpc_status = reply.grpc_status.and_then(|status| i32::try_from(status).ok());
    let headers = serialize(&reply.headers);
    // SAFETY: each pointer comes with the length of the live slice it points to; the proxy copies all of
    // them before it returns and keeps none.
    let result = unsafe {
        proxy_send_local_response(
            *status,
            details.as_ptr(),
            details.len(),
            body.as_ptr(),
            body.len(),
            headers.as_ptr(),
            headers.len(),
            grpc_status.unwrap_or(GRPC_STATUS_FROM_HTTP),
        )
    };
    result == 0
}

/// All headers of the request, or of the response, as [`crate::value::request::HeaderMap`] reads them. None has to be text.
pub fn headers(map: MapType) -> Option<Vec<u8>> {
    let (mut pairs, mut size) = (core::ptr::null_mut(), 0);
    // SAFETY: as in `grpc_words`.
    let taken = unsafe { proxy_get_header_map_pairs(map as u32, &mut pairs, &mut size) };
    // SAFETY: as there.
    (taken == 0 && !pairs.is_null()).then(|| unsafe { Vec::from_raw_parts(pairs, size, size) })
}

/// Gives the request's filter state an object that routes can match on, and makes the proxy pick the route anew.
/// Both texts are shorter than 128 bytes, as the names of a policy are.
pub fn set_filter_state(object: &str, value: &str) {
    // The argument is a protobuf message: field 1 and field 2 are strings, field 3, left out, is the life span of
    // the filter chain, the request's own.
    let mut message = Vec::new();
    for (tag, text) in [(0x0a, object), (0x12, value)] {
        let Ok(size @ 0..128) = u8::try_from(text.len()) else {
            return;
        };
        message.extend([tag, size]);
        message.extend(text.as_bytes());
    }
    // Neither can fail: the names are those that the proxy of this ABI knows.
    let _ = hostcalls::call_foreign_function("set_envoy_filter_state", Some(&message));
    let _ = hostcalls::call_foreign_function("clear_route_cache", None);
}

/// A random number from the proxy; 0 should it have none to give.
pub fn random() -> u64 {
    let mut bytes = [0; 8];
    // SAFETY: the proxy writes at most `size` bytes to a buffer of that size.
    let _ = unsafe { random_get(bytes.as_mut_ptr(), bytes.len()) };
    u64::from_le_bytes(bytes)
}

/// What the proxy has to say of the gRPC call that has just ended. They may be another server's words, so
/// nobody has checked that they are UTF-8.
pub fn grpc_words() -> Vec<u8> {
    let (mut code, mut words, mut size) = (0, core::ptr::null_mut(), 0);
    // SAFETY: the proxy writes to three places that live here. What it puts there it has allocated by this
    // module's own allocator for this call, with that size as length and capacity.
    unsafe {
        match proxy_get_status(&mut code, &mut words, &mut size) {
            0 if !words.is_null() => Vec::from_raw_parts(words, size, size),
            _ => Vec::new(),
        }
    }
}

/// Sends a request with no body to the cluster. Gives the token by which its end is told.
pub fn http_call(cluster: &str, headers: &[(&str, &str)], timeout: Duration) -> Result<u32, Status> {
    let (headers, trailers, mut token) = (serialize(headers), serialize::<&str>(&[]), 0);
    // SAFETY: as for the local response; the token is written to a place that lives here.
    let result = unsafe {
        proxy_http_call(
            cluster.as_ptr(),
            cluster.len(),
            headers.as_ptr(),
            headers.len(),
            core::ptr::null(),
            0,
            trailers.as_ptr(),
            trailers.len(),
            limit(timeout),
            &mut token,
        )
    };
    taken(result, token)
}

/// Calls a method with no metadata. Gives the token by which its end is told; they are numbered apart from those of
/// HTTP requests.
pub fn grpc_call(
    target: &[u8],
    service: &str,
    method: &str,
    message: &[u8],
    timeout: Duration,
) -> Result<u32, Status> {
    let (metadata, mut token) = (serialize::<&str>(&[]), 0);
    // SAFETY: as for the local response; the token is written to a place that lives here.
    let result = unsafe {
        proxy_grpc_call(
            target.as_ptr(),
            target.len(),
            service.as_ptr(),
            service.len(),
            method.as_ptr(),
            method.len(),
            metadata.as_ptr(),
            metadata.len(),
            message.as_ptr(),
            message.len(),
            limit(timeout),
            &mut token,
        )
    };
    taken(result, token)
}

/// A timeout as the ABI has it, in milliseconds.
fn limit(timeout: Duration) -> u32 {
    u32::try_from(millis(timeout)).unwrap_or(u32::MAX)
}

/// The token, or why the proxy gave none.
fn taken(result: u32, token: u32) -> Result<u32, Status> {
    match result {
        0 => Ok(token),
        2 => Err(Status::BadArgument),
        4 => Err(Status::ParseFailure),
        _ => Err(Status::InternalFailure),
    }
}

/// The ABI's form of a header map, as [`crate::value::request::HeaderMap`] reads it.
fn serialize<T: AsRef<str>>(headers: &[(T, T)]) -> Vec<u8> {
    let size = |text: &T| u32::try_from(text.as_ref().len()).unwrap_or(u32::MAX).to_le_bytes();
    let sizes = headers.iter().map(|(name, value)| name.as_ref().len() + value.as_ref().len() + 10);
    let mut bytes = Vec::with_capacity(4 + sizes.sum::<usize>());
    bytes.extend_from_slice(&u32::try_from(headers.len()).unwrap_or(u32::MAX).to_le_bytes());
    for (name, value) in headers {
        bytes.extend_from_slice(&size(name));
        bytes.extend_from_slice(&size(value));
    }
    for (name, value) in headers {
        for text in [name, value] {
            bytes.extend_from_slice(text.as_ref().as_bytes());
            bytes.push(0);
        }
    }
    bytes
}
