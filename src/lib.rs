//! graygate: a proxy-wasm filter that answers health probes, enforces gray-release weights and gates
//! requests whose upstream is not ready, all from one policy document.
//!
//! The crate is a pure core with a thin host. The core does no I/O and reads no clock: time, randomness
//! and request values come in as arguments, decisions and transitions go out as values. Only [`host`]
//! calls the proxy, and it is left out without the `host` feature.
//!
//! | module | holds |
//! |---|---|
//! | [`policy`] | the document: what a user writes, checked and compiled once |
//! | [`engine`] | the request path: one function over probes, releases and gates |
//! | [`probe`], [`release`], [`gate`] | the three jobs |
//! | [`readiness`] | what is known of each upstream, and how it changes |
//! | [`lifecycle`] | whether the proxy has started, and whether it drains |
//! | [`response`] | what a response says about the upstream it came from |
//! | [`action`] | what is done with a request |
//! | [`reply`], [`replay`] | a reply that the filter makes up, or has kept |
//! | [`request`], [`hash`], [`lease`], [`time`] | values the others share |
#![cfg_attr(not(feature = "host"), forbid(unsafe_code))]
#![cfg_attr(feature = "host", deny(unsafe_code))]

pub mod action;
pub mod engine;
pub mod gate;
pub mod hash;
#[cfg(feature = "host")]
pub mod host;
pub mod lease;
pub mod lifecycle;
pub mod policy;
pub mod probe;
pub mod readiness;
pub mod release;
pub mod replay;
pub mod reply;
pub mod request;
pub mod response;
pub mod time;
