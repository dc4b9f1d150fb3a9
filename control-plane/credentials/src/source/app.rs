//! Tokens of a GitHub App. Each container gets a token for exactly its repositories, with exactly the permissions that
//! the operator has set. This limit holds even if a request slips past the filters.
//!
//! A token is requested when a request needs it, once for all requests that need the same token. A token is replaced
//! five minutes before it expires. A container without repositories gets no token: to GitHub, an empty list would mean
//! all repositories.
//!
//! **Invariant:** a token with more rights than requested is not used.

mod answer;
mod jwt;
mod settings;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use hyper::Method;
use hyper::header::{AUTHORIZATION, HeaderValue};
use jiff::{SignedDuration, Timestamp};
use secrecy::SecretString;
use serde_json::json;
use tokio::time::Instant;

pub use settings::{Raw, Settings};

use self::answer::Token;
use super::{Subject, Unavailable};
use base::backoff::Backoff;
use outbound::https::{Answer, Client};

/// How long before its expiry a token is replaced. If the replacement fails, the token is used until it expires.
const EARLY: SignedDuration = SignedDuration::from_mins(5);

/// How long a request waits for a token: less than Envoy's timeout for the gateway (5 s), so that the gateway responds.
const WAIT: Duration = Duration::from_secs(4);

/// The pause after a failure to get a token.
const RETRIES: Backoff = Backoff { first: Duration::from_secs(5), last: Duration::from_secs(60) };

/// The number of cached tokens. If the cache is full, the least recently used token is removed.
const MAX_TOKENS: usize = 4_096;

/// GitHub's limit for the repositories of one token.
const MAX_REPOSITORIES: usize = 500;

/// How long an owner's installation is cached.
const KEEP: Duration = Duration::from_secs(3_600);

/// How long a failure is reported to the operator if no request meets it again.
const CONCERN: Duration = Duration::from_secs(600);

/// An App, and its tokens.
#[derive(Debug)]
pub struct App {
    settings: Settings,
    github: OnceLock<Arc<Client>>,
    slots: Mutex<HashMap<Key, (Instant, Arc<Slot>)>>,
    installations: Mutex<HashMap<String, (u64, Instant)>>,
}

/// The key of a token: the repositories of one owner, in lower case, sorted. An App has one installation at the owner,
/// and one set of permissions for all tokens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Key {
    owner: String,
    names: Vec<String>,
}

/// The cache entry of one token.
#[derive(Debug, Default)]
struct Slot {
    /// Held during a request to GitHub.
    flight: tokio::sync::Mutex<()>,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    token: Option<(Arc<SecretString>, Timestamp)>,
    failure: Option<Failure>,
}

#[derive(Debug)]
struct Failure {
    problem: String,
    at: Instant,
    /// Failures in a row.
    failures: u32,
}

/// A token, or the reason why there is no token.
type Told = Result<Arc<SecretString>, Unavailable>;

impl App {
    /// The App with these settings. Requests to GitHub need [`App::reach`] first.
    pub fn new(settings: Settings) -> Self {
        let (github, slots, installations) = Default::default();
        Self { settings, github, slots, installations }
    }

    /// The App's settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Sets the client for requests to GitHub.
    pub fn reach(&self, github: &Arc<Client>) {
        // A second client has the same destination, so the first is kept.
        self.github.get_or_init(|| Arc::clone(github));
    }

    /// The token for the repositories of `subject` at one owner: the owner of the request's repository, or else of the
    /// container's first repository.
    ///
    /// # Errors
    /// If there is no token.
    pub async fn value(self: &Arc<Self>, subject: Option<Subject<'_>>) -> Told {
        let key = subject.and_then(Key::of).ok_or(Unavailable::NoRepository)?;
        let slot = self.slot(&key)?;
        if let Some(told) = slot.settled(Timestamp::now()) {
            return told;
        }
        let (app, its) = (Arc::clone(self), Arc::clone(&slot));
        // The task continues if the request that started it is cancelled.
        let flight = tokio::spawn(async move {
            let _only = its.flight.lock().await;
            if let Some(told) = its.settled(Timestamp::now()) {
                return told;
            }
            let minted = app.mint(&key).await;
            its.keep(minted, &key, Timestamp::now())
        });
        match tokio::time::timeout(WAIT, flight).await {
            Ok(Ok(told)) => told,
            Ok(Err(error)) => {
                tracing::error!(%error, "BUG: a request for a GitHub App's token panicked");
                Err(Unavailable::Failed)
            }
            Err(_) => slot.good(Timestamp::now()),
        }
    }

