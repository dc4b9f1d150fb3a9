//! Completes the repositories of registrations with GitHub's number and the default branch, which a registration may
//! leave out.
//!
//! The task follows the registry. It looks up each incomplete repository by its name. A response counts only if the
//! repository still has that name. The result is written into every record with the repository, and the records keep
//! their generations. Expired records are ignored, and without a credential no call is made.
//!
//! **Invariant:** a number or a default branch that a record has is never replaced. The gateway's knowledge of a default
//! branch is as old as the record; `doctor` compares the record with GitHub.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use policy::{Container, Repo};
use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, timeout_at};

use super::client::{ApiResponse, Client, Error};
use base::backoff::Backoff;
use base::problems::Problems;
use base::telemetry::GithubCall;
use credentials::Subject;
use registry::{Change, Registry};

/// How long a response is cached.
const KEEP: Duration = Duration::from_secs(3_600);
/// The most cached responses. Beyond this number the cache is cleared.
const KEPT: usize = 10_000;
/// The pauses after failures. The last pause also follows a response that is unlikely to change.
const RETRIES: Backoff = Backoff { first: Duration::from_secs(1), last: Duration::from_secs(60) };
/// The number of consecutive failures that stands for the last pause.
const FOR_LONG: u32 = u32::MAX;
/// The shortest pause after a new registration. A new registration shortens the pause, because the operator may have
/// repaired the cause.
const AGAIN: Duration = Duration::from_secs(5);
/// The most lookups at a time, so that the calls of `confirm` are not delayed.
const FLIGHTS: usize = 2;
/// The most repositories that `/readyz` names.
const NAMED: usize = 5;

/// The name of this task in `/readyz`.
const ABOUT: &str = "github";

/// GitHub's data on a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    id: u64,
    default_branch: String,
}

/// Why a lookup failed.
#[derive(Debug)]
enum Failure {
    /// The lookup may succeed later.
    Later(Error),
    /// GitHub responded, but not with a repository.
    Refused(String),
}

/// A repository whose number or default branch is missing in some record.
#[derive(Debug)]
struct Wanted {
    repo: Repo,
    /// The time of the next lookup. `None` while a lookup is under way.
    due: Option<Instant>,
    /// The earliest time of the next lookup.
    earliest: Instant,
    /// The number of consecutive failures.
    failures: u32,
    problem: Option<String>,
}

/// The view of the API on the lookups.
#[derive(Clone, Debug)]
pub struct Lookups {
    registry: Arc<Registry>,
    failed: watch::Receiver<BTreeMap<String, String>>,
}

/// A repository that GitHub has not confirmed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unconfirmed {
    /// `owner/name`.
    pub repo: String,
    /// The reason.
    pub problem: String,
}

impl Lookups {
    /// The repositories of the record at `address` that GitHub has not confirmed. Waits for `patience` at most until each
    /// lookup has an outcome. `None` if there is no record.
    pub async fn unconfirmed(&self, address: IpAddr, patience: Duration) -> Option<Vec<Unconfirmed>> {
        let mut failed = self.failed.clone();
        let until = Instant::now() + patience;
        loop {
            let record = self.registry.lookup(address).1?;
            let lacking = record.repos.iter().filter(|repo| lacks(repo));
            let outcomes: Vec<(&Repo, Option<String>)> = {
                let failed = failed.borrow_and_update();
                lacking.map(|repo| (repo, failed.get(&key(repo)).cloned())).collect()
            };
            let open = outcomes.iter().any(|(_, problem)| problem.is_none());
            // An error of the channel means that the task has ended.
            if open && matches!(timeout_at(until, failed.changed()).await, Ok(Ok(()))) {
                continue;
            }
            let problem = |problem: Option<String>| problem.unwrap_or_else(|| "GitHub has not answered yet".to_owned());
            let row = |(repo, why): (&Repo, _)| Unconfirmed { repo: repo.to_string(), problem: problem(why) };
            return Some(outcomes.into_iter().map(row).collect());
        }
    }
}

