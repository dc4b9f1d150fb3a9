//! The gateway's own calls to api.github.com, with the API's credential.
//!
//! The number of calls at a time is limited in total, and to a lower number for each container. So one container never
//! takes more than its share of the common queue, however many calls its pushes and writes need. How many calls a
//! container may have is the business of [`credentials::budget`]: each call is counted there, and each answer is read
//! for GitHub's own limits.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use policy::HostName;
use tokio::sync::Semaphore;

use base::quota::Quoted;
use base::telemetry::GithubCall;
use credentials::budget::Limited;
use credentials::calls::Calls;
use credentials::{Credentials, Own, Subject};
use outbound::dns::Resolver;
use outbound::https::{self, Failure, Limits, Place};
use outbound::upstreams::Upstreams;

/// The host of all calls.
const HOST: &str = "api.github.com";

/// The version of the API.
const VERSION: &str = "2022-11-28";

/// The timeout of a call, from the wait for its turn to the last byte.
const DEADLINE: Duration = Duration::from_secs(10);

/// The longest response, in bytes. A repository has 10 KB, and a hundred nodes have 20 KB.
const MAX_ANSWER: usize = 1 << 20;

/// The most calls at a time. Further calls wait.
const CONCURRENT: usize = 8;

/// The most calls at a time for one container. Further calls wait, at most for the timeout of a call, and delay no
/// other container.
const SHARE: usize = 3;

/// The most requests at a time for tokens of a GitHub App. They have their own limit, so a call that waits for its
/// token does not take a turn of [`CONCURRENT`].
const MINTS: usize = 256;

/// A response with any status.
#[derive(Clone, Debug)]
pub struct ApiResponse {
    /// The status.
    pub status: u16,
    /// The body.
    pub body: Bytes,
    /// The header `x-oauth-scopes`, which GitHub sends for classic tokens.
    pub scopes: Option<String>,
}

