//! Logins that the gateway owns: it refreshes them ahead of their end, and a sandbox never sees one.
//!
//! `tokens` reads and changes the files in which programs keep them, `provider` says whose they are, `schedule` when a
//! new token is due; `home` is where they live, `refresh` has a process ask for new ones, which `endpoint` does, and
//! `stub` is what a sandbox gets that asks itself. One task owns each login (`keeper`), so there is never more than one
//! refresh of it; requests look at what is in force, and wait where that has ended.
//!
//! **Invariant:** a new token is on disk before it goes into a request, unless the disk refuses it and the old one has
//! ended.

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

/// How long a request waits for a refresh: less than Envoy waits for us (5 s), so that the answer is ours.
const WAIT: Duration = Duration::from_secs(4);

/// The least time between a refresh and one that a provider's 401 begins. It doubles with each refresh that a 401 has
/// begun: a request that is wrong by itself is answered with 401 as well, and its sender could otherwise have the login
/// rotated for ever.
const FLOOR: Backoff = Backoff { first: Duration::from_secs(60), last: Duration::from_secs(64 * 60) };

/// How a login is refreshed.
pub type Refresher = Box<dyn Fn(Order) -> BoxFuture<'static, Outcome> + Send + Sync>;

/// A login.
#[derive(Debug)]
pub struct Login {
    name: String,
    layout: Layout,
    source: PathBuf,
    client: Option<Client>,
    state: watch::Sender<State>,
    /// Something has changed that its task should look at.
    wake: Notify,
}

#[derive(Clone, Debug, Default)]
struct State {
    /// What goes into requests now.
    tokens: Option<Arc<Tokens>>,
    /// Since when.
    since: Timestamp,
    /// The last refresh that succeeded.
    refreshed: Option<Timestamp>,
    outlook: Outlook,
    problem: Option<String>,
    /// A provider has said 401 to the token in force.
    rejected: bool,
    /// How many refreshes in a row a 401 has begun.
    blamed: u32,
}

/// What can be hoped for where the token in force has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Outlook {
    /// A new one, soon.
    #[default]
    Soon,
    /// None for now.
    Later,
}

impl State {
    /// How long after a refresh a 401 begins none.
    fn floor(&self) -> SignedDuration {
        SignedDuration::try_from(FLOOR.pause(self.blamed.saturating_add(1))).unwrap_or(SignedDuration::MAX)
    }

    fn usable(&self, now: Timestamp) -> Option<&Arc<Tokens>> {
        self.tokens.as_ref().filter(|tokens| tokens.expires.is_none_or(|expires| now < expires))
    }
}

impl Login {
    /// The login in the file `source`, for the credential `name`. Without a client it is used to its end and never
    /// refreshed.
    pub fn new(name: &str, layout: Layout, source: PathBuf, client: Option<Client>) -> Self {
        Self { name: name.to_owned(), layout, source, client, state: watch::Sender::default(), wake: Notify::new() }
    }

    /// Who refreshes it, where we know how and who we are.
    pub fn refreshed_by(&self) -> Option<(Service, &Client)> {
        self.layout.service().zip(self.client.as_ref())
    }

    /// Who we are where it is refreshed, if we know.
    pub fn client(&self) -> Option<&Client> {
        self.client.as_ref()
    }

    /// Whether it is the one in `source`.
    pub fn is_of(&self, layout: &Layout, source: &std::path::Path) -> bool {
        self.layout == *layout && self.source == source
    }

    /// Who its program asks for a new token.
    pub fn service(&self) -> Option<Service> {
        self.layout.service()
    }

    /// Its home in `state_dir`.
    pub fn home(&self, state_dir: &std::path::Path) -> Home {
        Home::new(state_dir, &self.name, &self.source)
    }

    /// The access token. Waits where a new one may come soon.
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

    /// The account that goes with it, for a header of its own.
    pub fn account(&self) -> Option<String> {
        self.state.borrow().tokens.as_ref().and_then(|tokens| tokens.account.clone())
    }

    /// Whether requests of its name an account at all.
    pub fn names_account(&self) -> bool {
        self.layout == Layout::Codex
    }

    /// What is wrong with it.
    pub fn problem(&self) -> Option<String> {
        self.state.borrow().problem.clone()
    }

    /// What is wrong with its file, for a command that does not run it.
    pub fn look(&self) -> Option<String> {
        let text = std::fs::read_to_string(&self.source).map_err(|error| format!("cannot be read: {error}"));
        let read = text.and_then(|text| tokens::read(&self.layout, &text).map(drop));
        read.err().map(|problem| self.about(&problem))
    }

    /// A provider has answered 401 to a request that began at `began`. Begins a refresh where that was with the token in
    /// force and there can be another, once for each, and no more often than [`FLOOR`] says.
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
            tracing::info!(credential = self.name, "a provider says 401 to the token of a login; it is refreshed");
            self.wake.notify_one();
        }
    }

    /// Keeps it fresh until `stopped`. A refresh that has begun is ended first: its answer may be the only token left.
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
