//! Which requests to GitHub get the token: git on the container's own repositories, and API reads of those and of the
//! few resources that are nobody's. What they mean beyond that is the github stage's to decide.

use policy::{Container, Denial, Stage};

/// API resources that belong to no repository: the token's own account, and what is the same for everybody.
const COMMON_READS: [&[u8]; 7] = [b"/", b"/user", b"/rate_limit", b"/meta", b"/zen", b"/emojis", b"/versions"];

/// `/{owner}/{repo}` or `/{owner}/{repo}.git`, followed by what git asks for. Returns the rule that allows it.
///
/// # Errors
/// The refusal.
pub fn git(container: &Container, method: &str, path: &[u8]) -> Result<&'static str, Denial> {
    let refuse = |rule, reason: String| Denial::forbidden(Stage::Credentials, rule, reason);
    let mut parts = path.splitn(4, |b| *b == b'/').skip(1);
    let (owner, repo, service) = match (parts.next(), parts.next(), parts.next()) {
        (Some(owner), Some(repo), Some(service)) => (owner, repo, service),
        _ => return Err(refuse("credentials.path", "only git is spoken to github.com through the gateway".into())),
    };
    let asked = matches!((method, service), ("GET", b"info/refs") | ("POST", b"git-upload-pack" | b"git-receive-pack"));
    if !asked {
        return Err(refuse("credentials.path", "only git is spoken to github.com through the gateway".into()));
    }
    let name = repo.strip_suffix(b".git").unwrap_or(repo);
    if !container.has_repo(owner, name) {
        return Err(not_listed(container, owner, name));
    }
    Ok("credentials.git")
}

/// A read of a repository of the container's, or of what is nobody's. Returns the rule that allows it.
///
/// # Errors
/// The refusal.
pub fn api(container: &Container, method: &str, path: &[u8]) -> Result<&'static str, Denial> {
    if !matches!(method, "GET" | "HEAD") {
        let reason = "only reads of the GitHub API are decided so far, so nothing else passes";
        return Err(Denial::forbidden(Stage::Credentials, "credentials.github-write", reason));
    }
    if COMMON_READS.contains(&path) {
        return Ok("credentials.api");
    }
    let mut parts = path.splitn(5, |b| *b == b'/').skip(1);
    match (parts.next(), parts.next(), parts.next()) {
        (Some(b"repos"), Some(owner), Some(name)) if container.has_repo(owner, name) => Ok("credentials.api"),
        (Some(b"repos"), Some(owner), Some(name)) => Err(not_listed(container, owner, name)),
        _ => {
            let reason = "this API resource is not one of the container's repositories";
            Err(Denial::forbidden(Stage::Credentials, "credentials.path", reason))
        }
    }
}

fn not_listed(container: &Container, owner: &[u8], name: &[u8]) -> Denial {
    let (owner, name) = (String::from_utf8_lossy(owner), String::from_utf8_lossy(name));
    let reason = format!("{owner}/{name} is not one of the repositories of {}", container.container_id);
    Denial::forbidden(Stage::Credentials, "credentials.repo", reason)
}
