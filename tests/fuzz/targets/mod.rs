//! What is fuzzed: each target takes any bytes, and panics if the core does, or if it breaks a promise.
//!
//! Clients, upstreams, other workers and operators decide on these bytes. A panic would end the VM, and each request in it.

pub mod callouts;
pub mod headers;
pub mod health;
mod message;
pub mod mutation;
pub mod parsers;
pub mod policy;
pub mod records;

/// The simulated proxy of `tests/worlds`. Not all of it is used here.
#[path = "../../worlds"]
mod worlds {
    #[allow(dead_code, unused_imports)]
    pub mod sim;
}

/// A target takes one input.
pub type Target = fn(&[u8]);

/// All targets by their names, which are also those of their directories in `corpus`.
pub const TARGETS: [(&str, Target); 6] = [
    ("callouts", callouts::run),
    ("headers", headers::run),
    ("health", health::run),
    ("parsers", parsers::run),
    ("policy", policy::run),
    ("records", records::run),
];

/// A policy with every key there is.
pub const FULL: &str = include_str!("../../data/full-policy.json");
