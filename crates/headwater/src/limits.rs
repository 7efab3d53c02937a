//! Every bound of the library, with its reason. Look here before you add a queue, a table or a wait.

use std::time::Duration;

/// Longest name of a channel, in bytes. 255 holds every naming scheme seen in the field and lets a
/// length fit one byte.
pub const CHANNEL_BYTES_MAX: usize = 255;

/// Longest name of an event, in bytes. The same as a channel's, because a channel's name can stand in
/// for it (`as=channel`).
pub const EVENT_NAME_BYTES_MAX: usize = 255;

/// Longest id of an event, in bytes. It comes back as a request header; 255 is far below every
/// server's limit for one header line.
pub const EVENT_ID_BYTES_MAX: usize = 255;

/// Most channels on one stream. Chosen so that a request line with 100 names of usual length stays
/// below 8 KiB, which proxies accept.
pub const CHANNELS_PER_STREAM_MAX: usize = 100;

/// Largest data of one event, in bytes. Larger ones from Redis are dropped, counted and logged.
/// 8 MiB: well over any sensible event, and a node can hold one per stream being replayed.
pub const EVENT_DATA_BYTES_MAX: usize = 8 << 20;

/// Most frames that wait for one stream. A burst of ten thousand small events must not end a stream
/// that is being read; 16,384 references to shared frames are 128 KiB.
pub const QUEUE_FRAMES_MAX: usize = 16_384;

/// Most bytes that wait for one stream; one frame alone may be larger. With `n` stalled streams the
/// node holds at most `n` times this, and less, because streams share frames.
pub const QUEUE_BYTES_MAX: usize = 1 << 20;

/// Engine: most bytes that wait for all slow clients of a node together. Each stream counts the frames that
/// it waits for, so what they share counts many times and the memory behind this is far less: an
/// event of 8 MiB that a hundred clients are reading is 800 MiB here. Chosen to hold that.
pub const OUTBOX_TOTAL_BYTES_MAX: usize = 1 << 30;

/// Engine: messages to one shard at which publishers wait. A message is an event on a channel; a thousand of them
/// fill a second of a shard with a few thousand streams, and are far below what a stream's queue holds.
pub const MAILBOX_MESSAGES_FULL: usize = 1024;

/// Engine: bytes of events for one shard at which publishers wait. One event of the largest size.
pub const MAILBOX_BYTES_FULL: usize = EVENT_DATA_BYTES_MAX;

/// Engine: from so many streams of a shard with something waiting, which are also more than half of its
/// streams, the node is taken to be at its limit, and publishers wait. Fewer are slow clients, which must
/// cost nobody else anything.
pub const CONGESTED_STREAMS_MIN: usize = 100;

/// Engine: bytes that wait for each of these streams on average before publishers wait: a sixteenth of what
/// a stream's queue holds, so that none ends while its client reads.
pub const CONGESTED_BYTES: usize = QUEUE_BYTES_MAX / 16;

/// Engine: most messages that wait for one shard. Publishers through this node wait long before; what comes
/// from Redis cannot be made to wait. Beyond this, the shard's streams end and resume. A million, since a
/// log that begins anew tells every channel of it at one moment, with two messages each.
pub const MAILBOX_MESSAGES_MAX: usize = 1 << 20;

/// Engine: most bytes of events that wait for one shard, for the same reason. Eight of the largest size.
pub const MAILBOX_BYTES_MAX: usize = 8 * EVENT_DATA_BYTES_MAX;

/// Engine: the longest that a publisher waits for a shard that is behind. Longer, and publishers would time
/// out; the streams that cannot keep up end then, each for itself.
pub const PUBLISH_WAIT_MAX: Duration = Duration::from_secs(2);

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

/// Longest idempotency key, in bytes: a UUID has 36.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;

/// How long an idempotency key is remembered. A publisher that has not repeated itself by then has given up.
pub const IDEMPOTENCY_WINDOW: Duration = Duration::from_secs(600);

/// Most recent frames of a channel that a node keeps for streams that come back. A little more than the
/// history kept by default, so that one read of it fits.
pub const RING_FRAMES_MAX: usize = 1024;

/// Most bytes of a channel's recent frames.
pub const RING_BYTES_MAX: usize = 1 << 20;

/// Most bytes of all channels' recent frames. Beyond it, the channel that gets a frame gives up its oldest.
pub const RING_TOTAL_BYTES_MAX: usize = 64 << 20;

/// How long a recent frame is kept. Whoever was away longer gets the history from the broker.
pub const RING_AGE_MAX: Duration = Duration::from_secs(600);

/// Most frames that a resuming stream takes at a time, for each of its channels.
pub const REPLAY_FRAMES_MAX: usize = 128;

/// Most bytes of history in one answer of the broker; one event alone may be larger. A stream that
/// resumes slowly holds at most this per channel.
pub const REPLAY_BYTES_MAX: usize = 256 << 10;

/// How long a resuming stream waits before it asks a broker again that failed to answer.
pub const REPLAY_RETRY: Duration = Duration::from_millis(500);

/// Most events to rewind by count, and the longest time to rewind by.
pub const REWIND_EVENTS_MAX: usize = 1_000_000;
/// See [`REWIND_EVENTS_MAX`].
pub const REWIND_AGE_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// Most events of a channel's history, if no rule says otherwise: more than a page that comes back wants to see.
pub const RETENTION_EVENTS_DEFAULT: usize = 1_000;

/// Age of a channel's history, if no rule says otherwise: a reload, a restart or a short loss of the
/// network is over by then.
pub const RETENTION_AGE_DEFAULT: Duration = Duration::from_secs(10 * 60);

