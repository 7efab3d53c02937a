//! The bytes of HTTP/2, for connections that no well-behaved client would open. Look here for how a
//! frame is laid out.

/// What a client sends first, before its SETTINGS (RFC 9113, 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A frame (RFC 9113, 4.1). Stream 0 is the connection.
///
/// # Panics
///
/// If the content has more than 4 GiB.
pub fn frame(kind: u8, flags: u8, stream: u32, content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).expect("it fits").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), content].concat()
}
