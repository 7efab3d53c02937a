//! The address of a client, and which proxies report it. Look here for what a limit per address
//! counts as one address.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

/// The address of the client that sent a request. Behind trusted proxies it is the one that they
/// report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClientAddress(IpAddr);

/// What limits count as one address. An IPv6 client has a whole /64 of addresses.
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

    /// What limits count it as.
    pub fn key(self) -> AddressKey {
        AddressKey(match self.0 {
            IpAddr::V4(_) => self.0,
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !0 << 64).into(),
        })
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
}
