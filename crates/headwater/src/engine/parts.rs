//! What a connection hands to the shard along with its stream; opaque to the hub. Look here when
//! the hand-over needs another value.

use std::net::TcpStream;

use super::slots::ConnectionSlot;
use crate::response::{Callbacks, StreamOptions};

/// A stream's socket and the state of its connection.
pub(crate) struct StreamParts {
    pub(crate) socket: TcpStream,
    /// Bytes to write first: the response head, and the opening as a chunk.
    pub(crate) head: Vec<u8>,
    pub(crate) options: StreamOptions,
    pub(crate) callbacks: Callbacks,
    pub(crate) slot: ConnectionSlot,
    /// Bytes the client has sent after its request; bounded by `STRAY_BYTES_MAX`.
    pub(crate) stray_bytes: u32,
}
