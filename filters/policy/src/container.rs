//! The record of one registered container: its address, its repositories, its rights and its expiry.

use crate::HostRules;
use crate::refname::{self, BranchGlob};
use jiff::Timestamp;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

/// One registered container. Its source address identifies it: nothing that the container sends can select another
/// record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Container {
    /// The container's source address, as Envoy sees it.
    pub container_ip: IpAddr,
    /// The operator's name for the container, as logged in the audit.
    pub container_id: String,
    /// The repositories that the container may use. Empty means none.
    pub repos: Vec<Repo>,
    /// Whether a person supervises the container.
    #[serde(default)]
    pub auth_mode: AuthMode,
    /// Globs of the branches that a container in [`AuthMode::Bot`] may push to. In [`AuthMode::User`] the globs only
    /// say which branches [`Container::force_own_branches`] covers.
    #[serde(default)]
    pub allowed_branches: Vec<BranchGlob>,
    /// The container may force-push to its allowed branches.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force_own_branches: bool,
    /// The time from which on the record is expired.
    pub expires_at: Timestamp,
    /// The operator's own labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Hosts that this container may reach in addition to those of the policy, and requests that it may not send.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub egress_allow: Vec<HostRules>,
    /// Names of the configured credentials that the container may use. `None` means every credential whose own settings
    /// admit the container. An empty list means no credential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Vec<String>>,
    /// Why the gateway has blocked this container, if it has. Registering the container again removes the block.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocked: Option<String>,
    /// The registry's version when this record was written. A later record of the same address has a higher one.
    #[serde(default)]
    pub generation: u64,
}

impl Container {
    /// Whether the record is expired at `now`.
    pub fn expired(&self, now: Timestamp) -> bool {
        self.expires_at <= now
    }

    /// The record with the repository `owner/name` alone, or without a repository if it is not one of the container's.
    #[must_use]
    pub fn only(mut self, owner: &[u8], name: &[u8]) -> Self {
        self.repos.retain(|repo| repo.is(owner, name));
        self
    }

    /// Whether `owner/name`, as it stands in a URL, is one of the container's repositories.
    pub fn has_repo(&self, owner: &[u8], name: &[u8]) -> bool {
        self.repos.iter().any(|repo| repo.is(owner, name))
    }
}

/// Whether a person supervises a container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuthMode {
    /// Unattended. The container may push only to its allowed branches.
    #[default]
    Bot,
    /// Supervised by a person. The container may push to every branch that is not protected.
    User,
}

/// A repository: `owner/name`, with its number and its default branch if these are known. Equality compares only
/// `owner/name`, ignoring ASCII case as GitHub does.
///
/// In JSON a repository is a string, or an object with `name` (required), `id` and `default_branch`. A repository of
/// which only the name is known is serialized as a string.
#[derive(Clone, Debug, Eq, Serialize)]
#[serde(into = "Form")]
pub struct Repo {
    owner: String,
    name: String,
    id: Option<u64>,
    default_branch: Option<String>,
}

/// The text is not of the form `owner/name`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a repository: expected owner/name, of letters, digits, '-', '_' and '.'")]
pub struct InvalidRepo(String);

/// The text is not a valid branch name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("default_branch {0:?} is not a branch's name such as main")]
struct InvalidBranch(String);

impl Repo {
    /// Parses `owner/name`.
    ///
    /// # Errors
    /// If GitHub would not accept the text as a repository's name. The endings `.git` and `.wiki` are errors: they are
    /// other spellings, or other repositories, and only one spelling is ever compared.
    pub fn parse(text: &str) -> Result<Self, InvalidRepo> {
        let invalid = || InvalidRepo(text.to_owned());
        let (owner, name) = text.split_once('/').ok_or_else(invalid)?;
        let lower = name.to_ascii_lowercase();
        let suffixed = [".git", ".wiki"].iter().any(|suffix| lower.ends_with(suffix));
        if !is_segment(owner, 39) || !is_segment(name, 100) || suffixed {
            return Err(invalid());
        }
        Ok(Self { owner: owner.to_owned(), name: name.to_owned(), id: None, default_branch: None })
    }

    /// GitHub's number for the repository, if it is known. Unlike the name, the number never changes.
    pub fn id(&self) -> Option<u64> {
        self.id
    }

    /// The default branch without `refs/heads/`, if it is known.
    pub fn default_branch(&self) -> Option<&str> {
        self.default_branch.as_deref()
    }

    /// Fills in what GitHub reports of the repository. Known values are kept. A default branch whose name git would not
    /// accept stays unknown.
    #[must_use]
    pub fn known(self, id: u64, default_branch: &str) -> Self {
        let branch = || refname::is_git_branch(default_branch).then(|| default_branch.to_owned());
        let default_branch = self.default_branch.or_else(branch);
        Self { id: self.id.or(Some(id)), default_branch, ..self }
    }

    /// The owner's login.
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// The repository's name, without the owner.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether this is the repository `owner/name`, ignoring ASCII case.
    pub fn is(&self, owner: &[u8], name: &[u8]) -> bool {
        self.owner.as_bytes().eq_ignore_ascii_case(owner) && self.name.as_bytes().eq_ignore_ascii_case(name)
    }
}

/// Whether `text` is a valid owner or repository name of at most `limit` characters. GitHub's limits are 39 for an
/// owner and 100 for a repository.
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

