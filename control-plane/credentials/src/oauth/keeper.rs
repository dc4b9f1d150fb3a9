//! The task that refreshes one login. Only this task changes the login's current tokens.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::watch;
use tokio::time::Instant;

use super::endpoint::RefreshError;
use super::home::{Found, Home};
use super::refresh::{Order, Outcome};
use super::tokens::{self, Tokens};
use super::{Login, Outlook, Refresher, State, schedule};
use base::telemetry::{self, Refresh};

/// How often a login and its file are checked.
const LOOK: Duration = Duration::from_secs(1);

/// The least time between two refreshes, even if a provider returns a shorter lifetime.
const APART: Duration = Duration::from_secs(10);

/// The state of the task.
pub struct Keeper<'a> {
    login: &'a Arc<Login>,
    home: Home,
    refresher: Refresher,
    /// The content of the login's file. It may not be on disk yet: see `unsaved`.
    text: Option<SecretString>,
    seen: Option<Option<(u64, u64, i64, i64)>>,
    /// The new tokens, while they are not on disk.
    unsaved: Option<Arc<Tokens>>,
    turn: Turn,
}

/// Whether the task may request a new token.
#[derive(Debug, Default)]
struct Turn {
    failures: u32,
    /// No request before this time.
    after: Option<Instant>,
    /// No further request with this login.
    ended: bool,
}

impl Turn {
    fn failed(&mut self) {
        self.failures = self.failures.saturating_add(1);
        self.after = Some(Instant::now() + schedule::RETRIES.spread(self.failures, rand::random()));
    }
}

impl<'a> Keeper<'a> {
    /// The task's state for `login`, whose home is `home`.
    pub fn new(login: &'a Arc<Login>, home: Home, refresher: Refresher) -> Self {
        Self { login, home, refresher, text: None, seen: None, unsaved: None, turn: Turn::default() }
    }

