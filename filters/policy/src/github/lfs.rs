//! Git LFS on github.com: requests to its API (git-lfs's docs/api/batch.md and locking.md) and to its store.
//!
//! A container that may read a repository may download. In user mode a container may also upload and lock. A bot may do
//! so only if the policy allows the operation by name, because uploads bypass the inspection of pushes.

use super::{Allowed, Class, Json, Operation, Refused, Scope};
use crate::{AuthMode, Rule};

/// The content type of API requests.
pub const CONTENT_TYPE: &[u8] = b"application/vnd.git-lfs+json";

/// The operations that the policy can list.
pub const OPERATIONS: [&str; 4] = ["lfs/download", "lfs/upload", "lfs/list-locks", "lfs/lock"];

/// The kind of an API request, as its target tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LfsRequest {
    /// Requests the URLs for a download or an upload; the body says which.
    Batch,
    /// Lists locks, or checks whether a push touches a locked file.
    Locks,
    /// Locks or unlocks a file.
    Lock,
}

/// Parses an API request. `service` is the target after `/{owner}/{repo}/`. Returns `None` if it is not an API request.
pub fn parse(method: &str, service: &str) -> Option<LfsRequest> {
    let (path, query) = service.split_once('?').map_or((service, None), |(path, query)| (path, Some(query)));
    let plain = |query: &str| query.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
    let id = |path: &str| {
        let id = path.strip_prefix("info/lfs/locks/")?.strip_suffix("/unlock")?;
        (!id.is_empty() && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')).then_some(())
    };
    match (method, path, query) {
        ("POST", "info/lfs/objects/batch", None) => Some(LfsRequest::Batch),
        ("POST", "info/lfs/locks/verify", None) => Some(LfsRequest::Locks),
        ("GET", "info/lfs/locks", query) if query.is_none_or(plain) => Some(LfsRequest::Locks),
        ("POST", "info/lfs/locks", None) => Some(LfsRequest::Lock),
        ("POST", path, None) if id(path).is_some() => Some(LfsRequest::Lock),
        _ => None,
    }
}

/// Judges a request that has no body, or whose body makes no difference.
///
/// # Errors
/// If the request is refused.
pub fn judge(request: LfsRequest, scope: &Scope<'_>) -> Result<Operation, Refused> {
    match request {
        LfsRequest::Batch | LfsRequest::Locks => reads(scope, "lfs/list-locks"),
        LfsRequest::Lock => writes(scope, "lfs/lock"),
    }
}

/// Judges a body, and returns the body to send.
///
/// # Errors
/// If the request is refused.
pub fn body(request: LfsRequest, body: &[u8], scope: &Scope<'_>) -> Result<(Operation, Vec<u8>), Refused> {
    let json =
        Json::parse(body).map_err(|error| Refused::unknown(Rule::GithubBody, format!("invalid JSON body: {error}")))?;
    let operation = match (request, json.get("operation").and_then(Json::as_str)) {
        (LfsRequest::Locks | LfsRequest::Lock, _) => judge(request, scope)?,
        (LfsRequest::Batch, Some("download")) => reads(scope, "lfs/download")?,
        (LfsRequest::Batch, Some("upload")) => writes(scope, "lfs/upload")?,
        (LfsRequest::Batch, _) => {
            return Err(Refused::unknown(Rule::GithubLfs, "operation has to be download or upload"));
        }
    };
    Ok((operation, json.to_bytes()))
}

/// Judges a request to the LFS store. The API's responses contain the store's URLs, which are signed and name no
/// repository.
///
/// # Errors
/// If the request is refused.
pub fn store(method: &str, target: &[u8], scope: &Scope<'_>) -> Result<Allowed, Refused> {
    let operation = match method {
        "GET" | "HEAD" => reads(scope, "lfs/download")?,
        "PUT" => writes(scope, "lfs/upload")?,
        _ => {
            return Err(Refused::unknown(Rule::GithubLfs, "the LFS store allows only GET, HEAD and PUT"));
        }
    };
    Ok(Allowed::as_is(operation, target))
}

fn reads(scope: &Scope<'_>, name: &str) -> Result<Operation, Refused> {
    let operation = Operation { name: name.into(), class: Class::ReadRepo };
    scope.operation(&operation)?;
    Ok(operation)
}

fn writes(scope: &Scope<'_>, name: &str) -> Result<Operation, Refused> {
    let operation = Operation { name: name.into(), class: Class::WriteObject };
    let by_name = scope.operation(&operation)?;
    match scope.container.auth_mode {
        AuthMode::Bot if !by_name => {
            let reason = format!("a bot may not upload or lock with Git LFS, unless the policy allows {name}");
            Err(Refused::of(&operation, Rule::GithubLfs, reason))
        }
        AuthMode::Bot | AuthMode::User => Ok(operation),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use crate::HostName;
    use crate::github::{Call, Exception, Head, Judge, Rules};
    use crate::{AuthMode, Container};

    fn judged(rules: &Rules, mode: AuthMode, url: (&str, &str, &str), body: &str) -> Result<String, &'static str> {
        let mut container: Container = serde_json::from_str(
            r#"{"container_ip":"172.18.0.5","container_id":"a","repos":["o/r"],"expires_at":"2027-01-15T00:00:00Z"}"#,
        )
        .unwrap();
        container.auth_mode = mode;
        let (method, host, target) = url;
        let host = HostName::parse(host.as_bytes()).unwrap();
        let call = Call { method: method.as_bytes(), host: &host, target: target.as_bytes(), headers: &[] };
        let judge = Judge::new(rules).unwrap();
        let allowed = match judge.head(call, &container).map_err(|refused| refused.denial.rule.name())? {
            Head::Allowed(allowed) => allowed,
            Head::Body(pending) => {
                let allowed =
                    judge.body(pending, body.as_bytes(), &container).map_err(|refused| refused.denial.rule.name())?;
                assert_eq!(allowed.content_type(), Some(super::CONTENT_TYPE));
                allowed
            }
            Head::Elsewhere => return Err("elsewhere"),
        };
        assert_eq!(allowed.target, target.as_bytes());
        Ok(allowed.operation.name)
    }

    const GIT: &str = "github.com";
    const STORE: &str = "github-cloud.s3.amazonaws.com";
    const BATCH: (&str, &str, &str) = ("POST", GIT, "/o/r.git/info/lfs/objects/batch");
    const DOWNLOAD: &str = r#"{"operation":"download","transfers":["basic"],"objects":[{"oid":"aa","size":1}]}"#;
    const UPLOAD: &str = r#"{"operation":"upload","objects":[]}"#;

    #[test]
    fn downloads_are_everybody_s_and_uploads_a_user_s() {
        let rules = Rules::default();
        for (url, body, bot, user) in [
            (BATCH, DOWNLOAD, Ok("lfs/download"), Ok("lfs/download")),
            (BATCH, UPLOAD, Err("github.lfs"), Ok("lfs/upload")),
            (BATCH, r#"{"operation":"Upload"}"#, Err("github.lfs"), Err("github.lfs")),
            (BATCH, r#"{"operation":"download","operation":"upload"}"#, Err("github.body"), Err("github.body")),
            (BATCH, "", Err("github.body"), Err("github.body")),
            (("GET", GIT, "/o/r/info/lfs/locks?path=a"), "", Ok("lfs/list-locks"), Ok("lfs/list-locks")),
            (("POST", GIT, "/o/r/info/lfs/locks/verify"), "{}", Ok("lfs/list-locks"), Ok("lfs/list-locks")),
            (("POST", GIT, "/o/r/info/lfs/locks"), r#"{"path":"a"}"#, Err("github.lfs"), Ok("lfs/lock")),
            (("POST", GIT, "/o/r/info/lfs/locks/7/unlock"), r#"{"force":true}"#, Err("github.lfs"), Ok("lfs/lock")),
            (("POST", GIT, "/o/other/info/lfs/objects/batch"), DOWNLOAD, Err("github.repo"), Err("github.repo")),
            (("POST", GIT, "/o/r/info/lfs/objects/batch?x"), DOWNLOAD, Err("github.web"), Err("github.web")),
            (("POST", GIT, "/o/r/info/lfs/locks/../unlock"), "{}", Err("github.web"), Err("github.web")),
            (("PUT", GIT, "/o/r/info/lfs/locks"), "{}", Err("github.web"), Err("github.web")),
            (("GET", STORE, "/alambic/media/x?X-Amz-Signature=y"), "", Ok("lfs/download"), Ok("lfs/download")),
            (("PUT", STORE, "/alambic/media/x?X-Amz-Signature=y"), "", Err("github.lfs"), Ok("lfs/upload")),
            (("POST", STORE, "/alambic/media/x"), "", Err("github.lfs"), Err("github.lfs")),
        ] {
            let text = |result: Result<&'static str, _>| result.map(str::to_owned);
            assert_eq!(judged(&rules, AuthMode::Bot, url, body), text(bot), "bot {url:?} {body}");
            assert_eq!(judged(&rules, AuthMode::User, url, body), text(user), "user {url:?} {body}");
        }
    }

    #[test]
    fn a_bot_may_upload_where_the_policy_says_so_by_name() {
        let allow = ["lfs/upload".to_owned()].into();
        let exception = Exception { labels: [].into(), allow, deny: [].into() };
        let rules = Rules { operations: vec![exception], ..Rules::default() };
        assert_eq!(judged(&rules, AuthMode::Bot, BATCH, UPLOAD), Ok("lfs/upload".into()));
        assert_eq!(judged(&rules, AuthMode::Bot, ("PUT", STORE, "/x"), ""), Ok("lfs/upload".into()));
        assert_eq!(judged(&rules, AuthMode::Bot, ("POST", GIT, "/o/r/info/lfs/locks"), "{}"), Err("github.lfs"));
    }
}
