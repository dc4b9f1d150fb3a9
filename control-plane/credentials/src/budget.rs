//! The budget of calls to GitHub's API with the gateway's credential or, for public repositories, without one, pure. [`crate::calls`] shares it.
//!
//! Three limits hold for a container:
//! - the number of calls that the gateway makes for it in an hour;
//! - its share of a quota of which less than a fifth is left, see [`Quota::admit`];
//! - a pause that GitHub has imposed on a call of this container.
//!
//! A quota belongs to an account and a resource, and is known from GitHub's answers. An unknown quota has no shares: a
//! GitHub Enterprise Server sends no headers unless its rate limits are on. A call without an answer counts as one: a
//! container that breaks off all its calls hides none of them. Times are seconds since 1970.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use base::quota::{Quoted, Reading, Resource};
use jiff::Timestamp;
use policy::{Denial, Stage};

/// The calls that the gateway makes for a container in an hour, unless the configuration has another number.
pub const HOURLY: u32 = 1_000;

/// An hour, the period of [`HOURLY`].
const HOUR: u64 = 3_600;

/// The shares begin when less than one part in this many is left.
const RESERVE: u64 = 5;

/// The longest time until a reset. A later reset is not GitHub's.
const MAX_WINDOW: u64 = 2 * HOUR;

/// The difference between two resets of one window, in seconds.
const SKEW: u64 = 5;

/// The most containers of a quota. Further containers share the account [`OTHERS`].
const MAX_CONTAINERS: usize = 10_000;

/// The containers beyond [`MAX_CONTAINERS`], as one.
const OTHERS: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// The most quotas. Calls of further ones are not counted.
const MAX_QUOTAS: usize = 1_000;

/// How often entries whose time is over are removed, in seconds.
const TIDY: u64 = 60;

/// The text of [`Account::Public`].
const PUBLIC: &str = "public";

/// The owner of a quota at GitHub.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Account {
    /// The user of a token, which all containers share. The number is a keyed hash of the token: a new token may belong
    /// to another user.
    Token(u64),
    /// An App's installation at this owner, in lower case. GitHub counts all tokens of an installation together.
    Installation(String),
    /// Calls without a credential. GitHub counts those by the gateway's address, 60 in an hour.
    Public,
}

impl Account {
    /// Parses the text that `Display` writes.
    pub fn parse(text: &str) -> Option<Self> {
        if text == PUBLIC {
            return Some(Self::Public);
        }
        match text.split_once(' ')? {
            ("token", hash) => u64::from_str_radix(hash, 16).ok().map(Self::Token),
            ("installation", owner) if !owner.is_empty() => Some(Self::Installation(owner.to_owned())),
            _ => None,
        }
    }

    /// The account's name for the operator.
    pub fn name(&self) -> String {
        match self {
            Self::Token(_) => "token".to_owned(),
            Self::Installation(owner) => format!("installation {owner}"),
            Self::Public => PUBLIC.to_owned(),
        }
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token(hash) => write!(f, "token {hash:016x}"),
            Self::Installation(owner) => write!(f, "installation {owner}"),
            Self::Public => f.write_str(PUBLIC),
        }
    }
}

/// A call that is to be made.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The container's address.
    pub container: IpAddr,
    /// The container's id, for the operator.
    pub id: &'a str,
    /// The account whose credential is used.
    pub account: &'a Account,
    /// The part of the API.
    pub resource: Resource,
    /// The gateway makes the call for the container. Otherwise the container makes it.
    pub own: bool,
}

/// The limit that refuses a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// The calls that the gateway makes for the container in an hour.
    Hour {
        /// The number of calls.
        calls: u64,
    },
    /// The container's share of the calls that are left.
    Share {
        /// The part of the API.
        resource: Resource,
        /// Calls that are left for all containers.
        left: u64,
        /// Calls of the window.
        limit: u64,
    },
    /// GitHub's pause.
    Pause,
}

/// A refusal, and its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limited {
    /// The limit.
    pub limit: Limit,
    /// The time from which on the call may be made.
    pub until: u64,
    /// Seconds until then, 1 at least.
    pub wait: u32,
}