    /// The current problem with the key, or else the problem of a recent request to GitHub.
    pub fn problem(&self) -> Option<String> {
        if let Err(problem) = jwt::key(&self.settings.key) {
            return Some(problem);
        }
        let slots = locked(&self.slots);
        let failing = slots.iter().filter_map(|(key, (_, slot))| {
            let known = locked(&slot.known);
            let failure = known.failure.as_ref().filter(|failure| failure.at.elapsed() < CONCERN)?;
            Some((key, failure.problem.clone()))
        });
        failing.min().map(|(_, problem)| problem)
    }

    fn slot(&self, key: &Key) -> Result<Arc<Slot>, Unavailable> {
        let mut slots = locked(&self.slots);
        if slots.len() >= MAX_TOKENS && !slots.contains_key(key) {
            // A slot for which a request waits is kept.
            let unused = slots.iter().filter(|(_, (_, slot))| Arc::strong_count(slot) == 1);
            let oldest = unused.min_by_key(|(_, (used, _))| *used).map(|(key, _)| key.clone());
            slots.remove(&oldest.ok_or(Unavailable::Failed)?);
        }
        Ok(match slots.entry(key.clone()) {
            Entry::Occupied(mut found) => {
                found.get_mut().0 = Instant::now();
                Arc::clone(&found.get().1)
            }
            Entry::Vacant(free) => Arc::clone(&free.insert((Instant::now(), Arc::default())).1),
        })
    }

    /// Requests a token from GitHub.
    async fn mint(&self, key: &Key) -> Result<Token, String> {
        if key.names.len() > MAX_REPOSITORIES {
            return Err(format!("{} has more than {MAX_REPOSITORIES} repositories in one record", key.owner));
        }
        let jwt = self.authorization().await?;
        let installation = match self.settings.installation {
            Some(number) => number.get(),
            None => self.installation(key, &jwt).await?,
        };
        let permissions = &self.settings.permissions;
        let body = json!({ "repositories": key.names, "permissions": permissions }).to_string();
        let path = format!("/app/installations/{installation}/access_tokens");
        let answer = self.call(Method::POST, &path, jwt, body).await?;
        if answer.status == 404 {
            // The App may have been installed again, with another number.
            locked(&self.installations).remove(&key.owner);
        }
        answer::token(&answer, key, permissions, Timestamp::now())
    }

    /// The number of the App's installation at the owner of `key`.
    async fn installation(&self, key: &Key, jwt: &HeaderValue) -> Result<u64, String> {
        let known = locked(&self.installations).get(&key.owner).copied();
        if let Some((number, _)) = known.filter(|(_, at)| at.elapsed() < KEEP) {
            return Ok(number);
        }
        let name = key.names.first().ok_or("BUG: a token for no repository")?;
        let path = format!("/repos/{}/{name}/installation", key.owner);
        let answer = self.call(Method::GET, &path, jwt.clone(), String::new()).await?;
        let number = answer::installation(&answer, &key.owner)?;
        let mut installations = locked(&self.installations);
        if installations.len() >= MAX_TOKENS {
            installations.clear();
        }
        installations.insert(key.owner.clone(), (number, Instant::now()));
        Ok(number)
    }

    async fn call(&self, method: Method, path: &str, jwt: HeaderValue, body: String) -> Result<Answer, String> {
        let github = self.github.get().ok_or("BUG: the App has no client for GitHub yet")?;
        let answer = github.call(method, path, [(AUTHORIZATION, jwt)], body.into()).await;
        answer.map_err(|error| error.to_string())
    }

