//! Every bound of the load generator, the floor and the comparison, with its reason.

use std::time::Duration;

/// Most streams of one generator process. 20,000 descriptors is what many systems allow one process, and a
/// process needs a few for itself; it also stays below the 28,000 ports that Linux gives to one source address.
pub const STREAMS_PER_PROCESS_MAX: usize = 18_000;

/// Most streams of one benchmark: 16 processes full of them. More than one machine can serve from two cores.
pub const STREAMS_MAX: usize = 16 * STREAMS_PER_PROCESS_MAX;

/// Most channels: one for each stream.
pub const CHANNELS_MAX: usize = STREAMS_MAX;

/// Connections that one process opens at a time. Below nginx's listen backlog of 511, so that opening measures
/// the server and not the kernel's second try after a second.
pub(crate) const OPENING_AT_A_TIME_MAX: usize = 256;

/// How long the opening of all streams may take. A server that takes 1 ms for each opens 60,000 in it.
pub(crate) const OPEN_TIMEOUT: Duration = Duration::from_secs(60);

/// How long the deliveries may still take when the last event is published. Chosen arbitrarily: what takes
/// longer is a server that does not keep up, and the rest counts as missing.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a process still listens when everything has come: a duplicate would come now.
pub(crate) const SETTLE: Duration = Duration::from_millis(50);

/// How long the publisher waits when nothing is answered.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a process that was told something may take to say that it understood, beyond the time that
/// the work itself may take.
pub(crate) const WORKER_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a process tells how far it is, and the bar is drawn.
pub(crate) const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

/// Bytes read with one call. A socket with a backlog is emptied in few calls; one buffer serves all streams.
pub(crate) const READ_BYTES: usize = 64 << 10;

/// Longest head of a response. hyper's own limit is of this order.
pub(crate) const HEAD_BYTES_MAX: usize = 16 << 10;

/// Events taken from the kernel with one poll: one per stream of a usual load, at 12 bytes each.
pub(crate) const POLL_EVENTS_MAX: usize = 4096;

/// Data of one event: the stamp at least, and what a publisher may send by default at most.
pub const EVENT_BYTES: std::ops::RangeInclusive<usize> = crate::stamp::STAMP_BYTES..=1 << 20;

/// Events in flight over HTTP: each has a connection of its own. It must not be more than the holes of a window,
/// since each connection may be late with its event.
pub const HTTP_IN_FLIGHT_MAX: usize = 128;

/// Events in flight over Redis, on one connection. Its buffer at Redis is bounded by 1 GB, so any number would do.
pub const REDIS_IN_FLIGHT_MAX: usize = 10_000;

/// Events that one stream may be late with, and that are still told from duplicates. Twice as many as may be under
/// way, so that some may be missing besides.
pub(crate) const WINDOW_HOLES_MAX: usize = 256;

/// Longest time that can be measured, an hour; what took longer counts as an hour.
pub(crate) const LATENCY_NS_MAX: u64 = 3_600_000_000_000;

/// Bytes that wait for one stream of the floor before it is cut off: what headwater holds by default.
pub(crate) const FLOOR_OUTBOX_BYTES_MAX: usize = 1 << 20;

/// Longest request of the floor, and longest message from Redis.
pub(crate) const FLOOR_REQUEST_BYTES_MAX: usize = 2 << 20;

const _: () = assert!(HTTP_IN_FLIGHT_MAX <= WINDOW_HOLES_MAX);
const _: () = assert!(*EVENT_BYTES.end() < FLOOR_REQUEST_BYTES_MAX);
