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

/// How long a channel stays subscribed in the broker after its last listener left. Longer than a page
/// load, a reconnect or a node's restart takes.
pub const LINGER_DEFAULT: Duration = Duration::from_secs(60);

/// How long a new stream waits for the broker to confirm its channels before it opens all the same.
/// Redis takes a millisecond; after a reconnect with 100,000 channels it may take longer.
pub const CONFIRM_TIMEOUT: Duration = Duration::from_secs(1);

/// Most ids of tokens that are kept out at a time: at 100 bytes each, 10 MB. Whoever must revoke more
/// changes the keys.
pub const REVOKED_TOKENS_MAX: usize = 100_000;

/// Longest line a decoder takes, and longest data of one decoded event, in bytes. Twice the largest
/// event that Headwater sends, since a line end becomes `\ndata: ` on the wire.
pub const DECODER_BYTES_MAX: usize = 2 * EVENT_DATA_BYTES_MAX;

const _: () = {
    assert!(EVENT_NAME_BYTES_MAX == CHANNEL_BYTES_MAX, "a channel's name must fit event:");
    assert!(DECODER_BYTES_MAX >= EVENT_DATA_BYTES_MAX, "we must read what we write");
    assert!(MAILBOX_MESSAGES_FULL < QUEUE_FRAMES_MAX, "publishers wait before streams end");
    assert!(MAILBOX_MESSAGES_FULL < MAILBOX_MESSAGES_MAX);
};
