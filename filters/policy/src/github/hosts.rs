//! GitHub's hosts, and the requests that are allowed to each host other than the API.

use super::lfs::{self, LfsRequest};
use super::target::{self, Target};
use super::{Allowed, Class, Head, Operation, Pending, PendingKind, Refused, Scope};
use crate::{HostName, HostPattern, Rule, redirect};

/// The service behind one of GitHub's hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// api.github.com
    Api,
    /// uploads.github.com
    Uploads,
    /// github.com
    Web,
    /// codeload.github.com
    Codeload,
    /// raw.githubusercontent.com
    Raw,
    /// The store of Git LFS objects.
    LfsStore,
    /// A host to which every request is refused: its requests don't show their repository, or act with an account.
    Closed,
}

/// GitHub's domains. Each of these names, and every name below one, is a host of GitHub's.
pub const BELOW: [&str; 8] = [
    "github.com",
    "githubusercontent.com",
    "githubcopilot.com",
    "github.ai",
    "githubapp.com",
    "github.dev",
    "ghcr.io",
    "github-cloud.s3.amazonaws.com",
];

/// The service behind `host`. Returns `None` if it is not one of GitHub's hosts.
pub fn kind(host: &HostName) -> Option<Kind> {
    let host = host.as_str();
    let below = |suffix: &&str| host == *suffix || host.strip_suffix(*suffix).is_some_and(|rest| rest.ends_with('.'));
    match host {
        "api.github.com" => Some(Kind::Api),
        "uploads.github.com" => Some(Kind::Uploads),
        "github.com" => Some(Kind::Web),
        "codeload.github.com" => Some(Kind::Codeload),
        "raw.githubusercontent.com" => Some(Kind::Raw),
        "github-cloud.githubusercontent.com" | "github-cloud.s3.amazonaws.com" => Some(Kind::LfsStore),
        _ => BELOW.iter().any(below).then_some(Kind::Closed),
    }
}

impl HostPattern {
    /// Whether the pattern may cover one of GitHub's hosts.
    pub fn may_be_github(&self) -> bool {
        match self {
            Self::Exact(name) => kind(name).is_some(),
            Self::Below(suffix) => {
                kind(suffix).is_some()
                    || BELOW
                        .iter()
                        .any(|host| host.strip_suffix(suffix.as_str()).is_some_and(|rest| rest.ends_with('.')))
            }
        }
    }
}

/// The operation of a push, and of the list of refs before it. The push stage judges their bodies and trailers.
pub(crate) const RECEIVE_PACK: &str = "git/receive-pack";

/// A git or Git LFS request to a repository on github.com.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Git<'a> {
    /// The repository's owner, as in the path.
    pub owner: &'a str,
    /// The repository's name, without `.git`.
    pub name: &'a str,
    /// The kind of request.
    pub service: Service,
}

/// The requests that git makes (gitprotocol-http(5)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// Either request of a fetch.
    Upload,
    /// The request for the list of refs before a push.
    Advertisement,
    /// The push.
    Push,
    /// Git LFS.
    Lfs(LfsRequest),
}

/// Parses a request to github.com in exactly the spellings that git uses: `/{owner}/{repo}[.git]/{service}`. Returns
/// `None` for any other request.
pub fn git<'a>(method: &str, target: &'a [u8]) -> Option<Git<'a>> {
    let mut parts = std::str::from_utf8(target).ok()?.strip_prefix('/')?.splitn(3, '/');
    let (owner, repo, service) = (parts.next()?, parts.next()?, parts.next()?);
    let service = match (method, service) {
        ("GET", "info/refs?service=git-upload-pack") | ("POST", "git-upload-pack") => Service::Upload,
        ("GET", "info/refs?service=git-receive-pack") => Service::Advertisement,
        ("POST", "git-receive-pack") => Service::Push,
        _ => Service::Lfs(lfs::parse(method, service)?),
    };
    Some(Git { owner, name: repo.strip_suffix(".git").unwrap_or(repo), service })
}

