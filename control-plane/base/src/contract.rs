//! Names and facts that two parts of the control plane share without one of them importing the other: what `xds` has
//! Envoy do and the audit reads in Envoy's access log, what the audit shows of a request with a credential, and where a
//! sandbox's own credentials stand.

use std::time::Duration;

/// The filter state in which the identity filter leaves its decision, by Envoy's name for what `set_property` sets.
pub const AUDIT_STATE: &str = "wasm.sallyport.audit";

/// The filter state that a filter leaves on the request over which it has panicked.
pub const PANIC_STATE: &str = "wasm.sallyport.panic";

/// The tag in which Envoy says how long a connection's handshake took; empty or `-` where it was not finished.
pub const HANDSHAKE_TAG: &str = "handshake_ms";

/// A stream that is open for this long gets a line of its own about its start.
pub const LONG: Duration = Duration::from_secs(5);

/// The headers that carry a credential of a sandbox, whatever the provider.
pub const CREDENTIAL_HEADERS: [&str; 6] =
    ["authorization", "cookie", "x-api-key", "x-goog-api-key", "api-key", "private-token"];

/// Query parameters whose values the audit shows. Their values are no secrets.
const SHOWN: [&str; 5] = ["service", "page", "per_page", "state", "ref"];

/// Whether the audit shows the value of this query parameter. A credential cannot stand in such a parameter.
pub fn shows(parameter: &str) -> bool {
    SHOWN.contains(&parameter)
}
