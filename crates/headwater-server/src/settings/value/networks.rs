//! Networks of trusted reverse proxies, and the header in which they report a client's address.

use std::net::IpAddr;
use std::str::FromStr;

use http::HeaderName;
use ipnet::IpNet;

/// Trusted proxies, as networks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TrustedProxies(Vec<IpNet>);

impl TrustedProxies {
    /// Adds a network, `10.0.0.0/8`, or a single address.
    ///
    /// # Errors
    /// A sentence that states what is wrong.
    pub fn add(&mut self, text: &str) -> Result<(), String> {
        let network = match text.parse::<IpAddr>() {
            Ok(address) => IpNet::from(address.to_canonical()),
            Err(_) => text.parse().map_err(|_| {
                format!("`{text}` is neither an address nor a network like 10.0.0.0/8")
            })?,
        };
        if network.prefix_len() == 0 {
            return Err(format!(
                "`{text}` would trust everyone: name the addresses of your proxies"
            ));
        }
        self.0.push(network);
        Ok(())
    }

    /// Whether the list is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this address is one of them.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }
}

/// The header in which proxies report a client's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressHeader {
    /// `X-Forwarded-For`: each proxy appends the address it was asked from.
    XForwardedFor,
    /// `Forwarded` (RFC 7239): the same, with more to say.
    Forwarded,
    /// `X-Real-IP`: a single address, set by the proxy.
    XRealIp,
}

impl AddressHeader {
    /// Its name, in lower case.
    pub fn name(self) -> HeaderName {
        HeaderName::from_static(match self {
            Self::XForwardedFor => "x-forwarded-for",
            Self::Forwarded => "forwarded",
            Self::XRealIp => "x-real-ip",
        })
    }
}

impl FromStr for AddressHeader {
    type Err = String;

    /// The name of a header; upper and lower case are the same, as in HTTP.
    fn from_str(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "x-forwarded-for" => Ok(Self::XForwardedFor),
            "forwarded" => Ok(Self::Forwarded),
            "x-real-ip" => Ok(Self::XRealIp),
            _ => Err("it is none of X-Forwarded-For, Forwarded and X-Real-IP".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
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
        assert!(proxies.add("0.0.0.0/0").is_err_and(|why| why.contains("everyone")));
        for text in ["", "localhost", "10.0.0.0/33", "10.0.0", "10.0.0.1:80", "*"] {
            assert!(proxies.add(text).is_err_and(|why| why.contains("neither")), "{text}");
        }
    }

    #[test]
    fn headers_are_named_as_in_http() {
        assert_eq!("x-forwarded-FOR".parse(), Ok(AddressHeader::XForwardedFor));
        assert_eq!("Forwarded".parse(), Ok(AddressHeader::Forwarded));
        assert_eq!("X-Real-IP".parse(), Ok(AddressHeader::XRealIp));
        let error = "Client-IP".parse::<AddressHeader>().unwrap_err();
        assert!(error.contains("none of X-Forwarded-For"), "{error}");
    }
}
