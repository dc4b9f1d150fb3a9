//! An operator's settings of a GitHub App: its id, its key, its installation, and the permissions of its tokens.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The longest client id or number. GitHub's client ids have 20 characters.
const MAX_ID: usize = 64;

/// The allowed permissions of a token: the permissions of a repository that an agent can need. Permissions that give
/// rights to others or reach beyond the repository are absent, above all `workflows`, `administration`, `secrets` and
/// hooks.
const PERMISSIONS: [&str; 13] = [
    "actions",
    "checks",
    "contents",
    "deployments",
    "discussions",
    "issues",
    METADATA,
    "packages",
    "pages",
    "pull_requests",
    "repository_projects",
    "security_events",
    "statuses",
];

/// The permission that GitHub adds to each token with any other permission. The gateway always requests it: a request
/// without permissions would give a token with all of them.
const METADATA: &str = "metadata";

/// The checked settings of an App.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The App's number or client id.
    pub id: String,
    /// The file of the App's private key, in PEM.
    pub key: PathBuf,
    /// The App's one installation. If `None`, the installation of each owner is looked up.
    pub installation: Option<NonZeroU64>,
    /// The permissions of the App's tokens.
    pub permissions: Permissions,
}

/// The value of `app:`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Raw {
    id: Id,
    key: PathBuf,
    installation: Option<NonZeroU64>,
    #[serde(default)]
    permissions: Permissions,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, expecting = "expected the App's number, or its client id")]
enum Id {
    Number(u64),
    Client(String),
}

/// Permissions, by their names. They always include `metadata: read`, which covers the names of repositories.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "BTreeMap<String, Level>")]
pub struct Permissions(BTreeMap<String, Level>);

/// The level of a permission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Read only.
    Read,
    /// Read and write.
    Write,
}

impl Default for Permissions {
    /// Enough for git, issues and pull requests.
    fn default() -> Self {
        let writes = ["contents", "issues", "pull_requests"].map(|name| (name.to_owned(), Level::Write));
        Self(writes.into_iter().chain([(METADATA.to_owned(), Level::Read)]).collect())
    }
}

impl TryFrom<BTreeMap<String, Level>> for Permissions {
    type Error = String;

    fn try_from(mut named: BTreeMap<String, Level>) -> Result<Self, String> {
        if let Some(other) = named.keys().find(|name| !PERMISSIONS.contains(&name.as_str())) {
            let known = PERMISSIONS.join(", ");
            return Err(format!(
                "{other:?} is no permission that a sandbox's token can have; expected some of {known}"
            ));
        }
        if named.insert(METADATA.to_owned(), Level::Read) == Some(Level::Write) {
            return Err("metadata can be read only".into());
        }
        Ok(Self(named))
    }
}

impl Permissions {
    /// Whether the permissions include `name` at `level`. Unknown names and levels are not included.
    pub fn allow(&self, name: &str, level: Option<Level>) -> bool {
        self.0.get(name).zip(level).is_some_and(|(most, level)| level <= *most)
    }
}

impl Raw {
    /// Checks the values. `base` is the directory that `key` is relative to.
    ///
    /// # Errors
    /// If `id` is neither a number nor a client id.
    pub fn check(&self, base: &Path) -> Result<Settings, String> {
        let id = match &self.id {
            Id::Number(number) => number.to_string(),
            Id::Client(id) => id.clone(),
        };
        let id = read_id(&id)?;
        let (installation, permissions) = (self.installation, self.permissions.clone());
        Ok(Settings { id, key: base.join(&self.key), installation, permissions })
    }
}

impl Settings {
    /// The variables that name an App: its id, its key file, and its installation. The installation is optional.
    pub const VARIABLES: [&str; 3] = ["GITHUB_APP_ID", "GITHUB_APP_PRIVATE_KEY_FILE", "GITHUB_APP_INSTALLATION_ID"];

    /// The App that the variables name. `None` if all of them are unset.
    ///
    /// # Errors
    /// If the id or the key is unset, or a value is invalid.
    pub fn of_variables(value: &dyn Fn(&str) -> Option<std::ffi::OsString>) -> Result<Option<Self>, String> {
        let set = |name: &str| value(name).filter(|value| !value.is_empty());
        let text = |name: &str| {
            let text = set(name)
                .map(|value| value.into_string().map_err(|_| format!("the variable {name} is not UTF-8 text")));
            text.transpose()
        };
        let [id, key, installation] = Self::VARIABLES;
        if Self::VARIABLES.iter().all(|name| set(name).is_none()) {
            return Ok(None);
        }
        let unset = |name: &str| format!("of the variables of a GitHub App {name} is not set");
        let found = read_id(text(id)?.ok_or_else(|| unset(id))?.trim());
        let found = found.map_err(|problem| format!("the variable {id}: {problem}"))?;
        let file = set(key).ok_or_else(|| unset(key))?;
        let number = |text: String| {
            let number = text.trim().parse::<NonZeroU64>();
            number.map_err(|_| format!("the variable {installation} is no number"))
        };
        let installation = text(installation)?.map(number).transpose()?;
        Ok(Some(Self { id: found, key: file.into(), installation, permissions: Permissions::default() }))
    }
}

