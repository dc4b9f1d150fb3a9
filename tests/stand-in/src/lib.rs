//! A native stand-in for Envoy with Envoy's rules. It links the chain of filters, defines the hostcalls that Envoy
//! defines, and calls the callbacks that Envoy calls, so that a test drives whole streams through all filters.
//!
//! - [`run`]: one whole request, [`Chain::run`].
//! - [`envoy`]: a stream event by event, [`Envoy`].
//! - [`manager`]: the rules of Envoy's filter manager: which filter sees what, and what waits where.
//! - [`wasm`]: the rules of Envoy's wasm contexts, and the calls into the filters.
//! - [`hostcalls`]: the functions of the ABI, as the filters call them.
//! - [`state`]: what the others share. One worker's VM is one thread's.
//!
//! The rules are Envoy 1.40's: one buffer for all filters of a stream in each direction; what a filter resumes runs when
//! its callback has returned; to resume takes maps and buffers from the context; a body is replaced whole or not at all;
//! no more is taken of a request whose response is complete. A filter that panics aborts the process, after a line on
//! standard error that names the callback.

mod envoy;
mod hostcalls;
mod manager;
mod run;
mod state;
mod wasm;

pub use envoy::{Call, Config, Credential, Envoy, Reply, Request, StreamId};
pub use run::{Case, Chain, Outcome, yes};
pub use state::{Arrived, Headers, Stage};
