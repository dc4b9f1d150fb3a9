//! Who is registered, in memory and on disk, and the order of changes that every Envoy worker follows.
//!
//! **Invariant:** a change is on disk before it is in memory, and in memory before anybody is told. It is made whole or
//! not at all, whatever becomes of whoever asked for it.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use policy::{Container, HostName, HostPattern, Policy};
use tokio::sync::{MutexGuard, Notify, broadcast};
use tokio::time::{Instant, MissedTickBehavior};

use super::store::{Error, Store};

/// Changes that a worker's stream may fall behind before it is sent the whole registry again.
const BACKLOG: usize = 1_024;

/// Within this a worker whose stream has ended has opened a new one, or is gone: the identity filter's longest pause,
/// and one of its ticks (link.rs: `LONGEST`, `SHORTEST`).
const RECONNECT: Duration = Duration::from_millis(2_100);

/// How long somebody waits for all workers to apply a change: until the last of them is back, and as long again. Beyond
/// it the streams that are behind are ended: a worker that is well opens a new one and gets the whole registry, one
/// whose VM has crashed is not waited for again.
const APPLY_DEADLINE: Duration = Duration::from_millis(4_200);

/// How long somebody who registers a new address waits for all workers to know it.
const NEW_DEADLINE: Duration = Duration::from_millis(50);

/// How long an expired record is kept, so that its refusals say that it has expired and not that nobody is known.
const KEEP_EXPIRED: SignedDuration = SignedDuration::from_hours(24);

/// How often it is looked for records that have expired that long ago.
const TIDY_EVERY: Duration = Duration::from_secs(600);

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
    workers: Mutex<Workers>,
    applied: Notify,
    next_watcher: AtomicU64,
}

