//! The addresses of the gateway: printed on stderr for the operator, and written to a file for the command line.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::readiness::Readiness;
use base::files;
use config::Config;

/// The file below the state directory, for commands whose configuration has port 0.
const FILE: &str = "run/addresses.json";

/// How often the readiness is checked until the gateway is ready.
const READY_POLL: Duration = Duration::from_millis(100);

/// The addresses at which the gateway listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// The proxy for sandboxes, which is Envoy's.
    pub proxy: SocketAddr,
    /// The admin API.
    pub admin: SocketAddr,
}

impl Addresses {
    /// The addresses of the gateway that `config` and `state_dir` are of. A configured port 0 is replaced by the port
    /// that the gateway has bound. It stays 0 if no gateway has run on `state_dir`.
    pub fn find(config: &Config, state_dir: Option<&Path>) -> Self {
        let configured = Self { proxy: config.proxy, admin: config.admin };
        let bound = || -> Option<Self> { serde_json::from_slice(&std::fs::read(state_dir?.join(FILE)).ok()?).ok() };
        if configured.proxy.port() != 0 && configured.admin.port() != 0 {
            return configured;
        }
        let Some(bound) = bound() else { return configured };
        let choose =
            |configured: SocketAddr, bound: SocketAddr| if configured.port() == 0 { bound } else { configured };
        Self { proxy: choose(configured.proxy, bound.proxy), admin: choose(configured.admin, bound.admin) }
    }

    /// Writes the file that [`Addresses::find`] reads.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, state_dir: &Path) -> std::io::Result<()> {
        files::write_atomic(&state_dir.join(FILE), &serde_json::to_vec(self)?, 0o600)
    }
}

/// Prints the addresses on stderr: when the gateway is ready, or at once if Envoy is not its child. Logs when the
/// gateway is ready.
pub async fn announce(readiness: Arc<Readiness>, addresses: Addresses, state_dir: PathBuf) {
    let alone = readiness.proxy.is_none();
    if alone {
        eprintln!("{}", waiting(addresses, &state_dir));
    }
    let mut every = tokio::time::interval(READY_POLL);
    loop {
        every.tick().await;
        let missing = readiness.missing().await;
        if missing.is_empty() {
            break;
        }
        tracing::debug!(?missing, "not ready yet");
    }
    tracing::info!(proxy = %addresses.proxy, admin = %addresses.admin, state = %state_dir.display(), "ready");
    if !alone {
        eprintln!("{}", ready(addresses, &state_dir));
    }
}

/// The text of a control plane whose Envoy is not its child.
fn waiting(Addresses { proxy, admin }: Addresses, state_dir: &Path) -> String {
    let state = state_dir.display();
    format!(
        "
  Sallyport's control plane is running and waits for its Envoy.

    Envoy's socket        {state}/run/xds.sock
    proxy for sandboxes   http://{proxy}, on Envoy's side
    admin API             http://{admin}
    state, CA, audit      {state}

  Next, in another terminal, with the state directory as Envoy's working directory:

    envoy --config-path …/envoy/bootstrap.yaml
    sallyport container add --ip ADDRESS --repo OWNER/REPO
"
    )
}

/// The text of a gateway whose Envoy is its child.
fn ready(Addresses { proxy, admin }: Addresses, state_dir: &Path) -> String {
    let state = state_dir.display();
    format!(
        "
  Sallyport is ready.

    proxy for sandboxes   http://{proxy}
    admin API             http://{admin}
    state, CA, audit      {state}

  Next, in another terminal:

    sallyport container add --ip 127.0.0.1 --repo OWNER/REPO
    eval \"$(sallyport env)\"
    git clone https://github.com/OWNER/REPO
"
    )
}
