//! Properties: what Envoy knows of a request, and what an earlier filter noted about it.

use crate::{Error, abi, address, refused};
use std::net::IpAddr;

/// Where what the audit says of a request lies, for the stages and for the access log: filter state
/// `wasm.sallyport.audit`.
pub const AUDIT: [&str; 1] = ["sallyport.audit"];

/// Where the identity filter leaves the record by which a request to one of GitHub's hosts has passed.
pub const CONTAINER: [&str; 1] = ["sallyport.container"];

/// The property at `path`, as Envoy serialises it: text as its bytes, numbers as 8 bytes little-endian. `None`:
/// no such property.
///
/// # Errors
/// As Envoy answers.
pub fn property(path: &[&str]) -> Result<Option<Vec<u8>>, Error> {
    abi::property(path).map_err(refused("get_property"))
}

/// Notes `value` under `path` for later filters and for the access log (filter state `wasm.<path joined by dots>`).
/// A client can't reach it.
///
/// # Errors
/// As Envoy answers.
pub fn set_property(path: &[&str], value: &[u8]) -> Result<(), Error> {
    abi::set_property(path, value).map_err(refused("set_property"))
}

/// Which of a module's filters is to be the root context at hand, as the plugin's configuration names it.
///
/// # Errors
/// If Envoy refuses, or the property is missing.
pub fn root_id() -> Result<Vec<u8>, Error> {
    property(&["plugin_root_id"])?.ok_or(Error::Unreadable { call: "get_property" })
}

/// The peer's IP address. `None` when Envoy doesn't know one, or the peer has none, as on a Unix socket.
///
/// # Errors
/// As Envoy answers.
pub fn source_ip() -> Result<Option<IpAddr>, Error> {
    Ok(property(&["source", "address"])?.and_then(|text| address::ip_of(&text)))
}

/// The name in the client's TLS handshake, empty when the handshake had none. `None` where the client speaks plain
/// HTTP.
///
/// # Errors
/// As Envoy answers.
pub fn requested_server_name() -> Result<Option<Vec<u8>>, Error> {
    let name = property(&["connection", "requested_server_name"])?.unwrap_or_default();
    // Plain HTTP may name any host, TLS only the one of its handshake: without a name they have to be told apart.
    if name.is_empty() && property(&["connection", "tls_version"])?.is_none_or(|version| version.is_empty()) {
        return Ok(None);
    }
    Ok(Some(name))
}

/// Which way the traffic of a listener flows, as its configuration says (`traffic_direction`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Not told, or not known.
    Unspecified,
    /// `INBOUND`.
    Inbound,
    /// `OUTBOUND`.
    Outbound,
}

/// The direction of the listener that this request came in on.
///
/// # Errors
/// As Envoy answers.
pub fn listener_direction() -> Result<Direction, Error> {
    // envoy.config.core.v3.TrafficDirection.
    Ok(match property(&["xds", "listener_direction"])?.as_deref() {
        Some([1, 0, 0, 0, 0, 0, 0, 0]) => Direction::Inbound,
        Some([2, 0, 0, 0, 0, 0, 0, 0]) => Direction::Outbound,
        _ => Direction::Unspecified,
    })
}
