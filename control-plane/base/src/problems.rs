//! Problems that an operator should look at, although the gateway works. `/readyz` lists them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The current problems, by subject.
#[derive(Clone, Debug, Default)]
pub struct Problems(Arc<Mutex<BTreeMap<&'static str, String>>>);

impl Problems {
    /// Sets the problem of `about`, or clears it.
    pub fn set(&self, about: &'static str, problem: Option<String>) {
        let mut problems = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match problem {
            Some(problem) => drop(problems.insert(about, problem)),
            None => drop(problems.remove(about)),
        }
    }

    /// All problems, each as `subject: problem`.
    pub fn list(&self) -> Vec<String> {
        let problems = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        problems.iter().map(|(about, problem)| format!("{about}: {problem}")).collect()
    }
}
