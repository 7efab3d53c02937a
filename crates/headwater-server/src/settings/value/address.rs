//! Addresses to listen on. Look here for which spellings are accepted.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

/// An IP address and a port; `localhost` is 127.0.0.1. Names are not resolved: what the server is
/// reachable from must not depend on a resolver.
pub(in crate::settings) fn address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let port_of = |text: &str| text.parse::<u16>().ok();
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, port_of(port)),
        None => ("", port_of(text)),
    };
    match (host, port) {
        ("localhost", Some(port)) => Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
        ("", Some(port)) => Err(format!(
            "it names no address: write 127.0.0.1:{port} to be reachable from this machine only, \
             or 0.0.0.0:{port} for every IPv4 address of it"
        )),
        (host, Some(port)) if host.parse::<Ipv6Addr>().is_ok() => {
            Err(format!("an IPv6 address stands in brackets: write [{host}]:{port}"))
        }
        _ => {
            Err("it is not an IP address and a port, like 127.0.0.1:8000 or [::1]:8000".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::check;
    use super::*;

    #[test]
    fn addresses() {
        let v4 = |port| SocketAddr::from(([127, 0, 0, 1], port));
        check(&address("127.0.0.1:8000"), Ok(v4(8000)));
        check(&address("127.0.0.1:0"), Ok(v4(0)));
        check(&address("localhost:80"), Ok(v4(80)));
        check(&address("[::1]:80"), Ok("[::1]:80".parse().unwrap()));
        check(&address(":8000"), Err("write 127.0.0.1:8000"));
        check(&address("8000"), Err("or 0.0.0.0:8000"));
        check(&address("::1:80"), Err("write [::1]:80"));
        check(&address("example.org:80"), Err("not an IP address"));
        check(&address("127.0.0.1"), Err("not an IP address"));
        check(&address("127.0.0.1:65536"), Err("not an IP address"));
        check(&address("http://127.0.0.1:80"), Err("not an IP address"));
    }
}
