//! Names of refs and branches, and the rules for which branches a container may move. REST, GraphQL and git all use
//! these rules.

use crate::{AuthMode, Container, glob};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The longest ref name that GitHub accepts, in bytes.
const MAX_NAME: usize = 255;

/// The prefix of a branch's full ref name.
const HEADS: &str = "refs/heads/";

/// Whether `name` is valid as a ref's full name: git accepts it (git-check-ref-format(1)), and it is printable ASCII.
/// The second condition is stricter than git: two parsers could read other bytes differently.
pub fn is_refname(name: &str) -> bool {
    let byte = |b: u8| b.is_ascii_graphic() && !b"~^:?*[\\".contains(&b);
    let part = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.ends_with(".lock");
    name.len() <= MAX_NAME
        && name.bytes().all(byte)
        && name.contains('/')
        && name.split('/').all(part)
        && !name.ends_with('.')
        && !name.contains("..")
        && !name.contains("@{")
}

/// The branch of a ref's full name. Returns `None` unless `refname` is `refs/heads/` followed by a valid branch name.
pub fn branch_of(refname: &str) -> Option<&str> {
    let branch = refname.strip_prefix(HEADS)?;
    is_branch(branch).then_some(branch)
}

/// Whether `name` is a valid branch name (git-check-ref-format(1), and git-branch(1) for the leading dash). Names that
/// look like something else are invalid: `HEAD`, a ref's full name, an object's hash.
pub fn is_branch(name: &str) -> bool {
    let reads_otherwise = name.eq_ignore_ascii_case("HEAD")
        || name == "@"
        || name.starts_with('-')
        || name.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("refs/"))
        || (name.len() == 40 && name.bytes().all(|b| b.is_ascii_hexdigit()));
    !reads_otherwise && is_refname(&format!("{HEADS}{name}"))
}

/// A glob for branch names, such as `sandbox/*`. `*` matches any text, `/` and the empty text included. No other
/// character is special.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BranchGlob(String);

/// The text is not a valid branch glob.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a branch glob: expected a branch name in which * stands for any text, such as sandbox/*")]
pub struct InvalidGlob(String);

impl BranchGlob {
    /// Parses a glob.
    ///
    /// # Errors
    /// If no branch name could match: the text with `x` in place of each `*` has to be a valid branch name.
    pub fn parse(text: &str) -> Result<Self, InvalidGlob> {
        if is_branch(&text.replace('*', "x")) { Ok(Self(text.to_owned())) } else { Err(InvalidGlob(text.to_owned())) }
    }

    /// Whether the glob matches `branch`.
    pub fn covers(&self, branch: &str) -> bool {
        glob::covers(self.0.as_bytes(), branch.as_bytes())
    }
}

impl std::fmt::Display for BranchGlob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for BranchGlob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for BranchGlob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

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
        let lower = branch.to_ascii_lowercase();
        let protects = |glob: &BranchGlob| glob::covers(glob.0.to_ascii_lowercase().as_bytes(), lower.as_bytes());
        if self.protected.iter().any(protects) {
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
    fn a_star_is_any_text() {
        for (pattern, yes, no) in [
            ("sandbox/*", &["sandbox/x", "sandbox/a/b", "sandbox/"][..], &["sandbox", "xsandbox/x", "Sandbox/x"][..]),
            ("*", &["", "a"], &[]),
            ("a*b*c", &["abc", "aXbXc", "abbc", "abcbc"], &["ab", "acb", "abcX"]),
            ("a*a", &["aa", "aXa"], &["a"]),
            ("release-*", &["release-1.0"], &["release"]),
            ("exact", &["exact"], &["exactly", "exac"]),
        ] {
            for text in yes {
                assert!(glob::covers(pattern.as_bytes(), text.as_bytes()), "{pattern} {text}");
            }
            for text in no {
                assert!(!glob::covers(pattern.as_bytes(), text.as_bytes()), "{pattern} {text}");
            }
        }
    }

    #[test]
    fn names_that_git_or_a_reader_could_take_otherwise_are_none() {
        for name in ["main", "sandbox/x", "a-b_c.d", "v1", "feature/y+z", "refsx"] {
            assert!(is_branch(name), "{name}");
            assert_eq!(branch_of(&format!("refs/heads/{name}")), Some(name));
        }
        for name in [
            "",
            "HEAD",
            "head",
            "@",
            "-x",
            "refs/heads/main",
            "Refs/x",
            "a..b",
            "a//b",
            "/a",
            "a/",
            ".a",
            "a/.b",
            "a.lock",
            "a.lock/b",
            "a.",
            "a@{1}",
            "a b",
            "a\tb",
            "a~1",
            "a^",
            "a:b",
            "a?",
            "a*",
            "a[b",
            "a\\b",
            "é",
            "a\u{7f}",
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        ] {
            assert!(!is_branch(name), "{name:?}");
            assert_eq!(branch_of(&format!("refs/heads/{name}")), None, "{name:?}");
        }
        assert!(!is_branch(&"a".repeat(300)));
        for name in ["refs/tags/v1", "heads/main", "main", "refs/heads/", "Refs/heads/main", "refs/heads/heads/../main"]
        {
            assert_eq!(branch_of(name), None, "{name}");
        }
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
