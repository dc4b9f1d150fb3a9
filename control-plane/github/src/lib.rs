//! The gateway's own requests to GitHub, with its own credential: the numbers and default branches of registered
//! repositories (`ids`), the repositories of the nodes in a GraphQL write (`confirm`), and for a push the refs' current
//! objects and the ancestry of its commits (`push`). `client` makes the calls.
//!
//! All requests are reads. If GitHub does not respond, nothing is assumed.

use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use policy::Container;

use registry::Registry;

pub mod client;
pub mod confirm;
pub mod ids;
pub mod push;
mod recent;

#[cfg(test)]
mod testing;

/// The container at `address`. The error says why there is no valid record, as a sentence for the refusal.
fn container(registry: &Registry, address: IpAddr) -> Result<Arc<Container>, String> {
    let container = registry.lookup(address).1.ok_or("no container is registered at your address")?;
    if container.expired(Timestamp::now()) || container.blocked.is_some() {
        Err("the container's registration has expired, or is blocked".into())
    } else {
        Ok(container)
    }
}
