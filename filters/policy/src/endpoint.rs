//! An endpoint: methods, and a pattern of paths. The rules of a host and the scope of a credential consist of endpoints.
//!
//! A path is matched as [`crate::spelling`] accepts it. [`Endpoint::allows`] takes a path only if each server reads a path of
//! the pattern in it. [`Endpoint::denies`] takes a path if some server may read one. Neither allocates. Both take time in
//! proportion to the path's length and the pattern's.

use crate::spelling::{self, Ambiguous, Segment, Segments, Slash, Token, Tokens};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;

/// The methods that an operator can name: PATCH and those of RFC 9110, except TRACE and CONNECT, which are always
/// refused.
pub const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
/// The longest pattern, in bytes.
const MAX_PATTERN: usize = 256;
/// The wildcard of a pattern.
const STAR: Token = Token { byte: b'*', escaped: false };

/// Methods, and a pattern of paths.
///
/// Written `POST /v1/messages`, `GET|DELETE /v1/files/*`, or `/v1/messages` if the methods are given elsewhere. `*`
/// matches any number of characters within a segment, also zero, and no `%2F`. A last segment `**` matches all paths below,
/// of at least one character.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Endpoint {
    /// The methods. `None` means all methods.
    methods: Option<BTreeSet<String>>,
    /// The pattern without the `/**` at its end. Empty for the root.
    path: String,
    /// Whether the pattern ends in `/**`.
    below: bool,
}

/// The reason why a text is not an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// The method is unknown or never allowed.
    #[error("invalid method {0:?}: expected one of GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")]
    Method(String),
    /// The path has a query, `**` before its end, or more than 256 bytes.
    #[error(
        "invalid path {0:?}: expected a path such as /v1/messages, /v1/models/* or /v1/** of up to 256 characters, without a query, ** last"
    )]
    Path(String),
    /// The path has more than one reading.
    #[error("invalid path {0:?}: {1}")]
    Spelling(String, Ambiguous),
}

/// A server's reading of `%2F`, for the matches of a path with a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    /// All readings: each byte has the pattern's spelling, and `*` covers no `%2F`.
    Each,
    /// A segment may contain `%2F`. Letter case and escapes make no difference.
    Kept,
    /// `%2F` is a slash. Letter case and escapes make no difference.
    Decoded,
}

impl Endpoint {
    /// All paths of the host, with `methods`. `None` means all methods.
    pub fn everything(methods: Option<BTreeSet<String>>) -> Self {
        Self { methods, path: String::new(), below: true }
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
        let (rest, below) = match path.strip_suffix("/**") {
            Some(rest) => (rest, true),
            None => (path, false),
        };
        if path.len() > MAX_PATTERN || rest.contains("**") || path.contains('?') {
            return Err(Invalid::Path(path.to_owned()));
        }
        spelling::check(path.as_bytes()).map_err(|reason| Invalid::Spelling(path.to_owned(), reason))?;
        Ok(Self { methods, path: rest.to_owned(), below })
    }

    /// Whether the endpoint is all paths of the host.
    pub fn is_everywhere(&self) -> bool {
        self.path.is_empty() && self.below
    }

    /// The methods. `None` means all methods.
    pub fn methods(&self) -> Option<&BTreeSet<String>> {
        self.methods.as_ref()
    }

    /// Whether a request with `method` to `path`, without a query, is within this endpoint for each server. Methods and
    /// paths are compared byte for byte. The path has to have passed [`spelling::check`], unless the endpoint
    /// [is everywhere](Self::is_everywhere).
    pub fn allows(&self, method: &[u8], path: &[u8]) -> bool {
        let named = self.methods.as_ref().is_none_or(|all| all.iter().any(|one| one.as_bytes() == method));
        named && (self.is_everywhere() || self.covers(split(path, Reading::Each), Reading::Each))
    }

    /// Whether a request with `method` to `path`, without a query, may be within this endpoint for some server. HEAD counts
    /// as GET. A slash at the end makes no difference, so `/a/**` covers `/a`. The path has to have passed
    /// [`spelling::check`], unless the endpoint [is everywhere](Self::is_everywhere).
    pub fn denies(&self, method: &[u8], path: &[u8]) -> bool {
        let bare = path.strip_suffix(b"/").unwrap_or(path);
        let slash = (bare != path || self.below).then_some(Segment { slash: Slash::Plain, text: b"" });
        let covered = |reading| {
            let segments = split(bare, reading);
            self.covers(segments, reading) || (slash.is_some() && self.covers(segments.chain(slash), reading))
        };
        self.names(method) && (self.is_everywhere() || covered(Reading::Kept) || covered(Reading::Decoded))
    }

