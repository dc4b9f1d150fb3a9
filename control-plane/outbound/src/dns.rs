//! The DNS resolver for Envoy. Envoy uses no other resolver (xds/src/resources/cluster.rs), and gets only public addresses
//! of allowed names.
//!
//! Each query is checked against the policy in force, and nothing is cached. Names that are not allowed are not looked
//! up anywhere. The identity stage, not this module, decides which container may reach a name.
//!
//! **Invariant:** no response contains an address that is not public, or an address of this machine.

pub mod nameservers;
pub mod public;
pub mod server;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::rdata::{A, AAAA};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use jiff::Timestamp;
use policy::HostName;

use base::problems::Problems;
use nameservers::{Failure, Nameservers};
use registry::Registry;

/// The most addresses in one response. Further addresses are left out. Envoy tries one after the other.
const MAX_ADDRESSES: usize = 16;

/// The limits for the TTL of a response, in seconds. At least one second, so that Envoy does not send a query for each
/// request. At most a minute, so that Envoy soon notices when a host moves.
const TTL: std::ops::RangeInclusive<u32> = 1..=60;

/// The number of consecutive queries without a response after which a problem is reported. One name takes two queries.
const SILENT: u32 = 3;

/// How long a warning about a name is not repeated.
const QUIET: Duration = Duration::from_secs(60);
/// The most names that are remembered for [`QUIET`]. Beyond this number, warnings may be repeated.
const QUIET_NAMES: usize = 1_024;

/// Resolves names for Envoy and for the gateway's own requests.
#[derive(Debug)]
pub struct Resolver {
    registry: Arc<Registry>,
    nameservers: Nameservers,
    problems: Problems,
    /// The number of consecutive queries without a response from a nameserver.
    silent: AtomicU32,
    /// The names with a recent warning, and the time of the warning.
    said: Mutex<HashMap<HostName, Instant>>,
}

impl Resolver {
    /// Resolves the names that the registry's policy and records allow, by querying `nameservers`.
    pub fn new(nameservers: Nameservers, registry: Arc<Registry>, problems: Problems) -> Self {
        Self { registry, nameservers, problems, silent: AtomicU32::new(0), said: Mutex::default() }
    }

    /// The response to one question.
    pub async fn answer(&self, name: &Name, kind: RecordType) -> (ResponseCode, Vec<Record>) {
        let allowed = HostName::parse(name.to_ascii().as_bytes()).ok().filter(|host| self.allowed(host));
        let Some(host) = allowed else {
            tracing::debug!(%name, "query for a name that is not allowed");
            return (ResponseCode::NXDomain, Vec::new());
        };
        // Other record types of an allowed name get an empty response, not NXDOMAIN: musl applies NXDOMAIN to all
        // record types of the name.
        if !matches!(kind, RecordType::A | RecordType::AAAA) {
            return (ResponseCode::NoError, Vec::new());
        }
        let addresses = match self.find(&host, name, kind).await {
            Ok(addresses) => addresses,
            Err(Failure::NoSuchName) => return (ResponseCode::NXDomain, Vec::new()),
            Err(_) => return (ResponseCode::ServFail, Vec::new()),
        };
        let record = |(address, ttl): (IpAddr, u32)| {
            let data = match address {
                IpAddr::V4(address) => RData::A(A(address)),
                IpAddr::V6(address) => RData::AAAA(AAAA(address)),
            };
            Record::from_rdata(name.clone(), ttl.clamp(*TTL.start(), *TTL.end()), data)
        };
        (ResponseCode::NoError, addresses.into_iter().take(MAX_ADDRESSES).map(record).collect())
    }

    /// The addresses of `host`, for a request of the gateway itself. The policy is not checked, but addresses that are
    /// not public are left out all the same.
    ///
    /// # Errors
    /// If the name does not exist, or if no nameserver can tell.
    pub async fn own_request(&self, host: &HostName) -> Result<Vec<IpAddr>, Failure> {
        let name = Name::from_ascii(host.as_str()).map_err(|_| Failure::NoSuchName)?;
        let of = |kind| self.find(host, &name, kind);
        let (v4, v6) = tokio::join!(of(RecordType::A), of(RecordType::AAAA));
        // On a machine without IPv6, the AAAA query may fail.
        let found = match (v4, v6) {
            (Ok(v4), v6) => v4.into_iter().chain(v6.unwrap_or_default()).collect(),
            (Err(_), Ok(v6)) => v6,
            (Err(error), Err(_)) => return Err(error),
        };
        Ok(found.into_iter().take(MAX_ADDRESSES).map(|(address, _)| address).collect())
    }

