//! The audit's files and the one thread that writes them. The current file is `audit.jsonl`. Older files are
//! `audit.1.jsonl` and so on. A higher number is older.
//!
//! **Invariant:** the file holds whole lines only. A line that a kill or a full disk cut short is removed.
//!
//! Another program may move or remove the file, as log rotation does, or truncate it. Before each write the thread compares
//! the open file with the one at the path, and opens a new file if they differ. No signal is needed.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};

use base::problems::Problems;
use base::telemetry;

/// The number of lines in the queue for the disk. Further lines are dropped. Together with Envoy's own buffers, the
/// queue lasts some seconds at full load.
pub const QUEUE: usize = 16_384;

/// The most lines of one write call.
const BATCH: usize = 512;

/// The bytes of one read when the last line feed of the file is searched.
const CHUNK: u64 = 64 << 10;

/// The size and the number of the files.
#[derive(Clone, Copy, Debug)]
pub struct Rotation {
    /// The largest size of a file in bytes. Only a single line that is longer exceeds it.
    pub size: u64,
    /// The number of files, including the current one.
    pub files: u32,
}

impl Default for Rotation {
    /// 256 MiB in all: some 500,000 requests.
    fn default() -> Self {
        Self { size: 64 << 20, files: 4 }
    }
}

/// A message to the thread.
#[derive(Debug)]
pub enum Job {
    /// Writes a line, which has no line feed.
    Line(Arc<str>),
    /// Replies when all earlier lines are written.
    Flush(SyncSender<()>),
}

/// The open file.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    file: File,
    size: u64,
    rotation: Rotation,
    problems: Problems,
    failing: bool,
}

impl Writer {
    /// Opens `audit.jsonl` in `directory`.
    ///
    /// # Errors
    /// If the file can't be opened.
    pub fn open(directory: &Path, rotation: Rotation, problems: Problems) -> io::Result<Self> {
        let path = directory.join("audit.jsonl");
        let mut file = open(&path)?;
        let size = whole(&mut file)?;
        Ok(Self { path, file, size, rotation, problems, failing: false })
    }

