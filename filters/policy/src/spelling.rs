//! The spelling of a path: whether all servers read the same path in its bytes.
//!
//! A rule on paths is matched only against a path that [`check`] accepts. Servers differ in the decoding of escapes. Some
//! decode before they split the path at its slashes, some afterwards, some twice, some never. They also differ in the
//! handling of dots, of empty segments, of `\` and of `;`. An accepted path has none of these ambiguities, except for
//! `%2F`: a server splits the path there, or it does not. [`crate::endpoint`] takes both cases into account.
//!
//! Called by [`crate::Egress`] for a host with rules on paths, by the credential stage for every endpoint, and for the
//! patterns of both.

/// The longest path, in bytes.
pub const MAX_PATH: usize = 8 * 1024;

/// A reason why two servers may read two paths in the same bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ambiguous {
    /// More than [`MAX_PATH`] bytes.
    #[error("the path is longer than 8 KiB")]
    Long,
    /// The path begins with another byte than `/`.
    #[error("the path has no / at its beginning")]
    Relative,
    /// A byte at which some servers split or cut a path, or that no URI has.
    #[error("the path has a {0:?}, which servers read in different ways; leave it out")]
    Byte(char),
    /// A `%` that begins no escape.
    #[error("the path has a % without two hexadecimal digits behind it")]
    Percent,
    /// The escape of a byte at which some servers split or cut a path, of `%` or of a control character.
    #[error("the path has %{0:02X}, which servers read in different ways; leave it out")]
    Escape(u8),
    /// The escape of a letter, a digit, or one of `-._~`.
    #[error("the path has %{:02X}, which is another spelling of {:?}; write {:?}", u32::from(*.0), .0, .0)]
    Needless(char),
    /// Escapes that are no UTF-8.
    #[error("the path has escapes of bytes that are no UTF-8")]
    Encoding,
    /// A segment without any byte that is not the last one, or is beside a `%2F`.
    #[error("the path has an empty segment; write one slash between two segments")]
    Empty,
    /// A segment of dots and spaces only.
    #[error("the path has a segment of dots or spaces; write the path that it leads to")]
    Dots,
}

/// Whether `path`, without a query, has one spelling only.
///
/// # Errors
/// If two servers may read two paths in it. The error is the first reason.
pub fn check(path: &[u8]) -> Result<(), Ambiguous> {
    if path.len() > MAX_PATH {
        return Err(Ambiguous::Long);
    }
    if !path.starts_with(b"/") {
        return Err(Ambiguous::Relative);
    }
    let mut characters = Characters::default();
    for token in Tokens(path) {
        characters.take(token)?;
        match token.byte {
            // RFC 3986 section 2.3: these never need an escape.
            byte if token.escaped && (byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)) => {
                return Err(Ambiguous::Needless(char::from(byte)));
            }
            byte if token.escaped && (byte.is_ascii_control() || br"\;?#%".contains(&byte)) => {
                return Err(Ambiguous::Escape(byte));
            }
            _ if token.escaped => {}
            b'%' => return Err(Ambiguous::Percent),
            byte if !byte.is_ascii_graphic() || br"\;?#".contains(&byte) => {
                return Err(Ambiguous::Byte(char::from(byte)));
            }
            _ => {}
        }
    }
    characters.end()?;
    let mut segments = Segments::of(path, true).peekable();
    while let Some(Segment { slash, text }) = segments.next() {
        if text.is_empty() && (slash == Slash::Escaped || segments.peek().is_some()) {
            return Err(Ambiguous::Empty);
        }
        // Windows ignores spaces at the end of a name, so `..%20` is `..` there.
        if !text.is_empty() && Tokens(text).all(|token| matches!(token.byte, b'.' | b' ')) {
            return Err(Ambiguous::Dots);
        }
    }
    Ok(())
}

/// One byte of a path, and whether it stands there as an escape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// The byte, decoded.
    pub byte: u8,
    /// Whether the path has the byte as `%` and two hexadecimal digits, in any letter case.
    pub escaped: bool,
}

/// The tokens of these bytes. A `%` that begins no escape is a token itself.
#[derive(Clone, Copy, Debug)]
pub struct Tokens<'a>(pub &'a [u8]);

