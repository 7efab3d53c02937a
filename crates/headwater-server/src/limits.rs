//! The bounds of the server, in addition to those of the library, with their reasons. Those that
//! users may want to change are settings; these are not.

use std::time::Duration;

/// Most events in one NDJSON batch. All are checked before the first is published, so they are in
/// memory at once; ten thousand is a second of a busy publisher.
pub(crate) const BATCH_EVENTS_MAX: usize = 10_000;

/// Most channels that one event is published to with one request. The same as on one
/// stream.
pub(crate) const PUBLISH_CHANNELS_MAX: usize = headwater::limits::CHANNELS_PER_STREAM_MAX;

/// How long the body of a request may take. 8 MiB in 30 s is a slow phone's uplink.
pub(crate) const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// How many times its size a body in flight counts in its share of the memory: as it came, as text,
/// and as events.
pub(crate) const BODY_COST: usize = 3;

/// One user may have one part in so many of that share, or one body of the largest size, and so may
/// one address whose users are not known: one publisher does not keep out the others.
pub(crate) const BODY_SHARES: usize = 4;

/// What an event of a batch counts in that share, besides its part of the body: it, in a list that
/// grows, with its names, its receipt, and that as JSON.
pub(crate) const BATCH_EVENT_BYTES: usize = 512;

/// The events of one batch count as one part in so many of that share at most, so that a batch of
/// maximum size is accepted where memory is small.
pub(crate) const BATCH_EVENTS_PART: usize = 8;

/// Strangers, about whom the application is asked only when their batches were read, have one part
/// in so many of that share together, or one batch of the largest size; and as many of the turns.
/// Half, since there may be no others, and there may be many.
pub(crate) const STRANGERS_PART: usize = 2;

/// A batch with a body of more bytes waits for its turn: some hundred events, which are a
/// millisecond of work.
pub(crate) const LARGE_BATCH_BYTES: usize = 8 << 10;

/// An event for more channels waits for its turn, too: it is as much work as a small batch.
pub(crate) const MANY_CHANNELS: usize = 16;

/// Turns at a time, each of another publisher. Four batches of 10,000 events take 40 MB, and are
/// four threads.
pub(crate) const TURNS_MAX: usize = 4;

/// How long a publisher may wait for its turn. Batches take some 20 ms each, or two seconds for
/// each part if their channels are congested.
pub(crate) const TURN_WAIT_MAX: Duration = Duration::from_secs(30);

/// After how many tasks a thread looks for sockets that are ready, as long as tasks are. With
/// Tokio's 61, requests that take a millisecond each would keep an event that comes in waiting for
/// 61 ms; looking costs a microsecond.
pub(crate) const TASKS_PER_POLL: u32 = 8;

/// Fewest bytes of a body that stay as they came until the body is whole; fewer are copied
/// together. What it costs to keep a piece is then small beside it.
pub(crate) const BODY_PIECE_BYTES_MIN: usize = 1 << 10;

/// What a request takes of memory beside its body, in bytes: its head of 64 KiB as it came and as
/// it was parsed, the answer, and what the allocator adds. Measured; see `tests/it/prices.rs`.
pub(crate) const REQUEST_MEMORY_BYTES_MAX: usize = 1 << 20;

/// How many times its size a body takes of memory: as it came, as text, as events, as those are
/// kept, and encoded, where a line end becomes seven bytes. Measured: 9 for a body of line ends.
pub(crate) const BODY_COPIES_MAX: usize = 12;

/// Time of one core that a request takes. Measured: a millisecond, for a head of 64 KiB. Ten times
/// as much, since the machine may be slower, and shared.
pub(crate) const REQUEST_CPU_MAX: Duration = Duration::from_millis(10);

/// The same for a stream that opens: it may have 100 channels, and a page of history of each.
pub(crate) const STREAM_CPU_MAX: Duration = Duration::from_millis(200);

/// The same for each MiB of a body: as NDJSON it is parsed line by line. Measured: 50 ms in the
/// development profile.
pub(crate) const PUBLISH_CPU_PER_MIB_MAX: Duration = Duration::from_millis(200);

/// How much of a body is read and discarded after the response to a request that was refused, and
/// for how long: as much as the largest body by default, so that its client receives the response.
pub(crate) const REFUSED_BODY_BYTES_MAX: usize = 8 << 20;
/// See [`REFUSED_BODY_BYTES_MAX`].
pub(crate) const REFUSED_BODY_TIME: Duration = Duration::from_secs(2);

/// How many such bodies are read at a time, and the pause after each piece of them: together at
/// most 512 MiB a second. The largest takes 130 ms.
pub(crate) const REFUSED_BODIES_MAX: usize = 8;
/// See [`REFUSED_BODIES_MAX`].
pub(crate) const REFUSED_BODY_PIECE_BYTES: usize = 256 << 10;
/// See [`REFUSED_BODIES_MAX`].
pub(crate) const REFUSED_BODY_PAUSE: Duration = Duration::from_millis(4);

/// Connections that the kernel queues until they are accepted: a thousand clients that reconnect at
/// once fit many times.
pub(crate) const LISTEN_BACKLOG: i32 = 4096;

