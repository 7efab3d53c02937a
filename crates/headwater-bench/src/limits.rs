//! Every bound of the load generator and the floor, with its reason.

use std::time::Duration;

/// Streams per generator process, at most. Many systems allow a process 20,000 descriptors, of
/// which it needs a few for itself; Linux has 28,000 ports per source address.
pub const STREAMS_PER_PROCESS_MAX: usize = 18_000;

/// Streams per benchmark, at most: 16 full processes. More than a machine with two cores can serve.
pub const STREAMS_MAX: usize = 16 * STREAMS_PER_PROCESS_MAX;

/// Channels, at most: one per stream.
pub const CHANNELS_MAX: usize = STREAMS_MAX;

/// Connections that a process opens at a time. Below nginx's listen backlog of 511, so that opening
/// measures the server and not the kernel's SYN retransmission after a second.
pub(crate) const OPENING_AT_A_TIME_MAX: usize = 256;

/// How long opening all streams may take. At 1 ms per stream, this is enough for 60,000.
pub(crate) const OPEN_TIMEOUT: Duration = Duration::from_secs(60);

/// How long deliveries may take after the last event is published. Chosen arbitrarily: a server
/// that takes longer does not keep up, and the rest counts as missing.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a process keeps reading when everything has arrived: a duplicate would arrive now.
pub(crate) const SETTLE: Duration = Duration::from_millis(50);

/// How long the publisher waits for a response.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a process may take to reply, in addition to the time that the request itself allows.
pub(crate) const WORKER_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a process reports progress, and the progress bar is drawn.
pub(crate) const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

/// Bytes per read. A socket with a backlog is drained in a few calls; one buffer serves all
/// streams.
pub(crate) const READ_BYTES: usize = 64 << 10;

/// The longest response head. hyper's own limit is of this order.
pub(crate) const HEAD_BYTES_MAX: usize = 16 << 10;

/// Kernel events per poll: one per stream of a usual load, at 12 bytes each.
pub(crate) const POLL_EVENTS_MAX: usize = 4096;

/// Bytes of data per event: at least the stamp, at most the server's default limit.
pub const EVENT_BYTES: std::ops::RangeInclusive<usize> = crate::stamp::STAMP_BYTES..=1 << 20;

/// Events in flight over HTTP, each on its own connection. Not more than the holes of a window,
/// since each connection may be late with its event.
pub const HTTP_IN_FLIGHT_MAX: usize = 128;

/// Events in flight over Redis, on one connection. Redis bounds its buffer at 1 GB, so any number
/// would do.
pub const REDIS_IN_FLIGHT_MAX: usize = 10_000;

/// Late events of one stream that are still distinguished from duplicates. Twice as many as may be
/// in flight, so that some may also be missing.
pub(crate) const WINDOW_HOLES_MAX: usize = 256;

/// The longest latency that is measured, an hour; longer ones count as an hour.
pub(crate) const LATENCY_NS_MAX: u64 = 3_600_000_000_000;

/// Unsent bytes of one stream of the floor before it is disconnected: headwater's default.
pub(crate) const FLOOR_BACKLOG_BYTES_MAX: usize = 1 << 20;

/// The longest request to the floor, and the longest message from Redis.
pub(crate) const FLOOR_REQUEST_BYTES_MAX: usize = 2 << 20;

const _: () = assert!(HTTP_IN_FLIGHT_MAX <= WINDOW_HOLES_MAX);
const _: () = assert!(*EVENT_BYTES.end() < FLOOR_REQUEST_BYTES_MAX);