/// A repository's serialized form.
#[derive(Serialize)]
#[serde(untagged)]
enum Form {
    Name(String),
    Object(Object),
}

/// The object form of a repository.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Object {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    default_branch: Option<String>,
}

impl From<Repo> for Form {
    fn from(repo: Repo) -> Self {
        let name = repo.to_string();
        match repo {
            Repo { id: None, default_branch: None, .. } => Self::Name(name),
            Repo { id, default_branch, .. } => Self::Object(Object { name, id, default_branch }),
        }
    }
}

impl<'de> Deserialize<'de> for Repo {
    // Written by hand: the errors of an untagged enum say neither which field is wrong nor why.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Either)
    }
}

/// Deserializes either form of a repository.
struct Either;

impl<'de> Visitor<'de> for Either {
    type Value = Repo;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("owner/name, or an object with name, id and default_branch")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<Repo, E> {
        Repo::parse(name).map_err(E::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Repo, A::Error> {
        let object = Object::deserialize(MapAccessDeserializer::new(map))?;
        if let Some(branch) = object.default_branch.as_ref().filter(|branch| !refname::is_git_branch(branch)) {
            return Err(de::Error::custom(InvalidBranch(branch.clone())));
        }
        let repo = Repo::parse(&object.name).map_err(de::Error::custom)?;
        Ok(Repo { id: object.id, default_branch: object.default_branch, ..repo })
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
    fn a_repository_is_a_name_or_an_object_and_comes_back_as_it_was() {
        let known = [
            (r#""Acme/App""#, None, None),
            (r#"{"name":"Acme/App","id":23096959}"#, Some(23_096_959), None),
            (r#"{"name":"Acme/App","default_branch":"release/1.x"}"#, None, Some("release/1.x")),
            (r#"{"name":"Acme/App","id":1,"default_branch":"main"}"#, Some(1), Some("main")),
        ];
        for (json, id, default_branch) in known {
            let repo: Repo = serde_json::from_str(json).unwrap();
            assert_eq!((repo.id(), repo.default_branch()), (id, default_branch), "{json}");
            assert_eq!(repo, Repo::parse("acme/app").unwrap(), "it is compared by its name");
            assert_eq!(serde_json::to_string(&repo).unwrap(), json);
        }
        let bare: Repo = serde_json::from_str(r#"{"name":"Acme/App"}"#).unwrap();
        assert_eq!(serde_json::to_string(&bare).unwrap(), r#""Acme/App""#);
    }

    #[test]
    fn what_is_known_of_a_repository_already_stays() {
        let bare = Repo::parse("o/r").unwrap();
        let found = bare.clone().known(7, "main");
        assert_eq!((found.id(), found.default_branch()), (Some(7), Some("main")));
        let again = found.known(8, "other");
        assert_eq!((again.id(), again.default_branch()), (Some(7), Some("main")));
        // Branches that can't be moved through the gateway can be default branches.
        for rare in ["основная", "HEAD"] {
            let repo = bare.clone().known(7, rare);
            assert_eq!((repo.id(), repo.default_branch()), (Some(7), Some(rare)));
            let again: Repo = serde_json::from_str(&serde_json::to_string(&repo).unwrap()).unwrap();
            assert_eq!(again.default_branch(), Some(rare));
        }
        for odd in ["", "a..b", "a\nb"] {
            let repo = bare.clone().known(7, odd);
            assert_eq!((repo.id(), repo.default_branch()), (Some(7), None), "{odd}");
            assert_eq!(serde_json::from_str::<Repo>(&serde_json::to_string(&repo).unwrap()).unwrap().id(), Some(7));
        }
    }

    #[test]
    fn a_repository_s_object_is_understood_whole_or_not_at_all() {
        for json in [
            "{}",
            "1",
            "null",
            r#"["acme/app"]"#,
            r#"{"id":1}"#,
            r#"{"name":"acme"}"#,
            r#"{"name":"acme/app","id":-1}"#,
            r#"{"name":"acme/app","id":"1"}"#,
            r#"{"name":"acme/app","branch":"main"}"#,
            r#"{"name":"acme/app","name":"acme/other"}"#,
        ] {
            assert!(serde_json::from_str::<Repo>(json).is_err(), "{json}");
        }
    }

    #[test]
    fn a_default_branch_is_a_name_that_git_would_give_a_branch() {
        assert!(serde_json::from_str::<Repo>(r#"{"name":"o/r","default_branch":"a..b"}"#).is_err());
    }

    #[test]
    fn a_record_with_either_form_comes_back_as_it_was() {
        let json = r#"{"container_ip":"172.18.0.5","container_id":"a","repos":["o/r",{"name":"o/s","id":7}],"auth_mode":"bot","allowed_branches":[],"expires_at":"2027-01-15T00:00:00Z","labels":{},"generation":3}"#;
        let record: Container = serde_json::from_str(json).unwrap();
        assert_eq!(serde_json::to_string(&record).unwrap(), json);
    }

    #[test]
    fn a_record_is_narrowed_to_one_repository() {
        let json = r#"{"container_ip":"172.18.0.5","container_id":"a","repos":["o/r","o/s"],"expires_at":"2027-01-15T00:00:00Z"}"#;
        let record: Container = serde_json::from_str(json).unwrap();
        assert_eq!(record.clone().only(b"O", b"s").repos, [Repo::parse("o/s").unwrap()]);
        assert!(record.only(b"o", b"t").repos.is_empty());
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
