//! Files that the gateway has opened or created, and that must stay at their paths while the gateway runs.
//!
//! A program that cleans up, or an operator, may move, remove or replace such a file. The gateway goes on with the file
//! that it has open, and the next start would not find it. `/readyz` and `doctor` say so.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A directory and its files, each as it was when the gateway had opened it.
#[derive(Debug)]
pub struct Kept {
    directory: File,
    files: Vec<File>,
}

#[derive(Debug)]
struct File {
    path: PathBuf,
    /// The device and the inode. `None` for a file that the gateway itself may replace.
    place: Option<(u64, u64)>,
}

impl Kept {
    /// The directory without files.
    ///
    /// # Errors
    /// If the directory does not exist.
    pub fn of(directory: &Path) -> std::io::Result<Self> {
        Ok(Self { directory: File::opened(directory.to_owned())?, files: Vec::new() })
    }

    /// Adds the file `name` of the directory, which the gateway never replaces.
    ///
    /// # Errors
    /// If the file does not exist.
    pub fn open(&mut self, name: &str) -> std::io::Result<()> {
        self.files.push(File::opened(self.directory.path.join(name))?);
        Ok(())
    }

    /// Adds the file `name` of the directory, which the gateway may replace.
    pub fn present(&mut self, name: &str) {
        self.files.push(File { path: self.directory.path.join(name), place: None });
    }

    /// The files that are gone or replaced, one line each; the directory alone if it is gone or replaced.
    pub fn problems(&self) -> Vec<String> {
        match self.directory.problem() {
            Some(problem) => vec![problem],
            None => self.files.iter().filter_map(File::problem).collect(),
        }
    }
}

impl File {
    fn opened(path: PathBuf) -> std::io::Result<Self> {
        let place = place(&path)?;
        Ok(Self { path, place: Some(place) })
    }

    fn problem(&self) -> Option<String> {
        let path = self.path.display();
        match (place(&self.path), self.place) {
            (Ok(there), Some(opened)) if there != opened => Some(format!(
                "{path} is not the one that the gateway has opened; put that one back before the next start"
            )),
            (Ok(_), _) => None,
            (Err(error), _) if error.kind() == ErrorKind::NotFound => {
                Some(format!("{path} is gone while the gateway runs; put it back before the next start"))
            }
            (Err(error), _) => Some(format!("{path}: {error}")),
        }
    }
}

fn place(path: &Path) -> std::io::Result<(u64, u64)> {
    let file = std::fs::metadata(path)?;
    Ok((file.dev(), file.ino()))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn what_is_gone_or_replaced_is_named() {
        let parent = tempfile::tempdir().unwrap();
        let [state, moved] = ["state", "moved"].map(|name| parent.path().join(name));
        let [open, present] = ["registry.redb", "ca.key"].map(|name| state.join(name));
        std::fs::create_dir(&state).unwrap();
        for path in [&open, &present] {
            std::fs::write(path, "").unwrap();
        }
        let mut kept = Kept::of(&state).unwrap();
        kept.open("registry.redb").unwrap();
        kept.present("ca.key");
        assert!(kept.open("none").is_err());
        assert!(kept.problems().is_empty());
        for path in [&present, &open] {
            let beside = state.join("beside");
            std::fs::write(&beside, "").unwrap();
            std::fs::rename(&beside, path).unwrap();
        }
        let problems = kept.problems();
        assert!(problems.len() == 1 && problems[0].contains("registry.redb is not the one"), "{problems:?}");
        std::fs::remove_file(&open).unwrap();
        std::fs::remove_file(&present).unwrap();
        let problems = kept.problems();
        assert!(problems.len() == 2 && problems.iter().all(|problem| problem.contains("is gone")), "{problems:?}");
        std::fs::rename(&state, &moved).unwrap();
        let gone = kept.problems();
        assert!(gone.len() == 1 && gone[0].contains("state is gone"), "{gone:?}");
        std::fs::create_dir(&state).unwrap();
        assert!(kept.problems()[0].contains("state is not the one"));
    }
}
