//! Limits for one address, registered or not, so that no sandbox can crowd out the others. Pure: `worker` calls
//! [`Limits::enter`] for every request and [`Limits::leave`] at its end.
//!
//! Each Envoy worker counts separately: an address with connections on N workers can use up to N times each limit.

use policy::{Denial, Rule};
use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

/// The most open tunnels of an address.
pub const MAX_TUNNELS: u32 = 256;
/// The rate at which an address may open tunnels, after a burst of [`MAX_TUNNELS`]. A TLS handshake costs more than any
/// other work that a sandbox can cause.
pub const TUNNELS_PER_SECOND: u32 = 32;
/// The rate at which an address may open tunnels if this worker knows no container there, after the same burst.
pub const UNREGISTERED_TUNNELS_PER_SECOND: u32 = 8;
/// The burst of registry lookups for an address where this worker knows no container.
pub const LOOKUP_BURST: u32 = 128;
/// The rate of these lookups after the burst. Every worker knows a registration within 50 ms, so an address that needs
/// more lookups is not registered.
pub const LOOKUPS_PER_SECOND: u32 = 8;
/// The rule for exceeding one of these rates. The refusal is delayed by `refused::RATE_PAUSE`, so that a client that
/// retries at once has to wait.
pub const RATE: Rule = Rule::LimitRate;
/// The most requests of an address under way, including held and refused requests.
pub const MAX_STREAMS: u32 = 256;
/// The most tunnels in an hour to hosts that the policy does not list. Each may need a new leaf certificate, only to
/// carry a refusal.
pub const MAX_STRANGE_HOSTS: u32 = 200;
/// The window of [`MAX_STRANGE_HOSTS`].
const WINDOW: Duration = Duration::from_secs(3600);
/// The most addresses that are tracked. Beyond this number, the addresses without a request under way are dropped.
const MAX_IDLE: usize = 16_384;

/// The kinds of work that are counted. [`crate::waiting`] counts the requests that wait for the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// An open CONNECT tunnel.
    Tunnel,
    /// Any other request.
    Stream,
}

impl Counted {
    fn limit(self) -> (u32, Rule, &'static str) {
        match self {
            Self::Tunnel => (MAX_TUNNELS, Rule::LimitConnections, "connections"),
            Self::Stream => (MAX_STREAMS, Rule::LimitStreams, "requests under way"),
        }
    }
}

/// The counts of every address.
#[derive(Debug, Default)]
pub struct Limits {
    by_source: HashMap<IpAddr, Usage>,
}

#[derive(Debug, Default)]
struct Usage {
    tunnels: u32,
    streams: u32,
    strange: u32,
    /// The rate of opened tunnels.
    opened: Rate,
    /// The rate of registry lookups.
    lookups: Rate,
    /// The uptime at which `strange` is reset.
    until: Duration,
}

/// A leaky bucket: how much was used, less what time has given back.
#[derive(Debug, Default)]
struct Rate {
    used: u32,
    /// The second of the uptime at which `used` was last updated.
    second: u64,
}

impl Rate {
    /// Counts one more at `uptime` and returns true, if the limit allows it: a burst of `most`, then `per_second`.
    fn may(&mut self, uptime: Duration, most: u32, per_second: u32) -> bool {
        let passed = uptime.as_secs().saturating_sub(self.second);
        let good = u32::try_from(passed).unwrap_or(u32::MAX).saturating_mul(per_second);
        self.used = self.used.saturating_sub(good);
        self.second = uptime.as_secs();
        let may = self.used < most;
        self.used = self.used.saturating_add(u32::from(may));
        may
    }
}

impl Usage {
    fn count(&mut self, kind: Counted) -> &mut u32 {
        match kind {
            Counted::Tunnel => &mut self.tunnels,
            Counted::Stream => &mut self.streams,
        }
    }

    fn idle(&self) -> bool {
        self.tunnels == 0 && self.streams == 0
    }
}

