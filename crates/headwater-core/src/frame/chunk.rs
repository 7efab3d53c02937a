//! HTTP/1.1 chunks (RFC 9112, 7.1): the only place that frames a body. Look here for the framing
//! around a stream's bytes under a transport that writes them itself.

use std::io::Write;
use std::ops::Range;

/// The last chunk, which ends a chunked body.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Frames bytes of a body as one chunk.
pub fn chunk(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + 12);
    push_chunk(&mut out, bytes);
    out
}

/// Appends bytes of a body as one chunk. Appends nothing for no bytes: an empty chunk would end the
/// body.
pub fn push_chunk(out: &mut Vec<u8>, bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    // Writing to a vector cannot fail.
    let _ = write!(out, "{:x}\r\n", bytes.len());
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// Writes a chunk around what `write` writes, and returns its range. The size precedes the bytes,
/// so it is written with as many digits as `len_max` needs; the grammar permits leading zeros.
pub(super) fn chunk_around(
    out: &mut Vec<u8>,
    len_max: usize,
    write: impl FnOnce(&mut Vec<u8>),
) -> Range<u32> {
    let digits_start = out.len();
    out.resize(digits_start + hex_digits(len_max), b'0');
    let digits_end = out.len();
    out.extend_from_slice(b"\r\n");
    let start = out.len();
    write(out);
    let end = out.len();
    debug_assert!(end - start <= len_max, "{} bytes, more than {len_max}", end - start);
    let mut rest = end - start;
    for digit in out[digits_start..digits_end].iter_mut().rev() {
        *digit = b"0123456789abcdef"[rest % 16];
        rest /= 16;
    }
    out.extend_from_slice(b"\r\n");
    offset(start)..offset(end)
}

/// The maximum size of a chunk with a body of at most `len_max` bytes, including its framing.
pub(super) fn chunk_len_max(len_max: usize) -> usize {
    hex_digits(len_max) + len_max + 4
}

fn hex_digits(number: usize) -> usize {
    (number.max(1).ilog2() / 4 + 1) as usize
}

/// A place in a frame. It fits 32 bits because an event is bounded far below.
pub(super) fn offset(at: usize) -> u32 {
    u32::try_from(at).expect("an event is far below 4 GiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_bytes_make_no_chunk() {
        assert_eq!(chunk(b"0123456789abcdef"), b"10\r\n0123456789abcdef\r\n");
        assert_eq!(chunk(b""), b"");
    }
}
