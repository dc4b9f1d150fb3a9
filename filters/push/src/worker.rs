//! The state that all pushes of a worker use: the rules in force, the clock, the work of a tick, and each container's share
//! of memory and work. Pure. The push filter sets the rules and the clock.

use git_wire::pack::READING;
use policy::InForce;
use policy::github::Rules;
use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

/// The most pushes of one container that a worker inspects at a time.
pub const MAX_PUSHES: u32 = 4;
/// The most memory of all inspections of a worker together, in bytes.
pub const MAX_MEMORY: usize = 128 << 20;
/// The most memory of all inspections of one container in a worker, in bytes.
pub const MAX_SHARE: usize = 32 << 20;
/// The most work at once on what comes out of the packs of one container in a worker: bytes, for the most part, see
/// [`git_wire::pack::Scanner::made`]. A container that has used it up regains [`MADE_PER_SECOND`].
pub const MAX_MADE: u64 = 2 << 30;
/// See [`MAX_MADE`]. Less than [`SLICE`] allows, so compression bombs use up the budget.
pub const MADE_PER_SECOND: u64 = 16 << 20;

/// The part of [`SLICE`] for a millisecond.
const PER_MILLISECOND: u64 = SLICE / 20;
/// The time between two ticks of a worker.
pub const TICK: Duration = Duration::from_millis(20);
/// The most work for each [`TICK`], over all pushes of a worker: all others wait for it. The unit is that of
/// [`git_wire::pack::Scanner::work`]. A push and its bytes have work of their own ([`PER_PUSH`],
/// [`PER_BYTE`]). With 8 MiB the slowest 1 % of another sandbox's requests took 6 times as long beside compression
/// bombs (`fairness.rs`).
pub const SLICE: u64 = 512 << 10;
/// The work that a push brings with it, so that a small one is parsed at once while larger ones wait.
pub const PER_PUSH: u64 = 256 << 10;
/// The work that each byte brings with it. An honest pack takes 18 to 33, as `benches/scan.rs` of `git-wire` measures it,
/// so an honest push is parsed as it comes.
pub const PER_BYTE: u64 = 3 * READING;

/// The state that the pushes of a worker share.
#[derive(Debug, Default)]
pub struct Worker {
    /// Without rules every push is refused.
    rules: InForce<Rules>,
    /// The sum of all steps forward of the clock.
    now: Duration,
    /// The clock, as it was last.
    clock: Duration,
    /// The work that was done lately, less [`SLICE`] for each [`TICK`] since.
    spent: u64,
    containers: HashMap<IpAddr, Share>,
    memory: usize,
}

/// The pushes of one container.
#[derive(Debug, Default)]
struct Share {
    pushes: u32,
    memory: usize,
    /// Work on packs, less the work that was regained up to `at`.
    made: u64,
    at: Duration,
}

/// A limit is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// [`MAX_PUSHES`].
    Pushes,
    /// [`MAX_SHARE`].
    Share,
    /// [`MAX_MEMORY`].
    Memory,
    /// [`MAX_MADE`].
    Made,
}

impl Worker {
    /// Puts rules in force, unless rules of the same or a higher revision were. Open pushes are judged again under them.
    /// Returns whether they are newer.
    pub fn set_rules(&mut self, revision: u64, rules: Rc<Rules>) -> bool {
        self.rules.set(revision, rules)
    }

    /// No rules are in force: every push is refused until there are newer ones.
    pub fn drop_rules(&mut self) {
        self.rules.unset();
    }

    /// The rules in force.
    pub fn rules(&self) -> Option<&Rc<Rules>> {
        self.rules.get()
    }

    /// Sets the clock: the time since any fixed moment. Time passes by its steps forward. A step back is no time.
    pub fn set_time(&mut self, clock: Duration) {
        let passed = clock.saturating_sub(self.clock);
        self.clock = clock;
        self.now = self.now.saturating_add(passed);
        let regained = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX).saturating_mul(PER_MILLISECOND);
        self.spent = self.spent.saturating_sub(regained);
        let now = self.now;
        self.containers.retain(|_, share| share.pushes > 0 || share.made_by(now) > 0);
    }

    /// The time that has passed by [`Self::set_time`].
    pub fn now(&self) -> Duration {
        self.now
    }

    /// The part of [`SLICE`] that is left.
    pub fn left(&self) -> u64 {
        SLICE.saturating_sub(self.spent)
    }

    /// Takes `work` of the part that is left.
    pub fn spend(&mut self, work: u64) {
        self.spent = self.spent.saturating_add(work).min(SLICE);
    }
}

