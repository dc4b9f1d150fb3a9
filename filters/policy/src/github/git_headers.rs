//! The headers of git's requests to github.com: a fetch, a push, and the list of refs before either. Headers that are not
//! on the list are removed. git's server reads none of them, and other servers behind it might.

use super::{Call, Kind, Refused, Service, kind};
use crate::Rule;

/// Headers that are forwarded: those that git, libgit2, dulwich, JGit and go-git send, and those that Envoy needs or adds
/// before the router. A later stage replaces the client's `authorization` with the credential.
const KEPT: [&str; 18] = [
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "authorization",
    "cache-control",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "git-protocol",
    "host",
    "pragma",
    "transfer-encoding",
    "user-agent",
    "x-forwarded-proto",
    "x-request-id",
    super::RETRY_ON,
];

/// Headers with one meaning only if they are there once.
const ONCE: [&str; 4] = ["authorization", "content-length", "git-protocol", "transfer-encoding"];

/// Protocol versions that a client may ask for (gitprotocol-http(5)).
const VERSIONS: [&[u8]; 3] = [b"version=0", b"version=1", b"version=2"];

/// Whether this is one of git's requests. Git LFS has paths and headers of its own.
pub fn concern(call: Call<'_>) -> bool {
    let service = std::str::from_utf8(call.method).ok().and_then(|method| super::git(method, call.target));
    kind(call.host) == Some(Kind::Web)
        && service.is_some_and(|git| match git.service {
            Service::Upload | Service::Advertisement | Service::Push => true,
            Service::Lfs(_) => false,
        })
}

/// Judges the headers, and returns the names of the headers to remove.
///
/// # Errors
/// If a header that git's server reads is there twice, or has a value that git does not send.
pub fn screen(headers: &[(String, Vec<u8>)]) -> Result<Vec<String>, Refused> {
    let refuse = |reason: String| Err(Refused::unknown(Rule::GithubHeader, reason));
    let mut removed = Vec::new();
    for (name, value) in headers {
        let lower = name.to_ascii_lowercase();
        let count = || headers.iter().filter(|(have, _)| have.eq_ignore_ascii_case(&lower)).count();
        match lower.as_str() {
            name if name.starts_with(':') => {}
            once if ONCE.contains(&once) && count() > 1 => return refuse(format!("duplicate header {once}")),
            "git-protocol" if !VERSIONS.contains(&value.as_slice()) => {
                return refuse("git-protocol has to be version=0, version=1 or version=2".into());
            }
            kept if KEPT.contains(&kept) => {}
            _ => removed.push(lower),
        }
    }
    removed.sort();
    removed.dedup();
    Ok(removed)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn screened(headers: &[(&str, &str)]) -> Result<Vec<String>, &'static str> {
        let headers: Vec<_> =
            headers.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())).collect();
        screen(&headers).map_err(|refused| refused.denial.rule.name())
    }

    #[test]
    fn what_git_s_clients_send_is_kept() {
        let git = [
            ("host", "github.com"),
            ("user-agent", "git/2.47.3"),
            ("accept", "*/*"),
            ("accept-encoding", "deflate, gzip, br, zstd"),
            ("accept-language", "de, *;q=0.9"),
            ("pragma", "no-cache"),
            ("git-protocol", "version=2"),
            ("content-type", "application/x-git-upload-pack-request"),
            ("content-encoding", "gzip"),
            ("content-length", "7"),
            ("expect", "100-continue"),
            ("authorization", "Basic x"),
            ("x-request-id", "7"),
            (":path", "/"),
        ];
        assert_eq!(screened(&git), Ok(vec![]));
    }

    #[test]
    fn what_no_git_needs_is_removed_and_what_has_two_readings_is_refused() {
        let strays = [("X-Stat", "a=b"), ("cookie", "a=b"), ("x-stat", "c"), ("x-github-request-id", "1"), ("te", "x")];
        let removed = ["cookie", "te", "x-github-request-id", "x-stat"].map(str::to_owned).to_vec();
        assert_eq!(screened(&strays), Ok(removed));
        for odd in ["version=3", "version=2:x", "version=1;a=b", "", "2"] {
            assert_eq!(screened(&[("git-protocol", odd)]), Err("github.header"), "{odd}");
        }
        for once in ONCE {
            let value = match once {
                "git-protocol" => "version=2",
                _ => "gzip",
            };
            assert_eq!(screened(&[(once, value), (once, value)]), Err("github.header"), "{once}");
        }
    }

    #[test]
    fn the_list_is_for_git_s_paths_on_github_com() {
        let host = crate::HostName::parse(b"github.com").unwrap();
        let api = crate::HostName::parse(b"api.github.com").unwrap();
        let call = |method, host, target| Call { method, host, target, headers: &[] };
        for (method, target) in [
            (&b"GET"[..], &b"/o/r.git/info/refs?service=git-upload-pack"[..]),
            (b"GET", b"/o/r/info/refs?service=git-receive-pack"),
            (b"POST", b"/o/r.git/git-upload-pack"),
            (b"POST", b"/o/r.git/git-receive-pack"),
        ] {
            assert!(concern(call(method, &host, target)));
            assert!(!concern(call(method, &api, target)));
        }
        assert!(!concern(call(b"POST", &host, b"/o/r.git/info/lfs/objects/batch")));
    }
}