    /// Refreshes the login until `stopped`.
    pub async fn run(mut self, mut stopped: watch::Receiver<bool>) {
        loop {
            self.step().await;
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = self.login.wake.notified() => {}
                _ = stopped.wait_for(|stopped| *stopped) => return,
            }
        }
    }

    async fn step(&mut self) {
        self.look().await;
        if self.unsaved.is_some() {
            self.save_again().await;
        }
        if self.due(Timestamp::now()) {
            self.refresh().await;
        }
    }

    /// Loads the login, at the start and after each change of its file.
    async fn look(&mut self) {
        let seen = self.home.stamp();
        let waits = self.turn.after.is_some_and(|after| Instant::now() < after);
        if self.seen == Some(seen) && (self.text.is_some() || waits) {
            return;
        }
        if self.text.is_none() {
            let home = self.home.clone();
            match blocking(move || home.busy().map_err(|error| error.to_string())).await.and_then(|busy| busy) {
                Ok(false) => {}
                Ok(true) => return self.wait().await,
                Err(error) => return self.failed(&format!("cannot be used: the state directory: {error}")),
            }
        }
        let (home, layout) = (self.home.clone(), self.login.layout.clone());
        let usable = move |text: &str| tokens::read(&layout, text).map(drop);
        let found = blocking(move || home.find(usable)).await.unwrap_or_else(Err);
        match found {
            Ok(Found { copied: false, .. }) if self.text.is_some() => {}
            Ok(Found { text, copied }) => self.take(text, copied),
            Err(problem) if self.text.is_none() => {
                self.turn.failed();
                self.fails(&problem, Outlook::Later);
            }
            // The current login stays in use, and the file is checked again.
            Err(problem) => return self.fails(&problem, Outlook::Soon),
        }
        self.seen = Some(seen);
    }

    /// Handles a refresh by a process of an earlier run, or by a process that does not end. Until the process ends, the
    /// token on disk stays in use.
    async fn wait(&mut self) {
        let (home, layout) = (self.home.clone(), self.login.layout.clone());
        let own = blocking(move || home.own().and_then(|text| tokens::read(&layout, text.expose_secret()))).await;
        if let Ok(tokens) = own.and_then(|tokens| tokens)
            && self.login.state.borrow().tokens.is_none()
        {
            self.publish(Arc::new(tokens), None);
        }
        self.fails("is being refreshed by a process of an earlier run", Outlook::Soon);
    }

    fn take(&mut self, text: SecretString, copied: bool) {
        let Ok(tokens) = tokens::read(&self.login.layout, text.expose_secret()) else { return };
        let (name, file) = (&self.login.name, self.login.source.display());
        match (copied, self.text.is_some()) {
            (true, true) => {
                tracing::warn!(credential = name, %file, "the file of a login is newer and replaces the gateway's own copy")
            }
            (true, false) => {
                tracing::info!(credential = name, %file, "a login was copied; the gateway refreshes its own copy from now on")
            }
            (false, _) => tracing::info!(credential = name, "a login of an earlier run is used"),
        }
        (self.text, self.unsaved, self.turn) = (Some(text), None, Turn::default());
        self.publish(Arc::new(tokens), None);
    }

    fn publish(&self, tokens: Arc<Tokens>, refreshed: Option<Timestamp>) {
        self.login.update(|state| {
            *state = State {
                tokens: Some(tokens),
                since: Timestamp::now(),
                refreshed: refreshed.or(state.refreshed),
                // A refresh that was due by time ends the row of refreshes that a 401 triggered.
                blamed: match refreshed {
                    Some(_) if state.rejected => state.blamed.saturating_add(1),
                    Some(_) if self.unsaved.is_none() => 0,
                    _ => state.blamed,
                },
                ..State::default()
            };
        });
    }

    /// Whether a request for a new token is due.
    fn due(&self, now: Timestamp) -> bool {
        let state = self.login.state.borrow();
        let Some(tokens) = &state.tokens else { return false };
        let waits = self.turn.after.is_some_and(|after| Instant::now() < after);
        let wanted = state.rejected || schedule::due(tokens).is_some_and(|due| now >= due);
        wanted && !waits && !self.turn.ended && self.unsaved.is_none() && self.text.is_some()
    }

    async fn refresh(&mut self) {
        let held = self.login.state.borrow().tokens.clone();
        let (Some(text), Some(_)) = (self.text.clone(), held.and_then(|tokens| tokens.refresh.clone())) else {
            return self.ends("expires and has no refresh token; log in again");
        };
        if self.login.refreshed_by().is_none() {
            return self.ends(
                "expires and the gateway knows no service or no client id to refresh the login; log in again, or set \
                 `from.client_id`",
            );
        }
        self.login.update(|state| state.outlook = Outlook::Soon);
        let order = Order { home: self.home.clone(), layout: self.login.layout.clone(), text };
        match (self.refresher)(order).await {
            Outcome::Renewed { text, unsaved } => self.renewed(text, unsaved),
            Outcome::NoRoom(why) => {
                self.failed(&format!("is not refreshed while the state directory cannot be written: {why}"));
            }
            Outcome::Refused(RefreshError::ForNow(why)) => self.failed(&format!("cannot be refreshed now: {why}")),
            Outcome::Refused(RefreshError::ForGood(why)) => {
                telemetry::refreshed(&self.login.name, Refresh::Refused);
                self.ends(&format!("cannot be refreshed any more: {why}; log in again"));
            }
            Outcome::Unknown(why) => self.unknown(&why).await,
        }
    }

    /// Handles a refresh with an unknown outcome. The login on disk is the current one, and may be the new one.
    async fn unknown(&mut self, why: &str) {
        let (turn, rejected) = (std::mem::take(&mut self.turn), self.login.state.borrow().rejected);
        let old = self.text.take();
        self.seen = None;
        self.look().await;
        if let Some(now) = &self.text
            && old.is_none_or(|old| old.expose_secret() != now.expose_secret())
        {
            return;
        }
        self.turn = turn;
        self.login.update(|state| state.rejected |= rejected);
        self.failed(&format!("cannot be refreshed now: {why}"));
    }

    fn failed(&mut self, problem: &str) {
        self.turn.failed();
        telemetry::refreshed(&self.login.name, Refresh::Failed);
        self.fails(problem, Outlook::Later);
    }

    fn renewed(&mut self, text: SecretString, unsaved: Option<String>) {
        let now = Timestamp::now();
        let tokens = match tokens::read(&self.login.layout, text.expose_secret()) {
            Ok(tokens) => Arc::new(Tokens { issued: tokens.issued.or(Some(now)), ..tokens }),
            Err(problem) => return self.ends(&format!("BUG: {problem}")),
        };
        (self.text, self.turn) = (Some(text), Turn { after: Some(Instant::now() + APART), ..Turn::default() });
        match unsaved {
            None => {
                tracing::info!(credential = self.login.name, "a login was refreshed");
                telemetry::refreshed(&self.login.name, Refresh::Done);
                self.publish(tokens, Some(now));
            }
            Some(error) => {
                telemetry::refreshed(&self.login.name, Refresh::Unsaved);
                self.unsaved = Some(tokens);
                self.unsaved(&error);
            }
        }
    }

    async fn save_again(&mut self) {
        let (Some(text), Some(tokens)) = (self.text.clone(), self.unsaved.clone()) else { return };
        let home = self.home.clone();
        let save =
            move || home.room(text.expose_secret().len()).and_then(|room| room.fill(&text)).map_err(|e| e.to_string());
        match blocking(save).await.and_then(|saved| saved) {
            Ok(()) => {
                tracing::info!(credential = self.login.name, "the refreshed login is saved after a retry");
                self.publish(tokens, Some(Timestamp::now()));
                self.unsaved = None;
            }
            Err(error) => self.unsaved(&error),
        }
    }

    /// Handles a new token that is only in memory. The old token stays in use until it expires: the provider may
    /// invalidate the login on disk when the new token is used.
    fn unsaved(&self, error: &str) {
        if let Some(tokens) = &self.unsaved
            && self.login.state.borrow().usable(Timestamp::now()).is_none()
        {
            self.publish(Arc::clone(tokens), Some(Timestamp::now()));
        }
        let problem = format!("was refreshed and cannot be saved: {error}; a stop of the gateway loses the login");
        self.fails(&problem, Outlook::Soon);
    }

    fn ends(&mut self, problem: &str) {
        self.turn.ended = true;
        self.fails(problem, Outlook::Later);
    }

    fn fails(&self, problem: &str, outlook: Outlook) {
        let problem = self.login.about(problem);
        self.login.state.send_if_modified(|state| {
            let changed = state.problem.as_ref() != Some(&problem) || state.outlook != outlook;
            if state.problem.as_ref() != Some(&problem) {
                tracing::warn!(credential = self.login.name, problem, "a login has a problem");
            }
            (state.problem, state.outlook) = (Some(problem), outlook);
            changed
        });
    }
}

