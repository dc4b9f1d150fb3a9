//! The home of a login in the state directory. The login is copied there from its program's file. From then on, the
//! copy is the gateway's own.
//!
//! The home also stores the hash and the time of the program's file at the copy. If the file later has another hash and
//! a newer time, a new login wrote the file, and the file is copied again.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use base::files::Reserved;
use base::hash::hex;

/// The mode of all files: access for the owner only.
const MODE: u32 = 0o600;

/// The longest file, in bytes. A file has some KiB.
const MAX_FILE: u64 = 256 << 10;

/// Additional space for a login that has grown, in bytes.
const GROWTH: usize = 16 << 10;

/// The directory of all logins, below the state directory.
pub const DIRECTORY: &str = "tokens";

/// The home of one login.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Home {
    source: PathBuf,
    own: PathBuf,
    copied: PathBuf,
    lock: PathBuf,
}

/// A lock on a login: no other process refreshes the login. The lock is released when this is dropped, or when the
/// process ends in any way.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "it is held, not used")] File);

impl Lock {
    /// Takes the lock `path`. Returns `None` if another process has the lock.
    ///
    /// # Errors
    /// If the file system fails.
    pub fn take(path: &Path) -> io::Result<Option<Self>> {
        Self::of(OpenOptions::new().write(true).create(true).truncate(false).mode(MODE).open(path)?)
    }

    fn of(file: File) -> io::Result<Option<Self>> {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self(file))),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// The hash and the modification time of a file when it was copied.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Copied {
    sha256: String,
    modified: (i64, i64),
}

/// A login, and whether it was copied just now.
#[derive(Debug)]
pub struct Found {
    /// The text of the login's file.
    pub text: SecretString,
    /// Whether the login was copied just now, as the first login or in place of another.
    pub copied: bool,
}

/// Reserved disk space for a login that is about to change.
#[derive(Debug)]
pub struct Room(Reserved);

impl Home {
    /// The home in `state_dir` for the credential `name`. `source` is the program's file.
    pub fn new(state_dir: &Path, name: &str, source: &Path) -> Self {
        let directory = state_dir.join(DIRECTORY);
        let file = |kind: &str| directory.join(format!("{name}.{kind}"));
        Self { source: source.to_owned(), own: file("json"), copied: file("copied"), lock: file("lock") }
    }

    /// The file that is locked during a refresh. It is empty and is never removed.
    pub fn lock_file(&self) -> &Path {
        &self.lock
    }

