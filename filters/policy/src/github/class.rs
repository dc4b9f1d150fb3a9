//! What GitHub's operations do, in seventeen words; the policy speaks of these.

use crate::Rule;
use serde::{Deserialize, Serialize};

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// A read inside one repository.
    ReadRepo,
    /// A read of a repository's secrets' names, hooks, keys, protections, collaborators, runners.
    ReadAdmin,
    /// A read of what is nobody's: rate limit, licences, the token's own user.
    ReadGlobal,
    /// A read that may answer with data of other repositories.
    ReadCross,
    /// A read of organisations, enterprises and users.
    ReadAccount,
    /// Issues, pull requests, reviews, comments, labels.
    WriteCollab,
    /// Git objects that no ref leads to yet.
    WriteObject,
    /// Refs, and commits on a branch.
    WriteRef,
    /// Merging, now or later.
    Merge,
    /// What can satisfy or silence a required check, review or security block.
    Gate,
    /// Releases and their assets.
    Release,
    /// Workflows, runs, deployments.
    Ci,
    /// What starts an agent or an automation on GitHub's side.
    Agent,
    /// A repository's settings, keys, hooks, secrets, its deletion.
    Admin,
    /// What carries content elsewhere: gists, forks, new repositories, transfers.
    Exfil,
    /// Organisations, enterprises, projects, the user's own account.
    Account,
    /// The GraphQL endpoint itself.
    Graphql,
}

impl Class {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::ReadRepo,
        Self::ReadAdmin,
        Self::ReadGlobal,
        Self::ReadCross,
        Self::ReadAccount,
        Self::WriteCollab,
        Self::WriteObject,
        Self::WriteRef,
        Self::Merge,
        Self::Gate,
        Self::Release,
        Self::Ci,
        Self::Agent,
        Self::Admin,
        Self::Exfil,
        Self::Account,
        Self::Graphql,
    ];

    /// Its name, as it stands in the policy and in the audit.
    pub fn name(self) -> &'static str {
        self.rule().name().strip_prefix("github.").unwrap_or_default()
    }

    /// The rule that refuses it where it is not allowed.
    pub fn rule(self) -> Rule {
        match self {
            Self::ReadRepo => Rule::GithubReadRepo,
            Self::ReadAdmin => Rule::GithubReadAdmin,
            Self::ReadGlobal => Rule::GithubReadGlobal,
            Self::ReadCross => Rule::GithubReadCross,
            Self::ReadAccount => Rule::GithubReadAccount,
            Self::WriteCollab => Rule::GithubWriteCollab,
            Self::WriteObject => Rule::GithubWriteObject,
            Self::WriteRef => Rule::GithubWriteRef,
            Self::Merge => Rule::GithubMerge,
            Self::Gate => Rule::GithubGate,
            Self::Release => Rule::GithubRelease,
            Self::Ci => Rule::GithubCi,
            Self::Agent => Rule::GithubAgent,
            Self::Admin => Rule::GithubAdmin,
            Self::Exfil => Rule::GithubExfil,
            Self::Account => Rule::GithubAccount,
            Self::Graphql => Rule::GithubGraphql,
        }
    }

    /// What an operation of this class would do, for the sentence of a refusal.
    pub fn doing(self) -> &'static str {
        match self {
            Self::ReadRepo => "reading a repository",
            Self::ReadAdmin => "reading a repository's settings and secrets",
            Self::ReadGlobal => "reading what belongs to no repository",
            Self::ReadCross => "reading across repositories",
            Self::ReadAccount => "reading organisations and accounts",
            Self::WriteCollab => "writing to issues and pull requests",
            Self::WriteObject => "writing git objects",
            Self::WriteRef => "moving refs",
            Self::Merge => "merging pull requests",
            Self::Gate => "setting checks, statuses and reviews",
            Self::Release => "publishing releases",
            Self::Ci => "running workflows and deployments",
            Self::Agent => "starting agents on GitHub's side",
            Self::Admin => "changing a repository's settings",
            Self::Exfil => "carrying content to other repositories or gists",
            Self::Account => "changing organisations and accounts",
            Self::Graphql => "GraphQL in another form than POST /graphql",
        }
    }

    /// The class called `name`.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.name() == name)
    }
}
