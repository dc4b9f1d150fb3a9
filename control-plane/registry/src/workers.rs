//! The Envoy workers that follow the registry: which streams are open, which version each has applied, and how long a
//! change waits for them.
//!
//! A change is the registry's. This module only sees its version.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// A worker whose stream has ended opens a new one within this time, or is gone: the identity filter's longest pause
/// and one of its ticks (link.rs: `LONGEST`, `SHORTEST`).
const RECONNECT: Duration = Duration::from_millis(2_100);

/// The longest wait for all workers to apply a change: twice [`RECONNECT`]. After it, the streams that are behind are
/// ended. A healthy worker opens a new stream and gets the whole registry. A worker whose VM has crashed is not waited
/// for again.
const APPLY_DEADLINE: Duration = Duration::from_millis(4_200);

/// The longest wait for all workers to know a new address.
const NEW_DEADLINE: Duration = Duration::from_millis(50);

/// Every worker that may admit a container.
#[derive(Debug)]
pub struct Workers {
    streams: Mutex<Streams>,
    /// Notified when a worker has applied a version, and when a stream ends.
    progressed: Notify,
    next_id: AtomicU64,
}

/// The streams, open and ended.
#[derive(Debug, Default)]
struct Streams {
    /// The open streams by id.
    open: HashMap<u64, Progress>,
    /// When each stream ended that no new one has replaced, the oldest first.
    ended: VecDeque<Instant>,
    /// When a registry with records was opened. Workers of the previous process may hold its records and reconnect.
    reopened: Option<Instant>,
}

/// How far one worker's stream is.
#[derive(Debug, Default)]
struct Progress {
    /// The last version that the worker has applied; 0 before the first.
    applied: u64,
    /// Notified when the stream must end.
    end: Arc<Notify>,
}

impl Workers {
    /// No workers yet. `records` says that the registry has records, which workers of a previous process may hold.
    pub fn new(records: bool) -> Arc<Self> {
        let streams = Streams { reopened: records.then(Instant::now), ..Streams::default() };
        Arc::new(Self { streams: Mutex::new(streams), progressed: Notify::new(), next_id: AtomicU64::new(0) })
    }

    /// Registers a worker's stream, which has applied nothing yet. It replaces the stream that ended first.
    pub fn watcher(self: &Arc<Self>) -> Watcher {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let progress = Progress::default();
        let end = Arc::clone(&progress.end);
        let mut streams = self.streams();
        streams.forget_lost(Instant::now());
        streams.ended.pop_front();
        streams.open.insert(id, progress);
        Watcher { workers: Arc::clone(self), id, end }
    }

    /// How many workers have applied a whole registry.
    pub fn fed(&self) -> usize {
        self.streams().open.values().filter(|progress| progress.applied > 0).count()
    }

    /// How many workers have an open stream.
    pub fn following(&self) -> usize {
        self.streams().open.len()
    }

    /// Waits until every open stream has applied `version`, at most [`NEW_DEADLINE`].
    ///
    /// For a new address. A worker that doesn't know the address yet looks it up, so the wait is best effort. But the
    /// worker holds the request's body during the lookup, and a large upload may be more than it can hold.
    pub async fn wait_briefly(&self, version: u64) {
        let all_applied = async {
            loop {
                let progressed = self.progressed.notified();
                if self.streams().applied(version) {
                    return;
                }
                progressed.await;
            }
        };
        let _late = tokio::time::timeout(NEW_DEADLINE, all_applied).await;
    }

    /// Waits until every worker has applied `version`: those with an open stream, and those that reconnect within
    /// [`RECONNECT`]. After [`APPLY_DEADLINE`] it ends the streams that are behind, logs them, and returns.
    pub async fn wait_applied(&self, version: u64) {
        let all_applied = async {
            loop {
                let progressed = self.progressed.notified();
                let (applied, awaited) = {
                    let mut streams = self.streams();
                    streams.forget_lost(Instant::now());
                    (streams.applied(version), streams.awaited_until())
                };
                match awaited {
                    None if applied => return,
                    None => progressed.await,
                    Some(until) => {
                        // Check again after either.
                        let _either = tokio::time::timeout_at(until, progressed).await;
                    }
                }
            }
        };
        if tokio::time::timeout(APPLY_DEADLINE, all_applied).await.is_err() {
            self.streams().give_up(version);
        }
    }

    fn streams(&self) -> MutexGuard<'_, Streams> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Streams {
    /// Whether every open stream has applied `version`.
    fn applied(&self, version: u64) -> bool {
        self.open.values().all(|progress| progress.applied >= version)
    }

    /// Forgets the workers that have not reconnected in time.
    fn forget_lost(&mut self, now: Instant) {
        self.ended.retain(|ended| *ended + RECONNECT > now);
        self.reopened = self.reopened.filter(|reopened| *reopened + RECONNECT > now);
    }

