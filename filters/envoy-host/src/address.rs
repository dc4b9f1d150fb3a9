//! Parses Envoy's text for a peer's address. Makes no access decision. Called by [`crate::source_ip`].

use std::net::{IpAddr, SocketAddr};

/// The IP of `ip:port` or `[v6]:port`. An IPv4-mapped IPv6 address is returned as its IPv4 address: for the same peer,
/// a listener on `[::]` reports the mapped form, and a listener on `0.0.0.0` the plain form.
///
/// Returns `None` for all other texts: Envoy's internal addresses, Unix sockets, an address without a port.
pub(crate) fn ip_of(text: &[u8]) -> Option<IpAddr> {
    let address: SocketAddr = std::str::from_utf8(text).ok()?.parse().ok()?;
    Some(address.ip().to_canonical())
}

#[cfg(test)]
mod tests {
    use super::ip_of;

    #[test]
    fn one_peer_has_one_address() {
        for (text, expected) in [
            ("172.18.0.5:40000", "172.18.0.5"),
            ("[::ffff:172.18.0.5]:40000", "172.18.0.5"),
            ("[::ffff:ac12:5]:40000", "172.18.0.5"),
            ("[fd00::5]:40000", "fd00::5"),
            ("[::1]:1", "::1"),
        ] {
            assert_eq!(ip_of(text.as_bytes()), expected.parse().ok(), "{text}");
        }
    }

    #[test]
    fn what_is_no_socket_address_is_no_peer() {
        let cases: [&[u8]; 10] = [
            b"",
            b"172.18.0.5",
            b"::1",
            b"[::1]",
            b"172.18.0.5:",
            b"172.18.0.5:65536",
            b"172.18.0.05:1",
            b"@/run/x.sock",
            b"envoy://internal/",
            b"172.18.0.\xff:1",
        ];
        for text in cases {
            assert_eq!(ip_of(text), None, "{:?}", String::from_utf8_lossy(text));
        }
    }
}
