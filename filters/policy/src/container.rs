//! The record of one registered container: who it is, which repositories are its own, until when.

use crate::HostPattern;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

/// One registered container. Its address is its identity; nothing that the container sends can change which record
/// it is judged by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Container {
    /// The source address by which Envoy knows it.
    pub container_ip: IpAddr,
    /// The operator's name for it; stands in the audit.
    pub container_id: String,
    /// The repositories it may use. Empty means none.
    pub repos: Vec<Repo>,
    /// On whose behalf it acts.
    #[serde(default)]
    pub auth_mode: AuthMode,
    /// Globs of the branches it may push to; of meaning for [`AuthMode::Bot`].
    #[serde(default)]
    pub allowed_branches: Vec<String>,
    /// The record is worth nothing from this moment on.
    pub expires_at: Timestamp,
    /// The operator's own labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Hosts that this container may reach beside those of the policy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub egress_allow: Vec<HostPattern>,
    /// Names of the configured credentials it may use: absent is all that admit it, empty is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Vec<String>>,
    /// The registry's version when this record was written; a later record of the same address has a higher one.
    #[serde(default)]
    pub generation: u64,
}

impl Container {
    /// Whether the record is worth nothing at `now` any more.
    pub fn expired(&self, now: Timestamp) -> bool {
        self.expires_at <= now
    }

    /// Whether `owner/name`, as it stands in a URL, is one of the container's repositories.
    pub fn has_repo(&self, owner: &[u8], name: &[u8]) -> bool {
        self.repos.iter().any(|repo| repo.is(owner, name))
    }
}

/// On whose behalf a container acts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuthMode {
    /// Unattended: it may push to its allowed branches only.
    #[default]
    Bot,
    /// For a person who looks on: any branch that is not protected.
    User,
}

/// A repository, `owner/name`. Compared without regard to ASCII letter case, as GitHub does.
#[derive(Clone, Debug, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Repo {
    owner: String,
    name: String,
}

/// The text is no `owner/name`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a repository: expected owner/name, of letters, digits, '-', '_' and '.'")]
pub struct InvalidRepo(String);

impl Repo {
    /// Reads `owner/name`.
    ///
    /// # Errors
    /// Anything that GitHub would not let be a repository's name, `.git` endings and wikis included: those are
    /// other spellings or other repositories, and only one spelling is ever compared.
    pub fn parse(text: &str) -> Result<Self, InvalidRepo> {
        let invalid = || InvalidRepo(text.to_owned());
        let (owner, name) = text.split_once('/').ok_or_else(invalid)?;
        let lower = name.to_ascii_lowercase();
        let suffixed = [".git", ".wiki"].iter().any(|suffix| lower.ends_with(suffix));
        if !is_segment(owner, 39) || !is_segment(name, 100) || suffixed {
            return Err(invalid());
        }
        Ok(Self { owner: owner.to_owned(), name: name.to_owned() })
    }

    fn is(&self, owner: &[u8], name: &[u8]) -> bool {
        self.owner.as_bytes().eq_ignore_ascii_case(owner) && self.name.as_bytes().eq_ignore_ascii_case(name)
    }
}

/// A path segment that can be an owner or a repository; GitHub's limits are 39 and 100 characters.
fn is_segment(text: &str, limit: usize) -> bool {
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    plain && !text.is_empty() && text.len() <= limit && text != "." && text != ".."
}

impl PartialEq for Repo {
    fn eq(&self, other: &Self) -> bool {
        self.is(other.owner.as_bytes(), other.name.as_bytes())
    }
}

impl fmt::Display for Repo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.owner, self.name)
    }
}

impl TryFrom<String> for Repo {
    type Error = InvalidRepo;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<Repo> for String {
    fn from(repo: Repo) -> Self {
        repo.to_string()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn repositories_are_compared_as_github_does() {
        let repo = Repo::parse("Acme/App").unwrap();
        assert!(repo.is(b"acme", b"aPP"));
        assert!(!repo.is(b"acme", b"app.git"));
        assert_eq!(repo.to_string(), "Acme/App");
    }

    #[test]
    fn only_owner_slash_name_is_a_repository() {
        for text in [
            "",
            "acme",
            "acme/",
            "/app",
            "acme/app/x",
            "acme/..",
            "./app",
            "acme/a b",
            "acme/app.git",
            "acme/app.wiki",
            "acme/äpp",
        ] {
            assert!(Repo::parse(text).is_err(), "{text}");
        }
        assert!(Repo::parse(&format!("{}/{}", "o".repeat(39), "r".repeat(100))).is_ok());
        assert!(Repo::parse(&format!("{}/r", "o".repeat(40))).is_err());
        assert!(Repo::parse(&format!("o/{}", "r".repeat(101))).is_err());
    }

    #[test]
    fn a_record_is_expired_at_its_own_moment() {
        let at: Timestamp = "2027-01-15T00:00:00Z".parse().unwrap();
        let record: Container = serde_json::from_str(
            r#"{"container_ip":"172.18.0.5","container_id":"a","repos":["o/r"],"expires_at":"2027-01-15T00:00:00Z"}"#,
        )
        .unwrap();
        assert!(record.expired(at));
        assert!(!record.expired(at - jiff::SignedDuration::from_millis(1)));
        assert_eq!(record.auth_mode, AuthMode::Bot);
    }

    #[test]
    fn an_unknown_field_is_an_error_and_not_ignored() {
        let text = r#"{"container_ip":"172.18.0.5","container_id":"a","repos":[],"expires_at":"2027-01-15T00:00:00Z","repo":["x/y"]}"#;
        assert!(serde_json::from_str::<Container>(text).is_err());
    }
}
