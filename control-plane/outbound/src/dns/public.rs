//! Lists the addresses that are not public. The resolver leaves them out of its responses, and Envoy drops them again
//! from its own results. The list depends on the address alone; [`own`] recognizes this machine's addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::LazyLock;

/// A range of addresses that are not public.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first address.
    pub first: IpAddr,
    /// The length of the prefix, in bits.
    pub length: u8,
    /// A description of these addresses, for messages.
    pub what: &'static str,
}

impl Range {
    const fn v4(a: u8, b: u8, c: u8, d: u8, length: u8, what: &'static str) -> Self {
        Self { first: IpAddr::V4(Ipv4Addr::new(a, b, c, d)), length, what }
    }

    /// A range by the three leading groups of 16 bits. No range needs more.
    const fn v6(a: u16, b: u16, c: u16, length: u8, what: &'static str) -> Self {
        Self { first: IpAddr::V6(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0)), length, what }
    }

    /// Whether the range contains `address`.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.first, address) {
            (IpAddr::V4(first), IpAddr::V4(address)) => {
                shifted(u128::from(first.to_bits() ^ address.to_bits()), 32, self.length) == 0
            }
            (IpAddr::V6(first), IpAddr::V6(address)) => {
                shifted(first.to_bits() ^ address.to_bits(), 128, self.length) == 0
            }
            _ => false,
        }
    }
}

/// The first `length` bits of the `width` low bits in `bits`, shifted to the right.
fn shifted(bits: u128, width: u32, length: u8) -> u128 {
    bits.checked_shr(width.saturating_sub(length.into())).unwrap_or(0)
}

/// IANA's special-purpose registry for IPv4 (RFC 6890), and addresses that clouds use within public ranges.
const V4: [Range; 18] = [
    Range::v4(0, 0, 0, 0, 8, "unspecified"),
    Range::v4(10, 0, 0, 0, 8, "private"),
    Range::v4(100, 64, 0, 0, 10, "shared by a carrier's customers"),
    Range::v4(127, 0, 0, 0, 8, "loopback"),
    Range::v4(168, 63, 129, 16, 32, "Azure's metadata"),
    Range::v4(169, 254, 0, 0, 16, "link-local, as clouds' metadata"),
    Range::v4(172, 16, 0, 0, 12, "private"),
    Range::v4(192, 0, 0, 0, 24, "for protocols"),
    Range::v4(192, 0, 2, 0, 24, "for documentation"),
    Range::v4(192, 31, 196, 0, 24, "AS112, which serves only DNS"),
    Range::v4(192, 52, 193, 0, 24, "a multicast relay"),
    Range::v4(192, 88, 99, 0, 24, "a 6to4 relay"),
    Range::v4(192, 168, 0, 0, 16, "private"),
    Range::v4(198, 18, 0, 0, 15, "for benchmarks"),
    Range::v4(198, 51, 100, 0, 24, "for documentation"),
    Range::v4(203, 0, 113, 0, 24, "for documentation"),
    Range::v4(224, 0, 0, 0, 4, "multicast"),
    Range::v4(240, 0, 0, 0, 4, "reserved"),
];

/// The special ranges of IPv6. The last ones are outside 2000::/3, the only range that was ever allocated.
const V6: [Range; 17] = [
    Range::v6(0, 0, 0, 127, "unspecified or loopback"),
    // IPv4-mapped (::ffff:0:0/96), IPv4-compatible (::/96), IPv4-translated (::ffff:0:0:0/96).
    Range::v6(0, 0, 0, 64, "an IPv4 address in another form"),
    Range::v6(0x64, 0xff9b, 1, 48, "a local network's NAT64"),
    Range::v6(0x100, 0, 0, 64, "discarded"),
    // Teredo, ORCHID, benchmarks, anycast of protocols.
    Range::v6(0x2001, 0, 0, 23, "for protocols"),
    Range::v6(0x2001, 0xdb8, 0, 32, "for documentation"),
    Range::v6(0x2002, 0, 0, 16, "6to4"),
    Range::v6(0x2620, 0x4f, 0x8000, 48, "AS112, which serves only DNS"),
    Range::v6(0x3fff, 0, 0, 20, "for documentation"),
    Range::v6(0x5f00, 0, 0, 16, "segment routing's"),
    Range::v6(0xfc00, 0, 0, 7, "private"),
    Range::v6(0xfe80, 0, 0, 10, "link-local"),
    Range::v6(0xfec0, 0, 0, 10, "site-local"),
    Range::v6(0xff00, 0, 0, 8, "multicast"),
    Range::v6(0x4000, 0, 0, 2, "not allocated"),
    Range::v6(0x8000, 0, 0, 2, "not allocated"),
    Range::v6(0xc000, 0, 0, 2, "not allocated"),
];

