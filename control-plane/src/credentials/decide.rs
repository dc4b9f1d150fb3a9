//! The decision of the credential stage, pure: who, where, how.
//!
//! Until the github stage decides API operations by what they do, the token is added to API reads of the
//! container's own repositories and of the few resources that are nobody's, and to git on its own repositories.
//! Everything else on these hosts is refused: no credential, no request.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use policy::{Container, Denial, Stage};
use secrecy::{ExposeSecret, SecretString};

use super::{Credentials, GITHUB_VARIABLES};

/// What carries a credential in a request to GitHub; whatever the sandbox put there is removed.
pub const CLIENT_CREDENTIALS: [&str; 2] = ["authorization", "cookie"];

/// API resources that belong to no repository: the token's own account, and what is the same for everybody.
const COMMON_READS: [&[u8]; 7] = [b"/", b"/user", b"/rate_limit", b"/meta", b"/zen", b"/emojis", b"/versions"];

/// The hosts that a credential exists for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// git over HTTP.
    GitHub,
    /// The REST API.
    GitHubApi,
}

impl Target {
    /// The target that `host` is, in its canonical spelling.
    pub fn of(host: &str) -> Option<Self> {
        match host {
            "github.com" => Some(Self::GitHub),
            "api.github.com" => Some(Self::GitHubApi),
            _ => None,
        }
    }
}

/// A request, as the credential stage sees it.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The canonical host.
    pub host: &'a str,
    /// The method.
    pub method: &'a str,
    /// Path and query, raw.
    pub path: &'a [u8],
}

/// What goes into the request.
#[derive(Debug)]
pub struct Injection {
    /// The value of `authorization`.
    pub authorization: SecretString,
    /// The rule that allowed it.
    pub rule: &'static str,
}

/// Decides.
///
/// # Errors
/// The refusal: an address that nobody is registered at any more, a record expired at `now`, a path or a repository
/// that no credential is for, a credential that is not configured.
pub fn decide(
    container: Option<&Container>,
    request: Request<'_>,
    credentials: &Credentials,
    now: Timestamp,
) -> Result<Injection, Denial> {
    let refuse = |rule, reason: String| Denial::forbidden(Stage::Credentials, rule, reason);
    let container =
        container.ok_or_else(|| refuse("identity.unknown", "no container is registered at your address".into()))?;
    if container.expired(now) {
        return Err(refuse("identity.expired", format!("the registration expired at {}", container.expires_at)));
    }
    if container.credentials.as_ref().is_some_and(|names| !names.iter().any(|name| name == "github")) {
        return Err(refuse("credentials.container", "this container may not use the credential github".into()));
    }
    let target = Target::of(request.host)
        .ok_or_else(|| refuse("credentials.host", format!("there is no credential for {}", request.host)))?;
    let path = request.path.split(|byte| *byte == b'?').next().unwrap_or_default();
    if !canonical(path) {
        return Err(refuse("credentials.path", "the path is not in its canonical spelling".into()));
    }
    let rule = match target {
        Target::GitHub => git(container, request.method, path)?,
        Target::GitHubApi => api(container, request.method, path)?,
    };
    let Some(token) = &credentials.github else {
        return Err(Denial {
            stage: Stage::Credentials,
            rule: "credentials.missing",
            status: 502,
            reason: format!("the gateway has no GitHub token; its operator can set {}", GITHUB_VARIABLES.join(" or ")),
        });
    };
    Ok(Injection { authorization: header(target, token), rule })
}

/// The one place where the token is taken out of its wrapper.
fn header(target: Target, token: &SecretString) -> SecretString {
    let token = token.expose_secret();
    SecretString::from(match target {
        Target::GitHub => format!("Basic {}", STANDARD.encode(format!("x-access-token:{token}"))),
        Target::GitHubApi => format!("Bearer {token}"),
    })
}

/// No byte in it that a server could decode, resolve or cut off into another path.
fn canonical(path: &[u8]) -> bool {
    let plain = path.iter().all(|b| b.is_ascii_graphic() && !matches!(b, b'%' | b'\\' | b';' | b'#'));
    let mut segments = path.split(|b| *b == b'/');
    let rooted = segments.next().is_some_and(<[u8]>::is_empty);
    let mut rest = segments.peekable();
    let mut clean = true;
    while let Some(segment) = rest.next() {
        // Only the last may be empty: the path's own trailing slash.
        clean &= !(segment.is_empty() && rest.peek().is_some()) && segment != b"." && segment != b"..";
    }
    plain && rooted && clean
}

/// `/{owner}/{repo}` or `/{owner}/{repo}.git`, followed by what git asks for.
fn git(container: &Container, method: &str, path: &[u8]) -> Result<&'static str, Denial> {
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

