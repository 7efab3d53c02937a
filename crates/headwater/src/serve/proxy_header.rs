//! The PROXY protocol header, versions 1 and 2, by which a proxy reports the client of a
//! connection. Look here for which headers are accepted. Does no IO. Source: HAProxy's "The PROXY
//! protocol", sections 2.1 and 2.2.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use self::ProxyHeaderProgress as Progress;
use crate::limits::PROXY_HEADER_BYTES_MAX;

/// The first bytes of a version 2 header, chosen to differ from those of all other protocols.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family and transport, length.
const FIXED_BYTES: usize = 16;

/// The first bytes of a version 1 header.
const PREFIX: &[u8] = b"PROXY ";
/// The shortest version 1 header: `PROXY UNKNOWN` and a line end.
const LINE_BYTES_MIN: usize = 15;
/// The longest line that the protocol allows, including its end.
const LINE_BYTES_MAX: usize = 107;

/// What a PROXY protocol header reports about a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyHeader {
    /// The connection is the proxy's, as in a health check, or its client is unknown or has no IP
    /// address.
    Local,
    /// The proxy forwards a connection from this client.
    Client(SocketAddr),
}

/// The result of parsing the first bytes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyHeaderProgress {
    /// Valid but incomplete. The header has at least this many bytes in total; reading no further
    /// than that consumes nothing of what follows the header.
    Partial(usize),
    /// The header, and its length in bytes.
    Whole(ProxyHeader, usize),
}

/// Why bytes are not a PROXY protocol header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProxyHeaderError(&'static str);

impl fmt::Display for ProxyHeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for ProxyHeaderError {}

impl ProxyHeader {
    /// Parses a header from the first bytes of a connection, which may continue after it.
    ///
    /// # Errors
    /// If the bytes are not the beginning of a header of version 1 or 2 for TCP, or the header is
    /// longer than [`limits::PROXY_HEADER_BYTES_MAX`](crate::limits::PROXY_HEADER_BYTES_MAX).
    pub fn parse(bytes: &[u8]) -> Result<Progress, ProxyHeaderError> {
        if starts_alike(bytes, &SIGNATURE) {
            return parse_version_2(bytes);
        }
        if starts_alike(bytes, PREFIX) {
            return parse_version_1(bytes);
        }
        Err(ProxyHeaderError("the first bytes are those of another protocol"))
    }
}

/// Whether either is a prefix of the other.
fn starts_alike(bytes: &[u8], expected: &[u8]) -> bool {
    let length = bytes.len().min(expected.len());
    bytes[..length] == expected[..length]
}

