//! Divides requests by weights. Determines which version holds which hash bucket at which time.
//!
//! Functions take a list of weights and name a version by its index in it. This layer does not use the
//! policy.

pub mod layout;
pub mod number;
pub mod rotation;
pub mod schedule;
