//! One refresh, in a separate process.
//!
//! A service that rotates refresh tokens accepts each token once. When the service has issued the next token, the old
//! one is invalid. Until the new token is on disk, the login exists only in the service's response. So the process that
//! reads the response must not end early. This process does nothing else. It reads its order from standard input, saves
//! the new login, writes the outcome to standard output, and exits. It continues even if the gateway stops or crashes.
//! It locks the login before it reads the order, and the next gateway waits for the lock.

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

/// The byte that the process writes when it has the lock.
const READY: u8 = b'\n';

/// The longest outcome, in bytes: a login in JSON.
const MAX_OUTCOME: u64 = 1 << 20;

/// The longest message, in bytes, from a process that could not take the lock.
const MAX_WHY: u64 = 1 << 10;

/// The time limit for the start of the process.
const START: Duration = Duration::from_secs(10);

/// The time limit for the process: longer than the time limit of the exchange plus two writes to disk.
pub const LIFETIME: Duration = Duration::from_secs(75);

/// An order to refresh a login.
#[derive(Debug, Serialize, Deserialize)]
pub struct Order {
    /// The login's home on disk.
    pub home: Home,
    /// The layout of the login's file.
    pub layout: Layout,
    /// The content of the login's file.
    #[serde(serialize_with = "exposed")]
    pub text: SecretString,
}

/// The input of the process.
#[derive(Debug, Serialize, Deserialize)]
struct Told {
    order: Order,
    question: Question,
}

/// The outcome of a refresh.
#[derive(Debug, Serialize, Deserialize)]
pub enum Outcome {
    /// The login was refreshed.
    Renewed {
        /// The content of the new login's file.
        #[serde(serialize_with = "exposed")]
        text: SecretString,
        /// The reason why the new login is not on disk. `None` if it is.
        unsaved: Option<String>,
    },
    /// No request was sent, because the new login could not have been saved.
    NoRoom(String),
    /// The refresh failed. There is no new login.
    Refused(RefreshError),
    /// The process has ended without an outcome. The login on disk is the current one.
    Unknown(String),
}

/// Executes an order. `ask` is the exchange with the token endpoint.
pub async fn carry_out(
    order: Order,
    ask: impl AsyncFnOnce(Arc<SecretString>) -> Result<Renewed, RefreshError>,
) -> Outcome {
    let Order { home, layout, text } = order;
    let held = tokens::read(&layout, text.expose_secret());
    let Ok(Some(token)) = held.map(|tokens| tokens.refresh) else {
        return Outcome::Refused(RefreshError::ForGood("the login has no refresh token".into()));
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
        Err(problem) => Outcome::Refused(RefreshError::ForGood(format!("BUG: the new login {problem}"))),
    }
}

/// Executes an order in a new process, which sends the request to `endpoint`.
pub async fn apart(order: Order, endpoint: &Endpoint) -> Outcome {
    let question = match endpoint.question().await {
        Ok(question) => question,
        Err(refused) => return Outcome::Refused(refused),
    };
    let for_now = |why: String| {
        Outcome::Refused(RefreshError::ForNow(format!("the process `refresh-login` cannot be started: {why}")))
    };
    let told = Told { order, question };
    let Ok(bytes) = serde_json::to_vec(&told) else {
        return for_now("a path of the login is not UTF-8 text".into());
    };
    let begun = tokio::time::timeout(START, begin(told.order.home.lock_file())).await;
    let (mut stdin, mut stdout) = match begun {
        Ok(Ok(pipes)) => pipes,
        // The process has not received the order.
        Ok(Err(error)) => return for_now(error.to_string()),
        Err(_) => return for_now(format!("not within {} s", START.as_secs())),
    };
    let exchange = async {
        stdin.write_all(&bytes).await?;
        drop(stdin);
        let mut answer = Vec::new();
        (&mut stdout).take(MAX_OUTCOME).read_to_end(&mut answer).await?;
        // serde's error is dropped, because it can quote the secret.
        serde_json::from_slice(&answer).map_err(|_| std::io::Error::other("the process has ended early"))
    };
    match tokio::time::timeout(LIFETIME, exchange).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(error)) => Outcome::Unknown(format!("the process `refresh-login` failed: {error}")),
        Err(_) => Outcome::Unknown("the process `refresh-login` does not end".into()),
    }
}

/// Starts the process, and waits until the process has the lock.
async fn begin(lock: &Path) -> std::io::Result<(tokio::process::ChildStdin, tokio::process::ChildStdout)> {
    let mut child = tokio::process::Command::new(OURSELVES)
        .arg0("sallyport")
        .arg(COMMAND)
        .arg(lock)
        .env_clear()
        // A process group of its own, and no inherited output: a signal to the gateway's group does not end the
        // process, and a reader of the gateway's output does not wait for the process.
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let gone = || std::io::Error::other("BUG: the process has no pipes");
    let (stdin, mut stdout) = (child.stdin.take().ok_or_else(gone)?, child.stdout.take().ok_or_else(gone)?);
    let mut first = [0];
    let length = stdout.read(&mut first).await?;
    if first[..length] != [READY] {
        let mut why = first[..length].to_vec();
        stdout.take(MAX_WHY).read_to_end(&mut why).await?;
        return Err(std::io::Error::other(String::from_utf8_lossy(&why).into_owned()));
    }
    // The runtime reaps the process.
    Ok((stdin, stdout))
}

/// The main function of that process. `lock` is the login's lock file.
///
/// # Errors
/// If another process has the lock, or the order can't be parsed. In both cases no request was sent.
pub fn run(lock: &Path) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // While these handlers exist, the signals do not end the process.
    let _kept = {
        let _entered = runtime.enter();
        [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()]
            .into_iter()
            .map(signal)
            .collect::<std::io::Result<Vec<_>>>()?
    };
    let mut stdout = std::io::stdout().lock();
    let locked = Lock::take(lock)
        .context("the login cannot be locked")
        .and_then(|lock| lock.context("another process has locked the login"));
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
    // serde's error is dropped, because it can quote the secret.
    let Told { order, question } =
        serde_json::from_slice(&told).map_err(|_| anyhow::anyhow!("the order ends too early"))?;
    let outcome = runtime.block_on(carry_out(order, async |token| question.ask(&token).await));
    // The gateway may have ended.
    drop(stdout.write_all(&serde_json::to_vec(&outcome)?));
    Ok(())
}
