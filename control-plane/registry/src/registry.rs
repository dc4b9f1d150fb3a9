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
    /// See [`Registry::revised_policy`].
    revision: u64,
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
        let revision = next_revision(&store, milliseconds());
        let records: HashMap<_, _> =
            records.into_iter().map(|record| (record.container_ip, Arc::new(record))).collect();
        let workers = Workers::new(!records.is_empty());
        let (changes, _) = broadcast::channel(BACKLOG);
        Ok(Arc::new(Self {
            store: Arc::new(store),
            writer: tokio::sync::Mutex::default(),
            // 0 is "nothing applied yet" on the wire, so versions begin at 1.
            state: Mutex::new(State { version: version.max(1), records, policy: Arc::new(policy), revision, changes }),
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

    /// The policy in force with the revision of its rules for GitHub, a number that rises with each call of
    /// [`Self::set_policy`] that changes them and with each start of this process: also after the loss of the store, and if
    /// the clock went back.
    pub fn revised_policy(&self) -> (u64, Arc<Policy>) {
        let state = self.state();
        (state.revision, Arc::clone(&state.policy))
    }

    /// Puts a new policy in force. One caller at a time.
    pub fn set_policy(&self, policy: Policy) {
        let (before, in_force) = self.revised_policy();
        // Without a new revision Envoy configures no filter anew, and has the new routes sooner.
        let revision = if policy.github == in_force.github {
            before
        } else {
            next_revision(&self.store, milliseconds().max(before.saturating_add(1)))
        };
        let mut state = self.state();
        (state.policy, state.revision) = (Arc::new(policy), revision);
        let (version, change) = (state.version, Change::Policy(Arc::clone(&state.policy)));
        state.publish(version, change);
    }

    /// The hosts that single containers may reach beside the policy's.
    pub fn extra_hosts(&self) -> BTreeSet<HostPattern> {
        let state = self.state();
        let entries = state.records.values().flat_map(|record| &record.egress_allow);
        entries.filter(|rules| !rules.allow.is_empty()).map(|rules| rules.host.clone()).collect()
    }

    /// Whether `host` is one of them.
    pub fn allows_extra(&self, host: &HostName) -> bool {
        self.state().records.values().any(|record| record.egress_allow.iter().any(|rules| rules.lists(host)))
    }

    /// Every change after this call.
    pub fn changes(&self) -> broadcast::Receiver<(u64, Change)> {
        self.state().changes.subscribe()
    }

    /// Writes a record, new or in place of the one at its address, if `admit` accepts it beside all records. Returns the
    /// record with its generation, and whether it replaced one. After a replacement, the workers have applied the change
    /// when this returns, as far as [`Registry::remove`] says. A new record is waited for briefly: a worker that doesn't
    /// have it yet looks it up.
    ///
    /// # Errors
    /// If the store or `admit` fails. Nothing has changed then.
    pub async fn put_if<E: From<Error> + Send + 'static>(
        self: &Arc<Self>,
        record: Container,
        admit: impl FnOnce(&Container, &[Arc<Container>]) -> Result<(), E> + Send + 'static,
    ) -> Result<(Arc<Container>, bool), E> {
        let registry = Arc::clone(self);
        let (record, replaced) = run_to_end(async move {
            let writer = registry.writer.lock().await;
            admit(&record, &registry.list())?;
            Ok::<_, E>(registry.write(&writer, record).await?)
        })
        .await?;
        if replaced {
            self.workers.wait_applied(record.generation).await;
        } else {
            self.workers.wait_briefly(record.generation).await;
        }
        Ok((record, replaced))
    }

    /// Writes a record as [`Registry::put_if`] does, beside any others.
    ///
    /// # Errors
    /// If the store fails. Nothing has changed then.
    pub async fn put(self: &Arc<Self>, record: Container) -> Result<(Arc<Container>, bool), Error> {
        self.put_if(record, |_, _| Ok(())).await
    }

    /// Updates the record at `address` with `update`, which also gets all records. Returns `None` if the address isn't
    /// registered. No other change comes between reading the records and writing this one. The workers have applied the
    /// change when this returns, as far as [`Registry::remove`] says.
    ///
    /// # Errors
    /// If the store or `update` fails. Nothing has changed then.
    pub async fn update<E: From<Error> + Send + 'static>(
        self: &Arc<Self>,
        address: IpAddr,
        update: impl FnOnce(Container, &[Arc<Container>]) -> Result<Container, E> + Send + 'static,
    ) -> Result<Option<Arc<Container>>, E> {
        let registry = Arc::clone(self);
        let updated = run_to_end(async move {
            let writer = registry.writer.lock().await;
            let Some(record) = registry.lookup(address).1 else { return Ok(None) };
            let updated = update(Container::clone(&record), &registry.list())?;
            let updated = Container { container_ip: record.container_ip, ..updated };
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

/// The next revision, which is at least `least`. On a full disk it is `least`: the gateway starts, and takes policies.
fn next_revision(store: &Store, least: u64) -> u64 {
    store.next_revision(least).unwrap_or_else(|error| {
        tracing::error!(%error, "the revision of the policy is not on disk");
        least
    })
}

/// The clock, in milliseconds since 1970.
fn milliseconds() -> u64 {
    u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0)
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
mod tests;
