//! The registered containers, in memory and on disk, and the order of changes that every Envoy worker follows.
//!
//! **Invariant:** a change is on disk before it is in memory, and in memory before any worker gets it. It is made whole
//! or not at all, even if the client that requested it hangs up.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use policy::{Container, HostName, HostPattern, Policy};
use tokio::sync::{MutexGuard, broadcast};
use tokio::time::MissedTickBehavior;

use super::store::{Error, Store};
use super::workers::{Watcher, Workers};

/// Changes that a worker's stream may fall behind before it is sent the whole registry again.
const BACKLOG: usize = 1_024;

/// How long an expired record is kept, so that its refusals say "expired" instead of "not registered".
const KEEP_EXPIRED: SignedDuration = SignedDuration::from_hours(24);

/// How often records that expired [`KEEP_EXPIRED`] ago are removed.
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
    workers: Arc<Workers>,
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
    /// The version of the records and the policy below.
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
        let workers = Workers::new(!records.is_empty());
        let (changes, _) = broadcast::channel(BACKLOG);
        Ok(Arc::new(Self {
            store: Arc::new(store),
            writer: tokio::sync::Mutex::default(),
            // 0 is "nothing applied yet" on the wire, so versions begin at 1.
            state: Mutex::new(State { version: version.max(1), records, policy: Arc::new(policy), changes }),
            workers,
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

    /// Every change after this call.
    pub fn changes(&self) -> broadcast::Receiver<(u64, Change)> {
        self.state().changes.subscribe()
    }

    /// Writes a record, new or in place of the one at its address. Returns the record with its generation, and whether
    /// it replaced one. After a replacement, the workers have applied the change when this returns, as far as
    /// [`Registry::remove`] says. A new record is waited for briefly: a worker that doesn't have it yet looks it up.
    ///
    /// # Errors
    /// If the store fails. Nothing has changed then.
    pub async fn put(self: &Arc<Self>, record: Container) -> Result<(Arc<Container>, bool), Error> {
        let registry = Arc::clone(self);
        let (record, replaced) = run_to_end(async move {
            let writer = registry.writer.lock().await;
            registry.write(&writer, record).await
        })
        .await?;
        if replaced {
            self.workers.wait_applied(record.generation).await;
        } else {
            self.workers.wait_briefly(record.generation).await;
        }
        Ok((record, replaced))
    }

    /// Updates the record at `address` with `update`. Returns `None` if the address isn't registered. No other change
    /// comes between reading the record and writing it. The workers have applied the change when this returns, as far
    /// as [`Registry::remove`] says.
    ///
    /// # Errors
    /// If the store or `update` fails. Nothing has changed then.
    pub async fn update<E: From<Error> + Send + 'static>(
        self: &Arc<Self>,
        address: IpAddr,
        update: impl FnOnce(Container) -> Result<Container, E> + Send + 'static,
    ) -> Result<Option<Arc<Container>>, E> {
        let registry = Arc::clone(self);
        let updated = run_to_end(async move {
            let writer = registry.writer.lock().await;
            let Some(record) = registry.lookup(address).1 else { return Ok(None) };
            let updated = Container { container_ip: record.container_ip, ..update(Container::clone(&record))? };
            Ok::<_, E>(Some(registry.write(&writer, updated).await?.0))
        })
        .await?;
        if let Some(record) = &updated {
            self.workers.wait_applied(record.generation).await;
        }
        Ok(updated)
    }

    /// Annotates the record at `address` with `annotate`, which returns the new record, or `None` to leave it. The
    /// record keeps its generation, so that the container's open connections go on: `annotate` must not take a right
    /// away. Waits for no worker. Returns whether a record was written.
    ///
    /// # Errors
    /// If the store fails. Nothing has changed then.
    pub async fn annotate(
        self: &Arc<Self>,
        address: IpAddr,
        annotate: impl FnOnce(&Container) -> Option<Container> + Send + 'static,
    ) -> Result<bool, Error> {
        let registry = Arc::clone(self);
        run_to_end(async move {
            let writer = registry.writer.lock().await;
            let Some(record) = registry.lookup(address).1 else { return Ok(false) };
            let Some(annotated) = annotate(&record) else { return Ok(false) };
            let kept = Container { container_ip: record.container_ip, generation: record.generation, ..annotated };
            registry.store(&writer, registry.next_version(), kept).await?;
            Ok(true)
        })
        .await
    }

    /// Removes the record at `address`. Returns false if the address isn't registered. When this returns, no worker
    /// admits the address.
    ///
    /// The wait covers every worker with an open stream, and every worker that reconnects in time. After the deadline
    /// of [`Workers::wait_applied`], a missing worker is logged. A stuck worker, or one that is disconnected for longer
    /// than its filter allows, may admit the address until it gets the whole registry.
    ///
    /// # Errors
    /// If the store fails. Nothing has changed then.
    pub async fn remove(self: &Arc<Self>, address: IpAddr) -> Result<bool, Error> {
        let removed = self.remove_if(address, |_| true).await?;
        if let Some(version) = removed {
            self.workers.wait_applied(version).await;
        }
        Ok(removed.is_some())
    }

    /// Removes every record that expired [`KEEP_EXPIRED`] or longer before `now`. Waits for no worker: an expired
    /// record admits no request.
    ///
    /// # Errors
    /// If the store fails. The next purge removes the records that are left.
    pub async fn purge(self: &Arc<Self>, now: Timestamp) -> Result<(), Error> {
        let expired_at = now.checked_sub(KEEP_EXPIRED).unwrap_or(Timestamp::MIN);
        for record in self.list().into_iter().filter(|record| record.expired(expired_at)) {
            // The record may have been replaced since.
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

    /// Removes the record at `address` if `condition` holds of it. Returns the version of the removal.
    async fn remove_if(
        self: &Arc<Self>,
        address: IpAddr,
        condition: impl FnOnce(&Container) -> bool + Send + 'static,
    ) -> Result<Option<u64>, Error> {
        let registry = Arc::clone(self);
        run_to_end(async move {
            let writer = registry.writer.lock().await;
            match registry.lookup(address).1.filter(|record| condition(record)) {
                Some(record) => registry.erase(&writer, &record).await.map(Some),
                None => Ok(None),
            }
        })
        .await
    }

    /// Writes `record` as a new generation.
    async fn write(&self, writer: &MutexGuard<'_, ()>, mut record: Container) -> Result<(Arc<Container>, bool), Error> {
        let version = self.next_version();
        record.container_ip = record.container_ip.to_canonical();
        record.generation = version;
        self.store(writer, version, record).await
    }

    /// The next version. Only meaningful while holding the writer lock.
    fn next_version(&self) -> u64 {
        self.state().version + 1
    }

    /// Writes `record` as `version` to the disk, then to memory, then to the workers. `_writer` is the writer lock.
    async fn store(
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

    /// Removes `record` from the disk, then from memory, then from the workers. Returns the version of the removal.
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

    /// The present state, and every change after it.
    pub fn subscribe(&self) -> Subscription {
        let state = self.state();
        Subscription {
            version: state.version,
            records: state.records.values().cloned().collect(),
            policy: Arc::clone(&state.policy),
            changes: state.changes.subscribe(),
        }
    }

    /// Registers a worker's stream. See [`Workers::watcher`].
    pub fn watcher(&self) -> Watcher {
        self.workers.watcher()
    }

    /// How many workers have applied a whole registry.
    pub fn fed(&self) -> usize {
        self.workers.fed()
    }

    /// How many workers have an open stream.
    pub fn following(&self) -> usize {
        self.workers.following()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn publish(&mut self, version: u64, change: Change) {
        self.version = version;
        // An error means that there is no receiver.
        drop(self.changes.send((version, change)));
    }
}

/// Runs `work` in a task of its own, so that it runs to its end when the caller is dropped: axum drops the handler of a
/// client that has hung up.
async fn run_to_end<T: Send + 'static, E: From<Error> + Send + 'static>(
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
    use tokio::time::Instant;

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
        hang_up(registry.update(ip("10.0.0.1"), |record| Ok::<_, Error>(Container { repos: vec![], ..record }))).await;
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
            registry.update(ip("10.0.0.1"), move |mut record| {
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
        assert!(registry.annotate(ip("10.0.0.1"), noted).await.unwrap());
        let (version, after) = registry.lookup(ip("10.0.0.1"));
        let after = after.unwrap();
        assert_eq!((after.generation, after.repos[0].id()), (before.generation, Some(7)));
        assert!(version > before.generation + 1, "the workers get it as a change");
        assert!(
            matches!(changes.recv().await.unwrap(), (told, Change::Upsert(record)) if told == version && record == after)
        );
        let (stored, records) = registry.store.load().unwrap();
        assert_eq!((stored, records.contains(&after)), (version, true));
        assert!(!registry.annotate(ip("10.0.0.1"), |_| None).await.unwrap());
        assert!(!registry.annotate(ip("10.0.0.3"), noted).await.unwrap());
        assert_eq!(registry.lookup(ip("10.0.0.3")), (version, None));
        let (replaced, _) = registry.put(record("10.0.0.1")).await.unwrap();
        assert_eq!(replaced.generation, version + 1);
    }

    #[tokio::test]
    async fn a_change_beside_a_removal_does_not_bring_the_record_back() {
        let directory = tempfile::tempdir().unwrap();
        let registry = registry(directory.path());
        registry.put(record("10.0.0.1")).await.unwrap();
        let change = || registry.update(ip("10.0.0.1"), Ok::<_, Error>);
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
        let refused = registry.update(ip("10.0.0.1"), |_| Err(Error::Database(redb::Error::PreviousIo))).await;
        assert!(refused.is_err());
        assert_eq!(registry.lookup(one.container_ip), (one.generation, Some(one)));
        let moved = registry.update(ip("10.0.0.1"), |_| Ok::<_, Error>(record("10.0.0.9"))).await.unwrap().unwrap();
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

    #[tokio::test(start_paused = true)]
    async fn a_removal_after_a_restart_waits_for_workers_if_there_were_records() {
        let directory = tempfile::tempdir().unwrap();
        let (first, worker) = watched(directory.path()).await;
        drop((first, worker));
        let second = registry(directory.path());
        assert!(removal(&second, "10.0.0.1", async { None }).await > Duration::from_secs(1));
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
        let waited = removal(&registry, "10.0.0.1", applies()).await;
        assert!(waited > Duration::from_secs(1), "the stuck worker was waited for");
        stuck.given_up().await;
        drop(stuck);
        assert!(removal(&registry, "10.0.0.2", applies()).await < waited, "its new stream is waited for");
        assert_eq!(removal(&registry, "10.0.0.3", applies()).await, Duration::ZERO, "it is not waited for again");
    }
}
