//! Confirms with GitHub that the nodes in a GraphQL write belong to the container's repositories. A client can make up
//! an id, so only GitHub's response counts.
//!
//! The github filter calls this for requests that its own rules allow. A node that is not confirmed is refused,
//! whatever the reason. Only confirmed nodes are cached, for one record under one policy.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use policy::github::MAX_ASK;
use policy::{Container, Policy, branch_of};
use registry_proto::address_of;
use registry_proto::github::git_hub_server::{GitHub, GitHubServer};
use registry_proto::github::{ConfirmRequest, ConfirmResponse};
use serde::Deserialize;
use serde_json::json;
use tonic::{Request, Response, Status};

use super::client::Client;
use super::recent::Recent;
use credentials::Subject;
use registry::Registry;

/// The longest id, in bytes. A ref's id contains its name, which has at most 255 bytes.
const MAX_ID: usize = 512;

/// The query: every type of node that belongs to a repository, with the field that leads there. `repository` is not
/// nullable in any of them, so the fields can be merged (GraphQL section 5.3.2).
const QUERY: &str = "query($ids:[ID!]!){nodes(ids:$ids){__typename \
    ...on Repository{databaseId} \
    ...on RepositoryNode{repository{databaseId}} \
    ...on GitObject{repository{databaseId}} \
    ...on Ref{name prefix repository{databaseId}} \
    ...on Label{repository{databaseId}} \
    ...on Milestone{repository{databaseId}} \
    ...on Release{repository{databaseId}} \
    ...on PullRequestReviewThread{repository{databaseId}} \
    ...on DiscussionComment{discussion{repository{databaseId}}}}}";

/// The service.
#[derive(Debug)]
pub struct Confirm {
    registry: Arc<Registry>,
    client: Arc<Client>,
    remembered: Mutex<Remembered>,
}

/// A confirmed node: the container's address, the record's generation, and the id.
type Key = (IpAddr, u64, String);

/// The nodes that were confirmed under one policy.
#[derive(Debug, Default)]
struct Remembered {
    policy: String,
    nodes: Recent<Key>,
}

impl Remembered {
    /// Drops the nodes that were confirmed under another policy.
    fn under(&mut self, policy: &Policy) {
        if self.policy != policy.version {
            *self = Self { policy: policy.version.clone(), ..Self::default() };
        }
    }
}

