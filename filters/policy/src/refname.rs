//! Names of refs and branches, and globs of branches.

use crate::glob;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The longest ref name that GitHub accepts, in bytes.
const MAX_NAME: usize = 255;

/// The prefix of a branch's full ref name.
const HEADS: &str = "refs/heads/";

/// Whether `name` is valid as a ref's full name: git accepts it (git-check-ref-format(1)), and it is printable ASCII.
/// The second condition is stricter than git: two parsers could read other bytes differently.
pub fn is_refname(name: &str) -> bool {
    name.bytes().all(|b| b.is_ascii_graphic()) && is_git_refname(name)
}

/// Whether git would give a branch the name `name`, beyond ASCII too.
pub fn is_git_branch(name: &str) -> bool {
    is_git_refname(&format!("{HEADS}{name}"))
}

/// Whether git accepts `name` as a ref's full name (git-check-ref-format(1)), of at most [`MAX_NAME`] bytes.
fn is_git_refname(name: &str) -> bool {
    let byte = |b: u8| b > b' ' && b != 0x7f && !b"~^:?*[\\".contains(&b);
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

    /// Whether a text exists that both globs match.
    pub fn meets(&self, other: &Self) -> bool {
        glob::meet(self.0.as_bytes(), other.0.as_bytes())
    }

    /// Whether the glob matches `branch`, ignoring ASCII case.
    pub fn covers_in_any_case(&self, branch: &str) -> bool {
        glob::covers(self.0.to_ascii_lowercase().as_bytes(), branch.to_ascii_lowercase().as_bytes())
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
