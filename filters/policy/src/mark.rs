//! The marks of the stages on a request, and the seal on a credential: GitHub gets no credential with a request that a
//! stage has not judged in the form in which it is sent.
//!
//! A stage that allows a request leaves a [`Mark`] beside it: filter state of the request's stream in Envoy, which no
//! client can write. Envoy sends the marks to the credential stage in the metadata of its call, apart from the
//! request's headers. The credential stage adds a credential only if [`Marks::check`] finds the marks of the request.
//!
//! The push stage stands behind the credential stage. The credential for github.com is therefore added [`SEALED`], and
//! only the push stage puts it into force, when it lets the request's headers pass.

use crate::github::{self, Kind};
use crate::{Denial, HostName, Rule};

/// The property with the mark of the identity stage.
pub const IDENTITY: &str = "sallyport.mark.identity";

/// The property with the mark of the github stage.
pub const GITHUB: &str = "sallyport.mark.github";

/// The beginning of the github stage's mark on a request that goes out without a credential.
const PUBLIC: &[u8] = b"public ";

/// The header of a credential that is not in force. The routes remove it from every request that goes upstream.
pub const SEALED: &str = "x-sallyport-sealed";

/// The header of a sealed credential that the push stage has put into force.
pub const UNSEALED: &str = "authorization";

/// A mark: a property of the request's stream, and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The property's name.
    pub property: &'static str,
    /// Its value.
    pub value: Vec<u8>,
}

/// A request in the form in which a stage lets it pass.
#[derive(Clone, Copy, Debug)]
pub struct Judged<'a> {
    /// The generation of the record by which the stage has judged. No two records have the same.
    pub generation: u64,
    /// The canonical host.
    pub host: &'a HostName,
    /// The method.
    pub method: &'a [u8],
    /// Path and query.
    pub path: &'a [u8],
}

impl Judged<'_> {
    /// The mark of the identity stage. A later stage may write the path anew, so the mark names only the record and the
    /// host.
    pub fn identity(&self) -> Mark {
        Mark { property: IDENTITY, value: format!("{} {}", self.generation, self.host).into_bytes() }
    }

    /// The mark of the github stage on a request that may get the credential.
    pub fn github(&self) -> Mark {
        let before = format!("{} {} ", self.generation, self.host).into_bytes();
        Mark { property: GITHUB, value: [&before, self.method, b" ", self.path].concat() }
    }

    /// The mark of the github stage on a request that goes out without a credential. It begins with a word, and the
    /// other mark with a number.
    pub fn public(&self) -> Mark {
        let Mark { property, value } = self.github();
        Mark { property, value: [PUBLIC, &value].concat() }
    }
}

/// The marks that stand beside a request. A missing mark is empty.
#[derive(Clone, Copy, Debug, Default)]
pub struct Marks<'a> {
    /// The value of the mark of the identity stage.
    pub identity: &'a [u8],
    /// The value of the mark of the github stage.
    pub github: &'a [u8],
}

impl Marks<'_> {
    /// Whether the github stage's mark is one of a request that goes out without a credential.
    pub fn are_public(&self) -> bool {
        self.github.starts_with(PUBLIC)
    }

    /// Checks that the stages before the credential stage have judged that `request` goes out without a credential.
    ///
    /// # Errors
    /// If the mark of one of these stages is missing, or is the mark of another request.
    pub fn check_public(&self, request: Judged<'_>) -> Result<(), Denial> {
        if self.identity != request.identity().value {
            Err(unjudged("identity"))
        } else if self.github != request.public().value {
            Err(unjudged("github"))
        } else {
            Ok(())
        }
    }

    /// Checks that the stages before the credential stage have judged `request`: identity, and github on a host of
    /// GitHub's.
    ///
    /// # Errors
    /// If the mark of one of these stages is missing, or is the mark of another request.
    pub fn check(&self, request: Judged<'_>) -> Result<(), Denial> {
        let github = github::kind(request.host).is_some();
        if self.identity != request.identity().value {
            Err(unjudged("identity"))
        } else if github && self.github != request.github().value {
            Err(unjudged("github"))
        } else {
            Ok(())
        }
    }
}

fn unjudged(stage: &str) -> Denial {
    let reason =
        format!("the stage {stage} has not judged this request under the registration now in force; try again");
    Denial::new(Rule::CredentialsStage, reason)
}

