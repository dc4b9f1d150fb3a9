//! The registry of containers: what is stored, who is told, and the operator's HTTP API on it.

pub mod api;
pub mod feed;
pub mod registry;
pub mod store;
