//! Who is registered, in memory and on disk, and the order of changes that every Envoy worker follows.
//!
//! **Invariant:** a change is on disk before it is in memory, and in memory before anybody is told.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use policy::{Container, HostPattern, Policy};
use tokio::sync::{Notify, broadcast};

use super::store::{Error, Store};

/// Changes that a worker's stream may fall behind before it is sent the whole registry again.
const BACKLOG: usize = 1_024;

/// How long a worker may take to apply a change that somebody waits for. Beyond it its stream is ended: a worker that
/// is well opens it anew and gets the whole registry, one whose VM has crashed is not waited for again.
const APPLY_DEADLINE: Duration = Duration::from_secs(2);

/// One change, as it is sent to the workers.
#[derive(Clone, Debug)]
pub enum Change {
    /// A record is new or different.
    Upsert(Arc<Container>),
    /// There is no record any more.
    Remove(IpAddr),
    /// There is a new policy.
    Policy(Arc<Policy>),
}

/// The registry and the policy in force.
#[derive(Debug)]
pub struct Registry {
    store: Arc<Store>,
    /// Serialises changes, so that disk, memory and workers see them in one order.
    writer: tokio::sync::Mutex<()>,
    state: Mutex<State>,
    watchers: Mutex<HashMap<u64, Progress>>,
    applied: Notify,
    next_watcher: AtomicU64,
}

/// How far one worker's stream is.
#[derive(Debug, Default)]
struct Progress {
    applied: u64,
    /// Told when the stream is to end.
    end: Arc<Notify>,
}

#[derive(Debug)]
struct State {
    version: u64,
    records: HashMap<IpAddr, Arc<Container>>,
    policy: Arc<Policy>,
    changes: broadcast::Sender<(u64, Change)>,
}

/// Everything at one version, and all changes from there on.
#[derive(Debug)]
pub struct Subscription {
    /// The version of what follows.
    pub version: u64,
    /// All records.
    pub records: Vec<Arc<Container>>,
    /// The policy in force.
    pub policy: Arc<Policy>,
    /// Every change after it, each with the version it makes.
    pub changes: broadcast::Receiver<(u64, Change)>,
}

impl Registry {
    /// Reads the store.
    ///
    /// # Errors
    /// The store's.
    pub fn open(store: Store, policy: Policy) -> Result<Arc<Self>, Error> {
        let (version, records) = store.load()?;
        let records = records.into_iter().map(|record| (record.container_ip, Arc::new(record))).collect();
        let (changes, _) = broadcast::channel(BACKLOG);
        Ok(Arc::new(Self {
            store: Arc::new(store),
            writer: tokio::sync::Mutex::default(),
            // 0 is "nothing applied yet" on the wire, so versions begin at 1.
            state: Mutex::new(State { version: version.max(1), records, policy: Arc::new(policy), changes }),
            watchers: Mutex::default(),
            applied: Notify::new(),
            next_watcher: 0.into(),
        }))
    }

    /// The record at `address`, and the version at which that is true.
    pub fn lookup(&self, address: IpAddr) -> (u64, Option<Arc<Container>>) {
        let state = self.state();
        (state.version, state.records.get(&address.to_canonical()).cloned())
    }

    /// All records, by address.
    pub fn list(&self) -> Vec<Arc<Container>> {
        let mut records: Vec<_> = self.state().records.values().cloned().collect();
        records.sort_by_key(|record| record.container_ip);
        records
    }

