//! The address of a client. Look here for what a limit per address counts as one address.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

/// The address of the client that sent a request. Behind trusted proxies it is the one that they
/// report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClientAddress(IpAddr);

/// What limits count as one address: an IPv4 address, or a network of IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AddressKey(IpAddr);

impl ClientAddress {
    /// The client at this address; an IPv4-mapped IPv6 address is an IPv4 address.
    pub fn new(address: IpAddr) -> Self {
        Self(address.to_canonical())
    }

    /// Its address.
    pub fn ip(self) -> IpAddr {
        self.0
    }

    /// What limits count it as: an IPv6 client has a whole /64 of addresses.
    pub fn key(self) -> AddressKey {
        self.network(64).unwrap_or(AddressKey(self.0))
    }

    /// The site of an IPv6 client, a /48: one customer of a provider may have all its 65,536 /64s.
    /// Limits count it too, some times higher.
    pub fn site(self) -> Option<AddressKey> {
        self.network(48)
    }

    fn network(self, prefix_bits: u32) -> Option<AddressKey> {
        match self.0 {
            IpAddr::V4(_) => None,
            IpAddr::V6(address) => {
                let network = address.to_bits() & !0 << (128 - prefix_bits);
                Some(AddressKey(Ipv6Addr::from_bits(network).into()))
            }
        }
    }
}

impl fmt::Display for ClientAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn limits_count_a_64_of_ipv6_as_one_address() {
        #[track_caller]
        fn check(one: &str, other: &str, same: bool) {
            let key = |text| ClientAddress::new(ip(text)).key();
            assert_eq!(key(one) == key(other), same, "{one} {other}");
        }
        check("2001:db8::1", "2001:db8::ffff:0:0:1", true);
        check("2001:db8::1", "2001:db8:0:1::1", false);
        check("192.0.2.1", "192.0.2.2", false);
        check("192.0.2.1", "::ffff:192.0.2.1", true);
        check("::ffff:192.0.2.1", "::ffff:192.0.2.2", false);
    }

    #[test]
    fn a_48_of_ipv6_is_one_site() {
        let site = |text| ClientAddress::new(ip(text)).site();
        assert_eq!(site("2001:db8:7:1::1"), site("2001:db8:7:ffff:1::2"));
        assert_ne!(site("2001:db8:7::1"), site("2001:db8:8::1"));
        assert_eq!(site("192.0.2.1"), None);
        assert_eq!(site("::ffff:192.0.2.1"), None);
    }
}
