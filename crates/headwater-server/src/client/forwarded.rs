//! The client's address from the header of a trusted proxy. Look here for which of several
//! addresses counts. No I/O.
//!
//! Any client can send these headers, and each proxy appends to them. So they are read from the
//! end, where the nearest proxy wrote, and only as far as proxies are trusted. An invalid element
//! ends the search: the client is then the last address found.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use http::{HeaderMap, HeaderValue};

use super::address::ClientAddress;
use crate::limits::FORWARDED_HOPS_MAX;
use crate::settings::{AddressHeader, TrustedProxies};

/// The address of the client that sent these headers over a connection from `peer`.
pub fn client_address(
    peer: IpAddr,
    headers: &HeaderMap,
    header: AddressHeader,
    trusted: &TrustedProxies,
) -> ClientAddress {
    let mut client = peer;
    let mut hops = 0;
    let lines = headers.get_all(header.name());
    for line in lines.iter().rev() {
        let Some(elements) = elements(line, header) else { break };
        for element in elements.into_iter().rev() {
            // A header with more hops than any real chain has is not trusted any further.
            if !trusted.contains(client) || hops == FORWARDED_HOPS_MAX {
                return ClientAddress::new(client);
            }
            let Some(address) = element else { return ClientAddress::new(client) };
            client = address;
            hops += 1;
        }
        if header == AddressHeader::XRealIp {
            break;
        }
    }
    ClientAddress::new(client)
}

/// The addresses in one line of the header, in order; `None` for an element without a valid one.
/// `None` as a whole if the elements cannot be separated.
fn elements(line: &HeaderValue, header: AddressHeader) -> Option<Vec<Option<IpAddr>>> {
    let line = line.to_str().ok()?;
    match header {
        AddressHeader::XForwardedFor => {
            Some(line.split(',').map(|element| node(element.trim())).collect())
        }
        AddressHeader::XRealIp => Some(vec![node(line.trim())]),
        AddressHeader::Forwarded => {
            let elements = split_outside_of_quotes(line, ',')?;
            Some(elements.into_iter().map(forwarded_for).collect())
        }
    }
}

/// The address in the `for` of one element of `Forwarded`.
fn forwarded_for(element: &str) -> Option<IpAddr> {
    let pairs = split_outside_of_quotes(element, ';')?;
    let mut values = pairs.into_iter().filter_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        name.trim().eq_ignore_ascii_case("for").then_some(value.trim())
    });
    let value = values.next()?;
    // Which of two would be the proxy's?
    if values.next().is_some() {
        return None;
    }
    let unquoted = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    node(unquoted.unwrap_or(value))
}

/// Splits outside of quotes. `None` if a quote is unclosed or misplaced: a client's quote must not
/// swallow what a proxy appended.
fn split_outside_of_quotes(text: &str, separator: char) -> Option<Vec<&str>> {
    let mut parts = Vec::new();
    let (mut start, mut quoted, mut escaped) = (0, false, false);
    let mut last = ' ';
    for (at, character) in text.char_indices() {
        if escaped {
            escaped = false;
        } else if quoted {
            match character {
                '\\' => escaped = true,
                '"' => quoted = false,
                _ => {}
            }
        } else if character == '"' {
            // A quote can only start a value.
            if last != '=' {
                return None;
            }
            quoted = true;
        } else if character == separator {
            parts.push(&text[start..at]);
            start = at + character.len_utf8();
        } else if last == '"' && !matches!(character, ';' | ',' | ' ' | '\t') {
            return None;
        }
        last = character;
    }
    parts.push(&text[start..]);
    (!quoted).then_some(parts)
}

