//! The gateway's own way out: DNS for Envoy and for the gateway itself (`dns`), the one HTTPS client (`https`), and
//! where upstreams are (`upstreams`).

pub mod dns;
pub mod https;
pub mod upstreams;
