//! Every bound of the library, with its reason. Look here before adding a queue, a table or a wait.

use std::time::Duration;

/// Longest name of a channel, in bytes. 255 fits every naming scheme seen in practice, and its
/// length fits one byte.
pub const CHANNEL_BYTES_MAX: usize = 255;

/// Longest name of an event, in bytes. The same as a channel's, because a channel's name can
/// replace it (`as=channel`).
pub const EVENT_NAME_BYTES_MAX: usize = 255;

/// Longest id of an event, in bytes. Clients send it as a request header; 255 is far below every
/// server's limit for one header line.
pub const EVENT_ID_BYTES_MAX: usize = 255;

/// Shortest reconnect delay that an event or a setting may ask clients for. A stream may have other
/// publishers' channels too: with 0, one event would make its client reconnect in a loop.
pub const RETRY_MIN: Duration = Duration::from_millis(100);

/// Longest reconnect delay: with more, one event would keep a client away from its other channels
/// long after what it misses is retained by default.
pub const RETRY_MAX: Duration = Duration::from_secs(5 * 60);

/// Most hexadecimal digits of an epoch: 48 bits make an accidental collision unlikely, and an id
/// short.
pub const EPOCH_DIGITS_MAX: usize = 12;

/// The largest offset: the largest integer that a double represents exactly, since brokers may
/// count in doubles. At a million events per second it is reached after 285 years.
pub const OFFSET_MAX: u64 = (1 << 53) - 1;

/// Maximum number of channels per stream: a request line with 100 names of usual length stays below
/// 8 KiB, which proxies accept.
pub const CHANNELS_PER_STREAM_MAX: usize = 100;

/// Maximum data of one event, in bytes. Larger events from a broker are dropped, counted and
/// logged. 8 MiB: well over any sensible event, and a node can hold one for each stream that
/// replays.
pub const EVENT_DATA_BYTES_MAX: usize = 8 << 20;

/// Maximum number of frames in the queue of one stream. A burst of ten thousand small events must
/// not close a stream whose client reads; 16,384 references to shared frames are 128 KiB.
pub const QUEUE_FRAMES_MAX: usize = 16_384;

/// Maximum number of bytes in the queue of one stream; a single frame may be larger. With `n`
/// stalled streams the node holds at most `n` times this, in fact less, because streams share
/// frames.
pub const QUEUE_BYTES_MAX: usize = 1 << 20;

/// Resolution of a stream's timers. Heartbeats, lifetimes and send timeouts are in the range of
/// seconds and may fire up to two ticks late.
pub const TICK: Duration = Duration::from_millis(100);

/// Engine: number of messages in a shard's mailbox at which publishers wait. A message is an event
/// on a channel; a thousand of them occupy a shard with a few thousand streams for a second, and
/// are far below what a stream's queue holds.
pub const MAILBOX_MESSAGES_FULL: usize = 1024;

/// Engine: bytes of events in a shard's mailbox at which publishers wait. As much as waits for one
/// stream: what publishers have put into the mailbox before they wait must not close the streams of
/// clients that read.
pub const MAILBOX_BYTES_FULL: usize = QUEUE_BYTES_MAX;

/// Largest part of a batch that is published at once, in bytes of encoded events; a single event
/// may be larger. As much as a mailbox takes before publishers wait.
pub const PUBLISH_BYTES_MAX: usize = MAILBOX_BYTES_FULL;

/// Engine: publishers to a channel wait once this many of its streams on a shard have a backlog, if
/// these are also more than half of those that read at all: the node is then considered to be at
/// its limit. Fewer are slow clients, which must not affect other clients.
pub const CONGESTED_STREAMS_MIN: usize = 100;

/// Engine: average backlog of these streams, in bytes, above which publishers wait. A sixteenth of
/// what a stream's queue holds, so that no stream closes while its client reads.
pub const CONGESTED_BYTES: usize = QUEUE_BYTES_MAX / 16;

/// Engine: maximum number of messages in a shard's mailbox. Publishers on this node wait long
/// before; events from other nodes cannot be delayed. Beyond this, the streams of the channels that
/// have the most messages close and resume. A million, since a reset of the log sends two messages
/// for every channel at once.
pub const MAILBOX_MESSAGES_MAX: usize = 1 << 20;

/// Engine: maximum number of bytes of events in a shard's mailbox, for the same reason. Eight
/// events of maximum size. While a shard is busy with one turn, four times as much may arrive, and
/// twice as many messages.
pub const MAILBOX_BYTES_MAX: usize = 8 * EVENT_DATA_BYTES_MAX;

