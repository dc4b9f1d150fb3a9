//! A pattern of hosts, for the lists of allowed hosts and for credentials.

use crate::{HostName, InvalidHost};
use serde::{Deserialize, Serialize};

/// A host pattern as an operator writes it: a host name, or a suffix.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum HostPattern {
    /// `api.example.com`.
    Exact(HostName),
    /// `*.example.com`: every name with at least one label in front of the suffix.
    Below(HostName),
}

impl HostPattern {
    /// Parses a host name, or `*.` followed by a host name.
    ///
    /// # Errors
    /// If the text is anything else, a lone `*` or a `*` in another place included.
    pub fn parse(text: &str) -> Result<Self, InvalidHost> {
        if text.contains('/') {
            return Err(InvalidHost::Url);
        }
        let is_port = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if text.split_once(':').is_some_and(|(_, port)| is_port(port)) {
            return Err(InvalidHost::WithPort);
        }
        match text.strip_prefix("*.") {
            Some(suffix) => HostName::parse(suffix.as_bytes()).map(Self::Below),
            None => HostName::parse(text.as_bytes()).map(Self::Exact),
        }
    }

    /// The host name, or the suffix without its `*.`.
    pub fn name(&self) -> &HostName {
        match self {
            Self::Exact(name) | Self::Below(name) => name,
        }
    }

    /// Whether the pattern covers `host`.
    pub fn covers(&self, host: &HostName) -> bool {
        match self {
            Self::Exact(name) => name == host,
            Self::Below(suffix) => host.parents().any(|parent| parent == suffix.as_str()),
        }
    }
}

impl std::fmt::Display for HostPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exact(name) => write!(f, "{name}"),
            Self::Below(suffix) => write!(f, "*.{suffix}"),
        }
    }
}

impl TryFrom<String> for HostPattern {
    type Error = InvalidHost;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<HostPattern> for String {
    fn from(pattern: HostPattern) -> Self {
        pattern.to_string()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_in_front_or_nowhere() {
        for text in ["*", "*.", "a.*.com", "*a.com", "*.com", "**.a.com", "*.*.com", "*.localhost", "*.0.0.1"] {
            assert!(HostPattern::parse(text).is_err(), "{text}");
        }
        assert_eq!(HostPattern::parse("*.Example.COM").unwrap().to_string(), "*.example.com");
    }
}
