//! Names and facts that two parts of the control plane share without one of them importing the other: what `xds` has
//! Envoy do and the audit reads in Envoy's access log, and what the audit shows of a request with a credential.

use std::time::Duration;

/// The filter state in which the identity filter leaves its decision, by Envoy's name for what `set_property` sets.
pub const AUDIT_STATE: &str = "wasm.sallyport.audit";

/// The filter state that a filter leaves on the request over which it has panicked.
pub const PANIC_STATE: &str = "wasm.sallyport.panic";

/// The header in which every refusal names its rule.
pub const RULE_HEADER: &str = "x-sallyport-rule";

/// The tag in which Envoy says how long a connection's handshake took; empty or `-` where it was not finished.
pub const HANDSHAKE_TAG: &str = "handshake_ms";

/// A stream that is open for this long gets a line of its own about its start.
pub const LONG: Duration = Duration::from_secs(5);

/// The rules of Envoy's own replies, and the stage that each stands for.
pub const LOCAL_REPLIES: [(&str, &str); 13] = [
    ("credentials.unavailable", "credentials"),
    ("listener.filter-failed", "listener"),
    ("request.upgrade", "request"),
    ("request.target", "request"),
    ("request.malformed", "request"),
    ("limit.body", "listener"),
    ("limit.headers", "listener"),
    ("limit.idle", "listener"),
    ("limit.request-time", "listener"),
    ("upstream.dns", "upstream"),
    ("limit.upstream", "upstream"),
    ("upstream.unreachable", "upstream"),
    ("limit.overload", "listener"),
];

/// The stage that `rule` stands for in a reply of Envoy's own. `None` if no such reply has the rule.
pub fn stage(rule: &str) -> Option<&'static str> {
    LOCAL_REPLIES.iter().find(|(name, _)| *name == rule).map(|(_, stage)| *stage)
}

/// Query parameters whose values the audit shows. Their values are no secrets.
const SHOWN: [&str; 5] = ["service", "page", "per_page", "state", "ref"];

/// Whether the audit shows the value of this query parameter. A credential cannot stand in such a parameter.
pub fn shows(parameter: &str) -> bool {
    SHOWN.contains(&parameter)
}
