//! The operator's configuration: `sallyport.yaml` and `policy.yaml`, parsed and checked.
//!
//! The raw types mirror the files. [`Config`] and [`policy::Policy`] are the result after every check. An unknown key,
//! a duplicate host or a missing file is an error, never a default.

mod limits;
pub mod policy_file;
mod presets;
mod push_keys;

pub use limits::Limits;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use policy::HostName;
use serde::Deserialize;

use credentials::Credentials;
use credentials::budget::HOURLY;
use outbound::dns::nameservers::MAX_NAMESERVERS;
use outbound::upstreams::{Upstream, Upstreams};

/// The checked configuration of one gateway.
#[derive(Clone, Debug)]
pub struct Config {
    /// The address on which Envoy listens for sandboxes (explicit proxy). Port 0 means any free port, chosen at the
    /// start.
    pub proxy: SocketAddr,
    /// The address of the admin API. Port 0 means any free port, chosen at the start.
    pub admin: SocketAddr,
    /// How the HTTP API authorizes callers.
    pub admin_auth: AdminAuth,
    /// The TCP address on which Envoy listens for its own DNS queries, which it forwards to the gateway's resolver.
    /// Port 0 means any free port.
    pub resolver: SocketAddr,
    /// The nameservers that the resolver queries. Empty means the system's.
    pub nameservers: Vec<SocketAddr>,
    /// The state directory, if neither the command line nor the environment gives one.
    pub state_dir: Option<PathBuf>,
    /// The policy file.
    pub policy_file: PathBuf,
    /// The pinned hosts.
    pub pins: BTreeMap<HostName, Upstream>,
    /// The credentials that may be added to requests, with their hosts.
    pub credentials: Arc<Credentials>,
    /// The calls to GitHub's API that the gateway makes for one container within an hour.
    pub github_calls: u32,
    /// The limits of sandboxes and of Envoy.
    pub limits: Limits,
    /// The roots that upstreams are verified against. `None` means the system's.
    upstream_roots: Option<PathBuf>,
}

/// How the operator's HTTP API authorizes callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminAuth {
    /// By loopback: programs on the same machine are authorized. Only if the operator says so.
    Loopback,
    /// By the token.
    Token,
}

/// The configuration is invalid.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file can't be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// The cause.
        source: std::io::Error,
    },
    /// The file is not valid YAML, or not of the expected structure.
    #[error("{path}{place}: {problem}")]
    Shape {
        /// The file.
        path: String,
        /// `:line:column`, if known.
        place: String,
        /// The problem, and what is expected.
        problem: String,
    },
    /// A value has the right type but is invalid.
    #[error("{path}: {key}: {problem}")]
    Value {
        /// The file.
        path: String,
        /// The key.
        key: String,
        /// The problem, and what is expected.
        problem: String,
    },
    /// This machine has no trusted roots.
    #[error("no system CA certificates found; install ca-certificates, or set `upstream_roots` to a PEM file")]
    NoRoots,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawConfig {
    listen: RawListen,
    admin_token: Option<RawAdminToken>,
    nameservers: Option<Vec<SocketAddr>>,
    state_dir: Option<PathBuf>,
    policy: Option<PathBuf>,
    upstream_roots: Option<PathBuf>,
    upstreams: BTreeMap<String, RawUpstream>,
    github_calls_per_hour: Option<NonZeroU32>,
    limits: limits::Raw,
    #[serde(deserialize_with = "credentials::raws")]
    credentials: BTreeMap<String, credentials::Raw>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawListen {
    proxy: SocketAddr,
    admin: SocketAddr,
    resolver: SocketAddr,
}

/// The values of `admin_token`. The token's file can't be configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawAdminToken {
    Required,
    None,
}