/// Runs disk operations, which may be slow, on a blocking thread.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(|error| format!("BUG: {error}"))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::super::endpoint::Client;
    use super::super::provider::Layout;
    use super::super::refresh;
    use super::*;
    use jiff::SignedDuration;
    use std::path::Path;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// A login that expires after a number of seconds, in its own directory, with a stand-in for its token endpoint.
    struct Rig {
        directory: tempfile::TempDir,
        login: Arc<Login>,
        asked: Arc<AtomicUsize>,
        times: Arc<Mutex<Vec<Instant>>>,
        stop: watch::Sender<bool>,
    }

    type Scripted = Result<&'static str, RefreshError>;

    fn write(path: &Path, access: &str, seconds: i64) {
        let expires = Timestamp::now().as_millisecond() + seconds * 1000;
        let text = format!(
            r#"{{"access_token": "{access}", "refresh_token": "R0", "expiry_date": {expires}, "kept": {{"x": 1}}}}"#
        );
        std::fs::write(path, text).unwrap();
    }

    impl Rig {
        /// The endpoint waits for `delay`, and returns the result of `answer` for the number of the call.
        fn start(seconds: i64, delay: Duration, answer: impl Fn(usize) -> Scripted + Send + Sync + 'static) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let source = directory.path().join("oauth_creds.json");
            write(&source, "A0", seconds);
            let client = Client { id: "id".into(), secret: None };
            let login = Arc::new(Login::new("gemini-cli", Layout::Gemini, source, Some(client)));
            let (asked, times) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
            let (counted, noted, answer) = (Arc::clone(&asked), Arc::clone(&times), Arc::new(answer));
            let refresher: Refresher = Box::new(move |order| {
                let (counted, noted, answer) = (Arc::clone(&counted), Arc::clone(&noted), Arc::clone(&answer));
                Box::pin(refresh::carry_out(order, async move |_| {
                    let call = counted.fetch_add(1, Ordering::SeqCst) + 1;
                    noted.lock().unwrap().push(Instant::now());
                    tokio::time::sleep(delay).await;
                    answer(call).map(|body| tokens::Renewed::read(body.as_bytes()).unwrap())
                }))
            });
            let (stop, stopped) = watch::channel(false);
            tokio::spawn(Arc::clone(&login).run(login.home(directory.path()), refresher, stopped));
            Self { directory, login, asked, times, stop }
        }

        fn asked(&self) -> usize {
            self.asked.load(Ordering::SeqCst)
        }

        fn saved(&self) -> String {
            std::fs::read_to_string(self.directory.path().join("tokens/gemini-cli.json")).unwrap_or_default()
        }

        async fn value(&self) -> Option<String> {
            self.login.value().await.map(|value| value.expose_secret().to_owned())
        }

        async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
            for _ in 0..2_000 {
                if condition(self) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            unreachable!("not within 20 s: {what}: {:?}", self.login.problem());
        }
    }

    const NEXT: &str = r#"{"access_token": "A1", "refresh_token": "R1", "expires_in": 3600}"#;

    #[tokio::test]
    async fn a_hundred_requests_at_the_end_of_a_token_are_one_refresh() {
        let rig = Rig::start(-1, Duration::from_millis(300), |_| Ok(NEXT));
        let values = futures::future::join_all((0..100).map(|_| rig.value())).await;
        assert!(values.iter().all(|value| value.as_deref() == Some("A1")), "{values:?}");
        assert_eq!(rig.asked(), 1);
        assert!(rig.saved().contains("R1") && rig.saved().contains("kept"), "{}", rig.saved());
    }

    #[tokio::test]
    async fn a_token_is_refreshed_ahead_of_its_end_and_nobody_waits() {
        let rig = Rig::start(200, Duration::from_secs(2), |_| Ok(NEXT));
        rig.until("it is asked", |rig| rig.asked() == 1).await;
        assert_eq!(rig.value().await.as_deref(), Some("A0"));
        rig.until("it is saved", |rig| rig.saved().contains("A1")).await;
        rig.until("it is in force", |rig| rig.login.state.borrow().refreshed.is_some()).await;
        assert_eq!((rig.value().await.as_deref(), rig.asked()), (Some("A1"), 1));
        let fresh = Rig::start(3_000, Duration::ZERO, |_| Ok(NEXT));
        tokio::time::sleep(LOOK * 2).await;
        assert_eq!((fresh.value().await.as_deref(), fresh.asked()), (Some("A0"), 0));
    }

    #[tokio::test]
    async fn a_login_that_is_refused_is_not_asked_for_again_until_its_file_is_another() {
        let rig = Rig::start(-1, Duration::ZERO, |call| match call {
            1 => Err(RefreshError::ForGood("h returned 400 invalid_grant".into())),
            _ => Ok(NEXT),
        });
        rig.until("it is refused", |rig| rig.login.problem().is_some()).await;
        tokio::time::sleep(LOOK * 3).await;
        let began = Instant::now();
        assert_eq!((rig.value().await, rig.asked()), (None, 1));
        assert!(began.elapsed() < super::super::WAIT / 2, "nobody waits for what does not come");
        assert!(rig.login.problem().unwrap().contains("invalid_grant"));
        write(&rig.directory.path().join("oauth_creds.json"), "A00", -1);
        rig.until("the new login is refreshed", |rig| rig.saved().contains("A1")).await;
        rig.until("the problem is gone", |rig| rig.login.problem().is_none()).await;
        assert_eq!(rig.value().await.as_deref(), Some("A1"));
    }

    #[tokio::test(start_paused = true)]
    async fn after_failures_the_pauses_grow() {
        let rig = Rig::start(-1, Duration::ZERO, |_| Err(RefreshError::ForNow("h returned status 500".into())));
        while rig.asked() < 6 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let times = rig.times.lock().unwrap().clone();
        for (failures, pair) in (1..).zip(times.windows(2)) {
            let (pause, longest) = (pair[1] - pair[0], schedule::RETRIES.pause(failures));
            // The task checks the login once a second.
            assert!(pause >= longest / 2 && pause <= longest + LOOK + LOOK, "{failures}: {pause:?}");
        }
        assert!(rig.login.problem().unwrap().contains("status 500"));
        assert_eq!(rig.value().await, None);
    }

    #[tokio::test]
    async fn where_there_is_no_room_nothing_is_asked() {
        let rig = Rig::start(20, Duration::ZERO, |_| Ok(NEXT));
        rig.until("it is refreshed", |rig| rig.asked() == 1).await;
        let other = tempfile::tempdir().unwrap();
        // A second login with the same file. Later, a file replaces the directory of its home.
        let rig = Rig::start(3_000, Duration::ZERO, |_| Ok(NEXT));
        rig.until("it is there", |rig| rig.login.state.borrow().tokens.is_some()).await;
        let tokens = rig.directory.path().join("tokens");
        std::fs::rename(&tokens, other.path().join("away")).unwrap();
        std::fs::write(&tokens, "in the way").unwrap();
        rig.login.rejected(Timestamp::now());
        rig.until("it is told", |rig| rig.login.problem().is_some()).await;
        assert!(rig.login.problem().unwrap().contains("state directory cannot be written"));
        assert_eq!((rig.asked(), rig.value().await.as_deref()), (0, Some("A0")));
        std::fs::remove_file(&tokens).unwrap();
        rig.until("it goes on", |rig| rig.saved().contains("R1")).await;
    }

    #[tokio::test]
    async fn a_disk_that_fails_after_the_rotation_loses_nothing_that_it_need_not() {
        let rig = Rig::start(8, Duration::from_millis(500), |_| Ok(NEXT));
        rig.until("it is asked", |rig| rig.asked() == 1).await;
        // Between the request and its response.
        let (tokens, other) = (rig.directory.path().join("tokens"), tempfile::tempdir().unwrap());
        std::fs::rename(&tokens, other.path().join("away")).unwrap();
        std::fs::write(&tokens, "in the way").unwrap();
        rig.until("it is told", |rig| rig.login.problem().is_some()).await;
        assert!(rig.login.problem().unwrap().contains("cannot be saved"));
        assert_eq!(rig.value().await.as_deref(), Some("A0"), "the old one, for as long as it lasts");
        tokio::time::sleep(Duration::from_secs(9)).await;
        assert_eq!((rig.value().await.as_deref(), rig.asked()), (Some("A1"), 1), "then the new one, from memory");
        std::fs::remove_file(&tokens).unwrap();
        rig.until("it is saved after all", |rig| rig.saved().contains("R1")).await;
        rig.until("the problem is gone", |rig| rig.login.problem().is_none()).await;
        assert_eq!(rig.asked(), 1);
    }

    #[tokio::test]
    async fn a_401_begins_one_refresh_for_each_token() {
        let rig = Rig::start(3_000, Duration::ZERO, |_| Ok(NEXT));
        rig.until("it is there", |rig| rig.login.state.borrow().tokens.is_some()).await;
        let before = Timestamp::now() - SignedDuration::from_secs(5);
        rig.login.rejected(before);
        tokio::time::sleep(LOOK * 2).await;
        assert_eq!(rig.asked(), 0, "it was to another token");
        for _ in 0..50 {
            rig.login.rejected(Timestamp::now());
        }
        rig.until("it is refreshed", |rig| rig.saved().contains("R1")).await;
        tokio::time::sleep(APART + LOOK * 2).await;
        rig.login.rejected(Timestamp::now());
        tokio::time::sleep(LOOK * 2).await;
        assert_eq!(rig.asked(), 1, "not within a minute");
        assert_eq!(rig.login.state.borrow().blamed, 1);
    }

    #[tokio::test]
    async fn a_401_to_a_token_that_cannot_be_another_changes_nothing() {
        let rig = Rig::start(3_000, Duration::ZERO, |_| Ok(NEXT));
        let file = rig.directory.path().join("oauth_creds.json");
        std::fs::write(&file, r#"{"access_token": "A2"}"#).unwrap();
        rig.until("it is taken up", |rig| rig.saved().contains("A2")).await;
        rig.until("it is in force", |rig| {
            rig.login.state.borrow().tokens.as_ref().is_some_and(|tokens| tokens.refresh.is_none())
        })
        .await;
        rig.login.rejected(Timestamp::now());
        assert!(!rig.login.state.borrow().rejected);
        assert_eq!(rig.login.problem(), None);
    }

    #[tokio::test]
    async fn a_stop_waits_for_the_answer_and_saves_it() {
        let rig = Rig::start(-1, Duration::from_millis(500), |_| Ok(NEXT));
        rig.until("it is asked", |rig| rig.asked() == 1).await;
        rig.stop.send_replace(true);
        rig.until("it is saved", |rig| rig.saved().contains("R1")).await;
    }
}