/// A call without a response.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The gateway has no credential for the API.
    #[error("{0}")]
    NoCredential(String),
    /// A limit of the container refuses the call.
    #[error("{}", .0.reason())]
    Limited(Limited),
    /// The host name is invalid.
    #[error(transparent)]
    Host(#[from] policy::InvalidHost),
    /// No response arrives.
    #[error(transparent)]
    Https(#[from] https::Error),
    /// The response's status is not a success.
    #[error("{HOST} answers with status {0}")]
    Status(u16),
    /// A command has no runtime for the call.
    #[error(transparent)]
    Runtime(#[from] std::io::Error),
}

/// The client.
#[derive(Debug)]
pub struct Client {
    https: https::Client,
    credentials: Arc<Credentials>,
    calls: Arc<Calls>,
    shares: Mutex<HashMap<IpAddr, Weak<Semaphore>>>,
}

impl Client {
    /// A client for the host at the location that `upstreams` gives, whose calls count in `calls`. If the host is not
    /// pinned, `resolver` resolves it.
    /// This also gives the credentials a client for GitHub, to request tokens.
    ///
    /// # Errors
    /// If no root is usable.
    pub fn new(
        upstreams: &Upstreams,
        credentials: Arc<Credentials>,
        calls: Arc<Calls>,
        resolver: Arc<Resolver>,
    ) -> Result<Self, Error> {
        Self::at(upstreams, credentials, calls, |_| Place::Public(resolver))
    }

    /// A client for a command of the operator, which resolves the host with the machine's own resolver.
    ///
    /// # Errors
    /// If no root is usable.
    pub fn of_command(upstreams: &Upstreams, credentials: Arc<Credentials>) -> Result<Self, Error> {
        Self::at(upstreams, credentials, Arc::default(), Place::of_the_machine)
    }

    fn at(
        upstreams: &Upstreams,
        credentials: Arc<Credentials>,
        calls: Arc<Calls>,
        otherwise: impl FnOnce(&HostName) -> Place,
    ) -> Result<Self, Error> {
        let host = HostName::parse(HOST.as_bytes())?;
        let (place, roots) = upstreams.place(&host, otherwise(&host));
        let limits = Limits { at_a_time: CONCURRENT, connect: DEADLINE, deadline: DEADLINE, max_answer: MAX_ANSWER };
        let headers = [
            (ACCEPT, HeaderValue::from_static("application/vnd.github+json")),
            (CONTENT_TYPE, HeaderValue::from_static("application/json")),
            (HeaderName::from_static("x-github-api-version"), HeaderValue::from_static(VERSION)),
        ];
        let https = https::Client::new(host, place, roots, limits)?.with_headers(HeaderMap::from_iter(headers));
        credentials.reach_github(&Arc::new(https.beside(MINTS)));
        Ok(Self { https, credentials, calls, shares: Mutex::default() })
    }

    /// Sends GET `path` for `subject`, with a credential that `subject` may use. Without a subject it uses a credential
    /// that every container may use, and no limit applies.
    ///
    /// # Errors
    /// If there is no response, see [`Error`].
    pub async fn get(&self, kind: GithubCall, subject: Option<Subject<'_>>, path: &str) -> Result<ApiResponse, Error> {
        self.call(kind, subject, Method::GET, path, Bytes::new()).await
    }

    /// Sends the GraphQL query `body`, JSON. If a kept connection fails, the request is sent again, so this is only for
    /// queries.
    ///
    /// # Errors
    /// If there is no response, see [`Error`].
    pub async fn query(&self, kind: GithubCall, subject: Subject<'_>, body: Vec<u8>) -> Result<ApiResponse, Error> {
        self.call(kind, Some(subject), Method::POST, "/graphql", body.into()).await
    }

    async fn call(
        &self,
        kind: GithubCall,
        subject: Option<Subject<'_>>,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<ApiResponse, Error> {
        let own = self.credentials.own_request(self.https.host(), subject, &self.calls).await;
        let Own { header, account } = own.map_err(|denial| Error::NoCredential(denial.reason))?;
        let call = self.https.call(method, path, [header], body);
        let container = subject.map(|Subject { container, .. }| container);
        let answer = match container {
            None => call.await,
            Some(container) => {
                self.calls.admit(container, &account, path, kind).map_err(Error::Limited)?;
                let share = self.share(container.container_ip);
                let late = || https::Error { host: self.https.host().clone(), failure: Failure::Late(DEADLINE) };
                let in_turn = async {
                    let _turn = share.acquire().await.map_err(|_| late())?;
                    call.await
                };
                tokio::time::timeout(DEADLINE, in_turn).await.unwrap_or_else(|_| Err(late()))
            }
        }?;
        let header = |name: &str| answer.headers.get(name).and_then(|value| value.to_str().ok());
        let quoted = Quoted::read(answer.status.into(), header);
        match self.calls.heard(&account, container.map(|container| container.container_ip), quoted) {
            Some(limited) => Err(Error::Limited(limited)),
            None => Ok(answer.into()),
        }
    }

    /// The turns of the container at `address`. They are dropped when no call of the container waits or is under way.
    fn share(&self, address: IpAddr) -> Arc<Semaphore> {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        shares.retain(|_, share| share.strong_count() > 0);
        if let Some(share) = shares.get(&address).and_then(Weak::upgrade) {
            return share;
        }
        let share = Arc::new(Semaphore::new(SHARE));
        shares.insert(address, Arc::downgrade(&share));
        share
    }
}

impl From<https::Answer> for ApiResponse {
    fn from(answer: https::Answer) -> Self {
        let scopes = answer.headers.get("x-oauth-scopes").and_then(|value| value.to_str().ok()).map(str::to_owned);
        Self { status: answer.status, body: answer.body, scopes }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::super::testing::Rig;
    use super::*;
    use policy::Container;

    #[tokio::test]
    async fn an_answer_has_a_limit() {
        let rig =
            Rig::start(|line, _| (200, "x".repeat(if line == "GET /fits" { MAX_ANSWER } else { MAX_ANSWER + 1 })))
                .await;
        assert_eq!(rig.client.get(GithubCall::Repository, None, "/fits").await.unwrap().body.len(), MAX_ANSWER);
        let more = rig.client.get(GithubCall::Repository, None, "/more").await;
        assert!(matches!(more, Err(Error::Https(https::Error { failure: Failure::Answer(MAX_ANSWER), .. }))));
        assert!(
            rig.client.get(GithubCall::Repository, None, "/fits").await.is_ok(),
            "the next one has a good connection"
        );
    }

    #[tokio::test]
    async fn a_container_that_asks_much_makes_nobody_else_wait() {
        let rig = Rig::start(|line, _| (200, line.to_owned())).await;
        let of = |address: &str| -> Arc<Container> {
            let record = serde_json::json!({
                "container_ip": address, "container_id": address, "repos": [], "expires_at": "2100-01-01T00:00:00Z",
            });
            Arc::new(serde_json::from_value(record).unwrap())
        };
        let get = |container: Arc<Container>, path| {
            let client = Arc::clone(&rig.client);
            async move {
                let subject = Subject { container: &container, repo: None };
                client.get(GithubCall::Repository, Some(subject), path).await.map(|answer| answer.status)
            }
        };
        let (busy, other) = (of("10.0.0.1"), of("10.0.0.2"));
        let flood: Vec<_> = (0..100).map(|_| tokio::spawn(get(Arc::clone(&busy), "/slow"))).collect();
        while rig.asked("GET /slow") < SHARE {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        for _ in 0..10 {
            assert_eq!(get(Arc::clone(&other), "/").await.unwrap(), 200);
        }
        assert_eq!(rig.asked("GET /slow"), SHARE);
        rig.slow.close();
        for call in flood {
            assert_eq!(call.await.unwrap().unwrap(), 200, "it only waits");
        }
        assert_eq!(rig.asked("GET /slow"), 100);
        get(other, "/").await.unwrap();
        assert_eq!(rig.client.shares.lock().unwrap().len(), 1, "who asks no more is forgotten");
    }

    #[tokio::test]
    async fn an_answer_says_what_a_classic_token_may_do() {
        let rig = Rig::start(|_, _| (200, String::new())).await;
        assert_eq!(
            rig.client.get(GithubCall::Repository, None, "/").await.unwrap().scopes.as_deref(),
            Some("repo, workflow")
        );
    }

    #[tokio::test]
    async fn without_a_credential_nothing_is_asked() {
        let rig = Rig::with_token(None, |_, _| (200, String::new())).await;
        assert!(matches!(rig.client.get(GithubCall::Repository, None, "/").await, Err(Error::NoCredential(_))));
        assert!(rig.asked.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_call_that_github_refuses_for_a_limit_is_no_answer() {
        let rig = Rig::start(|line, _| (if line == "GET /good" { 200 } else { 403 }, "{}".into())).await;
        let container: Container = serde_json::from_value(serde_json::json!({
            "container_ip": "10.0.0.1", "container_id": "a", "repos": [], "expires_at": "2100-01-01T00:00:00Z",
        }))
        .unwrap();
        let get = async |path: &str| {
            let subject = Subject { container: &container, repo: None };
            rig.client.get(GithubCall::Compare, Some(subject), path).await
        };
        assert_eq!(get("/other").await.unwrap().status, 403, "refused for another reason");
        rig.headers.lock().unwrap().push(("retry-after", "60".into()));
        assert_eq!(get("/good").await.unwrap().status, 200);
        let paused = get("/secondary").await.unwrap_err();
        assert!(matches!(&paused, Error::Limited(limited) if limited.wait == 60), "{paused}");
        // Its next calls wait, and go nowhere.
        let asked = rig.asked.lock().unwrap().len();
        let paused = get("/good").await.unwrap_err().to_string();
        assert!(paused.contains("GitHub has told the calls of this container to pause"), "{paused}");
        assert_eq!(rig.asked.lock().unwrap().len(), asked);
        assert!(rig.client.get(GithubCall::Repository, None, "/good").await.is_ok(), "the operator's own");
    }
}
