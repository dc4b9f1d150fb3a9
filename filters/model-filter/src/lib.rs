//! The guard of model requests, a part of stage 4, `credentials`: what does a request with the gateway's key make the
//! provider do?
//!
//! [`model::flow::Flow`] decides. This crate passes the facts to it and carries out its decisions; see [`filter`].

mod filter;

use envoy_host::RootCallbacks;

/// A root context.
pub fn root() -> Box<dyn RootCallbacks> {
    Box::new(filter::Root::default())
}
