//! Which requests with a built-in credential have their bodies read, and what the operator permits there.

use super::built_in::BuiltIn;
use policy::endpoint::Endpoint;
use std::collections::BTreeSet;

/// The endpoints in `also` that are model requests, by credential and name. The bodies of the others are files, sound and
/// images, or name by their path what they read.
const MODEL_REQUESTS: [(&str, &str); 6] = [
    ("anthropic", "batches"),
    ("gemini", "batches"),
    ("gemini", "tuned-models"),
    ("mistral", "agents"),
    ("mistral", "conversations"),
    ("perplexity", "async"),
];

/// The operator's permissions for the bodies of a credential's requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permits {
    /// The names in `also`.
    pub also: BTreeSet<String>,
    /// The endpoints whose bodies are not read.
    unread: Vec<Endpoint>,
}

impl Permits {
    /// The permissions of `built_in` with these names in `also`. `None` if its bodies are not read at all.
    pub fn of(built_in: &BuiltIn, also: &[String]) -> Option<Self> {
        if !built_in.guarded {
            return None;
        }
        let read = |name: &str| MODEL_REQUESTS.contains(&(built_in.name, name));
        let on = built_in.also.iter().filter(|group| also.iter().any(|name| name == group.name) && !read(group.name));
        // Every row is parsed by a test. A row that could not be parsed would be read.
        let unread = on.flat_map(|group| group.endpoints).filter_map(|text| Endpoint::parse(text, None).ok()).collect();
        Some(Self { also: also.iter().cloned().collect(), unread })
    }

    /// Whether the body of a request to `path` is read.
    pub fn reads(&self, method: &str, path: &[u8]) -> bool {
        !self.unread.iter().any(|endpoint| endpoint.allows(method.as_bytes(), path))
    }
}
