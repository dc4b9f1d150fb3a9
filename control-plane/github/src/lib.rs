//! What the gateway itself asks GitHub, with its own credential: the numbers and default branches of registered
//! repositories (`ids`), to whom the nodes of a GraphQL write belong (`confirm`), and where the refs of a push are and
//! what its commits descend from (`push`). `client` makes the calls.
//!
//! All of it reads; nothing here writes to GitHub. What GitHub does not answer is not taken for granted.

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

/// The container at `address`, whose record is good now; otherwise why there is none, as a sentence for whoever is
/// refused.
fn container(registry: &Registry, address: IpAddr) -> Result<Arc<Container>, String> {
    let container = registry.lookup(address).1.ok_or("no container is registered at your address")?;
    if container.expired(Timestamp::now()) || container.blocked.is_some() {
        Err("the container's registration has expired, or is blocked".into())
    } else {
        Ok(container)
    }
}