/// Engine: longest time that a publisher waits for a shard that is behind. Any longer, and
/// publishers would time out; after it, each stream that cannot keep up closes individually.
pub const PUBLISH_WAIT_MAX: Duration = Duration::from_secs(2);

/// Longest idempotency key, in bytes: a UUID has 36.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;

/// How long an idempotency key is remembered. A publisher that has not retried by then has given
/// up.
pub const IDEMPOTENCY_WINDOW: Duration = Duration::from_secs(600);

/// Maximum number of idempotency keys that are remembered of one publisher: 166 events a second for
/// the whole window. A busier publisher has a shorter window.
pub const IDEMPOTENCY_KEYS_PER_PUBLISHER_MAX: usize = 100_000;

/// The part of the memory that a node may use for what it keeps, in percent. The rest is for code,
/// stacks, the queues of streams, and what the allocator cannot give back.
pub const BUDGET_PERCENT: usize = 70;

/// Smallest budget for what a node keeps. With less, not one event of maximum size fits its share.
pub const BUDGET_BYTES_MIN: usize = 16 << 20;

/// The memory that is assumed where the operating system does not report it. A small machine.
pub const MEMORY_BYTES_UNKNOWN: usize = 1 << 30;

/// Most memory for what the embedded log remembers of channels: some 67,000 with names of usual
/// length. Chosen arbitrarily; a publisher to ever new channels must not fill a large machine.
pub const CHANNELS_SHARE_BYTES_MAX: usize = 18 << 20;

/// Most memory for idempotency keys: some 400,000 UUIDs, for the same reason.
pub const KEYS_SHARE_BYTES_MAX: usize = 128 << 20;

/// Most memory for bodies in flight: ten of the usual largest size at once. Without it slow
/// publishers could make a large machine hold 80 GB.
pub const BODIES_SHARE_BYTES_MAX: usize = 256 << 20;

/// From how many bytes of data on the embedded log keeps an event unencoded: its data is shared by
/// all channels that it was published to, and line ends cost one byte instead of seven. Smaller
/// events are kept as the frames that rings share.
pub const KEPT_UNENCODED_BYTES_MIN: usize = 16 << 10;

/// Maximum number of events, and of bytes of data, that the embedded log appends before it lets
/// others publish and read: some milliseconds. A single event may be larger.
pub const APPEND_EVENTS_MAX: usize = 256;
/// See [`APPEND_EVENTS_MAX`].
pub const APPEND_BYTES_MAX: usize = 1 << 20;

/// Maximum number of channels without subscribers that stay subscribed for the linger, on a node.
/// The pages of ten thousand people reload at the same time; with more, the oldest are
/// unsubscribed, and who returns to them reads the log.
pub const LINGERING_CHANNELS_MAX: usize = 16_384;

/// Maximum number of frames in a channel's ring, from which reconnecting streams resume. A little
/// more than the default retention, so that one backfill of it fits.
pub const RING_FRAMES_MAX: usize = 1024;

/// Maximum number of bytes in a channel's ring.
pub const RING_BYTES_MAX: usize = 1 << 20;

/// Maximum number of bytes in all rings. Beyond it, the channel that receives a frame drops its
/// oldest.
pub const RING_TOTAL_BYTES_MAX: usize = 64 << 20;

/// Maximum age of a frame in a ring. Clients that were disconnected longer resume from the broker's
/// history.
pub const RING_AGE_MAX: Duration = Duration::from_secs(600);

/// Maximum number of frames that a resuming stream takes at a time, for each of its channels.
pub const REPLAY_FRAMES_MAX: usize = 128;

/// Maximum number of bytes of history in one answer of the broker; a single event may be larger. A
/// stream that resumes slowly holds at most this per channel.
pub const REPLAY_BYTES_MAX: usize = 256 << 10;

/// Maximum number of reads of history that are in flight. Each takes the broker a millisecond at
/// most, and other commands of the node go between them.
pub const READS_MAX: usize = 32;

/// How far back the history is searched for an event by its publisher's ID, in bytes beyond the
/// ring: the default retention. An event that is older counts as unknown.
pub const SEARCH_BYTES_MAX: usize = RETENTION_BYTES_DEFAULT;

/// How long a resuming stream waits before it retries a failed read from the broker.
pub const REPLAY_RETRY: Duration = Duration::from_millis(500);

/// How long a stream that replays waits for room in the share of the memory for that. Then it ends,
/// and its client resumes later: two streams that wait for each other's pages must not wait
/// forever. Clients that read give their pages back within milliseconds.
pub const REPLAY_ROOM_WAIT_MAX: Duration = Duration::from_secs(2);

