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

/// Judges a search query. It has to name at least one of the container's repositories with `repo:`, and no other
/// repository. Syntax that could widen the search is refused.
///
/// # Errors
/// If the request is refused.
pub fn query(scope: &Scope<'_>, operation: &Operation, text: &str) -> Result<(), Refused> {
    let refuse = |reason: &str| Err(Refused::of(operation, Class::ReadCross.rule(), reason));
    if text.chars().any(|c| c.is_control() || matches!(c, '(' | ')' | '"' | '\'' | '\\' | '“' | '”')) {
        return refuse("a search may have no quotes, parentheses or control characters");
    }
    // GitHub may read such characters as the ASCII characters of a qualifier.
    let qualifier = |word: &str| word.rsplit_once(':').is_some_and(|(name, _)| !name.is_ascii());
    if words::is_disguised(text) || text.split(char::is_whitespace).any(qualifier) {
        return refuse("a search may have no invisible or full-width characters, and only ASCII before a colon");
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
