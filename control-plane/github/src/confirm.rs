//! Answers the questions about a request that only GitHub can answer: whose the nodes are, what labels and users are
//! called, and who wrote a text. A client can make up an id, so only GitHub's response counts.
//!
//! The github filter calls this for requests that its own rules allow. An object that is not confirmed is refused,
//! whatever the reason. Only confirmed objects are cached, for one record under one policy.

mod answer;

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use policy::github::{About, MAX_ASK, Purpose, Question};
use policy::{Container, Policy};
use registry_proto::address_of;
use registry_proto::github::git_hub_server::{GitHub, GitHubServer};
use registry_proto::github::{self as message, ConfirmRequest, ConfirmResponse, question};
use serde::Deserialize;
use serde_json::{Value, json};
use tonic::{Request, Response, Status};

use super::client::{Client, Error};
use super::recent::Recent;
use answer::{ISSUE, NODES, Node, Nodes, OfRepository, fits};
use base::telemetry::GithubCall;
use credentials::Subject;
use credentials::budget::Limited;
use registry::Registry;

/// The longest id, in bytes. A ref's id contains its name, which has at most 255 bytes.
const MAX_ID: usize = 512;

/// The most issues that one request names by their numbers. Each costs a call. Only REST has such names, and one call
/// of REST writes to one issue.
const MAX_ISSUES: usize = 1;

/// The service.
#[derive(Debug)]
pub struct Confirm {
    registry: Arc<Registry>,
    client: Arc<Client>,
    remembered: Mutex<Remembered>,
}

/// A confirmed object of a container: the record's generation, and the object with its purpose.
type Key = (u64, Question);

/// The objects that were confirmed under one policy.
#[derive(Debug, Default)]
struct Remembered {
    policy: String,
    questions: Recent<Key>,
}

impl Remembered {
    /// Drops the objects that were confirmed under another policy.
    fn under(&mut self, policy: &Policy) {
        if self.policy != policy.version {
            *self = Self { policy: policy.version.clone(), ..Self::default() };
        }
    }
}

/// Why objects are not confirmed, as a sentence for the refusal.
#[derive(Debug)]
enum Unconfirmed {
    /// An object is not what the request needs it to be.
    No(String),
    /// This can't be decided now. The call fails, and the github filter refuses with 503.
    NotNow(&'static str),
    /// A limit of the container refuses the question. The github filter refuses with 429.
    Limited(Limited),
}

impl From<String> for Unconfirmed {
    fn from(reason: String) -> Self {
        Self::No(reason)
    }
}

impl Confirm {
    /// As a tonic service.
    pub fn service(registry: Arc<Registry>, client: Arc<Client>) -> GitHubServer<Self> {
        GitHubServer::new(Self { registry, client, remembered: Mutex::default() })
    }

    /// Confirms that each object is what the request of the container at `address` needs it to be.
    ///
    /// # Errors
    /// If one is not confirmed.
    async fn confirm(&self, address: IpAddr, questions: &[Question]) -> Result<(), Unconfirmed> {
        let (policy, container) = (self.registry.policy(), super::container(&self.registry, address)?);
        let long = |question: &Question| question.about.to_string().len() > MAX_ID;
        let issues = questions.iter().filter(|question| matches!(question.about, About::Issue { .. })).count();
        if questions.is_empty() || questions.len() > MAX_ASK || issues > MAX_ISSUES || questions.iter().any(long) {
            return Err(format!("a request may name 1 to {MAX_ASK} nodes").into());
        }
        let open = self.open(&policy, &container, questions);
        if open.is_empty() {
            return Ok(());
        }
        for (question, node) in open.iter().zip(&self.ask(&container, &open).await?) {
            fits(question, node.as_ref(), &container, &policy)?;
        }
        // The call to GitHub takes time, so the record or the policy may have been replaced meanwhile.
        if super::container(&self.registry, address)?.generation != container.generation {
            return Err(Unconfirmed::NotNow("the container's registration has just changed; try again"));
        }
        if self.registry.policy().version != policy.version {
            return Err(Unconfirmed::NotNow("the policy has just changed; try again"));
        }
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        remembered.under(&policy);
        for question in open.iter().flat_map(learned) {
            remembered.questions.insert(container.container_ip, (container.generation, question));
        }
        Ok(())
    }