impl Limits {
    /// Counts one more of `kind` for `source` at `uptime`. `known` says whether this worker knows a container there.
    /// After `Ok`, the caller has to call [`Limits::leave`] at the end.
    ///
    /// # Errors
    /// If `source` has reached a limit, or opens tunnels too fast. The refusal has status 429.
    pub fn enter(&mut self, source: IpAddr, kind: Counted, known: bool, uptime: Duration) -> Result<(), Denial> {
        let usage = self.by_source.entry(source).or_default();
        if known {
            usage.lookups = Rate::default();
        }
        let (limit, rule, what) = kind.limit();
        if *usage.count(kind) >= limit {
            return Err(too_many(
                rule,
                format!("your address has {limit} {what}, which is the limit; try again when some have ended"),
            ));
        }
        let per_second = if known { TUNNELS_PER_SECOND } else { UNREGISTERED_TUNNELS_PER_SECOND };
        if kind == Counted::Tunnel && !usage.opened.may(uptime, MAX_TUNNELS, per_second) {
            let reason = format!(
                "rate limit: your address may open {per_second} connections per second, after a burst of {MAX_TUNNELS}"
            );
            return Err(too_many(RATE, reason));
        }
        let count = usage.count(kind);
        *count = count.saturating_add(1);
        Ok(())
    }

    /// Counts one less of `kind` for `source`.
    pub fn leave(&mut self, source: IpAddr, kind: Counted) {
        if let Some(usage) = self.by_source.get_mut(&source) {
            let count = usage.count(kind);
            *count = count.saturating_sub(1);
            if usage.idle() && usage.strange == 0 && usage.opened.used == 0 && usage.lookups.used == 0 {
                self.by_source.remove(&source);
            }
        }
    }

    /// Counts a registry lookup for `source` at `uptime`.
    ///
    /// # Errors
    /// If there were too many lookups. The refusal has status 429.
    pub fn count_lookup(&mut self, source: IpAddr, uptime: Duration) -> Result<(), Denial> {
        if self.usage(source).lookups.may(uptime, LOOKUP_BURST, LOOKUPS_PER_SECOND) {
            return Ok(());
        }
        let reason = format!(
            "rate limit: an unregistered address may send {LOOKUPS_PER_SECOND} requests per second, after a burst of {LOOKUP_BURST}"
        );
        Err(too_many(RATE, reason))
    }

    /// Resets the rate of lookups for `source`, because the registry has returned a record.
    pub fn known(&mut self, source: IpAddr) {
        if let Some(usage) = self.by_source.get_mut(&source) {
            usage.lookups = Rate::default();
        }
    }

    /// The usage of `source`. Drops idle addresses first if too many are tracked.
    fn usage(&mut self, source: IpAddr) -> &mut Usage {
        if self.by_source.len() > MAX_IDLE {
            self.by_source.retain(|_, usage| !usage.idle());
        }
        self.by_source.entry(source).or_default()
    }

    /// Counts a tunnel to a host that the policy does not list, at `uptime`.
    ///
    /// # Errors
    /// If there were too many in this hour. The refusal has status 429.
    pub fn strange_host(&mut self, source: IpAddr, uptime: Duration) -> Result<(), Denial> {
        let usage = self.usage(source);
        if usage.until <= uptime {
            usage.strange = 0;
            usage.until = uptime.saturating_add(WINDOW);
        }
        if usage.strange >= MAX_STRANGE_HOSTS {
            let reason = format!(
                "your address may open {MAX_STRANGE_HOSTS} connections per hour to hosts that are not allowed, and has reached that limit"
            );
            return Err(too_many(Rule::LimitNames, reason));
        }
        usage.strange = usage.strange.saturating_add(1);
        Ok(())
    }
}

