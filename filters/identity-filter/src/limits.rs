//! What one address may have going at a time, known or not, so that no sandbox can crowd out the others. Pure;
//! `filter` counts in with every request and out when it ends.
//!
//! Each Envoy worker counts for itself: an address whose connections are spread over N workers can have up to N times
//! as much.

use policy::{Denial, Stage};
use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

/// Tunnels that an address has open.
pub const MAX_TUNNELS: u32 = 256;
/// Tunnels that an address may open in a second, once it has opened [`MAX_TUNNELS`] at once. A handshake costs more than
/// anything else that a sandbox can have done without being known.
pub const TUNNELS_PER_SECOND: u32 = 32;
/// The rule of one more. It is answered late (`refused::RATE_PAUSE`), so that who asks again and again has to wait.
pub const RATE: &str = "limit.rate";
/// Requests of an address that are under way, held or refused ones included.
pub const MAX_STREAMS: u32 = 256;
/// Tunnels in an hour to hosts that the policy does not name: a leaf may have to be issued for each, only to refuse
/// inside.
pub const MAX_STRANGE_HOSTS: u32 = 200;
/// The hour.
const WINDOW: Duration = Duration::from_secs(3600);
/// Addresses that are kept in mind though nothing of theirs is under way. Beyond it the oldest windows are dropped.
const MAX_IDLE: usize = 16_384;

/// What is counted. Requests that wait for the registry are counted by [`crate::waiting`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A CONNECT that is open.
    Tunnel,
    /// Any other request.
    Stream,
}

impl Kind {
    fn limit(self) -> (u32, &'static str, &'static str) {
        match self {
            Self::Tunnel => (MAX_TUNNELS, "limit.connections", "connections"),
            Self::Stream => (MAX_STREAMS, "limit.streams", "requests under way"),
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
    /// Tunnels that were opened and not made good again by time.
    opened: u32,
    /// The second of the uptime at which that was so.
    second: u64,
    /// The uptime at which `strange` starts anew.
    until: Duration,
}

impl Usage {
    fn count(&mut self, kind: Kind) -> &mut u32 {
        match kind {
            Kind::Tunnel => &mut self.tunnels,
            Kind::Stream => &mut self.streams,
        }
    }

    /// Whether one more tunnel may be opened at `uptime`, which then is counted.
    fn may_open(&mut self, uptime: Duration) -> bool {
        let passed = uptime.as_secs().saturating_sub(self.second);
        let good = u32::try_from(passed).unwrap_or(u32::MAX).saturating_mul(TUNNELS_PER_SECOND);
        self.opened = self.opened.saturating_sub(good);
        self.second = uptime.as_secs();
        let may = self.opened < MAX_TUNNELS;
        self.opened = self.opened.saturating_add(u32::from(may));
        may
    }

    fn idle(&self) -> bool {
        self.tunnels == 0 && self.streams == 0
    }
}

impl Limits {
    /// One more of `kind` at `source`, at `uptime`. When it is granted, [`Limits::leave`] has to follow.
    ///
    /// # Errors
    /// The refusal, 429: `source` has as many as it may have, or opens tunnels too fast.
    pub fn enter(&mut self, source: IpAddr, kind: Kind, uptime: Duration) -> Result<(), Denial> {
        let usage = self.by_source.entry(source).or_default();
        let (limit, rule, what) = kind.limit();
        if *usage.count(kind) >= limit {
            return Err(too_many(rule, format!("your address has {limit} {what}, which is the limit")));
        }
        if kind == Kind::Tunnel && !usage.may_open(uptime) {
            let reason = format!(
                "your address opens more than {TUNNELS_PER_SECOND} connections in a second, after the first {MAX_TUNNELS}"
            );
            return Err(too_many(RATE, reason));
        }
        let count = usage.count(kind);
        *count = count.saturating_add(1);
        Ok(())
    }

    /// One less of `kind` at `source`.
    pub fn leave(&mut self, source: IpAddr, kind: Kind) {
        if let Some(usage) = self.by_source.get_mut(&source) {
            let count = usage.count(kind);
            *count = count.saturating_sub(1);
            if usage.idle() && usage.strange == 0 && usage.opened == 0 {
                self.by_source.remove(&source);
            }
        }
    }

    /// A tunnel to a host that the policy does not name is asked for at `uptime`.
    ///
    /// # Errors
    /// The refusal, 429: there were too many in this hour.
    pub fn strange_host(&mut self, source: IpAddr, uptime: Duration) -> Result<(), Denial> {
        if self.by_source.len() > MAX_IDLE {
            self.by_source.retain(|_, usage| !usage.idle());
        }
        let usage = self.by_source.entry(source).or_default();
        if usage.until <= uptime {
            usage.strange = 0;
            usage.until = uptime.saturating_add(WINDOW);
        }
        if usage.strange >= MAX_STRANGE_HOSTS {
            let reason = format!(
                "your address has asked for hosts that are not allowed {MAX_STRANGE_HOSTS} times in an hour, which is the limit"
            );
            return Err(too_many("limit.names", reason));
        }
        usage.strange = usage.strange.saturating_add(1);
        Ok(())
    }
}

/// The refusal of what goes beyond a limit.
pub fn too_many(rule: &'static str, reason: String) -> Denial {
    Denial { stage: Stage::Identity, rule, status: 429, reason }
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
        for kind in [Kind::Tunnel, Kind::Stream] {
            let mut limits = Limits::default();
            let (limit, rule, _) = kind.limit();
            for _ in 0..limit {
                limits.enter(ip("10.0.0.1"), kind, LATE).unwrap();
            }
            let denial = limits.enter(ip("10.0.0.1"), kind, LATE).unwrap_err();
            assert_eq!((denial.status, denial.rule), (429, rule));
            limits.enter(ip("10.0.0.2"), kind, LATE).unwrap();
            limits.leave(ip("10.0.0.1"), kind);
            let later = LATE + Duration::from_secs(1);
            limits.enter(ip("10.0.0.1"), kind, later).unwrap();
        }
    }

    #[test]
    fn tunnels_that_come_and_go_are_limited_by_the_second_after_the_first() {
        let mut limits = Limits::default();
        let mut opens = |second| {
            let at = Duration::from_secs(second);
            let opened = (0..1_000).take_while(|_| {
                let granted = limits.enter(ip("10.0.0.1"), Kind::Tunnel, at);
                if let Err(denial) = &granted {
                    assert_eq!((denial.status, denial.rule), (429, RATE));
                    return false;
                }
                limits.leave(ip("10.0.0.1"), Kind::Tunnel);
                true
            });
            u32::try_from(opened.count()).unwrap()
        };
        assert_eq!(opens(5), MAX_TUNNELS);
        assert_eq!(opens(5), 0);
        assert_eq!(opens(6), TUNNELS_PER_SECOND);
        assert_eq!(opens(1_000), MAX_TUNNELS);
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
        limits.enter(ip("10.0.0.1"), Kind::Stream, LATE).unwrap();
        limits.leave(ip("10.0.0.1"), Kind::Stream);
        assert!(!limits.by_source.contains_key(&ip("10.0.0.1")));
    }
}
