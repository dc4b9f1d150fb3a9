//! The key by which the identity filter signs GitHub's redirects ([`policy::redirect`]): one for each state directory, over
//! restarts, so that a URL that a container got before a restart passes after it.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use anyhow::Context;
use base::files;
use policy::redirect::KEY;

/// The file of the key in the state directory.
const FILE: &str = "redirect.key";

/// The key.
#[derive(Clone)]
pub struct RedirectKey([u8; KEY]);

impl std::fmt::Debug for RedirectKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RedirectKey")
    }
}

impl RedirectKey {
    /// The key in `state_dir`. Creates the file if it is missing.
    ///
    /// # Errors
    /// If the file can't be read or written, or has another length than a key.
    pub fn open(state_dir: &Path) -> anyhow::Result<Self> {
        let path = state_dir.join(FILE);
        match std::fs::read(&path) {
            Ok(bytes) => {
                let length = bytes.len();
                let key = bytes.try_into().ok().map(Self);
                key.with_context(|| {
                    format!("{} has {length} bytes, not {KEY}; remove it to create a new key", path.display())
                })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut key = [0; KEY];
                File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut key))?;
                files::write_atomic(&path, &key, 0o600)
                    .with_context(|| format!("{} cannot be written", path.display()))?;
                Ok(Self(key))
            }
            Err(error) => Err(error).with_context(|| format!("{} cannot be read", path.display())),
        }
    }

    /// Its bytes.
    pub(crate) fn bytes(&self) -> &[u8; KEY] {
        &self.0
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_key_is_made_once_for_its_owner_and_never_printed() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let key = RedirectKey::open(one.path()).unwrap();
        assert_eq!(RedirectKey::open(one.path()).unwrap().bytes(), key.bytes());
        assert_ne!(RedirectKey::open(two.path()).unwrap().bytes(), key.bytes());
        assert_eq!(std::fs::metadata(one.path().join(FILE)).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(format!("{key:?}"), "RedirectKey");
        std::fs::write(one.path().join(FILE), "short").unwrap();
        assert!(RedirectKey::open(one.path()).unwrap_err().to_string().contains("5 bytes"));
    }
}
