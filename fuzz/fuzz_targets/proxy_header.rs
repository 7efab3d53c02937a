//! Any first bytes of a connection: they are a header of the PROXY protocol, may become one, or are none. What is whole
//! is whole however it is cut, and never asks for more than its bound. Never a panic.

#![no_main]

use headwater::limits::PROXY_HEADER_BYTES_MAX;
use headwater::serve::{ProxyHeader, ProxyHeaderProgress};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let whole = ProxyHeader::parse(bytes);
    let mut length = 0;
    // As a server reads: only as far as asked for.
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
            // Not a byte was read that is not the header's.
            assert_eq!(length, end);
        }
        (Ok(ProxyHeaderProgress::Partial(_)), read) => {
            assert!(matches!(read, Ok(ProxyHeaderProgress::Partial(_))));
        }
        (Err(_), read) => assert!(!matches!(read, Ok(ProxyHeaderProgress::Whole(..)))),
    }
});