/// How often the stream that is next looks whether there is room.
pub const REPLAY_ROOM_INTERVAL: Duration = Duration::from_millis(10);

/// Maximum number of events to rewind by.
pub const REWIND_EVENTS_MAX: usize = 1_000_000;

/// Longest time to rewind by.
pub const REWIND_AGE_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// Default retention of a channel, in events: more than a page that reconnects wants to show.
pub const RETENTION_EVENTS_DEFAULT: usize = 1_000;

/// Default retention of a channel, as the age of events: longer than a reload, a restart or a short
/// network outage.
pub const RETENTION_AGE_DEFAULT: Duration = Duration::from_secs(10 * 60);

/// Default retention of a channel, in bytes: one event of maximum size.
pub const RETENTION_BYTES_DEFAULT: usize = EVENT_DATA_BYTES_MAX;

/// Maximum number of events that a rule can retain per channel. A longer history belongs in a
/// database.
pub const RETENTION_EVENTS_MAX: usize = 1_000_000;

/// Shortest retention that a rule can set. Events of a shorter one would expire before a client
/// could reconnect.
pub const RETENTION_AGE_MIN: Duration = Duration::from_secs(1);

/// Longest retention that a rule can set, for the same reason as
/// [the number of events](RETENTION_EVENTS_MAX).
pub const RETENTION_AGE_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Smallest number of bytes that a rule can set. Chosen arbitrarily; `off` retains nothing.
pub const RETENTION_BYTES_MIN: usize = 1 << 10;

/// Largest number of bytes that a rule can set. 1 GiB is the memory of a small node.
pub const RETENTION_BYTES_MAX: usize = 1 << 30;

/// Maximum number of retention rules. Every publish tries them in order.
pub const RETENTION_RULES_MAX: usize = 100;

/// Maximum number of patterns in a set of channels. They are tried in order when a channel gets its
/// first subscriber.
pub const CHANNEL_PATTERNS_MAX: usize = 100;

/// Store: maximum size of a log segment, in bytes; a single batch may be larger. Segments are
/// deleted as a whole, so this much may stay on disk beyond what is retained.
pub const SEGMENT_BYTES_MAX: u64 = 64 << 20;

/// How long a channel stays subscribed in the broker after its last subscriber left. Longer than a
/// page load, a reconnect or a node's restart takes.
pub const LINGER_DEFAULT: Duration = Duration::from_secs(60);

/// How long a new stream waits for the broker to confirm its channels before it opens anyway. The
/// confirmation usually takes a millisecond; after a reconnect with 100,000 channels it may take
/// longer.
pub const CONFIRM_TIMEOUT: Duration = Duration::from_secs(1);

/// Maximum number of revoked token ids at a time: 10 MB at 100 bytes each, and at most three times
/// that. To revoke more, change the signing keys.
pub const REVOKED_TOKENS_MAX: usize = 100_000;

/// Longest id of a user, token or stream that can be revoked, in bytes. The same as a channel's
/// name; ids in the field are numbers, UUIDs or mail addresses.
pub const OWNER_ID_BYTES_MAX: usize = 255;
/// Maximum number of users and channels whose latest revocation is remembered, to find what was
/// decided before it: 4 MB. Beyond that all are forgotten at once, and what was decided before
/// counts as revoked: tickets and cached answers, which live for seconds.
pub const REVOCATIONS_REMEMBERED_MAX: usize = 100_000;

/// Longest time for which a decision may be shown again after it was made, for example as a ticket.
/// A node that starts reads the revocations of this time.
pub const DECISION_AGE_MAX: Duration = Duration::from_secs(120);

/// Longest line that a decoder accepts, and maximum data of one decoded event, in bytes. Twice the
/// largest event that Headwater sends, since a line end becomes `\ndata: ` on the wire.
pub const DECODER_BYTES_MAX: usize = 2 * EVENT_DATA_BYTES_MAX;

const _: () = {
    assert!(EVENT_NAME_BYTES_MAX == CHANNEL_BYTES_MAX, "a channel's name must fit event:");
    assert!(DECODER_BYTES_MAX >= EVENT_DATA_BYTES_MAX, "the decoder reads what the encoder writes");
    assert!(MAILBOX_MESSAGES_FULL < QUEUE_FRAMES_MAX, "publishers wait before streams close");
    assert!(MAILBOX_MESSAGES_FULL < MAILBOX_MESSAGES_MAX);
    assert!(OWNER_ID_BYTES_MAX >= CHANNEL_BYTES_MAX, "what a stream has can be revoked");
};
