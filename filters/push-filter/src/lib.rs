//! Stage 4 of the chain, `push`: what does this push do to which refs, and may that container do it?
//!
//! The answers are [`push::Inspection`]'s. This crate brings the bytes and GitHub's answers to it and carries out what
//! it says; see [`filter`].

mod filter;

use envoy_host::RootCallbacks;

/// A root context.
pub fn root() -> Box<dyn RootCallbacks> {
    Box::new(filter::Root::default())
}
