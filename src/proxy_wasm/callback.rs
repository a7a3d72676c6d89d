//! The callbacks that the module exports. Only those that a worker uses are exported, because the proxy calls every
//! exported one for each request. Without the feature `responses`, the callback of a request's headers is the only one of a
//! request.
#![allow(unsafe_code)]

use std::cell::RefCell;

use super::abi;
use super::host::Host;
use crate::proxy::Flow;
use crate::worker::vm::Vm;

thread_local! {
    static VM: RefCell<Vm<Host>> = const { RefCell::new(Vm::new()) };
}

/// The log level for what must never happen.
const CRITICAL: u32 = 5;

/// Calls `act` with the VM's state. Callbacks of one VM never overlap. If two did, the inner one would only log that,
/// because a panic would end all requests.
fn with_vm<T: Default>(act: impl FnOnce(&mut Vm<Host>) -> T) -> T {
    VM.with(|vm| match vm.try_borrow_mut() {
        Ok(mut vm) => act(&mut vm),
        Err(_) => {
            abi::log(CRITICAL, "a callback was called within another, and was ignored");
            T::default()
        }
    })
}

fn code(flow: Flow) -> u32 {
    match flow {
        Flow::Continue => 0,
        Flow::Pause => 1,
    }
}

#[unsafe(no_mangle)]
extern "C" fn proxy_abi_version_0_2_1() {}

#[unsafe(no_mangle)]
extern "C" fn _initialize() {
    std::panic::set_hook(Box::new(|panic| abi::log(CRITICAL, &panic.to_string())));
}

#[cfg(feature = "responses")]
#[unsafe(no_mangle)]
extern "C" fn proxy_on_context_create(id: u32, root: u32) {
    with_vm(|vm| vm.create(id, root));
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_configure(root: u32, size: usize) -> bool {
    with_vm(|vm| vm.configure(root, size, || Host { root }))
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_tick(root: u32) {
    with_vm(|vm| {
        vm.on_tick(root);
        #[cfg(feature = "faults")]
        if vm.leads(root) {
            super::fault::on_lead(&Host { root });
        }
    });
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_http_call_response(root: u32, token: u32, headers: usize, _: usize, _: usize) {
    with_vm(|vm| vm.on_http_call_response(root, token, headers));
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_request_headers(id: u32, headers: usize, end: bool) -> u32 {
    #[cfg(feature = "faults")]
    super::fault::on_request(&Host { root: 0 });
    code(with_vm(|vm| vm.on_request_headers(id, headers, end)))
}

#[cfg(feature = "responses")]
#[unsafe(no_mangle)]
extern "C" fn proxy_on_request_body(id: u32, size: usize, end: bool) -> u32 {
    with_vm(|vm| vm.with_exchange(id, |worker, host, id| worker.on_request_body(host, id, size, end)));
    code(Flow::Continue)
}

#[cfg(feature = "responses")]
#[unsafe(no_mangle)]
extern "C" fn proxy_on_request_trailers(id: u32, _: usize) -> u32 {
    with_vm(|vm| vm.with_exchange(id, |worker, host, id| worker.on_request_trailers(host, id)));
    code(Flow::Continue)
}

#[cfg(feature = "responses")]
#[unsafe(no_mangle)]
extern "C" fn proxy_on_response_headers(id: u32, headers: usize, end: bool) -> u32 {
    with_vm(|vm| vm.with_exchange(id, |worker, host, id| worker.on_response_headers(host, id, headers, end)));
    code(Flow::Continue)
}

#[cfg(feature = "responses")]
#[unsafe(no_mangle)]
extern "C" fn proxy_on_response_body(id: u32, size: usize, end: bool) -> u32 {
    with_vm(|vm| vm.with_exchange(id, |worker, host, id| worker.on_response_body(host, id, size, end)));
    code(Flow::Continue)
}

#[cfg(feature = "responses")]
#[unsafe(no_mangle)]
extern "C" fn proxy_on_response_trailers(id: u32, _: usize) -> u32 {
    with_vm(|vm| vm.with_exchange(id, |worker, host, id| worker.on_response_trailers(host, id)));
    code(Flow::Continue)
}

#[cfg(feature = "responses")]
#[unsafe(no_mangle)]
extern "C" fn proxy_on_delete(id: u32) {
    with_vm(|vm| vm.delete(id));
}
