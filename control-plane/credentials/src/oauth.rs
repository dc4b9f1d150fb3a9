//! Logins that the gateway owns. The gateway refreshes them before they expire, and a sandbox never sees a login.
//!
//! `tokens` parses and updates the files in which programs keep logins. `provider` names the programs and the services.
//! `schedule` computes when a new token is due. `home` stores a login on disk. `refresh` starts a process that requests
//! a new token with `endpoint`. `stub` is the response to a sandbox that requests a token itself. One task owns each
//! login (`keeper`), so that a login never has two refreshes at the same time. Requests use the current token, and wait
//! if the token has expired.
//!
//! **Invariant:** a new token is on disk before a request uses it. The only exception: the write fails, and the old
//! token has expired.

pub mod endpoint;
pub mod home;
mod keeper;
pub mod provider;
pub mod refresh;
mod schedule;
pub mod stub;
mod tokens;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base::backoff::Backoff;
use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use secrecy::SecretString;
use tokio::sync::{Notify, watch};

use self::endpoint::Client;
use self::home::Home;
use self::keeper::Keeper;
use self::provider::{Layout, Service};
use self::refresh::{Order, Outcome};
use self::tokens::Tokens;

/// How long a request waits for a refresh: less than Envoy's timeout for the gateway (5 s), so that the gateway
/// responds.
const WAIT: Duration = Duration::from_secs(4);

/// The least time between a refresh and a refresh that a provider's 401 triggers. It doubles with each such refresh. An
/// invalid request can also get a 401. Without this limit, its sender could have the login rotated without end.
const FLOOR: Backoff = Backoff { first: Duration::from_secs(60), last: Duration::from_secs(64 * 60) };

/// The function that refreshes a login.
pub type Refresher = Box<dyn Fn(Order) -> BoxFuture<'static, Outcome> + Send + Sync>;

/// A login.
#[derive(Debug)]
pub struct Login {
    name: String,
    layout: Layout,
    source: PathBuf,
    client: Option<Client>,
    state: watch::Sender<State>,
    /// Wakes the login's task after a change.
    wake: Notify,
}

#[derive(Clone, Debug, Default)]
struct State {
    /// The current tokens.
    tokens: Option<Arc<Tokens>>,
    /// The time from which `tokens` are current.
    since: Timestamp,
    /// The last refresh that succeeded.
    refreshed: Option<Timestamp>,
    outlook: Outlook,
    problem: Option<String>,
    /// Whether a provider has responded with 401 to the current token.
    rejected: bool,
    /// The number of refreshes in a row that a 401 has triggered.
    blamed: u32,
}

/// Whether a request should wait for a new token if the current token has expired.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Outlook {
    /// A new token may come soon.
    #[default]
    Soon,
    /// No new token is expected for now.
    Later,
}

impl State {
    /// The time after a refresh in which a 401 triggers no refresh.
    fn floor(&self) -> SignedDuration {
        SignedDuration::try_from(FLOOR.pause(self.blamed.saturating_add(1))).unwrap_or(SignedDuration::MAX)
    }

    fn usable(&self, now: Timestamp) -> Option<&Arc<Tokens>> {
        self.tokens.as_ref().filter(|tokens| tokens.expires.is_none_or(|expires| now < expires))
    }
}

impl Login {
    /// The login in the file `source`, for the credential `name`. Without a client, the login is never refreshed, and
    /// is used until it expires.
    pub fn new(name: &str, layout: Layout, source: PathBuf, client: Option<Client>) -> Self {
        Self { name: name.to_owned(), layout, source, client, state: watch::Sender::default(), wake: Notify::new() }
    }

    /// The service that refreshes the login, and the OAuth client. `None` if one of them is unknown.
    pub fn refreshed_by(&self) -> Option<(Service, &Client)> {
        self.layout.service().zip(self.client.as_ref())
    }

    /// The OAuth client with which the login is refreshed, if known.
    pub fn client(&self) -> Option<&Client> {
        self.client.as_ref()
    }

    /// Whether this is the login in `source` with `layout`.
    pub fn is_of(&self, layout: &Layout, source: &std::path::Path) -> bool {
        self.layout == *layout && self.source == source
    }

    /// The service from which the login's program requests new tokens, if known.
    pub fn service(&self) -> Option<Service> {
        self.layout.service()
    }

    /// The login's home in `state_dir`.
    pub fn home(&self, state_dir: &std::path::Path) -> Home {
        Home::new(state_dir, &self.name, &self.source)
    }

    /// The access token. If it has expired, waits up to [`WAIT`] for a new token that may come soon. `None` if there is
    /// no valid token.
    pub async fn value(&self) -> Option<Arc<SecretString>> {
        let mut states = self.state.subscribe();
        let waited = tokio::time::timeout(WAIT, async {
            loop {
                {
                    let state = states.borrow_and_update();
                    if let Some(tokens) = state.usable(Timestamp::now()) {
                        return Some(Arc::clone(&tokens.access));
                    }
                    if state.outlook == Outlook::Later {
                        return None;
                    }
                }
                states.changed().await.ok()?;
            }
        });
        waited.await.unwrap_or_default()
    }

    /// The account of the token, for a separate header.
    pub fn account(&self) -> Option<String> {
        self.state.borrow().tokens.as_ref().and_then(|tokens| tokens.account.clone())
    }

    /// Whether requests with this login have a header that names the account.
    pub fn names_account(&self) -> bool {
        self.layout == Layout::Codex
    }

    /// The login's current problem.
    pub fn problem(&self) -> Option<String> {
        self.state.borrow().problem.clone()
    }

    /// Reads the login's file once, for a command that does not refresh the login. Returns the problem, if any.
    pub fn look(&self) -> Option<String> {
        let text = std::fs::read_to_string(&self.source).map_err(|error| format!("cannot be read: {error}"));
        let read = text.and_then(|text| tokens::read(&self.layout, &text).map(drop));
        read.err().map(|problem| self.about(&problem))
    }

    /// Reports a provider's status 401 for a request that began at `began`. Triggers a refresh if the request had the
    /// current token and the login can be refreshed: once for each token, and no more often than [`FLOOR`] allows.
    pub fn rejected(&self, began: Timestamp) {
        let now = Timestamp::now();
        let (mut begins, knows) = (false, self.refreshed_by().is_some());
        self.state.send_if_modified(|state| {
            let settled = state.refreshed.is_none_or(|at| now.duration_since(at) >= state.floor());
            let renewable = knows && state.tokens.as_ref().is_some_and(|tokens| tokens.refresh.is_some());
            begins = !state.rejected && settled && renewable && began >= state.since;
            state.rejected |= begins;
            false
        });
        if begins {
            tracing::info!(
                credential = self.name,
                "a provider rejected the token of a login with 401; the login is refreshed"
            );
            self.wake.notify_one();
        }
    }

    /// Refreshes the login until `stopped`. First completes a refresh that has begun: its response may hold the only
    /// valid refresh token.
    pub async fn run(self: Arc<Self>, home: Home, refresher: Refresher, stopped: watch::Receiver<bool>) {
        Keeper::new(&self, home, refresher).run(stopped).await;
    }

    fn about(&self, problem: &str) -> String {
        format!("the login {} {problem}", self.source.display())
    }

    fn update(&self, change: impl FnOnce(&mut State)) {
        self.state.send_modify(change);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_401_begins_a_refresh_ever_more_seldom_up_to_an_hour() {
        let floor = |blamed| State { blamed, ..State::default() }.floor().as_secs();
        assert_eq!([0, 1, 2, 6, 7, u32::MAX].map(floor), [60, 120, 240, 3840, 3840, 3840]);
    }
}
