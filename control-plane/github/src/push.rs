//! Facts about a push that only GitHub knows: the current objects of refs, and which commits descend from which.
//!
//! The push filter calls this while the pack streams. The service returns facts and allows nothing. If GitHub does not
//! provide the facts, the call fails, and with it the push. Refs are read each time. A proof of descent is cached: it
//! stays true forever, because a commit's id is a hash over its parents' ids. The opposite is not cached, because
//! GitHub may just not know one of the commits yet.

mod response;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::future::try_join_all;
use policy::push::MAX_REFS;
use policy::{Container, Repo};
use push::{MAX_BOUNDARY, Oid};
use registry_proto::address_of;
use registry_proto::push::push_server::{Push as Service, PushServer};
use registry_proto::push::{DescendsRequest, DescendsResponse, Descent, ReadRefsRequest, ReadRefsResponse, Ref};
use tonic::{Request, Response, Status};

use self::response::{ahead, ref_of};
use super::client::{ApiResponse, Client};
use super::recent::Recent;
use base::percent::encode_path;
use credentials::Subject;
use registry::Registry;

/// The service.
#[derive(Debug)]
pub struct Push {
    registry: Arc<Registry>,
    client: Arc<Client>,
    descents: Mutex<Recent<Ancestry>>,
}

/// A commit that descends from `ancestor`, according to GitHub.
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

    /// The refs for which the claim is wrong, with their actual objects.
    async fn read_refs(&self, target: &Target, claims: &[Claim]) -> Result<Vec<Ref>, Status> {
        let found = try_join_all(claims.iter().map(|claim| self.read_ref(target, &claim.name))).await?;
        // GitHub returns 404 both for a ref that does not exist and for a repository that the token may not see. If an
        // existing ref were treated as new, its old commits could be dropped without a proof. So the repository itself
        // is read now. Its number in the record proves nothing: a registration can contain the number, and a token can
        // lose its rights.
        if found.contains(&None) {
            self.require_visible(target).await?;
        }
        let others = claims.iter().zip(found).filter(|(claim, found)| claim.object != *found);
        Ok(others.map(|(claim, found)| as_ref(&claim.name, found)).collect())
    }

    /// The object that the ref `name` points to; for an annotated tag the tag object. Returns `None` if GitHub shows no
    /// such ref.
    async fn read_ref(&self, target: &Target, name: &str) -> Result<Option<Oid>, Status> {
        let repo = &target.repo;
        let path = format!("/repos/{repo}/git/ref/{}", encode_path(name.strip_prefix("refs/").unwrap_or(name)));
        let answer = self.get(target, &path).await?;
        ref_of(name, &answer).map_err(|why| not_now(repo, &why))
    }

    /// Checks that the gateway's token can see the repository.
    async fn require_visible(&self, target: &Target) -> Result<(), Status> {
        let repo = &target.repo;
        match self.get(target, &format!("/repos/{repo}")).await?.status {
            200 => Ok(()),
            status => Err(not_now(repo, &format!("status {status} of the repository itself"))),
        }
    }

    /// Whether one of the question's commits is its ancestor or descends from it.
    async fn descends(&self, target: &Target, question: &Question) -> Result<bool, Status> {
        let Question { ancestor, commits } = question;
        if commits.contains(ancestor) {
            return Ok(true);
        }
        let name = target.repo.to_string().to_ascii_lowercase();
        let ancestry = |commit: &Oid| Ancestry { repo: name.clone(), ancestor: *ancestor, commit: *commit };
        let keys: Vec<Ancestry> = commits.iter().map(ancestry).collect();
        if keys.iter().any(|key| self.descents().holds(key)) {
            return Ok(true);
        }
        for key in keys {
            if self.compare(target, ancestor, &key.commit).await? {
                self.descents().insert(key);
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn descents(&self) -> MutexGuard<'_, Recent<Ancestry>> {
        self.descents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether `commit` descends from `ancestor`, according to GitHub.
    async fn compare(&self, target: &Target, ancestor: &Oid, commit: &Oid) -> Result<bool, Status> {
        // "The list of changed files is only shown on the first page of results" (docs.github.com, "Compare two
        // commits"), with up to 300 patches. The second page has at most one commit, and all fields that are read here:
        // the API's description requires them on every page.
        let repo = &target.repo;
        let path = format!("/repos/{repo}/compare/{ancestor}...{commit}?per_page=1&page=2");
        let answer = self.get(target, &path).await?;
        ahead(ancestor, &answer).map_err(|why| not_now(repo, &why))
    }

    async fn get(&self, target: &Target, path: &str) -> Result<ApiResponse, Status> {
        let Target { container, repo } = target;
        self.client
            .get(Some(Subject { container, repo: Some(repo) }), path)
            .await
            .map_err(|error| not_now(repo, &error.to_string()))
    }
}

#[tonic::async_trait]
impl Service for Push {
    async fn read_refs(&self, request: Request<ReadRefsRequest>) -> Result<Response<ReadRefsResponse>, Status> {
        let ReadRefsRequest { address, repo, refs } = request.into_inner();
        let claims = claims(refs).map_err(malformed)?;
        let target = self.target(&address, &repo)?;
        let others = Self::read_refs(self, &target, &claims).await?;
        Ok(Response::new(ReadRefsResponse { others }))
    }

    async fn descends(&self, request: Request<DescendsRequest>) -> Result<Response<DescendsResponse>, Status> {
        let DescendsRequest { address, repo, descents } = request.into_inner();
        let questions = questions(descents).map_err(malformed)?;
        let target = self.target(&address, &repo)?;
        let descends = try_join_all(questions.iter().map(|question| Self::descends(self, &target, question))).await?;
        Ok(Response::new(DescendsResponse { descends }))
    }
}

/// The push filter has sent an invalid request, which is a bug of the gateway.
fn malformed(what: impl Into<String>) -> Status {
    let what = what.into();
    tracing::error!(what, "BUG: the push filter's question is malformed");
    Status::invalid_argument(what)
}

fn not_now(repo: &Repo, why: &str) -> Status {
    tracing::warn!(%repo, why, "GitHub could not confirm the facts about a push");
    Status::unavailable("GitHub could not confirm the facts about this push; try again")
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
mod tests {
    use super::super::testing::Rig;
    use super::*;
    use serde_json::json;
    use std::net::IpAddr;
    use tonic::Code;

    const ADDRESS: [u8; 4] = [10, 0, 0, 1];

    fn record(repos: serde_json::Value) -> Container {
        serde_json::from_value(json!({
            "container_ip": "10.0.0.1", "container_id": "a", "repos": repos, "expires_at": "2100-01-01T00:00:00Z",
        }))
        .unwrap()
    }

    async fn service(rig: &Rig) -> Push {
        rig.registry.put(record(json!([{"name": "Acme/App", "id": 7}, "acme/new"]))).await.unwrap();
        Push { registry: Arc::clone(&rig.registry), client: Arc::clone(&rig.client), descents: Mutex::default() }
    }

    fn object(byte: u8) -> Vec<u8> {
        vec![byte; 20]
    }

    fn sha(byte: u8) -> String {
        format!("{byte:02x}").repeat(20)
    }

    fn wanted(refs: &[(&str, Vec<u8>)]) -> Vec<Ref> {
        refs.iter().map(|(name, object)| Ref { name: (*name).to_owned(), object: object.clone() }).collect()
    }

    async fn read(push: &Push, repo: &str, refs: Vec<Ref>) -> Result<Vec<Ref>, Code> {
        let request = ReadRefsRequest { address: ADDRESS.to_vec(), repo: repo.to_owned(), refs };
        let answer = Service::read_refs(push, Request::new(request)).await;
        answer.map(|answer| answer.into_inner().others).map_err(|status| status.code())
    }

    async fn descends(push: &Push, repo: &str, descents: &[(u8, &[u8])]) -> Result<Vec<bool>, Code> {
        let descents = descents
            .iter()
            .map(|(ancestor, commits)| Descent {
                ancestor: object(*ancestor),
                commits: commits.iter().map(|commit| object(*commit)).collect(),
            })
            .collect();
        let request = DescendsRequest { address: ADDRESS.to_vec(), repo: repo.to_owned(), descents };
        let answer = Service::descends(push, Request::new(request)).await;
        answer.map(|answer| answer.into_inner().descends).map_err(|status| status.code())
    }

    /// Refs that each point to their own object: `refs/heads/at-5` to 05…, and `refs/tags/` likewise. No other ref
    /// exists.
    fn refs(line: &str, _: &str) -> (u16, String) {
        let Some((repo, name)) = line.split_once("/git/ref/") else {
            return match line {
                "GET /repos/Acme/App" => (200, json!({"id": 7, "full_name": "Acme/App"}).to_string()),
                "GET /repos/acme/new" => (200, json!({"id": 8, "full_name": "acme/new"}).to_string()),
                _ => (404, json!({"message": "Not Found"}).to_string()),
            };
        };
        assert!(["GET /repos/Acme/App", "GET /repos/acme/new"].contains(&repo), "{line}");
        match name.split_once("/at-") {
            Some((kind, number)) => {
                let name = format!("refs/{kind}/at-{}", number.replace("%2B", "+"));
                let number = number.trim_start_matches("%2B").parse().unwrap();
                (200, json!({"ref": name, "object": {"type": "tag", "sha": sha(number)}}).to_string())
            }
            None => (404, json!({"message": "Not Found"}).to_string()),
        }
    }

    #[tokio::test]
    async fn refs_that_are_elsewhere_are_named_with_where_they_are() {
        let rig = Rig::start(refs).await;
        let push = service(&rig).await;
        for right in [
            &[("refs/heads/at-5", object(5)), ("refs/tags/at-6", object(6)), ("refs/heads/none", vec![])][..],
            &[("refs/heads/at-+7", object(7))],
        ] {
            assert_eq!(read(&push, "acme/APP", wanted(right)).await, Ok(vec![]), "{right:?}");
        }
        let wrong = [("refs/heads/at-5", object(4)), ("refs/tags/at-6", vec![]), ("refs/heads/none", object(1))];
        let are = [("refs/heads/at-5", object(5)), ("refs/tags/at-6", object(6)), ("refs/heads/none", vec![])];
        let mixed = [&wrong[..], &[("refs/heads/at-9", object(9))]].concat();
        assert_eq!(read(&push, "acme/app", wanted(&mixed)).await, Ok(wanted(&are)));
        read(&push, "acme/app", wanted(&wrong)).await.unwrap();
        assert_eq!(rig.asked("GET /repos/Acme/App/git/ref/heads/at-5"), 3, "each time anew");
    }

    #[tokio::test]
    async fn a_ref_is_absent_only_where_its_repository_is_visible() {
        let absent = || wanted(&[("refs/heads/none", vec![]), ("refs/heads/neither", vec![])]);
        // The record has the number of only one repository; both are looked up.
        for (name, asked) in [("acme/app", "GET /repos/Acme/App"), ("acme/new", "GET /repos/acme/new")] {
            let rig = Rig::start(refs).await;
            let push = service(&rig).await;
            assert_eq!(read(&push, name, absent()).await, Ok(vec![]));
            assert_eq!(rig.asked(asked), 1, "once for all refs");
            assert_eq!(read(&push, name, wanted(&[("refs/heads/at-5", object(5))])).await, Ok(vec![]));
            assert_eq!(rig.asked(asked), 1, "a ref that is there says it too");
            read(&push, name, absent()).await.unwrap();
            assert_eq!(rig.asked(asked), 2, "each time anew");

            for status in [301, 403, 404, 500] {
                let hidden =
                    move |line: &str, body: &str| if line == asked { (status, "{}".into()) } else { refs(line, body) };
                let rig = Rig::start(hidden).await;
                let push = service(&rig).await;
                assert_eq!(read(&push, name, absent()).await, Err(Code::Unavailable), "{name} {status}");
            }
        }
    }

    #[tokio::test]
    async fn an_empty_repository_has_no_refs() {
        let rig = Rig::start(|line, _| match line {
            "GET /repos/Acme/App" | "GET /repos/acme/new" => (200, "{}".into()),
            _ => (409, json!({"message": "Git Repository is empty."}).to_string()),
        })
        .await;
        let push = service(&rig).await;
        for repo in ["acme/app", "acme/new"] {
            assert_eq!(read(&push, repo, wanted(&[("refs/heads/x", vec![])])).await, Ok(vec![]));
            let there = wanted(&[("refs/heads/x", object(1))]);
            assert_eq!(read(&push, repo, there).await, Ok(wanted(&[("refs/heads/x", vec![])])));
        }
    }

    #[tokio::test]
    async fn an_answer_that_does_not_say_where_a_ref_is_fails_the_call() {
        let at = |name: &str, sha: &str| json!({"ref": name, "object": {"sha": sha}});
        for (status, body) in [
            (500, "{}".into()),
            (403, "{}".into()),
            (301, "{}".into()),
            (409, json!({"message": "Conflict"}).to_string()),
            (200, "{}".into()),
            (200, "not JSON".into()),
            (200, json!([at("refs/heads/x", &sha(1))]).to_string()),
            (200, json!([at("refs/heads/x-and-more", &sha(1))]).to_string()),
            (200, at("refs/heads/X", &sha(1)).to_string()),
            (200, at("refs/heads/x-and-more", &sha(1)).to_string()),
            (200, at("refs/heads/x", "").to_string()),
            (200, at("refs/heads/x", &sha(1)[1..]).to_string()),
            (200, at("refs/heads/x", &(sha(1) + "0")).to_string()),
            (200, at("refs/heads/x", &sha(0xab).to_uppercase()).to_string()),
        ] {
            let told = body.clone();
            let rig = Rig::start(move |_, _| (status, body.clone())).await;
            let push = service(&rig).await;
            for object in [vec![], object(1), object(0xab)] {
                let refs = wanted(&[("refs/heads/x", object)]);
                assert_eq!(read(&push, "acme/app", refs).await, Err(Code::Unavailable), "{status} {told}");
            }
        }
    }

    #[tokio::test]
    async fn one_failure_fails_the_call() {
        let rig =
            Rig::start(|line, body| if line.ends_with("/broken") { (502, String::new()) } else { refs(line, body) })
                .await;
        let push = service(&rig).await;
        let two = wanted(&[("refs/heads/at-5", object(5)), ("refs/heads/broken", object(5))]);
        assert_eq!(read(&push, "acme/app", two).await, Err(Code::Unavailable));
    }

    #[tokio::test]
    async fn a_request_has_no_more_refs_than_a_push_and_they_are_branches_and_tags() {
        let rig = Rig::start(refs).await;
        let push = service(&rig).await;
        let many = |count: usize| -> Vec<Ref> {
            (0..count).map(|number| Ref { name: format!("refs/heads/{number}"), object: vec![] }).collect()
        };
        assert_eq!(read(&push, "acme/app", many(MAX_REFS)).await, Ok(vec![]));
        let asked = rig.asked.lock().unwrap().len();
        for bad in [
            many(0),
            many(MAX_REFS + 1),
            wanted(&[("refs/heads/x", vec![]), ("refs/heads/x", object(1))]),
            wanted(&[("refs/heads/x", vec![1; 19])]),
            wanted(&[("refs/heads/x", vec![1; 21])]),
            wanted(&[("refs/pull/1/head", vec![])]),
            wanted(&[("heads/x", vec![])]),
            wanted(&[("refs/heads/", vec![])]),
            wanted(&[("refs/heads/a b", vec![])]),
            wanted(&[("refs/heads/../../..", vec![])]),
        ] {
            assert_eq!(read(&push, "acme/app", bad.clone()).await, Err(Code::InvalidArgument), "{bad:?}");
        }
        assert_eq!(rig.asked.lock().unwrap().len(), asked);
    }

    #[tokio::test]
    async fn nothing_is_asked_for_another_repository_or_for_nobody() {
        let rig = Rig::start(refs).await;
        let push = service(&rig).await;
        let one = || wanted(&[("refs/heads/at-5", object(5))]);
        let both = async |repo: &str| {
            let (read, descends) = (read(&push, repo, one()).await, descends(&push, repo, &[(1, &[1])]).await);
            (read.unwrap_err(), descends.unwrap_err())
        };
        let refused = (Code::PermissionDenied, Code::PermissionDenied);
        assert_eq!(both("acme/other").await, refused);
        for odd in ["acme", "acme/app/x", "acme/app.git", "", "acme/.."] {
            assert_eq!(both(odd).await, (Code::InvalidArgument, Code::InvalidArgument), "{odd}");
        }
        let odd = ReadRefsRequest { address: vec![1], repo: "acme/app".into(), refs: one() };
        let odd = Service::read_refs(&push, Request::new(odd)).await.unwrap_err();
        assert_eq!(odd.code(), Code::InvalidArgument);
        let good = record(json!([{"name": "acme/app", "id": 7}]));
        for bad in [
            Container { blocked: Some("x".into()), ..good.clone() },
            Container { expires_at: "2020-01-01T00:00:00Z".parse().unwrap(), ..good },
        ] {
            rig.registry.put(bad).await.unwrap();
            assert_eq!(both("acme/app").await, refused);
        }
        rig.registry.remove(IpAddr::from(ADDRESS)).await.unwrap();
        assert_eq!(both("acme/app").await, refused);
        assert!(rig.asked.lock().unwrap().is_empty());
    }

    fn comparison(status: &str, base: u8) -> String {
        json!({"status": status, "merge_base_commit": {"sha": sha(base)}}).to_string()
    }

    fn line(ancestor: u8, commit: u8) -> String {
        format!("GET /repos/Acme/App/compare/{}...{}?per_page=1&page=2", sha(ancestor), sha(commit))
    }

    /// 2 and 3 descend from 1, and 9 gives an error. No other commit descends from another.
    fn comparisons(asked: &str, _: &str) -> (u16, String) {
        let (_, rest) = asked.split_once("/compare/").unwrap();
        let byte = |at: usize| u8::from_str_radix(&rest[at..at + 2], 16).unwrap();
        match (byte(0), byte(43)) {
            (1, 2 | 3) => (200, comparison("ahead", 1)),
            (_, 9) => (500, "{}".into()),
            (_, 0x40) => (404, "{}".into()),
            _ => (200, comparison("diverged", 0)),
        }
    }

    #[tokio::test]
    async fn one_commit_that_descends_is_enough_and_the_rest_is_not_asked_for() {
        let rig = Rig::start(comparisons).await;
        let push = service(&rig).await;
        assert_eq!(descends(&push, "acme/app", &[(5, &[6, 5])]).await, Ok(vec![true]));
        assert!(rig.asked.lock().unwrap().is_empty(), "a commit is its own");
        let answers = descends(&push, "acme/app", &[(1, &[6, 2, 9]), (4, &[6, 0x40]), (1, &[3])]).await;
        assert_eq!(answers, Ok(vec![true, false, true]));
        assert_eq!(rig.asked(&line(1, 9)), 0);
        assert_eq!(descends(&push, "acme/app", &[(1, &[3]), (1, &[9])]).await, Err(Code::Unavailable));
    }

    #[tokio::test]
    async fn a_yes_is_remembered_and_a_no_is_not() {
        let rig = Rig::start(comparisons).await;
        let push = service(&rig).await;
        for repo in ["acme/app", "ACME/APP", "Acme/App"] {
            assert_eq!(descends(&push, repo, &[(1, &[2])]).await, Ok(vec![true]));
            assert_eq!(descends(&push, repo, &[(1, &[5, 2])]).await, Ok(vec![true]));
            assert_eq!(descends(&push, repo, &[(2, &[1])]).await, Ok(vec![false]), "not the other way round");
        }
        assert_eq!((rig.asked(&line(1, 2)), rig.asked(&line(1, 5)), rig.asked(&line(2, 1))), (1, 0, 3));
        assert_eq!(descends(&push, "acme/new", &[(1, &[2])]).await, Ok(vec![true]));
        assert_eq!(rig.asked.lock().unwrap().last().unwrap().replace("acme/new", "Acme/App"), line(1, 2));
    }

    #[tokio::test]
    async fn a_comparison_is_understood_or_fails_the_call() {
        let yes = Ok(vec![true]);
        let no = Ok(vec![false]);
        let not_now = Err(Code::Unavailable);
        for (status, body, answer) in [
            (200, comparison("ahead", 1), &yes),
            (200, comparison("identical", 1), &yes),
            (200, comparison("ahead", 7), &no),
            (200, comparison("identical", 7), &no),
            (200, comparison("behind", 1), &no),
            (200, comparison("diverged", 1), &no),
            (404, "{}".into(), &no),
            (200, comparison("AHEAD", 1), &not_now),
            (200, comparison("new", 1), &not_now),
            (200, json!({"status": "ahead"}).to_string(), &not_now),
            (200, "{}".into(), &not_now),
            (200, "not JSON".into(), &not_now),
            (301, comparison("ahead", 1), &not_now),
            (403, "{}".into(), &not_now),
            (422, "{}".into(), &not_now),
            (500, comparison("ahead", 1), &not_now),
        ] {
            let told = format!("{status} {body}");
            let rig = Rig::start(move |_, _| (status, body.clone())).await;
            let push = service(&rig).await;
            assert_eq!(&descends(&push, "acme/app", &[(1, &[2])]).await, answer, "{told}");
        }
    }

    #[tokio::test]
    async fn a_request_has_no_more_descents_and_commits_than_are_asked_for() {
        let rig = Rig::start(comparisons).await;
        let push = service(&rig).await;
        let most = vec![(5, &[6; MAX_BOUNDARY][..]); MAX_REFS];
        assert_eq!(descends(&push, "acme/app", &most).await, Ok(vec![false; MAX_REFS]));
        let invalid = Err(Code::InvalidArgument);
        assert_eq!(descends(&push, "acme/app", &[]).await, invalid);
        assert_eq!(descends(&push, "acme/app", &[&most[..], &[(1, &[1])]].concat()).await, invalid);
        assert_eq!(descends(&push, "acme/app", &[(1, &[1]), (1, &[])]).await, invalid);
        assert_eq!(descends(&push, "acme/app", &[(1, &[1; MAX_BOUNDARY + 1])]).await, invalid);
        for length in [0, 19, 21] {
            for (ancestor, commit) in [(length, 20), (20, length)] {
                let descents = vec![Descent { ancestor: vec![1; ancestor], commits: vec![vec![1; commit]] }];
                let request = DescendsRequest { address: ADDRESS.to_vec(), repo: "acme/app".into(), descents };
                let status = Service::descends(&push, Request::new(request)).await.unwrap_err();
                assert_eq!(status.code(), Code::InvalidArgument);
            }
        }
    }
}
