//! The callbacks that the proxy calls, and no other: it calls each one that a module exports, for each request.
//!
//! The SDK exports all there are under the proxy's names, so these go by names of their own; the build drops the SDK's
//! and gives these their names, `proxy_` for `graygate_`.
#![allow(unsafe_code)]

use proxy_wasm::types::{Action, LogLevel};

use super::vm::Vm;

thread_local! {
    static VM: Vm = const { Vm::new() };
}

#[unsafe(no_mangle)]
extern "C" fn _initialize() {
    proxy_wasm::set_log_level(LogLevel::Info);
}

#[unsafe(no_mangle)]
extern "C" fn graygate_on_context_create(id: u32, root: u32) {
    VM.with(|vm| vm.create(id, root));
}

#[unsafe(no_mangle)]
extern "C" fn graygate_on_configure(root: u32, size: usize) -> bool {
    VM.with(|vm| vm.with_root(root, |root| root.on_configure(size)).unwrap_or(false))
}

#[unsafe(no_mangle)]
extern "C" fn graygate_on_tick(root: u32) {
    VM.with(|vm| vm.with_root(root, |root| root.on_tick()));
}

#[unsafe(no_mangle)]
extern "C" fn graygate_on_http_call_response(root: u32, token: u32, headers: usize, _: usize, _: usize) {
    VM.with(|vm| vm.with_root(root, |root| root.on_http_call_response(token, headers)));
}

#[unsafe(no_mangle)]
extern "C" fn graygate_on_grpc_receive(root: u32, token: u32, size: usize) {
    VM.with(|vm| vm.with_root(root, |root| root.on_grpc_call_response(token, 0, size)));
}

#[unsafe(no_mangle)]
extern "C" fn graygate_on_grpc_close(root: u32, token: u32, status: u32) {
    VM.with(|vm| vm.with_root(root, |root| root.on_grpc_call_response(token, status, 0)));
}

#[unsafe(no_mangle)]
extern "C" fn graygate_on_request_headers(id: u32, headers: usize, end_of_stream: bool) -> Action {
    VM.with(|vm| vm.begin(id, headers, end_of_stream))
}

#[unsafe(no_mangle)]
extern "C" fn graygate_on_request_body(id: u32, size: usize, end_of_stream: bool) -> Action {
    VM.with(|vm| vm.with_stream(id, |stream| stream.on_request_body(size, end_of_stream)));
    Action::Continue
}

#[unsafe(no_mangle)]
extern "C" fn graygate_on_request_trailers(id: u32, _: usize) -> Action {
    VM.with(|vm| vm.with_stream(id, |stream| stream.on_request_trailers()));
    Action::Continue
}

#[unsafe(no_mangle)]
extern "C" fn graygate_on_response_headers(id: u32, headers: usize, end_of_stream: bool) -> Action {
    VM.with(|vm| vm.with_stream(id, |stream| stream.on_response_headers(headers, end_of_stream)));
    Action::Continue
}

#[unsafe(no_mangle)]
extern "C" fn graygate_on_response_body(id: u32, size: usize, end_of_stream: bool) -> Action {
    VM.with(|vm| vm.with_stream(id, |stream| stream.on_response_body(size, end_of_stream)));
    Action::Continue
}

#[unsafe(no_mangle)]
extern "C" fn graygate_on_response_trailers(id: u32, _: usize) -> Action {
    VM.with(|vm| vm.with_stream(id, |stream| stream.on_response_trailers()));
    Action::Continue
}

#[unsafe(no_mangle)]
extern "C" fn graygate_on_delete(id: u32) {
    VM.with(|vm| vm.delete(id));
}
