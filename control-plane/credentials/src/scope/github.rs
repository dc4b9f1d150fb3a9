//! The requests to GitHub that get the token: git and the API on the container's own repositories, GraphQL, and reads
//! of resources that belong to no repository. The earlier github stage decides about the operations. This module is a
//! second check behind that stage, and checks names only.

use policy::endpoint::canonical;
use policy::{Container, Denial, Repo, Rule};

/// API resources that belong to no repository, for reads only: resources that are the same for all accounts, the
/// token's own account, public profiles, and searches, which the github stage has narrowed. `*` is one segment.
const COMMON_READS: [&str; 24] = [
    "",
    "advisories",
    "advisories/*",
    "apps/*",
    "codes_of_conduct",
    "codes_of_conduct/*",
    "emojis",
    "gitignore/templates",
    "gitignore/templates/*",
    "licenses",
    "licenses/*",
    "meta",
    "octocat",
    "orgs/*",
    "rate_limit",
    "search/code",
    "search/commits",
    "search/issues",
    "search/labels",
    "user",
    "user/*",
    "users/*",
    "versions",
    "zen",
];

/// API resources whose POST requests are queries. The github stage decides about the body of a GraphQL request.
const QUESTIONS: [&str; 3] = ["graphql", "markdown", "markdown/raw"];

/// Checks a git request: `/{owner}/{repo}` or `/{owner}/{repo}.git`, followed by a service of git. Returns the
/// repository.
///
/// # Errors
/// If the request is not a git request, or the repository is not the container's.
pub fn git<'a>(container: &'a Container, method: &str, path: &[u8]) -> Result<&'a Repo, Denial> {
    let refuse = |rule, reason: String| Denial::new(rule, reason);
    let mut parts = path.splitn(4, |b| *b == b'/').skip(1);
    let (owner, repo, service) = match (parts.next(), parts.next(), parts.next()) {
        (Some(owner), Some(repo), Some(service)) => (owner, repo, service),
        _ => return Err(refuse(Rule::CredentialsPath, "the gateway sends only git requests to github.com".into())),
    };
    let asked = matches!((method, service), ("GET", b"info/refs") | ("POST", b"git-upload-pack" | b"git-receive-pack"));
    let lfs = matches!(method, "GET" | "POST") && service.starts_with(b"info/lfs/");
    if !asked && !lfs {
        return Err(refuse(Rule::CredentialsPath, "the gateway sends only git requests to github.com".into()));
    }
    let name = repo.strip_suffix(b".git").unwrap_or(repo);
    own(container, owner, name)
}

/// Checks an API request on a repository of the container, or on a resource that belongs to no repository. Returns the
/// repository, or `None` for the other resources.
///
/// # Errors
/// If the request is on another repository or resource.
pub fn api<'a>(container: &'a Container, method: &str, path: &[u8]) -> Result<Option<&'a Repo>, Denial> {
    let refuse = |rule, reason: &str| Err(Denial::new(rule, reason));
    let reads = matches!(method, "GET" | "HEAD");
    let mut parts = path.splitn(5, |b| *b == b'/').skip(1);
    match (parts.next(), parts.next(), parts.next()) {
        (Some(b"repos"), Some(owner), Some(name)) => return own(container, owner, name).map(Some),
        // GitHub's own links have this form.
        (Some(b"repositories"), Some(id), _) if reads => {
            let id = str::from_utf8(id).ok().and_then(|id| id.parse::<u64>().ok());
            return match id.and_then(|id| container.repos.iter().find(|repo| repo.id() == Some(id))) {
                Some(repo) => Ok(Some(repo)),
                None => refuse(
                    Rule::CredentialsRepo,
                    "the repository id is not the id of one of the container's repositories",
                ),
            };
        }
        _ => {}
    }
    let numbered = |path: &[u8]| path.strip_prefix(b"/user/").is_none_or(|id| id.iter().all(u8::is_ascii_digit));
    if (reads && COMMON_READS.iter().any(|pattern| fits(pattern, path)) && numbered(path))
        || (method == "POST" && QUESTIONS.iter().any(|pattern| fits(pattern, path)))
    {
        Ok(None)
    } else {
        refuse(Rule::CredentialsPath, "the API resource does not belong to one of the container's repositories")
    }
}

/// Whether the canonical `path` matches `pattern`. `*` matches one segment.
fn fits(pattern: &str, path: &[u8]) -> bool {
    let Some(path) = path.strip_prefix(b"/") else { return false };
    let (mut wanted, mut found) = (pattern.split('/'), path.split(|b| *b == b'/'));
    loop {
        match (wanted.next(), found.next()) {
            (None, None) => return true,
            (Some("*"), Some(segment)) if !segment.is_empty() => {}
            (Some(wanted), Some(found)) if wanted.as_bytes() == found && wanted != "*" => {}
            _ => return false,
        }
    }
}

/// Whether a path of the API can be parsed in one way only. The rules are those of [`canonical`], except for names
/// after the repository's. These names may need encoding, and the github stage encodes them (`release%2F1.0`,
/// `a%20file`).
pub fn canonical_api(path: &[u8]) -> bool {
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'%' {
            decoded.push(*first);
            continue;
        }
        let hex = |b: u8| char::from(b).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let Some((high, low)) = after.first().copied().and_then(hex).zip(after.get(1).copied().and_then(hex)) else {
            return false;
        };
        let byte = high << 4 | low;
        // A server that decodes a second time would read `%` as another character. A server that decodes early could
        // read a backslash or a control character as the end of the path or of a segment.
        if byte == b'%' || byte == b'\\' || byte.is_ascii_control() {
            return false;
        }
        // The check below needs only the ends of the segments. All other encoded bytes become `_`.
        decoded.push(if byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'/') { byte } else { b'_' });
        rest = after.get(2..).unwrap_or_default();
    }
    let plain_until = path.splitn(5, |b| *b == b'/').take(4).all(|segment| !segment.contains(&b'%'));
    let common = path.starts_with(b"/repos/") || path.starts_with(b"/repositories/") || !path.contains(&b'%');
    plain_until && common && canonical(&decoded)
}