/// Judges a request to github.com: only git and Git LFS pass, and only for the container's repositories. If the policy
/// lets containers read public repositories, fetches and downloads of others pass too.
///
/// # Errors
/// If the request is refused.
pub fn web(method: &str, target: &[u8], scope: &Scope<'_>) -> Result<Head, Refused> {
    let Some(git) = git(method, target) else {
        if scope.reads_public() && is_download(method, target) {
            return public("web/download", target, scope).map(Head::Allowed);
        }
        let reason = "github.com allows only git and Git LFS; use api.github.com for everything else";
        return Err(Refused::unknown(Rule::GithubWeb, reason));
    };
    let (name, class) = match git.service {
        Service::Upload => ("git/upload-pack", Class::ReadRepo),
        Service::Advertisement | Service::Push => (RECEIVE_PACK, Class::WriteRef),
        Service::Lfs(_) => ("lfs", Class::ReadRepo),
    };
    let operation = Operation { name: name.into(), class };
    if scope.repo(git.owner, git.name).is_none() {
        let read = git.service == Service::Upload;
        if read && scope.reads_public() {
            return public(name, target, scope).map(Head::Allowed);
        }
        return Err(scope.foreign(&operation, &format!("{}/{}", git.owner, git.name), read));
    }
    match git.service {
        Service::Lfs(request) if method == "GET" => {
            lfs::judge(request, scope).map(|known| Head::Allowed(Allowed::as_is(known, target)))
        }
        Service::Lfs(request) => Ok(Head::Body(Pending(PendingKind::Lfs(request, target.to_vec())))),
        Service::Upload | Service::Advertisement | Service::Push => {
            scope.operation(&operation)?;
            Ok(Head::Allowed(Allowed::as_is(operation, target)))
        }
    }
}

/// Whether the request is a download of a release's file, an archive or a file from github.com, in the spellings of
/// GitHub's own links.
fn is_download(method: &str, target: &[u8]) -> bool {
    let Some(segments) = segments(method, target) else { return false };
    let rest: Vec<&str> = segments.iter().skip(2).map(String::as_str).collect();
    matches!(
        &rest[..],
        ["releases", "download", _, _]
            | ["releases", "latest", "download", _]
            | ["archive" | "tarball" | "zipball", _, ..]
            | ["raw", _, _, ..]
    )
}

/// Judges a request to raw.githubusercontent.com: only files pass, and only if the policy lets containers read public
/// repositories.
///
/// # Errors
/// If the request is refused.
pub fn raw(method: &str, target: &[u8], host: &HostName, scope: &Scope<'_>) -> Result<Allowed, Refused> {
    if !scope.reads_public() {
        return Err(closed(host));
    }
    match segments(method, target).as_deref() {
        Some([_, _, _, _, ..]) => public("raw/file", target, scope),
        _ => {
            let reason = "raw.githubusercontent.com allows only GET /OWNER/REPO/REF/PATH, without a query string";
            Err(Refused::unknown(Rule::GithubTarget, reason))
        }
    }
}

/// The decoded segments of a GET or HEAD without a query. Returns `None` for other requests, for paths that have another
/// meaning once they are decoded, and if the first two segments are no repository.
fn segments(method: &str, target: &[u8]) -> Option<Vec<String>> {
    let target = Target::parse(target).ok().filter(|_| matches!(method, "GET" | "HEAD"))?;
    let segments: Vec<String> = target.segments.iter().map(|segment| target::decode(segment)).collect::<Option<_>>()?;
    let plain = |segment: &String| {
        let dots = segment.split('/').any(|part| matches!(part, "" | "." | ".."));
        !dots && !segment.contains(['\\', '%']) && !segment.chars().any(char::is_control)
    };
    let [owner, name, ..] = &segments[..] else { return None };
    let named = [owner, name].iter().all(|part| part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)));
    (named && target.query.is_empty() && segments.iter().all(plain)).then_some(segments)
}

