//! Bounds of responses, connections and the engine, each with its rationale. Those of events, logs
//! and hubs are re-exported from the core. Look here before you change a number.

use std::time::Duration;

pub use headwater_core::limits::*;

/// Engine: maximum size of all backlogs of a hub together, in bytes. A frame that many backlogs
/// hold counts once, as they share its memory: thirty events of maximum size, each of which any
/// number of clients may be reading.
pub const BACKLOG_TOTAL_BYTES_MAX: usize = 256 << 20;

/// Engine: size of all backlogs above which the streams are closed whose clients do not read, in
/// bytes, so that there is room for those that do.
pub const BACKLOG_SHED_BYTES: usize = BACKLOG_TOTAL_BYTES_MAX / 4 * 3;

/// Engine: maximum number of messages that a shard processes per turn; between turns it polls its
/// sockets. A turn also ends at [`TURN_BYTES_MAX`].
pub const TURN_MESSAGES_MAX: usize = 1024;

/// Engine: maximum size of the frames that a shard processes per turn, in bytes. 64 KiB is what a
/// socket's buffer accepts in one write before it starts to grow. See [`TURN_MESSAGES_MAX`].
pub const TURN_BYTES_MAX: usize = 64 << 10;

/// Engine: maximum number of streams attached to a shard per turn, so that opening thousands of
/// streams does not delay events.
pub const TURN_ATTACHES_MAX: usize = 64;

/// Engine: maximum number of shards. More threads than any machine has cores indicate a
/// misconfiguration.
pub const SHARDS_MAX: usize = 256;

/// Engine: how much a client may send on a connection that carries a stream, in bytes. Nothing is
/// expected. A few stray bytes from a proxy do not close the stream; a flood does.
pub const STRAY_BYTES_MAX: u32 = 64 << 10;

/// Maximum size of the queued events that are passed to the HTTP layer as one chunk, in bytes.
/// hyper buffers 16 KiB anyway.
pub const BATCH_BYTES_MAX: usize = 16 << 10;

/// Heartbeat interval of an idle stream. Proxies close idle connections after 29 to 100 s; with 15
/// s one heartbeat may be lost.
pub const HEARTBEAT_DEFAULT: Duration = Duration::from_secs(15);

/// Reconnection delay that `retry:` sets at the start of a stream, before jitter.
pub const RETRY_DEFAULT: Duration = Duration::from_secs(2);

/// How long a write to a client may make no progress before its stream is closed.
pub const SEND_TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);

/// HTTP: maximum number of open connections. Half of the 20,000 descriptors that a process often
/// has.
pub const CONNECTIONS_MAX: usize = 10_000;

/// Engine: how much of a replay the kernel keeps that the client has not taken, in bytes; Linux
/// counts twice as much. Left to itself it keeps 4 MiB for each client, which it copies at once,
/// and which is in no budget. Enough for 20 Mbit/s at a round trip of 100 ms. The stream keeps it
/// when it is live.
pub const REPLAY_SEND_BUFFER_BYTES: usize = 256 << 10;

/// HTTP: how long a client may take to start a request, and to send its header.
pub const HEADER_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);

/// PROXY protocol: maximum size of a header, in bytes. With every field that proxies add, such as
/// the common name of a client certificate, headers have a few hundred bytes.
pub const PROXY_HEADER_BYTES_MAX: usize = 4 << 10;

/// PROXY protocol: how long the header may take to arrive. A proxy sends it with the first packet;
/// 5 s allow for one or two lost packets.
pub const PROXY_HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// TLS: how long a handshake may take, including the wait for the first byte. It is three packets;
/// the time that a request's header gets is plenty.
pub const TLS_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// TLS: maximum number of concurrent handshakes in their expensive step; the others wait, in order.
/// When ten thousand clients reconnect at once, open streams wait behind this many signatures, a
/// few milliseconds, instead of behind all of them.
pub const TLS_HANDSHAKES_MAX: usize = 16;

/// TLS: how much of a response is buffered before encryption, and again after it, in bytes. As much
/// as hyper buffers.
pub const TLS_BUFFER_BYTES: usize = 64 << 10;

/// Minimum interval between two log lines of a kind that any client can trigger.
pub const REJECTION_LOG_INTERVAL: Duration = Duration::from_secs(10);

/// HTTP/1: maximum size of a request's head, and of the buffered part of a response, in bytes.
/// 64 KiB hold any sane set of cookies.
pub const HTTP1_BUFFER_BYTES: usize = 64 << 10;

/// HTTP/2: maximum number of concurrent streams per connection. RFC 9113 (5.1.2) recommends at
/// least 100; one page can hold many event streams.
pub const HTTP2_STREAMS_MAX: u32 = 256;

