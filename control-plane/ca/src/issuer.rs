//! The CA's key, its rotation, and the leaf certificates, each for one host name.
//!
//! The xDS server calls this module when Envoy requests the certificate of a name, and `ca export` does. It issues
//! leaves only for plain host names.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use policy::HostName;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer as RcgenIssuer, KeyPair, KeyUsagePurpose,
};
use time::{Duration, OffsetDateTime};
use tokio::sync::watch;

use base::files;

/// How long the CA itself is valid.
const CA_VALIDITY: Duration = Duration::days(3650);
/// How long a leaf is valid.
const LEAF_VALIDITY: Duration = Duration::days(7);
/// How far a sandbox's clock may be behind the gateway's.
const CLOCK_SKEW: Duration = Duration::hours(24);
/// The mode of certificate files. Every user may read them, because clients have to; the keys are in separate files.
pub const PUBLIC: u32 = 0o644;

/// An error of the CA.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of the CA can't be read or written.
    #[error("the CA's file {path} can't be read or written")]
    File {
        /// The file.
        path: String,
        /// The cause.
        source: std::io::Error,
    },
    /// One of the two files is missing. Making a new CA would silently break every sandbox.
    #[error("{missing} is missing although {present} is there; restore it, or remove both to make a new CA")]
    Half {
        /// The file that exists.
        present: String,
        /// The file that is missing.
        missing: String,
    },
    /// A rotation has begun already.
    #[error("a new CA is staged already; finish that rotation first")]
    Staged,
    /// No rotation has begun.
    #[error("no new CA is staged; begin with `sallyport ca rotate`")]
    NotStaged,
    /// The name is not a plain host name.
    #[error("the name is not a host name")]
    Name(#[from] policy::InvalidHost),
    /// The certificate library returned an error.
    #[error("certificate error")]
    Certificate(#[from] rcgen::Error),
}

/// A leaf certificate with its key.
#[derive(Clone)]
pub struct Leaf {
    /// The leaf alone, without a chain, because sandboxes trust the CA directly.
    pub certificate_pem: String,
    /// The leaf's key, as PKCS#8.
    pub key_pem: String,
}

/// The CA, in up to three generations: current, next and previous. Only the current one issues leaves. Sandboxes trust
/// all three, so that a rotation never cuts off a sandbox that has received the bundle in time.
pub struct Issuer {
    directory: PathBuf,
    state: Mutex<State>,
    /// Counts the changes of the current CA. After a change, all leaves have to be issued anew.
    changes: watch::Sender<u64>,
}

struct State {
    current: Authority,
    next: Option<Authority>,
    previous_pem: Option<String>,
}

/// A CA's certificate with its signing key.
struct Authority {
    certificate_pem: String,
    issuer: RcgenIssuer<'static, KeyPair>,
}

impl Authority {
    fn read(certificate_pem: String, key_pem: &str) -> Result<Self, Error> {
        let issuer = RcgenIssuer::from_ca_cert_pem(&certificate_pem, KeyPair::from_pem(key_pem)?)?;
        Ok(Self { certificate_pem, issuer })
    }

    /// Reads the pair of files `name.pem` and `name.key`. Returns `None` if neither exists.
    fn open(directory: &Path, name: &str) -> Result<Option<Self>, Error> {
        let (certificate, key) = (directory.join(format!("{name}.pem")), directory.join(format!("{name}.key")));
        let half = |present: &Path, missing: &Path| Error::Half {
            present: present.display().to_string(),
            missing: missing.display().to_string(),
        };
        match (read(&certificate)?, read(&key)?) {
            (Some(certificate_pem), Some(key_pem)) => {
                files::set_mode(&certificate, PUBLIC).map_err(|source| file_error(&certificate, source))?;
                Self::read(certificate_pem, &key_pem).map(Some)
            }
            (Some(_), None) => Err(half(&certificate, &key)),
            (None, Some(_)) => Err(half(&key, &certificate)),
            (None, None) => Ok(None),
        }
    }

    /// Creates a CA, and writes it to `name.pem` and `name.key`.
    fn make(directory: &Path, name: &str) -> Result<Self, Error> {
        let (certificate_pem, key_pem) = make()?;
        write(&directory.join(format!("{name}.key")), &key_pem, 0o600)?;
        write(&directory.join(format!("{name}.pem")), &certificate_pem, PUBLIC)?;
        tracing::info!(directory = %directory.display(), name, "made a new CA");
        Self::read(certificate_pem, &key_pem)
    }
}

impl std::fmt::Debug for Issuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issuer").finish_non_exhaustive()
    }
}

