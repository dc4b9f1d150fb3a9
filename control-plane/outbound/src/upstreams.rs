//! Where the gateway's own requests and Envoy's go, as the operator has configured it.

use std::collections::BTreeMap;

use policy::HostName;

use crate::https::Place;

/// Where a pinned host is, and who vouches for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// An address or a name.
    pub address: String,
    /// Its port.
    pub port: u16,
    /// The CA's certificate, PEM.
    pub ca_pem: String,
}

/// The hosts that the operator has pinned, and who vouches for all others.
#[derive(Clone, Debug, Default)]
pub struct Upstreams {
    /// The pinned hosts.
    pub pins: BTreeMap<HostName, Upstream>,
    /// The roots that every other host is verified against, PEM.
    pub roots_pem: String,
}

impl Upstreams {
    /// Where `host` is, and the roots that vouch for it there. A host that is not pinned is at `otherwise`.
    pub fn place(&self, host: &HostName, otherwise: Place) -> (Place, &str) {
        match self.pins.get(host) {
            Some(pinned) => (Place::Pinned(pinned.address.clone(), pinned.port), &pinned.ca_pem),
            None => (otherwise, &self.roots_pem),
        }
    }
}
