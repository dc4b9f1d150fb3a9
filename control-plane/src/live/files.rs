//! Waits for changes of files that are complete. A file that a program still writes is half of a file, and half of a
//! policy can allow more than the whole.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

/// The pause between a change and its report: an editor replaces a file in more than one step.
const SETTLE: Duration = Duration::from_millis(25);

/// How long a program may keep a file open for writing. After that the change is reported although the file is open.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a file has to be unchanged before its [`Stamp`] tells it from a later one: file systems count time in steps of
/// up to a second.
const STEP: Duration = Duration::from_secs(2);

/// The content of a file, as its metadata tell it: device, inode, size, and the times of the last change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    place: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let file = std::fs::metadata(path).ok()?;
        Some(Self {
            place: (file.dev(), file.ino()),
            size: file.len(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        })
    }

    /// Whether the last change is longer ago than `step`.
    fn is_older(&self, step: Duration) -> bool {
        let (seconds, nanoseconds) = self.changed;
        let (seconds, nanoseconds) = (u64::try_from(seconds).unwrap_or(0), u32::try_from(nanoseconds).unwrap_or(0));
        let changed = SystemTime::UNIX_EPOCH + Duration::new(seconds, nanoseconds);
        changed.elapsed().is_ok_and(|since| since > step)
    }
}

/// The files that were read last. Most events are about other files of the directories: a log, an editor's copy.
#[derive(Debug)]
pub struct Seen {
    stamps: Vec<Option<Stamp>>,
    step: Duration,
}

impl Default for Seen {
    fn default() -> Self {
        Self { stamps: Vec::new(), step: STEP }
    }
}

impl Seen {
    /// Whether `paths` are as they were at the last call. An absent file can have appeared, so the paths are looked at, and
    /// links are followed.
    pub fn again<'a>(&mut self, paths: impl IntoIterator<Item = &'a Path>) -> bool {
        let now: Vec<_> = paths.into_iter().map(Stamp::of).collect();
        let same = self.stamps == now;
        let reliable = now.iter().flatten().all(|stamp| stamp.is_older(self.step));
        self.stamps = if reliable { now } else { Vec::new() };
        same
    }

    /// The files could not be read, and are read again with the next event.
    pub fn forget(&mut self) {
        self.stamps.clear();
    }
}

/// The names of the files that a program has begun to write and not closed, and the time of the first write.
#[derive(Debug, Default)]
struct Unfinished(Mutex<BTreeMap<OsString, Instant>>);

impl Unfinished {
    /// Notes what `event` says about the files `names`.
    fn note(&self, event: &Event, names: &[OsString]) {
        let mut unfinished = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for name in
            event.paths.iter().filter_map(|path| path.file_name()).filter(|name| names.iter().any(|n| n == name))
        {
            match event.kind {
                // Linux reports an open with O_TRUNC as a modification (inotify(7), IN_MODIFY).
                EventKind::Modify(ModifyKind::Data(_)) => {
                    unfinished.entry(name.to_owned()).or_insert_with(Instant::now);
                }
                EventKind::Access(AccessKind::Close(AccessMode::Write))
                | EventKind::Modify(ModifyKind::Name(_))
                | EventKind::Remove(_) => {
                    unfinished.remove(name);
                }
                _ => {}
            }
        }
    }

    /// The time of the latest first write.
    fn since(&self) -> Option<Instant> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().max().copied()
    }
}

/// Whether the event only reports that a file was opened or read. This program causes such events when it reads a file.
fn only_looked_at(event: &Event) -> bool {
    event.kind.is_access() && event.kind != EventKind::Access(AccessKind::Close(AccessMode::Write))
}

/// Watches directories until it is dropped.
#[derive(Debug)]
pub struct Changes {
    touched: mpsc::Receiver<()>,
    unfinished: Arc<Unfinished>,
    /// The time of the first event that is not reported yet.
    since: Option<Instant>,
    _watcher: RecommendedWatcher,
}