    /// Whether some server may read `method` as one of this endpoint's.
    pub fn names(&self, method: &[u8]) -> bool {
        let is = |name: &str, method: &[u8]| name.as_bytes().eq_ignore_ascii_case(method);
        let named = |name: &String| is(name, method) || (name == "GET" && is("HEAD", method));
        self.methods.as_ref().is_none_or(|all| all.iter().any(named))
    }

    fn covers<'a>(&self, mut segments: impl Iterator<Item = Segment<'a>>, reading: Reading) -> bool {
        let alike = |one: Slash, other| reading != Reading::Each || one == other;
        let ends = if reading == Reading::Each { None } else { self.path.strip_suffix('/') };
        for wanted in split(ends.unwrap_or(&self.path).as_bytes(), reading) {
            let Some(segment) = segments.next() else { return false };
            if !alike(segment.slash, wanted.slash) || !fits(Tokens(wanted.text), Tokens(segment.text), reading) {
                return false;
            }
        }
        segments.next().map_or(!self.below, |segment| self.below && alike(segment.slash, Slash::Plain))
    }
}

fn split(path: &[u8], reading: Reading) -> Segments<'_> {
    Segments::of(path, reading != Reading::Kept)
}

/// Whether the segment `text` matches `pattern`. Taking the fewest tokens for each star leaves the most for the stars after
/// it, so only the last star has to take more.
fn fits(mut pattern: Tokens<'_>, mut text: Tokens<'_>, reading: Reading) -> bool {
    let same = |one: Token, other: Token| match reading {
        Reading::Each => one == other,
        Reading::Kept | Reading::Decoded => one.byte.eq_ignore_ascii_case(&other.byte),
    };
    // The pattern behind the last star, and the text behind the tokens that the star has taken.
    let mut star: Option<(Tokens<'_>, Tokens<'_>)> = None;
    loop {
        let (mut wanted, mut have) = (pattern, text);
        match (wanted.next(), have.next()) {
            (None, None) => return true,
            (Some(STAR), _) => {
                pattern = wanted;
                star = Some((wanted, text));
            }
            (Some(one), Some(other)) if same(one, other) => (pattern, text) = (wanted, have),
            _ => {
                let Some((behind, mut from)) = star else { return false };
                if from.next().is_none() {
                    return false;
                }
                (pattern, text) = (behind, from);
                star = Some((behind, from));
            }
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(methods) = &self.methods {
            write!(f, "{} ", methods.iter().map(String::as_str).collect::<Vec<_>>().join("|"))?;
        }
        f.write_str(&self.path)?;
        if self.below { f.write_str("/**") } else { Ok(()) }
    }
}

impl TryFrom<String> for Endpoint {
    type Error = Invalid;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text, None)
    }
}

impl From<Endpoint> for String {
    fn from(endpoint: Endpoint) -> Self {
        endpoint.to_string()
    }
}

/// Parses the name of a method.
///
/// # Errors
/// If the method is unknown or never allowed.
pub fn read_method(text: &str) -> Result<String, Invalid> {
    if METHODS.contains(&text) { Ok(text.to_owned()) } else { Err(Invalid::Method(text.to_owned())) }
}

