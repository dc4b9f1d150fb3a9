//! What the audit says of a request: what the identity filter noted, with a later stage's decision in place of its own.

use crate::{Denial, Rule};
use serde_json::{Map, Value};

/// The note, as it travels from stage to stage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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

    /// With the decision that the request goes on.
    #[must_use]
    pub fn allowed(&self, stage: &str, rule: Rule) -> Self {
        self.decided("allow", stage, rule.name(), "")
    }

    /// With the decision that it ends.
    #[must_use]
    pub fn refused(&self, denial: &Denial) -> Self {
        self.decided("deny", denial.stage.name(), denial.rule.name(), &denial.reason)
    }

    /// With a field beside.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.insert(name.into(), value.into());
        self
    }

    /// As it is handed on.
    pub fn to_bytes(&self) -> Vec<u8> {
        // An object always serialises; were it not so, the line would be empty and the outcome the same.
        serde_json::to_vec(&self.0).unwrap_or_default()
    }

    fn decided(&self, verdict: &str, stage: &str, rule: &str, reason: &str) -> Self {
        let fields = [("verdict", verdict), ("stage", stage), ("rule", rule), ("reason", reason)];
        fields.into_iter().fold(self.clone(), |note, (name, value)| note.with(name, value))
    }
}
