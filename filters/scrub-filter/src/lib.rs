//! The filter `scrub`, of hosts with a credential: no header and no trailer of an answer tells the sandbox the
//! credential that was added to its request. Some servers put into an answer what they were asked.
//!
//! - [`secret`]: what must not be told. Pure.
//! - [`filter`]: Envoy's callbacks.
//!
//! Bodies are not read.

mod filter;
mod secret;

use envoy_host::RootCallbacks;

/// A root context.
pub fn root() -> Box<dyn RootCallbacks> {
    Box::new(filter::Root)
}
