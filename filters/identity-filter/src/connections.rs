//! The open TCP connections of each address, in all workers together, and its requests in this worker. Pure: `accept`
//! reads and writes the shared values, and carries out the decisions.
//!
//! An address that sends requests too fast is not refused: the bytes of its connections wait, before Envoy decrypts or
//! parses them. Requests whose bytes had passed before count too. If those are too many, they are refused, and late.
//!
//! Each worker counts its own connections in memory and publishes each count. A published count is an entry of a shared
//! [`Table`]: the counted address, the VM that counts, the number. A VM whose filter has crashed can't take back its
//! entries. So every VM shows that it is [`Alive`], and the entries of a VM that doesn't are not counted: Envoy has
//! closed its connections, or closes them with their next byte.
//!
//! A value is replaced only if it is unchanged since it was read. So two workers that admit at the same moment can't
//! both take the last place.

use policy::ConnectionLimits;
use std::collections::{HashMap, HashSet, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

/// The number of shared tables. Each address has its entries in one of them.
pub const TABLES: u64 = 256;
/// How often a VM shows that it is alive.
pub const RENEW: Duration = Duration::from_secs(1);
/// How long a VM counts as alive after it has shown so.
const MISSED: Duration = Duration::from_secs(5);
/// How long the entries of a VM are kept that doesn't show that it is alive. A VM may only have stood still.
const FORGOTTEN: Duration = Duration::from_secs(60);
/// The longest time until a connection's first request.
pub const FIRST_REQUEST: Duration = Duration::from_secs(10);
/// The seconds in which an address may send its requests all at once.
const BURST: u64 = 16;
/// The seconds in which an address may send the requests beyond its burst whose bytes have passed before it waits: a
/// number of connections with streams under way. More are refused.
const EXCESS: u64 = 4;
/// The longest time, in seconds, for which an address waits because of requests beyond its burst. Envoy ends a handshake
/// after 15 s (`DETECTION_TIMEOUT` in the control plane's `listener.rs`).
const MAX_WAIT: u64 = 8;
/// The most bytes of an address that wait. A connection with more is closed.
const MAX_WAITING: usize = 32 << 20;
/// The least time between two audit lines about refused connections of one address, in each worker.
const NOTE_EVERY: Duration = Duration::from_secs(60);
/// The most addresses whose last audit line is remembered. Beyond this number, refused connections have no line.
const MAX_NOTED: usize = 1024;

/// The subject of a count: an address, a network, or all strangers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Counted([u8; 16]);

impl Counted {
    /// All addresses without a container. No peer has a multicast address, and no network of 64 bits ends in ones.
    pub const STRANGERS: Self = Self([0xff; 16]);

    /// The subject for a connection from `address`. A stranger can have any address of its IPv6 network.
    pub fn of(address: IpAddr, known: bool) -> Self {
        match address {
            IpAddr::V4(address) => Self(address.to_ipv6_mapped().octets()),
            IpAddr::V6(address) if known => Self(address.octets()),
            IpAddr::V6(address) => Self(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).octets()),
        }
    }

    /// The key of the shared table with the entries of this subject.
    pub fn key(self) -> String {
        // FNV-1a.
        let hash = self
            .0
            .iter()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
        key(hash % TABLES)
    }
}

/// The key of the shared table `number`. The second part is the form of the values: shared data outlives a reload of
/// the filters, so another form needs another number.
pub fn key(number: u64) -> String {
    format!("connections/1/{number}")
}

/// A shared value that isn't of this module's form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("BUG: a shared value can't be read")]
pub struct Unreadable;

/// The VMs that count, and when each last showed that it is alive: milliseconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Alive {
    /// The number of the next VM.
    next: u64,
    seen: HashMap<u64, u64>,
}

impl Alive {
    /// The key of the shared value.
    pub const KEY: &'static str = "connections/1/alive";

    /// Reads the shared value.
    ///
    /// # Errors
    /// If the value isn't of this form.
    pub fn read(bytes: &[u8]) -> Result<Self, Unreadable> {
        let (words, []) = bytes.as_chunks::<8>() else { return Err(Unreadable) };
        let mut words = words.iter().map(|word| u64::from_le_bytes(*word));
        let next = words.next().unwrap_or(0);
        let mut seen = HashMap::new();
        while let Some(vm) = words.next() {
            seen.insert(vm, words.next().ok_or(Unreadable)?);
        }
        Ok(Self { next, seen })
    }

