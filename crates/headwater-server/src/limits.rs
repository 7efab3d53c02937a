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

/// Connections that the kernel holds until we accept them: a thousand clients that come back at once fit many times.
pub(crate) const LISTEN_BACKLOG: i32 = 4096;
