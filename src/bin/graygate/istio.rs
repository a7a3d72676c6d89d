//! What is Istio's: the places in a mesh where the filter can be.

pub mod place;
