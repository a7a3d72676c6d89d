//! The calls of the ABI. Each function here makes one call safe and does nothing else.
#![allow(unsafe_code)]

use core::ptr::{NonNull, null_mut};
use core::time::Duration;
use std::alloc::{Layout, alloc};

use crate::decision::reply::Reply;
use crate::proxy::NotSent;
use crate::value::request::serialize;
use crate::value::time::millis;

// The statuses of a call that have a meaning here. Any other is a failure.
const OK: u32 = 0;
const BAD_ARGUMENT: u32 = 2;
/// The status of a write to a shared value that another worker has replaced.
pub const CAS_MISMATCH: u32 = 8;

#[cfg_attr(target_arch = "wasm32", link(wasm_import_module = "env"))]
unsafe extern "C" {
    fn proxy_log(level: u32, line: *const u8, size: usize) -> u32;
    fn proxy_get_current_time_nanoseconds(time: *mut u64) -> u32;
    fn proxy_set_tick_period_milliseconds(period: u32) -> u32;
    fn proxy_set_effective_context(id: u32) -> u32;
    fn proxy_get_header_map_value(
        map: u32,
        name: *const u8,
        name_size: usize,
        value: *mut *mut u8,
        size: *mut usize,
    ) -> u32;
    fn proxy_get_header_map_pairs(map: u32, pairs: *mut *mut u8, size: *mut usize) -> u32;
    fn proxy_set_header_map_pairs(map: u32, pairs: *const u8, size: usize) -> u32;
    fn proxy_replace_header_map_value(
        map: u32,
        name: *const u8,
        name_size: usize,
        value: *const u8,
        size: usize,
    ) -> u32;
    fn proxy_add_header_map_value(
        map: u32,
        name: *const u8,
        name_size: usize,
        value: *const u8,
        size: usize,
    ) -> u32;
    fn proxy_remove_header_map_value(map: u32, name: *const u8, name_size: usize) -> u32;
    fn proxy_get_buffer_bytes(
        buffer: u32,
        start: usize,
        max: usize,
        bytes: *mut *mut u8,
        size: *mut usize,
    ) -> u32;
    fn proxy_set_buffer_bytes(buffer: u32, start: usize, max: usize, bytes: *const u8, size: usize) -> u32;
    fn proxy_get_property(path: *const u8, path_size: usize, value: *mut *mut u8, size: *mut usize) -> u32;
    fn proxy_set_property(path: *const u8, path_size: usize, value: *const u8, size: usize) -> u32;
    fn proxy_get_shared_data(
        key: *const u8,
        key_size: usize,
        value: *mut *mut u8,
        size: *mut usize,
        cas: *mut u32,
    ) -> u32;
    fn proxy_set_shared_data(key: *const u8, key_size: usize, value: *const u8, size: usize, cas: u32)
    -> u32;
    fn proxy_call_foreign_function(
        name: *const u8,
        name_size: usize,
        argument: *const u8,
        argument_size: usize,
        result: *mut *mut u8,
        size: *mut usize,
    ) -> u32;
    fn proxy_define_metric(kind: u32, name: *const u8, size: usize, id: *mut u32) -> u32;
    fn proxy_increment_metric(id: u32, amount: i64) -> u32;
    fn proxy_record_metric(id: u32, value: u64) -> u32;
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
    fn proxy_continue_stream(stream: u32) -> u32;
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
}

#[cfg_attr(target_arch = "wasm32", link(wasm_import_module = "wasi_snapshot_preview1"))]
unsafe extern "C" {
    fn random_get(buffer: *mut u8, size: usize) -> i32;
    fn clock_time_get(clock: u32, precision: u64, time: *mut u64) -> i32;
}

/// The number of the monotonic clock in WASI.
const MONOTONIC: u32 = 1;

/// The precision that a reading needs, in nanoseconds.
const MILLISECOND: u64 = 1_000_000;

/// Has the proxy derive the grpc-status from the HTTP status. It does so only for gRPC requests.
const GRPC_STATUS_FROM_HTTP: i32 = -1;

/// Allocates memory that the proxy fills and hands over. See [`take`]. Returns null if the allocation fails.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_memory_allocate(size: usize) -> *mut u8 {
    match Layout::array::<u8>(size) {
        Ok(_) if size == 0 => NonNull::dangling().as_ptr(),
        // SAFETY: the size is not 0.
        Ok(layout) => unsafe { alloc(layout) },
        Err(_) => null_mut(),
    }
}

