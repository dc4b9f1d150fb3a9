//! One refresh, by a process of its own.
//!
//! A service that rotates refresh tokens takes each of them once. From when it has made the next one until that is on
//! disk, the login is nowhere but in the answer on its way, and whoever reads the answer must not end before. So that is
//! a process which does nothing else: it is told on its standard input all that it needs, saves the answer, says on its
//! standard output what became of it, and ends by itself, whatever becomes of the gateway meanwhile. It locks the login
//! before it is told anything, and the next gateway waits for the lock.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use anyhow::Context;
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize, Serializer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::signal::unix::{SignalKind, signal};

use super::endpoint::{self, Client, Refused};
use super::home::{Home, Lock};
use super::provider::{Layout, Service};
use super::tokens::{self, Renewed};
use crate::cli::OURSELVES;

/// The hidden command.
const COMMAND: &str = "refresh-login";

/// What the process says when it has the lock.
const READY: u8 = b'\n';

/// The longest login, and what stands around it.
const MAX_OUTCOME: u64 = 1 << 20;

/// A login that is to be refreshed.
#[derive(Debug, Serialize, Deserialize)]
pub struct Order {
    /// Where it is saved.
    pub home: Home,
    /// How its file is laid out.
    pub layout: Layout,
    /// Its file.
    #[serde(serialize_with = "exposed")]
    pub text: SecretString,
}

/// What the process is told.
#[derive(Debug, Serialize, Deserialize)]
pub struct Told {
    /// What it is to do.
    pub order: Order,
    /// Who it asks, and where that is.
    pub service: Service,
    /// The addresses of the service's token endpoint.
    pub addresses: Vec<SocketAddr>,
    /// Who vouches for it there.
    pub roots_pem: String,
    /// Who it is to the endpoint.
    pub client: Client,
}

/// What became of a refresh.
#[derive(Debug, Serialize, Deserialize)]
pub enum Outcome {
    /// The login is a new one.
    Renewed {
        /// Its file.
        #[serde(serialize_with = "exposed")]
        text: SecretString,
        /// Why that is not on disk, if it is not.
        unsaved: Option<String>,
    },
    /// Nobody was asked: the new login could not have been saved.
    NoRoom(String),
    /// There is no new login.
    Refused(Refused),
    /// The process has ended without a word. What is on disk holds.
    Unknown(String),
}

/// Carries out an order. `ask` is the exchange with the token endpoint.
pub async fn carry_out(order: Order, ask: impl AsyncFnOnce(Arc<SecretString>) -> Result<Renewed, Refused>) -> Outcome {
    let Order { home, layout, text } = order;
    let held = tokens::read(&layout, text.expose_secret());
    let Ok(Some(token)) = held.map(|tokens| tokens.refresh) else {
        return Outcome::Refused(Refused::ForGood("there is no refresh token".into()));
    };
    let room = match home.room(text.expose_secret().len()) {
        Ok(room) => room,
        Err(error) => return Outcome::NoRoom(error.to_string()),
    };
    let renewed = match ask(token).await {
        Ok(renewed) => renewed,
        Err(refused) => return Outcome::Refused(refused),
    };
    let new = tokens::renew(&layout, text.expose_secret(), &renewed, Timestamp::now());
    match new {
        Ok(text) => {
            let unsaved = room.fill(&text).err().map(|error| error.to_string());
            Outcome::Renewed { text, unsaved }
        }
        Err(problem) => Outcome::Refused(Refused::ForGood(format!("BUG: it {problem}"))),
    }
}

/// Has a process carry it out.
pub async fn apart(told: &Told) -> Outcome {
    let (mut stdin, mut stdout) = match begin(told.order.home.lock_file()).await {
        Ok(pipes) => pipes,
        // It has been told nothing.
        Err(error) => return Outcome::Refused(Refused::ForNow(format!("a process for it cannot be started: {error}"))),
    };
    let exchange = async {
        stdin.write_all(&serde_json::to_vec(told)?).await?;
        drop(stdin);
        let mut answer = Vec::new();
        (&mut stdout).take(MAX_OUTCOME).read_to_end(&mut answer).await?;
        // What serde says of a text may quote it.
        serde_json::from_slice(&answer).map_err(|_| std::io::Error::other("it has ended by itself"))
    };
    exchange.await.unwrap_or_else(|error| Outcome::Unknown(format!("the process that refreshed it failed: {error}")))
}

/// Starts the process and waits until it has the lock.
async fn begin(lock: &Path) -> std::io::Result<(tokio::process::ChildStdin, tokio::process::ChildStdout)> {
    let mut child = tokio::process::Command::new(OURSELVES)
        .arg(COMMAND)
        .arg(lock)
        .env_clear()
        // What ends our process group does not end it.
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let gone = || std::io::Error::other("BUG: it has no pipes");
    let (stdin, mut stdout) = (child.stdin.take().ok_or_else(gone)?, child.stdout.take().ok_or_else(gone)?);
    if stdout.read_u8().await? != READY {
        return Err(std::io::Error::other("BUG: it says something else"));
    }
    // The runtime reaps it.
    Ok((stdin, stdout))
}

/// Is that process, for the login whose lock is the file `lock`.
///
/// # Errors
/// Another one has the lock, or what it is told cannot be understood: then nobody was asked.
pub fn run(lock: &Path) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // While these are kept, the signals end nothing.
    let _kept = {
        let _entered = runtime.enter();
        [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()]
            .into_iter()
            .map(signal)
            .collect::<std::io::Result<Vec<_>>>()?
    };
    let _lock = Lock::take(lock).context("the login cannot be locked")?.context("the login is being refreshed")?;
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(&[READY])?;
    stdout.flush()?;
    let mut told = Vec::new();
    std::io::stdin().lock().read_to_end(&mut told)?;
    // What serde says of a text may quote it.
    let told: Told = serde_json::from_slice(&told).map_err(|_| anyhow::anyhow!("the order ends too early"))?;
    let Told { order, service, addresses, roots_pem, client } = told;
    let outcome = runtime.block_on(carry_out(order, async |token| {
        endpoint::ask(service, &addresses, &roots_pem, &client, &token).await
    }));
    // Whoever wanted to know may be gone.
    drop(stdout.write_all(&serde_json::to_vec(&outcome)?));
    Ok(())
}

/// The pipes of this process are the one place where a login is written in the clear but its file.
pub(super) fn exposed<S: Serializer>(secret: &SecretString, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(secret.expose_secret())
}