/// The container's repository `owner/name`.
fn own<'a>(container: &'a Container, owner: &[u8], name: &[u8]) -> Result<&'a Repo, Denial> {
    if let Some(repo) = container.repos.iter().find(|repo| repo.is(owner, name)) {
        return Ok(repo);
    }
    let (owner, name) = (String::from_utf8_lossy(owner), String::from_utf8_lossy(name));
    let reason = format!("{owner}/{name} is not one of the repositories of {}", container.container_id);
    Err(Denial::new(Rule::CredentialsRepo, reason))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// The repository of the request `target`, if any.
    fn asked(target: &str) -> Result<Option<String>, &'static str> {
        let container: Container = serde_json::from_str(
            r#"{"container_ip":"172.18.0.5","container_id":"a","repos":["acme/app",{"name":"acme/lib","id":7}],"expires_at":"2027-01-15T00:00:00Z"}"#,
        )
        .unwrap();
        let (method, path) = target.split_once(' ').unwrap();
        if canonical_api(path.as_bytes()) {
            api(&container, method, path.as_bytes()).map(|repo| repo.map(Repo::to_string)).map_err(|d| d.rule.name())
        } else {
            Err("credentials.path")
        }
    }

    #[test]
    fn the_api_gets_it_on_its_own_repositories_and_on_what_is_nobodys() {
        for target in [
            "GET /repos/acme/app",
            "DELETE /repos/ACME/app/git/refs/heads/x",
            "PUT /repos/acme/lib/contents/a%20file.md",
            "GET /repos/acme/app/branches/release%2F1.0",
            "GET /repos/acme/app/compare/main...x%3Ay",
            "GET /repos/acme/app/contents/caf%C3%A9",
            "GET /repositories/7",
            "HEAD /repositories/7/issues",
            "POST /graphql",
            "POST /markdown",
            "POST /markdown/raw",
            "GET /",
            "HEAD /user",
            "GET /user/42",
            "GET /users/octocat",
            "GET /orgs/acme",
            "GET /rate_limit",
            "GET /meta",
            "GET /zen",
            "GET /emojis",
            "GET /versions",
            "GET /octocat",
            "GET /licenses",
            "GET /licenses/mit",
            "GET /gitignore/templates/Rust",
            "GET /search/issues",
            "GET /advisories/GHSA-x",
            "GET /codes_of_conduct",
            "GET /apps/dependabot",
        ] {
            let repo = asked(target).unwrap_or_else(|rule| unreachable!("{target}: {rule}"));
            let expected = match target.split('/').nth(1).unwrap() {
                "repos" if target.to_ascii_lowercase().contains("acme/app") => Some("acme/app"),
                "repos" | "repositories" => Some("acme/lib"),
                _ => None,
            };
            assert_eq!(repo.as_deref(), expected, "{target}");
        }
    }

    #[test]
    fn nothing_else_of_the_api_gets_it() {
        for (target, expected) in [
            ("GET /repos/acme/secret", "credentials.repo"),
            ("PUT /repos/acme/secret/contents/x", "credentials.repo"),
            ("GET /repositories/8", "credentials.repo"),
            ("GET /repositories/07x", "credentials.repo"),
            ("PUT /repositories/7", "credentials.path"),
            ("GET /repos/acme", "credentials.path"),
            ("GET /graphql", "credentials.path"),
            ("POST /graphql/x", "credentials.path"),
            ("POST /user", "credentials.path"),
            ("GET /user/repos", "credentials.path"),
            ("GET /user/42/x", "credentials.path"),
            ("GET /users", "credentials.path"),
            ("GET /users/", "credentials.path"),
            ("GET /users/octocat/repos", "credentials.path"),
            ("GET /orgs/acme/repos", "credentials.path"),
            ("GET /search/users", "credentials.path"),
            ("GET /search/repositories", "credentials.path"),
            ("GET /gists", "credentials.path"),
            ("POST /gists", "credentials.path"),
            ("GET /notifications", "credentials.path"),
            ("GET /app", "credentials.path"),
            ("PUT /markdown", "credentials.path"),
            ("GET /users/%2e%2e", "credentials.path"),
            ("GET /repos/acme%2fapp", "credentials.path"),
            ("GET /repos/acme/%61pp", "credentials.path"),
            ("GET /repos/acme/app/%2e%2e/secret", "credentials.path"),
            ("GET /repos/acme/app/a%2f..%2f..%2fsecret", "credentials.path"),
            ("GET /repos/acme/app/a%2f%2fb", "credentials.path"),
            ("GET /repos/acme/app/x%252e", "credentials.path"),
            ("GET /repos/acme/app/x%00", "credentials.path"),
            ("GET /repos/acme/app/x%0a", "credentials.path"),
            ("GET /repos/acme/app/x%5c", "credentials.path"),
            ("GET /repos/acme/app/x%", "credentials.path"),
            ("GET /repos/acme/app/x%2", "credentials.path"),
            ("GET /repos/acme/app/x%zz", "credentials.path"),
            ("GET /repos/acme/app/x;y", "credentials.path"),
            ("GET /repos/acme/app/../secret", "credentials.path"),
        ] {
            assert_eq!(asked(target), Err(expected), "{target}");
        }
    }
}