impl Limited {
    fn new(limit: Limit, until: u64, now: u64) -> Self {
        let wait = u32::try_from(until.saturating_sub(now)).unwrap_or(u32::MAX).max(1);
        Self { limit, until, wait }
    }

    /// The reason, as a sentence for the refusal.
    pub fn reason(&self) -> String {
        let until = i64::try_from(self.until).ok().and_then(|until| Timestamp::from_second(until).ok());
        let until = until.unwrap_or_default();
        match self.limit {
            Limit::Hour { calls } => format!(
                "the gateway has made {calls} calls to GitHub for this container within an hour; try again at {until}"
            ),
            Limit::Share { resource, left, limit } => format!(
                "{left} of {limit} calls to GitHub ({}) are left for all containers until {until}, and this container has used its share; try again then",
                resource.name()
            ),
            Limit::Pause => format!("GitHub has told the calls of this container to pause; try again at {until}"),
        }
    }

    /// The refusal by `stage`.
    pub fn denial(&self, stage: Stage) -> Denial {
        Denial::limited(stage, self.reason(), self.wait)
    }
}

/// A quota, for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The account's name.
    pub account: String,
    /// The part of the API.
    pub resource: Resource,
    /// GitHub's last statement. `None` if GitHub has said nothing of the current window.
    pub reading: Option<Reading>,
    /// Whether the containers have shares.
    pub shared: bool,
    /// Calls of the gateway and of all containers since the window began, as far as the gateway knows.
    pub calls: u64,
    /// The container with the most calls, and their number.
    pub most: Option<(String, u64)>,
}

/// The budget.
#[derive(Debug)]
pub struct Budget {
    hourly: u64,
    hours: HashMap<IpAddr, Hour>,
    pauses: HashMap<(IpAddr, Account), u64>,
    quotas: BTreeMap<(Account, Resource), Quota>,
    tidied: u64,
}

/// The gateway's calls for one container in the hour that began with the first one.
#[derive(Debug)]
struct Hour {
    began: u64,
    calls: u64,
}

/// One quota of GitHub's.
#[derive(Debug)]
struct Quota {
    /// The current window. `None` while it is unknown.
    window: Option<Window>,
    /// The time since which `used` counts.
    since: u64,
    used: HashMap<IpAddr, Used>,
}

#[derive(Debug)]
struct Window {
    reading: Reading,
    /// An answer has told this window. Otherwise it is assumed to follow the last one, with the same limit.
    told: bool,
    /// Calls since the last answer.
    unheard: u64,
    /// `None` while the containers have no shares.
    reserve: Option<Reserve>,
}

/// The calls that were left when the shares began, and the calls since then.
#[derive(Clone, Copy, Debug)]
struct Reserve {
    size: u64,
    spent: u64,
}

/// The calls of one container in a window.
#[derive(Debug, Default)]
struct Used {
    id: String,
    calls: u64,
    of_reserve: u64,
}

impl Budget {
    /// A budget that allows `hourly` calls of the gateway for each container in an hour.
    pub fn new(hourly: u32) -> Self {
        let (hours, pauses, quotas) = Default::default();
        Self { hourly: hourly.into(), hours, pauses, quotas, tidied: 0 }
    }

    /// Counts `call`, or refuses it. A refused call is not counted.
    ///
    /// # Errors
    /// If a limit refuses the call.
    pub fn admit(&mut self, call: Call<'_>, now: u64) -> Result<(), Limited> {
        self.tidy(now);
        let paused = (call.container, call.account.clone());
        if let Some(until) = self.pauses.get(&paused).copied().filter(|until| now < *until) {
            return Err(Limited::new(Limit::Pause, until, now));
        }
        let who = entry(&self.hours, call.container);
        if call.own
            && let Some(hour) = self.hours.get(&who).filter(|hour| now < hour.end() && hour.calls >= self.hourly)
        {
            return Err(Limited::new(Limit::Hour { calls: hour.calls }, hour.end(), now));
        }
        if let Some(quota) = self.quota(call.account, call.resource, now) {
            quota.admit(call, now)?;
        }
        if call.own {
            let hour = self.hours.entry(who).or_insert(Hour { began: now, calls: 0 });
            if now >= hour.end() {
                *hour = Hour { began: now, calls: 0 };
            }
            hour.calls = hour.calls.saturating_add(1);
        }
        Ok(())
    }

