//! Names for a certificate. Look here for which are accepted.

use std::fmt;
use std::str::FromStr;

/// A name in the DNS, in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DomainName(String);

impl DomainName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for DomainName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with("*.") {
            return Err(format!(
                "{text} stands for many names, which cannot be verified on one port: write each of \
                 them, or have the certificate made elsewhere and set its files with --tls-cert \
                 and --tls-key"
            ));
        }
        if !text.is_ascii() {
            return Err(format!("{text} is not ASCII: write it as the DNS has it, with xn--"));
        }
        let is_label = |label: &str| {
            let has_good_bytes =
                label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
            (1..=63).contains(&label.len())
                && has_good_bytes
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        let is_address = text.parse::<std::net::IpAddr>().is_ok();
        if is_address || text.len() > 253 || !text.split('.').all(is_label) {
            return Err(format!(
                "{text} is no name in the DNS: write one like events.example.org, without \
                 https:// and without a port"
            ));
        }
        Ok(Self(text.to_ascii_lowercase()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        let name: DomainName = "Events.Example.org".parse().unwrap();
        assert_eq!(name.as_str(), "events.example.org");
        for (wrong, part) in [
            ("", "no name"),
            ("*.example.org", "write each"),
            ("https://example.org", "without https://"),
            ("example.org:443", "no name"),
            ("127.0.0.1", "no name"),
            ("::1", "no name"),
            ("a..b", "no name"),
            ("-a.b", "no name"),
            ("müll.example", "xn--"),
            (&"a.".repeat(127), "no name"),
        ] {
            let error = wrong.parse::<DomainName>().unwrap_err();
            assert!(error.contains(part), "{wrong}: {error}");
        }
    }
}