/// Most bytes of a channel's history, if no rule says otherwise: one event of the largest size.
pub const RETENTION_BYTES_DEFAULT: usize = EVENT_DATA_BYTES_MAX;

/// Most events that a rule can keep of a channel. A history that is longer belongs into a database.
pub const RETENTION_EVENTS_MAX: usize = 1_000_000;

/// Shortest age that a rule can set. Shorter would be gone before a client could come back.
pub const RETENTION_AGE_MIN: Duration = Duration::from_secs(1);

/// Longest age that a rule can set, for the same reason as the most events.
pub const RETENTION_AGE_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Fewest bytes that a rule can keep of a channel. Chosen arbitrarily; `off` keeps nothing.
pub const RETENTION_BYTES_MIN: usize = 1 << 10;

/// Most bytes that a rule can keep of a channel. 1 GiB is what a small node has in memory.
pub const RETENTION_BYTES_MAX: usize = 1 << 30;

/// Most retention rules. They are tried one after another at every publish.
pub const RETENTION_RULES_MAX: usize = 100;

/// Most patterns in a list of channels. They are tried one after another when a channel gets its first listener.
pub const CHANNEL_PATTERNS_MAX: usize = 100;

/// Store: bytes after which a segment of the log takes no more; one batch alone may be larger. Whole
/// segments are deleted, so this is what may stay on disk beyond what is kept.
pub const SEGMENT_BYTES_MAX: u64 = 64 << 20;

/// How long it is known, to all nodes and over restarts, that a channel gets events that are in no log:
/// longer than any client stays away.
pub const EPHEMERAL_NOTE_AGE: Duration = Duration::from_secs(30 * 24 * 3600);

/// How often a node notes it again, while there are such events.
pub const EPHEMERAL_NOTE_INTERVAL: Duration = Duration::from_secs(24 * 3600);

/// How long a channel stays subscribed in the broker after its last listener left. Longer than a page
/// load, a reconnect or a node's restart takes.
pub const LINGER_DEFAULT: Duration = Duration::from_secs(60);

/// How long a new stream waits for the broker to confirm its channels before it opens all the same.
/// Redis takes a millisecond; after a reconnect with 100,000 channels it may take longer.
pub const CONFIRM_TIMEOUT: Duration = Duration::from_secs(1);

/// Most ids of tokens that are kept out at a time: at 100 bytes each, 10 MB. Whoever must revoke more
/// changes the keys.
pub const REVOKED_TOKENS_MAX: usize = 100_000;

/// Redis: how long a revocation is kept for nodes whose connection was lost. A node that was away longer
/// has had its streams end by their own expiry, or has been restarted.
pub const REVOCATION_KEPT: Duration = Duration::from_secs(600);

/// Heartbeat of an idle stream. Proxies cut idle streams after 29 to 100 s; 15 s survives a lost one.
pub const HEARTBEAT_DEFAULT: Duration = Duration::from_secs(15);

/// What `retry:` asks of a client at the beginning of a stream, before jitter.
pub const RETRY_DEFAULT: Duration = Duration::from_secs(2);

/// How long a write to a client may make no progress before its stream ends.
pub const SEND_TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);

/// Longest line a decoder takes, and longest data of one decoded event, in bytes. Twice the largest
/// event that Headwater sends, since a line end becomes `\ndata: ` on the wire.
pub const DECODER_BYTES_MAX: usize = 2 * EVENT_DATA_BYTES_MAX;

/// Redis: most channels in one SUBSCRIBE. A command of 512 long names is 130 KB at most.
pub const SUBSCRIBE_BATCH_MAX: usize = 512;

/// Redis: most SUBSCRIBE or UNSUBSCRIBE commands that wait for their confirmations. With the batch
/// size it keeps confirmations far below Redis' 8 MB soft limit for Pub/Sub clients.
pub const SUBSCRIBE_UNCONFIRMED_MAX: usize = 8;

/// Redis: longest wait before the next attempt to connect.
pub const RECONNECT_WAIT_MAX: Duration = Duration::from_secs(2);

/// Redis: how often the probe goes through Pub/Sub, and how long it may take to come back before the
/// connection is taken for dead.
pub const PROBE_INTERVAL: Duration = Duration::from_secs(5);

/// Redis: how long connecting, and the answer to a command, may take.
pub const REDIS_RESPONSE_TIMEOUT: Duration = Duration::from_secs(3);

/// Redis: largest message taken from the subscriber connection, in bytes. Redis itself allows 512 MB in
/// a value; a larger announcement than this means that the other side does not speak Redis' protocol.
pub const REDIS_MESSAGE_BYTES_MAX: usize = 512 << 20;

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
    assert!(EPHEMERAL_NOTE_INTERVAL.as_secs() * 2 < EPHEMERAL_NOTE_AGE.as_secs());
    assert!(EVENT_NAME_BYTES_MAX == CHANNEL_BYTES_MAX, "a channel's name must fit event:");
    assert!(DECODER_BYTES_MAX >= EVENT_DATA_BYTES_MAX, "we must read what we write");
    assert!(BATCH_BYTES_MAX <= QUEUE_BYTES_MAX);
    assert!(TURN_BYTES_MAX <= QUEUE_BYTES_MAX, "a turn must fit the outbox of a blocked stream");
    assert!(MAILBOX_MESSAGES_FULL < QUEUE_FRAMES_MAX, "publishers wait before streams end");
    assert!(MAILBOX_MESSAGES_FULL < MAILBOX_MESSAGES_MAX);
    assert!(SUBSCRIBE_BATCH_MAX * SUBSCRIBE_UNCONFIRMED_MAX * (CHANNEL_BYTES_MAX + 64) < 8 << 20);
};