/// Returns the bytes that a call hands over. `None` if the call fails.
///
/// `call` gets pointers to which it writes the address and the size of the bytes. The proxy has allocated them for this
/// call with `proxy_on_memory_allocate`. So their size is their capacity, and nothing else owns them.
fn take(call: impl FnOnce(*mut *mut u8, *mut usize) -> u32) -> Option<Vec<u8>> {
    let mut bytes = null_mut();
    let mut size = 0;
    if call(&mut bytes, &mut size) != OK {
        return None;
    }
    if bytes.is_null() {
        return Some(Vec::new());
    }
    // SAFETY: the bytes were allocated with this size and the alignment of `u8`, as a vector of this capacity requires.
    Some(unsafe { Vec::from_raw_parts(bytes, size, size) })
}

// "As above" below means the following. Each pointer comes with the size of the live slice that it points to. The proxy
// copies what it reads before it returns. It writes results to variables that live in the calling function.

/// Writes a line to the log.
pub fn log(level: u32, line: &str) {
    // SAFETY: as above.
    let _ = unsafe { proxy_log(level, line.as_ptr(), line.len()) };
}

/// Returns the time of the monotonic clock, which all VMs of the proxy share. It starts at any point.
///
/// Returns the time of the wall clock if the proxy has no monotonic clock. A proxy has one always or never, so the two are
/// not mixed.
pub fn now() -> Duration {
    let mut time = 0;
    // SAFETY: as above.
    let status = unsafe { clock_time_get(MONOTONIC, MILLISECOND, &mut time) };
    if status == 0 { Duration::from_nanos(time) } else { since_epoch() }
}

/// Returns the time of the wall clock since the epoch, or 0 if the proxy has no clock.
pub fn since_epoch() -> Duration {
    let mut time = 0;
    // SAFETY: as above.
    let _ = unsafe { proxy_get_current_time_nanoseconds(&mut time) };
    Duration::from_nanos(time)
}

/// Returns a random number, or 0 if the proxy has no source of them.
pub fn random() -> u64 {
    let mut bytes = [0; 8];
    // SAFETY: the proxy writes at most `size` bytes to a buffer of that size.
    let _ = unsafe { random_get(bytes.as_mut_ptr(), bytes.len()) };
    u64::from_le_bytes(bytes)
}

/// Sets the tick of the current root context. Zero means no ticks.
pub fn set_tick_period(period: Duration) {
    // SAFETY: as above.
    let _ = unsafe { proxy_set_tick_period_milliseconds(in_millis(period)) };
}

/// Makes another context the current one. Returns `false` if it does not exist.
pub fn set_effective_context(id: u32) -> bool {
    // SAFETY: as above.
    unsafe { proxy_set_effective_context(id) == OK }
}

/// Returns the first value of a header.
pub fn header(map: u32, name: &str) -> Option<Vec<u8>> {
    // SAFETY: as above.
    take(|value, size| unsafe { proxy_get_header_map_value(map, name.as_ptr(), name.len(), value, size) })
}

/// Returns all headers.
pub fn headers(map: u32) -> Option<Vec<u8>> {
    // SAFETY: as above.
    take(|pairs, size| unsafe { proxy_get_header_map_pairs(map, pairs, size) })
}

/// Replaces all headers.
pub fn set_headers(map: u32, headers: &[(&str, &str)]) {
    let pairs = pairs(headers);
    // SAFETY: as above.
    let _ = unsafe { proxy_set_header_map_pairs(map, pairs.as_ptr(), pairs.len()) };
}

/// Replaces a header. Removes it if `value` is `None`.
pub fn set_header(map: u32, name: &str, value: Option<&[u8]>) {
    // SAFETY: as above.
    let _ = unsafe {
        match value {
            Some(value) => {
                proxy_replace_header_map_value(map, name.as_ptr(), name.len(), value.as_ptr(), value.len())
            }
            None => proxy_remove_header_map_value(map, name.as_ptr(), name.len()),
        }
    };
}

/// Adds a value to a header.
pub fn add_header(map: u32, name: &str, value: &str) {
    // SAFETY: as above.
    let _ =
        unsafe { proxy_add_header_map_value(map, name.as_ptr(), name.len(), value.as_ptr(), value.len()) };
}

/// Returns the first bytes of a buffer.
pub fn buffer(buffer: u32, max: usize) -> Option<Vec<u8>> {
    // SAFETY: as above.
    take(|bytes, size| unsafe { proxy_get_buffer_bytes(buffer, 0, max, bytes, size) })
}

