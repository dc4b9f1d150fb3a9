//! Facts about a push that only GitHub knows: the current objects of refs, and which commits descend from which.
//!
//! The push filter calls this while the pack streams. The service returns facts and allows nothing. If GitHub does not
//! provide the facts, the call fails, and with it the push. Refs are read each time, all refs of a push by one query. A
//! proof of descent is cached: it stays true forever, because a commit's id is a hash over its parents' ids. The opposite
//! is not cached, because GitHub may just not know one of the commits yet.
//!
//! **Invariant:** a push costs one query, at most one comparison that says yes for each ref, and at most [`MAX_NO`]
//! comparisons that say no over all its refs.

mod compare;
mod refs;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::future::try_join_all;
use policy::push::MAX_REFS;
use policy::{Container, Repo};
use push::{MAX_BOUNDARY, MAX_NO, Oid};
use registry_proto::address_of;
use registry_proto::push::push_server::{Push as Service, PushServer};
use registry_proto::push::{
    self as wire, DescendsRequest, DescendsResponse, Descent, ReadRefsRequest, ReadRefsResponse, Ref,
};
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};

use self::compare::ahead;
use super::client::{Client, Error};
use super::recent::Recent;
use base::telemetry::GithubCall;
use credentials::Subject;
use credentials::budget::Limited;
use registry::Registry;

/// The service.
#[derive(Debug)]
pub struct Push {
    registry: Arc<Registry>,
    client: Arc<Client>,
    descents: Mutex<Recent<Ancestry>>,
}

/// A commit that descends from `ancestor`, according to GitHub. Each container pays for its own proofs, so that none can
/// push those of the others out of the cache.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Ancestry {
    /// The repository in lower case.
    repo: String,
    ancestor: Oid,
    commit: Oid,
}

/// The target of a push: the container and the repository.
#[derive(Debug)]
struct Target {
    container: Arc<Container>,
    repo: Repo,
}

/// A ref, and the object that a push claims for it.
#[derive(Debug)]
struct Claim {
    name: String,
    object: Option<Oid>,
}

/// The question whether one of `commits` is `ancestor` or descends from it.
#[derive(Debug)]
struct Question {
    ancestor: Oid,
    commits: Vec<Oid>,
}

/// The comparisons of one push that may still say no.
#[derive(Debug)]
struct Doubts {
    /// A permit for each, and one for each comparison under way. Closed when GitHub has said no [`MAX_NO`] times.
    turns: Semaphore,
    no: AtomicUsize,
}

/// Why a question has no answer.
#[derive(Debug)]
enum Stop {
    /// GitHub has not provided the facts. The push filter refuses with 503.
    NotNow(Status),
    /// A limit of the container refuses a call. The push filter refuses with 429.
    Limited(Limited),
}

impl Stop {
    fn of(repo: &Repo, error: Error) -> Self {
        match error {
            Error::Limited(limited) => Self::Limited(limited),
            error => not_now(repo, &error.to_string()),
        }
    }

    /// The limit, for the response.
    ///
    /// # Errors
    /// If there is no limit.
    fn limited(self) -> Result<Option<wire::Limited>, Status> {
        match self {
            Self::Limited(limited) => Ok(Some(wire::Limited { reason: limited.reason(), retry_after: limited.wait })),
            Self::NotNow(status) => Err(status),
        }
    }
}

impl Doubts {
    fn new() -> Self {
        Self { turns: Semaphore::new(MAX_NO), no: AtomicUsize::new(0) }
    }
}

impl Push {
    /// As a tonic service.
    pub fn service(registry: Arc<Registry>, client: Arc<Client>) -> PushServer<Self> {
        PushServer::new(Self { registry, client, descents: Mutex::default() })
    }