/// Allows a read without a credential.
fn public(name: &str, target: &[u8], scope: &Scope<'_>) -> Result<Allowed, Refused> {
    let operation = Operation { name: name.into(), class: Class::ReadPublic };
    scope.operation(&operation)?;
    Ok(Allowed::as_is(operation, target))
}

/// Judges a request to codeload.github.com: only archives of the container's repositories pass. GitHub's API redirects
/// to these. If the policy lets containers read public repositories, archives of others pass too.
///
/// # Errors
/// If the request is refused.
pub fn codeload(method: &str, target: &[u8], scope: &Scope<'_>) -> Result<Allowed, Refused> {
    let text = std::str::from_utf8(target).unwrap_or_default();
    let path = text.split('?').next().unwrap_or_default();
    let mut parts = path.splitn(5, '/').skip(1);
    let (owner, repo) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
    let (format, reference) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
    let odd = |part: &str| part.is_empty() || part == "." || part == "..";
    let format = matches!(format, "zip" | "tar.gz" | "legacy.zip" | "legacy.tar.gz");
    if !matches!(method, "GET" | "HEAD") || !format || reference.split('/').any(odd) || path.contains(['%', '\\', ';'])
    {
        return Err(Refused::unknown(Rule::GithubCodeload, "codeload.github.com allows only downloads of archives"));
    }
    let name = "codeload/archive";
    let operation = Operation { name: name.into(), class: Class::ReadRepo };
    if scope.repo(owner, repo).is_none() {
        if !scope.reads_public() {
            return Err(scope.foreign(&operation, &format!("{owner}/{repo}"), true));
        }
        // A query would carry a credential.
        if text.contains('?') {
            let reason = "an archive of a public repository is downloaded without a query string";
            return Err(Refused::of(&operation, Rule::GithubCodeload, reason));
        }
        return public(name, target, scope);
    }
    scope.operation(&operation)?;
    if reference.contains(':') {
        let reason = "a revision may have no colon, because OWNER:BRANCH is a branch of another repository";
        return Err(Refused::of(&operation, Class::ReadCross.rule(), reason));
    }
    Ok(Allowed::as_is(operation, target))
}

/// The refusal of a request to a closed host.
pub fn closed(host: &HostName) -> Refused {
    let reason = if redirect::is_target(host) {
        "only URLs to which an answer of api.github.com or github.com has just redirected you are allowed"
    } else {
        "use api.github.com or git"
    };
    Refused::unknown(Rule::GithubHost, format!("requests to {host} are not allowed; {reason}"))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use crate::HostName;
    use crate::github::{Call, Judge, Rules};

    #[test]
    fn no_host_of_github_s_is_asked_for_another_protocol() {
        let container = serde_json::from_str(
            r#"{"container_ip":"172.18.0.5","container_id":"a","repos":["o/r"],"expires_at":"2027-01-15T00:00:00Z"}"#,
        )
        .unwrap();
        let judge = Judge::new(&Rules::default()).unwrap();
        for (host, target) in [
            ("github.com", "/o/r/info/refs?service=git-upload-pack"),
            ("api.github.com", "/repos/o/r"),
            ("codeload.github.com", "/o/r/zip/main"),
            ("github-cloud.githubusercontent.com", "/x"),
        ] {
            let name = HostName::parse(host.as_bytes()).unwrap();
            let judged = |headers: &[(String, Vec<u8>)]| {
                let call = Call { method: b"GET", host: &name, target: target.as_bytes(), headers };
                judge.head(call, &container).map_err(|refused| refused.denial.rule.name())
            };
            assert!(judged(&[]).is_ok(), "{host}");
            let upgrade = [("Upgrade".to_owned(), b"websocket".to_vec())];
            assert_eq!(judged(&upgrade).err(), Some("github.header"), "{host}");
        }
    }
}