/// The prefix of NAT64 (RFC 6052). The last 32 bits are the IPv4 address to which a NAT64 gateway connects.
const NAT64: Ipv6Addr = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0);
const NAT64_LENGTH: u8 = 96;
/// The ranges that are not public. The first range that contains an address describes it.
pub static CLOSED: LazyLock<Vec<Range>> = LazyLock::new(|| {
    let embedded = V4.iter().filter_map(|range| match range.first {
        IpAddr::V4(first) => Some(Range {
            first: IpAddr::V6(Ipv6Addr::from_bits(NAT64.to_bits() | u128::from(first.to_bits()))),
            length: NAT64_LENGTH.saturating_add(range.length),
            what: range.what,
        }),
        IpAddr::V6(_) => None,
    });
    V4.into_iter().chain(V6).chain(embedded).collect()
});

/// The description of `address`, if it is not public.
pub fn not_public(address: IpAddr) -> Option<&'static str> {
    CLOSED.iter().find(|range| range.contains(address)).map(|range| range.what).or_else(|| {
        // Except NAT64, no address in ::/3 was ever allocated. A few ranges can't express that.
        let given_out = matches!(address, IpAddr::V6(address)
            if address.segments()[0] >> 13 == 1 || address.segments()[..6] == NAT64.segments()[..6]);
        (address.is_ipv6() && !given_out).then_some("not allocated")
    })
}