/// Longest token, in bytes. Header lines of servers and proxies end at 8 or 16 KiB.
pub(crate) const TOKEN_BYTES_MAX: usize = 16 << 10;

/// Longest ticket that is looked up, in bytes; valid ones have 43.
pub(crate) const TICKET_BYTES_MAX: usize = 64;

/// Lifetime of a ticket: a page that requests one opens its stream at once.
pub(crate) const TICKET_TIME: Duration = Duration::from_secs(30);

/// What a ticket takes of its share of the memory, without Redis, besides the names in it; and what
/// each channel takes besides its name. Estimated from the sizes of the types.
pub(crate) const TICKET_BYTES: usize = 384;
/// See [`TICKET_BYTES`].
pub(crate) const TICKET_CHANNEL_BYTES: usize = 48;

/// How often a full share is searched for tickets that are over, at most.
pub(crate) const TICKET_SWEEP: Duration = Duration::from_secs(1);

/// Most tickets that one node stores in Redis within their lifetime: 30 MB of its memory. More than
/// without Redis, since those that are used on other nodes count too.
pub(crate) const TICKETS_IN_REDIS_MAX: u32 = 100_000;

/// Most tickets of one user, or of one address if nothing names a user, within their lifetime. A
/// backend that gets the tickets of its pages with one token has 33 a second.
pub(crate) const TICKETS_PER_CLIENT_MAX: u32 = 1_000;

/// Without Redis, the tickets of one client take one part in so many of their share at once, if
/// that is less: a large ticket counts as several.
pub(crate) const TICKET_SHARES: usize = 4;

/// By how many seconds the clock of an issuer of tokens may be ahead.
pub(crate) const NOT_BEFORE_LEEWAY_S: f64 = 5.0;

/// Most keys of a set that are looked at. Sets in the field have two to ten.
pub(crate) const JWKS_KEYS_MAX: usize = 100;

/// Largest set of keys, in bytes: a hundred keys with their certificates.
pub(crate) const JWKS_BYTES_MAX: usize = 512 << 10;

/// Timeout for loading a key set. Requests wait for it.
pub(crate) const JWKS_TIMEOUT: Duration = Duration::from_secs(5);

/// Age at which a key set is reloaded in any case: a removed key stays valid for this long.
pub(crate) const JWKS_AGE_MAX: Duration = Duration::from_secs(600);

/// Minimum interval between loads of a key set, whatever tokens are sent.
pub(crate) const JWKS_INTERVAL_MIN: Duration = Duration::from_secs(5);

/// Most requests to the application in flight. A small application has a few workers; more would
/// only wait there. One client has half of the places of its kind at most.
pub(crate) const APPLICATION_QUESTIONS_MAX: usize = 32;

/// How many of them are for clients without cookie and authorization. The others are for clients
/// with some, so neither kind keeps the other waiting.
pub(crate) const APPLICATION_QUESTIONS_STRANGERS_MAX: usize = 8;

/// Most requests of one kind that wait for their turn: a storm of 5,000 a second for two seconds.
pub(crate) const APPLICATION_WAITING_MAX: usize = 10_000;

/// Most requests of one client, by its address, that wait for their turn. Behind a proxy that is
/// not in trusted-proxies all have one address.
pub(crate) const APPLICATION_WAITING_PER_CLIENT_MAX: usize = 2_000;

/// How long a request to the application counts as in flight if there is no answer, though the
/// client has left or was denied: a worker may still be busy with it. Chosen arbitrarily, longer
/// than servers let a request take.
pub(crate) const APPLICATION_QUESTION_TIME_MAX: Duration = Duration::from_secs(60);

/// How often a question is asked whose answer was revoked before it was used. Twice in a row is
/// very unlikely.
pub(crate) const APPLICATION_ATTEMPTS_MAX: usize = 2;

/// Longest URL that the application is asked with, in bytes: what the HTTP client can send. Many
/// servers accept 8 KB.
pub(crate) const APPLICATION_URL_BYTES_MAX: usize = 60 << 10;

/// How long a response of the application is cached: long enough for a page that opens several
/// streams, short enough for a logout to take effect soon.
pub(crate) const APPLICATION_CACHE_TIME: Duration = Duration::from_secs(2);

/// Most cached responses of the application: a storm of 5,000 a second for two seconds.
pub(crate) const APPLICATION_CACHE_MAX: usize = 10_000;

/// Largest response of the application, in bytes: a hundred channels with the longest names fit.
pub(crate) const APPLICATION_ANSWER_BYTES_MAX: usize = 64 << 10;

/// How often a warning is logged that clients can cause; those in between are counted.
pub(crate) const WARNING_INTERVAL: Duration = Duration::from_secs(10);

/// How long a token stays revoked whose expiry was not named.
pub(crate) const REVOKED_TIME_DEFAULT: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Most addresses followed in a header that proxies wrote. Real chains have two or three.
pub(crate) const FORWARDED_HOPS_MAX: usize = 16;

