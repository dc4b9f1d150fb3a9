//! Host names and authorities in one canonical spelling. Only that spelling is ever compared.
//!
//! Envoy routes by the authority, and this crate decides by it. An authority that the two could parse differently is
//! an error: userinfo, IP literals in any spelling, a port that is not plain digits, bytes outside letters, digits,
//! hyphen and underscore.

use serde::{Deserialize, Serialize};
use std::borrow::Borrow;
use std::fmt;

/// RFC 1035 section 2.3.4: a name is at most 255 octets on the wire, which is 253 characters of text.
const MAX_NAME: usize = 253;
/// RFC 1035 section 2.3.4.
const MAX_LABEL: usize = 63;

/// A host name of at least two labels: lower case, no trailing dot, letters, digits and hyphens (and underscore,
/// which real names contain). Never an IP address, never `localhost` or a name below it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostName(String);

/// Why a text is no valid host name or authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHost {
    /// The name is empty.
    #[error("the host is empty")]
    Empty,
    /// Over 253 characters, or a label over 63.
    #[error("the host name is longer than DNS allows (253 characters, 63 for each label)")]
    TooLong,
    /// A byte that is not allowed in host names; userinfo's `@` and control bytes included.
    #[error("the host name holds a character other than letters, digits, '-', '_' and '.'")]
    Character,
    /// A label is empty, or begins or ends with a hyphen.
    #[error("a label of the host name is empty or begins or ends with '-'")]
    Label,
    /// The name has only one label.
    #[error("the host name has a single label; only fully qualified names can be reached")]
    SingleLabel,
    /// `localhost` or a name below it. Many programs resolve these without DNS.
    #[error("localhost cannot be reached through the gateway")]
    Localhost,
    /// An IP address, in any spelling that inet_aton accepts.
    #[error("IP addresses cannot be reached through the gateway; use the host's name")]
    IpLiteral,
    /// A URL where a host name belongs.
    #[error("a URL; write its host name alone, without https:// and without a path")]
    Url,
    /// A host name with a port where the name alone belongs.
    #[error("a host name with a port; write the name alone, for ports 443 and 80")]
    WithPort,
    /// The text after the colon is not a port.
    #[error("the port is not a number from 1 to 65535")]
    Port,
}

impl HostName {
    /// Parses a name in any letter case, with at most one trailing dot.
    ///
    /// # Errors
    /// If the text is not a plain, fully qualified DNS name; see [`InvalidHost`].
    pub fn parse(raw: &[u8]) -> Result<Self, InvalidHost> {
        let raw = raw.strip_suffix(b".").unwrap_or(raw);
        if raw.is_empty() {
            return Err(InvalidHost::Empty);
        }
        if raw.contains(&b'[') || raw.contains(&b':') {
            return Err(InvalidHost::IpLiteral);
        }
        if raw.len() > MAX_NAME {
            return Err(InvalidHost::TooLong);
        }
        if !raw.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
            return Err(InvalidHost::Character);
        }
        let name = String::from_utf8_lossy(raw).to_ascii_lowercase();
        let mut last = "";
        let mut labels = 0_usize;
        for label in name.split('.') {
            if label.is_empty() || label.starts_with('-') || label.ends_with('-') {
                return Err(InvalidHost::Label);
            }
            if label.len() > MAX_LABEL {
                return Err(InvalidHost::TooLong);
            }
            last = label;
            labels = labels.saturating_add(1);
        }
        // No top-level domain is numeric (RFC 3696 section 2), and inet_aton reads `127.1`, `0x7f.1` and `2130706433`
        // as addresses. As in the WHATWG URL standard, a numeric last label makes the whole name an IP address.
        if last.bytes().all(|b| b.is_ascii_digit())
            || last.strip_prefix("0x").is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()))
        {
            return Err(InvalidHost::IpLiteral);
        }
        if last == "localhost" {
            return Err(InvalidHost::Localhost);
        }
        if labels < 2 {
            return Err(InvalidHost::SingleLabel);
        }
        Ok(Self(name))
    }

    /// The name: lower case, no trailing dot.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The parent domains, longest first: `b.c` and `c` for `a.b.c`.
    pub fn parents(&self) -> impl Iterator<Item = &str> {
        std::iter::successors(self.0.split_once('.'), |(_, parent)| parent.split_once('.')).map(|(_, parent)| parent)
    }
}

impl Borrow<str> for HostName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for HostName {
    type Error = InvalidHost;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(text.as_bytes())
    }
}

impl From<HostName> for String {
    fn from(name: HostName) -> Self {
        name.0
    }
}

/// `host` or `host:port`, as in `:authority`, in `Host` and in the target of CONNECT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    /// The host name, in its canonical spelling.
    pub host: HostName,
    /// The port, if the authority has one.
    pub port: Option<u16>,
}