    /// The container at `address`, and its repository `name` as in its record.
    fn target(&self, address: &[u8], name: &str) -> Result<Target, Status> {
        let address = address_of(address).ok_or_else(|| malformed("an address has 4 or 16 bytes"))?;
        let asked = Repo::parse(name).map_err(|error| malformed(error.to_string()))?;
        let own = super::container(&self.registry, address).and_then(|container| {
            let own = container.repos.iter().find(|repo| **repo == asked).cloned();
            own.map(|repo| Target { container, repo })
                .ok_or_else(|| format!("{asked} is not one of this container's repositories"))
        });
        own.map_err(|reason| {
            // The record has changed since the filter read it.
            tracing::info!(%address, reason, "a question about a push is refused");
            Status::permission_denied(reason)
        })
    }

    /// Checks that the record of `target` is still in force: a call to GitHub takes time. The policy needs no check here,
    /// because the push filter judges each answer under the rules in force.
    fn still_is(&self, target: &Target) -> Result<(), Status> {
        match super::container(&self.registry, target.container.container_ip) {
            Ok(container) if container.generation == target.container.generation => Ok(()),
            Ok(_) | Err(_) => Err(Status::unavailable("the container's registration has just changed; try again")),
        }
    }

    /// The refs for which the claim is wrong, with their actual objects.
    async fn read_refs(&self, target: &Target, claims: &[Claim]) -> Result<Vec<Ref>, Stop> {
        let Target { container, repo } = target;
        let names: Vec<&str> = claims.iter().map(|claim| claim.name.as_str()).collect();
        let subject = Subject { container, repo: Some(repo) };
        let answer = self.client.query(GithubCall::Refs, subject, refs::query(repo, &names)).await;
        let answer = answer.map_err(|error| Stop::of(repo, error))?;
        let found = refs::read(repo, &names, &answer).map_err(|why| not_now(repo, &why))?;
        let others = claims.iter().zip(found).filter(|(claim, found)| claim.object != *found);
        Ok(others.map(|(claim, found)| as_ref(&claim.name, found)).collect())
    }

    /// Whether one of the question's commits is its ancestor or descends from it. `None` if the push has no comparison
    /// left to find that out.
    async fn descends(&self, target: &Target, question: &Question, doubts: &Doubts) -> Result<Option<bool>, Stop> {
        let Question { ancestor, commits } = question;
        if commits.contains(ancestor) {
            return Ok(Some(true));
        }
        let name = target.repo.to_string().to_ascii_lowercase();
        let ancestry = |commit: &Oid| Ancestry { repo: name.clone(), ancestor: *ancestor, commit: *commit };
        let keys: Vec<Ancestry> = commits.iter().map(ancestry).collect();
        let address = target.container.container_ip;
        if keys.iter().any(|key| self.descents().holds(address, key)) {
            return Ok(Some(true));
        }
        for key in keys {
            // The refs of a push are compared side by side. A comparison under way may say no, so it counts like one; if
            // it says yes, its turn comes back.
            let Ok(turn) = doubts.turns.acquire().await else { return Ok(None) };
            if self.compare(target, ancestor, &key.commit).await? {
                self.descents().insert(address, key);
                return Ok(Some(true));
            }
            turn.forget();
            if doubts.no.fetch_add(1, Ordering::Relaxed) + 1 >= MAX_NO {
                doubts.turns.close();
            }
        }
        Ok(Some(false))
    }

    fn descents(&self) -> MutexGuard<'_, Recent<Ancestry>> {
        self.descents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether `commit` descends from `ancestor`, according to GitHub.
    async fn compare(&self, target: &Target, ancestor: &Oid, commit: &Oid) -> Result<bool, Stop> {
        // "The list of changed files is only shown on the first page of results" (docs.github.com, "Compare two
        // commits"), with up to 300 patches. The second page has at most one commit, and all fields that are read here:
        // the API's description requires them on every page.
        let Target { container, repo } = target;
        let path = format!("/repos/{repo}/compare/{ancestor}...{commit}?per_page=1&page=2");
        let subject = Subject { container, repo: Some(repo) };
        let answer = self.client.get(GithubCall::Compare, Some(subject), &path).await;
        let answer = answer.map_err(|error| Stop::of(repo, error))?;
        ahead(ancestor, &answer).map_err(|why| not_now(repo, &why))
    }
}