    /// The questions whose answer is not known yet, each once.
    fn open(&self, policy: &Policy, container: &Container, questions: &[Question]) -> Vec<Question> {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        remembered.under(policy);
        let mut open: Vec<Question> = Vec::new();
        for question in questions {
            let key = (container.generation, question.clone());
            let known = remembered.questions.holds(container.container_ip, &key);
            if !known && !open.contains(question) {
                open.push(question.clone());
            }
        }
        open
    }

    /// GitHub's data on the objects of `questions`, in the same order, requested with a token for `container`.
    async fn ask(&self, container: &Container, questions: &[Question]) -> Result<Vec<Option<Node>>, Unconfirmed> {
        let ids: Vec<&str> = questions
            .iter()
            .filter_map(|question| match &question.about {
                About::Node(id) => Some(id.as_str()),
                About::Issue { .. } => None,
            })
            .collect();
        let mut nodes = Vec::new();
        if !ids.is_empty() {
            let data: Nodes = self.query(container, NODES, json!({ "ids": ids })).await?;
            if data.nodes.len() != ids.len() {
                return Err(unanswered(&format!("it answers {} nodes for {}", data.nodes.len(), ids.len())));
            }
            nodes = data.nodes;
        }
        let mut nodes = nodes.into_iter();
        let mut answers = Vec::with_capacity(questions.len());
        for question in questions {
            answers.push(match &question.about {
                About::Node(_) => nodes.next().flatten(),
                About::Issue { repo, number } => {
                    let (owner, name) = repo.split_once('/').unwrap_or_default();
                    let variables = json!({"owner": owner, "name": name, "number": number});
                    let data: OfRepository = self.query(container, ISSUE, variables).await?;
                    data.node()
                }
            });
        }
        Ok(answers)
    }

