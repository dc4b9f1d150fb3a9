//! What the operator configured: `sallyport.yaml` and `policy.yaml`, read and checked.
//!
//! The raw shapes are what may stand in the files; [`Config`] and [`Policy`] are what is left after every check.
//! An unknown key, a host twice, a file that isn't there: an error, never a default.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use policy::{HostName, Policy};
use serde::Deserialize;

use crate::xds::snapshot::short_hash;

/// Hosts of the preset `github`: the API, git, and where their answers redirect to.
const GITHUB: [&str; 8] = [
    "github.com",
    "api.github.com",
    "uploads.github.com",
    "raw.githubusercontent.com",
    "codeload.github.com",
    "objects.githubusercontent.com",
    "release-assets.githubusercontent.com",
    "media.githubusercontent.com",
];

/// The checked configuration of one gateway.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where sandboxes find the explicit proxy.
    pub proxy: SocketAddr,
    /// Where the operator finds the HTTP API.
    pub admin: SocketAddr,
    /// The state directory, where neither the command line nor the environment names one.
    pub state_dir: Option<PathBuf>,
    /// The policy file.
    pub policy_file: PathBuf,
    /// Hosts that the operator has pinned.
    pub upstreams: BTreeMap<HostName, Upstream>,
    /// The roots that upstreams are verified against, PEM.
    pub roots_pem: String,
}

/// Where a pinned host is found, and who vouches for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// An address or a name.
    pub address: String,
    /// Its port.
    pub port: u16,
    /// The CA's certificate, PEM.
    pub ca_pem: String,
}