    /// Takes the statements of an answer to a call with the credential of `account`, for `container` if for any.
    /// Returns the limit by which GitHub has refused the call.
    pub fn heard(&mut self, account: &Account, container: Option<IpAddr>, quoted: Quoted, now: u64) -> Option<Limited> {
        self.tidy(now);
        if let Some(reading) = quoted.reading
            && let Some(quota) = self.quota(account, reading.resource, now)
        {
            quota.heard(reading, now);
        }
        if let Some(wait) = quoted.wait {
            let until = now.saturating_add(wait);
            // A pause holds for the container and the account whose call GitHub has refused. One container cannot impose a
            // pause on the others, and calls without a credential cannot impose one on those with it.
            let paused = container.map(|container| (container, account.clone()));
            if let Some(paused) = paused
                && (self.pauses.len() < MAX_CONTAINERS || self.pauses.contains_key(&paused))
            {
                self.pauses.insert(paused, until);
            }
            return Some(Limited::new(Limit::Pause, until, now));
        }
        let Reading { resource, limit, reset, .. } = quoted.reading.filter(|_| quoted.refused)?;
        Some(Limited::new(Limit::Share { resource, left: 0, limit }, reset, now))
    }

    /// All quotas.
    pub fn standings(&self, now: u64) -> Vec<Standing> {
        let standing = |((account, resource), quota): (&(Account, Resource), &Quota)| {
            let window = quota.window.as_ref().filter(|window| window.told && now < window.reading.reset);
            let most = quota.used.values().max_by_key(|used| used.calls);
            Standing {
                account: account.name(),
                resource: *resource,
                reading: window.map(|window| window.reading),
                shared: window.is_some_and(|window| window.reserve.is_some()),
                calls: quota.used.values().fold(0, |sum, used| sum.saturating_add(used.calls)),
                most: most.map(|used| (used.id.clone(), used.calls)),
            }
        };
        self.quotas.iter().map(standing).collect()
    }

    fn quota(&mut self, account: &Account, resource: Resource, now: u64) -> Option<&mut Quota> {
        let key = (account.clone(), resource);
        if self.quotas.len() >= MAX_QUOTAS && !self.quotas.contains_key(&key) {
            return None;
        }
        let quota = self.quotas.entry(key).or_insert_with(|| Quota::new(now));
        quota.roll(now);
        Some(quota)
    }

    /// Removes entries whose time is over.
    fn tidy(&mut self, now: u64) {
        if now < self.tidied.saturating_add(TIDY) {
            return;
        }
        self.tidied = now;
        self.hours.retain(|_, hour| now < hour.end());
        self.pauses.retain(|_, until| now < *until);
        // The end of a window is the beginning of the next one.
        self.quotas.retain(|_, quota| !quota.is_over(now.saturating_sub(HOUR)));
    }
}

impl Hour {
    fn end(&self) -> u64 {
        self.began.saturating_add(HOUR)
    }
}

impl Window {
    /// The window of an answer.
    fn told(reading: Reading) -> Self {
        Self { reading, told: true, unheard: 0, reserve: None }
    }
}

impl Quota {
    fn new(now: u64) -> Self {
        Self { window: None, since: now, used: HashMap::new() }
    }

    fn is_over(&self, now: u64) -> bool {
        match &self.window {
            Some(window) => now >= window.reading.reset,
            None => now >= self.since.saturating_add(HOUR),
        }
    }

    /// Begins to count anew if the window is over. Without a window the count begins anew each hour.
    fn roll(&mut self, now: u64) {
        if self.is_over(now) {
            let last = self.window.take().filter(|window| window.told);
            let next = last.map(|Window { reading: Reading { resource, limit, .. }, .. }| Window {
                reading: Reading { resource, limit, remaining: limit, reset: now.saturating_add(resource.window()) },
                told: false,
                unheard: 0,
                reserve: None,
            });
            *self = Self { window: next, ..Self::new(now) };
        }
    }

