//! The certificate authority (CA). It is created at the first start, stored in the state directory, and trusted only by
//! the sandboxes.

pub mod api;
pub mod issuer;
