//! GraphQL node ids: decodes the type of the node and the repository that it belongs to.
//!
//! Two formats are documented. A new id is a prefix, an underscore and unpadded base64url of a msgpack array. The
//! array's first element is a tag; its second is the repository's number, if the type belongs to a repository. A legacy
//! id is padded base64 of `0`, the length of the type's name, a colon, the name and a key. Only the canonical encoding
//! of each is accepted, and only known prefixes.
//!
//! A client can make up an id. Only GitHub can confirm that the object lies in the repository that its id names.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

/// The longest id, in bytes. The longest known ids contain a ref name of 255 bytes.
const MAX_ID: usize = 512;

/// A decoded id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeId {
    /// The type's name in GitHub's schema.
    pub kind: &'static str,
    /// Where the node belongs.
    pub home: Home,
}

/// Where a node belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Home {
    /// The repository with this number, and for a ref also the ref's full name.
    Repo(u64, Option<String>),
    /// No repository: users, organisations, teams, and what organisations own.
    Nobody,
    /// A repository that the id does not name.
    Unsaid,
}

/// The elements after the tag in the array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// The repository's number; the node is the repository.
    Repo,
    /// The repository's number and the object's number.
    Object,
    /// The repository's number, another object's number and the object's number.
    Below,
    /// The repository's number and a ref's full name.
    Ref,
    /// The repository's number and a git object's hash.
    Hash,
    /// The repository's number, a pull request's number and a commit's hash.
    BelowHash,
    /// This many numbers, none of them a repository's.
    Nobody(usize),
}

/// Prefix, type, tag, shape.
const PREFIXES: [(&str, &str, u64, Shape); 30] = [
    ("B", "Blob", 0, Shape::Hash),
    ("BOT", "Bot", 0, Shape::Nobody(1)),
    ("C", "Commit", 0, Shape::Hash),
    ("CC", "CommitComment", 0, Shape::Object),
    ("CR", "CheckRun", 0, Shape::Object),
    ("CS", "CheckSuite", 0, Shape::Object),
    ("D", "Discussion", 0, Shape::Object),
    ("DC", "DiscussionComment", 0, Shape::Object),
    ("DE", "Deployment", 0, Shape::Object),
    ("DIC", "DiscussionCategory", 0, Shape::Object),
    ("I", "Issue", 0, Shape::Object),
    ("IC", "IssueComment", 0, Shape::Object),
    ("IT", "IssueType", 0, Shape::Nobody(2)),
    ("LA", "Label", 0, Shape::Object),
    ("LB", "LinkedBranch", 0, Shape::Object),
    ("LE", "LabeledEvent", 0, Shape::Below),
    ("M", "Mannequin", 0, Shape::Nobody(1)),
    ("MI", "Milestone", 0, Shape::Object),
    ("O", "Organization", 0, Shape::Nobody(1)),
    ("PR", "PullRequest", 0, Shape::Object),
    ("PRR", "PullRequestReview", 0, Shape::Object),
    ("PRRC", "PullRequestReviewComment", 0, Shape::Object),
    ("PRRT", "PullRequestReviewThread", 0, Shape::Object),
    ("PURC", "PullRequestCommit", 0, Shape::BelowHash),
    ("R", "Repository", 0, Shape::Repo),
    ("RE", "Release", 0, Shape::Object),
    ("REF", "Ref", 0, Shape::Ref),
    ("T", "Team", 0, Shape::Nobody(2)),
    ("TA", "Tag", 0, Shape::Hash),
    ("U", "User", 0, Shape::Nobody(1)),
];

/// The types that have legacy ids, and the shape of their keys.
const LEGACY: [(&str, Shape); 20] = [
    ("Bot", Shape::Nobody(1)),
    ("Commit", Shape::Hash),
    ("CommitComment", Shape::Object),
    ("Discussion", Shape::Object),
    ("DiscussionComment", Shape::Object),
    ("Issue", Shape::Object),
    ("IssueComment", Shape::Object),
    ("Label", Shape::Object),
    ("Mannequin", Shape::Nobody(1)),
    ("Milestone", Shape::Object),
    ("Organization", Shape::Nobody(1)),
    ("PullRequest", Shape::Object),
    ("PullRequestReview", Shape::Object),
    ("PullRequestReviewComment", Shape::Object),
    ("PullRequestReviewThread", Shape::Object),
    ("Ref", Shape::Ref),
    ("Release", Shape::Object),
    ("Repository", Shape::Repo),
    ("Tag", Shape::Hash),
    ("Team", Shape::Nobody(1)),
];

impl NodeId {
    /// Decodes an id. Returns `None` if its encoding is not canonical or its type is unknown.
    pub fn decode(text: &str) -> Option<Self> {
        if text.len() > MAX_ID {
            return None;
        }
        // The base64 alphabet of legacy ids has no underscore.
        match text.split_once('_') {
            Some((prefix, rest)) => Self::new(prefix, rest),
            None => Self::legacy(text),
        }
    }

