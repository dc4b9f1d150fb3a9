//! Envoy as a supervised child: started, restarted when it ends, and never left running after the gateway.
//!
//! Envoy's environment is empty, because the gateway's environment has credentials that Envoy doesn't need.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::machine;
use base::backoff::Backoff;
use base::files;
use base::process::OURSELVES;
use xds::resources::listener::AUDIT_FLUSH;
use xds::resources::{CLEARTEXT, PROXY, TUNNEL};

/// The release with which the xDS configuration was tested.
const RELEASE: (u32, u32) = (1, 40);

/// The oldest patch of [`RELEASE`] that has every security fix that this configuration needs. SECURITY.md has the rule
/// for raising it.
const OLDEST_PATCH: u32 = 0;

/// The bootstrap: the part of Envoy's configuration that xDS can't deliver. Its sizes are those for docker-compose.yml.
const BOOTSTRAP: &str = include_str!("../../envoy/bootstrap.yaml");

/// The keys of the bootstrap's sizes, up to the number.
const CONNECTIONS_KEY: &str = "max_active_downstream_connections: ";
const HEAP_KEY: &str = "max_heap_size_bytes: ";

/// The bootstrap's name below the state directory.
const BOOTSTRAP_FILE: &str = "run/envoy.yaml";

/// How long Envoy may take to end after SIGTERM before it is killed.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// The socket of Envoy's admin interface, as in the bootstrap.
const ADMIN_SOCKET: &str = "run/envoy-admin.sock";

/// How long a stop waits for the requests under way.
const UNDER_WAY: Duration = Duration::from_secs(5);

/// How often a stop checks for requests under way.
const LOOK: Duration = Duration::from_millis(50);

/// Envoy's counts of open connections and requests at its listeners for sandboxes.
const OPEN: &str = "/stats?filter=^(http|listener)\\.[a-z]*\\.downstream_(pre_)?(cx|rq)_active$";

/// The most bytes of a response of Envoy's admin interface. A response has some lines.
const MAX_ANSWER: u64 = 64 << 10;

/// How long Envoy's access log may delay lines after the last request has ended, with a margin for a worker that other
/// programs keep from the processor.
const LAST_LINES: Duration = AUDIT_FLUSH.saturating_mul(3);

/// The pause before a restart.
const RESTARTS: Backoff = Backoff { first: Duration::from_millis(100), last: Duration::from_secs(5) };

/// An Envoy that ran for this long is restarted without delay.
const HEALTHY: Duration = Duration::from_secs(10);

/// The Envoy to run.
#[derive(Clone, Debug)]
pub struct Envoy {
    /// The program.
    pub program: PathBuf,
    /// The number of worker threads.
    pub concurrency: u16,
    /// The most connections of all sandboxes together.
    pub connections: u32,
    /// The size that the heap may have, in bytes.
    pub heap: u64,
}

/// Finds Envoy and checks its version. Returns the program and its version.
///
/// # Errors
/// If Envoy is missing, has another release, or lacks a security fix.
pub fn find(named: Option<PathBuf>) -> anyhow::Result<(PathBuf, String)> {
    let program = match named {
        Some(program) => program,
        None => std::env::var_os("PATH")
            .iter()
            .flat_map(std::env::split_paths)
            .map(|directory| directory.join("envoy"))
            .find(|candidate| candidate.is_file())
            .context("Envoy is not on the PATH; use --envoy or set ENVOY_BIN (envoy/install.sh fetches it)")?,
    };
    let program = program.canonicalize().with_context(|| format!("cannot find Envoy at {}", program.display()))?;
    let output = Command::new(&program)
        .arg("--version")
        .env_clear()
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    let version = String::from_utf8_lossy(&output.stdout);
    match patch(&version) {
        Some(patch) if (OLDEST_PATCH..).contains(&patch) => Ok((program, format!("1.40.{patch}"))),
        Some(patch) => bail!(
            "{} is Envoy 1.40.{patch}, which lacks security fixes; 1.40.{OLDEST_PATCH} is the oldest that is accepted",
            program.display()
        ),
        None => {
            let first = version.trim().lines().next().unwrap_or("something else");
            bail!("{} is not Envoy 1.40 but says {first:?}; set ENVOY_BIN to one that is", program.display());
        }
    }
}

/// The patch of [`RELEASE`] in the output of `envoy --version`: `envoy  version: COMMIT/1.40.0/Clean/RELEASE/BoringSSL`.
/// Returns `None` for another release, and for a version that is not released.
fn patch(output: &str) -> Option<u32> {
    let (_, version) = output.split_once("version: ")?;
    let mut numbers = version.split('/').nth(1)?.splitn(3, '.').map(|number| number.parse::<u32>().ok());
    let (major, minor, patch) = (numbers.next()??, numbers.next()??, numbers.next()??);
    ((major, minor) == RELEASE).then_some(patch)
}

