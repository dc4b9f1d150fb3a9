//! The configuration of the filters github and push, as the control plane writes it and they read it, and the value of it
//! that is in force in a worker.

use crate::github::Rules;
use serde::{Deserialize, Serialize};
use std::rc::Rc;

/// The rules in force from a revision on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RulesInForce {
    /// Rises with each change of the rules, so that no configuration comes back. Envoy configures a filter for each new
    /// configuration, and not for an earlier one that it still knows. A worker has the rules of the highest revision.
    pub revision: u64,
    /// The rules.
    pub rules: Rules,
}

/// The value that is in force in a worker, for all its requests: of the highest revision that has arrived.
#[derive(Debug)]
pub struct InForce<T> {
    revision: u64,
    value: Option<Rc<T>>,
}

impl<T> Default for InForce<T> {
    fn default() -> Self {
        Self { revision: 0, value: None }
    }
}

impl<T> InForce<T> {
    /// Puts `value` in force, unless one of the same or a higher revision was. Returns whether it is newer.
    pub fn set(&mut self, revision: u64, value: Rc<T>) -> bool {
        let newer = revision > self.revision;
        if newer {
            (self.revision, self.value) = (revision, Some(value));
        }
        newer
    }

    /// Nothing is in force, until something newer is.
    pub fn unset(&mut self) {
        self.value = None;
    }

    /// The value in force. `None` until the first valid configuration.
    pub fn get(&self) -> Option<&Rc<T>> {
        self.value.as_ref()
    }

    /// The highest revision so far.
    pub fn revision(&self) -> u64 {
        self.revision
    }
}
