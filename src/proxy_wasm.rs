//! The filter: the callbacks and calls of proxy-wasm's ABI, version 0.2.1, as a proxy that workers run in.
//!
//! All that is decided is decided by [`crate::worker`]; here it is only carried between the proxy and the worker.
//!
//! A panic ends the VM and every request in it, and what a client sends need not be text. So everything is read as bytes,
//! and a call that the proxy refuses is an absent value, never a panic.

mod abi;
mod callback;
#[cfg(feature = "faults")]
mod fault;
mod host;