    /// Until when a worker without a stream may reconnect; `None` if every worker has a stream.
    fn awaited_until(&self) -> Option<Instant> {
        self.ended.iter().copied().chain(self.reopened).max().map(|last| last + RECONNECT)
    }

    /// Ends every stream that has not applied `version`.
    fn give_up(&mut self, version: u64) {
        let now = Instant::now();
        tracing::warn!(version, "a change is answered though some worker may not have applied it");
        for (worker, progress) in self.open.extract_if(|_, progress| progress.applied < version) {
            tracing::warn!(worker, version, "a worker has not applied a change; its stream is ended");
            progress.end.notify_one();
            self.ended.push_back(now);
        }
    }
}

/// One worker's open stream. Dropping it counts the worker as one that may reconnect.
#[derive(Debug)]
pub struct Watcher {
    workers: Arc<Workers>,
    id: u64,
    end: Arc<Notify>,
}

impl Watcher {
    /// Records that the worker has applied everything up to `version`.
    pub fn applied(&self, version: u64) {
        if let Some(progress) = self.workers.streams().open.get_mut(&self.id) {
            progress.applied = version;
        }
        self.workers.progressed.notify_waiters();
    }

    /// Waits until the stream must end, because it is too far behind.
    pub async fn given_up(&self) {
        self.end.notified().await;
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let now = Instant::now();
        let mut streams = self.workers.streams();
        streams.forget_lost(now);
        // A stream that was given up is among the ended ones already.
        if streams.open.remove(&self.id).is_some() {
            streams.ended.push_back(now);
        }
        drop(streams);
        self.workers.progressed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_millis(800);

    /// Workers of a registry without records, and one worker that has applied version 1.
    fn watched() -> (Arc<Workers>, Watcher) {
        let workers = Workers::new(false);
        let worker = workers.watcher();
        worker.applied(1);
        (workers, worker)
    }

    /// How long a removal that makes `version` waits beside `worker`.
    async fn removal(workers: &Workers, version: u64, worker: impl Future<Output = Option<Watcher>>) -> Duration {
        let started = Instant::now();
        let removal = async {
            workers.wait_applied(version).await;
            started.elapsed()
        };
        tokio::join!(removal, worker).0
    }

    /// A worker that opens a stream after `pause`, and applies `version` after another `pause`.
    async fn comes_back(workers: &Arc<Workers>, pause: Duration, version: u64) -> Option<Watcher> {
        tokio::time::sleep(pause).await;
        let worker = workers.watcher();
        tokio::time::sleep(pause).await;
        worker.applied(version);
        Some(worker)
    }

    #[tokio::test(start_paused = true)]
    async fn a_removal_waits_for_a_worker_that_is_between_two_streams() {
        let (workers, worker) = watched();
        drop(worker);
        assert_eq!(removal(&workers, 2, comes_back(&workers, PAUSE, 2)).await, 2 * PAUSE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_removal_waits_for_as_many_workers_as_have_gone() {
        let (workers, worker) = watched();
        let second = workers.watcher();
        second.applied(1);
        drop((worker, second));
        assert_eq!(removal(&workers, 2, comes_back(&workers, PAUSE, 2)).await, RECONNECT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_removal_waits_no_longer_for_a_worker_that_does_not_come_back() {
        let (workers, worker) = watched();
        drop(worker);
        tokio::time::sleep(PAUSE).await;
        assert_eq!(removal(&workers, 2, async { None }).await, RECONNECT - PAUSE);
        assert_eq!(removal(&workers, 3, async { None }).await, Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_removal_after_a_start_waits_for_the_workers_of_before() {
        let workers = Workers::new(true);
        assert_eq!(removal(&workers, 2, async { None }).await, RECONNECT);
        assert_eq!(removal(&workers, 3, async { None }).await, Duration::ZERO);
        assert_eq!(removal(&Workers::new(false), 2, async { None }).await, Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stuck_worker_is_given_up_and_then_not_waited_for() {
        let (workers, stuck) = watched();
        assert_eq!(removal(&workers, 2, async { None }).await, APPLY_DEADLINE);
        stuck.given_up().await;
        drop(stuck);
        assert_eq!(removal(&workers, 3, async { None }).await, RECONNECT, "its new stream is waited for");
        assert_eq!(removal(&workers, 4, async { None }).await, Duration::ZERO, "it is not waited for again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_address_waits_briefly_for_a_worker_that_is_behind() {
        let (workers, worker) = watched();
        let started = Instant::now();
        workers.wait_briefly(1).await;
        assert_eq!(started.elapsed(), Duration::ZERO);
        workers.wait_briefly(2).await;
        assert_eq!(started.elapsed(), NEW_DEADLINE);
        worker.applied(2);
        workers.wait_briefly(2).await;
        assert_eq!(started.elapsed(), NEW_DEADLINE);
    }
}
