//! The container that makes a request, and the checks against its record that REST, GraphQL and the guards share.

use super::{Class, Listed, Operation, Refused, Rules, words};
use crate::branch::{BranchDenial, Existing};
use crate::{AuthMode, Container, Repo, Rule, branch_of, glob};

/// A container, and the rules that apply to it.
#[derive(Clone, Copy, Debug)]
pub struct Scope<'a> {
    /// The container that makes the request.
    pub container: &'a Container,
    /// The rules in force.
    pub rules: &'a Rules,
}

impl<'a> Scope<'a> {
    /// The container's repository `owner/name`. Returns `None` if the container has no such repository.
    pub fn repo(&self, owner: &str, name: &str) -> Option<&'a Repo> {
        self.container.repos.iter().find(|repo| repo.is(owner.as_bytes(), name.as_bytes()))
    }

    /// The container's repository with GitHub's number `id`.
    ///
    /// # Errors
    /// If the container has no repository with this number. If the number of one of its repositories is not known yet,
    /// the refusal has status 503.
    pub fn repo_by_id(&self, operation: &Operation, id: u64) -> Result<&'a Repo, Refused> {
        if let Some(repo) = self.container.repos.iter().find(|repo| repo.id() == Some(id)) {
            return Ok(repo);
        }
        if self.container.repos.iter().any(|repo| repo.id().is_none()) {
            let reason = "the numbers of this container's repositories are still being looked up; try again";
            return Err(Refused::of(operation, Rule::GithubIdsPending, reason));
        }
        Err(Refused::of(operation, Rule::GithubRepo, format!("repository number {id} is not one of this container's")))
    }

    /// Whether the policy lets the container read public repositories that are not its own, without a credential.
    pub fn reads_public(&self) -> bool {
        self.rules.allows(self.container, Class::ReadPublic)
    }

    /// The refusal of an operation on `repo`, which is not the container's. `read`: with [`Class::ReadPublic`] it would
    /// pass.
    pub fn foreign(&self, operation: &Operation, repo: &str, read: bool) -> Refused {
        let hint = if read { "; the policy may allow reads of public ones with github: {public: read}" } else { "" };
        let reason = format!("{repo} is not one of the repositories of {}{hint}", self.container.container_id);
        Refused::of(operation, Rule::GithubRepo, reason)
    }

    /// Checks whether the policy allows the operation, by its name or else by its class. Returns true if it is allowed
    /// by name; that also enables operations that are off by default.
    ///
    /// # Errors
    /// If the request is refused.
    pub fn operation(&self, operation: &Operation) -> Result<bool, Refused> {
        let denied = |rule, reason: String| Err(Refused::of(operation, rule, reason));
        match self.rules.listed(self.container, &operation.name) {
            Listed::Allowed => Ok(true),
            Listed::Denied => denied(Rule::GithubOperation, format!("{} is refused by the policy", operation.name)),
            Listed::No if self.rules.allows(self.container, operation.class) => Ok(false),
            Listed::No => {
                let doing = operation.class.doing();
                denied(
                    operation.class.rule(),
                    format!("{doing} is not allowed for this container ({})", operation.name),
                )
            }
        }
    }

    /// Checks whether the container may create `branch` of `repo` or write to it. Without a `repo` it may be any of the
    /// container's repositories.
    ///
    /// # Errors
    /// If it may not. The refusal lists the branches that would be allowed.
    pub fn branch(
        &self,
        operation: &Operation,
        repo: Option<&Repo>,
        branch: &str,
        existing: Existing,
    ) -> Result<(), Refused> {
        let moved = self.rules.branches.may_move(self.container, repo, branch, existing);
        moved.map_err(|why| self.refused_branch(operation, branch, why))
    }

    /// Checks whether the container may open a pull request from `branch`, which no write moves.
    ///
    /// # Errors
    /// If the container may not move the branch, except for the reason that it is a default branch.
    pub fn head(&self, operation: &Operation, branch: &str) -> Result<(), Refused> {
        match self.rules.branches.may_move(self.container, None, branch, Existing::Unknown) {
            Ok(()) | Err(BranchDenial::Default | BranchDenial::DefaultUnknown) => Ok(()),
            Err(why) => Err(self.refused_branch(operation, branch, why)),
        }
    }

    fn refused_branch(&self, operation: &Operation, branch: &str, why: BranchDenial) -> Refused {
        let (rule, reason) = match why {
            BranchDenial::Malformed => (Rule::GithubBranchName, format!("{branch:?} is not a valid branch name")),
            BranchDenial::Protected => (Rule::GithubProtectedBranch, format!("{branch} is protected")),
            BranchDenial::Default => {
                (Rule::GithubProtectedBranch, format!("{branch} is the repository's default branch"))
            }
            BranchDenial::DefaultUnknown => {
                let reason = "the repository's default branch is still being looked up; try again in a few seconds";
                (Rule::GithubDefaultUnknown, reason.to_owned())
            }
            BranchDenial::Name(odd) => (Rule::GithubNewName, format!("{branch:?} {odd}")),
            BranchDenial::NotAllowed => {
                let globs: Vec<_> = self.container.allowed_branches.iter().map(ToString::to_string).collect();
                (
                    Rule::GithubBranch,
                    format!("{branch} is not one of this container's branches, which are {}", globs.join(", ")),
                )
            }
        };
        Refused::of(operation, rule, reason)
    }

    /// Checks whether the container may move the ref of `repo` with this full name. Only branches may be moved.
    ///
    /// # Errors
    /// If the request is refused.
    pub fn reference(
        &self,
        operation: &Operation,
        repo: Option<&Repo>,
        refname: &str,
        existing: Existing,
    ) -> Result<(), Refused> {
        match branch_of(refname) {
            Some(branch) => self.branch(operation, repo, branch, existing),
            None => {
                let reason = format!("{refname:?} is not a branch; only refs/heads/… can be moved");
                Err(Refused::of(operation, Rule::GithubRef, reason))
            }
        }
    }

    /// Checks whether the container may write to the file at `path` (decoded) in a repository.
    ///
    /// # Errors
    /// If the request is refused.
    pub fn path(&self, operation: &Operation, path: &str) -> Result<(), Refused> {
        let plain = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.eq_ignore_ascii_case(".git");
        if path.chars().any(char::is_control) || path.contains('\\') || !path.split('/').all(plain) {
            return Err(Refused::of(operation, Rule::GithubPath, format!("{path:?} is not a plain file path")));
        }
        let lower = path.to_lowercase();
        let restricts = |glob: &String| glob::covers(glob.to_lowercase().as_bytes(), lower.as_bytes());
        if self.container.auth_mode == AuthMode::Bot && self.rules.restricted_paths.iter().any(restricts) {
            let reason = format!("{path} is a restricted path, because files there run with their own rights");
            return Err(Refused::of(operation, Rule::GithubRestrictedPath, reason));
        }
        Ok(())
    }

    /// Checks whether `login` may be assigned or requested as a reviewer.
    ///
    /// # Errors
    /// If the request is refused.
    pub fn login(&self, operation: &Operation, login: &str) -> Result<(), Refused> {
        self.rules.login(login).map_err(|reason| Refused::of(operation, Rule::GithubAgent, reason))
    }

    /// Checks whether `label` may be set.
    ///
    /// # Errors
    /// If the request is refused.
    pub fn label(&self, operation: &Operation, label: &str) -> Result<(), Refused> {
        self.rules.label(label).map_err(|reason| Refused::of(operation, Rule::GithubLabel, reason))
    }

    /// Checks whether `label` may be removed, renamed, changed or deleted.
    ///
    /// # Errors
    /// If the request is refused.
    pub fn drop_label(&self, operation: &Operation, label: &str) -> Result<(), Refused> {
        self.rules.drop_label(label).map_err(|reason| Refused::of(operation, Rule::GithubLabel, reason))
    }

    /// Checks whether all labels of an object may be removed or replaced at once.
    ///
    /// # Errors
    /// If the request is refused.
    pub fn all_labels(&self, operation: &Operation) -> Result<(), Refused> {
        self.rules.all_labels().map_err(|reason| Refused::of(operation, Rule::GithubLabel, reason))
    }

    /// Checks whether `text` may be the text of a comment, an issue, a pull request or a review: it may contain no
    /// command to a bot.
    ///
    /// # Errors
    /// If the request is refused.
    pub fn text(&self, operation: &Operation, text: &str) -> Result<(), Refused> {
        let Some(command) = words::command(&self.rules.commands, text) else { return Ok(()) };
        let reason = if command.starts_with('@') {
            format!("the text mentions {command:?}, which is an order to a bot")
        } else {
            format!("a line begins with {command:?}, which is a command to a bot")
        };
        Err(Refused::of(operation, Rule::GithubCommand, reason))
    }

    /// Checks whether a review may have the event `event`.
    ///
    /// # Errors
    /// If the event is an approval, or unknown.
    pub fn review_event(&self, operation: &Operation, event: &str) -> Result<(), Refused> {
        match event {
            "COMMENT" | "REQUEST_CHANGES" | "PENDING" => Ok(()),
            _ => Err(Refused::of(operation, Class::Gate.rule(), format!("a review may not be {event}"))),
        }
    }
}