/// The bootstrap with the sizes for this machine.
fn bootstrap(connections: u32, heap: u64) -> anyhow::Result<String> {
    let text = with_number(BOOTSTRAP, CONNECTIONS_KEY, connections.into());
    text.and_then(|text| with_number(&text, HEAP_KEY, heap)).context("BUG: the bootstrap lacks a size")
}

/// `text` with `number` behind its one `key`.
fn with_number(text: &str, key: &str, number: u64) -> Option<String> {
    let (before, rest) = text.split_once(key)?;
    let rest = rest.trim_start_matches(|digit: char| digit.is_ascii_digit());
    (!rest.contains(key)).then(|| format!("{before}{key}{number}{rest}"))
}

/// Becomes Envoy. The kernel ends Envoy when `parent` ends. Returns only if that fails.
pub fn become_envoy(parent: u32, command: &[OsString]) -> anyhow::Error {
    let become_it = || -> anyhow::Result<()> {
        machine::raise_files().context("cannot raise the limit of open files")?;
        set_parent_process_death_signal(Some(Signal::KILL)).context("cannot make Envoy end with the gateway")?;
        // The parent may have died before the line above.
        let alive = getppid().is_some_and(|pid| pid.as_raw_nonzero().get().cast_unsigned() == parent);
        if !alive {
            bail!("the parent of Envoy has ended");
        }
        let (program, arguments) = command.split_first().context("no program named")?;
        Err(Command::new(program).args(arguments).exec()).with_context(|| format!("cannot run {}", program.display()))
    };
    become_it().err().unwrap_or_else(|| anyhow::anyhow!("BUG: exec returned"))
}

impl Envoy {
    /// Runs Envoy until `stop` is true, on the calling thread: the kernel ties the child's life to the thread that
    /// started it.
    ///
    /// # Errors
    /// If the bootstrap cannot be written, or the child cannot be started at all.
    pub fn supervise(&self, state_dir: &Path, stop: watch::Receiver<bool>) -> anyhow::Result<()> {
        let bootstrap = bootstrap(self.connections, self.heap)?;
        let path = state_dir.join(BOOTSTRAP_FILE);
        // A full disk does not keep the gateway from starting again.
        if !std::fs::read(&path).is_ok_and(|before| before == bootstrap.as_bytes()) {
            files::write_atomic(&path, bootstrap.as_bytes(), 0o600).context("cannot write Envoy's bootstrap")?;
        }
        tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(self.keep_running(state_dir, stop))
    }

    async fn keep_running(&self, state_dir: &Path, mut stop: watch::Receiver<bool>) -> anyhow::Result<()> {
        let mut failures = 0_u32;
        while !*stop.borrow() {
            let started = Instant::now();
            let mut child = tokio::process::Command::from(self.command(state_dir))
                .kill_on_drop(true)
                .spawn()
                .context("cannot start Envoy")?;
            tracing::info!(pid = child.id(), "started Envoy");
            tokio::select! {
                status = child.wait() => tracing::error!(?status, "Envoy ended unexpectedly"),
                _ = stop.wait_for(|stop| *stop) => return end(child, &state_dir.join(ADMIN_SOCKET)).await,
            }
            failures = if started.elapsed() >= HEALTHY { 1 } else { failures.saturating_add(1) };
            tokio::select! {
                () = tokio::time::sleep(RESTARTS.pause(failures)) => {}
                _ = stop.wait_for(|stop| *stop) => {}
            }
        }
        Ok(())
    }

    fn command(&self, state_dir: &Path) -> Command {
        let mut command = Command::new(OURSELVES);
        command.args(["run-envoy", "--parent", &std::process::id().to_string(), "--"]).arg(&self.program).args([
            "--config-path",
            BOOTSTRAP_FILE,
            "--disable-hot-restart",
            "--log-level",
            "warning",
            // The logger `misc` warns for each range of the address filter that its message type is work in progress.
            "--component-log-level",
            "misc:error",
        ]);
        command.args(["--concurrency", &self.concurrency.to_string()]);
        // The sockets in the bootstrap are relative to the state directory: their paths stay short, and the file is
        // the same everywhere.
        // Envoy has its own process group, so Ctrl-C reaches only the gateway, which drains Envoy before it ends Envoy.
        command.process_group(0);
        command.current_dir(state_dir).env_clear().stdin(Stdio::null()).stdout(Stdio::null());
        command
    }
}

