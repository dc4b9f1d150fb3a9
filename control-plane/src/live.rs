//! What changes while the gateway runs: the policy file, the filters on disk, the hosts of single containers. Each
//! change becomes a new snapshot for Envoy and, where it is the policy's, a message to every worker.
//!
//! **Invariant:** a file that is not understood changes nothing; what was in force stays, and `/readyz` says so.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use policy::HostPattern;
use tokio::sync::{broadcast, mpsc, watch};

use base::problems::Problems;
use config::{Config, policy_file};
use outbound::upstreams::Upstreams;
use registry::{Change, Registry};
use xds::snapshot::{Listen, Snapshot};

/// A file that changes is read when it has been left alone for this long: an editor writes in more than one step.
const SETTLE: Duration = Duration::from_millis(25);

/// The module in which all filters are.
pub const MODULE: &str = "sallyport.wasm";

/// How every WebAssembly module begins: `\0asm` and version 1 (WebAssembly core specification, section 5.5.16).
const WASM_HEADER: [u8; 8] = *b"\0asm\x01\0\0\0";

/// Where the filters' module may be.
#[derive(Clone, Debug)]
pub struct Filters(Vec<PathBuf>);

impl Filters {
    /// In `directory`, or where an installation has them.
    ///
    /// # Errors
    /// Our own program cannot be found.
    pub fn find(directory: Option<PathBuf>) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot find our own program")?;
        Ok(Self(match directory {
            Some(directory) => vec![directory],
            // target/release/sallyport has its filters in target/filters, an installed one in /usr/lib.
            None => program
                .ancestors()
                .skip(1)
                .take(2)
                .map(|place| place.join("filters"))
                .chain([PathBuf::from("/usr/lib/sallyport/filters")])
                .collect(),
        }))
    }

    /// Reads the module.
    ///
    /// # Errors
    /// It is missing or is none.
    pub fn read(&self) -> anyhow::Result<Vec<u8>> {
        let code = self.0.iter().find_map(|place| std::fs::read(place.join(MODULE)).ok());
        let code = code.with_context(|| {
            let looked: Vec<_> = self.0.iter().map(|place| place.display().to_string()).collect();
            format!("{MODULE} is not in {}; `make build` builds it, --filters names another place", looked.join(", "))
        })?;
        anyhow::ensure!(code.starts_with(&WASM_HEADER), "{MODULE} is no WebAssembly module");
        Ok(code)
    }
}

/// Whether a file was opened or read, and nothing has changed: by ourselves, whenever something has.
fn only_looked_at(event: &notify::Result<Event>) -> bool {
    let changed = EventKind::Access(AccessKind::Close(AccessMode::Write));
    event.as_ref().is_ok_and(|event| event.kind.is_access() && event.kind != changed)
}

/// Keeps the snapshot true.
#[derive(Debug)]
pub struct Live {
    config: Arc<Config>,
    upstreams: Arc<Upstreams>,
    filters: Filters,
    /// The module in force.
    module: Vec<u8>,
    registry: Arc<Registry>,
    /// The hosts of single containers, as the snapshot in force has them: all of a record that it depends on.
    extra: BTreeSet<HostPattern>,
    problems: Problems,
    snapshots: watch::Sender<Arc<Snapshot>>,
    touched: mpsc::Receiver<()>,
    changes: broadcast::Receiver<(u64, Change)>,
    /// Watches for as long as it lives.
    _watcher: RecommendedWatcher,
}

impl Live {
    /// Builds the first snapshot and begins to watch the files.
    ///
    /// # Errors
    /// The filters are missing, or files cannot be watched.
    pub fn start(
        config: Arc<Config>,
        upstreams: Arc<Upstreams>,
        filters: Filters,
        registry: Arc<Registry>,
        problems: Problems,
    ) -> anyhow::Result<Self> {
        let module = filters.read()?;
        // One is enough: it says that something has changed, not what.
        let (touch, touched) = mpsc::channel(1);
        let mut watcher = notify::recommended_watcher(move |event| {
            if only_looked_at(&event) {
                return;
            }
            // Full: it is already known that something has changed.
            let _full = touch.try_send(());
        })?;
        // Directories, since files are replaced and not rewritten.
        let policy_directory = config
            .policy_file
            .parent()
            .map(|parent| if parent.as_os_str().is_empty() { Path::new(".") } else { parent });
        for directory in filters.0.iter().map(PathBuf::as_path).chain(policy_directory).filter(|place| place.is_dir()) {
            watcher
                .watch(directory, RecursiveMode::NonRecursive)
                .with_context(|| format!("cannot watch {}", directory.display()))?;
        }
        let changes = registry.changes();
        let (snapshots, _) = watch::channel(Arc::new(Snapshot::default()));
        let mut live = Self {
            config,
            upstreams,
            filters,
            module,
            registry,
            extra: BTreeSet::new(),
            problems,
            snapshots,
            touched,
            changes,
            _watcher: watcher,
        };
        live.publish();
        Ok(live)
    }

    /// Follows the snapshots.
    pub fn snapshots(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshots.subscribe()
    }

    /// Runs until the registry is gone.
    pub async fn run(mut self) {
        loop {
            tokio::select! {
                touched = self.touched.recv() => {
                    if touched.is_none() {
                        return;
                    }
                    tokio::time::sleep(SETTLE).await;
                    while self.touched.try_recv().is_ok() {}
                    self.reread();
                }
                change = self.changes.recv() => match change {
                    Ok((_, Change::Policy(_))) => {}
                    Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {
                        if self.registry.extra_hosts() != self.extra {
                            self.publish();
                        }
                    }
                    Err(broadcast::error::RecvError::Closed) => return,
                },
            }
        }
    }

    fn reread(&mut self) {
        match policy_file::load(&self.config.policy_file, &self.config.credentials) {
            Ok(policy) => {
                self.problems.set("policy", None);
                if policy != *self.registry.policy() {
                    tracing::info!(version = %policy.version, "a new policy is in force");
                    self.registry.set_policy(policy);
                }
            }
            Err(error) => {
                tracing::error!(%error, "the policy file is not understood; the last good policy stays in force");
                self.problems.set("policy", Some(format!("{error}; the last good policy stays in force")));
            }
        }
        match self.filters.read() {
            Ok(module) => {
                self.problems.set("filters", None);
                self.module = module;
            }
            Err(error) => {
                tracing::error!(%error, "the filters cannot be read; the last good ones stay in force");
                self.problems.set("filters", Some(format!("{error:#}; the last good ones stay in force")));
            }
        }
        self.publish();
    }

    /// Builds the snapshot and sends it, unless it is the one in force.
    fn publish(&mut self) {
        let policy = self.registry.policy();
        self.extra = self.registry.extra_hosts();
        let listen = Listen { proxy: self.config.proxy, resolver: self.config.resolver };
        let credentialed = |host: &_| self.config.credentials.concern(host);
        let snapshot = Snapshot::build(listen, &self.upstreams, &policy, &self.extra, credentialed, &self.module);
        self.snapshots.send_if_modified(|current| {
            let changed = **current != snapshot;
            if changed {
                *current = Arc::new(snapshot);
            }
            changed
        });
    }
}
