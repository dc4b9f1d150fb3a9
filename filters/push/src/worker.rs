//! The state that all pushes of a worker use: the rules in force, the clock, and each container's share of memory and work.
//! Pure. The push filter sets the rules and the clock.

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
/// The most bytes that come out of the packs of one container at once in a worker, see
/// [`git_wire::pack::Scanner::made`]. A container that has used them up regains [`MADE_PER_SECOND`].
pub const MAX_MADE: u64 = 2 << 30;
/// See [`MAX_MADE`]. Inflating so much takes less than a tenth of a worker's time.
pub const MADE_PER_SECOND: u64 = 128 << 20;

/// The state that the pushes of a worker share.
#[derive(Debug, Default)]
pub struct Worker {
    /// `None` until valid rules have arrived: every push is refused.
    rules: Option<Rc<Rules>>,
    now: Duration,
    containers: HashMap<IpAddr, Share>,
    memory: usize,
}

/// The pushes of one container.
#[derive(Debug, Default)]
struct Share {
    pushes: u32,
    memory: usize,
    /// Bytes that have come out of packs, less what was regained up to `at`.
    made: u64,
    at: Duration,
}

/// A limit is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl Worker {
    /// The rules that are in force from now on. Open pushes are judged again under them.
    pub fn set_rules(&mut self, rules: Option<Rc<Rules>>) {
        self.rules = rules;
    }

    /// The rules in force.
    pub fn rules(&self) -> Option<&Rc<Rules>> {
        self.rules.as_ref()
    }

    /// Sets the clock: the time since any fixed moment. A clock that goes back stands still.
    pub fn set_time(&mut self, now: Duration) {
        self.now = self.now.max(now);
        let now = self.now;
        self.containers.retain(|_, share| share.pushes > 0 || share.made_by(now) > 0);
    }

    /// The time at the last [`Self::set_time`].
    pub fn now(&self) -> Duration {
        self.now
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
        if share.pushes >= MAX_PUSHES || share.made_by(now) >= MAX_MADE {
            return Err(Full);
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
        let Some(share) = state.containers.get_mut(&self.container) else { return Err(Full) };
        share.memory = changed(share.memory);
        if grown && (share.memory > MAX_SHARE || all > MAX_MEMORY) { Err(Full) } else { Ok(()) }
    }

    /// Updates the number of bytes that have come out of this inspection's pack to `made`.
    ///
    /// # Errors
    /// If the container has used up [`MAX_MADE`].
    pub fn has_made(&mut self, made: u64) -> Result<(), Full> {
        let mut state = self.worker.borrow_mut();
        let now = state.now;
        let Some(share) = state.containers.get_mut(&self.container) else { return Err(Full) };
        let before = share.made_by(now);
        share.made = before.saturating_add(made.saturating_sub(self.made));
        self.made = made;
        if share.made > MAX_MADE { Err(Full) } else { Ok(()) }
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
        assert_eq!(Ticket::take(&worker, address(1)).err(), Some(Full));
        let _other = Ticket::take(&worker, address(2)).unwrap();
        held.pop();
        let _again = Ticket::take(&worker, address(1)).unwrap();
        assert_eq!(Ticket::take(&worker, address(1)).err(), Some(Full));
    }

    #[test]
    fn a_container_has_a_share_of_the_memory_and_it_comes_back() {
        let worker = Shared::default();
        let mut tickets: Vec<_> = (0..5).map(|last| Ticket::take(&worker, address(last)).unwrap()).collect();
        let mut second = Ticket::take(&worker, address(0)).unwrap();
        tickets[0].holds(MAX_SHARE).unwrap();
        assert_eq!(second.holds(1), Err(Full));
        tickets[0].holds(MAX_SHARE - 1).unwrap();
        second.holds(1).unwrap();
        assert_eq!(second.holds(2), Err(Full));
        // One container's share leaves the others theirs, up to all memory.
        second.holds(0).unwrap();
        tickets[0].holds(MAX_SHARE).unwrap();
        for ticket in &mut tickets[1..4] {
            ticket.holds(MAX_SHARE).unwrap();
        }
        assert_eq!(MAX_MEMORY, 4 * MAX_SHARE);
        assert_eq!(tickets[4].holds(1), Err(Full));
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
        assert_eq!(Ticket::take(&worker, address(1)).err(), Some(Full));
        assert_eq!(second.has_made(2), Err(Full));
        Ticket::take(&worker, address(2)).unwrap().has_made(MAX_MADE).unwrap();
        worker.borrow_mut().set_time(Duration::from_secs(1));
        let mut third = Ticket::take(&worker, address(1)).unwrap();
        third.has_made(MADE_PER_SECOND / 1_000 * 1_000 - 1).unwrap();
        assert_eq!(third.has_made(MADE_PER_SECOND), Err(Full));
        drop((second, third));
        // A clock that goes back gives nothing.
        worker.borrow_mut().set_time(Duration::ZERO);
        assert_eq!(Ticket::take(&worker, address(1)).err(), Some(Full));
        worker.borrow_mut().set_time(Duration::from_secs(60));
        assert!(worker.borrow().containers.is_empty());
    }
}
