//! A simulated proxy: several VMs that each run the real worker, one store, and clocks that only the test moves.
//!
//! Upstreams behave as the test says. Clients leave, VMs die, and policies are replaced while requests are under way.
//!
//! A world is a queue of events. It never sleeps, and its random numbers have a fixed seed, so each run is the same.
//! It calls a worker as Envoy does, with Envoy's details and statuses. The tests on a real Envoy check that this is so.

pub mod call;
mod manner;
mod observation;
mod proxy;
mod request;
mod series;
mod surroundings;
mod traffic;
mod world;

pub use call::SentCall;
pub use manner::Manner;
pub use request::{Answer, Request};
pub use world::World;
