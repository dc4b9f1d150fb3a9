//! The xDS server: Envoy's whole configuration except its bootstrap, over one delta ADS stream.
//!
//! `snapshot` builds the resources from the checked configuration. `connection` is the protocol, as a pure state
//! machine. `server` is the thin tonic loop around it.

mod connection;
mod leaves;
pub mod resources;
pub mod server;
pub mod snapshot;
