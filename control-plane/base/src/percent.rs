//! Percent-encoding (RFC 3986) of what the control plane writes into URLs and forms.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// All but the unreserved characters (RFC 3986 section 2.3).
const RESERVED: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// All but these and the slash.
const IN_PATH: AsciiSet = RESERVED.remove(b'/');

/// `text` as the value of a query parameter or of a form.
pub fn encode(text: &str) -> String {
    utf8_percent_encode(text, &RESERVED).to_string()
}

/// `text` as segments of a path: its slashes stay.
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
