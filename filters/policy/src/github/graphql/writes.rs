//! Judges mutations: by the class, as for a REST operation, and by every value of the input, according to its place. An
//! id has to be of a type that GitHub documents for its place, and of one of the container's repositories.

use super::super::node_id::{Home, NodeId};
use super::super::{Class, Operation, Purpose, Refused, Scope};
use super::document::Field;
use super::malformed;
use super::reads::Reader;
use super::schema::{self, InputKind, Mutation};
use super::variables::Given;
use crate::{Existing, Repo, Rule, branch_of};

/// Mutations, each with the input member that is required here: either GitHub would use a default in its place, or the
/// branch rules need it.
const REQUIRED: [(&str, &str); 6] = [
    ("createCommitOnBranch", "branch"),
    ("createLinkedBranch", "name"),
    ("createPullRequest", "headRefName"),
    ("createRef", "name"),
    ("mergeBranch", "base"),
    ("updateRefs", "refUpdates"),
];

/// Mutations that change a text, with the member that names it. The gateway's own account has to have written it.
const REWRITES: [(&str, &str); 7] = [
    ("updateDiscussion", "discussionId"),
    ("updateDiscussionComment", "commentId"),
    ("updateIssue", "id"),
    ("updateIssueComment", "id"),
    ("updatePullRequest", "pullRequestId"),
    ("updatePullRequestReview", "pullRequestReviewId"),
    ("updatePullRequestReviewComment", "pullRequestReviewCommentId"),
];

/// Judges each mutation at the root. Returns the operation of the first.
pub fn judge<'a>(reader: &mut Reader<'a>, roots: &[&'a Field<'a>]) -> Result<(Operation, Rule), Refused> {
    let mut first = None;
    for field in roots {
        if field.name == "__typename" {
            let operation = Operation { name: "mutation".into(), class: Class::ReadGlobal };
            reader.leaf(&operation, field)?;
            continue;
        }
        let judged = root(reader, field)?;
        first.get_or_insert(judged);
    }
    first.ok_or_else(|| malformed("the document has no mutation"))
}

fn root<'a>(reader: &mut Reader<'a>, field: &'a Field<'a>) -> Result<(Operation, Rule), Refused> {
    let mutation = Mutation::named(field.name).ok_or_else(|| {
        let reason = format!("{} is not a mutation that the gateway knows", field.name);
        Refused::unknown(Rule::GithubUnknownOperation, reason)
    })?;
    let operation = Operation { name: mutation.name.to_owned(), class: mutation.class };
    let by_name = reader.scope.operation(&operation)?;
    if mutation.off && !by_name {
        let reason = format!("{} is off unless the policy allows it by name", mutation.name);
        return Err(Refused::of(&operation, Rule::GithubOffByDefault, reason));
    }
    let given = reader.arguments(field)?;
    let [("input", Given::Object(members))] = &given[..] else {
        return Err(Refused::of(
            &operation,
            Rule::GithubInput,
            "a mutation takes the single argument input, an object",
        ));
    };
    if operation.name == "clearLabelsFromLabelable" {
        reader.scope.all_labels(&operation)?;
    }
    let has_text = members.iter().any(|(name, value)| matches!(*name, "title" | "body") && *value != Given::Null);
    let rewrites = has_text && !by_name;
    let repo = home(reader.scope, members);
    let mut writer = Writer { reader, operation: &operation, by_name, repo, rewrites, force: Force::Unset };
    writer.object(mutation.input, members)?;
    writer.required(members)?;
    reader.follow(&operation, mutation.payload(), &field.selections, 0)?;
    Ok((operation, if by_name { Rule::GithubOperation } else { mutation.class.rule() }))
}

