//! The operator's configuration: `sallyport.yaml` and `policy.yaml`, parsed and checked.
//!
//! The raw types mirror the files. [`Config`] and [`policy::Policy`] are the result after every check. An unknown key,
//! a duplicate host or a missing file is an error, never a default.

mod address;
mod document;
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

use policy::{HostName, HostPattern};
use serde::Deserialize;

use address::Address;
use credentials::Credentials;
use credentials::budget::HOURLY;
use document::Document;
use outbound::dns::nameservers::MAX_NAMESERVERS;
use outbound::upstreams::{Proxy, Upstream, Upstreams};

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
    /// The operator's proxy for all other hosts.
    pub upstream_proxy: Option<Proxy>,
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
    #[error("{path}{place}: {key}: {problem}")]
    Value {
        /// The file.
        path: String,
        /// `:line:column` of the value, or of the one around it. Empty if neither is known.
        place: String,
        /// The key.
        key: String,
        /// The problem, and what is expected.
        problem: String,
    },
    /// The file of `upstream_roots` can't be used.
    #[error("upstream_roots: {0}")]
    Roots(String),
    /// This machine has no trusted roots.
    #[error("no system CA certificates found; install ca-certificates, or set `upstream_roots` to a PEM file")]
    NoRoots,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawConfig {
    listen: RawListen,
    admin_token: Option<RawAdminToken>,
    nameservers: Option<Vec<Address>>,
    state_dir: Option<PathBuf>,
    policy: Option<PathBuf>,
    upstream_roots: Option<PathBuf>,
    upstreams: BTreeMap<String, RawUpstream>,
    upstream_proxy: Option<RawProxy>,
    github_calls_per_hour: Option<NonZeroU32>,
    limits: limits::Raw,
    #[serde(deserialize_with = "credentials::raws")]
    credentials: BTreeMap<String, credentials::Raw>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawListen {
    proxy: Address,
    admin: Address,
    resolver: Address,
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
        let [proxy, admin, resolver] = [8080, 8081, 8054].map(|port| Address(SocketAddr::from(([127, 0, 0, 1], port))));
        Self { proxy, admin, resolver }
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

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawProxy {
    url: String,
    #[serde(default)]
    except: Vec<String>,
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
        match file {
            Some(file) => {
                let text = read(file)?;
                let document = Document::new(&text, file);
                let base = file.parent().map(Path::to_owned).unwrap_or_default();
                Self::check(document.parse()?, &base, &|key, problem| document.wrong(key, problem))
            }
            None => {
                let path = "the built-in configuration";
                let wrong = |key, problem| Error::Value { path: path.into(), place: String::new(), key, problem };
                Self::check(RawConfig::default(), Path::new("config"), &wrong)
            }
        }
    }

    /// Checks the values. `value` makes the error that a key has a problem.
    fn check(raw: RawConfig, base: &Path, value: &dyn Fn(String, String) -> Error) -> Result<Self, Error> {
        let Address(admin) = raw.listen.admin;
        let Address(resolver) = raw.listen.resolver;
        let admin_auth = match raw.admin_token {
            None | Some(RawAdminToken::Required) => AdminAuth::Token,
            Some(RawAdminToken::None) if admin.ip().is_loopback() => AdminAuth::Loopback,
            Some(RawAdminToken::None) => {
                let problem = format!("none is for a loopback address only, and listen.admin is {admin}; use required");
                return Err(value("admin_token".into(), problem));
            }
        };
        if !resolver.ip().is_loopback() {
            return Err(value(
                "listen.resolver".into(),
                "the resolver is for Envoy alone; use an address in 127.0.0.0/8 or [::1]".into(),
            ));
        }
        let nameservers =
            nameservers(raw.nameservers, resolver).map_err(|problem| value("nameservers".into(), problem.into()))?;
        let limits = Limits::check(&raw.limits).map_err(|(key, problem)| value(format!("limits.{key}"), problem))?;
        let mut pins = BTreeMap::new();
        for (name, upstream) in raw.upstreams {
            let key = format!("upstreams.{name}");
            let host = pinned(&name).map_err(|problem| value(key.clone(), problem))?;
            address::check_pinned(&upstream.address).map_err(|problem| value(format!("{key}.address"), problem))?;
            let ca_pem =
                certificates(&base.join(&upstream.ca)).map_err(|problem| value(format!("{key}.ca"), problem))?;
            let checked = Upstream { address: upstream.address, port: upstream.port, ca_pem };
            if pins.insert(host, checked).is_some() {
                return Err(value(key, "this host stands here twice, in different spellings".into()));
            }
        }
        let upstream_proxy = raw.upstream_proxy.map(proxy).transpose();
        let upstream_proxy =
            upstream_proxy.map_err(|(key, problem)| value(format!("upstream_proxy.{key}"), problem))?;
        let credentials = credentials::read(&raw.credentials, base, &|name| std::env::var_os(name))
            .map_err(|at| value(format!("credentials.{}", at.key), at.problem))?;
        Ok(Self {
            proxy: raw.listen.proxy.0,
            admin,
            admin_auth,
            resolver,
            nameservers,
            state_dir: raw.state_dir.map(|directory| base.join(directory)),
            policy_file: base.join(raw.policy.unwrap_or_else(|| "policy.yaml".into())),
            pins,
            upstream_proxy,
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
        Ok(Upstreams { pins: self.pins.clone(), proxy: self.upstream_proxy.clone(), roots_pem: self.roots_pem()? })
    }

    /// The same for a command, whose requests fail where the roots can't be read.
    pub fn upstreams_of_a_command(&self) -> Upstreams {
        let roots_pem = self.roots_pem().unwrap_or_default();
        Upstreams { pins: self.pins.clone(), proxy: self.upstream_proxy.clone(), roots_pem }
    }

    /// The roots that upstreams are verified against, PEM.
    ///
    /// # Errors
    /// If the configured file can't be read, or if the system has no roots.
    pub fn roots_pem(&self) -> Result<String, Error> {
        match &self.upstream_roots {
            Some(file) => certificates(file).map_err(Error::Roots),
            None => SYSTEM_ROOTS.iter().find_map(|file| std::fs::read_to_string(file).ok()).ok_or(Error::NoRoots),
        }
    }
}

/// Checks the nameservers. `None` means the system's.
fn nameservers(named: Option<Vec<Address>>, resolver: SocketAddr) -> Result<Vec<SocketAddr>, &'static str> {
    let Some(named) = named else { return Ok(Vec::new()) };
    let named: Vec<SocketAddr> = named.into_iter().map(|Address(server)| server).collect();
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

/// Checks `upstream_proxy`. The error is the key and the problem.
fn proxy(raw: RawProxy) -> Result<Proxy, (String, String)> {
    let (address, port) = address::proxy(&raw.url).map_err(|problem| ("url".to_owned(), problem))?;
    let except = raw.except.iter().enumerate().map(|(index, name)| {
        HostPattern::parse(name).map_err(|error| (format!("except[{index}]"), format!("{name:?}: {error}")))
    });
    Ok(Proxy { address, port, except: except.collect::<Result<_, _>>()? })
}

/// The host of an entry of `upstreams`.
fn pinned(name: &str) -> Result<HostName, String> {
    match HostPattern::parse(name) {
        Ok(HostPattern::Exact(host)) => Ok(host),
        Ok(HostPattern::Below(_)) => Err("an entry is for one exact name, not for all names below a suffix".into()),
        Err(error) => Err(error.to_string()),
    }
}

/// Reads a file of CA certificates.
///
/// # Errors
/// If the file can't be read, or has no certificate.
fn certificates(file: &Path) -> Result<String, String> {
    let pem = read(file).map_err(|error| error.to_string())?;
    if pem.contains("-----BEGIN CERTIFICATE-----") {
        Ok(pem)
    } else {
        Err(format!(
            "{} has no certificate; it must have one or more in PEM, -----BEGIN CERTIFICATE-----",
            file.display()
        ))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn config(text: &str) -> Result<Config, Error> {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("sallyport.yaml");
        std::fs::write(directory.path().join("ca.pem"), "-----BEGIN CERTIFICATE-----").unwrap();
        std::fs::write(directory.path().join("empty.pem"), "").unwrap();
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
        assert_eq!((shipped.proxy, shipped.admin), (built_in.proxy.0, built_in.admin.0));
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
            (
                "nameservers: ['10.0.0.1']",
                "sallyport.yaml:1:15: nameservers[0]: \"10.0.0.1\" has no port; write it as 10.0.0.1:8080",
            ),
            (
                "listen: {proxy: 'http://127.0.0.1:8080'}",
                ":1:17: listen.proxy: \"http://127.0.0.1:8080\" is a URL; write its IP",
            ),
            ("listen: {proxy: 'localhost:8080'}", "names are not resolved here"),
            (
                "listen: {admin: 8081}",
                ":1:17: listen.admin: \"8081\" is no IP address with a port; write it as 127.0.0.1:8080",
            ),
            (
                "listen:\n  # proxy: 127.0.0.1:1\nadmin_token: none",
                "sallyport.yaml:1:8: listen: no value; write [] or {}",
            ),
            ("upstream_proxy: http://proxy.corp:3128", "upstream_proxy: invalid type: string"),
            (
                "upstream_proxy: {url: 'https://proxy.corp:3128'}",
                ":1:23: upstream_proxy.url: \"https://proxy.corp:3128\" is no URL",
            ),
            ("upstream_proxy: {url: 'http://a:b@proxy.corp:3128'}", "sends no credential to a proxy"),
            (
                "upstream_proxy: {url: 'http://proxy.corp:3128', except: [git.example.com, 10.0.0.1]}",
                "upstream_proxy.except[1]: ",
            ),
            ("state_dir:\n", "state_dir: no value"),
            ("upstreams: {git.example.com: }", "upstreams.git.example.com: "),
            ("credentials:\n  openai:\n", "credentials.openai: "),
            (
                "credentials:\n  anthropic: {from: {file: }}\n",
                "sallyport.yaml:2:28: credentials.anthropic.from.file: no value",
            ),
            (
                "credentials:\n  x:\n    host: https://api.example.com/\n    from: {env: X}\n",
                "sallyport.yaml:3:11: credentials.x.host: \"https://api.example.com/\": a URL; write its host name alone",
            ),
            ("credentials:\n  x: {from: {env: X}}\n", "sallyport.yaml:2:6: credentials.x.host: is required"),
            (
                "upstreams:\n  https://git.example.com: {address: a, ca: ca.pem}",
                "sallyport.yaml:2:28: upstreams.https://git.example.com: a URL; write",
            ),
            (
                "upstreams:\n  git.example.com:443: {address: a, ca: ca.pem}",
                "a host name with a port; write the name alone",
            ),
            ("upstreams:\n  '*.example.com': {address: a, ca: ca.pem}", "for one exact name"),
            (
                "upstreams:\n  git.example.com: {address: 'https://a', ca: ca.pem}",
                ":2:30: upstreams.git.example.com.address: \"https://a\" is no IP address and no name; write 10.0.0.7",
            ),
            ("upstreams:\n  git.example.com: {address: a, ca: empty.pem}", ":2:37: upstreams.git.example.com.ca: "),
            ("upstreams:\n  git.example.com: {address: a, ca: nope.pem}", "nope.pem: No such file"),
            ("nameservers: ['10.0.0.1:53', '10.0.0.2:53', '10.0.0.3:53', '10.0.0.4:53']", "at most three"),
        ] {
            let message = config(text).unwrap_err().to_string();
            assert!(message.contains(hint), "{text}: {message}");
        }
        let proxied =
            config("upstream_proxy: {url: 'http://proxy.corp:3128/', except: [git.example.com, '*.example.org']}");
        let proxy = proxied.unwrap().upstream_proxy.unwrap();
        assert_eq!((proxy.address.as_str(), proxy.port, proxy.except.len()), ("proxy.corp", 3128, 2));
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
