//! The bounds of the server beside those of the library, with their reasons. Those that users may want to change
//! are settings; these are not.

use std::time::Duration;

/// Most events in one NDJSON batch. All are checked before the first is published, so they are in
/// memory at once; ten thousand is a second of a busy publisher.
pub(crate) const BATCH_EVENTS_MAX: usize = 10_000;

/// Most channels that one event is published to with one request. The same as one stream may listen to.
pub(crate) const PUBLISH_CHANNELS_MAX: usize = headwater::limits::CHANNELS_PER_STREAM_MAX;

/// How long the body of a request may take. 8 MiB in 30 s is a slow phone's uplink.
pub(crate) const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Most bytes of all bodies that are on their way; twice `max-body`, if that is more. Without it ten thousand slow
/// publishers could make the server hold 80 GB. Small bodies never notice.
pub(crate) const BODIES_BYTES_MAX: usize = 64 << 20;

/// Most memory that is set aside for a body on the word of its `content-length`, before it comes. Events are smaller.
pub(crate) const BODY_RESERVED_BYTES_MAX: usize = 256 << 10;

/// Connections that the kernel holds until we accept them: a thousand clients that come back at once fit many times.
pub(crate) const LISTEN_BACKLOG: i32 = 4096;

/// Most addresses followed in a header that proxies wrote. Real chains have two or three.
pub(crate) const FORWARDED_HOPS_MAX: usize = 16;

/// Buckets of one limit by rate: sets, and buckets in a set. 65,536 clients that are busy at the same time are
/// told apart, for 1 MiB; beyond that, the ones nearest to their limit are.
pub(crate) const RATE_LIMIT_SETS: usize = 8_192;
/// See [`RATE_LIMIT_SETS`].
pub(crate) const RATE_LIMIT_WAYS: usize = 8;

/// When a client with too many streams may ask again. It does not get better by itself; chosen arbitrarily.
pub(crate) const STREAM_RETRY_AFTER: Duration = Duration::from_secs(10);

/// What a client is asked to wait at least before it comes back to a server that is full, before jitter. With the usual
/// two seconds, ten thousand clients outside would be four thousand requests a second.
pub(crate) const FULL_RETRY_MIN: Duration = Duration::from_secs(10);

/// How often the log says that the server is full.
pub(crate) const FULL_LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Largest file of certificates, or of a key. A chain has a few KB.
pub(crate) const CERTIFICATE_FILE_BYTES_MAX: u64 = 1 << 20;

/// How often the files of certificate and key are looked at. What changed is used when it stayed the same from
/// one look to the next, since two files are never replaced at once.
pub(crate) const CERTIFICATE_LOOK_INTERVAL: Duration = Duration::from_secs(2);
