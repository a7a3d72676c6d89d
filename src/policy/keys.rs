//! The table of keys: each object of the document, with the keys that it may have.
//!
//! Each fact about a key stands here once: its name, type, default, range, unit and meaning. Readers check values by this
//! table and say from it what is allowed. The JSON Schema, the reference page and the rules for an API server are made from
//! it. The test of this module walks the whole table, so a key cannot be in one of these and not in another.

mod gate;
mod matcher;
mod policy;
mod probe;
mod release;
mod shapes;
pub mod spec;
mod upstream;

pub use matcher::{MATCH, MATCHES};
pub use policy::{DOCUMENT, POLICY};
pub use shapes::MAX_HEADERS;

/// The keys whose value must not be null. It could mean all defaults, as in `circuitBreaker:` with nothing after it, or
/// that there is no breaker.
pub const NOT_NULL: [&str; 2] = ["circuitBreaker", "passThrough"];

#[cfg(test)]
mod tests;
