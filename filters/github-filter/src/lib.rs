//! Stage 3 of the chain, `github`: what does a request to one of GitHub's hosts do, and may the container do that?
//!
//! [`policy::github::Judge`] decides. This crate passes the facts to it and carries out its decisions; see [`filter`].

mod filter;

use envoy_host::RootCallbacks;

/// A root context.
pub fn root() -> Box<dyn RootCallbacks> {
    Box::new(filter::Root::default())
}
