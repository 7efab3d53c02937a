//! Any first bytes of a connection: they are a header of the PROXY protocol, the start of one, or
//! neither. The result does not depend on the cuts, and a header never exceeds its bound. Never a
//! panic.

#![no_main]

use headwater::limits::PROXY_HEADER_BYTES_MAX;
use headwater::serve::{ProxyHeader, ProxyHeaderProgress};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let whole = ProxyHeader::parse(bytes);
    let mut length = 0;
    // Reads as a server does: only as many bytes as the parser needs.
    let read = loop {
        match ProxyHeader::parse(&bytes[..length]) {
            Ok(ProxyHeaderProgress::Partial(least)) => {
                assert!(least > length && least <= PROXY_HEADER_BYTES_MAX);
                if least > bytes.len() {
                    break Ok(ProxyHeaderProgress::Partial(least));
                }
                length = least;
            }
            read => break read,
        }
    };
    match (whole, read) {
        (Ok(ProxyHeaderProgress::Whole(header, end)), read) => {
            assert!(end <= bytes.len() && end <= PROXY_HEADER_BYTES_MAX);
            assert_eq!(read, Ok(ProxyHeaderProgress::Whole(header, end)));
            // No byte after the header was read.
            assert_eq!(length, end);
        }
        (Ok(ProxyHeaderProgress::Partial(_)), read) => {
            assert!(matches!(read, Ok(ProxyHeaderProgress::Partial(_))));
        }
        (Err(_), read) => assert!(!matches!(read, Ok(ProxyHeaderProgress::Whole(..)))),
    }
});
