//! A branch glob, a newline and a branch name. Both are compared with direct implementations of the rules.

use crate::worlds;
use policy::{BranchGlob, BranchRules, Container, branch_of, is_branch};
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
    }
    for who in CONTAINERS.iter() {
        let lower = name.to_ascii_lowercase();
        let good = is_branch(name) && lower != "main" && lower != "master";
        let own = who.auth_mode == policy::AuthMode::User || name.starts_with("sandbox/");
        assert_eq!(BranchRules::default().may_move(who, name).is_ok(), good && own);
    }
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
