//! The rules for which branches a container may move. REST, GraphQL and git all use these rules.

use serde::{Deserialize, Serialize};

use crate::new_name::{self, Characters, OddName};
use crate::refname::{BranchGlob, is_branch};
use crate::{AuthMode, Container, Repo};

/// The protected branches, and whether the other branches may be force-pushed or deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BranchRules {
    /// Globs of the branches that no container may move. Matched ignoring ASCII case.
    pub protected: Vec<BranchGlob>,
    /// Whether a repository's default branch is protected too. While it is unknown, no existing branch may be moved.
    #[serde(default = "yes")]
    pub protect_default: bool,
    /// Further characters in the names of bots' new branches and tags.
    #[serde(default)]
    pub characters: Characters,
    /// Whether a branch may be moved to a commit that does not descend from its old commit.
    pub allow_force_push: bool,
    /// Whether a branch may be deleted.
    pub allow_deletion: bool,
}

impl Default for BranchRules {
    fn default() -> Self {
        let protected = ["main", "master"].iter().filter_map(|name| BranchGlob::parse(name).ok()).collect();
        Self {
            protected,
            protect_default: true,
            characters: Characters::default(),
            allow_force_push: false,
            allow_deletion: false,
        }
    }
}

fn yes() -> bool {
    true
}

/// Whether a branch exists before a change to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// It exists, or the change has no effect.
    Yes,
    /// The change creates it, or has no effect.
    No,
    /// The gateway does not know.
    Unknown,
}

/// Why a branch may not be moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BranchDenial {
    /// The name is not a valid branch name.
    Malformed,
    /// The branch is protected.
    Protected,
    /// The branch matches none of the container's allowed branches.
    NotAllowed,
    /// The branch does not exist yet, and a new one may not have this name.
    Name(OddName),
    /// The branch is the default branch of its repository.
    Default,
    /// The default branch of the repository is not known yet, so the branch could be it.
    DefaultUnknown,
}

