//! graygate: a proxy-wasm filter that answers health probes, enforces gray-release weights and gates requests whose
//! upstream is not ready, all from one policy document.
//!
//! The crate is a pure core with a thin host. The core does no I/O and reads no clock. A [`worker`] asks its surroundings
//! for time, randomness and messages through the trait [`proxy::Proxy`]. Only `proxy_wasm` calls the real proxy, and it
//! is left out without the `host` feature.
//!
//! Each layer uses only the layers above it:
//!
//! | layer | holds |
//! |---|---|
//! | [`value`] | plain values: time, hashes, leases, requests, what a response says |
//! | [`weights`] | which version holds which bucket, and when |
//! | [`policy`] | the document: what a user writes, checked and compiled once |
//! | [`readiness`] | the state of one upstream, and how it changes |
//! | [`rollback`] | when a version loses its share |
//! | [`decision`] | the request path: one function over probes, releases and gates |
//! | [`proxy`] | the trait: what a worker asks of its surroundings |
//! | [`worker`] | one policy in one VM: its requests, its checks, what it shares with other workers |
//! | `proxy_wasm` | the callbacks and calls of proxy-wasm, as a proxy that workers run in |
#![cfg_attr(not(feature = "host"), forbid(unsafe_code))]
#![cfg_attr(feature = "host", deny(unsafe_code))]

pub mod decision;
pub mod policy;
pub mod proxy;
#[cfg(feature = "host")]
mod proxy_wasm;
pub mod readiness;
pub mod rollback;
pub mod value;
pub mod weights;
pub mod worker;