/// Why nodes are not confirmed, as a sentence for the refusal.
#[derive(Debug)]
enum Unconfirmed {
    /// The nodes are not the container's.
    No(String),
    /// This can't be decided now. The call fails, and the github filter refuses with 503.
    NotNow(&'static str),
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

    /// Confirms that `ids` belong to the container at `address`.
    ///
    /// # Errors
    /// If they are not confirmed.
    async fn confirm(&self, address: IpAddr, ids: &[String]) -> Result<(), Unconfirmed> {
        let (policy, container) = (self.registry.policy(), super::container(&self.registry, address)?);
        if ids.is_empty() || ids.len() > MAX_ASK || ids.iter().any(|id| id.len() > MAX_ID) {
            return Err(format!("a request may name 1 to {MAX_ASK} nodes").into());
        }
        let open = self.open(&policy, &container, ids);
        if open.is_empty() {
            return Ok(());
        }
        let nodes = self.ask(&container, &open).await?;
        for (id, node) in open.iter().zip(&nodes) {
            belongs(id, node.as_ref(), &container, &policy)?;
        }
        // The call to GitHub takes time, so the record may have been replaced meanwhile.
        if super::container(&self.registry, address)?.generation != container.generation {
            return Err(Unconfirmed::NotNow("the container's registration has just changed; try again"));
        }
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        remembered.under(&policy);
        open.into_iter().for_each(|id| remembered.nodes.insert((container.container_ip, container.generation, id)));
        Ok(())
    }

    /// The ids that are not confirmed yet, each once.
    fn open(&self, policy: &Policy, container: &Container, ids: &[String]) -> Vec<String> {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        remembered.under(policy);
        let mut open: Vec<String> = Vec::new();
        for id in ids {
            let known = remembered.nodes.holds(&(container.container_ip, container.generation, id.clone()));
            if !known && !open.contains(id) {
                open.push(id.clone());
            }
        }
        open
    }

    /// GitHub's data on `ids`, in the same order, requested with a token for `container`.
    async fn ask(&self, container: &Container, ids: &[String]) -> Result<Vec<Option<Node>>, Unconfirmed> {
        let body = json!({ "query": QUERY, "variables": { "ids": ids } });
        let nodes =
            match self.client.ask(Subject { container, repo: None }, "/graphql", body.to_string().into_bytes()).await {
                Ok(answer) if answer.status == 200 => read(&answer.body, ids.len()),
                Ok(answer) => Err(format!("status {}", answer.status)),
                Err(error) => Err(error.to_string()),
            };
        nodes.map_err(|why| {
            tracing::warn!(why, "GitHub could not confirm the repositories of nodes");
            Unconfirmed::NotNow("GitHub could not confirm the repositories of the nodes in this request; try again")
        })
    }
}

#[tonic::async_trait]
impl GitHub for Confirm {
    async fn confirm(&self, request: Request<ConfirmRequest>) -> Result<Response<ConfirmResponse>, Status> {
        let request = request.into_inner();
        let address =
            address_of(&request.address).ok_or_else(|| Status::invalid_argument("an address has 4 or 16 bytes"))?;
        match Self::confirm(self, address, &request.node_ids).await {
            Ok(()) => Ok(Response::new(ConfirmResponse { confirmed: true, reason: String::new() })),
            Err(Unconfirmed::No(reason)) => Ok(Response::new(ConfirmResponse { confirmed: false, reason })),
            Err(Unconfirmed::NotNow(reason)) => Err(Status::unavailable(reason)),
        }
    }
}

/// The response to [`QUERY`].
#[derive(Deserialize)]
struct Raw {
    data: Option<Data>,
}

#[derive(Deserialize)]
struct Data {
    nodes: Vec<Option<Node>>,
}

/// The requested fields of a node.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Node {
    #[serde(rename = "__typename")]
    kind: String,
    database_id: Option<u64>,
    name: Option<String>,
    prefix: Option<String>,
    repository: Option<Repository>,
    discussion: Option<Discussion>,
}

