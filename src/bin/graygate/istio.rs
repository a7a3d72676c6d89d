//! The parts of the tool that know Istio: the directions in which the filter can see requests, the resources that add it
//! to proxies, and those that decide where requests go.

pub mod cluster;
mod condition;
pub mod direction;
mod envoy_filter;
mod findings;
mod host;
mod host_condition;
pub mod host_rule;
mod http_route;
mod mesh_wide;
pub mod model;
pub mod module_source;
mod namesake;
mod overlap;
mod patched_release;
mod patched_route;
mod placed_release;
mod plugin;
mod probe_place;
pub mod read;
mod release_routes;
mod route;
mod route_walk;
mod routing;
pub mod set;
pub mod source;
mod strategy;
mod subset;
mod upstream_cluster;
mod waypoint;