impl Share {
    /// The part of `made` that still counts at `now`.
    fn made_by(&mut self, now: Duration) -> u64 {
        let milliseconds = u64::try_from(now.saturating_sub(self.at).as_millis()).unwrap_or(u64::MAX);
        let regained = milliseconds.saturating_mul(MADE_PER_SECOND / 1_000);
        (self.made, self.at) = (self.made.saturating_sub(regained), now);
        self.made
    }
}

/// One inspection. Dropping the ticket ends it.
#[derive(Debug)]
pub struct Ticket {
    worker: Rc<RefCell<Worker>>,
    container: IpAddr,
    memory: usize,
    made: u64,
}

impl Ticket {
    /// Begins the inspection of a push by `container`.
    ///
    /// # Errors
    /// If [`MAX_PUSHES`] inspections of the container are under way, or it has used up [`MAX_MADE`].
    pub fn take(worker: &Rc<RefCell<Worker>>, container: IpAddr) -> Result<Self, Full> {
        let mut state = worker.borrow_mut();
        let now = state.now;
        let share = state.containers.entry(container).or_insert_with(|| Share { at: now, ..Share::default() });
        if share.pushes >= MAX_PUSHES {
            return Err(Full::Pushes);
        }
        if share.made_by(now) >= MAX_MADE {
            return Err(Full::Made);
        }
        share.pushes = share.pushes.saturating_add(1);
        Ok(Self { worker: Rc::clone(worker), container, memory: 0, made: 0 })
    }

    /// Updates the memory of this inspection to `memory` bytes.
    ///
    /// # Errors
    /// If this inspection has grown, and those of the container take more than [`MAX_SHARE`], or all inspections together
    /// more than [`MAX_MEMORY`].
    pub fn holds(&mut self, memory: usize) -> Result<(), Full> {
        let mut state = self.worker.borrow_mut();
        let (before, grown) = (self.memory, memory > self.memory);
        self.memory = memory;
        let changed = |sum: usize| sum.saturating_sub(before).saturating_add(memory);
        state.memory = changed(state.memory);
        let all = state.memory;
        let Some(share) = state.containers.get_mut(&self.container) else { return Err(Full::Share) };
        share.memory = changed(share.memory);
        if grown && share.memory > MAX_SHARE {
            Err(Full::Share)
        } else if grown && all > MAX_MEMORY {
            Err(Full::Memory)
        } else {
            Ok(())
        }
    }

