//! The `identity` stage: identifies the container that sends a request, and checks whether it may reach the host.
//!
//! [`policy::decide_connect`] and [`policy::decide_request`] decide. This crate collects the facts for them and carries
//! out their decisions:
//! - [`worker`]: the requests of one worker, from their headers to their end. Pure: events in, steps out.
//! - [`life`]: the phases of a request, and the steps. Pure.
//! - [`memory`]: this worker's copy of the registry. Pure.
//! - [`limits`]: the limits for one address. Pure.
//! - [`link`]: when to open the stream that feeds the memory. Pure.
//! - [`live`]: the requests under way, which end when their record does. Pure.
//! - [`request`]: the facts of a request, and the headers that are never sent upstream. Pure.
//! - [`refused`]: the refused requests whose body is still arriving. Pure.
//! - [`waiting`]: the requests that are held until their container is known. Pure.
//! - [`verdict`]: from facts to an outcome and its audit note. Pure.
//! - [`connections`]: the limits of TCP connections, before their first byte. Pure.
//! - [`known`]: the copy of the registry, for connections.
//! - [`accept`]: Envoy's callbacks for connections.
//! - [`calls`]: the two calls to the registry.
//! - [`effects`]: how a step is carried out.
//! - [`filter`]: Envoy's callbacks.

mod accept;
mod calls;
mod connections;
mod effects;
mod filter;
mod known;
mod life;
mod limits;
mod link;
mod live;
mod memory;
mod refused;
mod request;
mod verdict;
mod waiting;
mod worker;

use envoy_host::RootCallbacks;

/// The root context of the filter of requests.
pub fn root() -> Box<dyn RootCallbacks> {
    Box::new(filter::Root::new())
}

/// The root context of the filter of connections.
pub fn connections() -> Box<dyn RootCallbacks> {
    Box::new(accept::Root::new())
}
