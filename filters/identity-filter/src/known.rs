//! This VM's copy of the registry, for the filter of connections. The identity filter's root context shares its worker.

use crate::worker::Worker;
use policy::{Denial, Note};
use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::{Rc, Weak};

thread_local! {
    static WORKER: RefCell<Weak<RefCell<Worker>>> = const { RefCell::new(Weak::new()) };
}

/// Shares the worker of a new root context.
pub fn share(worker: &Rc<RefCell<Worker>>) {
    WORKER.set(Rc::downgrade(worker));
}

/// Whether a container is registered at `source`. `None` as long as this worker doesn't know the registry.
pub fn knows(source: IpAddr) -> Option<bool> {
    let worker = WORKER.with_borrow(Weak::upgrade)?;
    let worker = worker.borrow();
    worker.memory.is_filled().then(|| worker.memory.record(source).is_some())
}

/// The audit note of a connection from `source` that is refused.
pub fn note_of(source: IpAddr, denial: Denial) -> Note {
    match WORKER.with_borrow(Weak::upgrade) {
        Some(worker) => worker.borrow().note_of(source, denial),
        None => Note::default().refused(&denial),
    }
}
