//! What is Istio's: the places in a mesh where the filter can be, and the resources that put it there.

mod envoy_filter;
mod namesake;
mod overlap;
pub mod place;
mod plugin;
mod resource;
pub mod set;