    /// The data of GitHub's answer to `query`. Fields with an error are null.
    async fn query<D: for<'de> Deserialize<'de>>(
        &self,
        container: &Container,
        query: &str,
        variables: Value,
    ) -> Result<D, Unconfirmed> {
        let body = json!({ "query": query, "variables": variables }).to_string().into_bytes();
        match self.client.query(GithubCall::Confirm, Subject { container, repo: None }, body).await {
            Ok(answer) if answer.status == 200 => match serde_json::from_slice(&answer.body) {
                Ok(Raw { data: Some(data) }) => Ok(data),
                Ok(Raw { data: None }) => Err(unanswered("its answer has no data")),
                Err(error) => Err(unanswered(&format!("its answer is not understood: {error}"))),
            },
            Ok(answer) => Err(unanswered(&format!("status {}", answer.status))),
            Err(Error::Limited(limited)) => Err(Unconfirmed::Limited(limited)),
            Err(error) => Err(unanswered(&error.to_string())),
        }
    }
}

fn unanswered(why: &str) -> Unconfirmed {
    tracing::warn!(why, "GitHub could not confirm the objects of a request");
    Unconfirmed::NotNow("GitHub could not confirm the objects that this request names; try again")
}

/// The questions that a confirmation of `question` answers for later requests. A label's name may change, so what was
/// confirmed about a label is asked again. An object in one of the container's repositories may be read.
fn learned(question: &Question) -> Vec<Question> {
    let read = Question { about: question.about.clone(), purpose: Purpose::Read };
    match question.purpose {
        Purpose::Read | Purpose::SetLabel | Purpose::DropLabel => vec![read],
        Purpose::Person => vec![question.clone()],
        Purpose::Write | Purpose::Force | Purpose::Rewrite => vec![read, question.clone()],
    }
}

/// Parses a question.
fn decoded(question: message::Question) -> Option<Question> {
    let purpose = match question.purpose() {
        message::Purpose::Unknown => return None,
        message::Purpose::Read => Purpose::Read,
        message::Purpose::Write => Purpose::Write,
        message::Purpose::Force => Purpose::Force,
        message::Purpose::SetLabel => Purpose::SetLabel,
        message::Purpose::DropLabel => Purpose::DropLabel,
        message::Purpose::Person => Purpose::Person,
        message::Purpose::Rewrite => Purpose::Rewrite,
    };
    let about = match question.about? {
        question::About::NodeId(id) => About::Node(id),
        question::About::Issue(message::Issue { repo, number }) => About::Issue { repo, number },
    };
    Some(Question { about, purpose })
}

#[tonic::async_trait]
impl GitHub for Confirm {
    async fn confirm(&self, request: Request<ConfirmRequest>) -> Result<Response<ConfirmResponse>, Status> {
        let request = request.into_inner();
        let address =
            address_of(&request.address).ok_or_else(|| Status::invalid_argument("an address has 4 or 16 bytes"))?;
        let questions: Option<Vec<_>> = request.questions.into_iter().map(decoded).collect();
        let questions = questions.ok_or_else(|| Status::invalid_argument("a question has an object and a purpose"))?;
        match Self::confirm(self, address, &questions).await {
            Ok(()) => Ok(Response::new(ConfirmResponse { confirmed: true, ..ConfirmResponse::default() })),
            Err(Unconfirmed::No(reason)) => Ok(Response::new(ConfirmResponse { reason, ..ConfirmResponse::default() })),
            Err(Unconfirmed::Limited(limited)) => {
                let limited = Some(message::Limited { reason: limited.reason(), retry_after: limited.wait });
                Ok(Response::new(ConfirmResponse { limited, ..ConfirmResponse::default() }))
            }
            Err(Unconfirmed::NotNow(reason)) => Err(Status::unavailable(reason)),
        }
    }
}

/// A response.
#[derive(Deserialize)]
struct Raw<D> {
    data: Option<D>,
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::super::testing::Rig;
    use super::*;

    const ADDRESS: [u8; 4] = [10, 0, 0, 1];

    /// The server's data on a node, by its id.
    fn node(id: &str) -> Value {
        let repository = json!({"databaseId": if id.ends_with("foreign") { 8 } else { 7 }});
        let (kind, _) = id.split_once('_').unwrap_or((id, ""));
        match kind {
            "R" => json!({"__typename": "Repository", "databaseId": repository["databaseId"]}),
            "PR" => json!({"__typename": "PullRequest", "repository": repository}),
            "LA" => {
                let name = id.split_once('_').unwrap().1;
                json!({"__typename": "Label", "name": name, "repository": repository})
            }
            "IC" => json!({
                "__typename": "IssueComment", "repository": repository, "viewerDidAuthor": id.ends_with("own"),
            }),
            "PURC" => json!({"__typename": "PullRequestCommit", "pullRequest": {"repository": repository}}),
            "LE" => json!({"__typename": "LabeledEvent", "labelable": {"repository": repository}}),
            "LB" => json!({"__typename": "LinkedBranch", "ref": {"repository": repository}}),
            "U" | "BOT" => {
                let (kind, login) = id.split_once('_').unwrap();
                json!({"__typename": if kind == "U" { "User" } else { "Bot" }, "login": login})
            }
            "DC" => json!({"__typename": "DiscussionComment", "discussion": {"repository": repository}}),
            "T" => json!({"__typename": "Team"}),
            "REF" => {
                let name = id.split_once('_').unwrap().1;
                json!({"__typename": "Ref", "prefix": "refs/heads/", "name": name, "repository": repository})
            }
            "TAG" => json!({"__typename": "Ref", "prefix": "refs/tags/", "name": "v1", "repository": repository}),
            _ => Value::Null,
        }
    }