impl Authority {
    /// Parses an authority strictly.
    ///
    /// # Errors
    /// If the authority has userinfo, an IP literal, or a port that is not a plain decimal number from 1 to 65535. An
    /// empty port, a sign and a leading zero are errors too.
    pub fn parse(raw: &[u8]) -> Result<Self, InvalidHost> {
        if raw.starts_with(b"[") {
            return Err(InvalidHost::IpLiteral);
        }
        if raw.contains(&b'@') {
            return Err(InvalidHost::Character);
        }
        let mut parts = raw.splitn(3, |b| *b == b':');
        let host = parts.next().unwrap_or_default();
        let port = parts.next();
        if parts.next().is_some() {
            return Err(InvalidHost::IpLiteral);
        }
        Ok(Self { host: HostName::parse(host)?, port: port.map(parse_port).transpose()? })
    }
}

fn parse_port(digits: &[u8]) -> Result<u16, InvalidHost> {
    let plain = matches!(digits, [b'1'..=b'9', rest @ ..] if rest.iter().all(u8::is_ascii_digit));
    if !plain {
        return Err(InvalidHost::Port);
    }
    std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok()).ok_or(InvalidHost::Port)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn one_spelling_for_every_way_to_write_a_name() {
        for raw in ["github.com", "GitHub.COM", "github.com."] {
            assert_eq!(HostName::parse(raw.as_bytes()).unwrap().as_str(), "github.com", "{raw}");
        }
    }

    #[test]
    fn what_two_parsers_could_read_differently_is_no_name() {
        let cases: &[(&[u8], InvalidHost)] = &[
            (b"", InvalidHost::Empty),
            (b".", InvalidHost::Empty),
            (b"github..com", InvalidHost::Label),
            (b"github.com..", InvalidHost::Label),
            (b".github.com", InvalidHost::Label),
            (b"-a.com", InvalidHost::Label),
            (b"git hub.com", InvalidHost::Character),
            (b"github.com\0", InvalidHost::Character),
            (b"github%2ecom", InvalidHost::Character),
            ("gïthub.com".as_bytes(), InvalidHost::Character),
            (b"localhost", InvalidHost::Localhost),
            (b"a.localhost.", InvalidHost::Localhost),
            (b"intranet", InvalidHost::SingleLabel),
            (b"127.0.0.1", InvalidHost::IpLiteral),
            (b"127.1", InvalidHost::IpLiteral),
            (b"2130706433", InvalidHost::IpLiteral),
            (b"0x7f.0x1", InvalidHost::IpLiteral),
            (b"0x7f000001", InvalidHost::IpLiteral),
            (b"a.0x", InvalidHost::IpLiteral),
            (b"0177.0.0.1", InvalidHost::IpLiteral),
            (b"[::1]", InvalidHost::IpLiteral),
            (b"::1", InvalidHost::IpLiteral),
        ];
        for (raw, expected) in cases {
            assert_eq!(HostName::parse(raw), Err(*expected), "{:?}", String::from_utf8_lossy(raw));
        }
    }

    #[test]
    fn names_and_labels_at_and_over_the_limit() {
        let label = "a".repeat(MAX_LABEL);
        assert!(HostName::parse(format!("{label}.com").as_bytes()).is_ok());
        assert_eq!(HostName::parse(format!("{label}a.com").as_bytes()), Err(InvalidHost::TooLong));
        let name = format!("{label}.{label}.{label}.{}", "b".repeat(MAX_NAME - 3 * (MAX_LABEL + 1)));
        assert_eq!(name.len(), MAX_NAME);
        assert!(HostName::parse(name.as_bytes()).is_ok());
        assert_eq!(HostName::parse(format!("{name}b").as_bytes()), Err(InvalidHost::TooLong));
    }

    #[test]
    fn ports_are_plain_digits() {
        assert_eq!(Authority::parse(b"github.com:443").unwrap().port, Some(443));
        assert_eq!(Authority::parse(b"github.com").unwrap().port, None);
        for raw in [
            "github.com:",
            "github.com:0",
            "github.com:0443",
            "github.com:+443",
            "github.com:65536",
            "github.com:https",
        ] {
            assert_eq!(Authority::parse(raw.as_bytes()), Err(InvalidHost::Port), "{raw}");
        }
        assert_eq!(Authority::parse(b"u:p@github.com:443"), Err(InvalidHost::Character));
        assert_eq!(Authority::parse(b"github.com@evil.test"), Err(InvalidHost::Character));
        assert_eq!(Authority::parse(b"[::1]:443"), Err(InvalidHost::IpLiteral));
    }
}