    /// Whether a process refreshes the login now. Creates no file.
    ///
    /// # Errors
    /// If the file system fails.
    pub fn busy(&self) -> io::Result<bool> {
        match OpenOptions::new().write(true).open(&self.lock) {
            Ok(file) => Ok(Lock::of(file)?.is_none()),
            // The login has never been refreshed.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The content of the gateway's own file.
    ///
    /// # Errors
    /// If the file doesn't exist or can't be read.
    pub fn own(&self) -> Result<SecretString, String> {
        read(&self.own).map(|(text, _)| text)
    }

    /// Removes the temporary files of a process that was killed during a write. Only one process writes at a time.
    fn sweep(&self) -> io::Result<()> {
        let (Some(directory), Some(name)) = (self.own.parent(), self.own.file_name().and_then(|name| name.to_str()))
        else {
            return Ok(());
        };
        for entry in std::fs::read_dir(directory)? {
            let path = entry?.path();
            let file = path.file_name().and_then(|file| file.to_str()).unwrap_or_default();
            if file.strip_prefix(name).is_some_and(|rest| rest.starts_with('.') && rest.ends_with(".tmp")) {
                std::fs::remove_file(&path)?;
            }
        }
        Ok(())
    }

    fn make_directory(&self) -> io::Result<()> {
        let directory = self.own.parent().unwrap_or(Path::new("."));
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)
    }

    /// Metadata that changes with the program's file: inode, size and modification time. `None` if there is no file.
    pub fn stamp(&self) -> Option<(u64, u64, i64, i64)> {
        std::fs::metadata(&self.source).ok().map(|m| (m.ino(), m.size(), m.mtime(), m.mtime_nsec()))
    }

    /// The login. If the program's file has changed and is newer than at the last copy, the file is copied first.
    /// `usable` returns the problem with a text.
    ///
    /// # Errors
    /// If there is no usable login, or the copy fails.
    pub fn find(&self, usable: impl Fn(&str) -> Result<(), String>) -> Result<Found, String> {
        let own = read(&self.own);
        let source = read(&self.source);
        let known: Option<Copied> =
            std::fs::read(&self.copied).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        if let Ok((text, now)) = &source
            && (own.is_err() || self.newer(now, known.as_ref()))
        {
            match usable(text.expose_secret()) {
                Ok(()) => {
                    // In this order: if the second write fails, the copy is repeated before any refresh.
                    let problem = |error: io::Error| format!("cannot be copied into the state directory: {error}");
                    self.room(0).map_err(problem)?.fill(text).map_err(problem)?;
                    let copied = SecretString::from(serde_json::to_string(now).map_err(|error| error.to_string())?);
                    let stamp = Reserved::beside(&self.copied, 0, MODE).map(Room).map_err(problem)?;
                    stamp.fill(&copied).map_err(problem)?;
                    return Ok(Found { text: text.clone(), copied: true });
                }
                // A partly written or invalid file does not replace a working login.
                Err(problem) if own.is_err() => return Err(problem),
                Err(problem) => {
                    tracing::warn!(file = %self.source.display(), problem, "the changed file of a login is invalid and is ignored")
                }
            }
        }
        match (own, source) {
            (Ok((text, _)), _) => usable(text.expose_secret()).map(|()| Found { text, copied: false }),
            (Err(_), Err(problem)) => Err(problem),
            (Err(problem), Ok(_)) => Err(problem),
        }
    }

    fn newer(&self, now: &Copied, known: Option<&Copied>) -> bool {
        match known {
            Some(known) => now.sha256 != known.sha256 && now.modified > known.modified,
            // The copy was not completed, or the record of the copy was removed.
            None => std::fs::metadata(&self.own).is_ok_and(|own| now.modified > (own.mtime(), own.mtime_nsec())),
        }
    }

    /// Reserves disk space for a login of about `size` bytes, before a request that can't be repeated.
    ///
    /// # Errors
    /// If the disk is full, or the state directory can't be written.
    pub fn room(&self, size: usize) -> io::Result<Room> {
        self.make_directory()?;
        self.sweep()?;
        Reserved::beside(&self.own, size.saturating_add(GROWTH), MODE).map(Room)
    }
}

impl Room {
    /// Writes the login. File, name and directory are on disk when this returns. Three places in this directory expose
    /// a secret: this function, the body in `endpoint` and the pipes in `refresh`.
    ///
    /// # Errors
    /// If the file system fails. The login on disk is then unchanged.
    pub fn fill(self, text: &SecretString) -> io::Result<()> {
        self.0.fill(text.expose_secret().as_bytes())
    }
}

fn read(path: &Path) -> Result<(SecretString, Copied), String> {
    let metadata = std::fs::metadata(path).map_err(|error| format!("cannot be read: {error}"))?;
    // A read from a pipe would block.
    if !metadata.is_file() || metadata.len() > MAX_FILE {
        return Err(format!("is no regular file of up to {MAX_FILE} bytes"));
    }
    let text = std::fs::read_to_string(path).map_err(|error| format!("cannot be read: {error}"))?;
    let sha256 = hex(&Sha256::digest(text.as_bytes()));
    Ok((text.into(), Copied { sha256, modified: (metadata.mtime(), metadata.mtime_nsec()) }))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::time::{Duration, SystemTime};

    fn any(text: &str) -> Result<(), String> {
        if text.starts_with("broken") { Err("is broken".into()) } else { Ok(()) }
    }

    fn write(path: &Path, text: &str, age: u64) {
        std::fs::write(path, text).unwrap();
        let file = std::fs::File::options().write(true).open(path).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
    }

    fn found(home: &Home) -> (String, bool) {
        let found = home.find(any).unwrap();
        (found.text.expose_secret().to_owned(), found.copied)
    }

    #[test]
    fn a_login_is_copied_once_and_again_where_its_file_is_another_one_and_newer() {
        let directory = tempfile::tempdir().unwrap();
        let source = directory.path().join("auth.json");
        let home = Home::new(directory.path(), "codex", &source);
        assert!(home.find(any).unwrap_err().contains("cannot be read"));
        write(&source, "one", 100);
        assert_eq!(found(&home), ("one".into(), true));
        let own = directory.path().join("tokens/codex.json");
        assert_eq!(std::fs::metadata(&own).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(found(&home), ("one".into(), false));

        home.room(3).unwrap().fill(&"refreshed".into()).unwrap();
        assert_eq!(found(&home), ("refreshed".into(), false));
        write(&source, "one", 50);
        assert_eq!(found(&home), ("refreshed".into(), false), "touched, and still the one whose token is used up");
        write(&source, "older", 200);
        assert_eq!(found(&home), ("refreshed".into(), false));
        write(&source, "broken", 20);
        assert_eq!(found(&home), ("refreshed".into(), false));
        write(&source, "two", 10);
        assert_eq!(found(&home), ("two".into(), true));
        std::fs::remove_file(&source).unwrap();
        assert_eq!(found(&home), ("two".into(), false));
    }

    #[test]
    fn a_lock_is_held_by_one_and_what_a_killed_process_left_is_swept_up() {
        let directory = tempfile::tempdir().unwrap();
        let source = directory.path().join("auth.json");
        let home = Home::new(directory.path(), "codex", &source);
        assert!(!home.busy().unwrap(), "nobody has ever refreshed it");
        write(&source, "one", 100);
        found(&home);
        let lock = Lock::take(home.lock_file()).unwrap().unwrap();
        assert!(home.busy().unwrap() && Lock::take(home.lock_file()).unwrap().is_none());
        drop(lock);
        assert!(!home.busy().unwrap());

        let tokens = directory.path().join("tokens");
        for name in ["codex.json.77.tmp", "codex-2.json.77.tmp", "codex.json.77"] {
            std::fs::write(tokens.join(name), "left").unwrap();
        }
        home.room(3).unwrap().fill(&"two".into()).unwrap();
        let mut names: Vec<_> = std::fs::read_dir(&tokens)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["codex-2.json.77.tmp", "codex.copied", "codex.json", "codex.json.77", "codex.lock"]);
        assert_eq!(home.own().unwrap().expose_secret(), "two");
    }

    #[test]
    fn a_state_directory_that_cannot_be_written_is_noticed_before_anything_is_asked() {
        let directory = tempfile::tempdir().unwrap();
        let source = directory.path().join("auth.json");
        write(&source, "one", 100);
        std::fs::write(directory.path().join("tokens"), "in the way").unwrap();
        let home = Home::new(directory.path(), "codex", &source);
        assert!(home.room(10).is_err());
        assert!(home.find(any).unwrap_err().contains("cannot be copied"));
    }
}