    /// The shared value.
    pub fn to_bytes(&self) -> Vec<u8> {
        let pairs = self.seen.iter().flat_map(|(vm, seen)| [*vm, *seen]);
        std::iter::once(self.next).chain(pairs).flat_map(u64::to_le_bytes).collect()
    }

    /// Shows at `now` that `vm` is alive. A VM without a number gets one. Returns the number.
    pub fn show(&mut self, vm: Option<u64>, now: u64) -> u64 {
        let vm = vm.unwrap_or_else(|| {
            self.next += 1;
            self.next
        });
        // The clock can be set back, too.
        self.seen.retain(|_, seen| u128::from(now.abs_diff(*seen)) < FORGOTTEN.as_millis());
        self.seen.insert(vm, now);
        vm
    }

    /// Whether the connections of `vm` count. A VM that is newer than this value is alive.
    fn counts(&self, vm: u64, now: u64) -> bool {
        vm > self.next || self.seen.get(&vm).is_some_and(|seen| u128::from(now.abs_diff(*seen)) < MISSED.as_millis())
    }

    fn forgotten(&self, vm: u64) -> bool {
        vm <= self.next && !self.seen.contains_key(&vm)
    }
}

/// The entries of some subjects: for each VM the number of its open connections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table(Vec<(Counted, u64, u32)>);

impl Table {
    /// The bytes of an entry.
    const ENTRY: usize = 28;

    /// Reads the shared value.
    ///
    /// # Errors
    /// If the value isn't of this form.
    pub fn read(bytes: &[u8]) -> Result<Self, Unreadable> {
        let (entries, []) = bytes.as_chunks::<{ Self::ENTRY }>() else { return Err(Unreadable) };
        let entry = |entry: &[u8; Self::ENTRY]| {
            let (counted, rest) = entry.split_first_chunk::<16>()?;
            let (vm, rest) = rest.split_first_chunk::<8>()?;
            Some((Counted(*counted), u64::from_le_bytes(*vm), u32::from_le_bytes(rest.try_into().ok()?)))
        };
        entries.iter().map(entry).collect::<Option<_>>().map(Self).ok_or(Unreadable)
    }

    /// The shared value.
    pub fn to_bytes(&self) -> Vec<u8> {
        let entry = |(counted, vm, open): &(Counted, u64, u32)| {
            counted.0.into_iter().chain(vm.to_le_bytes()).chain(open.to_le_bytes())
        };
        self.0.iter().flat_map(entry).collect()
    }

    /// The number of connections of `counted` in other VMs than `vm`.
    fn of_others(&self, counted: Counted, vm: u64, alive: &Alive, now: u64) -> u32 {
        let others = self.0.iter().filter(|(of, by, _)| *of == counted && *by != vm && alive.counts(*by, now));
        others.fold(0, |sum, (_, _, open)| sum.saturating_add(*open))
    }

    /// Sets the number of `vm`, and drops the entries of VMs that are gone.
    fn set(&mut self, counted: Counted, vm: u64, open: u32, alive: &Alive) {
        self.0.retain(|(of, by, _)| (*of, *by) != (counted, vm) && !alive.forgotten(*by));
        if open > 0 {
            self.0.push((counted, vm, open));
        }
    }
}

/// The connections of one worker.
#[derive(Debug, Default)]
pub struct Connections {
    /// This VM's number. `None` until it accepts its first connection.
    pub vm: Option<u64>,
    /// The VMs that were alive a short time ago.
    pub alive: Alive,
    mine: HashMap<Counted, u32>,
    /// The numbers of the connections without a request so far.
    silent: HashSet<u64>,
    /// The connections of the last [`FIRST_REQUEST`]: the uptime at which each may be closed, its context, its number.
    young: VecDeque<(Duration, u32, u64)>,
    /// The thousandths of requests that each subject has sent, less what time has given back. An entry that reaches 0
    /// is removed, so there are as many as addresses that sent a request a short time ago.
    requests: HashMap<Counted, u64>,
    /// The requests per second of a subject. 0 without a configuration: nothing is counted.
    per_second: u32,
    /// The connections whose bytes wait, by their subject.
    waiting: HashMap<Counted, VecDeque<u32>>,
    /// The same connections, with their bytes.
    bytes: HashMap<u32, usize>,
    /// The subjects whose last change could not be published.
    pub unpublished: Vec<Counted>,
    /// The uptime at which the last line of a kind about a subject was written.
    noted: HashMap<(Counted, Line), Duration>,
    /// The time that the ticks have counted: up to one [`RENEW`] behind the clock.
    uptime: Duration,
    /// The clock at the last tick, in milliseconds.
    ticked: Option<u64>,
}

