//! The eighteen classes of GitHub's operations, which the policy allows or refuses.

use crate::Rule;
use serde::{Deserialize, Serialize};

/// The class of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// A read inside one repository.
    ReadRepo,
    /// A read that goes out without a credential: of a public repository that is not the container's, and each download
    /// from github.com and raw.githubusercontent.com.
    ReadPublic,
    /// A read of a repository's administration: names of secrets, hooks, keys, protections, collaborators, runners.
    ReadAdmin,
    /// A read of data that belongs to no repository: rate limit, licences, the token's own user.
    ReadGlobal,
    /// A read that may return data of other repositories.
    ReadCross,
    /// A read of organisations, enterprises and users.
    ReadAccount,
    /// A write to issues, pull requests, reviews, comments or labels.
    WriteCollab,
    /// A write of git objects that no ref reaches yet.
    WriteObject,
    /// A write of refs, or of commits on a branch.
    WriteRef,
    /// A merge, now or later.
    Merge,
    /// An operation that can satisfy or silence a required check, review or security block.
    Gate,
    /// Releases and their assets.
    Release,
    /// Running workflows and deployments.
    Ci,
    /// An operation that starts an agent or an automation on GitHub's side.
    Agent,
    /// A change to a repository's settings, keys, hooks or secrets, or its deletion.
    Admin,
    /// An operation that copies content elsewhere: gists, forks, new repositories, transfers.
    Exfil,
    /// Organisations, enterprises, projects, the user's own account.
    Account,
    /// The GraphQL endpoint itself.
    Graphql,
}

impl Class {
    /// All classes.
    pub const ALL: [Self; 18] = [
        Self::ReadRepo,
        Self::ReadPublic,
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

    /// The class's name in the policy and in the audit.
    pub fn name(self) -> &'static str {
        self.rule().name().strip_prefix("github.").unwrap_or_default()
    }

    /// The rule that allows or refuses operations of this class.
    pub fn rule(self) -> Rule {
        match self {
            Self::ReadRepo => Rule::GithubReadRepo,
            Self::ReadPublic => Rule::GithubReadPublic,
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

    /// A phrase for what an operation of this class does, for refusal messages.
    pub fn doing(self) -> &'static str {
        match self {
            Self::ReadRepo => "reading a repository",
            Self::ReadPublic => "reading a public repository without a credential",
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

    /// The class with this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.name() == name)
    }
}
