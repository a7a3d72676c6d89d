//! The parts of the tool that know Envoy Gateway: the names of its clusters, and the resources that add the filter and decide
//! where requests go.

pub mod cluster;
mod extension;
mod findings;
mod path_match;
mod placement;
mod probe_routes;
mod proxy;
mod route;
pub mod set;
mod version_routes;
