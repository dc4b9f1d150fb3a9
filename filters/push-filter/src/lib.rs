//! Stage 5 of the chain, `push`: which refs does a push move, how, and may the container do that?
//!
//! [`push::Inspection`] decides. This crate passes the bytes and GitHub's responses to it and carries out its
//! decisions; see [`filter`].

mod filter;

use envoy_host::RootCallbacks;

/// A root context.
pub fn root() -> Box<dyn RootCallbacks> {
    Box::new(filter::Root::default())
}
