//! `up`, `serve`, and two hidden commands: one becomes Envoy, as a child that ends with the gateway, and one refreshes
//! a login.

use std::io::IsTerminal;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

use super::{Common, Error};
use crate::app::App;
use crate::{envoy, live, machine};

/// The place of the filters.
#[derive(Debug, Args)]
struct Filters {
    /// The directory of the filters' .wasm files [default: `filters` beside the program's directory]
    #[arg(long, value_name = "DIR", env = "SALLYPORT_FILTERS")]
    filters: Option<PathBuf>,
}

/// Run the control plane, and Envoy as its child. Ready when http://127.0.0.1:8081/readyz returns 200.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  GITHUB_TOKEN=… sallyport up --config config/sallyport.yaml")]
pub struct Up {
    /// Envoy's worker threads [default: one for each core]
    #[arg(long, value_name = "N")]
    envoy_concurrency: Option<u16>,
    /// The Envoy to run, version 1.40 [default: envoy on the PATH]
    #[arg(long, value_name = "PATH", env = "ENVOY_BIN")]
    envoy: Option<PathBuf>,
    #[command(flatten)]
    filters: Filters,
}

/// Run the control plane only. An Envoy that you start connects to `run/xds.sock` in the state directory.
#[derive(Debug, Args)]
pub struct Serve {
    #[command(flatten)]
    filters: Filters,
}

/// The arguments of the hidden command that becomes Envoy.
#[derive(Debug, Args)]
pub struct RunEnvoy {
    /// The process with which Envoy has to end
    #[arg(long)]
    parent: u32,
    /// Envoy and its arguments
    #[arg(trailing_var_arg = true, required = true, allow_hyphen_values = true)]
    command: Vec<std::ffi::OsString>,
}

/// The argument of the hidden command that refreshes a login.
#[derive(Debug, Args)]
pub struct RefreshLogin {
    /// The file that is locked during the refresh
    lock: PathBuf,
}

impl RefreshLogin {
    pub(super) fn run(self) -> Result<(), Error> {
        keep_out_of_dumps().context("memory cannot be kept out of core dumps")?;
        Ok(credentials::refresh_login(&self.lock)?)
    }
}

impl Up {
    pub(super) fn run(self, common: &Common) -> Result<(), Error> {
        let (program, version) = envoy::find(self.envoy).map_err(|error| Error::Usage(error.to_string()))?;
        let cores = || std::thread::available_parallelism().ok().and_then(|cores| cores.get().try_into().ok());
        let concurrency = self.envoy_concurrency.or_else(cores).unwrap_or(1);
        run(common, self.filters, Some(Child { program, version, concurrency }))
    }
}

impl Serve {
    pub(super) fn run(self, common: &Common) -> Result<(), Error> {
        run(common, self.filters, None)
    }
}

impl RunEnvoy {
    pub(super) fn run(self) -> Result<(), Error> {
        Err(envoy::become_envoy(self.parent, &self.command).into())
    }
}

/// The Envoy that `up` runs.
struct Child {
    program: PathBuf,
    version: String,
    concurrency: u16,
}

fn run(common: &Common, filters: Filters, child: Option<Child>) -> Result<(), Error> {
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("SALLYPORT_LOG")
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info")),
        )
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    // Before any secret is read.
    keep_out_of_dumps().context("memory cannot be kept out of core dumps")?;
    let mut config = common.config()?;
    let envoy = child.map(|Child { program, version, concurrency }| {
        // The limits of an Envoy that is started elsewhere are unknown.
        if let Some(problem) = machine::too_few_files(&config.limits, machine::files()) {
            tracing::warn!("{problem}");
        }
        config.limits = machine::fitted(&config.limits, machine::files());
        let (connections, heap) = (config.limits.connections, machine::heap(&config.limits));
        tracing::info!(version, connections, heap_mib = heap >> 20, "Envoy's sizes");
        envoy::Envoy { program, concurrency, connections, heap }
    });
    let policy = config::policy_file::load(&config.policy_file, &config.credentials)?;
    let filters = live::Filters::find(filters.filters).map_err(|error| Error::Usage(error.to_string()))?;
    let state_dir = common.state_dir(&config)?;
    Ok(App { config, policy, state_dir, filters, envoy }.run()?)
}

/// Keeps the memory of this process and its children out of core files, by a limit that Envoy inherits. For this
/// process alone, also forbids dumps into a pipe, and lets only root read its memory (prctl(2), PR_SET_DUMPABLE).
fn keep_out_of_dumps() -> std::io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}
