//! The response head of a stream in the engine. Look here for which heads the engine can write.

use std::time::SystemTime;

use http::header::{
    CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, DATE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::response::Parts;
use http::{HeaderName, StatusCode};

/// Headers that describe the body or the connection in a way the engine does not implement.
const UNSUPPORTED: [HeaderName; 6] =
    [CONTENT_ENCODING, CONTENT_LENGTH, TRANSFER_ENCODING, CONNECTION, UPGRADE, TRAILER];

/// Whether the engine can write this head.
pub(super) fn is_supported(parts: &Parts) -> bool {
    parts.status == StatusCode::OK
        && !UNSUPPORTED.iter().any(|name| parts.headers.contains_key(name))
}

/// The head of a chunked response after which the connection closes.
pub(super) fn head(parts: &Parts) -> Vec<u8> {
    let mut out = Vec::with_capacity(384);
    out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
    for (name, value) in &parts.headers {
        line(&mut out, name.as_str(), value.as_bytes());
    }
    if !parts.headers.contains_key(DATE) {
        line(&mut out, "date", httpdate::fmt_http_date(SystemTime::now()).as_bytes());
    }
    line(&mut out, "connection", b"close");
    line(&mut out, "transfer-encoding", b"chunked");
    out.extend_from_slice(b"\r\n");
    out
}

fn line(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_has_the_headers_of_the_handler_and_the_framing_of_the_body() {
        let response = http::Response::builder()
            .header("content-type", "text/event-stream")
            .header("set-cookie", "a=1")
            .header("set-cookie", "b=2")
            .header("date", "Thu, 01 Jan 1970 00:00:00 GMT");
        let (parts, ()) = response.body(()).unwrap().into_parts();
        assert!(is_supported(&parts));
        let head = String::from_utf8(head(&parts)).unwrap();
        assert_eq!(
            head,
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nset-cookie: a=1\r\n\
             set-cookie: b=2\r\ndate: Thu, 01 Jan 1970 00:00:00 GMT\r\nconnection: close\r\n\
             transfer-encoding: chunked\r\n\r\n"
        );
    }
}
