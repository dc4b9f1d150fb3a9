//! The data that the VMs of all workers share (`proxy_get_shared_data`), with Envoy's versions of the values
//! (proxy-wasm-cpp-host, shared_data.cc).

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

type Hook = Box<dyn FnOnce() + Send>;

/// The shared data of some Envoys of this process, which stand for the workers of one Envoy. A clone is the same data.
#[derive(Clone, Default)]
pub struct SharedData(Arc<Inner>);

#[derive(Default)]
struct Inner {
    values: Mutex<Values>,
    /// A key, and what happens before its next change.
    hook: Mutex<Option<(String, Hook)>>,
}

#[derive(Default)]
struct Values {
    by_key: HashMap<String, (Vec<u8>, u32)>,
    version: u32,
}

impl fmt::Debug for SharedData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedData")
    }
}

impl SharedData {
    /// The value under `key` and its version.
    pub fn get(&self, key: &str) -> Option<(Vec<u8>, u32)> {
        let values = self.0.values.lock().unwrap_or_else(PoisonError::into_inner);
        values.by_key.get(key).cloned()
    }

    /// Lets `hook` run when a filter is about to change the value under `key`, which it has read before.
    pub fn before_change(&self, key: &str, hook: impl FnOnce() + Send + 'static) {
        *self.0.hook.lock().unwrap_or_else(PoisonError::into_inner) = Some((key.to_owned(), Box::new(hook)));
    }

    /// Changes the value under `key`, if it has `version` or `version` is 0. Returns whether it did.
    pub(crate) fn set(&self, key: &str, value: Vec<u8>, version: u32) -> bool {
        let hook = self.0.hook.lock().unwrap_or_else(PoisonError::into_inner).take_if(|(of, _)| of == key);
        if let Some((_, hook)) = hook {
            hook();
        }
        let mut values = self.0.values.lock().unwrap_or_else(PoisonError::into_inner);
        if version != 0 && values.by_key.get(key).is_some_and(|(_, have)| *have != version) {
            return false;
        }
        values.version += 1;
        let version = values.version;
        values.by_key.insert(key.to_owned(), (value, version));
        true
    }
}
