//! What is Istio's: the directions in which the filter can see requests, and the resources that put it there.

pub mod direction;
mod envoy_filter;
mod model;
mod namesake;
mod overlap;
mod plugin;
mod read;
pub mod set;