/// Whether `path` has one spelling, and no escape.
pub fn canonical(path: &[u8]) -> bool {
    !path.contains(&b'%') && spelling::check(path).is_ok()
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
                endpoint.allows(method.as_bytes(), path.as_bytes())
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
    fn an_escape_is_covered_by_itself_and_by_a_star() {
        let cases: [(&str, &[&str], &[&str]); 8] = [
            ("/@*%2f*", &["/@a%2fb", "/@a%2Fb"], &["/@a/b", "/@a", "/@a%2fb%2fc", "/@a%2fb/c"]),
            ("/@*%2F*/-/*", &["/@a%2fb/-/b-1.tgz"], &["/@a%2fb/-/x%2fy", "/@a%2fb%2f-/x"]),
            ("/@*/*", &["/@a/b"], &["/@a%2fb", "/@a/b%2fc"]),
            ("/*", &["/a%20b", "/a%3Ab", "/%C3%A9"], &["/a%2fb"]),
            ("/a/**", &["/a/b%2fc", "/a/b/c%2Fd"], &["/a%2fb", "/a%2Fb/c"]),
            ("/*:sum", &["/a:sum", "/a%3Ab:sum"], &["/a%3Asum"]),
            ("/*%3asum", &["/a%3Asum"], &["/a:sum"]),
            ("/a%20b*", &["/a%20b", "/a%20bc"], &["/a b", "/a20b", "/a%20"]),
        ];
        for (pattern, inside, outside) in cases {
            let endpoint = Endpoint::parse(pattern, None).unwrap();
            for path in inside {
                assert!(spelling::check(path.as_bytes()).is_ok() && endpoint.allows(b"GET", path.as_bytes()), "{path}");
            }
            for path in outside {
                assert!(!endpoint.allows(b"GET", path.as_bytes()), "{pattern}: {path}");
            }
        }
        // A star takes whole escapes.
        assert!(!Endpoint::parse("/*20b", None).unwrap().allows(b"GET", b"/a%20b"));
    }

    #[test]
    fn a_denial_covers_each_spelling_that_a_server_may_take() {
        let cases: [(&str, &[&str], &[&str]); 10] = [
            (
                "DELETE /repos/*",
                &["DELETE /repos/a", "delete /Repos/A/", "DELETE /repos/a%2Fb", "DELETE /repos%2fa"],
                &["GET /repos/a", "DELETE /repos/a/b", "DELETE /repos"],
            ),
            ("GET /a", &["GET /a", "HEAD /a", "HEAD /A/"], &["POST /a", "GET /a/b", "GET /"]),
            ("/a/", &["GET /a", "GET /A/"], &["GET /a/b"]),
            ("/a/*", &["GET /a/", "GET /a/b/"], &["GET /a", "GET /a/b/c"]),
            ("/a/**", &["GET /a", "GET /a/", "PUT /A/b/c", "GET /a%2fb"], &["GET /ab", "GET /b/a"]),
            ("/a/*:sum", &["POST /a/b:sum", "POST /a/b%3asum", "POST /a%2Fb%3Asum"], &["POST /a/b:su"]),
            ("/a%3Ab", &["GET /a:b", "GET /a%3ab"], &["GET /ab"]),
            ("/*/q/*y", &["GET /x%2fq/q/y", "GET /q%2fq/y", "GET /q/q%2fzy"], &["GET /q/q/y/z"]),
            ("/", &["GET /"], &["GET /a"]),
            ("/**", &["GET /", "PURGE /a"], &[]),
        ];
        for (pattern, inside, outside) in cases {
            let endpoint = Endpoint::parse(pattern, None).unwrap();
            let denies = |request: &str| {
                let (method, path) = request.split_once(' ').unwrap();
                assert_eq!(spelling::check(path.as_bytes()), Ok(()), "{path}");
                endpoint.denies(method.as_bytes(), path.as_bytes())
            };
            for request in inside {
                assert!(denies(request), "{pattern}: {request}");
            }
            for request in outside {
                assert!(!denies(request), "{pattern}: {request}");
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
            "/a%2f../b",
            "/a%",
            "/a;b",
            "/a/**/b",
            "/a**",
            "/a%2f**",
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
        for (length, fits) in [(MAX_PATTERN, true), (MAX_PATTERN + 1, false)] {
            assert_eq!(Endpoint::parse(&format!("/{}", "a".repeat(length - 1)), None).is_ok(), fits, "{length}");
        }
        let error = Endpoint::parse("/%61", None).unwrap_err().to_string();
        assert!(error.contains("invalid path \"/%61\": the path has %61, which is another spelling of 'a'"), "{error}");
    }

    /// A path at the longest that almost matches a pattern at the longest is judged soon.
    #[test]
    fn a_pattern_of_stars_takes_no_time_that_grows_with_their_number() {
        let stars = Endpoint::parse(&format!("/{}b", "*a".repeat(127)), None).unwrap();
        let path = format!("/{}", "a".repeat(spelling::MAX_PATH - 1));
        let begun = std::time::Instant::now();
        assert!(!stars.allows(b"GET", path.as_bytes()) && !stars.denies(b"GET", path.as_bytes()));
        assert!(begun.elapsed() < std::time::Duration::from_secs(2), "{:?}", begun.elapsed());
    }

    #[test]
    fn an_endpoint_is_written_and_read_as_its_text() {
        for text in ["\"GET|HEAD /a/*\"", "\"/**\"", "\"/@*%2f*\"", "\"/\""] {
            let endpoint: Endpoint = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&endpoint).unwrap(), text);
        }
        assert!(serde_json::from_str::<Endpoint>("\"GET a\"").is_err());
    }
}
