//! Stage 3 of the chain, `github`: what does this request to one of GitHub's hosts do, and may that container do it?
//!
//! The answers are [`policy::github::Judge`]'s. This crate brings the facts to it and carries out what it says; see
//! [`filter`].

mod filter;

use envoy_host::RootCallbacks;

/// A root context.
pub fn root() -> Box<dyn RootCallbacks> {
    Box::new(filter::Root::default())
}
