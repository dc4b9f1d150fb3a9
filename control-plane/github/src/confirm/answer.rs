//! GitHub's answers about the objects of a request: the queries, the data that is read of them, and the condition of
//! each purpose. Called by `confirm`.

use policy::github::{Purpose, Question};
use policy::{BranchDenial, Container, Existing, Policy, Repo, branch_of};
use serde::Deserialize;

use super::Unconfirmed;

/// The query for nodes: every type of node that belongs to a repository, with the field that leads there, and the
/// fields that the purposes need. Fields of one name are nullable in none of these types, so they can be merged (GraphQL
/// section 5.3.2).
pub(super) const NODES: &str = "query($ids:[ID!]!){nodes(ids:$ids){__typename \
    ...on Repository{databaseId} \
    ...on RepositoryNode{repository{databaseId}} \
    ...on GitObject{repository{databaseId}} \
    ...on Ref{name prefix repository{databaseId}} \
    ...on Label{name repository{databaseId}} \
    ...on Milestone{repository{databaseId}} \
    ...on Release{repository{databaseId}} \
    ...on CheckRun{repository{databaseId}} \
    ...on CheckSuite{repository{databaseId}} \
    ...on Deployment{repository{databaseId}} \
    ...on PullRequestReviewThread{repository{databaseId}} \
    ...on PullRequestCommit{pullRequest{repository{databaseId}}} \
    ...on DiscussionComment{discussion{repository{databaseId}}} \
    ...on LinkedBranch{ref{repository{databaseId}}} \
    ...on LabeledEvent{labelable{...on RepositoryNode{repository{databaseId}}}} \
    ...on Comment{viewerDidAuthor} \
    ...on Actor{login}}}";

/// The query for an issue or a pull request by its number.
pub(super) const ISSUE: &str = "query($owner:String!,$name:String!,$number:Int!){repository(owner:$owner,name:$name){\
    node:issueOrPullRequest(number:$number){__typename \
    ...on RepositoryNode{repository{databaseId}} \
    ...on Comment{viewerDidAuthor}}}}";

/// The response to [`NODES`].
#[derive(Deserialize)]
pub(super) struct Nodes {
    pub(super) nodes: Vec<Option<Node>>,
}

/// The response to [`ISSUE`].
#[derive(Deserialize)]
pub(super) struct OfRepository {
    repository: Option<OneNode>,
}

#[derive(Deserialize)]
struct OneNode {
    node: Option<Node>,
}

impl OfRepository {
    /// The issue. `None` if GitHub knows no such issue.
    pub(super) fn node(self) -> Option<Node> {
        self.repository?.node
    }
}

/// The requested fields of a node.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Node {
    #[serde(rename = "__typename")]
    kind: String,
    database_id: Option<u64>,
    name: Option<String>,
    prefix: Option<String>,
    login: Option<String>,
    viewer_did_author: Option<bool>,
    repository: Option<Repository>,
    discussion: Option<Owner>,
    pull_request: Option<Owner>,
    #[serde(rename = "ref")]
    reference: Option<Owner>,
    labelable: Option<Owner>,
}

#[derive(Debug, Deserialize)]
struct Repository {
    #[serde(rename = "databaseId")]
    database_id: Option<u64>,
}

/// The object that a node belongs to.
#[derive(Debug, Deserialize)]
struct Owner {
    repository: Option<Repository>,
}

impl Node {
    /// The number of the repository that the node is or belongs to.
    fn repository(&self) -> Option<u64> {
        let owner = match self.kind.as_str() {
            "Repository" => return self.database_id,
            "DiscussionComment" => &self.discussion,
            "LabeledEvent" => &self.labelable,
            "LinkedBranch" => &self.reference,
            "PullRequestCommit" => &self.pull_request,
            _ => return self.repository.as_ref()?.database_id,
        };
        owner.as_ref()?.repository.as_ref()?.database_id
    }
}

/// Checks that GitHub's data on an object fits its purpose.
///
/// # Errors
/// If the data does not fit, or if the number of one of the container's repositories is not known yet.
pub(super) fn fits(
    question: &Question,
    node: Option<&Node>,
    container: &Container,
    policy: &Policy,
) -> Result<(), Unconfirmed> {
    let Question { about, purpose } = question;
    let node = node.ok_or_else(|| format!("GitHub knows no {about}, or the gateway's token may not see it"))?;
    if *purpose == Purpose::Person {
        return match node.login.as_deref() {
            Some(login) if node.kind != "Bot" => policy.github.login(login).map_err(Unconfirmed::No),
            _ => Err(format!("{about} is a {}, and no person", node.kind).into()),
        };
    }
    let found = node.repository().ok_or_else(|| format!("{about} is a {}, which is in no repository", node.kind))?;
    let Some(repo) = container.repos.iter().find(|repo| repo.id() == Some(found)) else {
        if container.repos.iter().any(|repo| repo.id().is_none()) {
            let reason = "the numbers of this container's repositories are still being looked up; try again";
            return Err(Unconfirmed::NotNow(reason));
        }
        return Err(format!("{about} is not in one of this container's repositories").into());
    };
    match purpose {
        Purpose::Read | Purpose::Person => Ok(()),
        Purpose::Write | Purpose::Force if node.kind == "Ref" => branch(question, node, (container, repo), policy),
        Purpose::Write => Ok(()),
        Purpose::Force => Err(format!("{about} is a {}, and no branch", node.kind).into()),
        Purpose::SetLabel | Purpose::DropLabel => match (node.kind.as_str(), node.name.as_deref()) {
            ("Label", Some(name)) if *purpose == Purpose::SetLabel => {
                policy.github.label(name).map_err(Unconfirmed::No)
            }
            ("Label", Some(name)) => policy.github.drop_label(name).map_err(Unconfirmed::No),
            _ => Err(format!("{about} is a {}, and no label", node.kind).into()),
        },
        Purpose::Rewrite if node.viewer_did_author == Some(true) => Ok(()),
        Purpose::Rewrite => Err(format!(
            "{about} was written by another account than the gateway's, so its text may not be changed; write a \
             comment of your own"
        )
        .into()),
    }
}

/// Checks that a ref is a branch that the container may move.
fn branch(
    question: &Question,
    node: &Node,
    (container, repo): (&Container, &Repo),
    policy: &Policy,
) -> Result<(), Unconfirmed> {
    let about = &question.about;
    let name = node.prefix.as_deref().unwrap_or_default().to_owned() + node.name.as_deref().unwrap_or_default();
    let branch = branch_of(&name).ok_or_else(|| format!("{about} is {name:?}, which is no branch"))?;
    let branches = &policy.github.branches;
    match branches.may_move(container, Some(repo), branch, Existing::Yes) {
        Ok(()) => {}
        Err(BranchDenial::DefaultUnknown) => {
            return Err(Unconfirmed::NotNow("the repository's default branch is still being looked up; try again"));
        }
        Err(_) => return Err(format!("{about} is the branch {branch}, which this container may not move").into()),
    }
    if question.purpose == Purpose::Force && !branches.may_force(container, branch) {
        return Err(format!("{about} is the branch {branch}, which this container may not move by force").into());
    }
    Ok(())
}
