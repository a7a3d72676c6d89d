//! The host: the only part of the crate that calls the proxy.
//!
//! A VM, [`vm::Vm`], has one [`root::Root`] for each policy it was given, and a [`stream::Stream`] for each request
//! that there is anything left to do for after its first callback. Both work on one [`worker::Worker`]: the policy,
//! this VM's snapshot of what all VMs of the proxy know, and its counters. The request path reads the snapshot; it
//! touches the store only for an upstream on trial, a row of failures, an order to drain, and a probe that passes
//! through.
//!
//! The SDK's convenient calls panic on what a client can send (a header that is not UTF-8, for one), and a
//! panic ends the VM and every request in it. The host therefore reads bytes, and only in the phase in
//! which the proxy has them.

mod abi;
mod attribute;
mod callback;
mod check;
mod evidence;
#[cfg(feature = "faults")]
mod fault;
mod fetch;
mod gate;
mod health;
mod leader;
mod lifecycle;
mod metric;
mod release;
mod root;
mod store;
mod stream;
mod table;
mod vm;
mod waiting;
mod worker;
