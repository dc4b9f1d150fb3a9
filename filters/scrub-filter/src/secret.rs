//! Finds a request's credential in response headers, in every spelling in which an upstream may return it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bstr::ByteSlice;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode, percent_encode};

/// The place of the credential in a request, as the credential stage reports it:
/// - `header authorization 7 0`: in this header, after the first 7 bytes and before the last 0 bytes.
/// - `basic authorization 15 0`: the same within the decoded user and password of `Basic` (RFC 7617).
/// - `query key`: in this parameter of the query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place<'a> {
    /// In a header.
    Header {
        /// The header's name.
        name: &'a str,
        /// Whether the credential is within the encoded user and password of `Basic`.
        basic: bool,
        /// The number of bytes before the credential.
        before: usize,
        /// The number of bytes after the credential.
        after: usize,
    },
    /// In a parameter of the query.
    Query {
        /// The parameter's name.
        name: &'a str,
    },
}

impl<'a> Place<'a> {
    /// Parses a place. Returns `None` if the text is malformed.
    pub fn parse(text: &'a str) -> Option<Self> {
        let mut words = text.split(' ');
        let place = match (words.next()?, words.next()?) {
            (kind @ ("header" | "basic"), name) => Self::Header {
                name,
                basic: kind == "basic",
                before: words.next()?.parse().ok()?,
                after: words.next()?.parse().ok()?,
            },
            ("query", name) => Self::Query { name },
            _ => return None,
        };
        words.next().is_none().then_some(place)
    }
}

/// The spellings of a credential.
#[derive(Debug)]
pub struct Secret(Vec<Vec<u8>>);

impl Secret {
    /// The credential in a header's `value`, without the first `before` and the last `after` bytes. Returns `None` if
    /// the header has no credential there.
    pub fn of_header(value: &[u8], basic: bool, before: usize, after: usize) -> Option<Self> {
        let within = |whole: &[u8]| Some(whole.get(before..whole.len().checked_sub(after)?)?.to_vec());
        if !basic {
            return Self::spelled([within(value)?]);
        }
        let encoded = value.strip_prefix(b"Basic ")?;
        Self::spelled([within(&STANDARD.decode(encoded).ok()?)?, encoded.to_vec()])
    }

    /// The credential in the parameter `name` of a path's query. Returns `None` if the query has no such parameter.
    pub fn of_query(path: &[u8], name: &str) -> Option<Self> {
        let (_, query) = path.split_once_str("?")?;
        let value = query
            .split_str("&")
            .find_map(|pair| pair.split_once_str("=").filter(|(key, _)| *key == name.as_bytes()))
            .map(|(_, value)| value)?;
        Self::spelled([decoded(value), value.to_vec()])
    }

    fn spelled<const N: usize>(plain: [Vec<u8>; N]) -> Option<Self> {
        let mut spellings: Vec<Vec<u8>> =
            plain.into_iter().flat_map(|value| [encoded(&value), value]).filter(|value| !value.is_empty()).collect();
        spellings.sort_unstable();
        spellings.dedup();
        (!spellings.is_empty()).then_some(Self(spellings))
    }

    /// Whether `value` contains the credential in one of its spellings.
    pub fn is_in(&self, value: &[u8]) -> bool {
        self.0.iter().any(|spelling| value.contains_str(spelling))
    }
}

/// The bytes that are percent-encoded: all except the unreserved ones (RFC 3986, section 2.3).
const RESERVED: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

fn encoded(value: &[u8]) -> Vec<u8> {
    percent_encode(value, &RESERVED).to_string().into_bytes()
}

/// Percent-decodes `value`, which the gateway encoded. Malformed escapes are kept.
fn decoded(value: &[u8]) -> Vec<u8> {
    percent_decode(value).collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_or_refused() {
        let header = Place::Header { name: "authorization", basic: false, before: 7, after: 0 };
        assert_eq!(Place::parse("header authorization 7 0"), Some(header));
        let basic = Place::Header { name: "authorization", basic: true, before: 15, after: 1 };
        assert_eq!(Place::parse("basic authorization 15 1"), Some(basic));
        assert_eq!(Place::parse("query key"), Some(Place::Query { name: "key" }));
        for text in
            ["", "header", "header a", "header a 1", "header a 1 x", "header a 1 2 3", "query", "query a b", "x y"]
        {
            assert_eq!(Place::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_secret_is_found_in_each_spelling_that_it_may_come_back_in() {
        let bearer = Secret::of_header(b"Bearer s3c/ret+", false, 7, 0).unwrap();
        let basic = Secret::of_header(b"Basic eC1hY2Nlc3MtdG9rZW46czNjL3JldCs=", true, 15, 0).unwrap();
        let query = Secret::of_query(b"/v1/models?alt=sse&key=s3c%2Fret%2B", "key").unwrap();
        for secret in [&bearer, &basic, &query] {
            for value in ["s3c/ret+", "Bearer s3c/ret+", "a=s3c%2Fret%2B&b", "{\"token\":\"s3c/ret+\"}"] {
                assert!(secret.is_in(value.as_bytes()), "{value} {secret:?}");
            }
            for value in ["", "s3c/ret", "S3C/RET+", "Bearer"] {
                assert!(!secret.is_in(value.as_bytes()), "{value} {secret:?}");
            }
        }
        assert!(basic.is_in(b"Basic eC1hY2Nlc3MtdG9rZW46czNjL3JldCs="));
        assert!(basic.is_in(b"%20eC1hY2Nlc3MtdG9rZW46czNjL3JldCs%3D"));
    }

    #[test]
    fn where_no_secret_stands_none_is_read() {
        assert!(Secret::of_header(b"Bear", false, 7, 0).is_none());
        assert!(Secret::of_header(b"Bearer ", false, 7, 0).is_none());
        assert!(Secret::of_header(b"Bearer s", false, 7, 9).is_none());
        assert!(Secret::of_header(b"Basic !", true, 0, 0).is_none());
        assert!(Secret::of_header(b"Bearer eA==", true, 0, 0).is_none());
        assert!(Secret::of_query(b"/?key=", "key").is_none());
        assert!(Secret::of_query(b"/?monkey=1", "key").is_none());
        assert!(Secret::of_query(b"/", "key").is_none());
    }
}
