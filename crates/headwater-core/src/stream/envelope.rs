//! What precedes and follows the events of a stream. Look here for when `retry:` is sent.

use std::time::Duration;

use crate::close::CloseReason;
use crate::frame::{LAST_CHUNK, push_chunk};
use crate::sse::encode;

/// How the bytes of a body are framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// Not at all: another layer does that.
    Bare,
    /// As HTTP/1.1 chunks.
    Chunked,
}

/// The first bytes, which are sent at once: browsers fire `open` when they receive them.
pub fn opening(retry: Option<Duration>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(32);
    encode::encode_comment("", &mut bytes);
    if let Some(retry) = retry {
        encode::encode_retry(jittered(retry), &mut bytes);
    }
    bytes
}

/// The last bytes: a `retry:` if this side closes the stream and the client is to reconnect, so
/// that clients do not all reconnect at once, and the end of the body.
pub(super) fn ending(reason: CloseReason, retry: Option<Duration>, framing: Framing) -> Vec<u8> {
    let is_to_reconnect =
        matches!(reason, CloseReason::Drain | CloseReason::Lifetime | CloseReason::Overflow);
    let mut bytes = Vec::new();
    if let Some(retry) = retry.filter(|_| is_to_reconnect) {
        encode::encode_retry(jittered(retry), &mut bytes);
    }
    match framing {
        Framing::Bare => bytes,
        Framing::Chunked => {
            let mut chunks = Vec::new();
            push_chunk(&mut chunks, &bytes);
            chunks.extend_from_slice(LAST_CHUNK);
            chunks
        }
    }
}

/// A random duration between `retry` and one and a half times `retry`.
fn jittered(retry: Duration) -> Duration {
    retry.mul_f64(1.0 + fastrand::f64() / 2.0)
}