    /// The header for the App's own requests. The key is read and used on a blocking thread, so that other requests are
    /// not delayed.
    async fn authorization(&self) -> Result<HeaderValue, String> {
        let (id, key) = (self.settings.id.clone(), self.settings.key.clone());
        let signed = tokio::task::spawn_blocking(move || jwt::authorization(&id, &key, Timestamp::now()));
        signed.await.unwrap_or_else(|_| Err("BUG: signing panicked".into()))
    }
}

impl Key {
    /// The key of the token for `subject`. `None` if the container has no repositories, or not the request's
    /// repository.
    fn of(subject: Subject<'_>) -> Option<Self> {
        let Subject { container, repo } = subject;
        if repo.is_some_and(|repo| !container.repos.contains(repo)) {
            return None;
        }
        let owner = repo.or(container.repos.first())?.owner();
        let own = container.repos.iter().filter(|repo| repo.owner().eq_ignore_ascii_case(owner));
        let mut names: Vec<String> = own.map(|repo| repo.name().to_ascii_lowercase()).collect();
        names.sort_unstable();
        names.dedup();
        Some(Self { owner: owner.to_ascii_lowercase(), names })
    }

    /// Whether the repository `full_name`, as `owner/name`, is in the key.
    fn has(&self, full_name: &str) -> bool {
        full_name.split_once('/').is_some_and(|(owner, name)| {
            owner.eq_ignore_ascii_case(&self.owner) && self.names.contains(&name.to_ascii_lowercase())
        })
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.owner, self.names.first().map_or("", String::as_str))?;
        match self.names.len() {
            0 | 1 => Ok(()),
            more => write!(f, " and {} more", more - 1),
        }
    }
}

impl Slot {
    /// The cached result: a token that is valid for long enough, or a recent failure. `None` if a request to GitHub is
    /// due.
    fn settled(&self, now: Timestamp) -> Option<Told> {
        let known = locked(&self.known);
        if let Some((token, until)) = &known.token
            && now.duration_until(*until) > EARLY
        {
            return Some(Ok(Arc::clone(token)));
        }
        let failed =
            known.failure.as_ref().is_some_and(|failure| failure.at.elapsed() < RETRIES.pause(failure.failures));
        drop(known);
        failed.then(|| self.good(now))
    }

    /// The cached token, until it expires.
    fn good(&self, now: Timestamp) -> Told {
        let known = locked(&self.known);
        let good = known.token.as_ref().filter(|(_, until)| now < *until);
        good.map(|(token, _)| Arc::clone(token)).ok_or(Unavailable::Failed)
    }

