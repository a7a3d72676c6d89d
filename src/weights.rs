//! Divides requests by weights: which version holds which hash bucket, and when.
//!
//! A version is its index in a list of weights. This layer knows no policy.

pub mod layout;
pub mod number;
pub mod rotation;
pub mod schedule;