/// The repository that the input names, by `repositoryId` or by `repositoryNameWithOwner`. Returns `None` if it names none
/// of the container's.
fn home<'a>(scope: Scope<'a>, members: &[(&str, Given<'_>)]) -> Option<&'a Repo> {
    members.iter().find_map(|(name, value)| match (*name, value) {
        ("repositoryId", Given::Text(id)) => match NodeId::decode(id)?.home {
            Home::Repo(number, _) => scope.container.repos.iter().find(|repo| repo.id() == Some(number)),
            Home::Nobody | Home::Unsaid => None,
        },
        ("repositoryNameWithOwner", Given::Text(name)) => {
            name.split_once('/').and_then(|(owner, name)| scope.repo(owner, name))
        }
        ("branch", Given::Object(members)) => home(scope, members),
        _ => None,
    })
}

const NO_FORCE: &str = "a branch may not be moved by force";

struct Writer<'r, 'a> {
    reader: &'r mut Reader<'a>,
    operation: &'r Operation,
    /// The policy allows the mutation by name. This lifts the guards that are a matter of taste, and no guard that
    /// protects refs or repositories.
    by_name: bool,
    /// The repository that the input names.
    repo: Option<&'a Repo>,
    /// The mutation changes a title or a body, and the policy does not allow it by name.
    rewrites: bool,
    /// Whether the object that is judged moves a ref by force.
    force: Force,
}

/// Whether an object moves a ref by force.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Force {
    /// It does not.
    Unset,
    /// The container may move this branch by force.
    Allowed,
    /// The container may not, or the branch is unknown.
    Refused,
}

impl Writer<'_, '_> {
    fn refuse(&self, rule: Rule, reason: impl Into<String>) -> Result<(), Refused> {
        Err(Refused::of(self.operation, rule, reason))
    }

    /// Judges an object of the input type with the index `input`.
    fn object(&mut self, input: u16, members: &[(&str, Given<'_>)]) -> Result<(), Refused> {
        let forced = self.forced(members);
        let outer = std::mem::replace(&mut self.force, forced);
        for (name, value) in members {
            match schema::member(input, name) {
                Some(kind) => self.member(name, kind, value)?,
                None => {
                    let reason = format!("the input of {} has no member {name:?} there", self.operation.name);
                    return self.refuse(Rule::GithubInput, reason);
                }
            }
        }
        self.force = outer;
        Ok(())
    }

    /// Whether an object with these members moves a ref by force, and whether the container may do so. The ref stands
    /// beside `force`, by its name or by its id.
    fn forced(&self, members: &[(&str, Given<'_>)]) -> Force {
        let member = |name: &str| members.iter().find(|(have, _)| *have == name).map(|(_, value)| value);
        if matches!(member("force"), None | Some(Given::Null | Given::Boolean(false))) {
            return Force::Unset;
        }
        let by_id = |id: &str| match NodeId::decode(id).map(|id| id.home) {
            Some(Home::Repo(_, reference)) => reference,
            _ => None,
        };
        let reference = match (member("name"), member("refId")) {
            (Some(Given::Text(name)), _) => Some((*name).to_owned()),
            (None, Some(Given::Text(id))) => by_id(id),
            _ => None,
        };
        let scope = &self.reader.scope;
        let may = |branch| scope.rules.branches.may_force(scope.container, branch);
        if reference.as_deref().and_then(branch_of).is_some_and(may) { Force::Allowed } else { Force::Refused }
    }

    /// Judges a member, or each element of a list. GitHub accepts a single value in place of a list of one element, so
    /// both are judged the same way.
    fn member(&mut self, name: &str, kind: InputKind, value: &Given<'_>) -> Result<(), Refused> {
        // These replace all labels of the issue or the pull request.
        let replaces = matches!(self.operation.name.as_str(), "updateIssue" | "updatePullRequest");
        if replaces && matches!(name, "labelIds" | "labels") && *value != Given::Null {
            self.reader.scope.all_labels(self.operation)?;
        }
        match (kind, value) {
            (_, Given::Null) => Ok(()),
            (_, Given::List(items)) => items.iter().try_for_each(|item| self.member(name, kind, item)),
            (InputKind::Id(kinds), Given::Text(id)) => self.id(name, kinds, id),
            (InputKind::String, Given::Text(text)) => self.text(name, text),
            (InputKind::Enum, Given::Enum(value) | Given::Text(value)) => self.choice(name, value),
            (InputKind::Boolean, Given::Boolean(value)) => self.flag(name, *value),
            (InputKind::Number, Given::Number) => Ok(()),
            // The task for one of GitHub's agents.
            (InputKind::Object(_), _) if name == "agentAssignment" => {
                self.refuse(Class::Agent.rule(), "agentAssignment may not be set, because it starts an agent")
            }
            (InputKind::Object(input), Given::Object(members)) => {
                self.object(input, members)?;
                if self.operation.name == "createCommitOnBranch" && name == "branch" {
                    self.committable(members)?;
                }
                Ok(())
            }
            _ => self.refuse(Rule::GithubInput, format!("{name} has the wrong type")),
        }
    }

    fn id(&mut self, name: &str, kinds: &[&str], text: &str) -> Result<(), Refused> {
        if matches!(name, "projectIds" | "projectV2Ids") {
            return self.refuse(Rule::GithubProject, "projects may not be changed");
        }
        let id = self.reader.decode(self.operation, text)?;
        if !kinds.contains(&id.kind) {
            return self.refuse(Rule::GithubNodeId, format!("{text} is a {}; {name} takes another type", id.kind));
        }
        match id.home {
            Home::Nobody if id.kind == "Bot" => {
                self.refuse(Class::Agent.rule(), format!("{text} is a bot, and would start to work"))
            }
            // GitHub says what the login is.
            Home::Nobody if matches!(id.kind, "User" | "Mannequin" | "Organization") => {
                self.reader.confirm(text, Purpose::Person)
            }
            Home::Nobody => Ok(()),
            Home::Repo(repo, reference) => {
                let repo = self.reader.scope.repo_by_id(self.operation, repo)?;
                if let Some(reference) = reference {
                    self.reader.scope.reference(self.operation, Some(repo), &reference, Existing::Yes)?;
                    if self.operation.name == "deleteRef" {
                        self.deletion()?;
                    }
                }
                // A repository's id contains only its number. Any other object could lie in another repository.
                if id.kind == "Repository" { Ok(()) } else { self.reader.confirm(text, self.purpose(name, id.kind)) }
            }
            Home::Unsaid => self.reader.confirm(text, self.purpose(name, id.kind)),
        }
    }

    /// The purpose of the node of type `kind` that stands in the member `name`.
    fn purpose(&self, name: &str, kind: &str) -> Purpose {
        let mutation = self.operation.name.as_str();
        match (mutation, kind) {
            ("removeLabelsFromLabelable" | "deleteLabel" | "updateLabel", "Label") => Purpose::DropLabel,
            (_, "Label") => Purpose::SetLabel,
            (_, "Ref") if self.force == Force::Allowed => Purpose::Force,
            _ if self.rewrites && REWRITES.contains(&(mutation, name)) => Purpose::Rewrite,
            _ => Purpose::Write,
        }
    }

    fn deletion(&self) -> Result<(), Refused> {
        if self.reader.scope.rules.branches.allow_deletion {
            Ok(())
        } else {
            self.refuse(Rule::GithubDeleteBranch, "a branch may not be deleted")
        }
    }

    fn text(&self, name: &str, text: &str) -> Result<(), Refused> {
        let (scope, operation) = (&self.reader.scope, self.operation);
        match (operation.name.as_str(), name) {
            (_, "clientMutationId") => Ok(()),
            ("createPullRequest", "headRefName") => self.head(text),
            ("updatePullRequest", "baseRefName") if !self.by_name => {
                self.refuse(Rule::GithubBase, "the base of a pull request may not be changed")
            }
            ("createRef", "name") => scope.reference(operation, self.repo, text, Existing::No),
            ("updateRefs", "name") => scope.reference(operation, self.repo, text, Existing::Unknown),
            ("createLinkedBranch", "name") => scope.branch(operation, self.repo, text, Existing::No),
            ("mergeBranch", "base") | ("createCommitOnBranch", "branchName") => {
                scope.branch(operation, self.repo, text, Existing::Yes)
            }
            ("createCommitOnBranch", "repositoryNameWithOwner") => self.named_repo(text),
            ("createCommitOnBranch", "path") => scope.path(operation, text),
            // `owner:branch` is a branch of another repository.
            ("mergeBranch", "head") if text.contains(':') => {
                self.refuse(Class::ReadCross.rule(), "head has to be a branch or a commit of the same repository")
            }
            // A ref that is set to the zero hash is deleted.
            ("updateRef" | "updateRefs", "oid" | "afterOid") if !text.contains(|c| c != '0') => self.deletion(),
            ("createLabel" | "updateLabel", "name") => scope.label(operation, text),
            (_, "actorLogins" | "userLogins" | "assigneeLogins") => scope.login(operation, text),
            (_, "botLogins") => self.refuse(Class::Agent.rule(), format!("{text} is a bot, and would start to work")),
            (_, "subIssueUrl") => self.issue_url(text),
            _ if operation.class == Class::WriteRef => Ok(()),
            _ => scope.text(operation, text),
        }
    }

    fn choice(&self, name: &str, value: &str) -> Result<(), Refused> {
        match (self.operation.name.as_str(), name) {
            ("addPullRequestReview" | "submitPullRequestReview", "event") => {
                self.reader.scope.review_event(self.operation, value)
            }
            // A rebase moves the branch to a commit that does not descend from the old one.
            ("updatePullRequestBranch", "updateMethod")
                if value != "MERGE" && !self.reader.scope.rules.branches.allow_force_push =>
            {
                self.refuse(Rule::GithubForce, NO_FORCE)
            }
            _ => Ok(()),
        }
    }

    fn flag(&self, name: &str, value: bool) -> Result<(), Refused> {
        if name == "force" && value && self.force != Force::Allowed {
            return self.refuse(Rule::GithubForce, NO_FORCE);
        }
        Ok(())
    }

    /// Judges the head of a new pull request, as for REST.
    fn head(&self, head: &str) -> Result<(), Refused> {
        let repos = &self.reader.scope.container.repos;
        let branch = match head.split_once(':') {
            None => head,
            Some((owner, branch)) if repos.iter().any(|repo| repo.owner().eq_ignore_ascii_case(owner)) => branch,
            Some(_) => {
                let reason = format!("{head} is not in one of this container's repositories");
                return self.refuse(Rule::GithubHead, reason);
            }
        };
        self.reader.scope.head(self.operation, branch)
    }

    fn named_repo(&self, text: &str) -> Result<(), Refused> {
        if text.split_once('/').is_some_and(|(owner, name)| self.reader.scope.repo(owner, name).is_some()) {
            Ok(())
        } else {
            let reason =
                format!("{text} is not one of the repositories of {}", self.reader.scope.container.container_id);
            self.refuse(Rule::GithubRepo, reason)
        }
    }

    /// Judges an issue's URL, which has to belong to one of the container's repositories.
    fn issue_url(&self, url: &str) -> Result<(), Refused> {
        let path = url.strip_prefix("https://github.com/").unwrap_or_default();
        let parts: Vec<&str> = path.split('/').collect();
        let own = match parts[..] {
            [owner, name, "issues", number] => {
                let digits = (1..=10).contains(&number.len()) && number.bytes().all(|b| b.is_ascii_digit());
                digits && self.reader.scope.repo(owner, name).is_some()
            }
            _ => false,
        };
        if own {
            Ok(())
        } else {
            self.refuse(Rule::GithubForeignIssue, format!("{url:?} may be an issue of another repository"))
        }
    }

    /// Checks that the branch of a commit is given either by a ref's id, or by the names of a repository and a branch.
    /// The values themselves are judged already.
    fn committable(&self, members: &[(&str, Given<'_>)]) -> Result<(), Refused> {
        let has = |name: &str| members.iter().any(|(have, value)| *have == name && matches!(value, Given::Text(_)));
        match (members.len(), has("id"), has("branchName") && has("repositoryNameWithOwner")) {
            (1, true, _) | (2, _, true) => Ok(()),
            _ => self.missing("branch"),
        }
    }

    fn required(&self, members: &[(&str, Given<'_>)]) -> Result<(), Refused> {
        for (_, name) in REQUIRED.iter().filter(|(mutation, _)| *mutation == self.operation.name) {
            let there = members.iter().any(|(have, value)| have == name && *value != Given::Null);
            if !there {
                return self.missing(name);
            }
        }
        Ok(())
    }

    fn missing(&self, name: &str) -> Result<(), Refused> {
        let reason = format!("{name} is required, because GitHub would use a default in its place");
        self.refuse(Rule::GithubBranchMissing, reason)
    }
}