fn read_id(id: &str) -> Result<String, String> {
    let plain = id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.');
    if plain && !matches!(id, "" | "0") && id.len() <= MAX_ID {
        Ok(id.to_owned())
    } else {
        Err(format!("invalid App id {id:?}: expected a number or a client id, such as 12345 or Iv23liAbCd"))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn read(yaml: &str) -> Result<Settings, String> {
        let raw: Raw = serde_yaml::from_str(yaml).map_err(|error| error.to_string())?;
        raw.check(Path::new("/etc"))
    }

    #[test]
    fn an_app_is_its_id_and_its_key_and_its_tokens_can_do_little() {
        let app = read("{id: 12345, key: app.pem}").unwrap();
        assert_eq!((app.id.as_str(), app.key.as_path(), app.installation), ("12345", Path::new("/etc/app.pem"), None));
        let asked = serde_json::to_value(&app.permissions).unwrap();
        let usual =
            serde_json::json!({"contents": "write", "issues": "write", "metadata": "read", "pull_requests": "write"});
        assert_eq!(asked, usual);
        let app = read("{id: Iv23liX, key: /k.pem, installation: 7, permissions: {contents: read}}").unwrap();
        assert_eq!((app.id.as_str(), app.installation.unwrap().get()), ("Iv23liX", 7));
        assert_eq!(
            serde_json::to_value(&app.permissions).unwrap(),
            serde_json::json!({"contents": "read", "metadata": "read"})
        );
        let none = read("{id: 1, key: k, permissions: {}}").unwrap();
        assert_eq!(serde_json::to_value(&none.permissions).unwrap(), serde_json::json!({"metadata": "read"}));
    }

    #[test]
    fn what_lends_rights_to_others_is_refused_and_so_is_what_is_not_known() {
        for name in ["workflows", "administration", "secrets", "environments", "repository_hooks", "members", "contnts"]
        {
            let error = read(&format!("{{id: 1, key: k, permissions: {{{name}: write}}}}")).unwrap_err();
            assert!(error.contains(name) && error.contains("expected some of actions, checks"), "{error}");
        }
        for (yaml, word) in [
            ("{id: 1, key: k, permissions: {metadata: write}}", "read only"),
            ("{id: 1, key: k, permissions: {contents: admin}}", "admin"),
            ("{id: 1, key: k, permissions: {contents: none}}", "none"),
            ("{id: 0, key: k}", "\"0\""),
            ("{id: 'a/b', key: k}", "\"a/b\""),
            ("{id: [], key: k}", "client id"),
            ("{id: 1}", "key"),
            ("{key: k}", "id"),
            ("{id: 1, key: k, installation: 0}", "nonzero"),
            ("{id: 1, key: k, repositories: all}", "unknown field"),
        ] {
            let error = read(yaml).unwrap_err();
            assert!(error.contains(word), "{yaml}: {error}");
        }
    }

    #[test]
    fn a_permission_is_within_what_was_asked_or_it_is_not() {
        let asked = read("{id: 1, key: k, permissions: {contents: write, issues: read}}").unwrap().permissions;
        for (name, level, within) in [
            ("contents", Some(Level::Write), true),
            ("contents", Some(Level::Read), true),
            ("issues", Some(Level::Read), true),
            ("metadata", Some(Level::Read), true),
            ("issues", Some(Level::Write), false),
            ("contents", None, false),
            ("workflows", Some(Level::Read), false),
        ] {
            assert_eq!(asked.allow(name, level), within, "{name} {level:?}");
        }
    }

    #[test]
    fn variables_name_an_app_or_say_what_is_wrong_with_them() {
        let of = |set: &'static [(&str, &str)]| {
            let value = |name: &str| set.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into());
            Settings::of_variables(&value)
        };
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(of(&[("GITHUB_APP_ID", "")]), Ok(None));
        let both = [("GITHUB_APP_ID", "5"), ("GITHUB_APP_PRIVATE_KEY_FILE", "/k")];
        let app = of(&[("GITHUB_APP_ID", "5"), ("GITHUB_APP_PRIVATE_KEY_FILE", "/k")]).unwrap().unwrap();
        assert_eq!((app.id.as_str(), app.key.to_str().unwrap(), app.installation), (both[0].1, both[1].1, None));
        for (set, word) in [
            (&[("GITHUB_APP_ID", "5")][..], "GITHUB_APP_PRIVATE_KEY_FILE is not set"),
            (&[("GITHUB_APP_PRIVATE_KEY_FILE", "/k")], "GITHUB_APP_ID is not set"),
            (&[("GITHUB_APP_INSTALLATION_ID", "5")], "GITHUB_APP_ID is not set"),
            (&[("GITHUB_APP_ID", "5 6"), ("GITHUB_APP_PRIVATE_KEY_FILE", "/k")], "GITHUB_APP_ID: "),
        ] {
            let error = of(set).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }
}
