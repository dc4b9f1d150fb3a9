//! The configured locations of upstreams, for the gateway's own requests and for Envoy's.

use std::collections::BTreeMap;

use policy::{HostName, HostPattern};

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

/// The operator's HTTP proxy, which opens tunnels by CONNECT to the hosts that are neither pinned nor excepted. The proxy
/// resolves their names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// An address or a name.
    pub address: String,
    /// The port.
    pub port: u16,
    /// The hosts that are reached directly.
    pub except: Vec<HostPattern>,
}

impl Proxy {
    /// Whether the proxy leads to `host`.
    pub fn leads_to(&self, host: &HostName) -> bool {
        !self.except.iter().any(|excepted| excepted.covers(host))
    }
}

/// The pinned hosts, the proxy for the others, and the roots for the others.
#[derive(Clone, Debug, Default)]
pub struct Upstreams {
    /// The pinned hosts.
    pub pins: BTreeMap<HostName, Upstream>,
    /// The proxy. `None`: every other host is reached directly.
    pub proxy: Option<Proxy>,
    /// The roots that every other host is verified against, PEM.
    pub roots_pem: String,
}

impl Upstreams {
    /// The location of `host`, and the roots that it is verified against. A host that is neither pinned nor behind the
    /// proxy is at `otherwise`.
    pub fn place(&self, host: &HostName, otherwise: Place) -> (Place, &str) {
        match (self.pins.get(host), &self.proxy) {
            (Some(pinned), _) => (Place::Pinned(pinned.address.clone(), pinned.port), &pinned.ca_pem),
            (None, Some(proxy)) if proxy.leads_to(host) => {
                (Place::Proxied(proxy.address.clone(), proxy.port), &self.roots_pem)
            }
            (None, _) => (otherwise, &self.roots_pem),
        }
    }
}
