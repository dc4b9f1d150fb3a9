//! SDS: the leaf certificates.

use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{Secret, TlsCertificate, secret};

use super::inline;
use ca::issuer::Leaf;

/// The secret that Envoy requests by the server name of the TLS handshake.
pub fn leaf(name: &str, leaf: &Leaf) -> Secret {
    Secret {
        name: name.into(),
        r#type: Some(secret::Type::TlsCertificate(TlsCertificate {
            certificate_chain: Some(inline(leaf.certificate_pem.clone())),
            private_key: Some(inline(leaf.key_pem.clone())),
            ..Default::default()
        })),
    }
}