    fn answer(_: &str, body: &str) -> (u16, String) {
        let body: Value = serde_json::from_str(body).unwrap();
        if let Some(number) = body["variables"]["number"].as_u64() {
            let of = |name: &str| body["variables"][name].as_str().unwrap().to_owned();
            assert_eq!((of("owner"), of("name")), ("acme".into(), "app".into()));
            let node = json!({
                "__typename": "Issue", "repository": {"databaseId": 7}, "viewerDidAuthor": number == 1,
            });
            let node = if number == 404 { Value::Null } else { node };
            return (200, json!({"data": {"repository": {"node": node}}}).to_string());
        }
        let ids = body["variables"]["ids"].as_array().unwrap();
        let nodes: Vec<Value> = ids.iter().map(|id| node(id.as_str().unwrap())).collect();
        (200, json!({"data": {"nodes": nodes}}).to_string())
    }

    fn record(repos: Value) -> Container {
        serde_json::from_value(json!({
            "container_ip": "10.0.0.1", "container_id": "a", "repos": repos, "allowed_branches": ["sandbox/*"],
            "expires_at": "2100-01-01T00:00:00Z",
        }))
        .unwrap()
    }

    async fn service(rig: &Rig) -> Confirm {
        rig.registry.put(record(json!([{"name": "acme/app", "id": 7, "default_branch": "trunk"}]))).await.unwrap();
        Confirm { registry: Arc::clone(&rig.registry), client: Arc::clone(&rig.client), remembered: Mutex::default() }
    }

    fn about(id: &str, purpose: message::Purpose) -> message::Question {
        let about = match id.split_once('#') {
            Some((repo, number)) => {
                question::About::Issue(message::Issue { repo: repo.into(), number: number.parse().unwrap() })
            }
            None => question::About::NodeId(id.into()),
        };
        message::Question { about: Some(about), purpose: purpose.into() }
    }

    /// Asks whether the nodes may be written to.
    async fn ask(confirm: &Confirm, ids: &[&str]) -> Result<(), String> {
        ask_for(confirm, ids, message::Purpose::Write).await
    }

    async fn ask_for(confirm: &Confirm, ids: &[&str], purpose: message::Purpose) -> Result<(), String> {
        let questions = ids.iter().map(|id| about(id, purpose)).collect();
        let request = ConfirmRequest { address: ADDRESS.to_vec(), questions };
        let answer = match GitHub::confirm(confirm, Request::new(request)).await {
            Ok(answer) => answer.into_inner(),
            Err(status) => {
                assert_eq!(status.code(), tonic::Code::Unavailable);
                return Err(format!("unavailable: {}", status.message()));
            }
        };
        if let Some(message::Limited { reason, retry_after }) = answer.limited {
            assert!(!answer.confirmed && retry_after > 0);
            return Err(format!("limited: {reason}"));
        }
        assert_eq!(answer.confirmed, answer.reason.is_empty());
        if answer.confirmed { Ok(()) } else { Err(answer.reason) }
    }

    #[tokio::test]
    async fn nodes_of_the_containers_own_are_confirmed_and_no_others() {
        let rig = Rig::start(answer).await;
        let confirm = service(&rig).await;
        for ids in [&["R_1"][..], &["PR_1", "DC_1", "REF_sandbox/x"]] {
            assert_eq!(ask(&confirm, ids).await, Ok(()), "{ids:?}");
        }
        for (id, why) in [
            ("R_foreign", "not in one of this container's repositories"),
            ("PR_foreign", "not in one of"),
            ("DC_foreign", "not in one of"),
            ("T_1", "which is in no repository"),
            ("X_1", "GitHub knows no X_1"),
            ("REF_main", "may not move"),
            ("REF_other", "may not move"),
            ("TAG_1", "no branch"),
        ] {
            for ids in [&[id][..], &["PR_1", id], &[id, "PR_1"]] {
                let reason = ask(&confirm, ids).await.unwrap_err();
                assert!(reason.contains(why), "{ids:?}: {reason}");
            }
        }
        assert!(ask(&confirm, &[]).await.is_err());
        assert!(ask(&confirm, &["PR_1"; MAX_ASK]).await.is_ok());
        assert!(ask(&confirm, &["PR_1"; MAX_ASK + 1]).await.is_err());
        assert!(ask(&confirm, &[&"R".repeat(MAX_ID + 1)]).await.is_err());
    }

