//! A file that is read again after a change.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{MAX_VALUE, Reading, accept};
use crate::format::Format;

/// How long a reading is used before the file's metadata is checked again.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The pause before an empty file is read again: editors truncate a file before they write it.
const SETTLE: Duration = Duration::from_millis(25);

/// The longest file, in bytes: a value and white space around it.
const MAX_FILE: u64 = MAX_VALUE as u64 + 1024;

/// A file.
#[derive(Debug)]
pub struct File {
    path: PathBuf,
    /// Held during a check of the file.
    look: tokio::sync::Mutex<()>,
    last: Arc<Mutex<Option<Looked>>>,
}

#[derive(Clone, Debug)]
struct Looked {
    at: Instant,
    stamp: Option<Stamp>,
    reading: Reading,
    warning: Option<String>,
}

/// Metadata that changes with the file: device, inode, size, modification time and inode change time.
type Stamp = (u64, u64, u64, (i64, i64), (i64, i64));

impl File {
    /// The file at `path`, which may not exist yet.
    pub fn new(path: PathBuf) -> Self {
        Self { path, look: tokio::sync::Mutex::default(), last: Arc::default() }
    }

    /// The content, at most [`LOOK_EVERY`] old, and a warning for the operator, which is independent of the content.
    pub async fn read(&self, format: &Format) -> (Reading, Option<String>) {
        if let Some(fresh) = self.fresh() {
            return fresh;
        }
        let _only = self.look.lock().await;
        if let Some(fresh) = self.fresh() {
            return fresh;
        }
        let (path, last, format) = (self.path.clone(), Arc::clone(&self.last), format.clone());
        match tokio::task::spawn_blocking(move || look(&path, &last, &format)).await {
            Ok(looked) => looked,
            Err(_) => (Err(format!("the file {} cannot be read: the task has ended early", self.path.display())), None),
        }
    }

    /// Same as [`File::read`], but blocking and without cache, for the start.
    pub fn read_now(&self, format: &Format) -> (Reading, Option<String>) {
        look(&self.path, &self.last, format)
    }

    fn fresh(&self) -> Option<(Reading, Option<String>)> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let looked = last.as_ref().filter(|looked| looked.at.elapsed() < LOOK_EVERY)?;
        Some((looked.reading.clone(), looked.warning.clone()))
    }
}

/// Checks the file's metadata, and reads the file if they have changed.
fn look(path: &Path, last: &Mutex<Option<Looked>>, format: &Format) -> (Reading, Option<String>) {
    let before = last.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let at = Instant::now();
    let metadata = std::fs::metadata(path);
    let stamp = metadata
        .as_ref()
        .ok()
        .map(|m| (m.dev(), m.ino(), m.size(), (m.mtime(), m.mtime_nsec()), (m.ctime(), m.ctime_nsec())));
    let looked = match before {
        Some(before) if stamp.is_some() && before.stamp == stamp => Looked { at, ..before },
        _ => {
            let readable = metadata.as_ref().is_ok_and(|metadata| metadata.mode() & 0o004 != 0);
            let warning = readable.then(|| format!("all users may read {}; run chmod 600 on the file", path.display()));
            Looked { at, stamp, reading: read(path, metadata, format), warning }
        }
    };
    let told = (looked.reading.clone(), looked.warning.clone());
    *last.lock().unwrap_or_else(PoisonError::into_inner) = Some(looked);
    told
}

fn read(path: &Path, metadata: std::io::Result<std::fs::Metadata>, format: &Format) -> Reading {
    let problem = |what: &str| format!("the file {} {what}", path.display());
    let Some(bytes) = content(path, metadata, MAX_FILE)? else { return Ok(None) };
    accept(bytes, format).map_err(|error| problem(&error))
}

/// The content of the file. `None` if the file does not exist. `limit` is the longest content in bytes.
///
/// # Errors
/// If the file can't be read, is not a regular file, or is too long. The error is a message with the path.
pub fn content(
    path: &Path,
    metadata: std::io::Result<std::fs::Metadata>,
    limit: u64,
) -> Result<Option<Vec<u8>>, String> {
    let problem = |what: &str| format!("the file {} {what}", path.display());
    match metadata {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(problem(&format!("cannot be read: {error}"))),
        // A read from a pipe would block.
        Ok(metadata) if !metadata.is_file() => return Err(problem("is no regular file")),
        Ok(metadata) if metadata.len() > limit => return Err(problem(&format!("is longer than {limit} bytes"))),
        Ok(_) => {}
    }
    let content = || std::fs::read(path).map_err(|error| problem(&format!("cannot be read: {error}")));
    let mut bytes = content()?;
    if bytes.is_empty() {
        std::thread::sleep(SETTLE);
        bytes = content()?;
    }
    Ok(Some(bytes))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;
    use std::os::unix::fs::PermissionsExt;

    fn told(file: &File) -> Result<Option<String>, String> {
        let (reading, _) = file.read_now(&Format::parse("{}").unwrap());
        reading.map(|value| value.map(|value| value.expose_secret().to_owned()))
    }

    #[test]
    fn a_file_is_read_again_when_it_was_changed_replaced_or_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        let file = File::new(path.clone());
        assert_eq!(told(&file), Ok(None));
        std::fs::write(&path, "one\n").unwrap();
        assert_eq!(told(&file), Ok(Some("one".into())));
        std::fs::write(&path, "two\n").unwrap();
        assert_eq!(told(&file), Ok(Some("two".into())));
        base::files::write_atomic(&path, b"six\n", 0o600).unwrap();
        assert_eq!(told(&file), Ok(Some("six".into())));
        std::fs::write(&path, "").unwrap();
        assert_eq!(told(&file), Ok(None));
        std::fs::write(&path, "a\nb").unwrap();
        assert!(told(&file).unwrap_err().contains(path.to_str().unwrap()));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(told(&file), Ok(None));
        std::fs::create_dir(&path).unwrap();
        assert!(told(&file).unwrap_err().contains("no regular file"));
    }

    #[tokio::test]
    async fn a_reading_counts_for_a_moment() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        std::fs::write(&path, "one").unwrap();
        let (file, format) = (File::new(path.clone()), Format::parse("{}").unwrap());
        file.read(&format).await.0.unwrap().unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(file.read(&format).await.0.unwrap().is_some(), "it was looked at less than a second ago");
    }

    #[test]
    fn a_file_that_everybody_may_read_is_pointed_out() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        std::fs::write(&path, "one").unwrap();
        let (file, format) = (File::new(path.clone()), Format::parse("{}").unwrap());
        for (mode, pointed_out) in [(0o600, false), (0o640, false), (0o644, true)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(file.read_now(&format).1.is_some(), pointed_out, "{mode:o}");
        }
    }
}
