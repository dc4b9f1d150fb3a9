//! Connections, and the data that the VMs of all workers share. The data are values under keys, each with a version, and
//! live as long as one VM of the module does. Nothing removes a key, so callers use a fixed set of keys.

use crate::callbacks::{Effect, defer};
use crate::{Error, Status, abi, refused};

/// A shared value at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shared {
    /// The value.
    pub value: Vec<u8>,
    version: u32,
}

/// The shared value under `key`. Returns `None` if there is no value.
///
/// # Errors
/// If Envoy refuses.
pub fn shared_data(key: &str) -> Result<Option<Shared>, Error> {
    let found = abi::shared_data(key).map_err(refused("get_shared_data"))?;
    Ok(found.map(|(value, version)| Shared { value, version }))
}

/// Creates an empty value under `key`, unless `key` has a value. Two VMs that do this at the same moment can overwrite each
/// other, so it is for the start, when only Envoy's main thread runs the filter.
///
/// # Errors
/// If Envoy refuses.
pub fn create_shared_data(key: &str) -> Result<(), Error> {
    match shared_data(key)? {
        Some(_) => Ok(()),
        None => abi::set_shared_data(key, &[], 0).map_err(refused("set_shared_data")),
    }
}

/// Replaces the shared value under `key` by `value`, if it is still `old`. Returns whether it was.
///
/// # Errors
/// If Envoy refuses.
pub fn replace_shared_data(key: &str, old: &Shared, value: &[u8]) -> Result<bool, Error> {
    match abi::set_shared_data(key, value, old.version) {
        Ok(()) => Ok(true),
        Err(Status::CAS_MISMATCH) => Ok(false),
        Err(status) => Err(refused("set_shared_data")(status)),
    }
}

/// Closes the connection of the context that hostcalls act for, when the callback has returned.
pub fn close_connection() {
    defer(Effect::Close);
}

/// Hands on the waiting bytes of the connection of the context that hostcalls act for, when the callback has returned.
pub fn resume_connection() {
    defer(Effect::Read);
}