    fn keep(&self, minted: Result<Token, String>, key: &Key, now: Timestamp) -> Told {
        let mut known = locked(&self.known);
        // A token that is due for replacement at once would cause a request to GitHub for each use.
        let minted = minted.and_then(|token| {
            if now.duration_until(token.until) > EARLY {
                Ok(token)
            } else {
                Err("GitHub's token expires too soon; check this machine's clock".to_owned())
            }
        });
        match minted {
            Ok(token) => {
                let value = Arc::new(token.value);
                *known = Known { token: Some((Arc::clone(&value), token.until)), failure: None };
                Ok(value)
            }
            Err(problem) => {
                tracing::warn!(%key, problem, "GitHub issued no token of the App for a container");
                let failures = known.failure.as_ref().map_or(0, |last| last.failures).saturating_add(1);
                known.failure = Some(Failure { problem, at: Instant::now(), failures });
                drop(known);
                self.good(now)
            }
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use outbound::https::testing::Server;
    use policy::Container;
    use secrecy::ExposeSecret;
    use serde_json::Value;

    fn settings(yaml: &str) -> Settings {
        let raw: Raw = serde_yaml::from_str(&format!("{{id: 5, key: {}, {yaml}}}", jwt::tests::FIXTURE)).unwrap();
        raw.check("".as_ref()).unwrap()
    }

    fn record(repos: &[&str]) -> Container {
        serde_json::from_value(json!({
            "container_ip": "10.0.0.1", "container_id": "a", "repos": repos, "expires_at": "2100-01-01T00:00:00Z",
        }))
        .unwrap()
    }

    /// GitHub's response to a request for a token with these repositories and permissions.
    fn minted(repos: &[&str], permissions: &Value) -> Value {
        let repositories: Vec<Value> = repos.iter().map(|name| json!({"full_name": name, "id": 1})).collect();
        let until = Timestamp::now() + SignedDuration::from_mins(59);
        let some: Vec<&str> = repos.iter().take(2).copied().collect();
        json!({
            "token": format!("ghs_for_{}", some.join("-").replace('/', "_")), "expires_at": until,
            "permissions": permissions, "repository_selection": "selected", "repositories": repositories,
        })
    }

    /// A stand-in for GitHub. The App's installation has the number 7 at acme and 8 at other.
    fn github(line: &str, body: &str) -> (u16, String) {
        let owner = match line {
            "POST /app/installations/7/access_tokens" => "acme",
            "POST /app/installations/8/access_tokens" => "other",
            "GET /repos/acme/app/installation" => {
                return (200, json!({"id": 7, "account": {"login": "Acme"}}).to_string());
            }
            "GET /repos/other/x/installation" => {
                return (200, json!({"id": 8, "account": {"login": "other"}}).to_string());
            }
            "GET /repos/odd/x/installation" => {
                return (200, json!({"id": 7, "account": {"login": "acme"}}).to_string());
            }
            _ => return (404, String::new()),
        };
        let asked: Value = serde_json::from_str(body).unwrap();
        let names = asked["repositories"].as_array().unwrap().iter();
        let names: Vec<String> = names.map(|name| format!("{owner}/{}", name.as_str().unwrap())).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        (201, minted(&names, &asked["permissions"]).to_string())
    }

    fn app(server: &Server, yaml: &str) -> Arc<App> {
        let app = App::new(settings(yaml));
        app.reach(&Arc::new(server.client(64)));
        Arc::new(app)
    }

    async fn told(app: &Arc<App>, container: &Container, repo: usize) -> Result<String, Unavailable> {
        let subject = Subject { container, repo: container.repos.get(repo) };
        app.value(Some(subject)).await.map(|token| token.expose_secret().to_owned())
    }

    /// An index past the container's repositories: the request has no repository.
    const NONE: usize = usize::MAX;

    #[tokio::test]
    async fn a_token_is_for_exactly_the_repositories_of_one_owner_in_the_record() {
        let server = Server::start(github).await;
        let app = app(&server, "");
        let both = record(&["Acme/App", "other/x", "acme/lib", "ACME/app"]);
        assert_eq!(told(&app, &both, 0).await.unwrap(), "ghs_for_acme_app-acme_lib");
        assert_eq!(told(&app, &both, 2).await.unwrap(), "ghs_for_acme_app-acme_lib");
        assert_eq!(told(&app, &both, 1).await.unwrap(), "ghs_for_other_x");
        assert_eq!(told(&app, &both, NONE).await.unwrap(), "ghs_for_acme_app-acme_lib", "the first one's owner");
        let other = record(&["acme/app"]);
        assert_eq!(told(&app, &other, 0).await.unwrap(), "ghs_for_acme_app");
        assert_eq!(server.asked("GET /repos/acme/app/installation"), 1);
        assert_eq!(server.asked("POST /app/installations/7/access_tokens"), 2, "one for each set");
        assert_eq!(server.asked("POST /app/installations/8/access_tokens"), 1);
    }

    #[tokio::test]
    async fn without_a_repository_of_its_own_nothing_is_asked_for() {
        let server = Server::start(github).await;
        let app = app(&server, "installation: 7");
        assert_eq!(told(&app, &record(&[]), NONE).await, Err(Unavailable::NoRepository));
        assert_eq!(app.value(None).await.map(drop), Err(Unavailable::NoRepository));
        let (own, foreign) = (record(&["acme/app"]), record(&["acme/secret"]));
        let subject = Subject { container: &own, repo: foreign.repos.first() };
        assert_eq!(app.value(Some(subject)).await.map(drop), Err(Unavailable::NoRepository));
        assert!(server.asked.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn an_installation_of_somebody_else_is_not_taken() {
        let server = Server::start(github).await;
        assert_eq!(told(&app(&server, ""), &record(&["odd/x"]), 0).await, Err(Unavailable::Failed));
        assert_eq!(server.asked("POST /app/installations/7/access_tokens"), 0);
        // The installation that the configuration names has a repository of the same name.
        let named = app(&server, "installation: 7");
        assert_eq!(told(&named, &record(&["odd/app"]), 0).await, Err(Unavailable::Failed));
        assert!(named.problem().unwrap().contains("acme/app"), "{:?}", named.problem());
    }

    #[tokio::test]
    async fn many_requests_are_one_question() {
        let server = Server::start(github).await;
        let (app, container) = (app(&server, "installation: 7"), record(&["acme/app"]));
        let all = futures::future::join_all((0..50).map(|_| told(&app, &container, 0))).await;
        assert!(all.iter().all(|token| token.as_deref() == Ok("ghs_for_acme_app")), "{all:?}");
        assert_eq!(server.asked("POST /app/installations/7/access_tokens"), 1);
    }

    #[tokio::test]
    async fn what_can_do_more_than_was_asked_is_not_used() {
        let usual = json!({"contents": "write", "issues": "write", "metadata": "read", "pull_requests": "write"});
        let good = minted(&["acme/app"], &usual);
        let with = |key: &str, value: Value| {
            let mut answer = good.clone();
            answer[key] = value;
            answer
        };
        let without = |key: &str| {
            let mut answer = good.clone();
            answer.as_object_mut().unwrap().remove(key);
            answer
        };
        let permission = |name: &str, level: &str| {
            let mut permissions = usual.clone();
            permissions[name] = level.into();
            with("permissions", permissions)
        };
        let soon = Timestamp::now() + SignedDuration::from_mins(4);
        let cases = [
            (with("repositories", json!([{"full_name": "acme/app"}, {"full_name": "acme/secret"}])), "acme/secret"),
            (with("repositories", json!([{"full_name": "other/app"}])), "other/app"),
            (with("repositories", json!([])), "not for acme/app alone"),
            (with("repository_selection", json!("all")), "not for acme/app alone"),
            (without("repositories"), "not understood"),
            (without("repository_selection"), "not understood"),
            (without("permissions"), "not understood"),
            (without("expires_at"), "not understood"),
            (permission("workflows", "write"), "workflows"),
            (permission("administration", "read"), "administration"),
            (permission("metadata", "write"), "metadata"),
            (permission("contents", "admin"), "contents"),
            (with("token", json!("a b")), "no token"),
            (with("token", json!("")), "no token"),
            (with("expires_at", json!(soon)), "clock"),
        ];
        for (answer, word) in cases {
            let text = answer.to_string();
            let server = Server::start(move |_, _| (201, text.clone())).await;
            let app = app(&server, "installation: 7");
            let container = record(&["acme/app"]);
            assert_eq!(told(&app, &container, 0).await, Err(Unavailable::Failed), "{word}");
            let problem = app.problem().unwrap();
            assert!(problem.contains(word) && !problem.contains("ghs_"), "{problem}");
            assert_eq!(told(&app, &container, 0).await, Err(Unavailable::Failed), "{word}");
            assert_eq!(server.asked("POST /app/installations/7/access_tokens"), 1, "not asked again at once");
        }
        let fewer = with("permissions", json!({"contents": "read", "metadata": "read"})).to_string();
        let server = Server::start(move |_, _| (201, fewer.clone())).await;
        assert!(told(&app(&server, "installation: 7"), &record(&["acme/app"]), 0).await.is_ok(), "less is no harm");
    }

    #[tokio::test]
    async fn a_failure_says_what_to_look_at() {
        for (status, word) in
            [(401, "clock"), (403, "suspended"), (404, "not installed"), (422, "lacks"), (500, "trouble")]
        {
            let server = Server::start(move |_, _| (status, "{}".into())).await;
            let app = app(&server, "installation: 7");
            assert_eq!(told(&app, &record(&["acme/app"]), 0).await, Err(Unavailable::Failed));
            assert!(app.problem().unwrap().contains(word), "{:?}", app.problem());
        }
        let mut broken = settings("");
        broken.key = "/nonexistent/key.pem".into();
        assert!(App::new(broken).problem().unwrap().contains("/nonexistent/key.pem"));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn a_slow_answer_delays_nobody_but_who_needs_it() {
        let server = Server::start(|line, body| {
            if body.contains("slow") {
                tokio::task::block_in_place(|| std::thread::sleep(WAIT + Duration::from_secs(3)));
            }
            github(line, body)
        })
        .await;
        let app = app(&server, "installation: 7");
        let slow = record(&["acme/slow"]);
        let began = Instant::now();
        let waits = async {
            let none = told(&app, &slow, 0).await;
            (none, began.elapsed())
        };
        let others = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            told(&app, &record(&["acme/app"]), 0).await.unwrap();
            began.elapsed()
        };
        let ((none, waited), other) = tokio::join!(waits, others);
        assert_eq!(none, Err(Unavailable::Failed));
        assert!(waited < WAIT + Duration::from_millis(2_500), "{waited:?}");
        assert!(other < Duration::from_secs(2), "{other:?}");
        // The request to GitHub continued without the request that started it.
        assert_eq!(told(&app, &slow, 0).await.unwrap(), "ghs_for_acme_slow");
        assert_eq!(server.asked("POST /app/installations/7/access_tokens"), 2);
    }

    fn key(name: usize) -> Key {
        Key { owner: "acme".into(), names: vec![name.to_string()] }
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_replaced_in_time_and_used_to_its_end() {
        let now = Timestamp::now();
        let after = |minutes: i64| now + SignedDuration::from_mins(minutes);
        let token = |value: &str| Ok(Token { value: value.into(), until: after(60) });
        let text = |told: Told| told.map(|token| token.expose_secret().to_owned());
        let slot = Slot::default();
        assert!(slot.settled(now).is_none());
        assert_eq!(text(slot.keep(token("one"), &key(1), now)).unwrap(), "one");
        assert_eq!(text(slot.settled(after(54)).unwrap()).unwrap(), "one");
        assert!(slot.settled(after(55)).is_none(), "it is to be replaced");
        assert_eq!(text(slot.keep(Err("not now".into()), &key(1), after(56))).unwrap(), "one", "it is good still");
        assert_eq!(text(slot.settled(after(57)).unwrap()).unwrap(), "one");
        assert_eq!(slot.settled(after(60)).unwrap().map(drop), Err(Unavailable::Failed));
        // The pauses grow: 5, 10, 20, 40, 60, 60 seconds.
        for pause in [5, 10, 20, 40, 60, 60] {
            tokio::time::advance(Duration::from_secs(pause) - Duration::from_millis(1)).await;
            assert!(slot.settled(after(60)).is_some(), "{pause}");
            tokio::time::advance(Duration::from_millis(1)).await;
            assert!(slot.settled(after(60)).is_none(), "{pause}");
            slot.keep(Err("not now".into()), &key(1), after(60)).map(drop).unwrap_err();
        }
        let again = Ok(Token { value: "two".into(), until: after(120) });
        assert_eq!(text(slot.keep(again, &key(1), after(61))).unwrap(), "two");
        assert!(locked(&slot.known).failure.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn tokens_have_a_limit_and_what_is_used_stays() {
        let app = App::new(settings(""));
        let waited_for = app.slot(&key(0)).unwrap();
        for number in 1..MAX_TOKENS + 100 {
            tokio::time::advance(Duration::from_millis(1)).await;
            app.slot(&key(number)).unwrap();
            app.slot(&key(1)).unwrap();
        }
        let slots = locked(&app.slots);
        assert_eq!(slots.len(), MAX_TOKENS);
        assert!(slots.contains_key(&key(1)) && !slots.contains_key(&key(2)));
        assert!(Arc::ptr_eq(&slots[&key(0)].1, &waited_for), "somebody waits for it");
    }

    #[tokio::test]
    async fn a_record_with_too_many_repositories_has_no_token() {
        let server = Server::start(github).await;
        let app = app(&server, "installation: 7");
        for (count, expected) in [(MAX_REPOSITORIES, true), (MAX_REPOSITORIES + 1, false)] {
            let names: Vec<String> = (0..count).map(|number| format!("acme/r{number}")).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            assert_eq!(told(&app, &record(&names), 0).await.is_ok(), expected, "{count}");
        }
    }
}
