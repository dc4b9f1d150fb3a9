//! Outbound connections: DNS for Envoy and for the gateway itself (`dns`), the only HTTPS client (`https`), and the
//! locations of upstreams (`upstreams`).

pub mod dns;
pub mod https;
pub mod upstreams;