impl Default for RawListen {
    fn default() -> Self {
        Self {
            proxy: SocketAddr::from(([127, 0, 0, 1], 8080)),
            admin: SocketAddr::from(([127, 0, 0, 1], 8081)),
            resolver: SocketAddr::from(([127, 0, 0, 1], 8054)),
        }
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

/// The file that is read if the command line gives none.
pub const DEFAULT_FILE: &str = "config/sallyport.yaml";

impl Config {
    /// Reads `file`. Without a `file` it reads [`DEFAULT_FILE`] if that exists, and else uses the built-in defaults.
    /// Paths in the file are relative to the file.
    ///
    /// # Errors
    /// If the file is invalid, or if it names a file that can't be read.
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
        let admin_auth = match raw.admin_token {
            None | Some(RawAdminToken::Required) => AdminAuth::Token,
            Some(RawAdminToken::None) if raw.listen.admin.ip().is_loopback() => AdminAuth::Loopback,
            Some(RawAdminToken::None) => {
                let problem = format!(
                    "none is for a loopback address only, and listen.admin is {}; use required",
                    raw.listen.admin
                );
                return Err(value("admin_token".into(), problem));
            }
        };
        if !raw.listen.resolver.ip().is_loopback() {
            return Err(value(
                "listen.resolver".into(),
                "the resolver is for Envoy alone; use an address in 127.0.0.0/8 or [::1]".into(),
            ));
        }
        let nameservers = nameservers(raw.nameservers, raw.listen.resolver)
            .map_err(|problem| value("nameservers".into(), problem.into()))?;
        let limits = Limits::check(&raw.limits).map_err(|(key, problem)| value(format!("limits.{key}"), problem))?;
        let mut pins = BTreeMap::new();
        for (name, upstream) in raw.upstreams {
            let key = format!("upstreams.{name}");
            let host = HostName::parse(name.as_bytes()).map_err(|error| value(key.clone(), error.to_string()))?;
            let ca = base.join(&upstream.ca);
            let checked = Upstream { address: upstream.address, port: upstream.port, ca_pem: read(&ca)? };
            if pins.insert(host, checked).is_some() {
                return Err(value(key, "this host stands here twice, in different spellings".into()));
            }
        }
        let credentials = credentials::read(&raw.credentials, base, &|name| std::env::var_os(name))
            .map_err(|at| value(format!("credentials.{}", at.key), at.problem))?;
        Ok(Self {
            proxy: raw.listen.proxy,
            admin: raw.listen.admin,
            admin_auth,
            resolver: raw.listen.resolver,
            nameservers,
            state_dir: raw.state_dir.map(|directory| base.join(directory)),
            policy_file: base.join(raw.policy.unwrap_or_else(|| "policy.yaml".into())),
            pins,
            credentials: Arc::new(credentials),
            github_calls: raw.github_calls_per_hour.map_or(HOURLY, NonZeroU32::get),
            limits,
            upstream_roots: raw.upstream_roots.map(|path| base.join(path)),
        })
    }

    /// The pinned hosts, and the roots that upstreams are verified against.
    ///
    /// # Errors
    /// If the configured file cannot be read, or the system has no roots.
    pub fn upstreams(&self) -> Result<Upstreams, Error> {
        Ok(Upstreams { pins: self.pins.clone(), roots_pem: self.roots_pem()? })
    }

    /// The roots that upstreams are verified against, PEM.
    ///
    /// # Errors
    /// If the configured file can't be read, or if the system has no roots.
    pub fn roots_pem(&self) -> Result<String, Error> {
        match &self.upstream_roots {
            Some(file) => read(file),
            None => SYSTEM_ROOTS.iter().find_map(|file| std::fs::read_to_string(file).ok()).ok_or(Error::NoRoots),
        }
    }
}

/// Checks the nameservers. `None` means the system's.
fn nameservers(named: Option<Vec<SocketAddr>>, resolver: SocketAddr) -> Result<Vec<SocketAddr>, &'static str> {
    let Some(named) = named else { return Ok(Vec::new()) };
    if named.is_empty() {
        return Err("an empty list resolves nothing; leave the key out for the system's nameservers");
    }
    if named.len() > MAX_NAMESERVERS {
        return Err("at most three nameservers are asked");
    }
    if named.contains(&resolver) {
        return Err("listen.resolver stands here, which would ask itself");
    }
    if named.iter().any(|server| server.ip().is_unspecified() || server.ip().is_multicast() || server.port() == 0) {
        return Err("a nameserver is an address and a port, such as 10.0.0.1:53");
    }
    Ok(named)
}

