//! Addresses in sallyport.yaml: those with a port, the address of a pinned host, and the URL of a proxy.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};

/// An IP address with a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Address(pub(crate) SocketAddr);

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AddressVisitor)
    }
}

struct AddressVisitor;

impl Visitor<'_> for AddressVisitor {
    type Value = Address;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an IP address with a port, such as 127.0.0.1:8080")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Address, E> {
        text.parse().map(Address).map_err(|_| E::custom(problem(text)))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Address, E> {
        Err(E::custom(problem(&number.to_string())))
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Address, E> {
        Err(E::custom(problem(&number.to_string())))
    }
}

/// The problem with `text`, and the text to write.
fn problem(text: &str) -> String {
    let written = if let Ok(ip) = text.parse::<IpAddr>() {
        format!("has no port; write it as {}", SocketAddr::new(ip, 8080))
    } else if text.contains("://") {
        "is a URL; write its IP address and its port alone, such as 127.0.0.1:8080".to_owned()
    } else {
        "is no IP address with a port; write it as 127.0.0.1:8080 or [::1]:8080; names are not resolved here".to_owned()
    };
    format!("{text:?} {written}")
}

/// Checks the address of a pinned host: an IP address or a name, which has no scheme, no path and no port.
///
/// # Errors
/// If the text is anything else.
pub(crate) fn check_pinned(text: &str) -> Result<(), String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if text.parse::<IpAddr>().is_ok() || (!text.is_empty() && text.bytes().all(plain)) {
        Ok(())
    } else {
        Err(format!(
            "{text:?} is no IP address and no name; write 10.0.0.7 or git.internal alone, and its port at `port`"
        ))
    }
}

/// The address and the port in the URL of an HTTP proxy.
///
/// # Errors
/// If the URL has another scheme, a user, a path, or no port.
pub(crate) fn proxy(url: &str) -> Result<(String, u16), String> {
    let written = "write http, a name or an address, and a port, such as http://proxy.corp.example:3128";
    let wrong = || format!("{url:?} is no URL of an HTTP proxy; {written}");
    let rest = url.strip_prefix("http://").ok_or_else(wrong)?;
    if rest.contains('@') {
        return Err(format!(
            "a user in the URL is not supported: the gateway sends no credential to a proxy; {written}, and let a proxy \
             of your own add the credential"
        ));
    }
    let (host, port) = rest.strip_suffix('/').unwrap_or(rest).rsplit_once(':').ok_or_else(wrong)?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?;
    check_pinned(host).map_err(|_| wrong())?;
    Ok((host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_a_plain_url_with_a_port() {
        for (url, host) in [
            ("http://proxy.corp:3128", "proxy.corp"),
            ("http://10.0.0.7:3128/", "10.0.0.7"),
            ("http://[fd00::7]:3128", "fd00::7"),
        ] {
            assert_eq!(proxy(url), Ok((host.to_owned(), 3128)), "{url}");
        }
        for url in [
            "",
            "proxy.corp:3128",
            "https://proxy.corp:3128",
            "socks5://proxy.corp:3128",
            "http://proxy.corp",
            "http://proxy.corp:0",
            "http://proxy.corp:http",
            "http://proxy.corp:3128/path",
            "http://:3128",
            "http://a b:3128",
        ] {
            assert!(proxy(url).is_err_and(|problem| problem.contains("http://proxy.corp.example:3128")), "{url}");
        }
        assert!(proxy("http://me:secret@proxy.corp:3128").is_err_and(|problem| !problem.contains("secret")));
    }

    #[test]
    fn the_address_of_a_pinned_host_stands_alone() {
        for good in ["10.0.0.7", "fd00::7", "git.internal", "stand-in", "a_b"] {
            assert_eq!(check_pinned(good), Ok(()), "{good}");
        }
        for bad in ["", "https://10.0.0.7", "10.0.0.7:443", "[fd00::7]", "[fd00::7]:443", "a/b", "a b", "é"] {
            assert!(check_pinned(bad).is_err_and(|problem| problem.contains("at `port`")), "{bad}");
        }
    }
}