/// The name of the current CA's files.
const CURRENT: &str = "ca";
/// The name of the next CA's files.
const NEXT: &str = "ca-next";
/// The file with the previous CA's certificate.
const PREVIOUS: &str = "ca-previous.pem";

impl Issuer {
    /// Reads the CA in `directory`, or creates one.
    ///
    /// # Errors
    /// If a certificate or a key exists without the other, or if a file is unreadable or not a CA.
    pub fn open(directory: &Path) -> Result<Arc<Self>, Error> {
        complete_finish(directory)?;
        let current = match Authority::open(directory, CURRENT)? {
            Some(current) => current,
            None => Authority::make(directory, CURRENT)?,
        };
        let next = Authority::open(directory, NEXT)?;
        let previous_pem = read(&directory.join(PREVIOUS))?;
        let state = Mutex::new(State { current, next, previous_pem });
        Ok(Arc::new(Self { directory: directory.to_owned(), state, changes: watch::channel(0).0 }))
    }

    /// The certificates of every CA that sandboxes have to trust, the current one first.
    pub fn trusted_pem(&self) -> String {
        let state = self.state();
        let next = state.next.as_ref().map(|next| next.certificate_pem.as_str());
        [Some(state.current.certificate_pem.as_str()), next, state.previous_pem.as_deref()]
            .into_iter()
            .flatten()
            .collect()
    }

    /// Why the certificate on disk is not that of the current CA. `None` if it is. The next start would use the file.
    pub fn problem(&self) -> Option<String> {
        let path = self.directory.join(format!("{CURRENT}.pem"));
        let shown = path.display();
        let state = self.state();
        match read(&path) {
            Ok(Some(there)) if there == state.current.certificate_pem => None,
            Ok(Some(_)) => Some(format!("{shown} is not the CA that the gateway uses; put that one back")),
            Ok(None) => Some(format!("{shown} is gone while the gateway runs; put it back before the next start")),
            Err(error) => Some(format!("{:#}", anyhow::Error::from(error))),
        }
    }

    /// Watches the changes of the current CA.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Creates the next CA. It issues nothing yet, so that sandboxes can first receive the bundle with both.
    ///
    /// # Errors
    /// If a CA is staged already, or if the files cannot be written.
    pub fn stage(&self) -> Result<(), Error> {
        let mut state = self.state();
        if state.next.is_some() {
            return Err(Error::Staged);
        }
        state.next = Some(Authority::make(&self.directory, NEXT)?);
        Ok(())
    }