/// Ends Envoy. First refuses new connections, then waits for the requests under way and the access log's last lines,
/// then sends SIGTERM, then SIGKILL.
async fn end(mut child: tokio::process::Child, admin: &Path) -> anyhow::Result<()> {
    match tokio::time::timeout(STOP_DEADLINE, call(admin, "POST", "/drain_listeners")).await {
        Ok(Ok(_)) => {
            if tokio::time::timeout(UNDER_WAY, finished(admin)).await.is_err() {
                tracing::warn!("requests that are still under way after {} s are aborted", UNDER_WAY.as_secs());
                tokio::time::sleep(LAST_LINES).await;
            }
        }
        Ok(Err(error)) => tracing::warn!(%error, "cannot drain Envoy"),
        Err(_) => tracing::warn!("Envoy's admin interface does not respond; Envoy is ended without draining"),
    }
    if let Some(pid) = child.id().and_then(|id| Pid::from_raw(id.cast_signed()))
        && let Err(error) = kill_process(pid, Signal::TERM)
    {
        // Envoy has ended already, which is the goal.
        tracing::debug!(%error, "cannot send SIGTERM to Envoy");
    }
    if tokio::time::timeout(STOP_DEADLINE, child.wait()).await.is_err() {
        tracing::warn!("Envoy did not end within the timeout and is killed");
        child.kill().await.context("cannot end Envoy")?;
    }
    Ok(())
}

/// Waits until no request has been under way for [`LAST_LINES`]. Returns at once if Envoy doesn't respond.
async fn finished(admin: &Path) {
    let mut quiet = Instant::now();
    while let Ok(stats) = call(admin, "GET", OPEN).await {
        if requests(&stats) > 0 {
            quiet = Instant::now();
        } else if quiet.elapsed() >= LAST_LINES {
            return;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The number of requests under way. Envoy counts an open tunnel as a request of the proxy's own listener; it is not
/// counted here.
fn requests(stats: &str) -> u64 {
    let count = |name: String| {
        let value = stats.lines().find_map(|line| line.strip_prefix(&name)?.strip_prefix(": ")?.trim().parse().ok());
        value.unwrap_or(0_u64)
    };
    let requests = |listener: &str| count(format!("http.{listener}.downstream_rq_active"));
    let tunnels =
        ["cx", "pre_cx"].map(|kind| count(format!("listener.{TUNNEL}.downstream_{kind}_active"))).iter().sum();
    requests(PROXY).saturating_sub(tunnels) + requests(TUNNEL) + requests(CLEARTEXT)
}

/// Calls Envoy's admin interface. Returns the whole text of the response, including its head.
async fn call(admin: &Path, method: &str, path: &str) -> std::io::Result<String> {
    let mut connection = UnixStream::connect(admin).await?;
    let request = format!("{method} {path} HTTP/1.1\r\nhost: envoy\r\nconnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    connection.take(MAX_ANSWER).read_to_string(&mut answer).await?;
    if answer.starts_with("HTTP/1.1 200") {
        Ok(answer)
    } else {
        Err(std::io::Error::other("Envoy's admin interface refused the call"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envoy_is_of_the_release_and_has_its_fixes() {
        let says = |version: &str| format!("\nenvoy  version: abc/{version}/Clean/RELEASE/BoringSSL\n");
        assert_eq!(patch(&says("1.40.0")), Some(0));
        assert_eq!(patch(&says("1.40.12")), Some(12));
        for other in ["1.39.0", "1.41.0", "11.40.0", "1.40", "1.40.0-dev", "1.40.x", ""] {
            assert_eq!(patch(&says(other)), None, "{other}");
        }
        assert_eq!(patch("1.40.0"), None);
    }

    #[test]
    fn the_bootstrap_has_the_sizes_of_the_machine() {
        let text = bootstrap(341, 300 << 20).unwrap_or_default();
        for line in ["max_active_downstream_connections: 341\n", "max_heap_size_bytes: 314572800\n"] {
            assert!(text.contains(line), "{line}: {text}");
        }
        assert_eq!(text.lines().count(), BOOTSTRAP.lines().count());
        assert!(BOOTSTRAP.contains("max_active_downstream_connections: 50000\n"), "for docker-compose.yml");
        assert_eq!(with_number("a: 1", "b: ", 2), None);
        assert_eq!(with_number("a: 1\na: 1", "a: ", 2), None);
    }

    #[test]
    fn what_is_under_way_is_what_is_not_a_tunnel() {
        let stats = |proxy, tunnel, cleartext, inside, before| {
            format!(
                "HTTP/1.1 200 OK\r\n\r\nhttp.admin.downstream_rq_active: 1\n\
                 http.cleartext.downstream_rq_active: {cleartext}\nhttp.proxy.downstream_rq_active: {proxy}\n\
                 http.tunnel.downstream_rq_active: {tunnel}\nlistener.tunnel.downstream_cx_active: {inside}\n\
                 listener.tunnel.downstream_pre_cx_active: {before}\n"
            )
        };
        assert_eq!(requests(&stats(0, 0, 0, 0, 0)), 0);
        assert_eq!(requests(&stats(5, 0, 0, 3, 2)), 0, "tunnels");
        assert_eq!(requests(&stats(7, 4, 1, 3, 2)), 7, "two in the proxy's own form");
        assert_eq!(requests(&stats(1, 0, 0, 2, 0)), 0, "counts are not of one moment");
        assert_eq!(requests(""), 0);
    }
}
