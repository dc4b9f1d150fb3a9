//! The end-to-end rig: a small internet without the internet.
//!
//! An [`Upstream`] plays github.com and the others, a [`Gateway`] is the shipped binary with its Envoy, a [`Sandbox`]
//! is a network namespace whose only neighbour is the gateway, and a [`Client`] is one persistent connection out of it.
//! [`raw`] sends bytes that no real client sends. All of it lives in the namespaces that tests/support/in-netns.sh
//! made; no address of the real machine is ever touched.

pub mod bytewise;
pub mod client;
pub mod company;
pub mod disk;
pub mod filters;
pub mod gateway;
pub mod internet;
pub mod kept;
pub mod models;
pub mod process;
pub mod push;
pub mod raw;
pub mod registries;
pub mod sandbox;
pub mod scripted;
pub mod secrets;
pub mod upstream;
pub mod ways;
pub mod worktree;

pub use client::{Answer, Client, Http};
pub use gateway::Gateway;
pub use sandbox::{Curled, Finished, Sandbox};
pub use upstream::{Recorded, Upstream};
pub use worktree::{Git, Worktree};

use gateway::NO_CREDENTIAL_BUT_GITHUB;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The credential that the gateway injects. No sandbox, log or response may ever contain it.
pub const TOKEN: &str = "fixture_token_7Yk2wQ9zB4mXc8Lr";

/// The polling interval of conditions.
const POLL: Duration = Duration::from_millis(10);

/// An upstream and a gateway in front of it: the start of most tests.
pub struct Rig {
    /// The upstream, which plays the internet.
    pub upstream: Upstream,
    /// The gateway, ready.
    pub gateway: Gateway,
}

impl Rig {
    /// Starts both and waits until the gateway is ready.
    pub fn start() -> Self {
        let upstream = Upstream::start();
        let gateway = Gateway::start(&upstream);
        Self { upstream, gateway }
    }

    /// Starts both, with this policy and with hosts that are pinned elsewhere.
    pub fn start_with(policy: &str, elsewhere: &[(&str, SocketAddr)]) -> Self {
        let upstream = Upstream::start();
        let settings = format!("{NO_CREDENTIAL_BUT_GITHUB}{}", gateway::pins(&upstream, elsewhere));
        let gateway = Gateway::with(policy).settings(&settings).up();
        Self { upstream, gateway }
    }

    /// A new sandbox behind the gateway, not registered.
    pub fn sandbox(&self) -> Sandbox {
        Sandbox::start().behind(&self.gateway)
    }

    /// A new sandbox behind the gateway, registered with `repos`.
    pub fn registered(&self, repos: &[&str]) -> Sandbox {
        let sandbox = self.sandbox();
        self.gateway.register(sandbox.address, repos);
        sandbox
    }
}

/// Polls `condition` until it returns a value, and returns the value.
///
/// # Panics
/// If `deadline` passes. The message names `what`.
pub fn eventually<T>(what: &str, deadline: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + deadline;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < until, "not within {deadline:?}: {what}");
        std::thread::sleep(POLL);
    }
}

/// [`eventually`] for async conditions that return an error while they do not hold.
///
/// # Panics
/// If `deadline` passes. The message names `what` and the last error.
pub async fn eventually_async<T, E: std::fmt::Debug>(
    what: &str,
    deadline: Duration,
    mut condition: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let until = Instant::now() + deadline;
    loop {
        match condition().await {
            Ok(value) => return value,
            Err(error) => assert!(Instant::now() < until, "not within {deadline:?}: {what}: {error:?}"),
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Polls `condition` for `length`. For events that must not happen although they could by now.
///
/// # Panics
/// If `condition` is false once. The message names `what`.
pub fn holds(what: &str, length: Duration, condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while begun.elapsed() < length {
        assert!(condition(), "after {:?} no longer: {what}", begun.elapsed());
        std::thread::sleep(POLL);
    }
}

/// [`holds`] for async tests: other tasks of the test continue meanwhile.
///
/// # Panics
/// As [`holds`].
pub async fn holds_async(what: &str, length: Duration, condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while begun.elapsed() < length {
        assert!(condition(), "after {:?} no longer: {what}", begun.elapsed());
        tokio::time::sleep(POLL).await;
    }
}

/// Reports that `what` was skipped, and why. tests/run-e2e.sh prints the report at its end, since cargo hides the
/// output of a test that passes.
pub fn skip(what: &str, why: &str) {
    use std::io::Write;
    let file = std::env::var_os("SALLYPORT_SKIPPED").expect("SALLYPORT_SKIPPED is set by run-e2e.sh");
    let mut file = std::fs::OpenOptions::new().append(true).open(file).unwrap();
    file.write_all(format!("{what}: {why}\n").as_bytes()).unwrap();
}

/// A new empty directory for `purpose`, in the scratch directory of this test binary.
///
/// # Panics
/// If the process runs outside the namespaces: there the rig would touch the machine's own network.
pub fn scratch(purpose: &str) -> PathBuf {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    assert!(
        std::env::var_os("SALLYPORT_NETNS").is_some(),
        "these tests run in namespaces of their own: run them by tests/run-e2e.sh"
    );
    let base = PathBuf::from(std::env::var_os("SALLYPORT_SCRATCH").expect("SALLYPORT_SCRATCH is set by in-netns.sh"));
    let directory = base.join(format!("{purpose}{}", NEXT.fetch_add(1, Ordering::Relaxed)));
    std::fs::create_dir_all(&directory).unwrap();
    directory
}
