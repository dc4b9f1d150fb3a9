//! The registry of containers: records in memory and on disk, the workers that follow them, and the operator's HTTP API.

pub mod api;
pub mod feed;
pub mod own;
pub mod record;
pub mod redirects;
mod registry;
pub mod store;
mod warnings;
mod workers;

pub use registry::{Change, Registry, Subscription};
pub use workers::Watcher;