fn parse_version_2(bytes: &[u8]) -> Result<Progress, ProxyHeaderError> {
    let Some((fixed, rest)) = bytes.split_first_chunk::<FIXED_BYTES>() else {
        // Without a first byte, the header may still be of version 1, which can be shorter.
        let least = if bytes.is_empty() { LINE_BYTES_MIN } else { FIXED_BYTES };
        return Ok(Progress::Partial(least));
    };
    let [.., version_and_command, family_and_transport, high, low] = *fixed;
    let is_local = match version_and_command {
        0x20 => true,
        0x21 => false,
        _ => return Err(ProxyHeaderError("unknown version or command")),
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    let whole = FIXED_BYTES + length;
    if whole > PROXY_HEADER_BYTES_MAX {
        return Err(ProxyHeaderError("the header is too long"));
    }
    let Some(content) = rest.get(..length) else { return Ok(Progress::Partial(whole)) };
    let header = match family_and_transport {
        _ if is_local => ProxyHeader::Local,
        0x11 => ProxyHeader::Client(client_v4(content)?),
        0x21 => ProxyHeader::Client(client_v6(content)?),
        // Unspecified, or a Unix socket, whose client has no IP address.
        0x00 | 0x31 => ProxyHeader::Local,
        _ => return Err(ProxyHeaderError("not about a TCP connection")),
    };
    Ok(Progress::Whole(header, whole))
}

const SHORT: ProxyHeaderError = ProxyHeaderError("the header is too short for its addresses");

/// The source of an address block: source and destination address, source and destination port.
/// What follows them is ignored.
fn client_v4(content: &[u8]) -> Result<SocketAddr, ProxyHeaderError> {
    let addresses = content.first_chunk::<12>().ok_or(SHORT)?;
    let [a, b, c, d, _, _, _, _, high, low, _, _] = *addresses;
    Ok((Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([high, low])).into())
}

fn client_v6(content: &[u8]) -> Result<SocketAddr, ProxyHeaderError> {
    let addresses = content.first_chunk::<36>().ok_or(SHORT)?;
    let (source, ports) = (addresses.first_chunk::<16>(), &addresses[32..34]);
    let ip = Ipv6Addr::from(*source.ok_or(SHORT)?);
    Ok((ip, u16::from_be_bytes([ports[0], ports[1]])).into())
}

fn parse_version_1(bytes: &[u8]) -> Result<Progress, ProxyHeaderError> {
    let seen = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
    let Some(end) = memchr::memchr(b'\n', seen) else {
        if seen.len() == LINE_BYTES_MAX {
            return Err(ProxyHeaderError("the line has no end"));
        }
        return Ok(Progress::Partial(LINE_BYTES_MIN.max(bytes.len() + 1)));
    };
    let line = seen[..end].strip_suffix(b"\r").and_then(|line| str::from_utf8(line).ok());
    let line = line.ok_or(ProxyHeaderError("the line is not UTF-8 text that ends with CR LF"))?;
    Ok(Progress::Whole(parse_line(line)?, end + 1))
}

fn parse_line(line: &str) -> Result<ProxyHeader, ProxyHeaderError> {
    let malformed = ProxyHeaderError("malformed line");
    let mut words = line.split(' ').skip(1);
    let family = words.next();
    if family == Some("UNKNOWN") {
        // The protocol requires that the rest of the line is ignored.
        return Ok(ProxyHeader::Local);
    }
    let rest: Vec<&str> = words.take(5).collect();
    let [source, destination, source_port, destination_port] = rest[..] else {
        return Err(malformed);
    };
    let (source, _) = match family {
        Some("TCP4") => (ip::<Ipv4Addr>(source)?, ip::<Ipv4Addr>(destination)?),
        Some("TCP6") => (ip::<Ipv6Addr>(source)?, ip::<Ipv6Addr>(destination)?),
        _ => return Err(malformed),
    };
    port(destination_port)?;
    Ok(ProxyHeader::Client((source, port(source_port)?).into()))
}

fn ip<T: FromStr + Into<IpAddr>>(text: &str) -> Result<IpAddr, ProxyHeaderError> {
    let address = text.parse::<T>();
    address.map(Into::into).map_err(|_| ProxyHeaderError("invalid address"))
}

fn port(text: &str) -> Result<u16, ProxyHeaderError> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let port = text.parse().ok().filter(|_| digits && (text == "0" || !text.starts_with('0')));
    port.ok_or(ProxyHeaderError("invalid port"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn version_2(command: u8, family: u8, content: &[u8]) -> Vec<u8> {
        let length = u16::try_from(content.len()).expect("the content fits the length field");
        [&SIGNATURE[..], &[0x20 | command, family], &length.to_be_bytes(), content].concat()
    }

    fn client(address: &str) -> ProxyHeader {
        ProxyHeader::Client(address.parse().expect("an address"))
    }

    #[track_caller]
    fn check(bytes: &[u8], expected: Result<ProxyHeader, &str>) {
        match (ProxyHeader::parse(bytes), expected) {
            (Ok(Progress::Whole(header, length)), Ok(expected)) => {
                assert_eq!((header, length), (expected, bytes.len()));
                // Bytes that follow are not consumed, and `Partial` never asks for too many.
                let more = [bytes, b"GET / HTTP/1.1\r\n"].concat();
                assert_eq!(ProxyHeader::parse(&more), Ok(Progress::Whole(header, length)));
                for end in 0..length {
                    let parsed = ProxyHeader::parse(&bytes[..end]);
                    let Ok(Progress::Partial(least)) = parsed else { panic!("{end}: {parsed:?}") };
                    assert!(least > end && least <= length, "{end}: {least} of {length}");
                }
            }
            (Err(error), Err(part)) => assert!(error.0.contains(part), "{error}"),
            (actual, expected) => panic!("{bytes:?}: {actual:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn version_1() {
        check(b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n", Ok(client("192.0.2.1:56324")));
        check(b"PROXY TCP6 2001:db8::1 ::1 1 65535\r\n", Ok(client("[2001:db8::1]:1")));
        check(b"PROXY UNKNOWN\r\n", Ok(ProxyHeader::Local));
        check(b"PROXY UNKNOWN ffff::1 what ever\r\n", Ok(ProxyHeader::Local));
        for line in [
            "TCP4 192.0.2.1 192.0.2.2 56324\r\n",
            "TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n",
            "TCP4  192.0.2.1 192.0.2.2 1 2\r\n",
            "TCP4 192.0.2.1 192.0.2.2 1 2 \r\n",
            "UDP4 192.0.2.1 192.0.2.2 1 2\r\n",
            "tcp4 192.0.2.1 192.0.2.2 1 2\r\n",
        ] {
            check(format!("PROXY {line}").as_bytes(), Err("malformed line"));
        }
        check(b"PROXY TCP4 2001:db8::1 ::1 1 2\r\n", Err("invalid address"));
        check(b"PROXY TCP4 192.0.2.1 localhost 1 2\r\n", Err("invalid address"));
        for port in ["65536", "+1", "01", "", "-1"] {
            let line = format!("PROXY TCP4 192.0.2.1 192.0.2.2 {port} 2\r\n");
            check(line.as_bytes(), Err("invalid port"));
        }
        check(b"PROXY UNKNOWN\n", Err("ends with CR LF"));
        check(b"PROXY \xff\xff\xff\xff\xff\r\n", Err("not UTF-8 text"));
        check(&[PREFIX, &[b'x'; 101]].concat(), Err("no end"));
    }

    #[test]
    fn version_2_reports_the_client_of_a_tcp_connection() {
        let v4 = [192, 0, 2, 1, 192, 0, 2, 2, 0xdc, 0x04, 0x01, 0xbb];
        check(&version_2(1, 0x11, &v4), Ok(client("192.0.2.1:56324")));
        // Further fields, for example about TLS, are ignored.
        check(
            &version_2(1, 0x11, &[&v4[..], &[4, 0, 1, 9]].concat()),
            Ok(client("192.0.2.1:56324")),
        );
        let v6: Ipv6Addr = "2001:db8::1".parse().expect("an address");
        let content = [&v6.octets()[..], &[0; 16], &[0, 80, 1, 187]].concat();
        check(&version_2(1, 0x21, &content), Ok(client("[2001:db8::1]:80")));
        check(&version_2(0, 0x00, &[]), Ok(ProxyHeader::Local));
        check(&version_2(0, 0x11, &v4), Ok(ProxyHeader::Local));
        check(&version_2(1, 0x00, b"abc"), Ok(ProxyHeader::Local));
        check(&version_2(1, 0x31, &[0; 216]), Ok(ProxyHeader::Local));
        check(&version_2(1, 0x11, &v4[..11]), Err("too short"));
        check(&version_2(1, 0x21, &v4), Err("too short"));
        check(&version_2(1, 0x12, &v4), Err("not about a TCP"));
        check(&version_2(2, 0x11, &v4), Err("version or command"));
        check(&version_2(0x11, 0x11, &v4), Err("version or command"));
        check(&version_2(1, 0x11, &[0; PROXY_HEADER_BYTES_MAX]), Err("too long"));
    }

    #[test]
    fn other_protocols_are_rejected_at_the_first_byte_that_differs() {
        check(b"G", Err("another protocol"));
        check(b"PROXX", Err("another protocol"));
        check(b"POST / HTTP/1.1\r\n", Err("another protocol"));
        check(b"\r\n\r\n\0\r\nQUIT\r", Err("another protocol"));
        check(b"\x16\x03\x01", Err("another protocol"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_rejected(
            prefix in 0..3_usize,
            rest in proptest::collection::vec(any::<u8>(), 0..400),
        ) {
            let bytes = [[b"", &SIGNATURE[..], PREFIX][prefix], &rest].concat();
            match ProxyHeader::parse(&bytes) {
                Ok(Progress::Whole(_, length)) => prop_assert!(length <= bytes.len()),
                Ok(Progress::Partial(least)) => {
                    prop_assert!(least > bytes.len() && least <= PROXY_HEADER_BYTES_MAX);
                }
                Err(_) => {}
            }
        }

        #[test]
        fn valid_headers_are_parsed_as_written(v4: [u8; 4], v6: [u8; 16], port: u16) {
            let content = [&v4[..], &[0; 4], &port.to_be_bytes(), &[0; 2]].concat();
            let v4 = SocketAddr::from((v4, port));
            let bytes = version_2(1, 0x11, &content);
            let whole = Progress::Whole(ProxyHeader::Client(v4), bytes.len());
            prop_assert_eq!(ProxyHeader::parse(&bytes), Ok(whole));
            let v6 = SocketAddr::from((v6, port));
            for (family, address) in [("TCP4", v4), ("TCP6", v6)] {
                let ip = address.ip();
                let line = format!("PROXY {family} {ip} {ip} {port} 443\r\n");
                let whole = Progress::Whole(ProxyHeader::Client(address), line.len());
                prop_assert_eq!(ProxyHeader::parse(line.as_bytes()), Ok(whole));
            }
        }
    }
}
