//! The host that a URL in a body names.
//!
//! Providers parse URLs by different rules (RFC 3986, WHATWG): they trim spaces, drop tabs, take `\` for `/`, or read
//! `https://a?@b/` as a request to `b`. So only the plain form counts, in which all of them find the same host.

/// The host of `https://HOST/…` or `http://HOST/…`, with `:443` or `:80` after it or no port. `head` is the beginning of
/// the URL and, if `whole`, all of it. `None` if the URL has another form.
pub fn host(head: &[u8], whole: bool) -> Option<&[u8]> {
    let rest = head.strip_prefix(b"https://").or_else(|| head.strip_prefix(b"http://"))?;
    let end = rest.iter().position(|byte| *byte == b'/');
    let authority = match end {
        Some(end) => rest.get(..end)?,
        None if whole => rest,
        None => return None,
    };
    let host = authority.strip_suffix(b":443").or_else(|| authority.strip_suffix(b":80")).unwrap_or(authority);
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    (!host.is_empty() && host.iter().all(plain)).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::host;

    #[test]
    fn only_the_plain_form_of_a_url_has_a_host() {
        for (url, expected) in [
            ("https://a.example.com/x?y#z", Some("a.example.com")),
            ("http://a.example.com", Some("a.example.com")),
            ("https://A.example.com:443/", Some("A.example.com")),
            ("http://a.example.com:80/@b.example.com", Some("a.example.com")),
            ("https://a.example.com?@b.example.com/", None),
            ("https://a.example.com#@b.example.com/", None),
            ("https://a.example.com\\@b.example.com/", None),
            ("https://a.example.com@b.example.com/", None),
            ("https://a.exa\tmple.com/", None),
            ("https://a.example.com:8443/", None),
            ("https://a.example%2ecom/", None),
            (" https://a.example.com/", None),
            ("HTTPS://a.example.com/", None),
            ("https:/a.example.com/", None),
            ("//a.example.com/", None),
            ("ftp://a.example.com/", None),
            ("gs://bucket/x", None),
            ("https:///x", None),
            ("", None),
        ] {
            assert_eq!(host(url.as_bytes(), true), expected.map(str::as_bytes), "{url}");
        }
        assert_eq!(host(b"https://a.example.co", false), None, "the host may go on");
        assert_eq!(host(b"https://a.example.com/", false), Some(&b"a.example.com"[..]));
    }
}