/// The refusal of a request beyond a limit.
pub fn too_many(rule: Rule, reason: String) -> Denial {
    Denial::new(rule, reason)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const LATE: Duration = Duration::from_secs(100);

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn each_kind_is_granted_up_to_its_limit_and_given_back() {
        for kind in [Counted::Tunnel, Counted::Stream] {
            let mut limits = Limits::default();
            let (limit, rule, _) = kind.limit();
            for _ in 0..limit {
                limits.enter(ip("10.0.0.1"), kind, true, LATE).unwrap();
            }
            let denial = limits.enter(ip("10.0.0.1"), kind, true, LATE).unwrap_err();
            assert_eq!((denial.status, denial.rule), (429, rule));
            limits.enter(ip("10.0.0.2"), kind, true, LATE).unwrap();
            limits.leave(ip("10.0.0.1"), kind);
            let later = LATE + Duration::from_secs(1);
            limits.enter(ip("10.0.0.1"), kind, true, later).unwrap();
        }
    }

    #[test]
    fn tunnels_that_come_and_go_are_limited_by_the_second_after_the_first() {
        for (known, per_second) in [(true, TUNNELS_PER_SECOND), (false, UNREGISTERED_TUNNELS_PER_SECOND)] {
            let mut limits = Limits::default();
            let mut opens = |second| {
                let at = Duration::from_secs(second);
                let opened = (0..1_000).take_while(|_| {
                    let granted = limits.enter(ip("10.0.0.1"), Counted::Tunnel, known, at);
                    if let Err(denial) = &granted {
                        assert_eq!((denial.status, denial.rule), (429, RATE));
                        return false;
                    }
                    limits.leave(ip("10.0.0.1"), Counted::Tunnel);
                    true
                });
                u32::try_from(opened.count()).unwrap()
            };
            assert_eq!(opens(5), MAX_TUNNELS);
            assert_eq!(opens(5), 0);
            assert_eq!(opens(6), per_second);
            assert_eq!(opens(1_000), MAX_TUNNELS);
        }
    }

    #[test]
    fn questions_about_one_address_are_limited_by_the_second_after_the_first() {
        let mut limits = Limits::default();
        let mut asks = |address, second| {
            let asked =
                (0..1_000).take_while(|_| match limits.count_lookup(ip(address), Duration::from_secs(second)) {
                    Ok(()) => true,
                    Err(denial) => {
                        assert_eq!((denial.status, denial.rule), (429, RATE));
                        false
                    }
                });
            u32::try_from(asked.count()).unwrap()
        };
        assert_eq!(asks("10.0.0.1", 5), LOOKUP_BURST);
        assert_eq!(asks("10.0.0.1", 5), 0);
        assert_eq!(asks("10.0.0.2", 5), LOOKUP_BURST);
        assert_eq!(asks("10.0.0.1", 7), 2 * LOOKUPS_PER_SECOND);
        // A registered address starts again with a full burst.
        let mut limits = Limits::default();
        let at = Duration::from_secs(5);
        for found in [true, false] {
            (0..LOOKUP_BURST).for_each(|_| limits.count_lookup(ip("10.0.0.1"), at).unwrap());
            limits.count_lookup(ip("10.0.0.1"), at).unwrap_err();
            if found {
                limits.known(ip("10.0.0.1"));
            } else {
                limits.enter(ip("10.0.0.1"), Counted::Stream, true, at).unwrap();
            }
        }
        limits.count_lookup(ip("10.0.0.1"), at).unwrap();
    }

    #[test]
    fn strange_hosts_are_counted_by_the_hour() {
        let mut limits = Limits::default();
        for _ in 0..MAX_STRANGE_HOSTS {
            limits.strange_host(ip("10.0.0.1"), Duration::ZERO).unwrap();
        }
        let before = WINDOW - Duration::from_secs(1);
        assert_eq!(limits.strange_host(ip("10.0.0.1"), before).unwrap_err().rule, "limit.names");
        limits.strange_host(ip("10.0.0.2"), before).unwrap();
        limits.strange_host(ip("10.0.0.1"), WINDOW).unwrap();
    }

    #[test]
    fn nothing_is_kept_of_addresses_that_are_gone_beyond_the_limit() {
        let mut limits = Limits::default();
        for n in 0..u32::try_from(MAX_IDLE).unwrap() + 2 {
            limits.strange_host(IpAddr::from(n.to_be_bytes()), Duration::ZERO).unwrap();
        }
        assert!(limits.by_source.len() <= MAX_IDLE);
        limits.enter(ip("10.0.0.1"), Counted::Stream, true, LATE).unwrap();
        limits.leave(ip("10.0.0.1"), Counted::Stream);
        assert!(!limits.by_source.contains_key(&ip("10.0.0.1")));
    }
}
