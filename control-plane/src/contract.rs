//! Names and facts that two parts of the control plane share without one of them importing the other.

/// Query parameters whose values the audit shows. Their values are no secrets.
const SHOWN: [&str; 5] = ["service", "page", "per_page", "state", "ref"];

/// Whether the audit shows the value of this query parameter. A credential cannot stand in such a parameter.
pub fn shows(parameter: &str) -> bool {
    SHOWN.contains(&parameter)
}