#[tonic::async_trait]
impl Service for Push {
    async fn read_refs(&self, request: Request<ReadRefsRequest>) -> Result<Response<ReadRefsResponse>, Status> {
        let ReadRefsRequest { address, repo, refs } = request.into_inner();
        let claims = claims(refs).map_err(malformed)?;
        let target = self.target(&address, &repo)?;
        let read = Self::read_refs(self, &target, &claims).await;
        self.still_is(&target)?;
        Ok(Response::new(match read {
            Ok(others) => ReadRefsResponse { others, limited: None },
            Err(stop) => ReadRefsResponse { limited: stop.limited()?, ..ReadRefsResponse::default() },
        }))
    }

    async fn descends(&self, request: Request<DescendsRequest>) -> Result<Response<DescendsResponse>, Status> {
        let DescendsRequest { address, repo, descents } = request.into_inner();
        let questions = questions(descents).map_err(malformed)?;
        let target = self.target(&address, &repo)?;
        let doubts = Doubts::new();
        let asked = questions.iter().map(|question| Self::descends(self, &target, question, &doubts));
        let answered = try_join_all(asked).await;
        self.still_is(&target)?;
        Ok(Response::new(match answered {
            Ok(answers) => match answers.into_iter().collect::<Option<Vec<bool>>>() {
                Some(descends) => DescendsResponse { descends, ..DescendsResponse::default() },
                None => DescendsResponse { exhausted: true, ..DescendsResponse::default() },
            },
            Err(stop) => DescendsResponse { limited: stop.limited()?, ..DescendsResponse::default() },
        }))
    }
}

/// The push filter has sent an invalid request, which is a bug of the gateway.
fn malformed(what: impl Into<String>) -> Status {
    let what = what.into();
    tracing::error!(what, "BUG: the push filter's question is malformed");
    Status::invalid_argument(what)
}

fn not_now(repo: &Repo, why: &str) -> Stop {
    tracing::warn!(%repo, why, "GitHub could not confirm the facts about a push");
    Stop::NotNow(Status::unavailable("GitHub could not confirm the facts about this push; try again"))
}

fn claims(refs: Vec<Ref>) -> Result<Vec<Claim>, String> {
    if refs.is_empty() || refs.len() > MAX_REFS {
        return Err(format!("a request has 1 to {MAX_REFS} refs"));
    }
    let mut claims: Vec<Claim> = Vec::new();
    for Ref { name, object } in refs {
        let ours = name.starts_with("refs/heads/") || name.starts_with("refs/tags/");
        if !ours || !policy::is_refname(&name) {
            return Err(format!("{name:?} is the name of no branch and no tag"));
        }
        if claims.iter().any(|claim| claim.name == name) {
            return Err(format!("{name} is asked for twice"));
        }
        let object = if object.is_empty() { None } else { Some(oid(&object)?) };
        claims.push(Claim { name, object });
    }
    Ok(claims)
}

fn questions(descents: Vec<Descent>) -> Result<Vec<Question>, String> {
    if descents.is_empty() || descents.len() > MAX_REFS {
        return Err(format!("a request has 1 to {MAX_REFS} descents"));
    }
    let question = |descent: Descent| {
        if descent.commits.is_empty() || descent.commits.len() > MAX_BOUNDARY {
            return Err(format!("a descent has 1 to {MAX_BOUNDARY} commits"));
        }
        let commits = descent.commits.iter().map(|commit| oid(commit)).collect::<Result<_, _>>()?;
        Ok(Question { ancestor: oid(&descent.ancestor)?, commits })
    };
    descents.into_iter().map(question).collect()
}

fn oid(bytes: &[u8]) -> Result<Oid, String> {
    let name =
        <[u8; 20]>::try_from(bytes).map_err(|_| format!("an object's name has 20 bytes, not {}", bytes.len()))?;
    Ok(Oid::from(name))
}

fn as_ref(name: &str, object: Option<Oid>) -> Ref {
    Ref { name: name.to_owned(), object: object.map(|oid| oid.as_bytes().to_vec()).unwrap_or_default() }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests;
