//! Chunks of HTTP/1.1 (RFC 9112, 7.1): the only place that frames a body. Look here for what stands
//! around a stream's bytes under a transport that writes them itself.

use std::io::Write;
use std::ops::Range;

/// The end of a chunked body.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Bytes of a body as one chunk.
pub fn chunk(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + 12);
    push_chunk(&mut out, bytes);
    out
}

/// Adds bytes of a body as one chunk. No bytes add nothing: an empty chunk would be the end.
pub fn push_chunk(out: &mut Vec<u8>, bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    // Writing to a vector does not fail.
    let _ = write!(out, "{:x}\r\n", bytes.len());
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// Writes a chunk around what `write` writes, and returns where that is. The size is written with as
/// many digits as the longest would have, since it stands before what it counts; leading zeros are
/// part of the grammar.
pub(super) fn chunk_around(
    out: &mut Vec<u8>,
    len_max: usize,
    write: impl FnOnce(&mut Vec<u8>),
) -> Range<u32> {
    let digits_from = out.len();
    out.resize(digits_from + hex_digits(len_max), b'0');
    let digits_to = out.len();
    out.extend_from_slice(b"\r\n");
    let from = out.len();
    write(out);
    let to = out.len();
    debug_assert!(to - from <= len_max, "{} bytes in a chunk of at most {len_max}", to - from);
    let mut rest = to - from;
    for digit in out[digits_from..digits_to].iter_mut().rev() {
        *digit = b"0123456789abcdef"[rest % 16];
        rest /= 16;
    }
    out.extend_from_slice(b"\r\n");
    place(from)..place(to)
}

/// What a chunk of this body takes with its framing.
pub(super) fn chunk_room(len_max: usize) -> usize {
    hex_digits(len_max) + len_max + 4
}

fn hex_digits(number: usize) -> usize {
    (number.max(1).ilog2() / 4 + 1) as usize
}

pub(super) fn place(at: usize) -> u32 {
    u32::try_from(at).expect("an event is far below 4 GiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_bytes_are_no_chunk() {
        assert_eq!(chunk(b"0123456789abcdef"), b"10\r\n0123456789abcdef\r\n");
        assert_eq!(chunk(b""), b"");
    }
}
