//! The address of a client, and whose word about it counts. Look here for what a limit per address counts as one
//! address.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

/// The address of whoever sent a request. Behind trusted proxies it is the one that they tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClientAddress(IpAddr);

/// What limits count as one address. Whoever has an IPv6 address has a whole /64 of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AddressKey(IpAddr);

impl ClientAddress {
    /// The client at this address; an IPv4 address in IPv6 clothes is an IPv4 address.
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

/// Proxies whose word counts, as networks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TrustedProxies(Vec<IpNet>);

impl TrustedProxies {
    /// Adds a network, `10.0.0.0/8`, or a single address.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn add(&mut self, text: &str) -> Result<(), String> {
        let network = match text.parse::<IpAddr>() {
            Ok(address) => IpNet::from(address.to_canonical()),
            Err(_) => text.parse().map_err(|_| {
                format!("`{text}` is neither an address nor a network like 10.0.0.0/8")
            })?,
        };
        if network.prefix_len() == 0 {
            return Err(format!("`{text}` is everybody: name the addresses of your proxies"));
        }
        self.0.push(network);
        Ok(())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this address is one of them.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
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
    fn proxies_are_networks_and_addresses() {
        let mut proxies = TrustedProxies::default();
        for text in ["10.0.0.0/8", "192.0.2.7", "2001:db8::/32", "::ffff:198.51.100.1"] {
            assert_eq!(proxies.add(text), Ok(()));
        }
        for text in ["10.255.0.1", "::ffff:10.1.1.1", "192.0.2.7", "2001:db8::1", "198.51.100.1"] {
            assert!(proxies.contains(ip(text)), "{text}");
        }
        for text in ["11.0.0.1", "192.0.2.8", "2001:db9::1", "::1"] {
            assert!(!proxies.contains(ip(text)), "{text}");
        }
        assert!(proxies.add("0.0.0.0/0").is_err_and(|why| why.contains("everybody")));
        for text in ["", "localhost", "10.0.0.0/33", "10.0.0", "10.0.0.1:80", "*"] {
            assert!(proxies.add(text).is_err_and(|why| why.contains("neither")), "{text}");
        }
    }
}
