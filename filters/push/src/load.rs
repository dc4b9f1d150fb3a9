//! Limits how much this worker inspects at a time. Pure.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;

/// The most pushes of one container that a worker inspects at a time.
pub const MAX_PUSHES: u32 = 4;
/// The most memory of all inspections of a worker together, in bytes.
pub const MAX_MEMORY: usize = 128 << 20;

/// The inspections under way in this worker.
#[derive(Debug, Default)]
pub struct Load {
    pushes: HashMap<IpAddr, u32>,
    memory: usize,
}

/// A limit is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// One inspection. Dropping the ticket ends it.
#[derive(Debug)]
pub struct Ticket {
    load: Rc<RefCell<Load>>,
    container: IpAddr,
    memory: usize,
}

impl Ticket {
    /// Begins the inspection of a push by `container`.
    ///
    /// # Errors
    /// If [`MAX_PUSHES`] inspections of the container are under way.
    pub fn take(load: &Rc<RefCell<Load>>, container: IpAddr) -> Result<Self, Full> {
        let mut state = load.borrow_mut();
        let pushes = state.pushes.entry(container).or_default();
        if *pushes >= MAX_PUSHES {
            return Err(Full);
        }
        *pushes = pushes.saturating_add(1);
        Ok(Self { load: Rc::clone(load), container, memory: 0 })
    }

    /// Updates the memory of this inspection to `memory` bytes.
    ///
    /// # Errors
    /// If all inspections together take more than [`MAX_MEMORY`], and this one has grown.
    pub fn holds(&mut self, memory: usize) -> Result<(), Full> {
        let mut state = self.load.borrow_mut();
        let grown = memory > self.memory;
        state.memory = state.memory.saturating_sub(self.memory).saturating_add(memory);
        self.memory = memory;
        if grown && state.memory > MAX_MEMORY { Err(Full) } else { Ok(()) }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut state = self.load.borrow_mut();
        state.memory = state.memory.saturating_sub(self.memory);
        if let Some(pushes) = state.pushes.get_mut(&self.container) {
            *pushes = pushes.saturating_sub(1);
            if *pushes == 0 {
                state.pushes.remove(&self.container);
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_container_has_so_many_at_a_time_and_another_is_not_concerned() {
        let load = Rc::default();
        let [one, other] = [1, 2].map(|last| IpAddr::from([10, 0, 0, last]));
        let mut held: Vec<_> = (0..MAX_PUSHES).map(|_| Ticket::take(&load, one).unwrap()).collect();
        assert_eq!(Ticket::take(&load, one).err(), Some(Full));
        let _other = Ticket::take(&load, other).unwrap();
        held.pop();
        let _again = Ticket::take(&load, one).unwrap();
        assert_eq!(Ticket::take(&load, one).err(), Some(Full));
    }

    #[test]
    fn memory_is_shared_and_comes_back() {
        let load = Rc::default();
        let [mut one, mut two] = [1, 2].map(|last| Ticket::take(&load, IpAddr::from([10, 0, 0, last])).unwrap());
        one.holds(MAX_MEMORY).unwrap();
        assert_eq!(two.holds(1), Err(Full));
        one.holds(MAX_MEMORY - 1).unwrap();
        two.holds(1).unwrap();
        drop(one);
        two.holds(MAX_MEMORY).unwrap();
        assert_eq!(two.holds(MAX_MEMORY + 1), Err(Full));
        drop(two);
        assert!(load.borrow().pushes.is_empty() && load.borrow().memory == 0);
    }
}
