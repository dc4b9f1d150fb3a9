//! The messages between the control plane and the filters. The feature `server` adds the tonic services. The `.proto`
//! files document each message.
//!
//! Both ends encode addresses with [`address_bytes`] and decode them with [`address_of`].

use std::net::IpAddr;

#[expect(missing_docs, reason = "generated; documented in registry.proto")]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/sallyport.registry.v1.rs"));
}

pub use generated::*;

/// The messages of `sallyport.github.v1`, between the github filter and the control plane.
#[expect(missing_docs, reason = "generated; documented in github.proto")]
pub mod github {
    include!(concat!(env!("OUT_DIR"), "/sallyport.github.v1.rs"));
}

/// The messages of `sallyport.push.v1`, between the push filter and the control plane.
#[expect(missing_docs, reason = "generated; documented in push.proto")]
pub mod push {
    include!(concat!(env!("OUT_DIR"), "/sallyport.push.v1.rs"));
}

/// The encoding of `address` in the messages: 4 or 16 bytes, in network order.
pub fn address_bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// Decodes an address. Returns `None` unless `bytes` has 4 or 16 bytes. An IPv4-mapped IPv6 address becomes the IPv4
/// address, so that each address has one encoding.
pub fn address_of(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = || <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from);
    let v6 = || <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from);
    v4().or_else(v6).map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_comes_back_and_a_mapped_one_as_ipv4() {
        for address in [IpAddr::from([172, 18, 0, 5]), IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 5])] {
            assert_eq!(address_of(&address_bytes(address)), Some(address));
        }
        let mapped = IpAddr::from([0, 0, 0, 0, 0, 0xffff, 0xac12, 5]);
        assert_eq!(address_of(&address_bytes(mapped)), Some(IpAddr::from([172, 18, 0, 5])));
    }

    #[test]
    fn other_lengths_are_no_address() {
        for length in [0, 3, 5, 15, 17] {
            assert_eq!(address_of(&vec![1; length]), None, "{length}");
        }
    }
}
