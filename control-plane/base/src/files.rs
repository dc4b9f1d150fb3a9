//! Atomic writes: a file is written completely or not at all.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Seek, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Writes `bytes` to `path` through a temporary file in the same directory: fsync, rename, fsync of the directory. The
/// file gets the mode `mode`, whatever the umask is.
///
/// # Errors
/// If the file system fails. `path` is unchanged then.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    Reserved::beside(path, 0, mode)?.fill(bytes)
}

/// A temporary file next to the file that it will replace, with all its space allocated on disk.
#[derive(Debug)]
pub struct Reserved {
    file: File,
    temporary: PathBuf,
    path: PathBuf,
}

impl Reserved {
    /// Reserves space for `size` bytes to replace `path`, which stays unchanged for now.
    ///
    /// # Errors
    /// If the file system fails.
    pub fn beside(path: &Path, size: usize, mode: u32) -> io::Result<Self> {
        let directory = path.parent().ok_or_else(|| io::Error::other("the path has no directory"))?;
        let mut name = path.file_name().ok_or_else(|| io::Error::other("the path has no file name"))?.to_owned();
        name.push(format!(".{}.tmp", std::process::id()));
        let temporary = directory.join(name);
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
        let mut reserved = Self { file, temporary, path: path.to_owned() };
        reserved.file.set_permissions(Permissions::from_mode(mode))?;
        if size > 0 {
            // The bytes are written, because a hole takes no space.
            reserved.file.write_all(&vec![b' '; size])?;
            reserved.file.sync_all()?;
            reserved.file.rewind()?;
        }
        Ok(reserved)
    }

    /// Replaces the file with `bytes`.
    ///
    /// # Errors
    /// If the file system fails. The file is unchanged then.
    pub fn fill(mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.file.set_len(bytes.len() as u64)?;
        self.file.sync_all()?;
        std::fs::rename(&self.temporary, &self.path)?;
        File::open(self.path.parent().unwrap_or(Path::new(".")))?.sync_all()
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        // After a successful rename the temporary file is gone. If removing it fails, nothing more can be done.
        drop(std::fs::remove_file(&self.temporary));
    }
}

/// Sets the mode of the file at `path`, if it has another.
///
/// # Errors
/// If the file system fails.
pub fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    let has = std::fs::metadata(path)?.permissions().mode() & 0o7777;
    if has == mode { Ok(()) } else { std::fs::set_permissions(path, Permissions::from_mode(mode)) }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_replaced_whole_and_nothing_is_left_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        write_atomic(&path, b"one", 0o600).unwrap();
        write_atomic(&path, b"two", 0o600).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_reserved_is_filled_whatever_its_size_and_leaves_nothing_where_it_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        for content in ["", "short", "longer than what was reserved"] {
            Reserved::beside(&path, 8, 0o600).unwrap().fill(content.as_bytes()).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), content);
        }
        drop(Reserved::beside(&path, 8, 0o600).unwrap());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failure_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("taken")).unwrap();
        assert!(write_atomic(&directory.path().join("taken"), b"x", 0o600).is_err());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
