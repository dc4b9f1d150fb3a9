//! A request's target (path and query), parsed strictly: each target has one spelling, and every other spelling is
//! refused. A parsed target is written anew with [`encode`], so that what was judged is what is sent.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// The longest target, in bytes.
pub const MAX_TARGET: usize = 8 * 1024;
/// The most path segments.
const MAX_SEGMENTS: usize = 64;
/// The most query parameters.
const MAX_PARAMETERS: usize = 32;

/// A parsed target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    /// The path's segments, not decoded. No segment is empty, except the single segment of the path `/`.
    pub segments: Vec<&'a str>,
    /// The query's parameters, decoded. Each name occurs once.
    pub query: Vec<(String, String)>,
}

impl<'a> Target<'a> {
    /// Parses a target.
    ///
    /// # Errors
    /// If the text is invalid; the error says why.
    pub fn parse(raw: &'a [u8]) -> Result<Self, &'static str> {
        if raw.len() > MAX_TARGET {
            return Err("longer than 8 KiB");
        }
        let text = std::str::from_utf8(raw).ok().filter(|text| text.bytes().all(|b| b.is_ascii_graphic()));
        let text = text.ok_or("a byte that is not allowed in a URI")?;
        if text.contains(['#', '\\']) {
            return Err("a # or a backslash");
        }
        let (path, query) = text.split_once('?').map_or((text, None), |(path, query)| (path, Some(query)));
        let path = path.strip_prefix('/').ok_or("no slash at the beginning")?;
        let segments: Vec<&str> = path.split('/').collect();
        if segments.len() > MAX_SEGMENTS {
            return Err("more than 64 path segments");
        }
        let dots = |segment: &&str| *segment == "." || *segment == "..";
        if (segments.len() > 1 && segments.iter().any(|segment| segment.is_empty())) || segments.iter().any(dots) {
            return Err("an empty path segment, or a segment . or ..");
        }
        Ok(Self { segments, query: query.map_or(Ok(Vec::new()), parameters)? })
    }

    /// The value of the query parameter `name`.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Writes a target of `segments` (already encoded) and this target's query.
    pub fn write(&self, segments: &[String]) -> Vec<u8> {
        let mut text = String::new();
        for segment in segments {
            text.push('/');
            text.push_str(segment);
        }
        for (index, (name, value)) in self.query.iter().enumerate() {
            text.push(if index == 0 { '?' } else { '&' });
            text.push_str(&encode(name, &IN_QUERY));
            text.push('=');
            text.push_str(&encode(value, &IN_QUERY));
        }
        text.into_bytes()
    }
}

fn parameters(query: &str) -> Result<Vec<(String, String)>, &'static str> {
    let mut parameters: Vec<(String, String)> = Vec::new();
    for pair in query.split('&') {
        let (name, value) = pair.split_once('=').ok_or("a query parameter without a value")?;
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
        if name.is_empty() || !name.bytes().all(plain) {
            return Err("a query parameter whose name is not letters, digits, '-' and '_'");
        }
        if parameters.iter().any(|(other, _)| other == name) {
            return Err("a duplicate query parameter");
        }
        let value = decode(&value.replace('+', " ")).ok_or("a query value with a malformed escape or invalid UTF-8")?;
        if value.chars().any(char::is_control) {
            return Err("a query value with a control character");
        }
        parameters.push((name.to_owned(), value));
        if parameters.len() > MAX_PARAMETERS {
            return Err("more than 32 query parameters");
        }
    }
    Ok(parameters)
}

/// Percent-decodes `text` once. Returns `None` if an escape is malformed or if the result is not UTF-8.
pub fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        if *first != b'%' {
            bytes.push(*first);
            rest = after;
            continue;
        }
        let [high, low, after @ ..] = after else { return None };
        let digit = |b: u8| char::from(b).to_digit(16);
        bytes.push(u8::try_from(digit(*high)?.checked_mul(16)?.checked_add(digit(*low)?)?).ok()?);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

/// The characters that a query's names and values hold only percent-encoded: all except RFC 3986's unreserved ones.
const IN_QUERY: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// The same of a segment of a path.
pub const IN_SEGMENT: AsciiSet = IN_QUERY.remove(b':').remove(b'@').remove(b'+').remove(b'=').remove(b',').remove(b'!');
/// The same of a parameter that is several segments.
pub const IN_SEGMENTS: AsciiSet = IN_SEGMENT.remove(b'/');

/// `text` with the characters of `set` percent-encoded.
pub fn encode(text: &str, set: &'static AsciiSet) -> String {
    utf8_percent_encode(text, set).to_string()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_target_has_one_spelling() {
        let target = Target::parse(b"/repos/o/r/pulls?state=open&head=o%3Ax+y").unwrap();
        assert_eq!(target.segments, ["repos", "o", "r", "pulls"]);
        assert_eq!(target.parameter("head"), Some("o:x y"));
        let segments: Vec<String> = target.segments.iter().map(|s| (*s).to_owned()).collect();
        assert_eq!(target.write(&segments), b"/repos/o/r/pulls?state=open&head=o%3Ax%20y");
        assert_eq!(Target::parse(b"/").unwrap().segments, [""]);
        for bad in [
            &b""[..],
            b"repos",
            b"//repos",
            b"/repos/",
            b"/repos//x",
            b"/./x",
            b"/a/..",
            b"/a#b",
            b"/a\\b",
            b"/a b",
            b"/\xc3",
            b"/a?x",
            b"/a?x=1&x=2",
            b"/a?=1",
            b"/a?x[]=1",
            b"/a?x=%0a",
            b"/a?x=%",
            b"/a?x=%zz",
            b"/a?x=%ff",
            b"/a?",
            b"/a?&",
        ] {
            assert!(Target::parse(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
        assert!(Target::parse(&[b"/", &[b'a'; MAX_TARGET][..]].concat()).is_err());
        assert!(Target::parse("/a".repeat(MAX_SEGMENTS).as_bytes()).is_ok());
        assert!(Target::parse("/a".repeat(MAX_SEGMENTS + 1).as_bytes()).is_err());
    }
}
