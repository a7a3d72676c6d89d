//! graygate: a proxy-wasm filter that answers health probes, enforces gray-release weights and gates
//! requests whose upstream is not ready, all from one policy document.
//!
//! The crate is a pure core with a thin host. The core does no I/O and reads no clock: time, randomness
//! and request values come in as arguments, decisions and transitions go out as values. Only `host`
//! calls the proxy, and it is left out without the `host` feature.
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
#![cfg_attr(not(feature = "host"), forbid(unsafe_code))]
#![cfg_attr(feature = "host", deny(unsafe_code))]

pub mod decision;
#[cfg(feature = "host")]
pub mod host;
pub mod policy;
pub mod readiness;
pub mod rollback;
pub mod value;
pub mod weights;