    /// The whole lines in the last `bytes` bytes of the file, the oldest first.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn tail(&mut self, bytes: u64) -> io::Result<Vec<String>> {
        let from = self.size.saturating_sub(bytes);
        self.file.seek(SeekFrom::Start(from))?;
        let mut text = Vec::new();
        (&self.file).take(bytes).read_to_end(&mut text)?;
        let text = String::from_utf8_lossy(&text);
        // The first line may begin before `from`.
        let cut = usize::from(from > 0);
        Ok(text.lines().skip(cut).map(str::to_owned).collect())
    }

    /// Writes until all senders are dropped.
    pub fn run(mut self, jobs: &Receiver<Job>) {
        let mut bytes = Vec::new();
        while let Ok(first) = jobs.recv() {
            let (mut lines, mut waiting) = (0, Vec::new());
            for job in std::iter::once(first).chain(jobs.try_iter()).take(BATCH) {
                match job {
                    Job::Line(line) => {
                        bytes.extend_from_slice(line.as_bytes());
                        bytes.push(b'\n');
                        lines += 1;
                    }
                    Job::Flush(done) => waiting.push(done),
                }
            }
            self.write(&bytes, lines);
            bytes.clear();
            for done in waiting {
                // The receiver may have timed out.
                let _gone = done.send(());
            }
        }
    }

    fn write(&mut self, bytes: &[u8], lines: u64) {
        if bytes.is_empty() {
            return;
        }
        let in_place = match self.follow() {
            Ok(()) => true,
            Err(error) => {
                self.lost(lines, &error, "cannot be opened anew, and lines go to the file that was there before");
                false
            }
        };
        if in_place
            && self.size > 0
            && self.size + bytes.len() as u64 > self.rotation.size
            && let Err(error) = self.rotate()
        {
            tracing::error!(%error, "the audit's file cannot be rotated and keeps growing");
        }
        match self.file.write_all(bytes) {
            Ok(()) => {
                self.size += bytes.len() as u64;
                if self.failing && in_place {
                    tracing::warn!("the audit can be written again");
                    self.problems.set("audit", None);
                    self.failing = false;
                }
            }
            Err(error) => {
                self.lost(lines, &error, "cannot be written");
                // A partial line would make the next line unreadable too.
                if let Err(error) = self.file.set_len(self.size) {
                    tracing::error!(%error, "a partial audit line cannot be removed");
                }
            }
        }
    }

    /// Counts and reports lines that are not on disk.
    fn lost(&mut self, lines: u64, error: &io::Error, why: &'static str) {
        telemetry::audit_lost(telemetry::Lost::Disk, lines);
        if !self.failing {
            let path = self.path.display();
            tracing::error!(%error, %path, why, "audit lines are lost");
            self.problems.set("audit", Some(format!("lines are lost: {path} {why}: {error}")));
            self.failing = true;
        }
    }

    /// Opens the file at the path, if it is not the open file any more.
    ///
    /// # Errors
    /// If the file can't be opened. The file before stays open: perhaps it has only been moved.
    fn follow(&mut self) -> io::Result<()> {
        let open_file = self.file.metadata()?;
        let place = |file: &Metadata| (file.dev(), file.ino());
        let path = self.path.display();
        match std::fs::metadata(&self.path) {
            Ok(there) if place(&there) == place(&open_file) && there.len() >= self.size => {}
            Ok(there) if place(&there) == place(&open_file) => {
                tracing::warn!(%path, bytes = self.size - there.len(), "another program has cut the audit's file short");
                self.size = whole(&mut self.file)?;
            }
            Ok(_) | Err(_) => {
                let mut file = open(&self.path)?;
                self.size = whole(&mut file)?;
                self.file = file;
                telemetry::audit_reopened();
                tracing::warn!(%path, "another program has moved or removed the audit's file; lines go to a new one");
            }
        }
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let numbered = |number: u32| self.path.with_file_name(format!("audit.{number}.jsonl"));
        for number in (1..self.rotation.files.saturating_sub(1)).rev() {
            match std::fs::rename(numbered(number), numbered(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        match self.rotation.files {
            0 | 1 => std::fs::remove_file(&self.path)?,
            _ => std::fs::rename(&self.path, numbered(1))?,
        }
        self.file = open(&self.path)?;
        self.size = 0;
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)
}

/// Truncates the file after its last line feed. Returns the new size.
fn whole(file: &mut File) -> io::Result<u64> {
    let size = file.metadata()?.len();
    let mut end = size;
    while end > 0 {
        let from = end.saturating_sub(CHUNK);
        let mut chunk = Vec::new();
        file.seek(SeekFrom::Start(from))?;
        (&*file).take(end - from).read_to_end(&mut chunk)?;
        if let Some(at) = chunk.iter().rposition(|byte| *byte == b'\n') {
            end = from + at as u64 + 1;
            break;
        }
        end = from;
    }
    if end < size {
        tracing::warn!(bytes = size - end, "the audit ended in a partial line, which is removed");
        file.set_len(end)?;
    }
    Ok(end)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use std::sync::mpsc;

    const SMALL: Rotation = Rotation { size: 100, files: 3 };

    /// Writes each line in a batch of its own.
    fn write(directory: &Path, lines: impl Iterator<Item = String>) {
        let mut writer = Writer::open(directory, SMALL, Problems::default()).unwrap();
        lines.for_each(|line| writer.write(format!("{line}\n").as_bytes(), 1));
    }

    fn read(directory: &Path, name: &str) -> String {
        std::fs::read_to_string(directory.join(name)).unwrap_or_default()
    }

    #[test]
    fn no_file_grows_past_the_size_and_the_oldest_goes() {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path(), (0..40).map(|number| format!("line {number:04}")));
        let names: Vec<_> = std::fs::read_dir(directory.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names.len(), 3, "{names:?}");
        for name in names {
            assert!(std::fs::metadata(directory.path().join(&name)).unwrap().len() <= SMALL.size, "{name:?}");
        }
        let all = ["audit.2.jsonl", "audit.1.jsonl", "audit.jsonl"].map(|name| read(directory.path(), name)).concat();
        let numbers: Vec<_> = all.lines().map(|line| line[5..].parse::<u32>().unwrap()).collect();
        assert_eq!(numbers, (10..40).collect::<Vec<_>>());
    }

    #[test]
    fn half_a_line_at_the_end_is_taken_off() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.jsonl");
        for (before, after) in
            [("", ""), ("a\n", "a\n"), ("a\nhal", "a\n"), ("hal", ""), (&"x".repeat(200_000), ""), ("\n", "\n")]
        {
            std::fs::write(&path, before).unwrap();
            write(directory.path(), std::iter::empty());
            assert_eq!(read(directory.path(), "audit.jsonl"), after);
        }
        std::fs::write(&path, format!("a\n{}", "x".repeat(200_000))).unwrap();
        write(directory.path(), ["b".to_owned()].into_iter());
        assert_eq!(read(directory.path(), "audit.jsonl"), "a\nb\n");
    }

    #[test]
    fn the_tail_is_whole_lines() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("audit.jsonl"), "one\ntwo\nthree\n").unwrap();
        let mut writer = Writer::open(directory.path(), SMALL, Problems::default()).unwrap();
        assert_eq!(writer.tail(9).unwrap(), ["three"], "`wo` is no line");
        assert_eq!(writer.tail(1_000).unwrap(), ["one", "two", "three"]);
    }

    #[test]
    fn a_flush_is_answered_when_all_before_it_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let writer = Writer::open(directory.path(), Rotation::default(), Problems::default()).unwrap();
        let (jobs, receiver) = mpsc::sync_channel(QUEUE);
        let thread = std::thread::spawn(move || writer.run(&receiver));
        for number in 0..2_000 {
            jobs.send(Job::Line(format!("{number}").into())).unwrap();
        }
        let (done, flushed) = mpsc::sync_channel(1);
        jobs.send(Job::Flush(done)).unwrap();
        flushed.recv().unwrap();
        assert_eq!(read(directory.path(), "audit.jsonl").lines().count(), 2_000);
        drop(jobs);
        thread.join().unwrap();
    }

    #[test]
    fn a_file_that_was_moved_removed_or_cut_is_followed_by_a_new_one() {
        let directory = tempfile::tempdir().unwrap();
        let (path, moved) = (directory.path().join("audit.jsonl"), directory.path().join("audit.moved"));
        let problems = Problems::default();
        let mut writer = Writer::open(directory.path(), SMALL, problems.clone()).unwrap();
        writer.write(b"one\n", 1);
        std::fs::rename(&path, &moved).unwrap();
        writer.write(b"two\n", 1);
        assert_eq!(
            (read(directory.path(), "audit.moved"), read(directory.path(), "audit.jsonl")),
            ("one\n".into(), "two\n".into())
        );
        std::fs::remove_file(&path).unwrap();
        writer.write(b"three\n", 1);
        assert_eq!(read(directory.path(), "audit.jsonl"), "three\n");
        // Another program has begun the new file, with half a line.
        std::fs::rename(&path, &moved).unwrap();
        std::fs::write(&path, "begun\nhal").unwrap();
        writer.write(b"four\n", 1);
        assert_eq!(read(directory.path(), "audit.jsonl"), "begun\nfour\n");
        // `copytruncate` of logrotate. The next failed write must not lengthen the file.
        std::fs::write(&path, "").unwrap();
        writer.write(b"five\n", 1);
        assert_eq!((read(directory.path(), "audit.jsonl").as_str(), writer.size), ("five\n", 5));
        assert!(problems.list().is_empty());
    }

    #[test]
    fn without_its_directory_lines_are_lost_and_told_until_it_is_back() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("state");
        std::fs::create_dir(&state).unwrap();
        let problems = Problems::default();
        let mut writer = Writer::open(&state, Rotation::default(), problems.clone()).unwrap();
        std::fs::remove_dir_all(&state).unwrap();
        writer.write(b"lost\n", 1);
        let told = problems.list();
        assert!(told.len() == 1 && told[0].contains("audit.jsonl cannot be opened anew"), "{told:?}");
        std::fs::create_dir(&state).unwrap();
        writer.write(b"kept\n", 1);
        assert!(problems.list().is_empty());
        assert_eq!(read(&state, "audit.jsonl"), "kept\n");
    }

    #[test]
    fn a_disk_that_refuses_is_a_problem_until_it_takes_lines_again() {
        let directory = tempfile::tempdir().unwrap();
        let problems = Problems::default();
        let mut writer = Writer::open(directory.path(), Rotation::default(), problems.clone()).unwrap();
        let read_only = File::open(directory.path().join("audit.jsonl")).unwrap();
        let good = std::mem::replace(&mut writer.file, read_only);
        writer.write(b"lost\n", 1);
        assert_eq!(problems.list().len(), 1);
        writer.file = good;
        writer.write(b"kept\n", 1);
        assert!(problems.list().is_empty());
        assert_eq!(read(directory.path(), "audit.jsonl"), "kept\n");
    }
}