impl Changes {
    /// Watches `directories`. Only the files with `names` are waited for while a program writes them.
    ///
    /// # Errors
    /// If a directory cannot be watched.
    pub fn watch<'a>(
        directories: impl IntoIterator<Item = &'a Path>,
        names: impl IntoIterator<Item = &'a OsStr>,
    ) -> anyhow::Result<Self> {
        // A capacity of 1 is enough: a message only says that a file has changed, not which.
        let (touch, touched) = mpsc::channel(1);
        let unfinished = Arc::new(Unfinished::default());
        let names: Vec<OsString> = names.into_iter().map(OsStr::to_owned).collect();
        let noted = Arc::clone(&unfinished);
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            if let Ok(event) = &event {
                if only_looked_at(event) {
                    return;
                }
                noted.note(event, &names);
            }
            // If the channel is full, a change is pending already.
            let _full = touch.try_send(());
        })?;
        // Directories are watched, because files are replaced and not rewritten.
        for directory in directories {
            watcher
                .watch(directory, RecursiveMode::NonRecursive)
                .with_context(|| format!("cannot watch {}", directory.display()))?;
        }
        Ok(Self { touched, unfinished, since: None, _watcher: watcher })
    }

    /// Waits for the next change, and until the changed files are closed. `None` if the watcher has ended. A caller that
    /// drops the future early loses no change.
    pub async fn next(&mut self) -> Option<()> {
        if self.since.is_none() {
            self.touched.recv().await?;
            self.since = Some(Instant::now());
        }
        while let Some(since) = self.since {
            let passed = since.elapsed();
            let pause = if self.is_unfinished() { PATIENCE } else { SETTLE };
            if passed >= pause {
                while self.touched.try_recv().is_ok() {}
                self.since = None;
            } else if let Ok(None) = timeout_at(since + pause, self.touched.recv()).await {
                return None;
            }
        }
        Some(())
    }

    /// Whether a program writes one of the files at this moment. A file that stays open for [`PATIENCE`] counts as written.
    pub fn is_unfinished(&self) -> bool {
        self.unfinished.since().is_some_and(|since| since.elapsed() < PATIENCE)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::io::Write;

    fn watched() -> (tempfile::TempDir, std::path::PathBuf, Changes) {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("policy.yaml");
        fs::write(&file, "whole").unwrap();
        let changes = Changes::watch([directory.path()], [OsStr::new("policy.yaml")]).unwrap();
        (directory, file, changes)
    }

    async fn reported(changes: &mut Changes) -> bool {
        tokio::time::timeout(20 * SETTLE, changes.next()).await.is_ok()
    }

    #[tokio::test]
    async fn a_change_is_reported_when_its_file_is_closed() {
        let (_directory, file, mut changes) = watched();
        let mut open = File::create(&file).unwrap();
        assert!(!reported(&mut changes).await, "the file is truncated");
        open.write_all(b"half").unwrap();
        assert!(!reported(&mut changes).await, "half of the file is written");
        drop(open);
        assert!(reported(&mut changes).await, "the file is closed");
    }

    #[tokio::test]
    async fn a_file_that_is_replaced_or_removed_is_waited_for_no_longer() {
        let (directory, file, mut changes) = watched();
        let mut open = File::create(&file).unwrap();
        open.write_all(b"half").unwrap();
        let beside = directory.path().join("policy.yaml.new");
        fs::write(&beside, "whole").unwrap();
        fs::rename(&beside, &file).unwrap();
        assert!(reported(&mut changes).await, "another file has its name");
        fs::remove_file(&file).unwrap();
        assert!(reported(&mut changes).await, "the file is removed");
        drop(open);
    }

    #[test]
    fn a_file_is_read_again_only_if_it_may_have_changed() {
        let directory = tempfile::tempdir().unwrap();
        let [file, link] = ["policy.yaml", "link"].map(|name| directory.path().join(name));
        fs::write(&file, "one").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let step = Duration::from_secs(1);
        let mut seen = Seen { step, ..Seen::default() };
        let mut again = || seen.again([link.as_path(), Path::new("/nonexistent")]);
        assert!(!again(), "never read");
        assert!(!again(), "a change just now may have the same stamp");
        std::thread::sleep(2 * step);
        assert!(!again(), "the last stamp was too young");
        assert!(again() && again());
        fs::write(&file, "two").unwrap();
        assert!(!again(), "another text of the same size, behind a link");
        std::thread::sleep(2 * step);
        again();
        fs::remove_file(&file).unwrap();
        assert!(!again(), "removed");
        assert!(again());
    }

    #[tokio::test]
    async fn another_file_of_the_directory_is_not_waited_for() {
        let (directory, _file, mut changes) = watched();
        let mut log = File::create(directory.path().join("log")).unwrap();
        log.write_all(b"line").unwrap();
        assert!(reported(&mut changes).await);
    }

    #[tokio::test]
    async fn a_file_that_stays_open_is_reported_in_the_end() {
        let (_directory, file, mut changes) = watched();
        let _open = File::create(&file).unwrap();
        assert!(!reported(&mut changes).await);
        assert!(changes.is_unfinished());
        // The event is here; from now on time passes at once.
        tokio::time::pause();
        let begun = Instant::now();
        assert_eq!(changes.next().await, Some(()));
        assert!(begun.elapsed() > PATIENCE / 2 && begun.elapsed() <= PATIENCE, "{:?}", begun.elapsed());
        assert!(!changes.is_unfinished());
    }
}
