//! Any headers: at most one credential is found, and it occurs in the headers. Never a panic.

#![no_main]

use headwater_server::access::credentials::{bearer, cookie};
use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|values: Vec<Vec<u8>>| {
    let mut headers = HeaderMap::new();
    for value in values.iter().take(8) {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.append("cookie", value.clone());
            headers.append("authorization", value);
        }
    }
    let occurs = |found: &str, name: &str| {
        let mut all = headers.get_all(name).iter();
        all.any(|value| value.to_str().is_ok_and(|value| value.contains(found)))
    };
    if let Some(token) = bearer(&headers) {
        assert!(!token.is_empty() && occurs(&token, "authorization"));
        assert_eq!(headers.get_all("authorization").iter().count(), 1);
    }
    if let Some(token) = cookie(&headers, "a") {
        assert!(!token.is_empty() && !token.contains(';') && occurs(&token, "cookie"));
    }
});
