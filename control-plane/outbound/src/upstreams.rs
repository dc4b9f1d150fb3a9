//! The configured locations of upstreams, for the gateway's own requests and for Envoy's.

use std::collections::BTreeMap;

use policy::HostName;

use crate::https::Place;

/// The location of a pinned host, and the CA that it is verified against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// An address or a name.
    pub address: String,
    /// The port.
    pub port: u16,
    /// The CA's certificate, PEM.
    pub ca_pem: String,
}

/// The pinned hosts, and the roots for all other hosts.
#[derive(Clone, Debug, Default)]
pub struct Upstreams {
    /// The pinned hosts.
    pub pins: BTreeMap<HostName, Upstream>,
    /// The roots that every other host is verified against, PEM.
    pub roots_pem: String,
}

impl Upstreams {
    /// The location of `host`, and the roots that it is verified against. A host that is not pinned is at `otherwise`.
    pub fn place(&self, host: &HostName, otherwise: Place) -> (Place, &str) {
        match self.pins.get(host) {
            Some(pinned) => (Place::Pinned(pinned.address.clone(), pinned.port), &pinned.ca_pem),
            None => (otherwise, &self.roots_pem),
        }
    }
}
