//! One refresh, by a process of its own.
//!
//! A service that rotates refresh tokens takes each of them once. From when it has made the next one until that is on
//! disk, the login is nowhere but in the answer on its way, and whoever reads the answer must not end before. So that is
//! a process which does nothing else: it is told on its standard input all that it needs, saves the answer, says on its
//! standard output what became of it, and ends by itself, whatever becomes of the gateway meanwhile. It locks the login
//! before it is told anything, and the next gateway waits for the lock.

use std::io::{Read, Write};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::signal::unix::{SignalKind, signal};

use super::endpoint::{Endpoint, Question, RefreshError, exposed};
use super::home::{Home, Lock};
use super::provider::Layout;
use super::tokens::{self, Renewed};
use base::process::OURSELVES;

/// The hidden command.
const COMMAND: &str = "refresh-login";

/// What the process says when it has the lock.
const READY: u8 = b'\n';

/// The longest login, and what stands around it.
const MAX_OUTCOME: u64 = 1 << 20;

/// The longest reason why it has no lock.
const MAX_WHY: u64 = 1 << 10;

/// How long it may take to start.
const START: Duration = Duration::from_secs(10);

/// How long it may take to end: more than the exchange may take, and the disk twice.
pub const LIFETIME: Duration = Duration::from_secs(75);

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
struct Told {
    order: Order,
    question: Question,
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
    Refused(RefreshError),
    /// The process has ended without a word. What is on disk holds.
    Unknown(String),
}

/// Carries out an order. `ask` is the exchange with the token endpoint.
pub async fn carry_out(
    order: Order,
    ask: impl AsyncFnOnce(Arc<SecretString>) -> Result<Renewed, RefreshError>,
) -> Outcome {
    let Order { home, layout, text } = order;
    let held = tokens::read(&layout, text.expose_secret());
    let Ok(Some(token)) = held.map(|tokens| tokens.refresh) else {
        return Outcome::Refused(RefreshError::ForGood("there is no refresh token".into()));
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
        Err(problem) => Outcome::Refused(RefreshError::ForGood(format!("BUG: it {problem}"))),
    }
}

/// Has a process carry it out, which asks `endpoint`.
pub async fn apart(order: Order, endpoint: &Endpoint) -> Outcome {
    let question = match endpoint.question().await {
        Ok(question) => question,
        Err(refused) => return Outcome::Refused(refused),
    };
    let for_now =
        |why: String| Outcome::Refused(RefreshError::ForNow(format!("a process for it cannot be started: {why}")));
    let told = Told { order, question };
    let Ok(bytes) = serde_json::to_vec(&told) else {
        return for_now("a path of it is no text".into());
    };
    let begun = tokio::time::timeout(START, begin(told.order.home.lock_file())).await;
    let (mut stdin, mut stdout) = match begun {
        Ok(Ok(pipes)) => pipes,
        // It has been told nothing.
        Ok(Err(error)) => return for_now(error.to_string()),
        Err(_) => return for_now(format!("not within {} s", START.as_secs())),
    };
    let exchange = async {
        stdin.write_all(&bytes).await?;
        drop(stdin);
        let mut answer = Vec::new();
        (&mut stdout).take(MAX_OUTCOME).read_to_end(&mut answer).await?;
        // What serde says of a text may quote it.
        serde_json::from_slice(&answer).map_err(|_| std::io::Error::other("it has ended by itself"))
    };
    match tokio::time::timeout(LIFETIME, exchange).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(error)) => Outcome::Unknown(format!("the process that refreshed it failed: {error}")),
        Err(_) => Outcome::Unknown("the process that refreshes it does not end".into()),
    }
}

/// Starts the process and waits until it has the lock.
async fn begin(lock: &Path) -> std::io::Result<(tokio::process::ChildStdin, tokio::process::ChildStdout)> {
    let mut child = tokio::process::Command::new(OURSELVES)
        .arg0("sallyport")
        .arg(COMMAND)
        .arg(lock)
        .env_clear()
        // What ends our process group does not end it, and who waits for the end of our output does not wait for it.
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let gone = || std::io::Error::other("BUG: it has no pipes");
    let (stdin, mut stdout) = (child.stdin.take().ok_or_else(gone)?, child.stdout.take().ok_or_else(gone)?);
    let mut first = [0];
    let length = stdout.read(&mut first).await?;
    if first[..length] != [READY] {
        let mut why = first[..length].to_vec();
        stdout.take(MAX_WHY).read_to_end(&mut why).await?;
        return Err(std::io::Error::other(String::from_utf8_lossy(&why).into_owned()));
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
    let mut stdout = std::io::stdout().lock();
    let locked = Lock::take(lock).context("the login cannot be locked").and_then(|lock| lock.context("it is locked"));
    let _lock = match locked {
        Ok(lock) => lock,
        Err(error) => {
            write!(stdout, "{error:#}")?;
            return Err(error);
        }
    };
    stdout.write_all(&[READY])?;
    stdout.flush()?;
    let mut told = Vec::new();
    std::io::stdin().lock().read_to_end(&mut told)?;
    // What serde says of a text may quote it.
    let Told { order, question } =
        serde_json::from_slice(&told).map_err(|_| anyhow::anyhow!("the order ends too early"))?;
    let outcome = runtime.block_on(carry_out(order, async |token| question.ask(&token).await));
    // Whoever wanted to know may be gone.
    drop(stdout.write_all(&serde_json::to_vec(&outcome)?));
    Ok(())
}
