//! The limits of TCP connections, as the control plane configures them in the filter `connections`.

use serde::{Deserialize, Serialize};

/// The most open connections of one address, in all Envoy workers together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConnectionLimits {
    /// For an address with a container.
    pub container: u32,
    /// For an address without a container. All addresses of an IPv6 network of 64 bits count as one.
    pub stranger: u32,
    /// For all addresses without a container together.
    pub strangers: u32,
}
