//! The registry of containers: records in memory and on disk, the workers that follow them, and the operator's HTTP API.

pub mod api;
pub mod feed;
pub mod registry;
pub mod store;
pub mod workers;
