//! The registry on disk: one redb table of records, and the version that grows with every change.
//!
//! Every call is one transaction that is on disk before it returns.

use std::net::IpAddr;
use std::path::Path;

use policy::Container;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

/// Records as JSON, by the 16 bytes of the address (IPv4 mapped into IPv6).
const CONTAINERS: TableDefinition<[u8; 16], &[u8]> = TableDefinition::new("containers");
/// The one number that is not derived from the records.
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const VERSION: &str = "version";

/// The store refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file is damaged, locked by another process, or the disk is full.
    #[error("the registry cannot be written or read")]
    Database(#[from] redb::Error),
    /// A record that this version cannot read.
    #[error("the registry holds a record that cannot be read, for {address}")]
    Record {
        /// Whose.
        address: IpAddr,
        /// Why.
        source: serde_json::Error,
    },
}

/// The store.
#[derive(Debug)]
pub struct Store {
    database: Database,
}

fn key(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

fn database<E: Into<redb::Error>>(error: E) -> Error {
    Error::Database(error.into())
}

impl Store {
    /// Opens or makes the file.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn open(path: &Path) -> Result<Self, Error> {
        let store = Self { database: Database::create(path).map_err(database)? };
        let transaction = store.database.begin_write().map_err(database)?;
        transaction.open_table(CONTAINERS).map_err(database)?;
        transaction.open_table(META).map_err(database)?;
        transaction.commit().map_err(database)?;
        Ok(store)
    }

    /// Everything: the version and all records.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn load(&self) -> Result<(u64, Vec<Container>), Error> {
        let transaction = self.database.begin_read().map_err(database)?;
        let version = transaction
            .open_table(META)
            .map_err(database)?
            .get(VERSION)
            .map_err(database)?
            .map_or(0, |version| version.value());
        let mut records = Vec::new();
        for entry in transaction.open_table(CONTAINERS).map_err(database)?.iter().map_err(database)? {
            let (key, record) = entry.map_err(database)?;
            let address = IpAddr::from(key.value()).to_canonical();
            let record = serde_json::from_slice(record.value()).map_err(|source| Error::Record { address, source })?;
            records.push(record);
        }
        Ok((version, records))
    }

    /// Writes one record and the version it makes.
    ///
    /// # Errors
    /// See [`Error`]; nothing is changed then.
    pub fn put(&self, version: u64, record: &Container) -> Result<(), Error> {
        let bytes =
            serde_json::to_vec(record).map_err(|source| Error::Record { address: record.container_ip, source })?;
        let transaction = self.database.begin_write().map_err(database)?;
        transaction
            .open_table(CONTAINERS)
            .map_err(database)?
            .insert(key(record.container_ip), bytes.as_slice())
            .map_err(database)?;
        transaction.open_table(META).map_err(database)?.insert(VERSION, version).map_err(database)?;
        transaction.commit().map_err(database)
    }

    /// Removes one record and writes the version that makes.
    ///
    /// # Errors
    /// See [`Error`]; nothing is changed then.
    pub fn remove(&self, version: u64, address: IpAddr) -> Result<(), Error> {
        let transaction = self.database.begin_write().map_err(database)?;
        transaction.open_table(CONTAINERS).map_err(database)?.remove(key(address)).map_err(database)?;
        transaction.open_table(META).map_err(database)?.insert(VERSION, version).map_err(database)?;
        transaction.commit().map_err(database)
    }
}
