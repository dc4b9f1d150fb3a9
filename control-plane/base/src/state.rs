//! The state directory: accessible only to its owner, and locked by one gateway at a time.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// The name of the lock file, which is empty and is never removed.
const LOCK: &str = "lock";

/// How long to wait for a stopping gateway to release the lock.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often to try the lock.
const LOOK: Duration = Duration::from_millis(20);

/// A locked state directory. The lock is released when this is dropped, or when the process ends in any way.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    _lock: File,
}

impl StateDir {
    /// Locks `directory`, and creates it if it does not exist. If another gateway holds the lock, the directory is left
    /// unchanged.
    ///
    /// # Errors
    /// If another gateway holds the lock, or if the directory can't be used.
    pub fn take(directory: &Path) -> anyhow::Result<Self> {
        let unusable = || format!("the state directory {} cannot be used", directory.display());
        let lock = open_lock(directory).with_context(unusable)?;
        let until = Instant::now() + PATIENCE;
        loop {
            match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(Errno::WOULDBLOCK) if Instant::now() < until => std::thread::sleep(LOOK),
                Err(Errno::WOULDBLOCK) => bail!(
                    "another gateway is running on the state directory {}: stop it, or give this one its own with \
                     --state-dir",
                    directory.display()
                ),
                Err(error) => return Err(error).with_context(unusable),
            }
        }
        let path = make_run(directory).with_context(unusable)?;
        Ok(Self { path, _lock: lock })
    }

    /// The directory's absolute path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn open_lock(directory: &Path) -> io::Result<File> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(directory.join(LOCK))
}

/// Creates the directory for sockets in `directory`. Returns the absolute path of `directory`.
fn make_run(directory: &Path) -> io::Result<PathBuf> {
    let run = directory.join("run");
    DirBuilder::new().recursive(true).mode(0o700).create(&run)?;
    std::fs::set_permissions(&run, Permissions::from_mode(0o700))?;
    directory.canonicalize()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_state_directory_is_held_by_one_at_a_time_and_let_go_at_its_end() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("new/state");
        let held = StateDir::take(&place).unwrap();
        assert_eq!(held.path(), place.canonicalize().unwrap());
        let refused = StateDir::take(&place).unwrap_err().to_string();
        assert!(refused.contains(place.to_str().unwrap()) && refused.contains("--state-dir"), "{refused}");
        StateDir::take(&directory.path().join("another")).unwrap();
        drop(held);
        StateDir::take(&place).unwrap();
        for directory in [place.clone(), place.join("run")] {
            let mode = std::fs::metadata(&directory).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o700, "{}", directory.display());
        }
    }
}
