//! The memory of a worker for bodies that are inflated, with a share for each container.

use policy::{Denial, Rule};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// The most bytes for all decoders of a worker.
pub const MAX_MEMORY: usize = 96 << 20;
/// The most bytes for one container's decoders: 12 requests at a time.
pub const SHARE: usize = 28 << 20;

/// The memory in use, by container.
#[derive(Debug, Default)]
pub struct Load(BTreeMap<String, usize>);

/// The memory of one request. Gives it back when dropped.
#[derive(Debug)]
pub struct Ticket {
    load: Rc<RefCell<Load>>,
    container: String,
    held: usize,
}

impl Ticket {
    /// A request that holds nothing.
    pub fn new(load: &Rc<RefCell<Load>>, container: String) -> Self {
        Self { load: load.clone(), container, held: 0 }
    }

    /// The request holds so many bytes from now on.
    ///
    /// # Errors
    /// If that is more than its container's share, or than the worker has.
    pub fn holds(&mut self, bytes: usize) -> Result<(), Denial> {
        if bytes == self.held {
            return Ok(());
        }
        let mut load = self.load.borrow_mut();
        let total: usize = load.0.values().sum();
        let own = load.0.get(&self.container).copied().unwrap_or(0);
        let more = bytes.saturating_sub(self.held);
        if more > 0 && (own + more > SHARE || total + more > MAX_MEMORY) {
            let reason = "too many compressed requests are under way; try again when others are done";
            return Err(Denial::new(Rule::LimitCompressed, reason));
        }
        *load.0.entry(self.container.clone()).or_default() = (own + bytes).saturating_sub(self.held);
        self.held = bytes;
        Ok(())
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut load = self.load.borrow_mut();
        if let Some(own) = load.0.get_mut(&self.container) {
            *own = own.saturating_sub(self.held);
            if *own == 0 {
                load.0.remove(&self.container);
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_container_has_its_share_and_the_worker_its_limit() {
        let load = Rc::new(RefCell::new(Load::default()));
        let ticket = |name: &str| Ticket::new(&load, name.into());
        let mut one = ticket("a");
        one.holds(SHARE).unwrap();
        assert_eq!(ticket("a").holds(1).unwrap_err().rule, Rule::LimitCompressed);
        let mut others: Vec<Ticket> = (0..3).map(|number| ticket(&number.to_string())).collect();
        others[0].holds(SHARE).unwrap();
        others[1].holds(SHARE).unwrap();
        others[2].holds(MAX_MEMORY - 3 * SHARE).unwrap();
        assert!(ticket("b").holds(1).is_err());
        one.holds(SHARE - 1).unwrap();
        ticket("b").holds(1).unwrap();
        drop((one, others));
        assert!(load.borrow().0.is_empty());
    }
}
