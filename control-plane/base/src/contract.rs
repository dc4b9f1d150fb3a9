//! Names and facts that two parts of the control plane share without importing each other: the names that `xds`
//! configures in Envoy and that the audit reads in Envoy's access log, a field that the credential stage leaves there, and
//! the query parameters that the audit shows.

use std::time::Duration;

/// The filter state with the identity filter's decision. Envoy adds the prefix `wasm.` to the name in `set_property`.
pub const AUDIT_STATE: &str = "wasm.sallyport.audit";

/// The filter state that a filter sets on the request during which it panicked: the filter and its callback.
pub const PANIC_STATE: &str = "wasm.sallyport.panic";

/// The field of ext_authz's dynamic metadata with the account at GitHub that pays for the request. The request then has
/// the gateway's credential for api.github.com.
pub const ACCOUNT_FIELD: &str = "account";

/// The metadata of an ext_authz call with the mark of the identity stage, see [`policy::mark`].
pub const IDENTITY_MARK: &str = "x-sallyport-mark-identity";

/// The metadata of an ext_authz call with the mark of the github stage.
pub const GITHUB_MARK: &str = "x-sallyport-mark-github";

/// The tag with the duration of a connection's handshake. Empty or `-` if the handshake was not completed.
pub const HANDSHAKE_TAG: &str = "handshake_ms";

/// The time after which an open stream gets its own audit line about its start.
pub const LONG: Duration = Duration::from_secs(5);

/// Query parameters whose values the audit shows. Their values are no secrets.
const SHOWN: [&str; 5] = ["service", "page", "per_page", "state", "ref"];

/// Whether the audit shows the value of this query parameter. A credential is never in one of these parameters.
pub fn shows(parameter: &str) -> bool {
    SHOWN.contains(&parameter)
}
