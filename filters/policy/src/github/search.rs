//! Searches. A search reads across repositories, unless its query names only repositories of the container.

use super::target::Target;
use super::{Class, Operation, Refused, Scope, words};

/// The REST searches that a query can limit to repositories.
const NARROWED: [&str; 4] = ["search/issues-and-pull-requests", "search/code", "search/commits", "search/labels"];

/// Qualifiers that extend a search to other repositories.
const ELSEWHERE: [&str; 4] = ["user:", "org:", "owner:", "enterprise:"];

/// Whether the REST operation `name` is a search that a query can limit to repositories.
pub fn is_search(name: &str) -> bool {
    NARROWED.contains(&name)
}

/// Judges a search over REST.
///
/// # Errors
/// If the request is refused.
pub fn rest(scope: &Scope<'_>, operation: &Operation, target: &Target<'_>) -> Result<(), Refused> {
    if operation.name == "search/labels" {
        let id = target.parameter("repository_id").and_then(|id| id.parse().ok());
        let id = id.ok_or_else(|| Refused::of(operation, Class::ReadCross.rule(), "repository_id is not a number"))?;
        return scope.repo_by_id(operation, id).map(|_| ());
    }
    query(scope, operation, target.parameter("q").unwrap_or_default())
}

/// `text` with a letter in place of each quoted phrase. A phrase stands for itself or is the value of a qualifier, as in
/// `label:"good first issue"`. `None` if GitHub could read a phrase otherwise: as the text next to it, or a qualifier.
fn unquoted(text: &str) -> Option<String> {
    let mut parts = text.split('"');
    let mut out = parts.next()?.to_owned();
    while let Some(phrase) = parts.next() {
        let after = parts.next()?;
        let begins = out.chars().next_back().is_none_or(|c| c.is_whitespace() || matches!(c, ':' | '-'));
        let ends = after.chars().next().is_none_or(char::is_whitespace);
        if !begins || !ends || phrase.contains(':') {
            return None;
        }
        out.push('q');
        out.push_str(after);
    }
    Some(out)
}

/// Judges a search query. It has to name at least one of the container's repositories with `repo:`, and no other
/// repository. Syntax that could widen the search is refused.
///
/// # Errors
/// If the request is refused.
pub fn query(scope: &Scope<'_>, operation: &Operation, text: &str) -> Result<(), Refused> {
    let refuse = |reason: &str| Err(Refused::of(operation, Class::ReadCross.rule(), reason));
    if text.chars().any(|c| c.is_control() || matches!(c, '\'' | '\\' | '“' | '”')) {
        return refuse("a search may have no control characters, no backslashes, and no quotes other than \"");
    }
    // GitHub may read such characters as the ASCII characters of a qualifier.
    let qualifier = |word: &str| word.rsplit_once(':').is_some_and(|(name, _)| !name.is_ascii());
    if words::is_disguised(text) || text.split(char::is_whitespace).any(qualifier) {
        return refuse("a search may have no invisible or full-width characters, and only ASCII before a colon");
    }
    let Some(text) = unquoted(text) else {
        return refuse("a quoted phrase in a search needs both quotes, white space around it, and no colon inside");
    };
    if text.contains(['(', ')']) {
        return refuse("a search may have parentheses in quoted phrases only");
    }
    let mut named = false;
    for word in text.split(char::is_whitespace).filter(|word| !word.is_empty()) {
        let lower = word.to_lowercase();
        let bare = lower.trim_start_matches(['-', '+']);
        if matches!(bare, "or" | "not" | "and") || ELSEWHERE.iter().any(|start| bare.starts_with(start)) {
            return refuse("a search may have no OR, NOT or AND, and no user:, org:, owner: or enterprise:");
        }
        if let Some(repo) = bare.strip_prefix("repo:") {
            let own = repo.split_once('/').is_some_and(|(owner, name)| scope.repo(owner, name).is_some());
            if !own || bare.len() != lower.len() {
                return refuse("a search may look in this container's repositories only");
            }
            named = true;
        } else if bare.contains("repo:") {
            return refuse("a search may look in this container's repositories only");
        }
    }
    if named { Ok(()) } else { refuse("a search has to name one of this container's repositories with repo:") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phrase_is_one_word_or_the_search_is_refused() {
        for (text, read) in [
            ("", Some("")),
            ("a b", Some("a b")),
            ("\"fn main()\" repo:o/r", Some("q repo:o/r")),
            ("label:\"good first issue\" -\"a b\"", Some("label:q -q")),
            ("repo:\"o/r\"", Some("repo:q")),
            ("\"\"", Some("q")),
            ("\"a", None),
            ("\"a\" \"", None),
            ("x\"a\"", None),
            ("\"a\"repo:o/r", None),
            ("\"a\"\"b\"", None),
            ("\"org:evil\"", None),
        ] {
            assert_eq!(unquoted(text).as_deref(), read, "{text}");
        }
    }
}