/// HTTP/2: how much of a response is buffered per stream, in bytes. With hyper's default of 400 KiB
/// a stalled stream would hold more than its queue.
pub const HTTP2_SEND_BUFFER_BYTES: usize = 64 << 10;

/// HTTP/2: what a request counts in its share of the memory besides its head, in bytes, until its
/// answer has ended: its task and buffers. Measured with idle event streams.
pub const HTTP2_REQUEST_BYTES: usize = 16 << 10;

/// What a field of a request's head takes of memory besides its bytes. Measured: a field of two
/// bytes takes 120.
pub const HEADER_FIELD_BYTES: usize = 120;

/// HTTP/2: maximum size of a request's header, in bytes after decompression, as RFC 9113 (6.5.2)
/// counts: 32 more for each field. A token of maximum size and all usual fields fit. A field of two
/// bytes takes 120 bytes of memory, so that the headers of a whole connection take 22 MB at most.
pub const HTTP2_HEADER_BYTES: u32 = 24 << 10;

/// HTTP/2: how many frames that carry no part of a request a client may send at once, such as PING,
/// SETTINGS or RST_STREAM. A page that closes all its streams sends 256.
pub const HTTP2_CONTROL_FRAMES_MAX: u32 = 1_000;

/// HTTP/2: how many of them it may send per second after that. Clients that measure the bandwidth
/// send some PING a second.
pub const HTTP2_CONTROL_FRAMES_PER_SECOND: u32 = 100;

/// HTTP/2: how many floods an address may begin before its new connections wait. A client that
/// misunderstands the protocol, or a NAT with some of them, is not held back.
pub const FLOODS_MAX: f64 = 16.0;

/// HTTP/2: how long it takes until an address may begin one more flood.
pub const FLOOD_PAUSE: Duration = Duration::from_secs(1);

/// HTTP/2: how often a connection of an address that floods is served. The work that a connection
/// can cause before it counts as a flood is a millisecond or two: some percent of a core.
pub const FLOODING_CONNECTION_INTERVAL: Duration = Duration::from_millis(50);

/// HTTP/2: how long such a connection may wait for that. Others are closed; clients retry after
/// seconds anyway.
pub const FLOODING_WAIT_MAX: Duration = Duration::from_secs(5);

/// HTTP/2: how many addresses that flood are remembered: 300 KiB. More of them, each on its own,
/// are another kind of attack.
pub const FLOODING_ADDRESSES_MAX: usize = 4_096;

/// HTTP/2: for every so many bytes that the server sends, a client may send a WINDOW_UPDATE
/// besides. Clients usually send one for each half of a window of 64 KiB, and one more for the
/// connection.
pub const HTTP2_BYTES_PER_WINDOW_UPDATE: usize = 4 << 10;

/// HTTP/2: how long a connection may be without a request. Longer than the 60 s for which load
/// balancers usually keep one.
pub const HTTP2_IDLE_TIMEOUT: Duration = Duration::from_secs(90);

/// HTTP/2: how often it is checked whether the client takes its answers, at most. A send timeout is
/// noticed half of it late.
pub const HTTP2_CHECK_INTERVAL_MAX: Duration = Duration::from_secs(15);

/// HTTP/2: flow-control window for request bodies per connection, in bytes. A distant publisher
/// fills 1 MiB per round trip of 80 ms at 100 Mbit/s. hyper buffers no more than this of bodies
/// that no handler reads.
pub const HTTP2_CONNECTION_WINDOW_BYTES: u32 = 1 << 20;

/// HTTP/2: flow-control window for request bodies per stream, in bytes. See
/// [`HTTP2_CONNECTION_WINDOW_BYTES`].
pub const HTTP2_STREAM_WINDOW_BYTES: u32 = 256 << 10;

/// HTTP/2: maximum number of requests of a connection that the client reset before they were
/// accepted. More is an attack (rapid reset, CVE-2023-44487) and closes the connection. A page that
/// closes all its streams at once resets streams that were accepted long ago.
pub const HTTP2_PENDING_RESETS_MAX: usize = 20;

/// HTTP/2: maximum number of streams of a connection that the server resets because of protocol
/// errors of the client. Well-behaved clients cause none.
pub const HTTP2_ERROR_RESETS_MAX: usize = 100;

/// HTTP/2: how often an idle connection is pinged, and how long the response may take.
pub const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(20);

const _: () = {
    assert!(BATCH_BYTES_MAX <= QUEUE_BYTES_MAX);
    assert!(TURN_BYTES_MAX <= QUEUE_BYTES_MAX, "a turn must fit the backlog of a blocked stream");
};