/// Whether the credential for `host` is sealed: the host is the one whose requests pass the push stage.
pub fn seals(host: &HostName) -> bool {
    github::kind(host) == Some(Kind::Web)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn host(name: &str) -> HostName {
        HostName::parse(name.as_bytes()).unwrap()
    }

    fn rule(marks: &Marks<'_>, request: Judged<'_>) -> &'static str {
        marks.check(request).map_or_else(|denial| denial.rule.name(), |()| "")
    }

    #[test]
    fn marks_are_of_one_request_and_of_no_other() {
        let (git, api, model) = (host("github.com"), host("api.github.com"), host("api.anthropic.com"));
        let request = Judged { generation: 7, host: &git, method: b"GET", path: b"/a/b/info/refs?service=x" };
        let (identity, github) = (request.identity(), request.github());
        assert_eq!(identity, Mark { property: IDENTITY, value: b"7 github.com".to_vec() });
        assert_eq!(github.value, b"7 github.com GET /a/b/info/refs?service=x");
        let marks = Marks { identity: &identity.value, github: &github.value };
        assert_eq!(rule(&marks, request), "");
        for (what, other) in [
            ("another record", Judged { generation: 8, ..request }),
            ("another host", Judged { host: &api, ..request }),
            ("another method", Judged { method: b"POST", ..request }),
            ("another path", Judged { path: b"/a/c/info/refs?service=x", ..request }),
            ("a longer path", Judged { path: b"/a/b/info/refs?service=xy", ..request }),
            ("a host beyond GitHub", Judged { host: &model, ..request }),
        ] {
            assert_eq!(rule(&marks, other), "credentials.stage", "{what}");
        }
        let elsewhere = Judged { host: &model, ..request };
        let identity = elsewhere.identity();
        assert_eq!(rule(&Marks { identity: &identity.value, github: b"" }, elsewhere), "", "no host of GitHub's");
    }

    #[test]
    fn a_missing_mark_is_a_refusal() {
        let git = host("github.com");
        let request = Judged { generation: 7, host: &git, method: b"GET", path: b"/" };
        let (identity, github) = (request.identity().value, request.github().value);
        // Envoy sends "-" for filter state that is not there.
        for missing in [&b""[..], b"-"] {
            for (marks, stage) in [
                (Marks { identity: missing, github: &github }, "identity"),
                (Marks { identity: &identity, github: missing }, "github"),
                (Marks { identity: &github, github: &github }, "identity"),
                (Marks { identity: &identity, github: &identity }, "github"),
            ] {
                let denial = marks.check(request).unwrap_err();
                assert_eq!((denial.rule, denial.status), (Rule::CredentialsStage, 503));
                assert!(denial.reason.contains(stage), "{stage}: {}", denial.reason);
            }
        }
    }

    #[test]
    fn the_mark_of_a_public_read_gives_no_credential_and_no_other_mark_is_one() {
        let git = host("github.com");
        let request = Judged { generation: 7, host: &git, method: b"GET", path: b"/a/b/info/refs?service=x" };
        let identity = request.identity().value;
        let with = |github: &[u8], request| {
            let marks = Marks { identity: &identity, github };
            marks.are_public().then(|| marks.check_public(request).map_err(|denial| denial.status))
        };
        let public = request.public().value;
        assert_eq!(with(&public, request), Some(Ok(())));
        assert_eq!(rule(&Marks { identity: &identity, github: &public }, request), "credentials.stage");
        assert_eq!(with(&request.github().value, request), None);
        assert_eq!(with(b"", request), None);
        for other in [
            Judged { generation: 8, ..request },
            Judged { method: b"POST", ..request },
            Judged { path: b"/a/c/info/refs?service=x", ..request },
        ] {
            assert_eq!(with(&public, other), Some(Err(503)), "{other:?}");
        }
        let unknown = Marks { identity: b"", github: &public };
        assert_eq!(unknown.check_public(request).map_err(|denial| denial.status), Err(503));
    }

    #[test]
    fn the_credential_of_github_com_is_sealed_and_no_other() {
        assert!(seals(&host("github.com")));
        for other in ["api.github.com", "codeload.github.com", "gist.github.com", "api.anthropic.com"] {
            assert!(!seals(&host(other)), "{other}");
        }
    }
}