    /// Updates the work on what has come out of this inspection's pack to `made`.
    ///
    /// # Errors
    /// If the container has used up [`MAX_MADE`].
    pub fn has_made(&mut self, made: u64) -> Result<(), Full> {
        let mut state = self.worker.borrow_mut();
        let now = state.now;
        let Some(share) = state.containers.get_mut(&self.container) else { return Err(Full::Made) };
        let before = share.made_by(now);
        share.made = before.saturating_add(made.saturating_sub(self.made));
        self.made = made;
        if share.made > MAX_MADE { Err(Full::Made) } else { Ok(()) }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut state = self.worker.borrow_mut();
        state.memory = state.memory.saturating_sub(self.memory);
        if let Some(share) = state.containers.get_mut(&self.container) {
            share.memory = share.memory.saturating_sub(self.memory);
            share.pushes = share.pushes.saturating_sub(1);
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    type Shared = Rc<RefCell<Worker>>;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn a_container_has_so_many_at_a_time_and_another_is_not_concerned() {
        let worker = Shared::default();
        let mut held: Vec<_> = (0..MAX_PUSHES).map(|_| Ticket::take(&worker, address(1)).unwrap()).collect();
        assert_eq!(Ticket::take(&worker, address(1)).err(), Some(Full::Pushes));
        let _other = Ticket::take(&worker, address(2)).unwrap();
        held.pop();
        let _again = Ticket::take(&worker, address(1)).unwrap();
        assert_eq!(Ticket::take(&worker, address(1)).err(), Some(Full::Pushes));
    }

    #[test]
    fn a_container_has_a_share_of_the_memory_and_it_comes_back() {
        let worker = Shared::default();
        let mut tickets: Vec<_> = (0..5).map(|last| Ticket::take(&worker, address(last)).unwrap()).collect();
        let mut second = Ticket::take(&worker, address(0)).unwrap();
        tickets[0].holds(MAX_SHARE).unwrap();
        assert_eq!(second.holds(1), Err(Full::Share));
        tickets[0].holds(MAX_SHARE - 1).unwrap();
        second.holds(1).unwrap();
        assert_eq!(second.holds(2), Err(Full::Share));
        // One container's share leaves the others theirs, up to all memory.
        second.holds(0).unwrap();
        tickets[0].holds(MAX_SHARE).unwrap();
        for ticket in &mut tickets[1..4] {
            ticket.holds(MAX_SHARE).unwrap();
        }
        assert_eq!(MAX_MEMORY, 4 * MAX_SHARE);
        assert_eq!(tickets[4].holds(1), Err(Full::Memory));
        tickets.remove(0);
        tickets[3].holds(MAX_SHARE).unwrap();
        tickets.clear();
        drop(second);
        worker.borrow_mut().set_time(Duration::from_secs(1));
        assert!(worker.borrow().containers.is_empty() && worker.borrow().memory == 0);
    }

    #[test]
    fn what_comes_out_of_packs_is_limited_over_time_and_over_pushes() {
        let worker = Shared::default();
        let mut first = Ticket::take(&worker, address(1)).unwrap();
        first.has_made(MAX_MADE - 1).unwrap();
        drop(first);
        let mut second = Ticket::take(&worker, address(1)).unwrap();
        second.has_made(1).unwrap();
        assert_eq!(Ticket::take(&worker, address(1)).err(), Some(Full::Made));
        assert_eq!(second.has_made(2), Err(Full::Made));
        Ticket::take(&worker, address(2)).unwrap().has_made(MAX_MADE).unwrap();
        worker.borrow_mut().set_time(Duration::from_secs(1));
        let mut third = Ticket::take(&worker, address(1)).unwrap();
        third.has_made(MADE_PER_SECOND / 1_000 * 1_000 - 1).unwrap();
        assert_eq!(third.has_made(MADE_PER_SECOND), Err(Full::Made));
        drop((second, third));
        // A clock that goes back gives nothing, and goes on from there.
        worker.borrow_mut().set_time(Duration::ZERO);
        assert_eq!(Ticket::take(&worker, address(1)).err(), Some(Full::Made));
        worker.borrow_mut().set_time(Duration::from_secs(200));
        assert!(worker.borrow().containers.is_empty());
    }

    #[test]
    fn time_passes_by_each_step_forward() {
        let mut worker = Worker::default();
        for (clock, now) in [(5, 5), (90, 90), (6, 90), (7, 91), (0, 91), (9, 100)] {
            worker.set_time(Duration::from_secs(clock));
            assert_eq!(worker.now(), Duration::from_secs(now), "{clock}");
        }
    }

    #[test]
    fn time_brings_a_slice_of_work_for_each_tick() {
        let mut worker = Worker::default();
        worker.spend(SLICE - 7);
        assert_eq!(worker.left(), 7);
        worker.spend(8);
        assert_eq!(worker.left(), 0);
        worker.set_time(TICK / 2);
        assert_eq!(worker.left(), 10 * PER_MILLISECOND);
        worker.set_time(TICK * 9);
        assert_eq!(worker.left(), SLICE);
    }

    #[test]
    fn only_newer_rules_come_into_force() {
        let mut worker = Worker::default();
        let [old, new] = [Rules::default(), Rules::deny_all()].map(Rc::new);
        assert!(worker.set_rules(2, Rc::clone(&new)));
        assert!(!worker.set_rules(1, Rc::clone(&old)) && !worker.set_rules(2, Rc::clone(&old)));
        assert_eq!(worker.rules(), Some(&new));
        worker.drop_rules();
        assert!(!worker.set_rules(2, new) && worker.rules().is_none());
        assert!(worker.set_rules(3, Rc::clone(&old)));
        assert_eq!(worker.rules(), Some(&old));
    }
}
