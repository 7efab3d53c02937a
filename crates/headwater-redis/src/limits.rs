//! Bounds of the broker over Redis, each with its reason. Look here before you change a number.

use std::time::Duration;

use headwater_core::limits::CHANNEL_BYTES_MAX;

/// How long it is known, to all nodes and over restarts, that a channel gets events that are in no log:
/// longer than any client stays away.
pub const EPHEMERAL_NOTE_AGE: Duration = Duration::from_secs(30 * 24 * 3600);

/// How often a node notes it again, while there are such events.
pub const EPHEMERAL_NOTE_INTERVAL: Duration = Duration::from_secs(24 * 3600);

/// how long a revocation is kept for nodes whose connection was lost. A node that was away longer
/// has had its streams end by their own expiry, or has been restarted.
pub const REVOCATION_KEPT: Duration = Duration::from_secs(600);

/// most channels in one SUBSCRIBE. A command of 512 long names is 130 KB at most.
pub const SUBSCRIBE_BATCH_MAX: usize = 512;

/// most SUBSCRIBE or UNSUBSCRIBE commands that wait for their confirmations. With the batch
/// size it keeps confirmations far below Redis' 8 MB soft limit for Pub/Sub clients.
pub const SUBSCRIBE_UNCONFIRMED_MAX: usize = 8;

/// longest wait before the next attempt to connect.
pub const RECONNECT_WAIT_MAX: Duration = Duration::from_secs(2);

/// how often the probe goes through Pub/Sub, and how long it may take to come back before the
/// connection is taken for dead.
pub const PROBE_INTERVAL: Duration = Duration::from_secs(5);

/// how long connecting, and the answer to a command, may take.
pub const REDIS_RESPONSE_TIMEOUT: Duration = Duration::from_secs(3);

/// largest message taken from the subscriber connection, in bytes. Redis itself allows 512 MB in
/// a value; a larger announcement than this means that the other side does not speak Redis' protocol.
pub const REDIS_MESSAGE_BYTES_MAX: usize = 512 << 20;

const _: () = {
    assert!(EPHEMERAL_NOTE_INTERVAL.as_secs() * 2 < EPHEMERAL_NOTE_AGE.as_secs());
    assert!(SUBSCRIBE_BATCH_MAX * SUBSCRIBE_UNCONFIRMED_MAX * (CHANNEL_BYTES_MAX + 64) < 8 << 20);
};
