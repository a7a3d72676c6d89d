//! The filter: the callbacks and calls of proxy-wasm's ABI, version 0.2.1.
//!
//! This layer decides nothing. It only translates between the proxy and [`crate::worker`].
//!
//! A panic ends the VM with every request in it, so nothing here may panic. Clients can send values that are not UTF-8, so
//! everything is read as bytes. A call that the proxy refuses returns an absent value or an error.

mod abi;
mod callback;
#[cfg(feature = "faults")]
mod fault;
mod host;
