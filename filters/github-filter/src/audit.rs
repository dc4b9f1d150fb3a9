//! What the audit says of a request to GitHub: what the identity filter noted, with this stage's decision in place of
//! its own.

use policy::Denial;
use policy::github::Operation;
use serde_json::{Map, Value};

/// The identity filter's note, read.
#[derive(Clone, Debug, Default)]
pub struct Note(Map<String, Value>);

impl Note {
    /// Reads it; empty where there is none, and then the audit names nobody.
    pub fn read(json: &[u8]) -> Self {
        Self(serde_json::from_slice(json).unwrap_or_default())
    }

    /// The request's id, `-` when it has none.
    pub fn request_id(&self) -> &str {
        self.0.get("request_id").and_then(Value::as_str).unwrap_or("-")
    }

    /// The note of a request that goes on.
    pub fn allowed(&self, rule: &str, operation: &Operation) -> Vec<u8> {
        self.with("allow", "github", rule, "", Some(operation))
    }

    /// The note of one that ends.
    pub fn refused(&self, denial: &Denial, operation: Option<&Operation>) -> Vec<u8> {
        self.with("deny", denial.stage.name(), denial.rule, &denial.reason, operation)
    }

    fn with(&self, verdict: &str, stage: &str, rule: &str, reason: &str, operation: Option<&Operation>) -> Vec<u8> {
        let mut note = self.0.clone();
        for (name, value) in [("verdict", verdict), ("stage", stage), ("rule", rule), ("reason", reason)] {
            note.insert(name.into(), value.into());
        }
        if let Some(operation) = operation {
            note.insert("operation".into(), operation.name.as_str().into());
            note.insert("class".into(), operation.class.name().into());
        }
        // An object of strings always serialises; were it not so, the line would be empty and the outcome the same.
        serde_json::to_vec(&note).unwrap_or_default()
    }
}
