//! The rules for which branches a container may move. REST, GraphQL and git all use these rules.

use serde::{Deserialize, Serialize};

use crate::refname::{BranchGlob, is_branch};
use crate::{AuthMode, Container};

/// The protected branches, and whether the other branches may be force-pushed or deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BranchRules {
    /// Globs of the branches that no container may move. Matched ignoring ASCII case.
    pub protected: Vec<BranchGlob>,
    /// Whether a branch may be moved to a commit that does not descend from its old commit.
    pub allow_force_push: bool,
    /// Whether a branch may be deleted.
    pub allow_deletion: bool,
}

impl Default for BranchRules {
    fn default() -> Self {
        let protected = ["main", "master"].iter().filter_map(|name| BranchGlob::parse(name).ok()).collect();
        Self { protected, allow_force_push: false, allow_deletion: false }
    }
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
}

impl BranchRules {
    /// Checks whether `container` may move `branch` at all: create it, or write a commit to it.
    ///
    /// # Errors
    /// If the branch may not be moved.
    pub fn may_move(&self, container: &Container, branch: &str) -> Result<(), BranchDenial> {
        if !is_branch(branch) {
            return Err(BranchDenial::Malformed);
        }
        if self.protected.iter().any(|glob| glob.covers_in_any_case(branch)) {
            return Err(BranchDenial::Protected);
        }
        match container.auth_mode {
            AuthMode::User => Ok(()),
            AuthMode::Bot if container.allowed_branches.iter().any(|glob| glob.covers(branch)) => Ok(()),
            AuthMode::Bot => Err(BranchDenial::NotAllowed),
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn container(mode: &str) -> Container {
        serde_json::from_str(&format!(
            r#"{{"container_ip":"172.18.0.5","container_id":"a","repos":["o/r"],"auth_mode":"{mode}","allowed_branches":["sandbox/*","bot/*"],"expires_at":"2027-01-15T00:00:00Z"}}"#
        ))
        .unwrap()
    }

    #[test]
    fn a_bot_moves_its_own_branches_and_nobody_a_protected_one() {
        let rules = BranchRules::default();
        for mode in ["bot", "user"] {
            let who = container(mode);
            assert_eq!(rules.may_move(&who, "sandbox/x"), Ok(()));
            for name in ["main", "Main", "MASTER"] {
                assert_eq!(rules.may_move(&who, name), Err(BranchDenial::Protected));
            }
            assert_eq!(rules.may_move(&who, "sandbox/../main"), Err(BranchDenial::Malformed));
        }
        assert_eq!(rules.may_move(&container("bot"), "feature/y"), Err(BranchDenial::NotAllowed));
        assert_eq!(rules.may_move(&container("user"), "feature/y"), Ok(()));
    }
}
