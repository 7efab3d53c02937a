//! Bounds of responses, connections and the engine, each with its reason. Those of events, logs and hubs
//! are re-exported from the core. Look here before you change a number.

use std::time::Duration;

pub use headwater_core::limits::*;

/// Engine: most bytes that wait for all slow clients of a node together. Each stream counts the frames that
/// it waits for, so what they share counts many times and the memory behind this is far less: an
/// event of 8 MiB that a hundred clients are reading is 800 MiB here. Chosen to hold that.
pub const BACKLOG_TOTAL_BYTES_MAX: usize = 1 << 30;

/// Engine: how much a shard takes out of its mailbox per turn, in messages and in bytes. Between turns it looks after its
/// sockets. 64 KiB is what a socket's buffer takes in one write before it begins to grow.
pub const TURN_MESSAGES_MAX: usize = 1024;

/// See [`TURN_MESSAGES_MAX`].
pub const TURN_BYTES_MAX: usize = 64 << 10;

/// Engine: how many streams join a shard in one turn; opening thousands must not hold up events.
pub const TURN_ATTACHES_MAX: usize = 64;

/// Engine: most shards. More threads than any machine has cores are a mistake in a setting.
pub const SHARDS_MAX: usize = 256;

/// Engine: one tick of a shard's timers. Heartbeats, lifetimes and send timeouts are seconds; they may be
/// late by two of these.
pub const TICK: Duration = Duration::from_millis(100);

/// Engine: what a client may send on a connection that has become a stream. Nothing is expected; a proxy's stray bytes are
/// no reason to cut a stream, a flood is.
pub const STRAY_BYTES_MAX: u32 = 64 << 10;

/// How much of what is waiting goes to the HTTP layer as one piece. 16 KiB is what hyper buffers anyway.
pub const BATCH_BYTES_MAX: usize = 16 << 10;

/// Heartbeat of an idle stream. Proxies cut idle streams after 29 to 100 s; 15 s survives a lost one.
pub const HEARTBEAT_DEFAULT: Duration = Duration::from_secs(15);

/// What `retry:` asks of a client at the beginning of a stream, before jitter.
pub const RETRY_DEFAULT: Duration = Duration::from_secs(2);

/// How long a write to a client may make no progress before its stream ends.
pub const SEND_TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);

/// HTTP: most connections at a time. Half of the 20,000 descriptors that a process often has.
pub const CONNECTIONS_MAX: usize = 10_000;

/// HTTP: how long a client may take to begin a request, and to send its header.
pub const HEADER_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);

/// PROXY protocol: longest header, in bytes. With every field that proxies add, a client's TLS certificate's
/// name among them, headers have a few hundred.
pub const PROXY_HEADER_BYTES_MAX: usize = 4 << 10;

/// PROXY protocol: how long the header may take. A proxy sends it with the first packet; 5 s survives a
/// lost one or two.
pub const PROXY_HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// TLS: how long a handshake may take, the wait for the first byte included. It is three packets; the same
/// time as for a request's head is plenty.
pub const TLS_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// TLS: most handshakes in their expensive step at a time. The others wait, in order. When ten thousand clients come
/// back at once, the streams that are open wait behind this many signatures, a few
/// milliseconds, not behind all.
pub const TLS_HANDSHAKES_MAX: usize = 16;

/// TLS: how much of a response waits, before and after encryption, each. As much as hyper keeps for itself.
pub const TLS_BUFFER_BYTES: usize = 64 << 10;

/// How often a log line may be written that strangers can cause.
pub const STRANGER_LOG_INTERVAL: Duration = Duration::from_secs(10);

/// HTTP/1: longest request head, and how much of a response waits for the socket. 64 KiB holds any
/// sane set of cookies.
pub const HTTP1_BUFFER_BYTES: usize = 64 << 10;

/// HTTP/2: most streams on one connection, above the 100 that RFC 9113 (5.1.2) recommends as the
/// least, since one page can hold many event streams.
pub const HTTP2_STREAMS_MAX: u32 = 256;

/// HTTP/2: how much of a response waits for the client, per stream. hyper's own 400 KiB would let
/// each stalled stream hold more than its queue.
pub const HTTP2_SEND_BUFFER_BYTES: usize = 64 << 10;

/// HTTP/2: largest header of a request, in bytes after decompression.
pub const HTTP2_HEADER_BYTES: u32 = 64 << 10;

/// HTTP/2: how much of requests' bodies may be under way, per connection and per stream. A publisher far
/// away fills 1 MiB in a round trip of 80 ms at 100 Mbit/s; hyper holds no more than this for bodies that nobody
/// reads.
pub const HTTP2_CONNECTION_WINDOW_BYTES: u32 = 1 << 20;

/// See [`HTTP2_CONNECTION_WINDOW_BYTES`].
pub const HTTP2_STREAM_WINDOW_BYTES: u32 = 256 << 10;

/// HTTP/2: most requests of a connection that their client took back before they were looked at. More is an
/// attack (rapid reset, CVE-2023-44487), and ends the connection. A page that closes all its streams at once takes
/// back streams that were looked at long ago.
pub const HTTP2_PENDING_RESETS_MAX: usize = 20;

/// HTTP/2: most streams of a connection that we reset because of the client's own errors. Well-behaved clients make
/// none.
pub const HTTP2_ERROR_RESETS_MAX: usize = 100;

/// HTTP/2: how often a quiet connection is pinged, and how long it may take to answer.
pub const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(20);

const _: () = {
    assert!(BATCH_BYTES_MAX <= QUEUE_BYTES_MAX);
    assert!(TURN_BYTES_MAX <= QUEUE_BYTES_MAX, "a turn must fit the backlog of a blocked stream");
};