    #[tokio::test]
    async fn a_default_branch_is_not_confirmed_and_waits_while_it_is_unknown() {
        let rig = Rig::start(answer).await;
        let confirm = service(&rig).await;
        let user = |repo: Value| Container { auth_mode: policy::AuthMode::User, ..record(json!([repo])) };
        rig.registry.put(user(json!({"name": "acme/app", "id": 7, "default_branch": "trunk"}))).await.unwrap();
        assert!(ask(&confirm, &["REF_trunk"]).await.unwrap_err().contains("may not move"));
        assert_eq!(ask(&confirm, &["REF_feature"]).await, Ok(()));
        rig.registry.put(user(json!({"name": "acme/app", "id": 7}))).await.unwrap();
        let reason = ask(&confirm, &["REF_feature"]).await.unwrap_err();
        assert!(reason.contains("default branch is still being looked up"), "{reason}");
        assert!(reason.starts_with("unavailable"), "{reason}");
    }

    #[tokio::test]
    async fn each_purpose_has_its_condition() {
        use message::Purpose::{DropLabel, Force, Person, Read, Rewrite, SetLabel, Write};
        let rig = Rig::start(answer).await;
        let confirm = service(&rig).await;
        let mut policy = Policy::clone(&rig.registry.policy());
        policy.github.held_labels = vec!["hold*".into()];
        rig.registry.set_policy(policy);
        for (id, purpose, refusal) in [
            ("REF_main", Read, None),
            ("TAG_1", Read, None),
            ("PURC_1", Read, None),
            ("LE_1", Read, None),
            ("LB_1", Read, None),
            ("PURC_foreign", Read, Some("not in one of")),
            ("REF_main", Write, Some("may not move")),
            ("REF_sandbox/x", Force, Some("may not move by force")),
            ("PR_1", Force, Some("no branch")),
            ("LA_bug", SetLabel, None),
            ("LA_AutoMerge", SetLabel, Some("triggers an automation")),
            ("LA_hold", SetLabel, None),
            ("PR_1", SetLabel, Some("no label")),
            ("LA_automerge", DropLabel, None),
            ("LA_hold-it", DropLabel, Some("holds automations back")),
            ("LA_foreign", DropLabel, Some("not in one of")),
            ("U_octocat", Person, None),
            ("U_copilot-swe-agent", Person, Some("is an agent")),
            ("BOT_x", Person, Some("no person")),
            ("PR_1", Person, Some("no person")),
            ("IC_own", Rewrite, None),
            ("IC_other", Rewrite, Some("another account")),
            ("PR_1", Rewrite, Some("another account")),
            ("acme/app#1", Rewrite, None),
            ("acme/app#2", Rewrite, Some("another account")),
            ("acme/app#404", Rewrite, Some("GitHub knows no acme/app#404")),
        ] {
            let got = ask_for(&confirm, &[id], purpose).await;
            assert_eq!(got.is_err(), refusal.is_some(), "{id} {purpose:?}: {got:?}");
            assert!(refusal.is_none_or(|part| got.as_ref().unwrap_err().contains(part)), "{id} {purpose:?}: {got:?}");
        }
        assert!(ask_for(&confirm, &["acme/app#1", "IC_own"], Rewrite).await.is_ok());
        assert!(ask_for(&confirm, &["acme/app#1", "acme/app#3"], Rewrite).await.is_err(), "one number at most");
        let repos = json!([{"name": "acme/app", "id": 7, "default_branch": "trunk"}]);
        rig.registry.put(Container { force_own_branches: true, ..record(repos) }).await.unwrap();
        assert_eq!(ask_for(&confirm, &["REF_sandbox/x"], Force).await, Ok(()));
    }

