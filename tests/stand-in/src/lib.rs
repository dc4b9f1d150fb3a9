//! A native stand-in for Envoy with Envoy's rules. It links the chain of filters, defines the hostcalls that Envoy
//! defines, and calls the callbacks that Envoy calls, so that a test drives whole streams through all filters.
//!
//! - [`run`]: one whole request, [`Chain::run`].
//! - [`envoy`]: a stream event by event, [`Envoy`].
//! - [`manager`]: the rules of Envoy's filter manager: the parts that each filter sees, and the places where they wait.
//! - [`wasm`]: the rules of Envoy's wasm contexts, and the calls into the filters.
//! - [`hostcalls`]: the functions of the ABI, as the filters call them.
//! - [`shared`]: the data that the VMs of several workers share.
//! - [`state`]: the shared state. The VM of a worker belongs to one thread.
//!
//! The rules are Envoy 1.40's. All filters of a stream share one buffer in each direction. A resumed stream continues when
//! the callback has returned. After a resume the context has no maps and buffers. A body is replaced as a whole. A request
//! whose response is complete takes no more data. A filter that panics aborts the process, after a line on standard error
//! that names the callback.

mod credential;
mod envoy;
mod hostcalls;
mod manager;
mod run;
mod shared;
mod state;
mod wasm;

pub use envoy::{Call, Config, ConnectionId, Credential, Envoy, Reply, Request, StreamId};
pub use run::{Case, Chain, Outcome, yes};
pub use shared::SharedData;
pub use state::{Arrived, Headers, Stage};
