//! The upstream's CA and one certificate for each of its names.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert, ResolvesServerCertUsingSni};
use tokio_rustls::rustls::sign::CertifiedKey;

/// Makes a CA and a certificate for each of `hosts`. A handshake with another name, or without a name, fails.
pub fn acceptor(hosts: &[&str]) -> (TlsAcceptor, String) {
    acceptor_for(hosts, &[b"h2", b"http/1.1"])
}

/// The same for a server that speaks only these protocols.
pub fn acceptor_for(hosts: &[&str], protocols: &[&[u8]]) -> (TlsAcceptor, String) {
    let (certified, ca_pem) = certified(hosts);
    let mut resolver = ResolvesServerCertUsingSni::new();
    for (host, certified) in hosts.iter().zip(certified) {
        resolver.add(host, certified).unwrap();
    }
    (acceptor_of(Arc::new(resolver), protocols), ca_pem)
}

/// Makes a CA and a certificate for `host`, which is presented in each handshake, whatever the handshake names.
pub fn impostor(host: &str) -> (TlsAcceptor, String) {
    let (certified, ca_pem) = certified(&[host]);
    let only = Only(certified.into_iter().next().map(Arc::new));
    (acceptor_of(Arc::new(only), &[b"h2", b"http/1.1"]), ca_pem)
}

/// One certificate.
#[derive(Debug)]
struct Only(Option<Arc<CertifiedKey>>);

impl ResolvesServerCert for Only {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.clone()
    }
}

/// A certificate with its key for each of `hosts`, and the CA.
fn certified(hosts: &[&str]) -> (Vec<CertifiedKey>, String) {
    let mut params = CertificateParams::default();
    // A name of its own: where one bundle has two CAs of the same name, a client may try only one of them.
    params.distinguished_name.push(DnType::CommonName, format!("The rig's CA of {}", hosts[0]));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let one = |host: &&str| {
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec![(*host).to_owned()]).unwrap().signed_by(&key, &ca).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        CertifiedKey::from_der(vec![leaf.der().clone()], key, &ring::default_provider()).unwrap()
    };
    (hosts.iter().map(one).collect(), ca.pem())
}

fn acceptor_of(resolver: Arc<dyn ResolvesServerCert>, protocols: &[&[u8]]) -> TlsAcceptor {
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    TlsAcceptor::from(Arc::new(config))
}
