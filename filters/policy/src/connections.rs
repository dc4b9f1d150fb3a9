//! The limits of TCP connections, as the control plane configures them in the filter `connections`.

use serde::{Deserialize, Serialize};

/// The limits of one address: of its open connections in all Envoy workers together, and of its requests in each worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConnectionLimits {
    /// For an address with a container.
    pub container: u32,
    /// For an address without a container. All addresses of an IPv6 network of 64 bits count as one.
    pub stranger: u32,
    /// For all addresses without a container together.
    pub strangers: u32,
    /// The requests per second of an address in one worker, after a burst. Beyond it the address's connections wait.
    pub requests_per_second: u32,
}