/// The configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The file is no YAML of the expected shape; the message has line and column.
    #[error("{path}: {source}")]
    Shape {
        /// Which.
        path: String,
        /// Where and what.
        source: serde_yaml::Error,
    },
    /// A value is of the right shape and still wrong.
    #[error("{path}: {key}: {problem}")]
    Value {
        /// Which file.
        path: String,
        /// Which key.
        key: String,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// There are no trusted roots on this machine.
    #[error("no system CA certificates found; install ca-certificates, or set `upstream_roots` to a PEM file")]
    NoRoots,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawConfig {
    listen: RawListen,
    state_dir: Option<PathBuf>,
    policy: Option<PathBuf>,
    upstream_roots: Option<PathBuf>,
    upstreams: BTreeMap<String, RawUpstream>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawListen {
    proxy: SocketAddr,
    admin: SocketAddr,
}

impl Default for RawListen {
    fn default() -> Self {
        Self { proxy: SocketAddr::from(([0, 0, 0, 0], 8080)), admin: SocketAddr::from(([127, 0, 0, 1], 8081)) }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawUpstream {
    address: String,
    #[serde(default = "https")]
    port: u16,
    ca: PathBuf,
}

fn https() -> u16 {
    443
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPolicy {
    egress: Option<Vec<String>>,
}

/// The file that is read where the command line names none.
pub const DEFAULT_FILE: &str = "config/sallyport.yaml";

impl Config {
    /// Reads `file`, or [`DEFAULT_FILE`] where none is named and it is there, or takes the built-in defaults. Paths
    /// in the file are relative to it.
    ///
    /// # Errors
    /// Anything in the file that is not understood, and files it names that cannot be read.
    pub fn load(file: Option<&Path>) -> Result<Self, Error> {
        let default = Path::new(DEFAULT_FILE);
        let file = file.or_else(|| default.exists().then_some(default));
        let (raw, base, shown) = match file {
            Some(file) => {
                let base = file.parent().map(Path::to_owned).unwrap_or_default();
                (parse(&read(file)?, file)?, base, file.display().to_string())
            }
            None => (RawConfig::default(), PathBuf::from("config"), "the built-in configuration".to_owned()),
        };
        Self::check(raw, &base, &shown)
    }

    fn check(raw: RawConfig, base: &Path, shown: &str) -> Result<Self, Error> {
        let value = |key: String, problem: String| Error::Value { path: shown.to_owned(), key, problem };
        if !raw.listen.admin.ip().is_loopback() {
            return Err(value(
                "listen.admin".into(),
                "the admin API has no password and is for the operator alone; use an address in 127.0.0.0/8 or [::1]"
                    .into(),
            ));
        }
        let mut upstreams = BTreeMap::new();
        for (name, upstream) in raw.upstreams {
            let key = format!("upstreams.{name}");
            let host = HostName::parse(name.as_bytes()).map_err(|error| value(key.clone(), error.to_string()))?;
            let ca = base.join(&upstream.ca);
            let checked = Upstream { address: upstream.address, port: upstream.port, ca_pem: read(&ca)? };
            if upstreams.insert(host, checked).is_some() {
                return Err(value(key, "this host stands here twice, in different spellings".into()));
            }
        }
        Ok(Self {
            proxy: raw.listen.proxy,
            admin: raw.listen.admin,
            state_dir: raw.state_dir.map(|directory| base.join(directory)),
            policy_file: base.join(raw.policy.unwrap_or_else(|| "policy.yaml".into())),
            upstreams,
            roots_pem: roots(raw.upstream_roots.map(|path| base.join(path)).as_deref())?,
        })
    }
}

/// Reads the policy. A file that is not there is no policy: nothing is allowed.
///
/// # Errors
/// Anything in the file that is not understood.
pub fn load_policy(file: &Path) -> Result<Policy, Error> {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Policy::deny_all()),
        Err(source) => return Err(Error::Read { path: file.display().to_string(), source }),
    };
    let raw: RawPolicy = parse(&text, file)?;
    let mut egress = BTreeSet::new();
    for entry in raw.egress.unwrap_or_else(|| vec!["github".into()]) {
        match preset(&entry) {
            Some(hosts) => egress.extend(hosts),
            None => {
                let host = HostName::parse(entry.as_bytes()).map_err(|error| Error::Value {
                    path: file.display().to_string(),
                    key: format!("egress: {entry}"),
                    problem: format!("{error}; expected a host name such as api.example.com, or the preset github"),
                })?;
                egress.insert(host);
            }
        }
    }
    Ok(Policy { version: short_hash(text.as_bytes()), egress })
}

fn preset(name: &str) -> Option<Vec<HostName>> {
    (name == "github").then(|| GITHUB.iter().filter_map(|host| HostName::parse(host.as_bytes()).ok()).collect())
}

/// The PEM bundle that vouches for the internet.
fn roots(configured: Option<&Path>) -> Result<String, Error> {
    match configured {
        Some(file) => read(file),
        None => SYSTEM_ROOTS.iter().find_map(|file| std::fs::read_to_string(file).ok()).ok_or(Error::NoRoots),
    }
}

/// Where Linux distributions keep the bundle: Debian, Fedora, openSUSE, Alpine.
const SYSTEM_ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

fn read(file: &Path) -> Result<String, Error> {
    std::fs::read_to_string(file).map_err(|source| Error::Read { path: file.display().to_string(), source })
}

fn parse<T: serde::de::DeserializeOwned>(text: &str, file: &Path) -> Result<T, Error> {
    // An empty document is null to YAML; to an operator it is a file in which every key is absent.
    let text =
        if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) { "{}" } else { text };
    serde_yaml::from_str(text).map_err(|source| Error::Shape { path: file.display().to_string(), source })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn policy(text: &str) -> Result<Policy, Error> {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("policy.yaml");
        std::fs::write(&file, text).unwrap();
        load_policy(&file)
    }

    fn config(text: &str) -> Result<Config, Error> {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("sallyport.yaml");
        std::fs::write(directory.path().join("ca.pem"), "PEM").unwrap();
        std::fs::write(&file, text).unwrap();
        Config::load(Some(&file))
    }

    #[test]
    fn the_files_that_are_shipped_are_understood() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config");
        let shipped = Config::load(Some(&root.join("sallyport.yaml"))).unwrap();
        assert!(load_policy(&shipped.policy_file).unwrap().allows_host(&HostName::parse(b"github.com").unwrap()));
    }

    #[test]
    fn an_empty_list_is_none_and_an_absent_one_the_github_preset() {
        assert!(policy("egress: []").unwrap().egress.is_empty());
        assert_eq!(policy("").unwrap().egress.len(), GITHUB.len());
        assert_eq!(policy("egress: [github, api.example.com]").unwrap().egress.len(), GITHUB.len() + 1);
        let missing = load_policy(Path::new("/nonexistent/policy.yaml")).unwrap();
        assert_eq!(missing, Policy::deny_all());
    }

    #[test]
    fn what_is_not_understood_is_an_error_that_says_where() {
        for text in ["egres: []", "egress: [127.0.0.1]", "egress: [localhost]", "egress: github", "egress: ['*']"] {
            let error = policy(text).unwrap_err().to_string();
            assert!(error.contains("policy.yaml"), "{text}: {error}");
        }
        assert!(config("listen: {prxy: 1}").unwrap_err().to_string().contains("line"));
        assert!(config("listen: {admin: '0.0.0.0:8081'}").is_err());
        let twice = "upstreams: {GitHub.com: {address: a, ca: ca.pem}, github.com: {address: b, ca: ca.pem}}";
        assert!(config(twice).unwrap_err().to_string().contains("twice"));
        assert!(config("upstreams: {github.com: {address: a, ca: nope.pem}}").is_err());
    }
}