/// A kind of line about a subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Line {
    /// A connection was refused.
    Refused,
    /// The connections wait.
    Waits,
}

/// The effect of bytes that arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrived {
    /// They go on.
    Passes,
    /// They wait for [`Connections::take_ready`].
    Waits,
    /// Too many bytes of the address wait: the connection is closed.
    TooMuch,
}

/// The result of [`Connections::with_one_more`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// The table with the new connection. As soon as it is published, [`Connections::opened`] counts it.
    Room(Table),
    /// The subject has as many connections as it may have.
    Full,
}

impl Connections {
    /// The table with one more connection of `counted`, of which there may be `limit`.
    pub fn with_one_more(&self, counted: Counted, limit: u32, mut table: Table, now: u64) -> Admission {
        let Some(vm) = self.vm else { return Admission::Full };
        let mine = self.mine.get(&counted).copied().unwrap_or(0);
        if mine.saturating_add(table.of_others(counted, vm, &self.alive, now)) >= limit {
            return Admission::Full;
        }
        table.set(counted, vm, mine.saturating_add(1), &self.alive);
        Admission::Room(table)
    }

    /// The table with the count of this worker.
    pub fn published(&self, counted: Counted, mut table: Table) -> Table {
        if let Some(vm) = self.vm {
            table.set(counted, vm, self.mine.get(&counted).copied().unwrap_or(0), &self.alive);
        }
        table
    }

    /// A connection of `counted` was admitted.
    pub fn opened(&mut self, counted: Counted) {
        let mine = self.mine.entry(counted).or_default();
        *mine = mine.saturating_add(1);
    }

    /// A connection of `counted` has ended.
    pub fn closed(&mut self, counted: Counted) {
        if let Some(mine) = self.mine.get_mut(&counted) {
            *mine = mine.saturating_sub(1);
            if *mine == 0 {
                self.mine.remove(&counted);
            }
        }
    }

    /// The clock is at `now`, in milliseconds: at most about a [`RENEW`] after the last tick. More root contexts than one
    /// may tick, and the clock may be set. Gives the requests of that time back to each subject.
    pub fn tick(&mut self, now: u64) {
        let passed = Duration::from_millis(now.saturating_sub(self.ticked.replace(now).unwrap_or(now))).min(RENEW);
        self.uptime = self.uptime.saturating_add(passed);
        let back = u64::try_from(passed.as_millis()).unwrap_or(0).saturating_mul(self.per_second.into());
        let most = self.seconds(BURST + MAX_WAIT);
        self.requests.retain(|_, sent| {
            *sent = (*sent).min(most).saturating_sub(back);
            *sent > 0
        });
    }

    /// Sets the requests per second of a subject.
    pub fn set_rate(&mut self, per_second: u32) {
        self.per_second = per_second;
    }

    /// A request of `counted` has arrived. Returns the requests per second if these are too many to be answered.
    pub fn requested(&mut self, counted: Counted) -> Option<u32> {
        if self.per_second == 0 {
            return None;
        }
        let most = self.seconds(BURST + EXCESS);
        let sent = self.requests.entry(counted).or_default();
        *sent = sent.saturating_add(1_000);
        (*sent > most).then_some(self.per_second)
    }

    /// Bytes have arrived on the connection `id`, `bytes` with those that wait.
    pub fn arrived(&mut self, id: u32, counted: Counted, bytes: usize) -> Arrived {
        let waits = self.bytes.contains_key(&id);
        if !waits && self.beyond_burst(counted) == 0 {
            return Arrived::Passes;
        }
        let queue = self.waiting.entry(counted).or_default();
        if !waits {
            queue.push_back(id);
        }
        self.bytes.insert(id, bytes);
        let all =
            queue.iter().filter_map(|id| self.bytes.get(id)).fold(0, |sum: usize, more| sum.saturating_add(*more));
        if all > MAX_WAITING { Arrived::TooMuch } else { Arrived::Waits }
    }