/// The bundle's path in Linux distributions: Debian, Fedora, openSUSE, Alpine.
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
    // YAML parses an empty document as null. For an operator it is a file without keys.
    let text =
        if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) { "{}" } else { text };
    serde_yaml::from_str(text).map_err(|error: serde_yaml::Error| {
        let place = error.location().map(|at| format!(":{}:{}", at.line(), at.column())).unwrap_or_default();
        let message = error.to_string();
        // The message begins with the place already.
        let problem = message.rsplit_once(" at line ").map_or(message.as_str(), |(problem, _)| problem).to_owned();
        Error::Shape { path: file.display().to_string(), place, problem }
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn config(text: &str) -> Result<Config, Error> {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("sallyport.yaml");
        std::fs::write(directory.path().join("ca.pem"), "PEM").unwrap();
        std::fs::write(&file, text).unwrap();
        Config::load(Some(&file))
    }

    #[test]
    fn the_files_that_are_shipped_are_understood() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config");
        for file in ["sallyport.yaml", "sallyport.yaml.example"] {
            let shipped = Config::load(Some(&root.join(file))).unwrap();
            assert!(shipped.proxy.ip().is_loopback() && shipped.admin_auth == AdminAuth::Token, "{file}");
        }
        let compose = Config::load(Some(&root.join("compose.yaml"))).unwrap();
        assert!(compose.proxy.ip().is_unspecified() && compose.admin_auth == AdminAuth::Token);
        let shipped = Config::load(Some(&root.join("sallyport.yaml"))).unwrap();
        let built_in = RawListen::default();
        assert_eq!((shipped.proxy, shipped.admin), (built_in.proxy, built_in.admin));
        let github = HostName::parse(b"github.com").unwrap();
        assert!(
            policy_file::load(&shipped.policy_file, &shipped.credentials).unwrap().egress.access(&github).is_some()
        );
    }

    #[test]
    fn the_admin_api_needs_its_token_wherever_others_can_reach_it() {
        for (text, auth) in [
            ("", AdminAuth::Token),
            ("listen: {admin: '127.0.0.2:8081'}", AdminAuth::Token),
            ("admin_token: none", AdminAuth::Loopback),
            ("listen: {admin: '127.0.0.2:8081'}\nadmin_token: none", AdminAuth::Loopback),
            ("listen: {admin: '[::1]:8081'}\nadmin_token: none", AdminAuth::Loopback),
            ("admin_token: required", AdminAuth::Token),
            ("listen: {admin: '0.0.0.0:8081'}", AdminAuth::Token),
            ("listen: {admin: '[::]:8081'}", AdminAuth::Token),
            ("listen: {admin: '10.0.0.1:8081'}\nadmin_token: required", AdminAuth::Token),
        ] {
            assert_eq!(config(text).unwrap().admin_auth, auth, "{text}");
        }
        let open = config("listen: {admin: '0.0.0.0:8081'}\nadmin_token: none").unwrap_err().to_string();
        assert!(open.contains("admin_token: none is for a loopback address only"), "{open}");
        for text in ["admin_token: optional", "admin_token: false", "admin_token: Required"] {
            assert!(config(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_not_understood_is_an_error_that_says_where() {
        assert!(config("listen: {prxy: 1}").unwrap_err().to_string().contains("sallyport.yaml:1:"));
        for (text, hint) in [
            ("listen: {resolver: '0.0.0.0:8054'}", "for Envoy alone"),
            ("nameservers: []", "leave the key out"),
            ("nameservers: ['127.0.0.1:8054']", "ask itself"),
            ("nameservers: ['10.0.0.1:0']", "10.0.0.1:53"),
            ("nameservers: ['10.0.0.1']", "sallyport.yaml:1:"),
            ("nameservers: ['10.0.0.1:53', '10.0.0.2:53', '10.0.0.3:53', '10.0.0.4:53']", "at most three"),
        ] {
            let message = config(text).unwrap_err().to_string();
            assert!(message.contains(hint), "{text}: {message}");
        }
        assert_eq!(config("nameservers: ['10.0.0.1:53', '[fd00::1]:5353']").unwrap().nameservers.len(), 2);
        assert_eq!(config("").unwrap().github_calls, 1_000);
        assert_eq!(config("github_calls_per_hour: 7").unwrap().github_calls, 7);
        for odd in ["0", "-1", "1.5", "many", "5000000000"] {
            assert!(config(&format!("github_calls_per_hour: {odd}")).is_err(), "{odd}");
        }
        let twice = "upstreams: {GitHub.com: {address: a, ca: ca.pem}, github.com: {address: b, ca: ca.pem}}";
        assert!(config(twice).unwrap_err().to_string().contains("twice"));
        assert!(config("upstreams: {github.com: {address: a, ca: nope.pem}}").is_err());
        let also = config("credentials:\n  gemini: false\n  openai:\n    also: [fils]\n").unwrap_err().to_string();
        assert!(also.contains("sallyport.yaml:4:") && also.contains("expected some of audio, batches"), "{also}");
        let credentials = config("credentials: {x: {host: api.example.com, from: {env: X, ttl: 5m}}}");
        assert!(credentials.unwrap_err().to_string().contains("credentials.x.from.ttl: "));
    }
}
