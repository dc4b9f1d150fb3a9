//! What the operator configured: `sallyport.yaml` and `policy.yaml`, read and checked.
//!
//! The raw shapes are what may stand in the files; [`Config`] and [`policy::Policy`] are what is left after every check.
//! An unknown key, a host twice, a file that isn't there: an error, never a default.

pub mod policy_file;
mod presets;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use policy::HostName;
use serde::Deserialize;

use credentials::Credentials;
use outbound::dns::nameservers::MAX_NAMESERVERS;
use outbound::upstreams::{Upstream, Upstreams};

/// The checked configuration of one gateway.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where Envoy listens for sandboxes: the explicit proxy. Port 0 is any free port, chosen at the start.
    pub proxy: SocketAddr,
    /// Where the admin API listens. Port 0 is any free port, chosen at the start.
    pub admin: SocketAddr,
    /// Whom the HTTP API lets in.
    pub admin_auth: AdminAuth,
    /// Where Envoy listens for its own DNS queries, which it passes on to our resolver. TCP. Port 0 is any free port.
    pub resolver: SocketAddr,
    /// The nameservers that the resolver asks; empty is the system's.
    pub nameservers: Vec<SocketAddr>,
    /// The state directory, where neither the command line nor the environment names one.
    pub state_dir: Option<PathBuf>,
    /// The policy file.
    pub policy_file: PathBuf,
    /// Hosts that the operator has pinned.
    pub pins: BTreeMap<HostName, Upstream>,
    /// What may be added to requests, and where.
    pub credentials: Arc<Credentials>,
    /// The roots that upstreams are verified against, where they are not the system's.
    upstream_roots: Option<PathBuf>,
}

/// Whom the operator's HTTP API lets in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminAuth {
    /// The programs of its own machine.
    Loopback,
    /// Whoever has the token.
    Token,
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
    /// The file is no YAML, or not of the expected shape.
    #[error("{path}{place}: {problem}")]
    Shape {
        /// Which.
        path: String,
        /// `:line:column`, where known.
        place: String,
        /// What is wrong and what would be right.
        problem: String,
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
    admin_token: Option<RawAdminToken>,
    nameservers: Option<Vec<SocketAddr>>,
    state_dir: Option<PathBuf>,
    policy: Option<PathBuf>,
    upstream_roots: Option<PathBuf>,
    upstreams: BTreeMap<String, RawUpstream>,
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

/// The one thing that can be said of the token; where it is kept is no choice.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawAdminToken {
    Required,
}

impl Default for RawListen {
    fn default() -> Self {
        Self {
            proxy: SocketAddr::from(([0, 0, 0, 0], 8080)),
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
        // What other machines can reach is never without a token, whether that is asked for or not.
        let admin_auth = match raw.admin_token {
            None if raw.listen.admin.ip().is_loopback() => AdminAuth::Loopback,
            None | Some(RawAdminToken::Required) => AdminAuth::Token,
        };
        if !raw.listen.resolver.ip().is_loopback() {
            return Err(value(
                "listen.resolver".into(),
                "the resolver is for Envoy alone; use an address in 127.0.0.0/8 or [::1]".into(),
            ));
        }
        let nameservers = nameservers(raw.nameservers, raw.listen.resolver)
            .map_err(|problem| value("nameservers".into(), problem.into()))?;
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
            upstream_roots: raw.upstream_roots.map(|path| base.join(path)),
        })
    }

    /// Where requests go, and the roots that upstreams are verified against.
    ///
    /// # Errors
    /// If the configured file cannot be read, or the system has no roots.
    pub fn upstreams(&self) -> Result<Upstreams, Error> {
        Ok(Upstreams { pins: self.pins.clone(), roots_pem: self.roots_pem()? })
    }

    /// The roots that upstreams are verified against, PEM.
    ///
    /// # Errors
    /// The configured file cannot be read, or the system has none.
    pub fn roots_pem(&self) -> Result<String, Error> {
        match &self.upstream_roots {
            Some(file) => read(file),
            None => SYSTEM_ROOTS.iter().find_map(|file| std::fs::read_to_string(file).ok()).ok_or(Error::NoRoots),
        }
    }
}

/// Checks the nameservers; none at all stands for the system's.
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
    serde_yaml::from_str(text).map_err(|error: serde_yaml::Error| {
        let place = error.location().map(|at| format!(":{}:{}", at.line(), at.column())).unwrap_or_default();
        let message = error.to_string();
        // The place stands in front already.
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
        let shipped = Config::load(Some(&root.join("sallyport.yaml"))).unwrap();
        let github = HostName::parse(b"github.com").unwrap();
        assert!(
            policy_file::load(&shipped.policy_file, &shipped.credentials).unwrap().egress.access(&github).is_some()
        );
    }

    #[test]
    fn the_admin_api_needs_its_token_wherever_others_can_reach_it() {
        for (text, auth) in [
            ("", AdminAuth::Loopback),
            ("listen: {admin: '127.0.0.2:8081'}", AdminAuth::Loopback),
            ("listen: {admin: '[::1]:8081'}", AdminAuth::Loopback),
            ("admin_token: required", AdminAuth::Token),
            ("listen: {admin: '0.0.0.0:8081'}", AdminAuth::Token),
            ("listen: {admin: '[::]:8081'}", AdminAuth::Token),
            ("listen: {admin: '10.0.0.1:8081'}\nadmin_token: required", AdminAuth::Token),
        ] {
            assert_eq!(config(text).unwrap().admin_auth, auth, "{text}");
        }
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
        let twice = "upstreams: {GitHub.com: {address: a, ca: ca.pem}, github.com: {address: b, ca: ca.pem}}";
        assert!(config(twice).unwrap_err().to_string().contains("twice"));
        assert!(config("upstreams: {github.com: {address: a, ca: nope.pem}}").is_err());
        let also = config("credentials:\n  gemini: false\n  openai:\n    also: [fils]\n").unwrap_err().to_string();
        assert!(also.contains("sallyport.yaml:4:") && also.contains("expected some of audio, batches"), "{also}");
        let credentials = config("credentials: {x: {host: api.example.com, from: {env: X, ttl: 5m}}}");
        assert!(credentials.unwrap_err().to_string().contains("credentials.x.from.ttl: "));
    }
}