impl Iterator for Tokens<'_> {
    type Item = Token;

    fn next(&mut self) -> Option<Token> {
        let (first, rest) = self.0.split_first()?;
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let (token, rest) = match rest {
            [high, low, rest @ ..] if *first == b'%' => match (digit(*high), digit(*low)) {
                (Some(high), Some(low)) => (Token { byte: high << 4 | low, escaped: true }, rest),
                _ => (Token { byte: *first, escaped: false }, self.0.split_at(1).1),
            },
            _ => (Token { byte: *first, escaped: false }, rest),
        };
        self.0 = rest;
        Some(token)
    }
}

/// The slash in front of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slash {
    /// `/`.
    Plain,
    /// `%2F`.
    Escaped,
}

/// A segment of a path.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// The slash in front of it.
    pub slash: Slash,
    /// Its bytes, not decoded.
    pub text: &'a [u8],
}

/// The segments of a path that begins with a slash. An empty path has no segment, and `/` has one, which is empty.
#[derive(Clone, Copy, Debug)]
pub struct Segments<'a> {
    rest: &'a [u8],
    escaped: bool,
}

impl<'a> Segments<'a> {
    /// The segments of `path`, split at `/`, and with `escaped` at `%2F` too.
    pub fn of(path: &'a [u8], escaped: bool) -> Self {
        Self { rest: path, escaped }
    }

    /// The slash at the beginning of `text`, and its length.
    fn slash(self, text: &[u8]) -> Option<(Slash, usize)> {
        match text {
            [b'/', ..] => Some((Slash::Plain, 1)),
            [b'%', b'2', b'f' | b'F', ..] if self.escaped => Some((Slash::Escaped, 3)),
            _ => None,
        }
    }
}

impl<'a> Iterator for Segments<'a> {
    type Item = Segment<'a>;

    fn next(&mut self) -> Option<Segment<'a>> {
        let (slash, length) = self.slash(self.rest)?;
        let behind = self.rest.get(length..)?;
        let end = (0..behind.len()).find(|at| behind.get(*at..).is_some_and(|text| self.slash(text).is_some()));
        let (text, rest) = behind.split_at(end.unwrap_or(behind.len()));
        self.rest = rest;
        Some(Segment { slash, text })
    }
}

/// The check of escapes beyond ASCII. Some servers also read UTF-8 in a form that is not valid, so that `%C0%AF` is a
/// slash there.
#[derive(Debug, Default)]
struct Characters {
    /// The bytes of a character so far. A character has at most four.
    bytes: [u8; 4],
    have: usize,
}

impl Characters {
    fn take(&mut self, token: Token) -> Result<(), Ambiguous> {
        if !token.escaped || token.byte.is_ascii() {
            return self.end();
        }
        *self.bytes.get_mut(self.have).ok_or(Ambiguous::Encoding)? = token.byte;
        self.have += 1;
        match std::str::from_utf8(self.bytes.get(..self.have).unwrap_or_default()) {
            Ok(_) => self.have = 0,
            Err(error) if error.error_len().is_none() => {}
            Err(_) => return Err(Ambiguous::Encoding),
        }
        Ok(())
    }

