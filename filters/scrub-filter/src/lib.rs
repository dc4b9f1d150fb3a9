//! The filter `scrub`, for hosts with a credential: removes every response header and trailer that contains the
//! credential that was added to the request. Some servers repeat parts of a request in their response.
//!
//! - [`secret`]: finds the credential in all its spellings. Pure.
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
