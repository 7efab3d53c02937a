//! Any headers with a client's address, before the part that a trusted proxy wrote: that part or
//! the address of the proxy is used, never one that only a client wrote. Never a panic.

#![no_main]

use std::net::IpAddr;

use headwater_server::client::client_address;
use headwater_server::settings::{AddressHeader, TrustedProxies};
use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, bool, Vec<&[u8]>)| {
    let (which, same_line, forged) = input;
    let (name, header, trusted_part) = match which % 4 {
        0 => ("x-forwarded-for", AddressHeader::XForwardedFor, "192.0.2.1"),
        1 => ("forwarded", AddressHeader::Forwarded, "for=192.0.2.1"),
        2 => ("forwarded", AddressHeader::Forwarded, "for=\"[2001:db8::1]:80\""),
        _ => ("x-real-ip", AddressHeader::XRealIp, "192.0.2.1"),
    };
    let mut trusted = TrustedProxies::default();
    trusted.add("10.0.0.1").expect("an address");
    let mut lines: Vec<Vec<u8>> = forged.into_iter().map(<[u8]>::to_vec).collect();
    match lines.last_mut().filter(|_| same_line && header != AddressHeader::XRealIp) {
        Some(last) => last.extend([b", ", trusted_part.as_bytes()].concat()),
        None => lines.push(trusted_part.into()),
    }
    let mut headers = HeaderMap::new();
    for line in lines {
        let Ok(line) = HeaderValue::from_bytes(&line) else { return };
        headers.append(name, line);
    }
    let address = |text: &str| text.parse::<IpAddr>().expect("an address");
    let found = client_address(address("10.0.0.1"), &headers, header, &trusted).ip();
    let expected = ["192.0.2.1", "2001:db8::1", "10.0.0.1"].map(address);
    assert!(expected.contains(&found), "{found}");
    // Headers of an untrusted peer are ignored.
    let untrusted = client_address(address("192.0.2.9"), &headers, header, &trusted).ip();
    assert_eq!(untrusted, address("192.0.2.9"));
});
