//! The CA's key and the leaves it issues, one name for each.
//!
//! Called by the xDS server when Envoy asks for the certificate of a name, and by `ca export`. It never issues a
//! leaf for anything that is not a plain host name.

use std::path::Path;
use std::sync::Arc;

use policy::HostName;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer as RcgenIssuer, KeyPair, KeyUsagePurpose,
};
use time::{Duration, OffsetDateTime};

use crate::files;

/// How long the CA itself is valid.
const CA_VALIDITY: Duration = Duration::days(3650);
/// How long a leaf is valid.
const LEAF_VALIDITY: Duration = Duration::days(7);
/// How far a sandbox's clock may be behind ours.
const CLOCK_SKEW: Duration = Duration::hours(24);

/// What went wrong with the CA.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its files can't be read or written.
    #[error("the CA's file {path} cannot be used")]
    File {
        /// Which.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// One of the two files is there without the other: making a new CA would silently break every sandbox.
    #[error("{missing} is missing although {present} is there; restore it, or remove both to make a new CA")]
    Half {
        /// The file that is there.
        present: String,
        /// The file that is not.
        missing: String,
    },
    /// The name is none that a leaf may carry.
    #[error("not a host name")]
    Name(#[from] policy::InvalidHost),
    /// The certificate library refused.
    #[error("certificate error")]
    Certificate(#[from] rcgen::Error),
}

/// A leaf certificate with its key.
#[derive(Clone)]
pub struct Leaf {
    /// The leaf and nothing else: sandboxes trust the CA itself.
    pub certificate_pem: String,
    /// Its key, PKCS#8.
    pub key_pem: String,
}

/// The CA.
pub struct Issuer {
    certificate_pem: String,
    issuer: RcgenIssuer<'static, KeyPair>,
}

impl std::fmt::Debug for Issuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issuer").finish_non_exhaustive()
    }
}

impl Issuer {
    /// Reads `ca.pem` and `ca.key` in `directory`, or makes them.
    ///
    /// # Errors
    /// One file without the other, files that are unreadable or no CA.
    pub fn open(directory: &Path) -> Result<Arc<Self>, Error> {
        let certificate = directory.join("ca.pem");
        let key = directory.join("ca.key");
        let read = |path: &Path| match std::fs::read_to_string(path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::File { path: path.display().to_string(), source }),
        };
        let half = |present: &Path, missing: &Path| Error::Half {
            present: present.display().to_string(),
            missing: missing.display().to_string(),
        };
        let (certificate_pem, key_pem) = match (read(&certificate)?, read(&key)?) {
            (Some(certificate_pem), Some(key_pem)) => (certificate_pem, key_pem),
            (Some(_), None) => return Err(half(&certificate, &key)),
            (None, Some(_)) => return Err(half(&key, &certificate)),
            (None, None) => {
                let (certificate_pem, key_pem) = make()?;
                let write = |path: &Path, text: &str, mode| {
                    files::write_atomic(path, text.as_bytes(), mode)
                        .map_err(|source| Error::File { path: path.display().to_string(), source })
                };
                write(&key, &key_pem, 0o600)?;
                write(&certificate, &certificate_pem, 0o644)?;
                tracing::info!(path = %certificate.display(), "made a new CA");
                (certificate_pem, key_pem)
            }
        };
        let issuer = RcgenIssuer::from_ca_cert_pem(&certificate_pem, KeyPair::from_pem(&key_pem)?)?;
        Ok(Arc::new(Self { certificate_pem, issuer }))
    }

    /// The CA's certificate.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// A fresh leaf for one name, valid for a week.
    ///
    /// # Errors
    /// The name is no host name in its canonical spelling.
    pub fn leaf(&self, name: &str) -> Result<Leaf, Error> {
        let host = HostName::parse(name.as_bytes())?;
        let mut params = CertificateParams::new(vec![host.to_string()])?;
        // The subject stays empty of the name: a common name ends at 64 characters (RFC 5280, ub-common-name), and
        // clients read the subject alternative name only.
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "Sallyport");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let now = OffsetDateTime::now_utc();
        params.not_before = now - CLOCK_SKEW;
        params.not_after = now + LEAF_VALIDITY;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Leaf { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }
}

fn make() -> Result<(String, String), Error> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Sallyport");
    params.distinguished_name.push(DnType::CommonName, "Sallyport sandbox CA");
    let now = OffsetDateTime::now_utc();
    params.not_before = now - CLOCK_SKEW;
    params.not_after = now + CA_VALIDITY;
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    Ok((issuer.pem(), issuer.key().serialize_pem()))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_ca_is_made_once_and_kept() {
        let directory = tempfile::tempdir().unwrap();
        let first = Issuer::open(directory.path()).unwrap().certificate_pem().to_owned();
        assert_eq!(Issuer::open(directory.path()).unwrap().certificate_pem(), first);
        let mode = std::fs::metadata(directory.path().join("ca.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn half_a_ca_is_an_error_and_never_replaced() {
        let directory = tempfile::tempdir().unwrap();
        Issuer::open(directory.path()).unwrap();
        for file in ["ca.key", "ca.pem"] {
            let whole = std::fs::read(directory.path().join(file)).unwrap();
            std::fs::remove_file(directory.path().join(file)).unwrap();
            assert!(matches!(Issuer::open(directory.path()), Err(Error::Half { .. })), "{file}");
            std::fs::write(directory.path().join(file), whole).unwrap();
        }
    }

    #[test]
    fn a_leaf_is_for_a_plain_host_name_only() {
        let directory = tempfile::tempdir().unwrap();
        let issuer = Issuer::open(directory.path()).unwrap();
        assert!(issuer.leaf("github.com").unwrap().certificate_pem.contains("BEGIN CERTIFICATE"));
        let long = format!("{}.{}.example", "a".repeat(63), "b".repeat(63));
        assert!(issuer.leaf(&long).is_ok());
        for name in ["", "no-server-name", "localhost", "127.0.0.1", "*.github.com", "a b.com", "a.com/../x"] {
            assert!(issuer.leaf(name).is_err(), "{name}");
        }
    }
}