impl BranchRules {
    /// A warning for the operator if the rules protect less than they seem to. `None` if there is nothing to say.
    pub fn warning(&self) -> Option<&'static str> {
        match (self.protected.is_empty(), self.protect_default) {
            (true, true) => Some("protected_branches is empty, so only each repository's default branch is protected"),
            (true, false) => {
                Some("protected_branches is empty and protect_default_branch is false, so no branch is protected")
            }
            (false, _) => None,
        }
    }

    /// Checks whether `container` may move `branch` of `repo` at all: create it, or write a commit to it. Without a `repo`
    /// it may be any of the container's repositories.
    ///
    /// # Errors
    /// If the branch may not be moved.
    pub fn may_move(
        &self,
        container: &Container,
        repo: Option<&Repo>,
        branch: &str,
        existing: Existing,
    ) -> Result<(), BranchDenial> {
        if !is_branch(branch) {
            return Err(BranchDenial::Malformed);
        }
        if self.protected.iter().any(|glob| glob.covers_in_any_case(branch)) {
            return Err(BranchDenial::Protected);
        }
        let bot = container.auth_mode == AuthMode::Bot;
        if bot && !container.allowed_branches.iter().any(|glob| glob.covers(branch)) {
            return Err(BranchDenial::NotAllowed);
        }
        if existing != Existing::Yes {
            new_name::distinct(branch).map_err(BranchDenial::Name)?;
            if bot {
                new_name::plain(branch, &self.characters).map_err(BranchDenial::Name)?;
            }
        }
        if !self.protect_default {
            return Ok(());
        }
        let repos = repo.map_or(container.repos.as_slice(), std::slice::from_ref);
        let is_default = |repo: &Repo| repo.default_branch().is_some_and(|name| name.eq_ignore_ascii_case(branch));
        if repos.iter().any(is_default) {
            return Err(BranchDenial::Default);
        }
        // A branch that the change creates is not the default branch, which exists.
        if existing != Existing::No && repos.iter().any(|repo| repo.default_branch().is_none()) {
            return Err(BranchDenial::DefaultUnknown);
        }
        Ok(())
    }

    /// Whether `container` may move `branch`, which it may move at all, to a commit that does not descend from its
    /// current one.
    pub fn may_force(&self, container: &Container, branch: &str) -> bool {
        let own = || container.allowed_branches.iter().any(|glob| glob.covers(branch));
        self.allow_force_push || (container.force_own_branches && own())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn container(mode: &str) -> Container {
        let repos = r#"[{"name":"o/r","default_branch":"develop"},{"name":"o/s","default_branch":"trunk"},"o/new"]"#;
        serde_json::from_str(&format!(
            r#"{{"container_ip":"172.18.0.5","container_id":"a","repos":{repos},"auth_mode":"{mode}","allowed_branches":["sandbox/*","bot/*","develop","trunk"],"expires_at":"2027-01-15T00:00:00Z"}}"#
        ))
        .unwrap()
    }

    #[test]
    fn a_bot_moves_its_own_branches_and_nobody_a_protected_one() {
        let rules = BranchRules::default();
        for mode in ["bot", "user"] {
            let who = container(mode);
            let moved = |name| rules.may_move(&who, who.repos.first(), name, Existing::Unknown);
            assert_eq!(moved("sandbox/x"), Ok(()));
            for name in ["main", "Main", "MASTER"] {
                assert_eq!(moved(name), Err(BranchDenial::Protected));
            }
            assert_eq!(moved("sandbox/../main"), Err(BranchDenial::Malformed));
        }
        let moved = |who: &Container| rules.may_move(who, who.repos.first(), "feature/y", Existing::Unknown);
        assert_eq!(moved(&container("bot")), Err(BranchDenial::NotAllowed));
        assert_eq!(moved(&container("user")), Ok(()));
    }

    #[test]
    fn a_repository_s_default_branch_is_protected_unless_the_policy_says_otherwise() {
        let rules = BranchRules::default();
        let open = BranchRules { protect_default: false, ..BranchRules::default() };
        for mode in ["bot", "user"] {
            let who = container(mode);
            for (repo, name, existing, expected) in [
                (who.repos.first(), "develop", Existing::Yes, Err(BranchDenial::Default)),
                (who.repos.first(), "develop", Existing::No, Err(BranchDenial::Default)),
                (who.repos.first(), "trunk", Existing::Yes, Ok(())),
                (who.repos.get(1), "trunk", Existing::Unknown, Err(BranchDenial::Default)),
                (who.repos.get(1), "develop", Existing::Yes, Ok(())),
                (who.repos.get(2), "develop", Existing::Yes, Err(BranchDenial::DefaultUnknown)),
                (who.repos.get(2), "develop", Existing::Unknown, Err(BranchDenial::DefaultUnknown)),
                (who.repos.get(2), "develop", Existing::No, Ok(())),
                // It may be any of the three.
                (None, "trunk", Existing::Yes, Err(BranchDenial::Default)),
                (None, "sandbox/x", Existing::Yes, Err(BranchDenial::DefaultUnknown)),
                (None, "sandbox/x", Existing::No, Ok(())),
            ] {
                assert_eq!(rules.may_move(&who, repo, name, existing), expected, "{mode} {repo:?} {name} {existing:?}");
                assert_eq!(open.may_move(&who, repo, name, existing), Ok(()), "{mode} {repo:?} {name} {existing:?}");
            }
        }
        let user = container("user");
        let denied = rules.may_move(&user, user.repos.first(), "Develop", Existing::Yes);
        assert_eq!(denied, Err(BranchDenial::Default), "letter case is ignored");
    }

    #[test]
    fn an_empty_list_of_protected_branches_is_pointed_out() {
        let rules = |protected: &[&str], protect_default| BranchRules {
            protected: protected.iter().map(|glob| BranchGlob::parse(glob).unwrap()).collect(),
            protect_default,
            ..BranchRules::default()
        };
        assert!(rules(&[], true).warning().unwrap().contains("only each repository's default branch"));
        assert!(rules(&[], false).warning().unwrap().contains("no branch is protected"));
        assert_eq!(rules(&["main"], true).warning(), None);
        assert_eq!(rules(&["main"], false).warning(), None);
    }

    #[test]
    fn a_new_name_is_plain_and_an_existing_one_stays_usable() {
        let rules = BranchRules::default();
        let also = BranchRules { characters: Characters::parse("#$").unwrap(), ..BranchRules::default() };
        let (bot, user) = (container("bot"), container("user"));
        let moved = |rules: &BranchRules, who: &Container, name: &str, existing| {
            rules.may_move(who, who.repos.first(), name, existing)
        };
        let (hash, dollar) = (BranchDenial::Name(OddName::Character('#')), BranchDenial::Name(OddName::Character('$')));
        for existing in [Existing::No, Existing::Unknown] {
            assert_eq!(moved(&rules, &bot, "sandbox/fix#1", existing), Err(hash));
            assert_eq!(moved(&rules, &bot, "sandbox/$(id)", existing), Err(dollar));
            assert_eq!(moved(&also, &bot, "sandbox/fix#1", existing), Ok(()));
            assert!(moved(&also, &bot, "sandbox/$(id)", existing).is_err());
            assert_eq!(moved(&rules, &user, "fix#1", existing), Ok(()));
            for who in [&bot, &user] {
                let head = Err(BranchDenial::Name(OddName::Head));
                assert_eq!(moved(&also, who, "sandbox/HEAD", existing), head);
            }
        }
        for name in ["sandbox/fix#1", "sandbox/HEAD", "sandbox/-x"] {
            assert_eq!(moved(&rules, &bot, name, Existing::Yes), Ok(()), "{name}");
        }
    }
}
