//! HTTP/1.1 as the engine writes it: the head of a response, chunks, the end. Look here for what stands around a
//! stream's bytes.

use std::io::Write;
use std::time::SystemTime;

use http::header::{
    CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, DATE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::response::Parts;
use http::{HeaderName, StatusCode};

/// The end of a chunked body (RFC 9112, 7.1).
pub(super) const END: &[u8] = b"0\r\n\r\n";

/// With one of these the head says something about the body that the engine does not know of.
const NOT_OURS: [HeaderName; 6] =
    [CONTENT_ENCODING, CONTENT_LENGTH, TRANSFER_ENCODING, CONNECTION, UPGRADE, TRAILER];

/// Whether the engine can write this head.
pub(super) fn is_ours(parts: &Parts) -> bool {
    parts.status == StatusCode::OK && !NOT_OURS.iter().any(|name| parts.headers.contains_key(name))
}

/// The head of a response whose connection closes at its end.
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

/// Some bytes of a body as one chunk.
pub(super) fn chunk(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + 12);
    push_chunk(&mut out, bytes);
    out
}

/// Adds some bytes of a body as one chunk. None are none: an empty chunk would be the end.
pub(super) fn push_chunk(out: &mut Vec<u8>, bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    // Writing to a vector does not fail.
    let _ = write!(out, "{:x}\r\n", bytes.len());
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_framed_and_none_is_no_end() {
        assert_eq!(chunk(b"0123456789abcdef"), b"10\r\n0123456789abcdef\r\n");
        assert_eq!(chunk(b""), b"");
    }

    #[test]
    fn a_head_has_what_the_handler_said_and_how_the_body_goes() {
        let response = http::Response::builder()
            .header("content-type", "text/event-stream")
            .header("set-cookie", "a=1")
            .header("set-cookie", "b=2")
            .header("date", "Thu, 01 Jan 1970 00:00:00 GMT");
        let (parts, ()) = response.body(()).unwrap().into_parts();
        assert!(is_ours(&parts));
        let head = String::from_utf8(head(&parts)).unwrap();
        assert_eq!(
            head,
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nset-cookie: a=1\r\n\
             set-cookie: b=2\r\ndate: Thu, 01 Jan 1970 00:00:00 GMT\r\nconnection: close\r\n\
             transfer-encoding: chunked\r\n\r\n"
        );
    }
}