    /// Makes the staged CA the current one. The CA before it stays trusted until the next rotation.
    ///
    /// # Errors
    /// If no CA is staged, or if the files cannot be written.
    pub fn finish(&self) -> Result<(), Error> {
        let mut state = self.state();
        let next = state.next.take().ok_or(Error::NotStaged)?;
        // If the process crashes in between, the next start completes the rotation, see `complete_finish`.
        let renamed = write(&self.directory.join(PREVIOUS), &state.current.certificate_pem, PUBLIC)
            .and_then(|()| promote(&self.directory, "key"))
            .and_then(|()| promote(&self.directory, "pem"));
        if let Err(error) = renamed {
            state.next = Some(next);
            return Err(error);
        }
        state.previous_pem = Some(std::mem::take(&mut state.current.certificate_pem));
        state.current = next;
        drop(state);
        self.changes.send_modify(|changes| *changes += 1);
        tracing::info!("the staged CA issues from now on");
        Ok(())
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Issues a new leaf for one name, valid for a week.
    ///
    /// # Errors
    /// If the name is not a plain host name, or if the certificate library fails.
    pub fn leaf(&self, name: &str) -> Result<Leaf, Error> {
        let host = HostName::parse(name.as_bytes())?;
        let mut params = CertificateParams::new(vec![host.to_string()])?;
        // The subject does not contain the host name: a common name has at most 64 characters (RFC 5280,
        // ub-common-name), and clients check only the subject alternative name.
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "Sallyport");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let now = OffsetDateTime::now_utc();
        params.not_before = now - CLOCK_SKEW;
        params.not_after = now + LEAF_VALIDITY;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.state().current.issuer)?;
        Ok(Leaf { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }
}

/// Renames a file of the staged CA to that of the current CA.
fn promote(directory: &Path, ending: &str) -> Result<(), Error> {
    let from = directory.join(format!("{NEXT}.{ending}"));
    std::fs::rename(&from, directory.join(format!("{CURRENT}.{ending}"))).map_err(|source| file_error(&from, source))
}

/// Completes an interrupted [`Issuer::finish`]. The key is renamed first, so a staged certificate without its key
/// belongs to the key that is current already.
fn complete_finish(directory: &Path) -> Result<(), Error> {
    let staged = |ending: &str| directory.join(format!("{NEXT}.{ending}")).exists();
    if staged("pem") && !staged("key") { promote(directory, "pem") } else { Ok(()) }
}

fn read(path: &Path) -> Result<Option<String>, Error> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(file_error(path, source)),
    }
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), Error> {
    files::write_atomic(path, text.as_bytes(), mode).map_err(|source| file_error(path, source))
}

fn file_error(path: &Path, source: std::io::Error) -> Error {
    Error::File { path: path.display().to_string(), source }
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
        let first = Issuer::open(directory.path()).unwrap().trusted_pem();
        assert_eq!(Issuer::open(directory.path()).unwrap().trusted_pem(), first);
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
    fn a_change_of_ca_has_an_overlap_in_which_both_are_trusted() {
        let directory = tempfile::tempdir().unwrap();
        let issuer = Issuer::open(directory.path()).unwrap();
        let count = |issuer: &Issuer| issuer.trusted_pem().matches("BEGIN CERTIFICATE").count();
        let first = issuer.trusted_pem();
        assert!(matches!(issuer.finish(), Err(Error::NotStaged)));
        issuer.stage().unwrap();
        assert!(matches!(issuer.stage(), Err(Error::Staged)));
        assert_eq!(count(&issuer), 2);
        assert!(issuer.trusted_pem().starts_with(&first), "the old one issues still");
        assert_eq!(Issuer::open(directory.path()).unwrap().trusted_pem(), issuer.trusted_pem());
        let changes = issuer.changes();
        issuer.finish().unwrap();
        assert!(changes.has_changed().unwrap());
        assert!(issuer.trusted_pem().ends_with(&first), "the new one issues, the old one is trusted");
        assert_eq!(Issuer::open(directory.path()).unwrap().trusted_pem(), issuer.trusted_pem());
        issuer.stage().unwrap();
        promote(directory.path(), "key").unwrap();
        let staged = std::fs::read_to_string(directory.path().join("ca-next.pem")).unwrap();
        let restarted = Issuer::open(directory.path()).unwrap();
        assert!(restarted.trusted_pem().starts_with(&staged), "a change that was cut off is completed");
        assert_eq!(count(&restarted), 2);
        let issuer = restarted;
        issuer.stage().unwrap();
        issuer.finish().unwrap();
        assert_eq!(count(&issuer), 2);
        assert!(!issuer.trusted_pem().contains(&first), "two changes later it is not");
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
