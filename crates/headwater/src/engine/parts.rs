//! The engine's parts of a stream, which the hub passes to a shard without inspecting them. Look
//! here for what a shard receives with a stream.

use std::net::TcpStream;

use super::slots::ConnectionSlot;
use crate::response::{Callbacks, StreamOptions};

/// A stream's socket, and what belongs to its connection.
pub(crate) struct StreamParts {
    pub(crate) socket: TcpStream,
    /// What must be sent first: the head and the replay, as chunks.
    pub(crate) unsent: Vec<u8>,
    pub(crate) options: StreamOptions,
    pub(crate) callbacks: Callbacks,
    pub(crate) slot: ConnectionSlot,
    pub(crate) stray_bytes: u32,
}