/// Whether `address` is one of this machine's own. The kernel tells: it selects an address as the source only for
/// packets to that same address. No packet is sent.
pub fn own(address: IpAddr) -> bool {
    let unspecified = match address {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let source = || {
        let socket = UdpSocket::bind(SocketAddr::new(unspecified, 0))?;
        // Any port except 0 works.
        socket.connect(SocketAddr::new(address, 9))?;
        socket.local_addr()
    };
    // An error means that there is no route to the address, so it is not this machine's either.
    source().is_ok_and(|source| source.ip() == address)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn parse(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// For each range: the address before it, its first, its last, and the address after it. The addresses outside are
    /// public; `-` stands for one that is in another range.
    #[test]
    fn every_range_at_its_edges() {
        let rows = [
            ("-", "0.0.0.0", "0.255.255.255", "1.0.0.0"),
            ("9.255.255.255", "10.0.0.0", "10.255.255.255", "11.0.0.0"),
            ("100.63.255.255", "100.64.0.0", "100.127.255.255", "100.128.0.0"),
            ("126.255.255.255", "127.0.0.0", "127.255.255.255", "128.0.0.0"),
            ("168.63.129.15", "168.63.129.16", "168.63.129.16", "168.63.129.17"),
            ("169.253.255.255", "169.254.0.0", "169.254.255.255", "169.255.0.0"),
            ("172.15.255.255", "172.16.0.0", "172.31.255.255", "172.32.0.0"),
            ("191.255.255.255", "192.0.0.0", "192.0.0.255", "192.0.1.0"),
            ("192.0.1.255", "192.0.2.0", "192.0.2.255", "192.0.3.0"),
            ("192.31.195.255", "192.31.196.0", "192.31.196.255", "192.31.197.0"),
            ("192.52.192.255", "192.52.193.0", "192.52.193.255", "192.52.194.0"),
            ("192.88.98.255", "192.88.99.0", "192.88.99.255", "192.88.100.0"),
            ("192.167.255.255", "192.168.0.0", "192.168.255.255", "192.169.0.0"),
            ("198.17.255.255", "198.18.0.0", "198.19.255.255", "198.20.0.0"),
            ("198.51.99.255", "198.51.100.0", "198.51.100.255", "198.51.101.0"),
            ("203.0.112.255", "203.0.113.0", "203.0.113.255", "203.0.114.0"),
            ("223.255.255.255", "224.0.0.0", "239.255.255.255", "-"),
            ("-", "240.0.0.0", "255.255.255.255", "-"),
            ("-", "::", "::1", "-"),
            ("-", "::2", "::ffff:ffff", "-"),
            ("-", "::ffff:0:0", "::ffff:255.255.255.255", "-"),
            ("-", "::ffff:0:0:0", "::ffff:0:ffff:ffff", "-"),
            ("-", "64:ff9a:ffff:ffff:ffff:ffff:ffff:ffff", "64:ff9b::ffff:ff", "64:ff9b::100:0"),
            ("64:ff9b::9.255.255.255", "64:ff9b::10.0.0.0", "64:ff9b::10.255.255.255", "64:ff9b::11.0.0.0"),
            ("64:ff9b::126.255.255.255", "64:ff9b::127.0.0.0", "64:ff9b::127.255.255.255", "64:ff9b::128.0.0.0"),
            ("64:ff9b::169.253.255.255", "64:ff9b::169.254.0.0", "64:ff9b::169.254.169.254", "64:ff9b::169.255.0.0"),
            ("64:ff9b::223.255.255.255", "64:ff9b::224.0.0.0", "64:ff9b::255.255.255.255", "-"),
            ("-", "64:ff9b::1:0:0", "64:ff9b:0:ffff:ffff:ffff:ffff:ffff", "-"),
            ("-", "64:ff9b:1::", "64:ff9b:1:ffff:ffff:ffff:ffff:ffff", "-"),
            ("-", "100::", "100::ffff:ffff:ffff:ffff", "-"),
            ("-", "1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "2000::"),
            (
                "2000:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
                "2001::",
                "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff",
                "2001:200::",
            ),
            (
                "2001:db7:ffff:ffff:ffff:ffff:ffff:ffff",
                "2001:db8::",
                "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff",
                "2001:db9::",
            ),
            ("2001:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "2002::", "2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "2003::"),
            (
                "2620:4f:7fff:ffff:ffff:ffff:ffff:ffff",
                "2620:4f:8000::",
                "2620:4f:8000:ffff:ffff:ffff:ffff:ffff",
                "2620:4f:8001::",
            ),
            (
                "3ffe:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
                "3fff::",
                "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff",
                "3fff:1000::",
            ),
            ("3fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "4000::", "5eff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "-"),
            ("-", "5f00::", "5f00:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "-"),
            ("-", "8000::", "fbff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "-"),
            ("-", "fc00::", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "-"),
            ("-", "fe00::", "fe7f:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "-"),
            ("-", "fe80::", "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "-"),
            ("-", "fec0::", "feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "-"),
            ("-", "ff00::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "-"),
        ];
        for (before, first, last, after) in rows {
            for outside in [before, after].into_iter().filter(|text| *text != "-") {
                assert_eq!(not_public(parse(outside)), None, "{outside}");
            }
            for inside in [first, last] {
                assert!(not_public(parse(inside)).is_some(), "{inside}");
            }
        }
    }

    #[test]
    fn each_range_begins_where_its_prefix_ends_and_has_a_name() {
        for range in CLOSED.iter() {
            let (bits, width) = match range.first {
                IpAddr::V4(first) => (u128::from(first.to_bits()), 32),
                IpAddr::V6(first) => (first.to_bits(), 128),
            };
            let rest = width - u32::from(range.length);
            assert_eq!(bits & ((1_u128.checked_shl(rest).unwrap_or(0)).wrapping_sub(1)), 0, "{range:?}");
            assert!(not_public(range.first).is_some());
        }
    }

    /// Random addresses that the standard library treats as special are not public here.
    #[test]
    fn nothing_special_to_the_standard_library_is_public() {
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        for _ in 0..200_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let v4 = Ipv4Addr::from_bits((state >> 32) as u32);
            let special = v4.is_private()
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_documentation()
                || v4.is_multicast()
                || v4.is_broadcast()
                || v4.is_unspecified();
            assert!(!special || not_public(v4.into()).is_some(), "{v4}");
            assert!(not_public(v4.to_ipv6_mapped().into()).is_some(), "{v4}");
            let nat64 = Ipv6Addr::from_bits(NAT64.to_bits() | u128::from(v4.to_bits()));
            assert_eq!(not_public(nat64.into()), not_public(v4.into()), "{v4}");
            let v6 = Ipv6Addr::from_bits((u128::from(state) << 64) | u128::from(state.rotate_left(17)));
            let global = v6.segments()[0] >> 13 == 1;
            assert!(global || not_public(v6.into()).is_some(), "{v6}");
        }
    }

    #[test]
    fn this_machine_knows_itself() {
        assert!(own(parse("127.0.0.1")));
        assert!(!own(parse("192.0.2.1")));
    }
}
