//! Queries the nameservers: the configured ones, or the system's. Changes to `/etc/resolv.conf` take effect at once.
//! Returns every address of a name, following CNAMEs, and filters none.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts, ServerOrderingStrategy,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, RecordType};

/// The timeout of one query, including retries, TCP and CNAMEs. Envoy's resolver waits longer (cluster.rs), so that it
/// never repeats a query that is still under way.
pub const DEADLINE: Duration = Duration::from_secs(4);

/// The timeout of one attempt.
const ATTEMPT: Duration = Duration::from_millis(1_500);
/// The number of attempts after the first.
const RETRIES: usize = 1;

/// The largest response over UDP, in bytes. Larger responses use TCP. The value is from DNS flag day 2020, and avoids
/// fragments.
const UDP_ANSWER: u16 = 1_232;

/// The most nameservers, in /etc/resolv.conf (as for glibc, resolv.h: MAXNS) and in the configuration.
pub const MAX_NAMESERVERS: usize = 3;

/// The file that lists the system's nameservers.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The port of DNS.
const PORT: u16 = 53;

/// Why a lookup failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The name does not exist.
    #[error("there is no such name")]
    NoSuchName,
    /// A nameserver returned an error.
    #[error("the nameserver answers {0}")]
    Answered(ResponseCode),
    /// No nameserver responded.
    #[error("no nameserver answers ({servers}): {problem}")]
    Silent {
        /// The nameservers, or the file that should list them.
        servers: String,
        /// The problem.
        problem: String,
    },
}

/// The nameservers.
#[derive(Debug)]
pub struct Nameservers {
    /// The configured nameservers. Empty means the system's.
    configured: Vec<SocketAddr>,
    current: Mutex<Option<Current>>,
    outstanding: usize,
}

/// A resolver, and the list of nameservers that it was made for.
#[derive(Clone, Debug)]
struct Current {
    /// The modification time of the system's list. `None` for configured nameservers.
    written: Option<SystemTime>,
    servers: Arc<str>,
    resolver: Arc<TokioResolver>,
}

impl Nameservers {
    /// Queries `configured`, or the system's nameservers if it is empty. At most `outstanding` queries are under way at
    /// a time.
    pub fn new(configured: Vec<SocketAddr>, outstanding: usize) -> Self {
        Self { configured, current: Mutex::default(), outstanding }
    }

    /// The addresses of one record type for `name`, each with its TTL in seconds. Empty if the name has no such
    /// records.
    ///
    /// # Errors
    /// If the name does not exist, or if no nameserver can tell.
    pub async fn lookup(&self, name: Name, kind: RecordType) -> Result<Vec<(IpAddr, u32)>, Failure> {
        let Current { resolver, servers, .. } = self.current()?;
        let silent = |problem: String| Failure::Silent { servers: servers.to_string(), problem };
        let answer = match tokio::time::timeout(DEADLINE, resolver.lookup(name, kind)).await {
            Err(_) => return Err(silent(format!("no response within {} s", DEADLINE.as_secs()))),
            Ok(Err(NetError::Dns(DnsError::NoRecordsFound(none)))) => {
                return match none.response_code {
                    ResponseCode::NoError => Ok(Vec::new()),
                    ResponseCode::NXDomain => Err(Failure::NoSuchName),
                    code => Err(Failure::Answered(code)),
                };
            }
            Ok(Err(NetError::Dns(DnsError::ResponseCode(code)))) => return Err(Failure::Answered(code)),
            Ok(Err(error)) => return Err(silent(error.to_string())),
            Ok(Ok(answer)) => answer,
        };
        let addresses = answer.answers().iter().filter_map(|record| match &record.data {
            RData::A(address) => Some((IpAddr::V4(address.0), record.ttl)),
            RData::AAAA(address) => Some((IpAddr::V6(address.0), record.ttl)),
            _ => None,
        });
        Ok(addresses.collect())
    }

    /// The resolver for the current list of nameservers.
    fn current(&self) -> Result<Current, Failure> {
        let written = if self.configured.is_empty() {
            std::fs::metadata(RESOLV_CONF).and_then(|file| file.modified()).ok()
        } else {
            None
        };
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(current) = current.as_ref().filter(|current| current.written == written) {
            return Ok(current.clone());
        }
        let servers =
            if self.configured.is_empty() { system(Path::new(RESOLV_CONF))? } else { self.configured.clone() };
        let shown: Vec<String> = servers.iter().map(ToString::to_string).collect();
        let shown: Arc<str> = shown.join(", ").into();
        let resolver = resolver(&servers, self.outstanding)
            .map_err(|error| Failure::Silent { servers: shown.to_string(), problem: error.to_string() })?;
        tracing::info!(nameservers = %shown, "names are resolved by these nameservers");
        let fresh = Current { written, servers: shown, resolver: Arc::new(resolver) };
        *current = Some(fresh.clone());
        Ok(fresh)
    }
}

fn system(file: &Path) -> Result<Vec<SocketAddr>, Failure> {
    let failure = |problem: String| Failure::Silent { servers: file.display().to_string(), problem };
    let text = std::fs::read_to_string(file).map_err(|error| failure(error.to_string()))?;
    let servers = parse(&text);
    if servers.is_empty() { Err(failure("no nameserver in the file".to_owned())) } else { Ok(servers) }
}

/// Parses the `nameserver` lines of a resolv.conf(5). Addresses with a zone are left out, because a zone is not a
/// number.
fn parse(text: &str) -> Vec<SocketAddr> {
    let addresses = text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let address = words.next().filter(|word| *word == "nameserver").and_then(|_| words.next())?;
        Some(SocketAddr::new(address.parse().ok()?, PORT))
    });
    addresses.take(MAX_NAMESERVERS).collect()
}

fn resolver(servers: &[SocketAddr], outstanding: usize) -> Result<TokioResolver, NetError> {
    let config = servers.iter().map(|server| {
        let at = |mut connection: ConnectionConfig| {
            connection.port = server.port();
            connection
        };
        NameServerConfig::new(server.ip(), true, vec![at(ConnectionConfig::udp()), at(ConnectionConfig::tcp())])
    });
    let mut options = ResolverOpts::default();
    options.timeout = ATTEMPT;
    options.attempts = RETRIES;
    options.edns_payload_len = UDP_ANSWER;
    options.max_active_requests = outstanding;
    // No cache, so that a change of the policy takes effect at once. No hosts file: its names are local.
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    options.server_ordering_strategy = ServerOrderingStrategy::UserProvidedOrder;
    TokioResolver::builder_with_config(
        ResolverConfig::from_parts(None, Vec::new(), config.collect()),
        TokioRuntimeProvider::default(),
    )
    .with_options(options)
    .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_s_nameservers() {
        let text = "# nameserver 9.9.9.9\nsearch example.com\nnameserver 10.0.0.1\n nameserver\t::1 # local\n\
                    nameserver fe80::1%eth0\nnameserver x\nnameserver\nnameserver 10.0.0.2\nnameserver 10.0.0.3\n";
        let found: Vec<String> = parse(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["10.0.0.1:53", "[::1]:53", "10.0.0.2:53"]);
    }
}