    #[tokio::test]
    async fn what_is_confirmed_for_one_purpose_is_not_for_another() {
        use message::Purpose::{Read, Rewrite, SetLabel, Write};
        let rig = Rig::start(answer).await;
        let confirm = service(&rig).await;
        for (id, purpose, calls) in [
            ("PR_1", Write, 1),
            ("PR_1", Read, 1),
            ("REF_main", Read, 2),
            ("REF_main", Read, 2),
            ("LA_bug", SetLabel, 3),
            ("LA_bug", SetLabel, 4),
            ("LA_bug", Read, 4),
            ("acme/app#1", Rewrite, 5),
            ("acme/app#1", Rewrite, 5),
        ] {
            ask_for(&confirm, &[id], purpose).await.unwrap();
            assert_eq!(rig.asked("POST /graphql"), calls, "{id} {purpose:?}");
        }
        ask_for(&confirm, &["REF_main"], Write).await.unwrap_err();
        ask_for(&confirm, &["PR_1"], Rewrite).await.unwrap_err();
    }

    #[tokio::test]
    async fn what_was_confirmed_counts_for_that_record_and_that_policy() {
        let rig = Rig::start(answer).await;
        let confirm = service(&rig).await;
        let asked = || rig.asked("POST /graphql");
        for _ in 0..3 {
            ask(&confirm, &["PR_1", "REF_sandbox/x"]).await.unwrap();
        }
        assert_eq!(asked(), 1);
        ask(&confirm, &["PR_1", "DC_1"]).await.unwrap();
        assert_eq!(asked(), 2, "the new one only");
        for _ in 0..2 {
            ask(&confirm, &["PR_foreign"]).await.unwrap_err();
        }
        assert_eq!(asked(), 4, "a no is not remembered");
        rig.registry.put(record(json!([{"name": "acme/other", "id": 9}]))).await.unwrap();
        ask(&confirm, &["PR_1"]).await.unwrap_err();
        rig.registry.put(record(json!([{"name": "acme/app", "id": 7, "default_branch": "trunk"}]))).await.unwrap();
        ask(&confirm, &["REF_sandbox/x"]).await.unwrap();
        let mut policy = Policy::clone(&rig.registry.policy());
        policy.version = "other".into();
        policy.github.branches.protected = vec![policy::BranchGlob::parse("sandbox/*").unwrap()];
        rig.registry.set_policy(policy);
        ask(&confirm, &["REF_sandbox/x"]).await.unwrap_err();
    }

    #[tokio::test]
    async fn a_change_during_the_call_to_github_confirms_nothing() {
        let registry = Arc::<std::sync::OnceLock<Arc<Registry>>>::default();
        let shared = Arc::clone(&registry);
        let rig = Rig::start(move |line, body| {
            // The operator protects the container's branches while GitHub answers.
            let registry = shared.get().unwrap();
            let mut policy = Policy::clone(&registry.policy());
            if policy.version == "none" {
                policy.version = "other".into();
                policy.github.branches.protected = vec![policy::BranchGlob::parse("sandbox/*").unwrap()];
                registry.set_policy(policy);
            }
            answer(line, body)
        })
        .await;
        registry.set(Arc::clone(&rig.registry)).unwrap();
        let confirm = service(&rig).await;
        let refused = ask(&confirm, &["REF_sandbox/x"]).await.unwrap_err();
        assert_eq!(refused, "unavailable: the policy has just changed; try again");
        let refused = ask(&confirm, &["REF_sandbox/x"]).await.unwrap_err();
        assert!(refused.contains("may not move"), "{refused}");
    }

