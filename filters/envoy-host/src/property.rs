//! Properties: Envoy's facts about a request, and the notes of earlier filters.

use crate::{Error, abi, address, refused};
use std::net::IpAddr;

/// The property with a request's audit note, for the stages and for the access log: filter state
/// `wasm.sallyport.audit`.
pub const AUDIT: [&str; 1] = ["sallyport.audit"];

/// The property with the container's record. The identity filter sets it for a request to one of GitHub's hosts.
pub const CONTAINER: [&str; 1] = ["sallyport.container"];

/// The property at `path`, as Envoy serialises it: text as its bytes, numbers as 8 bytes little-endian. Returns `None`
/// if the property doesn't exist.
///
/// # Errors
/// If Envoy refuses.
pub fn property(path: &[&str]) -> Result<Option<Vec<u8>>, Error> {
    abi::property(path).map_err(refused("get_property"))
}

/// Stores `value` under `path` for later filters and for the access log (filter state `wasm.<path joined by dots>`).
/// A client can't set or read the property.
///
/// # Errors
/// If Envoy refuses.
pub fn set_property(path: &[&str], value: &[u8]) -> Result<(), Error> {
    abi::set_property(path, value).map_err(refused("set_property"))
}

/// The root id from the plugin's configuration. It selects the filter of the module for this root context.
///
/// # Errors
/// If Envoy refuses, or the property is missing.
pub fn root_id() -> Result<Vec<u8>, Error> {
    property(&["plugin_root_id"])?.ok_or(Error::Unreadable { call: "get_property" })
}

/// The peer's IP address. Returns `None` if Envoy doesn't know the address, or the peer has none, as on a Unix socket.
///
/// # Errors
/// If Envoy refuses.
pub fn source_ip() -> Result<Option<IpAddr>, Error> {
    Ok(property(&["source", "address"])?.and_then(|text| address::ip_of(&text)))
}

/// The number of the connection, which no other connection of this Envoy has. Returns `None` if Envoy doesn't know it.
///
/// # Errors
/// If Envoy refuses.
pub fn connection_id() -> Result<Option<u64>, Error> {
    Ok(property(&["connection", "id"])?.and_then(|number| number.try_into().ok()).map(u64::from_le_bytes))
}

/// The server name in the client's TLS handshake. Empty if the handshake has no name. Returns `None` if the client
/// speaks plain HTTP.
///
/// # Errors
/// If Envoy refuses.
pub fn requested_server_name() -> Result<Option<Vec<u8>>, Error> {
    let name = property(&["connection", "requested_server_name"])?.unwrap_or_default();
    // Plain HTTP may name any host, TLS only the host of its handshake. TLS without a name must not pass as plain HTTP.
    if name.is_empty() && property(&["connection", "tls_version"])?.is_none_or(|version| version.is_empty()) {
        return Ok(None);
    }
    Ok(Some(name))
}

/// The direction of a listener's traffic, from its configuration (`traffic_direction`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Missing or unknown.
    Unspecified,
    /// `INBOUND`.
    Inbound,
    /// `OUTBOUND`.
    Outbound,
}

/// The direction of the listener that received this request.
///
/// # Errors
/// If Envoy refuses.
pub fn listener_direction() -> Result<Direction, Error> {
    // envoy.config.core.v3.TrafficDirection.
    Ok(match property(&["xds", "listener_direction"])?.as_deref() {
        Some([1, 0, 0, 0, 0, 0, 0, 0]) => Direction::Inbound,
        Some([2, 0, 0, 0, 0, 0, 0, 0]) => Direction::Outbound,
        _ => Direction::Unspecified,
    })
}
