//! Stage 2 of the chain, `identity`: which container is speaking, and may it reach this host?
//!
//! The answers are [`policy::decide_connect`]'s and [`policy::decide_request`]'s. This crate brings the facts to
//! them and carries out what they say:
//! - [`memory`]: this worker's copy of the registry. Pure.
//! - [`limits`]: what one address may have going at a time. Pure.
//! - [`link`]: when to open the stream that feeds it. Pure.
//! - [`live`]: the requests under way, which end when their record does. Pure.
//! - [`request`]: what is read of a request, and which of its headers never go upstream. Pure.
//! - [`refused`]: the refused requests whose body is still coming. Pure.
//! - [`waiting`]: the requests that are held until it is known who sent them. Pure.
//! - [`verdict`]: facts to outcome, and the audit's words for it. Pure.
//! - [`filter`]: Envoy's callbacks.

mod filter;
mod limits;
mod link;
mod live;
mod memory;
mod refused;
mod request;
mod verdict;
mod waiting;

use envoy_host::RootCallbacks;

/// The root context `id`.
pub fn root(id: u32) -> Box<dyn RootCallbacks> {
    Box::new(filter::Root::new(id))
}
