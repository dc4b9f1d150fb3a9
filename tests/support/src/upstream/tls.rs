//! The upstream's CA and one certificate for each of its names.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::server::ResolvesServerCertUsingSni;
use tokio_rustls::rustls::sign::CertifiedKey;

/// Makes a CA and a certificate for each of `hosts`. A handshake with another name, or without a name, fails.
pub fn acceptor(hosts: &[&str]) -> (TlsAcceptor, String) {
    acceptor_for(hosts, &[b"h2", b"http/1.1"])
}

/// The same for a server that speaks only these protocols.
pub fn acceptor_for(hosts: &[&str], protocols: &[&[u8]]) -> (TlsAcceptor, String) {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "The rig's upstream CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();

    let provider = Arc::new(ring::default_provider());
    let mut resolver = ResolvesServerCertUsingSni::new();
    for host in hosts {
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec![(*host).to_owned()]).unwrap().signed_by(&key, &ca).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let certified = CertifiedKey::from_der(vec![leaf.der().clone()], key, &provider).unwrap();
        resolver.add(host, certified).unwrap();
    }
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    (TlsAcceptor::from(Arc::new(config)), ca.pem())
}