    #[tokio::test]
    async fn nobody_and_the_unready_are_confirmed_nothing() {
        let rig = Rig::start(answer).await;
        let confirm = service(&rig).await;
        rig.registry.put(record(json!(["acme/app"]))).await.unwrap();
        assert!(ask(&confirm, &["PR_1"]).await.unwrap_err().contains("still being looked up"));
        rig.registry
            .put(Container {
                blocked: Some("x".into()),
                ..record(json!([{"name": "acme/app", "id": 7, "default_branch": "trunk"}]))
            })
            .await
            .unwrap();
        assert!(ask(&confirm, &["PR_1"]).await.unwrap_err().contains("blocked"));
        rig.registry.remove(IpAddr::from(ADDRESS)).await.unwrap();
        assert!(ask(&confirm, &["PR_1"]).await.unwrap_err().contains("no container"));
        let odd = [
            (vec![1], Vec::new()),
            (ADDRESS.to_vec(), vec![about("PR_1", message::Purpose::Unknown)]),
            (ADDRESS.to_vec(), vec![message::Question { about: None, purpose: message::Purpose::Read.into() }]),
            (ADDRESS.to_vec(), vec![message::Question { purpose: 99, ..about("PR_1", message::Purpose::Read) }]),
        ];
        for (address, questions) in odd {
            let status =
                GitHub::confirm(&confirm, Request::new(ConfirmRequest { address, questions })).await.unwrap_err();
            assert_eq!(status.code(), tonic::Code::InvalidArgument);
        }
    }

    #[tokio::test]
    async fn a_failure_fails_the_call_and_says_to_try_again() {
        for (status, body) in [
            (502, "{}"),
            (200, "{}"),
            (200, "not JSON"),
            (200, r#"{"data":null,"errors":[{"message":"rate limited"}]}"#),
            (200, r#"{"data":{"nodes":[]}}"#),
            (200, r#"{"data":{"nodes":[{"__typename":"PullRequest","repository":{"databaseId":7}},null]}}"#),
        ] {
            let rig = Rig::start(move |_, _| (status, body.to_owned())).await;
            let confirm = service(&rig).await;
            let reason = ask(&confirm, &["PR_1"]).await.unwrap_err();
            assert!(reason.starts_with("unavailable: ") && reason.ends_with("try again"), "{body}: {reason}");
        }
    }

    #[tokio::test]
    async fn another_container_that_asks_much_makes_nobody_ask_again() {
        let rig = Rig::start(answer).await;
        let confirm = service(&rig).await;
        ask(&confirm, &["PR_1", "REF_sandbox/x"]).await.unwrap();
        let busy = IpAddr::from([10, 0, 0, 2]);
        {
            let mut remembered = confirm.remembered.lock().unwrap();
            for number in 0..100_000 {
                let question = Question::node(&format!("PR_{number}"), Purpose::Write);
                remembered.questions.insert(busy, (1, question));
            }
        }
        ask(&confirm, &["PR_1", "REF_sandbox/x"]).await.unwrap();
        assert_eq!(rig.asked("POST /graphql"), 1);
    }

    #[tokio::test]
    async fn a_container_without_calls_left_is_told_so() {
        let rig = Rig::start(answer).await;
        let confirm = service(&rig).await;
        let reset = jiff::Timestamp::now().as_second() + 1_000;
        let values = ["5000".to_owned(), "0".to_owned(), reset.to_string(), "graphql".to_owned()];
        *rig.headers.lock().unwrap() = base::quota::HEADERS.into_iter().zip(values).collect();
        assert_eq!(ask(&confirm, &["PR_1"]).await, Ok(()), "the last call is still good");
        assert_eq!(ask(&confirm, &["PR_1"]).await, Ok(()), "a confirmed node costs no call");
        let refused = ask(&confirm, &["LA_1"]).await.unwrap_err();
        assert!(refused.starts_with("limited: 0 of 5000 calls"), "{refused}");
        assert_eq!(rig.asked("POST /graphql"), 1);
    }
}