/// The task.
#[derive(Debug)]
pub struct Ids {
    registry: Arc<Registry>,
    client: Arc<Client>,
    problems: Problems,
    changes: broadcast::Receiver<(u64, Change)>,
    /// The cached data and its time, by the name in lower case, as in `wanted`.
    known: HashMap<String, (Known, Instant)>,
    wanted: BTreeMap<String, Wanted>,
    flights: JoinSet<(String, Result<Known, Failure>)>,
    /// The reasons of the last failures, for [`Lookups`]. A lookup without an outcome has no entry.
    failed: watch::Sender<BTreeMap<String, String>>,
}

impl Ids {
    /// A task that completes the records of `registry` with calls of `client`.
    pub fn new(registry: Arc<Registry>, client: Arc<Client>, problems: Problems) -> Self {
        let changes = registry.changes();
        let (known, wanted, flights, failed) = Default::default();
        Self { registry, client, problems, changes, known, wanted, flights, failed }
    }

    /// The view of the API.
    pub fn lookups(&self) -> Lookups {
        Lookups { registry: Arc::clone(&self.registry), failed: self.failed.subscribe() }
    }

    /// Runs until `stop` is true or dropped.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let stopped = async { drop(stop.wait_for(|stop| *stop).await) };
        tokio::select! {
            () = stopped => {}
            () = self.follow() => {}
        }
    }

    /// Runs until the registry is dropped.
    async fn follow(mut self) {
        self.look_at_all();
        loop {
            self.serve().await;
            let next = self.next();
            tokio::select! {
                change = self.changes.recv() => match change {
                    Ok((_, Change::Upsert(record))) => self.look_at(&record),
                    Ok((_, Change::Remove(_) | Change::Policy(_))) => {}
                    Err(broadcast::error::RecvError::Lagged(_)) => self.look_at_all(),
                    Err(broadcast::error::RecvError::Closed) => return,
                },
                Some(landed) = self.flights.join_next() => self.landed(landed).await,
                () = until(next) => {}
            }
        }
    }

    fn look_at_all(&mut self) {
        for record in self.registry.list() {
            self.look_at(&record);
        }
    }

    /// Schedules lookups for the incomplete repositories of `record`.
    fn look_at(&mut self, record: &Container) {
        if record.expired(Timestamp::now()) {
            return;
        }
        for repo in record.repos.iter().filter(|repo| lacks(repo)) {
            let now = Instant::now();
            let (failures, problem) = (0, None);
            let new = || Wanted { repo: repo.clone(), due: Some(now), earliest: now, failures, problem };
            let wanted = self.wanted.entry(key(repo)).or_insert_with(new);
            // A lookup was made already, for another record or for one that this record replaces.
            wanted.due = wanted.due.map(|due| due.min(wanted.earliest.max(now)));
            wanted.repo = repo.clone();
            if wanted.due.is_some_and(|due| due <= now) {
                self.failed.send_if_modified(|failed| failed.remove(&key(repo)).is_some());
            }
        }
    }

    /// The time of the next lookup. `None` if no lookup is due, or if no further lookup may start.
    fn next(&self) -> Option<Instant> {
        self.wanted.values().filter_map(|wanted| wanted.due).min().filter(|_| self.flights.len() < FLIGHTS)
    }

    /// Handles all due repositories, from the cache or with a lookup.
    async fn serve(&mut self) {
        let now = Instant::now();
        self.known.retain(|_, (_, at)| at.elapsed() < KEEP);
        let due = |wanted: &Wanted| wanted.due.is_some_and(|due| due <= now);
        let keys: Vec<String> = self.wanted.iter().filter(|(_, w)| due(w)).map(|(key, _)| key.clone()).collect();
        for key in keys {
            let known = self.known.get(&key).map(|(known, _)| known.clone());
            let Some(wanted) = self.wanted.get_mut(&key) else { continue };
            if let Some(known) = known {
                let repo = wanted.repo.clone();
                self.fill(&key, &repo, &known).await;
                continue;
            }
            let Some(record) = self.registry.list().into_iter().find(|record| wants(record, &wanted.repo)) else {
                self.forget(&key);
                continue;
            };
            if self.flights.len() < FLIGHTS {
                wanted.due = None;
                let (client, repo) = (Arc::clone(&self.client), wanted.repo.clone());
                self.flights.spawn(async move { (key, ask(&client, &record, &repo).await) });
            }
        }
    }

    async fn landed(&mut self, landed: Result<(String, Result<Known, Failure>), JoinError>) {
        let (key, outcome) = match landed {
            Ok(landed) => landed,
            Err(error) => {
                // The repository is unknown, so all lookups under way are repeated.
                tracing::error!(%error, "BUG: a question to GitHub panicked");
                let later = Instant::now() + RETRIES.last;
                self.wanted.values_mut().for_each(|wanted| wanted.due = wanted.due.or(Some(later)));
                return;
            }
        };
        let Some(wanted) = self.wanted.get(&key) else { return };
        match outcome {
            Ok(known) => {
                let repo = wanted.repo.clone();
                if self.known.len() >= KEPT {
                    self.known.clear();
                }
                self.known.insert(key.clone(), (known.clone(), Instant::now()));
                self.fill(&key, &repo, &known).await;
            }
            Err(Failure::Refused(why)) => self.later(&key, FOR_LONG, why, true),
            Err(Failure::Later(error)) => {
                let failures = wanted.failures.saturating_add(1);
                tracing::info!(repo = %wanted.repo, %error, "a repository could not be looked up");
                // A missing credential is reported elsewhere, and a short failure is not a problem to report.
                let told = RETRIES.pause(failures) >= RETRIES.last && !matches!(error, Error::NoCredential(_));
                self.later(&key, failures, error.to_string(), told);
            }
        }
    }

    /// Writes the data into every record that lacks it.
    async fn fill(&mut self, key: &str, repo: &Repo, known: &Known) {
        let mut problem = None;
        for record in self.registry.list().into_iter().filter(|record| wants(record, repo)) {
            if let Some(other) = record.repos.iter().find(|have| *have == repo).and_then(Repo::id)
                && other != known.id
            {
                let id = &record.container_id;
                problem = Some(format!("{id} is registered with number {other}, GitHub says {}", known.id));
                continue;
            }
            let (repo, known) = (repo.clone(), known.clone());
            if let Err(error) = self.registry.annotate(record.container_ip, move |now| noted(now, &repo, &known)).await
            {
                problem = Some(format!("it cannot be stored: {error}"));
            }
        }
        match problem {
            Some(problem) => self.later(key, FOR_LONG, problem, true),
            None => self.forget(key),
        }
    }

    /// Schedules the next lookup after a failure. `told` says whether `/readyz` reports the reason.
    fn later(&mut self, key: &str, failures: u32, why: String, told: bool) {
        let Some(wanted) = self.wanted.get_mut(key) else { return };
        let now = Instant::now();
        self.failed.send_modify(|failed| drop(failed.insert(key.to_owned(), why.clone())));
        let problem = told.then_some(why);
        wanted.due = Some(now + RETRIES.spread(failures, rand::random()));
        wanted.earliest = now + AGAIN;
        wanted.failures = failures;
        if problem != wanted.problem {
            if let Some(problem) = &problem {
                tracing::warn!(repo = %wanted.repo, problem, "a repository cannot be looked up at GitHub");
            }
            wanted.problem = problem;
            self.report();
        }
    }

    fn forget(&mut self, key: &str) {
        if self.wanted.remove(key).is_some_and(|wanted| wanted.problem.is_some()) {
            self.report();
        }
        // Without a failure, too: the repository is known now.
        self.failed.send_modify(|failed| drop(failed.remove(key)));
    }

    fn report(&self) {
        let all: Vec<String> = self
            .wanted
            .values()
            .filter_map(|wanted| Some(format!("{}: {}", wanted.repo, wanted.problem.as_ref()?)))
            .collect();
        let named = all.iter().take(NAMED).cloned().collect::<Vec<_>>().join("; ");
        let more = all.len().saturating_sub(NAMED);
        let list = if more > 0 { format!("{named}; and {more} more") } else { named };
        let problem = format!("repositories that cannot be looked up: {list}");
        self.problems.set(ABOUT, (!all.is_empty()).then_some(problem));
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// A repository's name in lower case, because GitHub ignores letter case.
fn key(repo: &Repo) -> String {
    repo.to_string().to_ascii_lowercase()
}

fn lacks(repo: &Repo) -> bool {
    repo.id().is_none() || repo.default_branch().is_none()
}

/// Whether `record` is not expired, and has `repo` without its number or default branch.
fn wants(record: &Container, repo: &Repo) -> bool {
    !record.expired(Timestamp::now()) && record.repos.iter().any(|have| have == repo && lacks(have))
}

/// `record` with the data on `repo`. Returns `None` if that adds nothing.
fn noted(record: &Container, repo: &Repo, known: &Known) -> Option<Container> {
    let mut changed = record.clone();
    let mut more = false;
    for have in changed.repos.iter_mut().filter(|have| *have == repo && have.id().is_none_or(|id| id == known.id)) {
        let full = have.clone().known(known.id, &known.default_branch);
        more |= (full.id(), full.default_branch()) != (have.id(), have.default_branch());
        *have = full;
    }
    more.then_some(changed)
}

/// Looks up `repo`, a repository of `record`.
async fn ask(client: &Client, record: &Container, repo: &Repo) -> Result<Known, Failure> {
    let subject = Subject { container: record, repo: Some(repo) };
    // A repository's name contains only characters that are allowed in a path.
    let answer = client.get(GithubCall::Repository, Some(subject), &format!("/repos/{repo}")).await;
    let answer = answer.map_err(Failure::Later)?;
    read(repo, &answer)
}

/// The parsed fields of a repository.
#[derive(Deserialize)]
struct Raw {
    id: u64,
    full_name: String,
    default_branch: String,
}

fn read(repo: &Repo, answer: &ApiResponse) -> Result<Known, Failure> {
    let refused = |why: &str| Err(Failure::Refused(why.to_owned()));
    match answer.status {
        200 => {}
        301 | 307 | 308 => return refused("it has another name now; register it by that"),
        401 => return refused("GitHub does not take the gateway's token"),
        404 => return refused("there is none of that name, or the gateway's token may not see it"),
        status => return Err(Failure::Later(Error::Status(status))),
    }
    let Ok(raw) = serde_json::from_slice::<Raw>(&answer.body) else {
        return refused("GitHub's answer is not understood");
    };
    if raw.full_name.eq_ignore_ascii_case(&repo.to_string()) {
        Ok(Known { id: raw.id, default_branch: raw.default_branch })
    } else {
        refused("GitHub answers with a repository of another name")
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::super::testing::Rig;
    use super::*;
    use serde_json::json;

    fn record(last: u8, repos: serde_json::Value) -> Container {
        serde_json::from_value(json!({
            "container_ip": format!("10.0.0.{last}"), "container_id": "a", "repos": repos,
            "expires_at": "2100-01-01T00:00:00Z",
        }))
        .unwrap()
    }

    fn repository(name: &str, id: u64) -> (u16, String) {
        (200, json!({"id": id, "full_name": name, "default_branch": "main", "private": true}).to_string())
    }

    struct Running {
        rig: Rig,
        lookups: Lookups,
        stop: watch::Sender<bool>,
        task: tokio::task::JoinHandle<()>,
    }

    impl Running {
        fn of(rig: Rig) -> Self {
            let ids = Ids::new(Arc::clone(&rig.registry), Arc::clone(&rig.client), rig.problems.clone());
            let (stop, stopped) = watch::channel(false);
            Self { rig, lookups: ids.lookups(), stop, task: tokio::spawn(ids.run(stopped)) }
        }

        /// Waits until `met` returns true for the record at `last`, and returns the record.
        async fn once(&self, last: u8, met: impl Fn(&Container) -> bool) -> Arc<Container> {
            let until = Instant::now() + Duration::from_secs(10);
            loop {
                let found = self.rig.registry.lookup(IpAddr::from([10, 0, 0, last])).1.unwrap();
                if met(&found) {
                    return found;
                }
                assert!(Instant::now() < until, "{found:?}");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }

        async fn end(self) {
            self.stop.send_replace(true);
            tokio::time::timeout(Duration::from_secs(5), self.task).await.unwrap().unwrap();
        }
    }

    fn full(record: &Container) -> bool {
        !record.repos.iter().any(lacks)
    }

    #[tokio::test]
    async fn numbers_are_looked_up_once_and_written_where_they_lack() {
        let rig = Rig::start(|line, _| repository(line.strip_prefix("GET /repos/").unwrap(), 7)).await;
        rig.registry.put(record(1, json!(["Acme/App"]))).await.unwrap();
        let running = Running::of(rig);
        let registry = &running.rig.registry;
        let before =
            registry.put(record(2, json!(["acme/app", {"name": "acme/own", "id": 3, "default_branch": "x"}]))).await;
        let generation = before.unwrap().0.generation;
        for last in [1, 2] {
            let found = running.once(last, full).await;
            assert_eq!((found.repos[0].id(), found.repos[0].default_branch()), (Some(7), Some("main")));
        }
        let found = running.once(2, full).await;
        assert_eq!((found.generation, found.repos[1].id()), (generation, Some(3)));
        registry.put(record(3, json!(["ACME/app"]))).await.unwrap();
        running.once(3, full).await;
        let asked = running.rig.asked.lock().unwrap().clone();
        assert_eq!(asked.len(), 1, "{asked:?}");
        running.end().await;
    }

    #[tokio::test]
    async fn what_github_refuses_is_told_and_a_failure_is_asked_again() {
        let rig = Rig::start({
            let failures = std::sync::atomic::AtomicU32::new(0);
            move |line, _| match line {
                "GET /repos/acme/late" if failures.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0 => {
                    (503, String::new())
                }
                "GET /repos/acme/late" => repository("acme/late", 9),
                _ => (404, "{}".into()),
            }
        })
        .await;
        let running = Running::of(rig);
        running.rig.registry.put(record(1, json!(["acme/none"]))).await.unwrap();
        running.rig.registry.put(record(2, json!(["acme/late"]))).await.unwrap();
        running.once(2, full).await;
        assert_eq!(running.rig.asked("GET /repos/acme/late"), 2);
        assert_eq!(running.rig.asked("GET /repos/acme/none"), 1, "again in a minute");
        let told = running.rig.problems.list();
        assert!(told.len() == 1 && told[0].contains("acme/none: there is none of that name"), "{told:?}");
        running.end().await;
    }

    /// A GitHub that answers at some later time.
    const LONG: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn whoever_registers_hears_of_a_repository_that_github_does_not_have() {
        let rig = Rig::start(|line, _| match line {
            "GET /repos/acme/app" => repository("acme/app", 7),
            "GET /repos/acme/down" => (503, String::new()),
            _ => (404, "{}".into()),
        })
        .await;
        let running = Running::of(rig);
        let told = async |last: u8, repos: serde_json::Value, patience: Duration| {
            running.rig.registry.put(record(last, repos)).await.unwrap();
            let told = running.lookups.unconfirmed(IpAddr::from([10, 0, 0, last]), patience).await.unwrap();
            told.into_iter().map(|Unconfirmed { repo, problem }| format!("{repo}: {problem}")).collect::<Vec<_>>()
        };
        let misspelt =
            told(1, json!(["acme/app", "acme/ap", {"name": "x/y", "id": 1, "default_branch": "z"}]), LONG).await;
        assert_eq!(misspelt, ["acme/ap: there is none of that name, or the gateway's token may not see it"]);
        assert!(told(2, json!(["acme/app"]), LONG).await.is_empty());
        assert!(told(3, json!(["acme/down"]), LONG).await[0].contains("status 503"));
        assert_eq!(running.lookups.unconfirmed("10.0.0.9".parse().unwrap(), LONG).await, None);
        // A task that does not run, so that no lookup has an outcome.
        let Rig { registry, client, problems, .. } = &running.rig;
        let idle = Ids::new(Arc::clone(registry), Arc::clone(client), problems.clone());
        let waited = idle.lookups().unconfirmed(IpAddr::from([10, 0, 0, 3]), Duration::ZERO).await.unwrap();
        assert_eq!(waited[0].problem, "GitHub has not answered yet");
        running.end().await;
    }

    #[tokio::test]
    async fn a_number_that_was_registered_is_never_replaced() {
        let rig = Rig::start(|_, _| repository("acme/app", 7)).await;
        let running = Running::of(rig);
        running.rig.registry.put(record(1, json!([{"name": "acme/app", "id": 8}]))).await.unwrap();
        running.rig.registry.put(record(2, json!([{"name": "acme/app", "id": 7}]))).await.unwrap();
        running.once(2, full).await;
        let until = Instant::now() + Duration::from_secs(5);
        while running.rig.problems.list().is_empty() && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let told = running.rig.problems.list();
        assert!(told[0].contains("a is registered with number 8, GitHub says 7"), "{told:?}");
        let kept = running.once(1, |_| true).await;
        assert_eq!((kept.repos[0].id(), kept.repos[0].default_branch()), (Some(8), None));
        running.end().await;
    }

    #[test]
    fn only_a_repository_of_that_very_name_is_taken() {
        let repo = Repo::parse("acme/app").unwrap();
        let read =
            |status, body: &str| read(&repo, &ApiResponse { status, body: body.to_owned().into(), scopes: None });
        let good = json!({"id": 7, "full_name": "Acme/APP", "default_branch": "trunk"});
        assert_eq!(read(200, &good.to_string()).unwrap(), Known { id: 7, default_branch: "trunk".into() });
        let renamed = json!({"id": 7, "full_name": "acme/other", "default_branch": "trunk"});
        for (status, body) in [
            (200, renamed.to_string()),
            (301, String::new()),
            (401, String::new()),
            (404, String::new()),
            (200, "{}".into()),
        ] {
            assert!(matches!(read(status, &body), Err(Failure::Refused(_))), "{status} {body}");
        }
        for status in [403, 429, 500, 502] {
            assert!(matches!(read(status, ""), Err(Failure::Later(_))), "{status}");
        }
    }

    #[test]
    fn what_is_known_goes_to_its_own_repository_alone() {
        let (repo, known) = (Repo::parse("acme/app").unwrap(), Known { id: 7, default_branch: "main".into() });
        let more = noted(&record(1, json!(["acme/else", "Acme/App"])), &repo, &known).unwrap();
        assert_eq!(more.repos.iter().map(Repo::id).collect::<Vec<_>>(), [None, Some(7)]);
        assert_eq!(noted(&more, &repo, &known), None);
        assert_eq!(noted(&record(1, json!(["acme/else"])), &repo, &known), None);
        // An invalid name of a default branch does not cause repeated lookups.
        let odd = Known { id: 7, default_branch: "a..b".into() };
        let once = noted(&record(1, json!(["acme/app"])), &repo, &odd).unwrap();
        assert_eq!(noted(&once, &repo, &odd), None);
    }
}
