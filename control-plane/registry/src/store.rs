//! The registry on disk: a redb table of records, the version, which grows with every change, and the revision of the policy.
//!
//! Every change is one transaction, which is on disk before the call returns. A failed change changes nothing: if a
//! failed commit has reached the file all the same, it is undone before anything else is written.

use std::fmt;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use policy::Container;
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};

/// Records as JSON, by the 16 bytes of the address (IPv4 mapped into IPv6).
const CONTAINERS: TableDefinition<Key, &[u8]> = TableDefinition::new("containers");
/// The table with the registry's version, and the policy's revision.
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const VERSION: &str = "version";
const REVISION: &str = "revision";

type Key = [u8; 16];

/// An error of the store.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file is damaged, locked by another process, or the disk is full.
    #[error("the registry cannot be written or read")]
    Database(#[from] redb::Error),
    /// A record that this version of the gateway can't parse.
    #[error("the registry holds a record that cannot be read, for {address}")]
    Record {
        /// The record's address.
        address: IpAddr,
        /// The cause.
        source: serde_json::Error,
    },
    /// The process is stopping, or a task has panicked. The change may or may not be on disk.
    #[error("the change was broken off")]
    BrokenOff(#[from] tokio::task::JoinError),
}

impl Error {
    /// Whether the disk is full, or the gateway's quota is used up.
    pub fn is_full(&self) -> bool {
        match self {
            Self::Database(redb::Error::Io(error)) => {
                matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
            }
            Self::Database(_) | Self::Record { .. } | Self::BrokenOff(_) => false,
        }
    }
}

type Open = dyn Fn() -> Result<Database, DatabaseError> + Send + Sync;

/// The store.
pub struct Store {
    open: Box<Open>,
    file: Mutex<File>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}

/// The file, after the last transaction.
struct File {
    /// `None` if a change has failed and the file could not be reopened since.
    database: Option<Database>,
    /// The change whose commit failed, if it may have to be undone.
    doubt: Option<Doubt>,
}

/// A change that may or may not be on disk.
struct Doubt {
    /// The version of the change.
    version: u64,
    key: Key,
    /// The record before the change.
    before: Option<Vec<u8>>,
}

fn key(address: IpAddr) -> Key {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

impl Store {
    /// Opens or creates the file.
    ///
    /// # Errors
    /// If the file can't be opened, see [`Error`].
    pub fn open(path: &Path) -> Result<Self, Error> {
        let path = path.to_owned();
        Self::with(move || Database::create(&path))
    }

    fn with(open: impl Fn() -> Result<Database, DatabaseError> + Send + Sync + 'static) -> Result<Self, Error> {
        let database = make(&open)?;
        let file = File { database: Some(database), doubt: None };
        Ok(Self { open: Box::new(open), file: Mutex::new(file) })
    }

    /// Reads the version and all records.
    ///
    /// # Errors
    /// If the file or a record can't be read, see [`Error`].
    pub fn load(&self) -> Result<(u64, Vec<Container>), Error> {
        let mut records = Vec::new();
        let (version, stored) = all(self.file().ready(&self.open)?)?;
        for (key, record) in stored {
            let address = IpAddr::from(key).to_canonical();
            records.push(serde_json::from_slice(&record).map_err(|source| Error::Record { address, source })?);
        }
        Ok((version, records))
    }

    /// Writes one record and the new version.
    ///
    /// # Errors
    /// If the change fails, see [`Error`]. Nothing is changed then.
    pub fn put(&self, version: u64, record: &Container) -> Result<(), Error> {
        let address = record.container_ip;
        let bytes = serde_json::to_vec(record).map_err(|source| Error::Record { address, source })?;
        self.change(version, key(address), Some(&bytes))
    }

    /// Removes one record and writes the new version.
    ///
    /// # Errors
    /// If the change fails, see [`Error`]. Nothing is changed then.
    pub fn remove(&self, version: u64, address: IpAddr) -> Result<(), Error> {
        self.change(version, key(address), None)
    }

    /// A revision for a policy: higher than every earlier one, and at least `least`.
    ///
    /// # Errors
    /// If it can't be written, see [`Error`].
    pub fn next_revision(&self, least: u64) -> Result<u64, Error> {
        self.write(|file, open| file.revise(open, least))
    }

    fn change(&self, version: u64, key: Key, record: Option<&[u8]>) -> Result<(), Error> {
        self.write(|file, open| file.change(open, version, key, record))
    }

    fn write<T>(&self, write: impl FnOnce(&mut File, &Open) -> Result<T, redb::Error>) -> Result<T, Error> {
        let mut file = self.file();
        let written = write(&mut file, &self.open);
        if written.is_err() {
            // After an I/O error redb refuses every call until the file is reopened (`StorageError::PreviousIo`). The
            // file is reopened at once, so that no other gateway locks it meanwhile.
            file.database = None;
            if let Err(error) = file.ready(&self.open) {
                tracing::warn!(%error, "the registry's file cannot be opened again yet");
            }
        }
        Ok(written?)
    }

    fn file(&self) -> MutexGuard<'_, File> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl File {
    /// The open database, after a failed change was undone.
    fn ready(&mut self, open: &Open) -> Result<&Database, redb::Error> {
        let database = match self.database.take() {
            Some(database) => database,
            None => open()?,
        };
        if let Some(doubt) = &self.doubt {
            if version(&database)? == doubt.version {
                let transaction = database.begin_write()?;
                replace(&transaction, doubt.key, doubt.before.as_deref())?;
                transaction.commit()?;
            }
            self.doubt = None;
        }
        Ok(self.database.insert(database))
    }

    /// Stores `record` at `key`, or removes the record there, in one transaction.
    fn change(&mut self, open: &Open, version: u64, key: Key, record: Option<&[u8]>) -> Result<(), redb::Error> {
        let transaction = self.ready(open)?.begin_write()?;
        let before = replace(&transaction, key, record)?;
        transaction.open_table(META)?.insert(VERSION, version)?;
        self.doubt = Some(Doubt { version, key, before });
        transaction.commit()?;
        self.doubt = None;
        Ok(())
    }

    /// Stores and returns the next revision, in one transaction.
    fn revise(&mut self, open: &Open, least: u64) -> Result<u64, redb::Error> {
        let transaction = self.ready(open)?.begin_write()?;
        let revision = {
            let mut meta = transaction.open_table(META)?;
            let before = meta.get(REVISION)?.map_or(0, |revision| revision.value());
            let revision = before.saturating_add(1).max(least);
            meta.insert(REVISION, revision)?;
            revision
        };
        transaction.commit()?;
        Ok(revision)
    }
}

/// Opens or creates the file with its tables.
fn make(open: &Open) -> Result<Database, redb::Error> {
    let database = open()?;
    let transaction = database.begin_write()?;
    transaction.open_table(CONTAINERS)?;
    transaction.open_table(META)?;
    transaction.commit()?;
    Ok(database)
}

fn version(database: &Database) -> Result<u64, redb::Error> {
    let version = database.begin_read()?.open_table(META)?.get(VERSION)?;
    Ok(version.map_or(0, |version| version.value()))
}

/// A stored record.
type Stored = (Key, Vec<u8>);

fn all(database: &Database) -> Result<(u64, Vec<Stored>), redb::Error> {
    let mut records = Vec::new();
    for entry in database.begin_read()?.open_table(CONTAINERS)?.iter()? {
        let (key, record) = entry?;
        records.push((key.value(), record.value().to_vec()));
    }
    Ok((version(database)?, records))
}

/// Stores `record` at `key`, or removes the record there. Returns the record before the change.
fn replace(transaction: &WriteTransaction, key: Key, record: Option<&[u8]>) -> Result<Option<Vec<u8>>, redb::Error> {
    let mut table = transaction.open_table(CONTAINERS)?;
    let before = match record {
        Some(record) => table.insert(key, record)?,
        None => table.remove(key)?,
    };
    Ok(before.map(|before| before.value().to_vec()))
}

/// A store on a disk that a test can make fail.
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
pub(super) mod failing {
    use std::io;
    use std::ops::Bound;
    use std::sync::Arc;

    use redb::backends::FileBackend;
    use redb::{BackendError, StorageBackend};

    use super::*;

    /// The operations that fail.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Refuses {
        Nothing,
        /// Every write.
        Writes(ErrorKind),
        /// The next write.
        OneWrite(ErrorKind),
        /// Every sync, although the data is on disk.
        Syncs(ErrorKind),
    }

    /// The switch of one disk.
    #[derive(Clone, Debug)]
    pub struct Disk(Arc<Mutex<Refuses>>);

    #[derive(Debug)]
    struct Backend {
        file: FileBackend,
        disk: Disk,
    }

    impl Disk {
        /// A store at `path`, and the disk it is on.
        pub fn store(path: &Path) -> (Store, Self) {
            let disk = Self(Arc::new(Mutex::new(Refuses::Nothing)));
            let (place, backend) = (path.to_owned(), disk.clone());
            let open = move || {
                let mut options = std::fs::OpenOptions::new();
                let file = options.read(true).write(true).create(true).truncate(false).open(&place)?;
                let backend = Backend { file: FileBackend::new(file)?, disk: backend.clone() };
                Database::builder().create_with_backend(backend)
            };
            (Store::with(open).unwrap(), disk)
        }

        pub fn refuse(&self, refuses: Refuses) {
            *self.0.lock().unwrap() = refuses;
        }

        fn refuses(&self) -> Refuses {
            *self.0.lock().unwrap()
        }
    }

    impl StorageBackend for Backend {
        fn len(&self) -> io::Result<u64> {
            self.file.len()
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            self.file.read(offset, out)
        }

        fn set_len(&self, len: u64) -> io::Result<()> {
            self.file.set_len(len)
        }

        fn sync_data(&self) -> io::Result<()> {
            self.file.sync_data()?;
            match self.disk.refuses() {
                Refuses::Syncs(kind) => Err(kind.into()),
                Refuses::Nothing | Refuses::Writes(_) | Refuses::OneWrite(_) => Ok(()),
            }
        }

        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            match self.disk.refuses() {
                Refuses::Writes(kind) => Err(kind.into()),
                Refuses::OneWrite(kind) => {
                    self.disk.refuse(Refuses::Nothing);
                    Err(kind.into())
                }
                Refuses::Nothing | Refuses::Syncs(_) => self.file.write(offset, data),
            }
        }

        fn close(&self) -> io::Result<()> {
            self.file.close()
        }

        fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
            self.file.try_lock_range(start, end)
        }

        fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
            self.file.try_lock_shared_range(start, end)
        }

        fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
            self.file.lock_range(start, end)
        }

        fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
            self.file.lock_shared_range(start, end)
        }

        fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
            self.file.unlock_range(start, end)
        }

        fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
            self.file.query_lock_range(start, end)
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::failing::{Disk, Refuses};
    use super::*;

    fn record(address: &str, id: &str) -> Container {
        serde_json::from_value(serde_json::json!({
            "container_ip": address, "container_id": id, "repos": [], "expires_at": "2100-01-01T00:00:00Z"
        }))
        .unwrap()
    }

    fn ids(store: &Store) -> Vec<String> {
        store.load().unwrap().1.into_iter().map(|record| record.container_id).collect()
    }

    #[test]
    fn a_failed_change_has_changed_nothing_and_the_next_one_succeeds() {
        let full = ErrorKind::StorageFull;
        for refuses in [Refuses::Writes(full), Refuses::Syncs(full), Refuses::Syncs(ErrorKind::Other)] {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("registry.redb");
            let (store, disk) = Disk::store(&path);
            store.put(1, &record("10.0.0.1", "first")).unwrap();
            disk.refuse(refuses);
            for _ in 0..2 {
                let error = store.put(2, &record("10.0.0.1", "second")).unwrap_err();
                assert_eq!(error.is_full(), !matches!(refuses, Refuses::Syncs(ErrorKind::Other)), "{error:?}");
            }
            store.put(2, &record("10.0.0.2", "other")).unwrap_err();
            disk.refuse(Refuses::Nothing);
            assert_eq!(ids(&store), ["first"], "{refuses:?}");
            store.put(2, &record("10.0.0.3", "third")).unwrap();
            disk.refuse(refuses);
            store.remove(3, "10.0.0.1".parse().unwrap()).unwrap_err();
            disk.refuse(Refuses::Nothing);
            drop(store);
            // A commit that has only failed to say so is in the file; without this process nobody can know better.
            let store = Store::open(&path).unwrap();
            assert!(ids(&store).contains(&"third".to_owned()), "{refuses:?}");
        }
    }

    #[test]
    fn nobody_else_gets_the_file_when_a_change_has_failed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("registry.redb");
        let (store, disk) = Disk::store(&path);
        disk.refuse(Refuses::OneWrite(ErrorKind::Other));
        store.put(1, &record("10.0.0.1", "a")).unwrap_err();
        assert!(Store::open(&path).is_err());
        assert!(store.load().unwrap().1.is_empty());
    }
}