/// Replaces the first `size` bytes of a buffer.
pub fn set_buffer(buffer: u32, size: usize, by: &[u8]) {
    // SAFETY: as above.
    let _ = unsafe { proxy_set_buffer_bytes(buffer, 0, size, by.as_ptr(), by.len()) };
}

/// Returns a property. NUL separates the parts of its path.
pub fn property(path: &str) -> Option<Vec<u8>> {
    // SAFETY: as above.
    take(|value, size| unsafe { proxy_get_property(path.as_ptr(), path.len(), value, size) })
}

/// Sets a property of the request.
pub fn set_property(path: &str, value: &[u8]) {
    // SAFETY: as above.
    let _ = unsafe { proxy_set_property(path.as_ptr(), path.len(), value.as_ptr(), value.len()) };
}

/// Returns a shared value and its version, which is 0 for a key that does not exist.
pub fn shared_data(key: &str) -> (Option<Vec<u8>>, u32) {
    let mut cas = 0;
    // SAFETY: as above.
    let bytes =
        take(|value, size| unsafe { proxy_get_shared_data(key.as_ptr(), key.len(), value, size, &mut cas) });
    (bytes, cas)
}

/// Replaces a shared value if `cas` is still its version. Otherwise the status is [`CAS_MISMATCH`].
pub fn set_shared_data(key: &str, value: &[u8], cas: u32) -> Result<(), u32> {
    // SAFETY: as above.
    let status = unsafe { proxy_set_shared_data(key.as_ptr(), key.len(), value.as_ptr(), value.len(), cas) };
    if status == OK { Ok(()) } else { Err(status) }
}

/// Calls a function that this proxy offers in addition to the ABI, and drops its result.
pub fn call_foreign_function(name: &str, argument: &[u8]) {
    // SAFETY: as above.
    let _ = take(|result, size| unsafe {
        proxy_call_foreign_function(
            name.as_ptr(),
            name.len(),
            argument.as_ptr(),
            argument.len(),
            result,
            size,
        )
    });
}

/// Defines a metric. The proxy assigns a new id on each call and never frees one.
pub fn define_metric(kind: u32, name: &str) -> Option<u32> {
    let mut id = 0;
    // SAFETY: as above.
    let status = unsafe { proxy_define_metric(kind, name.as_ptr(), name.len(), &mut id) };
    (status == OK).then_some(id)
}

/// Adds to a counter.
pub fn increment_metric(id: u32, amount: i64) {
    // SAFETY: as above.
    let _ = unsafe { proxy_increment_metric(id, amount) };
}

/// Sets a gauge.
pub fn record_metric(id: u32, value: u64) {
    // SAFETY: as above.
    let _ = unsafe { proxy_record_metric(id, value) };
}

/// Sends a reply to the current request. Returns whether the proxy accepted it.
pub fn send_local_response(reply: &Reply) -> bool {
    let Reply { status, body, details, .. } = reply;
    let grpc_status = reply.grpc_status.and_then(|status| i32::try_from(status).ok());
    let headers = reply.serialized_headers();
    // SAFETY: as above.
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
    result == OK
}

/// Continues the current request, which a callback has paused.
pub fn continue_request() {
    const REQUEST: u32 = 0;
    // SAFETY: as above.
    let _ = unsafe { proxy_continue_stream(REQUEST) };
}

/// Sends a request to the cluster. Returns the token with which the callback of its end comes.
pub fn http_call(
    cluster: &str,
    headers: &[(&str, &str)],
    body: &[u8],
    timeout: Duration,
) -> Result<u32, NotSent> {
    let headers = pairs(headers);
    let trailers = pairs(&[]);
    let mut token = 0;
    // SAFETY: as above.
    let result = unsafe {
        proxy_http_call(
            cluster.as_ptr(),
            cluster.len(),
            headers.as_ptr(),
            headers.len(),
            body.as_ptr(),
            body.len(),
            trailers.as_ptr(),
            trailers.len(),
            in_millis(timeout),
            &mut token,
        )
    };
    sent(result, token)
}

/// Returns a duration in whole milliseconds, as the ABI takes it.
fn in_millis(span: Duration) -> u32 {
    u32::try_from(millis(span)).unwrap_or(u32::MAX)
}

/// Returns the token, or the reason for which the call was not sent.
fn sent(result: u32, token: u32) -> Result<u32, NotSent> {
    match result {
        OK => Ok(token),
        BAD_ARGUMENT => Err(NotSent::NoCluster),
        _ => Err(NotSent::NoHost),
    }
}

/// Returns headers in the serialization of the ABI.
fn pairs(headers: &[(&str, &str)]) -> Vec<u8> {
    serialize(headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())))
}