    fn new(prefix: &str, rest: &str) -> Option<Self> {
        let (_, kind, tag, shape) = *PREFIXES.iter().find(|(have, ..)| *have == prefix)?;
        // The decoder rejects padding and stray bits at the end, so each id has only one spelling.
        let bytes = URL_SAFE_NO_PAD.decode(rest).ok()?;
        let mut reader = Reader(&bytes);
        let length = match shape {
            Shape::Repo => 2,
            Shape::Object | Shape::Ref | Shape::Hash => 3,
            Shape::Below | Shape::BelowHash => 4,
            Shape::Nobody(numbers) => numbers.checked_add(1)?,
        };
        if reader.array()? != length || reader.number()? != tag {
            return None;
        }
        let home = match shape {
            Shape::Nobody(numbers) => {
                for _ in 0..numbers {
                    reader.number()?;
                }
                Home::Nobody
            }
            Shape::Repo => Home::Repo(reader.number()?, None),
            Shape::Ref => Home::Repo(reader.number()?, Some(reader.name()?)),
            Shape::Object => {
                let repo = reader.number()?;
                reader.number()?;
                Home::Repo(repo, None)
            }
            Shape::Below => {
                let repo = reader.number()?;
                reader.number()?;
                reader.number()?;
                Home::Repo(repo, None)
            }
            Shape::Hash => {
                let repo = reader.number()?;
                reader.hash()?;
                Home::Repo(repo, None)
            }
            Shape::BelowHash => {
                let repo = reader.number()?;
                reader.number()?;
                reader.hash()?;
                Home::Repo(repo, None)
            }
        };
        reader.0.is_empty().then_some(Self { kind, home })
    }

    fn legacy(text: &str) -> Option<Self> {
        let bytes = STANDARD.decode(text).ok()?;
        let decoded = String::from_utf8(bytes).ok()?;
        let (length, rest) = decoded.strip_prefix('0')?.split_once(':')?;
        let (kind, shape) = *LEGACY.iter().find(|(name, _)| {
            length == name.len().to_string() && rest.strip_prefix(name).is_some_and(|key| !key.starts_with(is_letter))
        })?;
        let key = rest.strip_prefix(kind)?;
        let home = match shape {
            Shape::Repo => Home::Repo(decimal(key)?, None),
            Shape::Ref => {
                let (repo, name) = key.split_once(':')?;
                Home::Repo(decimal(repo)?, Some(name.to_owned()))
            }
            Shape::Hash => {
                let (repo, hash) = key.split_once(':')?;
                is_hash(hash.as_bytes()).then_some(Home::Repo(decimal(repo)?, None))?
            }
            Shape::Nobody(_) => {
                decimal(key)?;
                Home::Nobody
            }
            _ => {
                decimal(key.strip_suffix(":v2").unwrap_or(key))?;
                Home::Unsaid
            }
        };
        Some(Self { kind, home })
    }
}

/// The id of an object with this prefix in GitHub's number space, in the repository with the number `repo`.
pub fn object(prefix: &str, repo: u64, number: u64) -> String {
    let mut bytes = vec![0x93, 0];
    for value in [repo, number] {
        let all = value.to_be_bytes();
        let (tag, length) = match value {
            0..0x80 => (None, 1),
            0x80..0x100 => (Some(0xcc), 1),
            0x100..0x1_0000 => (Some(0xcd), 2),
            0x1_0000..0x1_0000_0000 => (Some(0xce), 4),
            _ => (Some(0xcf), 8),
        };
        bytes.extend(tag);
        bytes.extend(all.iter().skip(all.len().saturating_sub(length)));
    }
    format!("{prefix}_{}", URL_SAFE_NO_PAD.encode(bytes))
}

fn is_letter(c: char) -> bool {
    c.is_ascii_alphabetic()
}

