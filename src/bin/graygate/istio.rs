//! The parts of the tool that know Istio: the directions in which the filter can see requests, and the resources that
//! add it to proxies.

pub mod direction;
mod envoy_filter;
mod model;
mod namesake;
mod overlap;
mod plugin;
mod read;
pub mod set;