/// An address, with a port or without: `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]`,
/// `[2001:db8::1]:80`.
fn node(text: &str) -> Option<IpAddr> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address);
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(address.ip());
    }
    let inner = text.strip_prefix('[')?.strip_suffix(']')?;
    inner.parse::<Ipv6Addr>().ok().map(IpAddr::from)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn trusted() -> TrustedProxies {
        let mut trusted = TrustedProxies::default();
        trusted.add("10.0.0.0/8").expect("a network");
        trusted.add("fd00::/8").expect("a network");
        trusted
    }

    fn found(peer: &str, header: AddressHeader, lines: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for line in lines {
            let value = HeaderValue::from_bytes(line.as_bytes()).expect("a value");
            headers.append(header.name(), value);
        }
        client_address(peer.parse().expect("an address"), &headers, header, &trusted()).to_string()
    }

    #[test]
    fn x_forwarded_for_counts_from_its_end_to_the_first_that_is_not_trusted() {
        #[track_caller]
        fn check(peer: &str, lines: &[&str], expected: &str) {
            assert_eq!(found(peer, AddressHeader::XForwardedFor, lines), expected, "{lines:?}");
        }
        check("10.0.0.1", &["192.0.2.1"], "192.0.2.1");
        check("10.0.0.1", &["6.6.6.6, 192.0.2.1"], "192.0.2.1");
        check("10.0.0.1", &["6.6.6.6,192.0.2.1 , 10.0.0.2"], "192.0.2.1");
        check("10.0.0.1", &["6.6.6.6", "192.0.2.1", "10.0.0.2"], "192.0.2.1");
        check("10.0.0.1", &["192.0.2.1:1234"], "192.0.2.1");
        check("10.0.0.1", &["2001:db8::1"], "2001:db8::1");
        check("10.0.0.1", &["[2001:db8::1]:80"], "2001:db8::1");
        check("::ffff:10.0.0.1", &["192.0.2.1"], "192.0.2.1");
        // No proxy is trusted.
        check("192.0.2.9", &["6.6.6.6"], "192.0.2.9");
        check("10.0.0.1", &[], "10.0.0.1");
        // All are proxies: the outermost.
        check("10.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3");
        // Invalid elements are not skipped.
        check("10.0.0.1", &["192.0.2.1, unknown, 10.0.0.2"], "10.0.0.2");
        check("10.0.0.1", &["192.0.2.1, "], "10.0.0.1");
        check("10.0.0.1", &["192.0.2.1", "grüße"], "10.0.0.1");
    }

    #[test]
    fn forwarded_is_read_with_its_quotes() {
        #[track_caller]
        fn check(lines: &[&str], expected: &str) {
            assert_eq!(found("10.0.0.1", AddressHeader::Forwarded, lines), expected, "{lines:?}");
        }
        check(&["for=192.0.2.1"], "192.0.2.1");
        check(&["For=\"[2001:db8::1]:80\";proto=https;by=10.0.0.1"], "2001:db8::1");
        check(&["by=10.0.0.1; for=192.0.2.1"], "192.0.2.1");
        check(&["for=6.6.6.6, for=192.0.2.1;by=\"a,b\", for=10.0.0.2"], "192.0.2.1");
        check(&["for=6.6.6.6", "for=192.0.2.1"], "192.0.2.1");
        check(&["for=192.0.2.1, for=unknown"], "10.0.0.1");
        check(&["for=192.0.2.1, for=_hidden, for=10.0.0.2"], "10.0.0.2");
        check(&["for=192.0.2.1, proto=https"], "10.0.0.1");
        check(&["for=192.0.2.1;for=6.6.6.6"], "10.0.0.1");
        // A quote that the client left open must not hide what the proxy wrote, nor pass for it.
        check(&["for=\"6.6.6.6, for=192.0.2.1"], "10.0.0.1");
        check(&["for=\"6.6.6.6, for=\"[2001:db8::1]\""], "10.0.0.1");
        check(&["for=\"\\\", for=192.0.2.1"], "10.0.0.1");
        check(&["for=6.6.6.6;x=\"", "for=192.0.2.1"], "192.0.2.1");
    }

    #[test]
    fn x_real_ip_is_one_address() {
        #[track_caller]
        fn check(lines: &[&str], expected: &str) {
            assert_eq!(found("10.0.0.1", AddressHeader::XRealIp, lines), expected, "{lines:?}");
        }
        check(&["192.0.2.1"], "192.0.2.1");
        check(&["6.6.6.6", "192.0.2.1"], "192.0.2.1");
        // A trusted address is still the client: this header is not a chain.
        check(&["6.6.6.6", "10.0.0.2"], "10.0.0.2");
        check(&["192.0.2.1, 6.6.6.6"], "10.0.0.1");
        check(&["nonsense"], "10.0.0.1");
    }

    #[test]
    fn a_chain_that_is_too_long_is_not_followed_to_its_end() {
        let chain = vec!["10.0.0.2"; FORWARDED_HOPS_MAX].join(",");
        let line = format!("192.0.2.1,{chain}");
        assert_eq!(found("10.0.0.1", AddressHeader::XForwardedFor, &[&line]), "10.0.0.2");
        let line = format!("192.0.2.1,{}", &chain["10.0.0.2,".len()..]);
        assert_eq!(found("10.0.0.1", AddressHeader::XForwardedFor, &[&line]), "192.0.2.1");
    }

    fn any_header() -> impl Strategy<Value = AddressHeader> {
        use AddressHeader::{Forwarded, XForwardedFor, XRealIp};
        prop_oneof![Just(XForwardedFor), Just(Forwarded), Just(XRealIp)]
    }

    proptest! {
        /// Whatever a client writes before it: what the proxy wrote counts, or the proxy itself.
        #[test]
        fn a_client_cannot_choose_its_address(
            theirs in "[ -~]{0,60}",
            same_line: bool,
            header in any_header(),
            v6: bool,
        ) {
            let address = if v6 { "2001:db8::1" } else { "192.0.2.1" };
            let ours = match header {
                AddressHeader::Forwarded if v6 => format!("for=\"[{address}]\""),
                AddressHeader::Forwarded => format!("for={address}"),
                _ => address.to_owned(),
            };
            // X-Real-IP is replaced, not added to.
            let lines = match header {
                AddressHeader::XRealIp => vec![ours],
                _ if same_line => vec![format!("{theirs}, {ours}")],
                _ => vec![theirs, ours],
            };
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            let found = found("10.0.0.1", header, &lines);
            prop_assert!(found == address || found == "10.0.0.1", "{}", found);
            let is_broken = header == AddressHeader::Forwarded && same_line;
            prop_assert!(is_broken || found == address, "{}", found);
        }

        #[test]
        fn without_trust_no_header_counts(line in "[ -~]{0,60}", header in any_header()) {
            prop_assert_eq!(found("192.0.2.9", header, &[&line]), "192.0.2.9");
        }
    }
}