    /// The policy in force.
    pub fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.state().policy)
    }

    /// Puts a new policy in force.
    pub fn set_policy(&self, policy: Policy) {
        let mut state = self.state();
        state.policy = Arc::new(policy);
        let (version, change) = (state.version, Change::Policy(Arc::clone(&state.policy)));
        state.publish(version, change);
    }

    /// The hosts that single containers may reach beside the policy's.
    pub fn extra_hosts(&self) -> BTreeSet<HostPattern> {
        self.state().records.values().flat_map(|record| record.egress_allow.iter().cloned()).collect()
    }

    /// Every change from now on.
    pub fn changes(&self) -> broadcast::Receiver<(u64, Change)> {
        self.state().changes.subscribe()
    }

    /// Writes a record, new or in place of the one at its address. Returns it with its generation, and whether
    /// there was one before. Where there was, the workers have applied the change when this returns.
    ///
    /// # Errors
    /// The store's; nothing has changed then.
    pub async fn put(&self, mut record: Container) -> Result<(Arc<Container>, bool), Error> {
        let writer = self.writer.lock().await;
        let version = self.state().version + 1;
        record.container_ip = record.container_ip.to_canonical();
        record.generation = version;
        let record = Arc::new(record);
        let (store, stored) = (Arc::clone(&self.store), Arc::clone(&record));
        blocking(move || store.put(version, &stored)).await?;
        let replaced = {
            let mut state = self.state();
            let replaced = state.records.insert(record.container_ip, Arc::clone(&record)).is_some();
            state.publish(version, Change::Upsert(Arc::clone(&record)));
            replaced
        };
        drop(writer);
        // A new record needs no waiting: a worker that does not know an address asks.
        if replaced {
            self.wait_applied(version).await;
        }
        Ok((record, replaced))
    }

    /// Removes the record at `address`; false where there is none. When it returns, no worker admits the address.
    ///
    /// # Errors
    /// The store's; nothing has changed then.
    pub async fn remove(&self, address: IpAddr) -> Result<bool, Error> {
        let address = address.to_canonical();
        let writer = self.writer.lock().await;
        if self.lookup(address).1.is_none() {
            return Ok(false);
        }
        let version = self.state().version + 1;
        let store = Arc::clone(&self.store);
        blocking(move || store.remove(version, address)).await?;
        {
            let mut state = self.state();
            state.records.remove(&address);
            state.publish(version, Change::Remove(address));
        }
        drop(writer);
        self.wait_applied(version).await;
        Ok(true)
    }

    /// Everything now, and every change from now on.
    pub fn subscribe(&self) -> Subscription {
        let state = self.state();
        Subscription {
            version: state.version,
            records: state.records.values().cloned().collect(),
            policy: Arc::clone(&state.policy),
            changes: state.changes.subscribe(),
        }
    }

    /// Registers a worker's stream, which has applied nothing yet.
    pub fn watcher(self: &Arc<Self>) -> Watcher {
        let id = self.next_watcher.fetch_add(1, Ordering::Relaxed);
        let progress = Progress::default();
        let end = Arc::clone(&progress.end);
        self.watchers().insert(id, progress);
        Watcher { registry: Arc::clone(self), id, end }
    }

    /// Whether any worker has applied a whole registry.
    pub fn watched(&self) -> bool {
        self.watchers().values().any(|progress| progress.applied > 0)
    }

    async fn wait_applied(&self, version: u64) {
        let all_applied = async {
            loop {
                let notified = self.applied.notified();
                if self.watchers().values().all(|progress| progress.applied >= version) {
                    return;
                }
                notified.await;
            }
        };
        if tokio::time::timeout(APPLY_DEADLINE, all_applied).await.is_err() {
            self.watchers().retain(|id, progress| {
                let behind = progress.applied < version;
                if behind {
                    tracing::warn!(worker = id, version, "a worker has not applied a change; its stream is ended");
                    progress.end.notify_one();
                }
                !behind
            });
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watchers(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Progress>> {
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn publish(&mut self, version: u64, change: Change) {
        self.version = version;
        // An error says that nobody listens.
        drop(self.changes.send((version, change)));
    }
}

/// One worker's stream, for as long as it is open.
#[derive(Debug)]
pub struct Watcher {
    registry: Arc<Registry>,
    id: u64,
    end: Arc<Notify>,
}

impl Watcher {
    /// The worker says it has applied everything up to `version`.
    pub fn applied(&self, version: u64) {
        if let Some(progress) = self.registry.watchers().get_mut(&self.id) {
            progress.applied = version;
        }
        self.registry.applied.notify_waiters();
    }

    /// Waits until the registry gives this worker's stream up.
    pub async fn given_up(&self) {
        self.end.notified().await;
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.registry.watchers().remove(&self.id);
        self.registry.applied.notify_waiters();
    }
}

/// Runs `work`, which waits for the disk, where that holds up nobody.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        // The work panicked or the runtime is stopping; either way the change is not known to be on disk.
        Err(error) => Err(Error::Database(redb::Error::Io(std::io::Error::other(error)))),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn registry(directory: &std::path::Path) -> Arc<Registry> {
        let store = Store::open(&directory.join("registry.redb")).unwrap();
        Registry::open(store, Policy::deny_all()).unwrap()
    }

    fn record(address: &str) -> Container {
        serde_json::from_value(serde_json::json!({
            "container_ip": address, "container_id": "a", "repos": [], "expires_at": "2100-01-01T00:00:00Z"
        }))
        .unwrap()
    }

    #[tokio::test]
    async fn a_record_survives_a_restart_and_versions_go_on() {
        let directory = tempfile::tempdir().unwrap();
        let first = registry(directory.path());
        let (one, replaced) = first.put(record("10.0.0.1")).await.unwrap();
        assert!(!replaced);
        first.put(record("10.0.0.2")).await.unwrap();
        assert!(first.remove("10.0.0.2".parse().unwrap()).await.unwrap());
        assert!(!first.remove("10.0.0.2".parse().unwrap()).await.unwrap());
        let (version, _) = first.lookup("10.0.0.1".parse().unwrap());
        drop(first);
        let second = registry(directory.path());
        assert_eq!(second.lookup("::ffff:10.0.0.1".parse().unwrap()), (version, Some(one)));
        let (later, _) = second.put(record("10.0.0.3")).await.unwrap();
        assert_eq!(later.generation, version + 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_removal_waits_for_each_worker_and_gives_up_the_one_that_is_stuck() {
        let directory = tempfile::tempdir().unwrap();
        let registry = registry(directory.path());
        registry.put(record("10.0.0.1")).await.unwrap();
        registry.put(record("10.0.0.2")).await.unwrap();
        let (well, stuck) = (registry.watcher(), registry.watcher());
        let mut changes = registry.subscribe().changes;
        let worker = async {
            let (version, _) = changes.recv().await.unwrap();
            well.applied(version);
        };
        let started = tokio::time::Instant::now();
        let (removed, ()) = tokio::join!(registry.remove("10.0.0.1".parse().unwrap()), worker);
        assert!(removed.unwrap());
        assert!(started.elapsed() >= APPLY_DEADLINE, "the stuck worker was waited for");
        stuck.given_up().await;
        let worker = async {
            let (version, _) = changes.recv().await.unwrap();
            well.applied(version);
        };
        let again = tokio::time::Instant::now();
        let (removed, ()) = tokio::join!(registry.remove("10.0.0.2".parse().unwrap()), worker);
        assert!(removed.unwrap());
        assert!(again.elapsed() < APPLY_DEADLINE, "it is not waited for again");
    }
}