    /// The public addresses of one record type for `name`, which is the name of `host`.
    async fn find(&self, host: &HostName, name: &Name, kind: RecordType) -> Result<Vec<Answered>, Failure> {
        let mut absolute = name.clone();
        absolute.set_fqdn(true);
        let found = self.nameservers.lookup(absolute, kind).await;
        self.heard(&found);
        let (addresses, refused) = match found {
            Ok(found) => publics(found, public::own),
            Err(Failure::NoSuchName) => return Err(Failure::NoSuchName),
            Err(error) => {
                if self.first_time(host) {
                    tracing::warn!(%host, %error, "a name cannot be resolved");
                }
                return Err(error);
            }
        };
        if let Some(RefusedAddress { address, kind }) = refused.first()
            && self.first_time(host)
        {
            let (refused, left) = (refused.len(), addresses.len());
            tracing::warn!(%host, %address, what = %kind, refused, left, "a name resolves to addresses that are not public; the response omits them");
        }
        Ok(addresses)
    }

    /// Whether any container may reach `host` now.
    fn allowed(&self, host: &HostName) -> bool {
        let now = Timestamp::now();
        self.registry.policy().egress.access(host).is_some()
            || self
                .registry
                .list()
                .iter()
                .any(|record| !record.expired(now) && record.egress_allow.iter().any(|rules| rules.lists(host)))
    }

    /// Tracks whether the nameservers respond at all, and reports a problem if they don't.
    fn heard<T>(&self, found: &Result<T, Failure>) {
        match found {
            Err(error @ Failure::Silent { .. }) => {
                let before = self.silent.fetch_add(1, Ordering::Relaxed);
                if before.saturating_add(1) == SILENT {
                    tracing::warn!(%error, "names cannot be resolved");
                    self.problems.set("dns", Some(error.to_string()));
                }
            }
            _ => {
                if self.silent.swap(0, Ordering::Relaxed) >= SILENT {
                    self.problems.set("dns", None);
                }
            }
        }
    }

    /// Whether a warning about `host` is due. Records the warning if it is.
    fn first_time(&self, host: &HostName) -> bool {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if said.get(host).is_some_and(|at| now.duration_since(*at) < QUIET) {
            return false;
        }
        if said.len() >= QUIET_NAMES {
            said.clear();
        }
        said.insert(host.clone(), now);
        true
    }
}

/// An address, and its TTL in seconds.
type Answered = (IpAddr, u32);
/// An address that is left out.
#[derive(Debug)]
struct RefusedAddress {
    address: IpAddr,
    /// The kind of address, such as `private`.
    kind: &'static str,
}

/// Splits the addresses found into those for the response, and the others with the reason.
fn publics(found: Vec<Answered>, own: impl Fn(IpAddr) -> bool) -> (Vec<Answered>, Vec<RefusedAddress>) {
    let (mut addresses, mut refused) = (Vec::new(), Vec::new());
    for (address, ttl) in found {
        match public::not_public(address).or_else(|| own(address).then_some("this machine's own")) {
            Some(kind) => refused.push(RefusedAddress { address, kind }),
            None => addresses.push((address, ttl)),
        }
    }
    (addresses, refused)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn what_is_public_is_answered_and_the_rest_is_named() {
        let found = ["203.0.114.1", "10.0.0.1", "203.0.114.2", "::1"].map(|text| (text.parse().unwrap(), 5));
        let own: IpAddr = "203.0.114.2".parse().unwrap();
        let (addresses, refused) = publics(found.to_vec(), |address| address == own);
        assert_eq!(addresses, [("203.0.114.1".parse().unwrap(), 5)]);
        let named: Vec<_> = refused.iter().map(|refused| refused.kind).collect();
        assert_eq!(named, ["private", "this machine's own", "unspecified or loopback"]);
    }
}
