//! What a stream brings to its shard, which the hub does not look into.

use std::net::TcpStream;

use super::slots::ConnectionSlot;
use crate::response::{Callbacks, StreamOptions};

/// A stream's socket, and what belongs to its connection.
pub(crate) struct StreamParts {
    pub(crate) socket: TcpStream,
    /// What must go out first: the head and what was replayed, in chunks.
    pub(crate) unsent: Vec<u8>,
    pub(crate) options: StreamOptions,
    pub(crate) callbacks: Callbacks,
    pub(crate) slot: ConnectionSlot,
    pub(crate) stray_bytes: u32,
}