fn api(container: &Container, method: &str, path: &[u8]) -> Result<&'static str, Denial> {
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

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const NOW: &str = "2026-12-01T00:00:00Z";

    fn container() -> Container {
        serde_json::from_str(
            r#"{"container_ip":"172.18.0.5","container_id":"abc","repos":["acme/app"],"expires_at":"2027-01-15T00:00:00Z"}"#,
        )
        .unwrap()
    }

    fn run(container: Option<&Container>, host: &str, method: &str, path: &str) -> Result<String, &'static str> {
        let credentials = Credentials { github: Some(SecretString::from("T".to_owned())) };
        decide(container, Request { host, method, path: path.as_bytes() }, &credentials, NOW.parse().unwrap())
            .map(|injection| injection.authorization.expose_secret().to_owned())
            .map_err(|denial| denial.rule)
    }

    #[test]
    fn git_of_a_listed_repository_gets_basic_and_the_api_gets_bearer() {
        let known = container();
        let basic = format!("Basic {}", STANDARD.encode("x-access-token:T"));
        for (method, path) in [
            ("GET", "/acme/app/info/refs?service=git-upload-pack"),
            ("GET", "/acme/app.git/info/refs"),
            ("POST", "/ACME/App.git/git-upload-pack"),
            ("POST", "/acme/app.git/git-receive-pack"),
        ] {
            assert_eq!(run(Some(&known), "github.com", method, path), Ok(basic.clone()), "{path}");
        }
        for path in ["/", "/user", "/repos/acme/app", "/repos/Acme/App/pulls?state=open"] {
            assert_eq!(run(Some(&known), "api.github.com", "GET", path), Ok("Bearer T".into()), "{path}");
        }
    }

    #[test]
    fn nothing_else_gets_a_credential() {
        let known = container();
        let cases = [
            ("github.com", "GET", "/acme/secret/info/refs", "credentials.repo"),
            ("github.com", "GET", "/acme/app.git.git/info/refs", "credentials.repo"),
            ("github.com", "POST", "/acme/app/info/refs", "credentials.path"),
            ("github.com", "TRACE", "/acme/app/info/refs", "credentials.path"),
            ("github.com", "DELETE", "/acme/app/git-receive-pack", "credentials.path"),
            ("github.com", "GET", "/acme/app/settings", "credentials.path"),
            ("github.com", "GET", "/acme/app", "credentials.path"),
            ("github.com", "GET", "/acme/app.wiki/info/refs", "credentials.repo"),
            ("github.com", "POST", "/acme/app/git%2Dreceive%2Dpack", "credentials.path"),
            ("github.com", "GET", "/acme/app/../secret/info/refs", "credentials.path"),
            ("github.com", "GET", "//acme/app/info/refs", "credentials.path"),
            ("github.com", "GET", "acme/app/info/refs", "credentials.path"),
            ("github.com", "GET", "/acme/app/info/refs/", "credentials.path"),
            ("github.com", "GET", "/acme/app;x/info/refs", "credentials.path"),
            ("api.github.com", "GET", "/repos/acme/secret", "credentials.repo"),
            ("api.github.com", "GET", "/repos/acme/app/../secret", "credentials.path"),
            ("api.github.com", "GET", "/repositories/20580498", "credentials.path"),
            ("api.github.com", "GET", "/user/repos", "credentials.path"),
            ("api.github.com", "PUT", "/repos/acme/app/pulls/1/merge", "credentials.github-write"),
            ("api.github.com", "POST", "/graphql", "credentials.github-write"),
            ("uploads.github.com", "GET", "/", "credentials.host"),
        ];
        for (host, method, path, rule) in cases {
            assert_eq!(run(Some(&known), host, method, path), Err(rule), "{host}{path}");
        }
    }

    #[test]
    fn nobody_and_the_expired_and_the_narrowed_get_nothing() {
        let path = "/acme/app/info/refs";
        assert_eq!(run(None, "github.com", "GET", path), Err("identity.unknown"));
        let mut expired = container();
        expired.expires_at = NOW.parse().unwrap();
        assert_eq!(run(Some(&expired), "github.com", "GET", path), Err("identity.expired"));
        let mut narrowed = container();
        narrowed.credentials = Some(vec![]);
        assert_eq!(run(Some(&narrowed), "github.com", "GET", path), Err("credentials.container"));
        narrowed.credentials = Some(vec!["github".into()]);
        assert!(run(Some(&narrowed), "github.com", "GET", path).is_ok());
    }

    #[test]
    fn a_missing_token_says_which_variable_to_set() {
        let known = container();
        let request = Request { host: "github.com", method: "GET", path: b"/acme/app/info/refs" };
        let denial = decide(Some(&known), request, &Credentials::default(), NOW.parse().unwrap()).unwrap_err();
        assert_eq!((denial.status, denial.rule), (502, "credentials.missing"));
        assert!(denial.reason.contains("GITHUB_TOKEN"));
    }
}