    /// The next token is no byte of a character that has begun.
    fn end(&self) -> Result<(), Ambiguous> {
        if self.have == 0 { Ok(()) } else { Err(Ambiguous::Encoding) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_with_one_reading_is_taken() {
        for path in [
            "/",
            "/a",
            "/a/",
            "/api/chat.postMessage",
            "/package.Service/Method",
            "/.well-known/x",
            "/a..b/...c",
            "/a:b@c!$&'()*+,=~_-",
            "/a%20b/%C3%A9",
            "/a%3Ab%40c%2Bd%3D",
            "/@scope%2fname",
            "/@scope%2Fname/-/name-1.0.0.tgz",
            "/%22%3C%3E%5B%5D%5E%60%7B%7C%7D",
            "/\"<>[]^`{|}",
            "/%E2%82%AC%F0%9F%98%80",
        ] {
            assert_eq!(check(path.as_bytes()), Ok(()), "{path}");
        }
        assert_eq!(check(&[b"/", &[b'a'; MAX_PATH - 1][..]].concat()), Ok(()));
    }

    #[test]
    fn a_path_with_two_readings_is_refused() {
        use Ambiguous::{Byte, Dots, Empty, Encoding, Escape, Needless, Percent, Relative};
        for (path, reason) in [
            ("", Relative),
            ("a", Relative),
            ("*", Relative),
            ("http://a.example/", Relative),
            ("%2Fa", Relative),
            ("\\a", Relative),
            ("//", Empty),
            ("//a", Empty),
            ("/a//b", Empty),
            ("/a//", Empty),
            ("/%2Fa", Empty),
            ("/a/%2fb", Empty),
            ("/a%2F/b", Empty),
            ("/a%2F%2Fb", Empty),
            ("/a%2f", Empty),
            ("/.", Dots),
            ("/..", Dots),
            ("/a/./b", Dots),
            ("/a/../b", Dots),
            ("/a/...", Dots),
            ("/a/..%20", Dots),
            ("/a/%20../b", Dots),
            ("/a/%20", Dots),
            ("/@a%2f..%2fb", Dots),
            ("/@a%2F.", Dots),
            ("/a/..%2fb", Dots),
            ("/a/%2e%2e/b", Needless('.')),
            ("/%61", Needless('a')),
            ("/%7E", Needless('~')),
            ("/%5f", Needless('_')),
            ("/a\\b", Byte('\\')),
            ("/a;b", Byte(';')),
            ("/a#b", Byte('#')),
            ("/a?b", Byte('?')),
            ("/a b", Byte(' ')),
            ("/a%5cb", Escape(b'\\')),
            ("/a%3Bb", Escape(b';')),
            ("/a%3fb", Escape(b'?')),
            ("/a%23b", Escape(b'#')),
            ("/a%252e", Escape(b'%')),
            ("/a%00", Escape(0)),
            ("/a%0d%0a", Escape(b'\r')),
            ("/a%7F", Escape(0x7F)),
            ("/a%", Percent),
            ("/a%2", Percent),
            ("/a%u002e", Percent),
            ("/a%zz", Percent),
            ("/%c0%af", Encoding),
            ("/%c0%ae%c0%ae/", Encoding),
            ("/%e2%82", Encoding),
            ("/%e2%82/", Encoding),
            ("/%e2a", Encoding),
            ("/%f0%80%80%af", Encoding),
            ("/%80", Encoding),
            ("/%ed%a0%80", Encoding),
        ] {
            assert_eq!(check(path.as_bytes()), Err(reason), "{path}");
        }
        assert_eq!(check("/é".as_bytes()), Err(Byte('Ã')));
        assert_eq!(check(&[b"/", &[b'a'; MAX_PATH][..]].concat()), Err(Ambiguous::Long));
    }

    #[test]
    fn a_refusal_says_the_spelling_to_write() {
        assert_eq!(
            Ambiguous::Needless('a').to_string(),
            "the path has %61, which is another spelling of 'a'; write 'a'"
        );
        let escape = Ambiguous::Escape(0x5C).to_string();
        assert_eq!(escape, "the path has %5C, which servers read in different ways; leave it out");
    }

    #[test]
    fn segments_are_split_at_slashes() {
        let split = |path: &'static str, escaped| -> Vec<(Slash, &str)> {
            Segments::of(path.as_bytes(), escaped)
                .map(|segment| (segment.slash, std::str::from_utf8(segment.text).unwrap_or_default()))
                .collect()
        };
        use Slash::{Escaped, Plain};
        assert_eq!(split("", true), []);
        assert_eq!(split("/", true), [(Plain, "")]);
        assert_eq!(split("/a/", true), [(Plain, "a"), (Plain, "")]);
        assert_eq!(split("/a%2fb%2Fc/d", true), [(Plain, "a"), (Escaped, "b"), (Escaped, "c"), (Plain, "d")]);
        assert_eq!(split("/a%2fb/c", false), [(Plain, "a%2fb"), (Plain, "c")]);
        assert_eq!(split("/a%2", true), [(Plain, "a%2")]);
    }
}
