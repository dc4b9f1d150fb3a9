//! An endpoint: methods and paths of a host for which a credential is used.
//!
//! Only canonical paths are matched (see [`canonical`]), so patterns need not handle encodings.

use std::collections::BTreeSet;
use std::fmt;

use crate::glob;

/// The methods that an operator can name: PATCH and those of RFC 9110, except TRACE and CONNECT, which are always
/// refused.
const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

/// Methods, and a pattern of paths.
///
/// Written `POST /v1/messages`, `GET|DELETE /v1/files/*`, or `/v1/messages` if the methods are given elsewhere. `*`
/// matches any number of characters within a segment, also zero. A last segment `**` matches all paths below, of at
/// least one character.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The methods. `None` means all methods.
    methods: Option<BTreeSet<String>>,
    segments: Vec<String>,
    /// Whether the pattern ended in `/**`.
    below: bool,
}

/// The reason why a text is not an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// The method is unknown or never allowed.
    #[error("invalid method {0:?}: expected one of GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")]
    Method(String),
    /// The path is not canonical, has a query, or has `**` before its end.
    #[error(
        "invalid path {0:?}: expected a path such as /v1/messages, /v1/models/* or /v1/**; no query or encoding, ** last"
    )]
    Path(String),
}

impl Endpoint {
    /// All paths of the host, with `methods`.
    pub fn everything(methods: Option<BTreeSet<String>>) -> Self {
        Self { methods, segments: Vec::new(), below: true }
    }

    /// Parses `METHOD /path`, `METHOD|METHOD /path` or `/path`. Only `/path` uses `methods`.
    ///
    /// # Errors
    /// See [`Invalid`].
    pub fn parse(text: &str, methods: Option<&BTreeSet<String>>) -> Result<Self, Invalid> {
        let (methods, path) = match text.split_once(' ') {
            Some((methods, path)) => (Some(methods.split('|').map(read_method).collect::<Result<_, _>>()?), path),
            None => (methods.cloned(), text),
        };
        let invalid = || Invalid::Path(path.to_owned());
        if !canonical(path.as_bytes()) || path.contains('?') {
            return Err(invalid());
        }
        let (path, below) = match path.strip_suffix("/**") {
            Some(path) => (path, true),
            None => (path, false),
        };
        if path.contains("**") {
            return Err(invalid());
        }
        Ok(Self { methods, segments: path.split('/').skip(1).map(str::to_owned).collect(), below })
    }

    /// Whether a request with `method` to the canonical `path`, without a query, matches this endpoint.
    pub fn matches(&self, method: &str, path: &[u8]) -> bool {
        if self.methods.as_ref().is_some_and(|methods| !methods.contains(method)) {
            return false;
        }
        let mut rest = path.split(|b| *b == b'/').skip(1);
        let fits = self
            .segments
            .iter()
            .all(|pattern| rest.next().is_some_and(|segment| glob::covers(pattern.as_bytes(), segment)));
        fits && if self.below { rest.next().is_some() } else { rest.next().is_none() }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(methods) = &self.methods {
            write!(f, "{} ", methods.iter().map(String::as_str).collect::<Vec<_>>().join("|"))?;
        }
        self.segments.iter().try_for_each(|segment| write!(f, "/{segment}"))?;
        if self.below { f.write_str("/**") } else { Ok(()) }
    }
}

/// Parses the name of a method.
///
/// # Errors
/// If the method is unknown or never allowed.
pub fn read_method(text: &str) -> Result<String, Invalid> {
    if METHODS.contains(&text) { Ok(text.to_owned()) } else { Err(Invalid::Method(text.to_owned())) }
}

/// Whether `path` has one meaning only: no server can decode, resolve or truncate it to another path.
pub fn canonical(path: &[u8]) -> bool {
    let plain = path.iter().all(|b| b.is_ascii_graphic() && !matches!(b, b'%' | b'\\' | b';' | b'#'));
    let mut segments = path.split(|b| *b == b'/');
    let rooted = segments.next().is_some_and(<[u8]>::is_empty);
    let mut rest = segments.peekable();
    let mut clean = rest.peek().is_some();
    while let Some(segment) = rest.next() {
        // Only the last segment may be empty: the path then ends in a slash.
        clean &= !(segment.is_empty() && rest.peek().is_some()) && segment != b"." && segment != b"..";
    }
    plain && rooted && clean
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_covers_what_it_says_and_nothing_beside() {
        let cases: [(&str, &[&str], &[&str]); 9] = [
            (
                "POST /v1/messages",
                &["POST /v1/messages"],
                &[
                    "GET /v1/messages",
                    "post /v1/messages",
                    "POST /v1/messages/",
                    "POST /v1/messages/batches",
                    "POST /v1",
                    "POST /v1/Messages",
                ],
            ),
            ("GET /v1/models/*", &["GET /v1/models/a", "GET /v1/models/"], &["GET /v1/models", "GET /v1/models/a/b"]),
            (
                "POST /v1*/models/*:generateContent",
                &["POST /v1beta/models/gemini-2.5-pro:generateContent", "POST /v1/models/a:b:generateContent"],
                &[
                    "POST /v1beta/models/x:generateContents",
                    "POST /v1beta/models/x/y:generateContent",
                    "POST /v2/models/x:generateContent",
                ],
            ),
            ("DELETE|GET /a/*", &["GET /a/b", "DELETE /a/b"], &["PUT /a/b", "DELETE|GET /a/b"]),
            ("/a/**", &["GET /a/b", "PUT /a/b/c", "GET /a/"], &["GET /a", "GET /ab", "GET /b/a"]),
            ("/**", &["GET /", "GET /a"], &[]),
            ("/", &["GET /"], &["GET /a"]),
            ("/a*b*c", &["GET /abc", "GET /axxbyyc", "GET /abbcc"], &["GET /ab", "GET /acb", "GET /abcd"]),
            ("/a*a", &["GET /aa"], &["GET /a"]),
        ];
        for (pattern, inside, outside) in cases {
            let endpoint = Endpoint::parse(pattern, None).unwrap();
            assert_eq!(endpoint.to_string(), pattern);
            let asked = |request: &str| {
                let (method, path) = request.split_once(' ').unwrap();
                endpoint.matches(method, path.as_bytes())
            };
            for request in inside {
                assert!(asked(request), "{pattern}: {request}");
            }
            for request in outside {
                assert!(!asked(request), "{pattern}: {request}");
            }
        }
    }

    #[test]
    fn what_could_be_misunderstood_is_no_endpoint() {
        for text in [
            "",
            "v1",
            "/a//b",
            "/a/../b",
            "/a?b=c",
            "/%61",
            "/a/**/b",
            "/a**",
            "/a b",
            "TRACE /a",
            "get /a",
            "GET a",
            " /a",
            "/é",
            "GET| /a",
            "|GET /a",
            "GET|get /a",
        ] {
            assert!(Endpoint::parse(text, None).is_err(), "{text:?}");
        }
    }
}