/// Buckets of one limit by rate: sets, and buckets in a set. 65,536 clients that are busy at the
/// same time are distinguished, for 1 MiB; beyond that, the ones nearest to their limit are.
pub(crate) const RATE_LIMIT_SETS: usize = 8_192;
/// See [`RATE_LIMIT_SETS`].
pub(crate) const RATE_LIMIT_WAYS: usize = 8;

/// How many times the limit of an address a site of IPv6, a /48, may use up. Chosen arbitrarily: it
/// lets the networks of an office have their own, and no customer 65,536 of them.
pub(crate) const SITE_TIMES: usize = 8;

/// Credentials that the application accepted and that are remembered by hash, so that an address
/// with invalid ones does not lock them out: 128 KiB.
pub(crate) const ACCEPTED_CREDENTIALS_MAX: usize = 4_096;

/// How long they are remembered: clients reconnect, and page to page takes minutes.
pub(crate) const ACCEPTED_CREDENTIALS_TIME: Duration = Duration::from_secs(10 * 60);

/// When a client with too many streams may ask again. It does not get better by itself; chosen
/// arbitrarily.
pub(crate) const STREAM_RETRY_AFTER: Duration = Duration::from_secs(10);

/// Shortest reconnection delay that clients of a full server are asked for, before jitter. With the
/// usual two seconds, ten thousand clients outside would be four thousand requests a second.
pub(crate) const FULL_RETRY_MIN: Duration = Duration::from_secs(10);

/// Longest text of others in a log line or an error, in characters: the detail of a problem
/// document fits, the body of a response does not.
pub(crate) const PRINTED_TEXT_CHARS_MAX: usize = 2_000;

/// Lines of one kind that are logged at `info` or above within [`LOG_LINES_TIME`]; further ones are
/// counted. Enough to see that it is not one client, too few to fill a disk: 70,000 a day at most.
pub(crate) const LOG_LINES_MAX: u32 = 8;
/// See [`LOG_LINES_MAX`].
pub(crate) const LOG_LINES_TIME: Duration = Duration::from_secs(10);

/// Largest file of certificates, or of a key. A chain has a few KB.
pub(crate) const CERTIFICATE_FILE_BYTES_MAX: u64 = 1 << 20;

/// How often the files of certificate and key are looked at. What changed is used when it stayed
/// the same from one look to the next, since two files are never replaced at once.
pub(crate) const CERTIFICATE_LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// How long the banner waits for Redis, which usually answers within milliseconds.
pub(crate) const BANNER_REDIS_TIMEOUT: Duration = Duration::from_secs(1);

/// How often it looks meanwhile whether Redis has answered; the library does not announce it.
pub(crate) const BANNER_LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// How long connecting to another server may take. Longer than three lost SYN packets (1 + 2 + 4
/// s).
pub(crate) const OUTBOUND_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// When nothing came from another server for this long, the kernel asks whether it is still there.
/// Without it a stream from a machine that lost its power would wait indefinitely.
pub(crate) const OUTBOUND_KEEPALIVE: Duration = Duration::from_secs(30);

/// How long a connection to another server stays open without a request. Servers close theirs after
/// 2 to 75 s, and a request that meets the close is lost.
pub(crate) const OUTBOUND_IDLE_TIMEOUT: Duration = Duration::from_secs(1);

/// Timeout for one response of an ACME server.
pub(crate) const ACME_ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Largest response of an ACME server, in bytes: a chain of certificates.
pub(crate) const ACME_ANSWER_BYTES_MAX: usize = 256 << 10;

/// How long a whole order may take: the server validates each name from several locations.
pub(crate) const ACME_ORDER_TIMEOUT: Duration = Duration::from_secs(360);

/// How often an order's state is asked for at first, and for how long in all.
pub(crate) const ACME_POLL_INTERVAL: Duration = Duration::from_millis(500);
/// See [`ACME_POLL_INTERVAL`].
pub(crate) const ACME_POLL_TIMEOUT: Duration = Duration::from_secs(120);

/// How long it waits after an order that failed. It doubles from the shortest to the longest; Let's
/// Encrypt accepts five failed orders per name and hour.
pub(crate) const ACME_RETRY_MIN: Duration = Duration::from_secs(120);
/// See [`ACME_RETRY_MIN`].
pub(crate) const ACME_RETRY_MAX: Duration = Duration::from_secs(4 * 60 * 60);

/// How often it is looked whether a certificate is due, at least: clocks are set, machines sleep.
pub(crate) const ACME_LOOK_INTERVAL: Duration = Duration::from_secs(60 * 60);

const _: () = assert!(
    TICKET_TIME.as_secs() + APPLICATION_QUESTION_TIME_MAX.as_secs()
        < headwater::limits::DECISION_AGE_MAX.as_secs(),
    "a node that starts knows what was revoked since the ticket was decided"
);
const _: () = assert!(
    ACME_ORDER_TIMEOUT.as_secs()
        > 2 * ACME_POLL_TIMEOUT.as_secs() + 3 * ACME_ANSWER_TIMEOUT.as_secs(),
    "an order may wait twice, and ask in between"
);
