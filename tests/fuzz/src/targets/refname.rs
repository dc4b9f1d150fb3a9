//! A branch glob, a newline and a branch name. Both are compared with direct implementations of the rules.

use crate::worlds;
use policy::{BranchGlob, BranchRules, Container, Existing, branch_of, is_branch};
use std::sync::LazyLock;

static CONTAINERS: LazyLock<[Container; 2]> = LazyLock::new(|| worlds().map(|(_, container)| container));

/// Runs one input.
pub fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let (pattern, name) = text.split_once('\n').unwrap_or(("*", text));
    assert_eq!(is_branch(name), is_branch_by_git(name));
    assert_eq!(branch_of(&format!("refs/heads/{name}")), is_branch(name).then_some(name));
    if let Ok(glob) = BranchGlob::parse(pattern) {
        assert_eq!(glob.covers(name), covers(pattern.as_bytes(), name.as_bytes()));
        assert_eq!(glob.to_string(), pattern);
        if let Ok(other) = BranchGlob::parse(name) {
            assert_eq!(glob.meets(&other), meet(pattern.as_bytes(), name.as_bytes()));
            assert_eq!(other.meets(&glob), glob.meets(&other));
        }
    }
    for who in CONTAINERS.iter() {
        let lower = name.to_ascii_lowercase();
        let good = is_branch(name) && lower != "main" && lower != "master";
        let user = who.auth_mode == policy::AuthMode::User;
        let own = user || name.starts_with("sandbox/");
        let moved = |existing| BranchRules::default().may_move(who, None, name, existing).is_ok();
        assert_eq!(moved(Existing::Yes), good && own);
        for existing in [Existing::No, Existing::Unknown] {
            assert_eq!(moved(existing), good && own && distinct(name) && (user || plain(name)));
        }
    }
}

/// Whether no reader takes `name` for a commit, an option or another ref.
fn distinct(name: &str) -> bool {
    let parts: Vec<String> = name.split('/').map(str::to_ascii_lowercase).collect();
    let last = parts.last().unwrap();
    let hash = [40, 64].contains(&last.chars().count()) && last.chars().all(|c| c.is_ascii_hexdigit());
    let prefix = parts.len() > 1 && ["refs", "heads", "tags", "remotes", "origin"].contains(&parts[0].as_str());
    last != "head" && !hash && !prefix && !parts.iter().any(|part| part.starts_with('-'))
}

fn plain(name: &str) -> bool {
    name.chars().all(|c| matches!(c, 'A'..='Z' | 'a'..='z' | '0'..='9' | '.' | '_' | '/' | '+' | '@' | '=' | '-'))
}

/// Whether two patterns have a text in common, by a search through the pairs of their remainders.
fn meet(one: &[u8], other: &[u8]) -> bool {
    let mut open = vec![(0, 0)];
    let mut seen = std::collections::HashSet::new();
    while let Some((i, j)) = open.pop() {
        if !seen.insert((i, j)) {
            continue;
        }
        match (one.get(i), other.get(j)) {
            (None, None) => return true,
            (a, b) => {
                if a == Some(&b'*') {
                    open.push((i + 1, j));
                    if b.is_some() {
                        open.push((i, j + 1));
                    }
                }
                if b == Some(&b'*') {
                    open.push((i, j + 1));
                    if a.is_some() {
                        open.push((i + 1, j));
                    }
                }
                if a == b && a != Some(&b'*') {
                    open.push((i + 1, j + 1));
                }
            }
        }
    }
    false
}

/// The rules of git-check-ref-format(1), one by one, for `refs/heads/{name}`, and our own: printable ASCII only, at
/// most 255 bytes, and no name that looks like something other than a branch.
fn is_branch_by_git(name: &str) -> bool {
    let full = format!("refs/heads/{name}");
    let parts: Vec<&str> = full.split('/').collect();
    let one = parts.iter().all(|part| !part.starts_with('.') && !part.ends_with(".lock"));
    let three = !full.contains("..");
    let four = full.chars().all(|c| c > ' ' && c != '\x7f' && c != '~' && c != '^' && c != ':');
    let five = !full.contains(['?', '*', '[']);
    let six = !full.ends_with('/') && !full.contains("//");
    let seven = !full.ends_with('.');
    let eight = !full.contains("@{");
    let nine = name != "@";
    let ten = !full.contains('\\');
    let hash = name.len() == 40 && name.chars().all(|c| c.is_ascii_hexdigit());
    let lower = name.to_ascii_lowercase();
    let ours = full.is_ascii() && full.len() <= 255 && !hash && lower != "head" && !lower.starts_with("refs/");
    one && three && four && five && six && seven && eight && nine && ten && ours && !name.starts_with('-')
}

/// Matches with dynamic programming: each row holds whether the pattern so far matches the text up to each index.
fn covers(pattern: &[u8], text: &[u8]) -> bool {
    let mut row = vec![false; text.len() + 1];
    row[0] = true;
    for byte in pattern {
        let mut next = vec![false; row.len()];
        for at in 0..row.len() {
            next[at] = match byte {
                b'*' => row[at] || (at > 0 && next[at - 1]),
                byte => at > 0 && row[at - 1] && text[at - 1] == *byte,
            };
        }
        row = next;
    }
    row[text.len()]
}