    /// The connection `id` of `counted` has ended, or has another subject.
    pub fn waits_no_longer(&mut self, id: u32, counted: Counted) {
        if self.bytes.remove(&id).is_some()
            && let Some(queue) = self.waiting.get_mut(&counted)
        {
            queue.retain(|other| *other != id);
            if queue.is_empty() {
                self.waiting.remove(&counted);
            }
        }
    }

    /// Takes out at most `most` connections whose bytes wait no longer: of each subject that is within its burst as many
    /// as it may send requests, one at least. A connection may have many requests in its bytes.
    pub fn take_ready(&mut self, most: usize) -> Vec<u32> {
        let mut ready = Vec::new();
        let within: Vec<Counted> =
            self.waiting.keys().filter(|of| self.beyond_burst(**of) == 0).take(most).copied().collect();
        for of in within {
            let sent = self.requests.get(&of).copied().unwrap_or(0);
            let room = self.seconds(BURST).saturating_sub(sent) / 1_000;
            let left = most.saturating_sub(ready.len());
            let Some(queue) = self.waiting.get_mut(&of) else { continue };
            let count = usize::try_from(room).unwrap_or(most).max(1).min(left).min(queue.len());
            ready.extend(queue.drain(..count));
            if queue.is_empty() {
                self.waiting.remove(&of);
            }
        }
        for id in &ready {
            self.bytes.remove(id);
        }
        ready
    }

    /// Whether any connection waits.
    pub fn any_waits(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The thousandths of requests that `counted` has sent beyond its burst.
    fn beyond_burst(&self, counted: Counted) -> u64 {
        self.requests.get(&counted).map_or(0, |sent| sent.saturating_sub(self.seconds(BURST)))
    }

    /// The thousandths of requests of so many seconds.
    fn seconds(&self, seconds: u64) -> u64 {
        seconds.saturating_mul(1_000).saturating_mul(self.per_second.into())
    }

    /// The connection `number` of the context `id` was accepted, and has sent no request.
    pub fn accepted(&mut self, id: u32, number: u64) {
        self.silent.insert(number);
        let until = self.uptime.saturating_add(FIRST_REQUEST).saturating_add(RENEW);
        self.young.push_back((until, id, number));
    }

    /// The connection `number` has sent a request, or has ended.
    pub fn spoke(&mut self, number: u64) {
        self.silent.remove(&number);
    }

    /// Takes out at most `most` connections that have sent no request in time. Returns their contexts.
    pub fn take_silent(&mut self, most: usize) -> Vec<u32> {
        let mut late = Vec::new();
        while late.len() < most
            && let Some((_, id, number)) = self.young.pop_front_if(|(until, ..)| *until <= self.uptime)
        {
            if !self.silent.contains(&number) {
                continue;
            }
            if self.bytes.contains_key(&id) {
                // Its first request may be among the bytes that wait.
                self.accepted(id, number);
            } else {
                self.silent.remove(&number);
                late.push(id);
            }
        }
        late
    }

    /// Whether `counted` gets a line of this kind now.
    pub fn notes(&mut self, counted: Counted, line: Line) -> bool {
        let subject = (counted, line);
        let now = self.uptime;
        let recent = |then: Duration| now.saturating_sub(then) < NOTE_EVERY;
        if self.noted.get(&subject).is_some_and(|then| recent(*then)) {
            return false;
        }
        if self.noted.len() >= MAX_NOTED {
            self.noted.retain(|_, then| recent(*then));
        }
        let room = self.noted.len() < MAX_NOTED;
        if room {
            self.noted.insert(subject, now);
        }
        room
    }
}

/// The most connections of a subject, for an address with or without a container. `None` means that the worker doesn't
/// know the registry yet.
pub fn limit(limits: &ConnectionLimits, known: Option<bool>) -> u32 {
    if known == Some(false) { limits.stranger } else { limits.container }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests;
