//! Follows the changes while the gateway runs: the policy file, the filters on disk, the hosts of single containers.
//! Each change becomes a new snapshot for Envoy. A change of the policy also becomes a message to every worker.
//!
//! **Invariant:** a file that can't be parsed, or that a program still writes, changes nothing. The last valid state
//! stays in force, and `/readyz` reports a problem.

mod files;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use policy::HostPattern;
use tokio::sync::{broadcast, watch};

use base::problems::Problems;
use config::{Config, policy_file};
use files::{Changes, Seen};
use outbound::upstreams::Upstreams;
use registry::{Change, Registry};
use xds::snapshot::{Listen, Snapshot};

/// The module that contains all filters.
pub const MODULE: &str = "sallyport.wasm";

/// The first bytes of every WebAssembly module: `\0asm` and version 1 (WebAssembly core specification, section 5.5.16).
const WASM_HEADER: [u8; 8] = *b"\0asm\x01\0\0\0";

/// The directories in which the filters' module may be.
#[derive(Clone, Debug)]
pub struct Filters(Vec<PathBuf>);

impl Filters {
    /// The filters in `directory`. Without `directory`, the filters of the installation.
    ///
    /// # Errors
    /// If the path of this program is unknown.
    pub fn find(directory: Option<PathBuf>) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot find the path of this program")?;
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
    /// If the module is missing, or is no WebAssembly module.
    pub fn read(&self) -> anyhow::Result<Vec<u8>> {
        let code = self.0.iter().find_map(|place| std::fs::read(place.join(MODULE)).ok());
        let code = code.with_context(|| {
            let looked: Vec<_> = self.0.iter().map(|place| place.display().to_string()).collect();
            format!(
                "{MODULE} is not in {}; build it with `make build`, or name another directory with --filters",
                looked.join(", ")
            )
        })?;
        anyhow::ensure!(code.starts_with(&WASM_HEADER), "{MODULE} is no WebAssembly module");
        Ok(code)
    }
}

/// Keeps the snapshot up to date.
#[derive(Debug)]
pub struct Live {
    config: Arc<Config>,
    upstreams: Arc<Upstreams>,
    filters: Filters,
    /// The module in force.
    module: Vec<u8>,
    registry: Arc<Registry>,
    /// The hosts of single containers in the snapshot in force. The snapshot depends on no other part of a record.
    extra: BTreeSet<HostPattern>,
    problems: Problems,
    snapshots: watch::Sender<Arc<Snapshot>>,
    files: Changes,
    seen: Seen,
    changes: broadcast::Receiver<(u64, Change)>,
}

impl Live {
    /// Builds the first snapshot and begins to watch the files.
    ///
    /// # Errors
    /// If the filters are missing, or files cannot be watched.
    pub fn start(
        config: Arc<Config>,
        upstreams: Arc<Upstreams>,
        filters: Filters,
        registry: Arc<Registry>,
        problems: Problems,
    ) -> anyhow::Result<Self> {
        let module = filters.read()?;
        let policy_directory = config
            .policy_file
            .parent()
            .map(|parent| if parent.as_os_str().is_empty() { Path::new(".") } else { parent });
        let directories = filters.0.iter().map(PathBuf::as_path).chain(policy_directory).filter(|place| place.is_dir());
        let names = config.policy_file.file_name().into_iter().chain([OsStr::new(MODULE)]);
        let files = Changes::watch(directories, names)?;
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
            files,
            seen: Seen::default(),
            changes,
        };
        live.publish();
        Ok(live)
    }

    /// Follows the snapshots.
    pub fn snapshots(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshots.subscribe()
    }

    /// Runs until the registry is dropped.
    pub async fn run(mut self) {
        loop {
            tokio::select! {
                changed = self.files.next() => {
                    if changed.is_none() {
                        return;
                    }
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
        let module = self.filters.0.iter().map(|place| place.join(MODULE)).collect::<Vec<_>>();
        if self.seen.again(module.iter().map(PathBuf::as_path).chain([self.config.policy_file.as_path()])) {
            return;
        }
        let policy = policy_file::load(&self.config.policy_file, &self.config.credentials);
        let module = self.filters.read();
        // A program may have begun to write since. The end of that is another change.
        if self.files.is_unfinished() {
            self.seen.forget();
            return;
        }
        let mut changed = false;
        match policy {
            Ok(policy) => {
                self.problems.set("policy", None);
                if policy != *self.registry.policy() {
                    tracing::info!(version = %policy.version, "a new policy is in force");
                    self.registry.set_policy(policy);
                    changed = true;
                }
            }
            Err(error) => {
                if matches!(error, config::Error::Read { .. }) {
                    self.seen.forget();
                }
                tracing::error!(%error, "the policy file is invalid; the last valid policy stays in force");
                self.problems.set("policy", Some(format!("{error}; the last valid policy stays in force")));
            }
        }
        match module {
            Ok(module) => {
                self.problems.set("filters", None);
                if module != self.module {
                    self.module = module;
                    changed = true;
                }
            }
            Err(error) => {
                self.seen.forget();
                tracing::error!(%error, "the filters cannot be read; the last valid filters stay in force");
                self.problems.set("filters", Some(format!("{error:#}; the last valid filters stay in force")));
            }
        }
        if changed {
            self.publish();
        }
    }

    /// Builds the snapshot, and sends it if it differs from the snapshot in force.
    fn publish(&mut self) {
        let (revision, policy) = self.registry.revised_policy();
        self.extra = self.registry.extra_hosts();
        let listen = Listen {
            proxy: self.config.proxy,
            resolver: self.config.resolver,
            limits: self.config.limits.of_connections(),
            connections: self.config.limits.connections,
        };
        let credentialed = |host: &_| self.config.credentials.concern(host);
        let policy = (revision, &*policy);
        let snapshot = Snapshot::build(listen, &self.upstreams, policy, &self.extra, credentialed, &self.module);
        self.snapshots.send_if_modified(|current| {
            let changed = **current != snapshot;
            if changed {
                *current = Arc::new(snapshot);
            }
            changed
        });
    }
}