/// Every worker that may admit somebody.
#[derive(Debug, Default)]
struct Workers {
    /// The streams that are open.
    streams: HashMap<u64, Progress>,
    /// When each stream ended that no new one has taken the place of, the oldest first.
    gone: VecDeque<Instant>,
    /// When the registry was opened, if it was not empty: workers of before may hold it, and are about to come.
    opened: Option<Instant>,
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
        let records: HashMap<_, _> =
            records.into_iter().map(|record| (record.container_ip, Arc::new(record))).collect();
        let workers = Workers { opened: (!records.is_empty()).then(Instant::now), ..Default::default() };
        let (changes, _) = broadcast::channel(BACKLOG);
        Ok(Arc::new(Self {
            store: Arc::new(store),
            writer: tokio::sync::Mutex::default(),
            // 0 is "nothing applied yet" on the wire, so versions begin at 1.
            state: Mutex::new(State { version: version.max(1), records, policy: Arc::new(policy), changes }),
            workers: Mutex::new(workers),
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

    /// Whether `host` is one of them.
    pub fn allows_extra(&self, host: &HostName) -> bool {
        self.state().records.values().any(|record| record.egress_allow.iter().any(|pattern| pattern.covers(host)))
    }

    /// Every change from now on.
    pub fn changes(&self) -> broadcast::Receiver<(u64, Change)> {
        self.state().changes.subscribe()
    }

    /// Writes a record, new or in place of the one at its address. Returns it with its generation, and whether
    /// there was one before. Where there was, the workers have applied the change when this returns, as far as
    /// [`Registry::remove`] says; where there was none, those that are well have, and the others ask.
    ///
    /// # Errors
    /// The store's; nothing has changed then.
    pub async fn put(self: &Arc<Self>, record: Container) -> Result<(Arc<Container>, bool), Error> {
        let registry = Arc::clone(self);
        let (record, replaced) = to_its_end(async move {
            let writer = registry.writer.lock().await;
            registry.write(&writer, record).await
        })
        .await?;
        if replaced {
            self.wait_applied(record.generation).await;
        } else {
            // A worker that does not know the address yet asks, so this is no promise. But what comes while it asks
            // has to be held, and a large upload may be more than can be.
            let _late = tokio::time::timeout(NEW_DEADLINE, self.applied_by_all(record.generation)).await;
        }
        Ok((record, replaced))
    }

    /// Makes of the record at `address` what `made` makes of it; `None` where there is none. No other change comes
    /// in between. The workers have applied it when this returns, as far as [`Registry::remove`] says.
    ///
    /// # Errors
    /// The store's and `made`'s; nothing has changed then.
    pub async fn change<E: From<Error> + Send + 'static>(
        self: &Arc<Self>,
        address: IpAddr,
        made: impl FnOnce(Container) -> Result<Container, E> + Send + 'static,
    ) -> Result<Option<Arc<Container>>, E> {
        let registry = Arc::clone(self);
        let changed = to_its_end(async move {
            let writer = registry.writer.lock().await;
            let Some(record) = registry.lookup(address).1 else { return Ok(None) };
            let changed = Container { container_ip: record.container_ip, ..made(Container::clone(&record))? };
            Ok::<_, E>(Some(registry.write(&writer, changed).await?.0))
        })
        .await?;
        if let Some(record) = &changed {
            self.wait_applied(record.generation).await;
        }
        Ok(changed)
    }

    /// Adds to the record at `address` what `noted` finds out about it, unless that is nothing. The record keeps its
    /// generation, so that what the container has open goes on: no right may be taken away by this. Waits for no
    /// worker. True where something was written.
    ///
    /// # Errors
    /// The store's; nothing has changed then.
    pub async fn note(
        self: &Arc<Self>,
        address: IpAddr,
        noted: impl FnOnce(&Container) -> Option<Container> + Send + 'static,
    ) -> Result<bool, Error> {
        let registry = Arc::clone(self);
        to_its_end(async move {
            let writer = registry.writer.lock().await;
            let Some(record) = registry.lookup(address).1 else { return Ok(false) };
            let Some(changed) = noted(&record) else { return Ok(false) };
            let kept = Container { container_ip: record.container_ip, generation: record.generation, ..changed };
            registry.keep(&writer, registry.next_version(), kept).await?;
            Ok(true)
        })
        .await
    }

    /// Removes the record at `address`; false where there is none. When it returns, no worker admits the address.
    ///
    /// That is known of every worker whose stream is open, and of one that comes back within [`RECONNECT`]. What is
    /// not known after [`APPLY_DEADLINE`] is logged and not waited for: a worker that is stuck, or out of touch for
    /// longer than its filter lets it be, may admit the address until it gets the whole registry.
    ///
    /// # Errors
    /// The store's; nothing has changed then.
    pub async fn remove(self: &Arc<Self>, address: IpAddr) -> Result<bool, Error> {
        let removed = self.remove_if(address, |_| true).await?;
        if let Some(version) = removed {
            self.wait_applied(version).await;
        }
        Ok(removed.is_some())
    }

    /// Removes every record that has expired [`KEEP_EXPIRED`] or longer before `now`. It waits for no worker: none
    /// admits them any more.
    ///
    /// # Errors
    /// The store's; what is left is due again the next time.
    pub async fn purge(self: &Arc<Self>, now: Timestamp) -> Result<(), Error> {
        let expired_at = now.checked_sub(KEEP_EXPIRED).unwrap_or(Timestamp::MIN);
        for record in self.list().into_iter().filter(|record| record.expired(expired_at)) {
            // It may be another one by now.
            self.remove_if(record.container_ip, move |record| record.expired(expired_at)).await?;
        }
        Ok(())
    }

    /// Purges every [`TIDY_EVERY`], for as long as the process runs.
    pub async fn tidy(self: Arc<Self>) {
        let mut every = tokio::time::interval(TIDY_EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            every.tick().await;
            if let Err(error) = self.purge(Timestamp::now()).await {
                let error = format!("{:#}", anyhow::Error::from(error));
                tracing::error!(error, "expired records could not be removed");
            }
        }
    }

    async fn remove_if(
        self: &Arc<Self>,
        address: IpAddr,
        wanted: impl FnOnce(&Container) -> bool + Send + 'static,
    ) -> Result<Option<u64>, Error> {
        let registry = Arc::clone(self);
        to_its_end(async move {
            let writer = registry.writer.lock().await;
            match registry.lookup(address).1.filter(|record| wanted(record)) {
                Some(record) => registry.erase(&writer, &record).await.map(Some),
                None => Ok(None),
            }
        })
        .await
    }

    /// Writes `record` as a new generation of it.
    async fn write(&self, writer: &MutexGuard<'_, ()>, mut record: Container) -> Result<(Arc<Container>, bool), Error> {
        let version = self.next_version();
        record.container_ip = record.container_ip.to_canonical();
        record.generation = version;
        self.keep(writer, version, record).await
    }

    /// The version that the next change makes; of meaning to whoever holds the right to write.
    fn next_version(&self) -> u64 {
        self.state().version + 1
    }

    /// Writes `record` on disk, then in memory, then to the workers, which makes `version`. `_writer` is the right to.
    async fn keep(
        &self,
        _writer: &MutexGuard<'_, ()>,
        version: u64,
        record: Container,
    ) -> Result<(Arc<Container>, bool), Error> {
        let record = Arc::new(record);
        let (store, stored) = (Arc::clone(&self.store), Arc::clone(&record));
        tokio::task::spawn_blocking(move || store.put(version, &stored)).await??;
        let mut state = self.state();
        let replaced = state.records.insert(record.container_ip, Arc::clone(&record)).is_some();
        state.publish(version, Change::Upsert(Arc::clone(&record)));
        tracing::info!(address = %record.container_ip, id = %record.container_id, replaced, version, "wrote a record");
        Ok((record, replaced))
    }

    /// Removes `record` from the disk, then from memory, then from the workers, and returns the version that makes.
    async fn erase(&self, _writer: &MutexGuard<'_, ()>, record: &Container) -> Result<u64, Error> {
        let version = self.next_version();
        let (store, address) = (Arc::clone(&self.store), record.container_ip);
        tokio::task::spawn_blocking(move || store.remove(version, address)).await??;
        let mut state = self.state();
        state.records.remove(&address);
        state.publish(version, Change::Remove(address));
        tracing::info!(%address, id = %record.container_id, version, "removed a record");
        Ok(version)
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

    /// Registers a worker's stream, which has applied nothing yet. It takes the place of one that has ended.
    pub fn watcher(self: &Arc<Self>) -> Watcher {
        let id = self.next_watcher.fetch_add(1, Ordering::Relaxed);
        let progress = Progress::default();
        let end = Arc::clone(&progress.end);
        let mut workers = self.workers();
        workers.forget_lost(Instant::now());
        workers.gone.pop_front();
        workers.streams.insert(id, progress);
        Watcher { registry: Arc::clone(self), id, end }
    }

    /// How many workers have applied a whole registry.
    pub fn fed(&self) -> usize {
        self.workers().streams.values().filter(|progress| progress.applied > 0).count()
    }

    /// How many workers follow.
    pub fn following(&self) -> usize {
        self.workers().streams.len()
    }

    /// Waits until every open stream has applied `version`.
    async fn applied_by_all(&self, version: u64) {
        loop {
            let notified = self.applied.notified();
            if self.workers().applied(version) {
                return;
            }
            notified.await;
        }
    }

    async fn wait_applied(&self, version: u64) {
        let all_applied = async {
            loop {
                let notified = self.applied.notified();
                let (applied, awaited) = {
                    let mut workers = self.workers();
                    workers.forget_lost(Instant::now());
                    (workers.applied(version), workers.awaited_until())
                };
                match awaited {
                    None if applied => return,
                    None => notified.await,
                    Some(until) => {
                        // Either is a reason to look again.
                        let _either = tokio::time::timeout_at(until, notified).await;
                    }
                }
            }
        };
        if tokio::time::timeout(APPLY_DEADLINE, all_applied).await.is_err() {
            self.workers().give_up(version);
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn workers(&self) -> std::sync::MutexGuard<'_, Workers> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Workers {
    /// Whether every open stream has applied `version`.
    fn applied(&self, version: u64) -> bool {
        self.streams.values().all(|progress| progress.applied >= version)
    }

    /// Forgets those that would have come back by `now`.
    fn forget_lost(&mut self, now: Instant) {
        self.gone.retain(|gone| *gone + RECONNECT > now);
        self.opened = self.opened.filter(|opened| *opened + RECONNECT > now);
    }

    /// Until when a worker without a stream may come back; `None` where there is none.
    fn awaited_until(&self) -> Option<Instant> {
        self.gone.iter().copied().chain(self.opened).max().map(|last| last + RECONNECT)
    }

    /// Ends every stream that has not applied `version`.
    fn give_up(&mut self, version: u64) {
        let now = Instant::now();
        tracing::warn!(version, "a change is answered though some worker may not have applied it");
        for (worker, progress) in self.streams.extract_if(|_, progress| progress.applied < version) {
            tracing::warn!(worker, version, "a worker has not applied a change; its stream is ended");
            progress.end.notify_one();
            self.gone.push_back(now);
        }
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
        if let Some(progress) = self.registry.workers().streams.get_mut(&self.id) {
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
        let now = Instant::now();
        let mut workers = self.registry.workers();
        workers.forget_lost(now);
        // One that was given up counts as gone already.
        if workers.streams.remove(&self.id).is_some() {
            workers.gone.push_back(now);
        }
        drop(workers);
        self.registry.applied.notify_waiters();
    }
}

/// Runs `work` in a task of its own, so that it comes to its end though nobody waits for that any more: axum drops the
/// handler of a client that has hung up.
async fn to_its_end<T: Send + 'static, E: From<Error> + Send + 'static>(
    work: impl Future<Output = Result<T, E>> + Send + 'static,
) -> Result<T, E> {
    match tokio::spawn(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::from(error).into()),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::super::store::failing::{Disk, Refuses};
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

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn expired(address: &str, at: &str) -> Container {
        Container { expires_at: at.parse().unwrap(), ..record(address) }
    }

    /// Begins `work` and drops it, as axum drops the handler of a client that has hung up.
    async fn hang_up<T>(work: impl Future<Output = T>) {
        assert!(tokio::time::timeout(Duration::ZERO, work).await.is_err(), "it was not under way any more");
    }

    async fn eventually(what: &str, is: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !is() {
            assert!(Instant::now() < deadline, "{what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn a_change_that_nobody_waits_for_any_more_is_made_whole() {
        let directory = tempfile::tempdir().unwrap();
        let registry = registry(directory.path());
        let stored = || registry.store.load().unwrap();
        let mut changes = registry.changes();
        hang_up(registry.put(record("10.0.0.1"))).await;
        eventually("the record is in memory", || registry.lookup(ip("10.0.0.1")).1.is_some()).await;
        assert!(matches!(changes.recv().await.unwrap(), (2, Change::Upsert(_))));
        hang_up(registry.change(ip("10.0.0.1"), |record| Ok::<_, Error>(Container { repos: vec![], ..record }))).await;
        eventually("the change is in memory", || registry.lookup(ip("10.0.0.1")).0 == 3).await;
        hang_up(registry.remove(ip("10.0.0.1"))).await;
        eventually("the record has left memory", || registry.lookup(ip("10.0.0.1")).1.is_none()).await;
        assert_eq!(stored(), (4, vec![]));
        assert_eq!(registry.put(record("10.0.0.2")).await.unwrap().0.generation, 5, "no version is used twice");
    }

    #[tokio::test]
    async fn changes_of_one_record_follow_each_other_and_none_is_lost() {
        let directory = tempfile::tempdir().unwrap();
        let registry = registry(directory.path());
        registry.put(record("10.0.0.1")).await.unwrap();
        let label = |number: u8| {
            registry.change(ip("10.0.0.1"), move |mut record| {
                record.labels.insert(number.to_string(), String::new());
                Ok::<_, Error>(record)
            })
        };
        futures::future::try_join_all((0..20).map(label)).await.unwrap();
        assert_eq!(registry.lookup(ip("10.0.0.1")).1.unwrap().labels.len(), 20);
    }

    #[tokio::test]
    async fn a_note_is_kept_and_told_and_leaves_the_generation() {
        let directory = tempfile::tempdir().unwrap();
        let registry = registry(directory.path());
        let (before, _) = registry.put(record("10.0.0.1")).await.unwrap();
        registry.put(record("10.0.0.2")).await.unwrap();
        let mut changes = registry.changes();
        let noted = |record: &Container| {
            let repos = vec![policy::Repo::parse("o/r").unwrap().known(7, "main")];
            // Neither the address nor the generation is for a note to say.
            Some(Container { repos, container_ip: ip("10.0.0.9"), generation: 99, ..record.clone() })
        };
        assert!(registry.note(ip("10.0.0.1"), noted).await.unwrap());
        let (version, after) = registry.lookup(ip("10.0.0.1"));
        let after = after.unwrap();
        assert_eq!((after.generation, after.repos[0].id()), (before.generation, Some(7)));
        assert!(version > before.generation + 1, "the workers get it as a change");
        assert!(
            matches!(changes.recv().await.unwrap(), (told, Change::Upsert(record)) if told == version && record == after)
        );
        let (stored, records) = registry.store.load().unwrap();
        assert_eq!((stored, records.contains(&after)), (version, true));
        assert!(!registry.note(ip("10.0.0.1"), |_| None).await.unwrap());
        assert!(!registry.note(ip("10.0.0.3"), noted).await.unwrap());
        assert_eq!(registry.lookup(ip("10.0.0.3")), (version, None));
        let (replaced, _) = registry.put(record("10.0.0.1")).await.unwrap();
        assert_eq!(replaced.generation, version + 1);
    }

    #[tokio::test]
    async fn a_change_beside_a_removal_does_not_bring_the_record_back() {
        let directory = tempfile::tempdir().unwrap();
        let registry = registry(directory.path());
        registry.put(record("10.0.0.1")).await.unwrap();
        let change = || registry.change(ip("10.0.0.1"), Ok::<_, Error>);
        let (before, removed, after) = tokio::join!(change(), registry.remove(ip("10.0.0.1")), change());
        assert!(before.unwrap().is_some() && removed.unwrap() && after.unwrap().is_none());
        assert!(registry.lookup(ip("10.0.0.1")).1.is_none());
        assert!(registry.store.load().unwrap().1.is_empty());
    }

    #[tokio::test]
    async fn a_change_that_is_refused_changes_nothing_and_no_address() {
        let directory = tempfile::tempdir().unwrap();
        let registry = registry(directory.path());
        let (one, _) = registry.put(record("10.0.0.1")).await.unwrap();
        let refused = registry.change(ip("10.0.0.1"), |_| Err(Error::Database(redb::Error::PreviousIo))).await;
        assert!(refused.is_err());
        assert_eq!(registry.lookup(one.container_ip), (one.generation, Some(one)));
        let moved = registry.change(ip("10.0.0.1"), |_| Ok::<_, Error>(record("10.0.0.9"))).await.unwrap().unwrap();
        assert_eq!(moved.container_ip, ip("10.0.0.1"));
    }

    #[tokio::test]
    async fn a_change_that_cannot_be_stored_is_in_memory_neither_and_told_to_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let (store, disk) = Disk::store(&directory.path().join("registry.redb"));
        let registry = Registry::open(store, Policy::deny_all()).unwrap();
        let (one, _) = registry.put(record("10.0.0.1")).await.unwrap();
        let mut changes = registry.changes();
        disk.refuse(Refuses::Syncs(std::io::ErrorKind::StorageFull));
        assert!(registry.put(record("10.0.0.2")).await.unwrap_err().is_full());
        assert!(registry.remove(ip("10.0.0.1")).await.is_err());
        assert_eq!(registry.list(), [Arc::clone(&one)]);
        assert!(changes.try_recv().is_err());
        disk.refuse(Refuses::Nothing);
        let (three, _) = registry.put(record("10.0.0.3")).await.unwrap();
        assert_eq!(registry.store.load().unwrap().1, [one.as_ref().clone(), three.as_ref().clone()]);
    }

    #[tokio::test]
    async fn an_expired_record_is_purged_a_day_later_from_disk_and_memory() {
        let directory = tempfile::tempdir().unwrap();
        let registry = registry(directory.path());
        registry.put(expired("10.0.0.1", "2027-01-15T00:00:00Z")).await.unwrap();
        registry.put(expired("10.0.0.2", "2027-01-15T00:00:01Z")).await.unwrap();
        registry.purge("2027-01-15T23:59:59Z".parse().unwrap()).await.unwrap();
        assert_eq!(registry.list().len(), 2);
        registry.purge("2027-01-16T00:00:00Z".parse().unwrap()).await.unwrap();
        assert!(registry.lookup(ip("10.0.0.1")).1.is_none() && registry.lookup(ip("10.0.0.2")).1.is_some());
        assert_eq!(registry.store.load().unwrap().1.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn expired_records_are_looked_for_again_and_again() {
        let directory = tempfile::tempdir().unwrap();
        let registry = registry(directory.path());
        registry.put(record("10.0.0.1")).await.unwrap();
        let tidy = tokio::spawn(Arc::clone(&registry).tidy());
        for _ in 0..2 {
            registry.put(expired("10.0.0.2", "2020-01-01T00:00:00Z")).await.unwrap();
            let mut changes = registry.changes();
            let removal = tokio::time::timeout(2 * TIDY_EVERY, changes.recv()).await.unwrap().unwrap();
            assert!(matches!(removal.1, Change::Remove(address) if address == ip("10.0.0.2")), "{removal:?}");
        }
        assert_eq!(registry.list().len(), 1);
        tidy.abort();
    }

    /// A registry with two records, and a worker that has applied it.
    async fn watched(directory: &std::path::Path) -> (Arc<Registry>, Watcher) {
        let registry = registry(directory);
        for address in ["10.0.0.1", "10.0.0.2"] {
            registry.put(record(address)).await.unwrap();
        }
        let worker = registry.watcher();
        worker.applied(registry.subscribe().version);
        (registry, worker)
    }

    /// How long the removal of `address` takes beside `worker`.
    async fn removal(
        registry: &Arc<Registry>,
        address: &str,
        worker: impl Future<Output = Option<Watcher>>,
    ) -> Duration {
        let started = Instant::now();
        let remove = async {
            assert!(registry.remove(ip(address)).await.unwrap());
            started.elapsed()
        };
        tokio::join!(remove, worker).0
    }

    /// A worker that opens a stream after `pause` and applies what it is sent after as long again.
    async fn comes_back(registry: &Arc<Registry>, pause: Duration) -> Option<Watcher> {
        tokio::time::sleep(pause).await;
        let worker = registry.watcher();
        tokio::time::sleep(pause).await;
        worker.applied(registry.subscribe().version);
        Some(worker)
    }

    const PAUSE: Duration = Duration::from_millis(800);

    #[tokio::test(start_paused = true)]
    async fn a_removal_waits_for_a_worker_that_is_between_two_streams() {
        let directory = tempfile::tempdir().unwrap();
        let (registry, worker) = watched(directory.path()).await;
        drop(worker);
        assert_eq!(removal(&registry, "10.0.0.1", comes_back(&registry, PAUSE)).await, 2 * PAUSE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_removal_waits_for_as_many_workers_as_have_gone() {
        let directory = tempfile::tempdir().unwrap();
        let (registry, worker) = watched(directory.path()).await;
        let second = registry.watcher();
        second.applied(registry.subscribe().version);
        drop((worker, second));
        assert_eq!(removal(&registry, "10.0.0.1", comes_back(&registry, PAUSE)).await, RECONNECT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_removal_waits_no_longer_for_a_worker_that_does_not_come_back() {
        let directory = tempfile::tempdir().unwrap();
        let (registry, worker) = watched(directory.path()).await;
        drop(worker);
        tokio::time::sleep(PAUSE).await;
        assert_eq!(removal(&registry, "10.0.0.1", async { None }).await, RECONNECT - PAUSE);
        assert_eq!(removal(&registry, "10.0.0.2", async { None }).await, Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_removal_after_a_start_waits_for_the_workers_of_before() {
        let directory = tempfile::tempdir().unwrap();
        let (first, worker) = watched(directory.path()).await;
        drop((first, worker));
        let second = registry(directory.path());
        assert_eq!(removal(&second, "10.0.0.1", async { None }).await, RECONNECT);
        assert_eq!(removal(&second, "10.0.0.2", async { None }).await, Duration::ZERO);
        drop(second);
        let empty = registry(directory.path());
        empty.put(record("10.0.0.1")).await.unwrap();
        assert_eq!(removal(&empty, "10.0.0.1", async { None }).await, Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_removal_waits_for_each_worker_and_gives_up_the_one_that_is_stuck() {
        let directory = tempfile::tempdir().unwrap();
        let (registry, well) = watched(directory.path()).await;
        registry.put(record("10.0.0.3")).await.unwrap();
        let stuck = registry.watcher();
        let mut changes = registry.subscribe().changes;
        let mut applies = async || {
            let (version, _) = changes.recv().await.unwrap();
            well.applied(version);
            None
        };
        assert_eq!(removal(&registry, "10.0.0.1", applies()).await, APPLY_DEADLINE, "the stuck worker was waited for");
        stuck.given_up().await;
        drop(stuck);
        assert_eq!(removal(&registry, "10.0.0.2", applies()).await, RECONNECT, "its new stream is waited for");
        assert_eq!(removal(&registry, "10.0.0.3", applies()).await, Duration::ZERO, "it is not waited for again");
    }
}