    /// Counts a call, or refuses it.
    ///
    /// While the shares hold, a container that has made fewer calls than another one goes first: a call is refused if
    /// what is left is needed by the containers with fewer calls, to make as many as this one has made. The containers
    /// are those that have made a call in this window, and one more, which has not made a call yet. Therefore a
    /// container that makes all the calls leaves the others their shares, and the last share to a newcomer.
    fn admit(&mut self, call: Call<'_>, now: u64) -> Result<(), Limited> {
        let who = entry(&self.used, call.container);
        if let Some(window) = &mut self.window
            && let Some(reserve) = &mut window.reserve
        {
            let left = reserve.size.saturating_sub(reserve.spent).min(left(&window.reading, window.unheard));
            let own = self.used.get(&who).map_or(0, |used| used.of_reserve);
            let others = self.used.iter().filter(|(other, _)| **other != who);
            let owed = others.fold(own, |sum, (_, used)| sum.saturating_add(own.saturating_sub(used.of_reserve)));
            if owed >= left {
                let Reading { resource, limit, reset, .. } = window.reading;
                return Err(Limited::new(Limit::Share { resource, left, limit }, reset, now));
            }
            reserve.spent = reserve.spent.saturating_add(1);
        }
        let used = self.used.entry(who).or_default();
        used.calls = used.calls.saturating_add(1);
        used.of_reserve = used.of_reserve.saturating_add(1);
        if used.id != call.id {
            used.id = if who == OTHERS { "others".to_owned() } else { call.id.to_owned() };
        }
        if let Some(window) = &mut self.window {
            window.unheard = window.unheard.saturating_add(1);
        }
        self.settle();
        Ok(())
    }

    /// Takes GitHub's statement. Within a window the lowest one counts: answers arrive in any order.
    ///
    /// A told window ends at its reset, [`SKEW`] early at most. Until then a statement about another window is ignored:
    /// GitHub begins the next window of an account after the end of this one. So no answer ends the shares, or replaces
    /// the count of an account by the count of another one.
    fn heard(&mut self, reading: Reading, now: u64) {
        if reading.reset <= now || reading.reset > now.saturating_add(MAX_WINDOW) {
            return;
        }
        match &mut self.window {
            Some(window) if window.told && window.reading.reset.abs_diff(reading.reset) <= SKEW => {
                window.reading.limit = reading.limit;
                if reading.remaining <= window.reading.remaining {
                    window.reading.remaining = reading.remaining;
                    window.unheard = 0;
                }
            }
            Some(window) if window.told => {
                if now.saturating_add(SKEW) < window.reading.reset {
                    return;
                }
                *self = Self { window: Some(Window::told(reading)), ..Self::new(now) };
            }
            // Without an answer about this window, the first answer tells it.
            Some(_) | None => self.window = Some(Window::told(reading)),
        }
        self.settle();
    }

    /// Begins and ends the shares. They end before their window if GitHub says that calls have not counted.
    fn settle(&mut self) {
        let Some(window) = &mut self.window else { return };
        let left = left(&window.reading, window.unheard);
        if left.saturating_mul(RESERVE) >= window.reading.limit {
            window.reserve = None;
        } else if window.reserve.is_none() {
            window.reserve = Some(Reserve { size: left, spent: 0 });
            self.used.values_mut().for_each(|used| used.of_reserve = 0);
        }
    }
}

/// The calls that are left if the calls since the last answer count as one each.
fn left(reading: &Reading, unheard: u64) -> u64 {
    reading.remaining.saturating_sub(unheard)
}

/// The entry of `container` in a map with at most [`MAX_CONTAINERS`] entries, and one more.
fn entry<T>(map: &HashMap<IpAddr, T>, container: IpAddr) -> IpAddr {
    if map.len() < MAX_CONTAINERS || map.contains_key(&container) { container } else { OTHERS }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests;
