//! The open TCP connections of each address, in all workers together. Pure: `accept` reads and writes the shared
//! values, and carries out the decisions.
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
        self.0.retain(|(of, by, _)| !(alive.forgotten(*by) || *of == counted && *by == vm));
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
    /// The subjects whose last change could not be published.
    pub unpublished: Vec<Counted>,
    /// The uptime at which the last line about a subject was written.
    noted: HashMap<Counted, Duration>,
    /// The time that the ticks have counted: up to one [`RENEW`] behind the clock.
    uptime: Duration,
    /// The clock at the last tick, in milliseconds.
    ticked: Option<u64>,
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

    /// The clock is at `now`, in milliseconds: about a [`RENEW`] after the last tick. More root contexts than one may
    /// tick, and the clock may be set.
    pub fn tick(&mut self, now: u64) {
        let passed = Duration::from_millis(now.saturating_sub(self.ticked.replace(now).unwrap_or(now)));
        self.uptime = self.uptime.saturating_add(passed.min(RENEW));
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
            if self.silent.remove(&number) {
                late.push(id);
            }
        }
        late
    }

    /// Whether a refused connection of `counted` gets an audit line now.
    pub fn notes(&mut self, counted: Counted) -> bool {
        let now = self.uptime;
        let recent = |then: Duration| now.saturating_sub(then) < NOTE_EVERY;
        if self.noted.get(&counted).is_some_and(|then| recent(*then)) {
            return false;
        }
        if self.noted.len() >= MAX_NOTED {
            self.noted.retain(|_, then| recent(*then));
        }
        let room = self.noted.len() < MAX_NOTED;
        if room {
            self.noted.insert(counted, now);
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
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000_000;

    /// Two workers and the value that they share.
    struct Two {
        workers: [Connections; 2],
        alive: Vec<u8>,
        table: Vec<u8>,
    }

    impl Two {
        fn new() -> Self {
            let mut two = Self { workers: Default::default(), alive: Vec::new(), table: Vec::new() };
            [0, 1].into_iter().for_each(|worker| two.show(worker, NOW));
            two.show(0, NOW);
            two
        }

        fn show(&mut self, worker: usize, now: u64) {
            let mut alive = Alive::read(&self.alive).unwrap();
            let worker = &mut self.workers[worker];
            worker.vm = Some(alive.show(worker.vm, now));
            self.alive = alive.to_bytes();
            worker.alive = alive;
        }

        fn opens(&mut self, worker: usize, counted: Counted, limit: u32, now: u64) -> bool {
            let worker = &mut self.workers[worker];
            match worker.with_one_more(counted, limit, Table::read(&self.table).unwrap(), now) {
                Admission::Full => false,
                Admission::Room(table) => {
                    self.table = table.to_bytes();
                    worker.opened(counted);
                    true
                }
            }
        }

        fn closes(&mut self, worker: usize, counted: Counted) {
            let worker = &mut self.workers[worker];
            worker.closed(counted);
            self.table = worker.published(counted, Table::read(&self.table).unwrap()).to_bytes();
        }
    }

    fn of(address: &str) -> Counted {
        Counted::of(address.parse().unwrap(), false)
    }

    #[test]
    fn the_last_place_is_given_once_whichever_worker_is_asked() {
        let mut two = Two::new();
        let (one, other) = (of("10.0.0.1"), of("10.0.0.2"));
        for number in 0..16 {
            assert!(two.opens(number % 2, one, 16, NOW), "{number}");
        }
        for worker in [0, 1] {
            assert!(!two.opens(worker, one, 16, NOW));
        }
        assert!(two.opens(0, other, 16, NOW), "another address");
        two.closes(0, one);
        assert!(two.opens(1, one, 16, NOW) && !two.opens(0, one, 16, NOW));
        for _ in 0..7 {
            two.closes(0, one);
        }
        for _ in 0..9 {
            two.closes(1, one);
        }
        two.closes(0, other);
        assert!(two.table.is_empty(), "nothing is kept of an address without connections");
    }

    #[test]
    fn a_vm_that_is_gone_leaves_no_count() {
        let mut two = Two::new();
        let one = of("10.0.0.1");
        (0..16).for_each(|_| assert!(two.opens(0, one, 16, NOW)));
        // The filter of worker 0 crashes; its new VM has no memory, and gets another number.
        two.workers[0] = Connections::default();
        two.show(0, NOW);
        assert!(!two.opens(0, one, 16, NOW + 4_999) && !two.opens(1, one, 16, NOW + 4_999));
        for now in [NOW + 5_000, NOW + 30_000] {
            [0, 1].into_iter().for_each(|worker| two.show(worker, now));
            assert!(two.opens(1, one, 16, now), "its connections don't count any more");
        }
        let before = two.table.len();
        [1, 0, 1].into_iter().for_each(|worker| two.show(worker, NOW + 60_000));
        assert!(two.opens(1, one, 16, NOW + 60_000));
        assert!(two.table.len() < before, "its entry is gone");
    }

    #[test]
    fn a_vm_that_stood_still_counts_again() {
        let mut two = Two::new();
        let one = of("10.0.0.1");
        (0..16).for_each(|_| assert!(two.opens(0, one, 16, NOW)));
        two.show(1, NOW + 10_000);
        assert!(two.opens(1, one, 16, NOW + 10_000));
        [0, 1].into_iter().for_each(|worker| two.show(worker, NOW + 20_000));
        assert!(!two.opens(1, one, 16, NOW + 20_000) && !two.opens(0, one, 16, NOW + 20_000));
    }

    #[test]
    fn a_stranger_has_its_ipv6_network_and_a_container_its_address() {
        let [one, two, far]: [IpAddr; 3] =
            ["fd00::1", "fd00::2:3", "fd00:0:0:1::1"].map(|address| address.parse().unwrap());
        assert_eq!(Counted::of(one, false), Counted::of(two, false));
        assert_ne!(Counted::of(one, false), Counted::of(far, false));
        assert_ne!(Counted::of(one, true), Counted::of(two, true));
        assert_ne!(Counted::of(one, true), Counted::of(one, false));
        let v4: IpAddr = "10.0.0.1".parse().unwrap();
        assert_eq!(Counted::of(v4, true), Counted::of(v4, false));
        assert_ne!(Counted::of(v4, false), Counted::of("10.0.0.2".parse().unwrap(), false));
    }

    fn pass(connections: &mut Connections, seconds: u64) {
        let now = connections.ticked.unwrap_or(NOW);
        (0..=seconds * 2).for_each(|half| connections.tick(now + half * 500));
    }

    #[test]
    fn the_time_of_ticks_is_the_clock_s() {
        let mut connections = Connections::default();
        // The second root context ticks in between, then the clock is set forward, and back.
        [0, 400, 1_000, 1_400].into_iter().for_each(|passed| connections.tick(NOW + passed));
        assert_eq!(connections.uptime, Duration::from_millis(1_400));
        connections.tick(NOW + 1_000_000);
        assert_eq!(connections.uptime, Duration::from_millis(2_400));
        [0, 1_000].into_iter().for_each(|passed| connections.tick(NOW + passed));
        assert_eq!(connections.uptime, Duration::from_millis(3_400));
    }

    #[test]
    fn a_connection_without_a_request_ends_after_ten_seconds() {
        let mut connections = Connections::default();
        (1..=5).for_each(|id| connections.accepted(id, u64::from(id) + 100));
        connections.spoke(102);
        pass(&mut connections, 10);
        assert!(connections.take_silent(64).is_empty(), "the first second may be almost over");
        pass(&mut connections, 1);
        assert_eq!(connections.take_silent(3), [1, 3, 4], "no more than so many at once");
        assert_eq!(connections.take_silent(3), [5]);
        assert!(connections.silent.is_empty() && connections.young.is_empty());
    }

    #[test]
    fn a_refused_address_has_a_line_a_minute_and_there_are_not_too_many() {
        let mut connections = Connections::default();
        assert!(connections.notes(of("10.0.0.1")));
        pass(&mut connections, 59);
        assert!(!connections.notes(of("10.0.0.1")));
        pass(&mut connections, 1);
        assert!(connections.notes(of("10.0.0.1")));
        for number in 0..u32::try_from(MAX_NOTED).unwrap() - 1 {
            assert!(connections.notes(Counted::of(IpAddr::from(number.to_be_bytes()), false)));
        }
        assert!(!connections.notes(of("fd00::1")));
        pass(&mut connections, 60);
        assert!(connections.notes(of("fd00::1")));
    }

    #[test]
    fn shared_values_of_another_form_are_errors() {
        let table = Table(vec![(of("10.0.0.1"), 7, 16), (Counted::STRANGERS, 8, 1)]);
        assert_eq!(Table::read(&table.to_bytes()), Ok(table.clone()));
        assert_eq!(Table::read(&table.to_bytes()[1..]), Err(Unreadable));
        let mut alive = Alive::default();
        alive.show(None, NOW);
        assert_eq!(Alive::read(&alive.to_bytes()), Ok(alive.clone()));
        assert_eq!(Alive::read(&alive.to_bytes()[8..16]), Ok(Alive { next: 1, seen: HashMap::new() }));
        for cut in [1, 16] {
            assert_eq!(Alive::read(&alive.to_bytes()[..cut]), Err(Unreadable));
        }
    }

    #[test]
    fn as_long_as_the_registry_is_not_known_everybody_counts_as_a_container() {
        let limits = ConnectionLimits { container: 512, stranger: 16, strangers: 1_000 };
        assert_eq!([None, Some(true), Some(false)].map(|known| limit(&limits, known)), [512, 512, 16]);
    }
}