/// Parses a decimal number without leading zeros.
fn decimal(text: &str) -> Option<u64> {
    let number: u64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

fn is_hash(text: &[u8]) -> bool {
    text.len() == 40 && text.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Reads the few msgpack types that ids consist of, each in its shortest encoding.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn big_endian(&mut self, count: usize) -> Option<u64> {
        Some(self.take(count)?.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    /// The length of an array, at most 15.
    fn array(&mut self) -> Option<usize> {
        let byte = self.byte()?;
        (byte & 0xf0 == 0x90).then_some(usize::from(byte & 0x0f))
    }

    fn number(&mut self) -> Option<u64> {
        let (bytes, least) = match self.byte()? {
            small @ 0..=0x7f => return Some(u64::from(small)),
            0xcc => (1, 0x80),
            0xcd => (2, 0x100),
            0xce => (4, 0x1_0000),
            0xcf => (8, 0x1_0000_0000),
            _ => return None,
        };
        self.big_endian(bytes).filter(|value| *value >= least)
    }

    /// A ref's name. A length of 32 bytes or more is encoded in one or two bytes. GitHub's choice between the two is
    /// unknown, so both are accepted.
    fn name(&mut self) -> Option<String> {
        let length = match self.byte()? {
            short @ 0xa0..=0xbf => u64::from(short & 0x1f),
            0xd9 => self.big_endian(1).filter(|length| *length >= 32)?,
            0xda => self.big_endian(2).filter(|length| *length >= 32)?,
            _ => return None,
        };
        String::from_utf8(self.take(usize::try_from(length).ok()?)?.to_vec()).ok()
    }

    /// A hash of 40 digits. GitHub always encodes its length in two bytes.
    fn hash(&mut self) -> Option<()> {
        if self.byte()? != 0xda || self.big_endian(2)? != 40 {
            return None;
        }
        is_hash(self.take(40)?).then_some(())
    }
}

#[cfg(test)]
#[expect(clippy::panic, reason = "tests")]
mod tests {
    use super::*;

    /// The public test vectors, and vectors derived from them. The container's repository is number 23096959.
    #[test]
    fn every_vector_says_what_is_expected() {
        let text = include_str!("../../../../tests/corpus/github/nodeid-vectors.tsv");
        let mut count = 0;
        for line in text.lines().skip(1) {
            let fields: Vec<&str> = line.split('\t').collect();
            let [id, _, kind, _, repo, expected, note] = fields[..] else { panic!("{line}") };
            // The file omits the padding that this vector has.
            let id = if expected == "deny (padding)" { format!("{id}=") } else { id.to_owned() };
            let got = NodeId::decode(&id);
            let home = got.as_ref().map(|id| &id.home);
            let good = match expected.split([' ', ';']).next().unwrap_or_default() {
                "in-scope" => matches!(home, Some(Home::Repo(23_096_959, _))) && repo == "23096959",
                "out-of-scope" => matches!(home, Some(Home::Repo(id, _)) if id.to_string() == repo),
                "principal" => home == Some(&Home::Nobody),
                "resolve-or-deny" => home == Some(&Home::Unsaid),
                _ => !matches!(home, Some(Home::Repo(..) | Home::Unsaid)),
            };
            assert!(good, "{id} ({kind}, {note}): {expected}, got {got:?}");
            count += 1;
        }
        assert_eq!(count, 47);
        let named = |id| NodeId::decode(id).map(|id| id.home);
        let main = Home::Repo(23_096_959, Some("refs/heads/main".into()));
        assert_eq!(named("REF_kwDOAWBuf69yZWZzL2hlYWRzL21haW4"), Some(main));
    }

    #[test]
    fn an_id_has_one_spelling() {
        let id = "PR_kwDOAWBuf84Bh4UQ";
        assert!(NodeId::decode(id).is_some());
        for bad in ["PR_kwDOAWBuf84Bh4UR=", "PR_", "PR", "", "_", "PR_kwDOAWBuf84Bh4U", " PR_kwDOAWBuf84Bh4UQ"] {
            assert_eq!(NodeId::decode(bad), None, "{bad}");
        }
        // Nonzero bits after the last whole byte.
        assert_eq!(NodeId::decode("R_kgDOAWBufx"), None);
        assert_eq!(NodeId::decode(&format!("REF_{}", "k".repeat(MAX_ID))), None);
        let legacy = |text: &str| NodeId::decode(&STANDARD.encode(text));
        assert!(legacy("010:Repository23096959").is_some());
        for bad in [
            "10:Repository23096959",
            "011:Repository23096959",
            "010:Repository023",
            "010:Repository+23",
            "010:Repository",
            "012:PullRequest7",
            "04:Blob7",
            "03:Ref7",
        ] {
            assert_eq!(legacy(bad), None, "{bad}");
        }
        assert_eq!(legacy("017:PullRequestReview7").map(|id| id.kind), Some("PullRequestReview"));
    }

    /// The ids that the gateway makes are those of the public vectors, and every id is read as it was made.
    #[test]
    fn an_id_that_is_made_is_githubs() {
        for (id, prefix, repo, number) in [
            ("IC_kwDOAWBuf84D78lV", "IC", 23_096_959, 66_046_293),
            ("IC_kwDOSWpaqs8AAAABIk9VAg", "IC", 1_231_706_794, 4_870_591_746),
            ("PRR_kwDOAToIks4ACauz", "PRR", 20_580_498, 633_779),
            ("PRRC_kwDOAToIks4Dmt1A", "PRRC", 20_580_498, 60_480_832),
        ] {
            assert_eq!(object(prefix, repo, number), id);
        }
        for number in [0, 1, 0x7f, 0x80, 0xff, 0x100, 0xffff, 0x1_0000, 0xffff_ffff, 0x1_0000_0000, u64::MAX] {
            let made = NodeId::decode(&object("CC", number, number));
            assert_eq!(made, Some(NodeId { kind: "CommitComment", home: Home::Repo(number, None) }), "{number}");
        }
    }

    #[test]
    fn the_table_is_sorted() {
        assert!(PREFIXES.is_sorted_by_key(|(prefix, ..)| *prefix));
        assert!(LEGACY.is_sorted_by_key(|(kind, _)| *kind));
    }
}
