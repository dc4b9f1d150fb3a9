//! The certificate authority: made at the first start, kept in the state directory, trusted by the sandboxes alone.

pub mod api;
pub mod issuer;
