//! Percent-encoding (RFC 3986) for the URLs and forms that the control plane writes.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// The bytes that are encoded: all except the unreserved characters (RFC 3986 section 2.3).
const RESERVED: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The bytes that are encoded in a path: all of [`RESERVED`] except the slash.
const IN_PATH: AsciiSet = RESERVED.remove(b'/');

/// Encodes `text` as the value of a query parameter or of a form field.
pub fn encode(text: &str) -> String {
    utf8_percent_encode(text, &RESERVED).to_string()
}

/// Encodes `text` as segments of a path. Slashes are kept.
pub fn encode_path(text: &str) -> String {
    utf8_percent_encode(text, &IN_PATH).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_but_unreserved_characters_are_encoded() {
        assert_eq!(encode("aZ09-._~ /+=&%é"), "aZ09-._~%20%2F%2B%3D%26%25%C3%A9");
        assert_eq!(encode_path("a/b c"), "a/b%20c");
    }
}
