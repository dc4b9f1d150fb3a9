//! The allowed values of a credential, and their format in a request.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// The text to inject, with a place for the credential's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Format {
    /// The value between two texts.
    Plain(String, String),
    /// The base64 of `user:password` (RFC 7617). There, the value is between two texts.
    Basic(String, String),
    /// The bare value, in a query. Envoy 1.40 accepts no encoded value for a parameter, so the value must need no
    /// encoding.
    Query,
}

impl Format {
    /// Parses a text with exactly one `{}`. If the text begins with `Basic `, the rest is base64-encoded. Returns
    /// `None` if the text is invalid.
    pub fn parse(text: &str) -> Option<Self> {
        let printable = text.bytes().all(|b| matches!(b, b' '..=b'~'));
        let (before, after) = text.split_once("{}").filter(|(_, after)| printable && !after.contains("{}"))?;
        let own = |text: &str| text.to_owned();
        Some(match before.strip_prefix("Basic ") {
            Some(before) => Self::Basic(own(before), own(after)),
            None => Self::Plain(own(before), own(after)),
        })
    }

    /// Checks that `value` can be injected.
    ///
    /// # Errors
    /// If `value` can't be injected in this format. The error is the reason, to be shown after the name of the source.
    pub fn accepts(&self, value: &str) -> Result<(), &'static str> {
        match self {
            Self::Plain(..) if value.bytes().all(|b| matches!(b, b' '..=b'~')) => Ok(()),
            Self::Plain(..) => Err("holds a character that no header can carry"),
            Self::Basic(..) if value.chars().any(char::is_control) => Err("holds a control character"),
            Self::Basic(before, after) if ![before, value, after].iter().any(|part| part.contains(':')) => {
                Err("is not user:password")
            }
            Self::Basic(..) => Ok(()),
            Self::Query if value.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b)) => Ok(()),
            Self::Query => Err("holds a character that needs percent-encoding in a query"),
        }
    }

    /// The text to inject for `value`.
    pub fn fill(&self, value: &str) -> String {
        match self {
            Self::Query => value.to_owned(),
            Self::Plain(before, after) => format!("{before}{value}{after}"),
            Self::Basic(before, after) => format!("Basic {}", STANDARD.encode(format!("{before}{value}{after}"))),
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_format_says_how_the_value_stands_in_the_header() {
        let cases = [
            ("{}", "K", "K"),
            ("Bearer {}", "K", "Bearer K"),
            ("Token token={}, v=1", "K", "Token token=K, v=1"),
            ("Basic {}", "me:K", "Basic bWU6Sw=="),
            ("Basic x-access-token:{}", "K", "Basic eC1hY2Nlc3MtdG9rZW46Sw=="),
            ("Basic {}:", "K", "Basic Szo="),
        ];
        for (format, value, filled) in cases {
            assert_eq!(Format::parse(format).unwrap().fill(value), filled);
        }
        for text in ["", "Bearer", "{}{}", "a{}\n", "é{}"] {
            assert_eq!(Format::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn what_no_header_can_carry_is_not_accepted() {
        let accepts = |format: &str, value: &str| Format::parse(format).unwrap().accepts(value).is_ok();
        assert!(accepts("Bearer {}", "sk-ant_~ !"));
        for value in ["a\nb", "a\rb", "a\0b", "a\tb", "a\x7fb", "clé"] {
            assert!(!accepts("{}", value), "{value:?}");
        }
        assert!(accepts("Basic {}", "me:clé"));
        assert_eq!(Format::Query.accepts("aZ09-._~"), Ok(()));
        for value in ["a b", "a+b", "a%2Bb", "a/b", "a=b", "a&b", "clé"] {
            assert!(Format::Query.accepts(value).is_err(), "{value:?}");
        }
        assert!(accepts("Basic {}:", "K"), "the format has the colon");
        assert!(!accepts("Basic {}", "K"));
        assert!(!accepts("Basic {}", "me:a\nb"));
    }
}