#[derive(Debug, Deserialize)]
struct Repository {
    #[serde(rename = "databaseId")]
    database_id: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct Discussion {
    repository: Repository,
}

impl Node {
    /// The number of the repository that the node is or belongs to.
    fn repository(&self) -> Option<u64> {
        match self.kind.as_str() {
            "Repository" => self.database_id,
            "DiscussionComment" => self.discussion.as_ref()?.repository.database_id,
            _ => self.repository.as_ref()?.database_id,
        }
    }
}

/// Parses a response about `count` nodes. For a node with an error the data is null.
fn read(body: &[u8], count: usize) -> Result<Vec<Option<Node>>, String> {
    let raw: Raw = serde_json::from_slice(body).map_err(|error| format!("its answer is not understood: {error}"))?;
    let nodes = raw.data.ok_or("its answer has no data")?.nodes;
    if nodes.len() == count { Ok(nodes) } else { Err(format!("it answers {} nodes for {count}", nodes.len())) }
}

/// Checks that the node `id` belongs to the container, and if it is a branch, that the container may move it.
fn belongs(id: &str, node: Option<&Node>, container: &Container, policy: &Policy) -> Result<(), Unconfirmed> {
    let node = node.ok_or_else(|| format!("GitHub knows no {id}, or the gateway's token may not see it"))?;
    let found = node.repository().ok_or_else(|| format!("{id} is a {}, which is in no repository", node.kind))?;
    if !container.repos.iter().any(|repo| repo.id() == Some(found)) {
        if container.repos.iter().any(|repo| repo.id().is_none()) {
            let reason = "the numbers of this container's repositories are still being looked up; try again";
            return Err(Unconfirmed::NotNow(reason));
        }
        return Err(format!("{id} is not in one of this container's repositories").into());
    }
    if node.kind != "Ref" {
        return Ok(());
    }
    let name = node.prefix.as_deref().unwrap_or_default().to_owned() + node.name.as_deref().unwrap_or_default();
    let branch = branch_of(&name).ok_or_else(|| format!("{id} is {name:?}, which is no branch"))?;
    let moved = policy.github.branches.may_move(container, branch);
    moved.map_err(|_| format!("{id} is the branch {branch}, which this container may not move").into())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::super::testing::Rig;
    use super::*;
    use serde_json::Value;

    const ADDRESS: [u8; 4] = [10, 0, 0, 1];

    /// The server's data on a node, by its id.
    fn node(id: &str) -> Value {
        let repository = json!({"databaseId": if id.ends_with("foreign") { 8 } else { 7 }});
        let (kind, _) = id.split_once('_').unwrap_or((id, ""));
        match kind {
            "R" => json!({"__typename": "Repository", "databaseId": repository["databaseId"]}),
            "PR" => json!({"__typename": "PullRequest", "repository": repository}),
            "LA" => json!({"__typename": "Label", "repository": repository}),
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
        rig.registry.put(record(json!([{"name": "acme/app", "id": 7}]))).await.unwrap();
        Confirm { registry: Arc::clone(&rig.registry), client: Arc::clone(&rig.client), remembered: Mutex::default() }
    }

    async fn ask(confirm: &Confirm, ids: &[&str]) -> Result<(), String> {
        let node_ids = ids.iter().map(|id| (*id).to_owned()).collect();
        let request = ConfirmRequest { address: ADDRESS.to_vec(), node_ids };
        let answer = match GitHub::confirm(confirm, Request::new(request)).await {
            Ok(answer) => answer.into_inner(),
            Err(status) => {
                assert_eq!(status.code(), tonic::Code::Unavailable);
                return Err(format!("unavailable: {}", status.message()));
            }
        };
        assert_eq!(answer.confirmed, answer.reason.is_empty());
        if answer.confirmed { Ok(()) } else { Err(answer.reason) }
    }

    #[tokio::test]
    async fn nodes_of_the_containers_own_are_confirmed_and_no_others() {
        let rig = Rig::start(answer).await;
        let confirm = service(&rig).await;
        for ids in [&["R_1"][..], &["PR_1", "LA_1", "DC_1", "REF_sandbox/x"]] {
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
    async fn what_was_confirmed_counts_for_that_record_and_that_policy() {
        let rig = Rig::start(answer).await;
        let confirm = service(&rig).await;
        let asked = || rig.asked("POST /graphql");
        for _ in 0..3 {
            ask(&confirm, &["PR_1", "REF_sandbox/x"]).await.unwrap();
        }
        assert_eq!(asked(), 1);
        ask(&confirm, &["PR_1", "LA_1"]).await.unwrap();
        assert_eq!(asked(), 2, "the new one only");
        for _ in 0..2 {
            ask(&confirm, &["PR_foreign"]).await.unwrap_err();
        }
        assert_eq!(asked(), 4, "a no is not remembered");
        rig.registry.put(record(json!([{"name": "acme/other", "id": 9}]))).await.unwrap();
        ask(&confirm, &["PR_1"]).await.unwrap_err();
        rig.registry.put(record(json!([{"name": "acme/app", "id": 7}]))).await.unwrap();
        ask(&confirm, &["REF_sandbox/x"]).await.unwrap();
        let mut policy = Policy::clone(&rig.registry.policy());
        policy.version = "other".into();
        policy.github.branches.protected = vec![policy::BranchGlob::parse("sandbox/*").unwrap()];
        rig.registry.set_policy(policy);
        ask(&confirm, &["REF_sandbox/x"]).await.unwrap_err();
    }

    #[tokio::test]
    async fn nobody_and_the_unready_are_confirmed_nothing() {
        let rig = Rig::start(answer).await;
        let confirm = service(&rig).await;
        rig.registry.put(record(json!(["acme/app"]))).await.unwrap();
        assert!(ask(&confirm, &["PR_1"]).await.unwrap_err().contains("still being looked up"));
        rig.registry
            .put(Container { blocked: Some("x".into()), ..record(json!([{"name": "acme/app", "id": 7}])) })
            .await
            .unwrap();
        assert!(ask(&confirm, &["PR_1"]).await.unwrap_err().contains("blocked"));
        rig.registry.remove(IpAddr::from(ADDRESS)).await.unwrap();
        assert!(ask(&confirm, &["PR_1"]).await.unwrap_err().contains("no container"));
        let odd = ConfirmRequest { address: vec![1], node_ids: vec![] };
        assert!(GitHub::confirm(&confirm, Request::new(odd)).await.is_err());
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
}
