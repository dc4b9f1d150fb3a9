//! The container that makes a request, and the checks against its record that REST, GraphQL and the guards share.

use super::{Class, Listed, Operation, Refused, Rules};
use crate::branch::BranchDenial;
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

    /// Checks whether the container may create `branch` or write to it.
    ///
    /// # Errors
    /// If it may not. The refusal lists the branches that would be allowed.
    pub fn branch(&self, operation: &Operation, branch: &str) -> Result<(), Refused> {
        let Err(why) = self.rules.branches.may_move(self.container, branch) else { return Ok(()) };
        let (rule, reason) = match why {
            BranchDenial::Malformed => (Rule::GithubBranchName, format!("{branch:?} is not a valid branch name")),
            BranchDenial::Protected => (Rule::GithubProtectedBranch, format!("{branch} is protected")),
            BranchDenial::NotAllowed => {
                let globs: Vec<_> = self.container.allowed_branches.iter().map(ToString::to_string).collect();
                (
                    Rule::GithubBranch,
                    format!("{branch} is not one of this container's branches, which are {}", globs.join(", ")),
                )
            }
        };
        Err(Refused::of(operation, rule, reason))
    }

    /// Checks whether the container may move the ref with this full name. Only branches may be moved.
    ///
    /// # Errors
    /// If the request is refused.
    pub fn reference(&self, operation: &Operation, refname: &str) -> Result<(), Refused> {
        match branch_of(refname) {
            Some(branch) => self.branch(operation, branch),
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

    /// Checks whether `login` may be assigned or requested as a reviewer. Agents and bots start work when they are.
    ///
    /// # Errors
    /// If the request is refused.
    pub fn login(&self, operation: &Operation, login: &str) -> Result<(), Refused> {
        let bot = login.to_ascii_lowercase().ends_with("[bot]");
        if bot || self.rules.agents.iter().any(|agent| agent.eq_ignore_ascii_case(login)) {
            let reason = format!("{login} is an agent or a bot, and would start to work");
            return Err(Refused::of(operation, Rule::GithubAgent, reason));
        }
        Ok(())
    }

    /// Checks whether `label` may be set.
    ///
    /// # Errors
    /// If the request is refused.
    pub fn label(&self, operation: &Operation, label: &str) -> Result<(), Refused> {
        if self.rules.labels.iter().any(|denied| denied.to_lowercase() == label.trim().to_lowercase()) {
            let reason = format!("the label {label:?} triggers an automation");
            return Err(Refused::of(operation, Rule::GithubLabel, reason));
        }
        Ok(())
    }

    /// Checks whether `text` may be the text of a comment, an issue, a pull request or a review. No line of it may
    /// begin with a command to a bot.
    ///
    /// # Errors
    /// If the request is refused.
    pub fn text(&self, operation: &Operation, text: &str) -> Result<(), Refused> {
        let lower = text.to_lowercase();
        for line in lower.split(['\n', '\r', '\u{2028}', '\u{2029}', '\u{85}', '\u{b}', '\u{c}']) {
            let line = line.trim_start_matches(|c: char| {
                c.is_whitespace() || c.is_control() || "\u{200b}\u{feff}\u{200c}\u{200d}\u{2060}>*-".contains(c)
            });
            if let Some(command) = self.rules.commands.iter().find(|command| line.starts_with(&command.to_lowercase()))
            {
                let reason = format!("a line begins with {command:?}, which is a command to a bot");
                return Err(Refused::of(operation, Rule::GithubCommand, reason));
            }
        }
        Ok(())
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
