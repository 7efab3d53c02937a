//! Bounds of the broker over Redis, each with its reason. Look here before you change a number.

use std::time::Duration;

use headwater_core::limits::{
    CHANNEL_BYTES_MAX, DECISION_AGE_MAX, EVENT_DATA_BYTES_MAX, REPLAY_BYTES_MAX, REPLAY_FRAMES_MAX,
};

/// How long Redis retains the note, for all nodes and across restarts, that a channel receives
/// ephemeral events: longer than any client stays disconnected.
pub const EPHEMERAL_NOTE_AGE: Duration = Duration::from_secs(30 * 24 * 3600);

/// How often a node renews that note while the channel receives ephemeral events, in case Redis has
/// evicted it. 100,000 such channels cost 170 short commands per second.
pub const EPHEMERAL_NOTE_INTERVAL: Duration = Duration::from_secs(600);

/// How much longer than its history a channel's last offset is retained, in milliseconds.
/// `arguments.lua` has the same number.
pub const LAST_EXTRA_MS: u64 = 24 * 3600 * 1000;

/// Maximum number of entries that one call reads from a history, and of bytes unless the last one
/// exceeds it: about half a millisecond of Redis' only thread. Callers page through more.
pub const READ_ENTRIES_MAX: usize = REPLAY_FRAMES_MAX;
/// See [`READ_ENTRIES_MAX`].
pub const READ_BYTES_MAX: usize = REPLAY_BYTES_MAX;

/// How long a revocation is retained for nodes whose connection was lost. After a longer outage the
/// node's streams have ended by their own expiry, or the node has been restarted.
pub const REVOCATION_KEPT: Duration = Duration::from_secs(600);

/// Maximum number of its own revocations that a node remembers, to repeat them after a failover: at
/// most a few megabytes. Redis retains the others.
pub const OWN_REVOCATIONS_MAX: usize = 10_000;

/// Maximum number of channels in one SUBSCRIBE. A command with 512 long names has 130 KB at most.
pub const SUBSCRIBE_BATCH_MAX: usize = 512;

/// Maximum number of SUBSCRIBE or UNSUBSCRIBE commands that wait for their confirmations. Together
/// with the batch size it keeps confirmations far below Redis' soft limit of 8 MB for Pub/Sub
/// clients.
pub const SUBSCRIBE_UNCONFIRMED_MAX: usize = 8;

/// The first wait before reconnecting; doubled up to the longest. Chosen to spare a Redis that
/// restarts.
pub const RECONNECT_WAIT_MIN: Duration = Duration::from_millis(50);

/// How many channels with ephemeral events are noted in one round trip.
pub const NOTES_MAX: usize = 1_000;

/// How long after the log was reset nodes may still be about to note their channels with ephemeral
/// events again. A connection that is lost meanwhile may have lost events of any channel.
pub const NOTES_AGAIN_WITHIN: Duration = Duration::from_secs(60);

/// How many epochs of the log a node remembers, to recognize an older copy of it.
pub const EPOCHS_MAX: usize = 16;

/// How many bytes of events a node publishes before it has received them itself: a publisher that
/// would exceed it waits. With as much again that is published meanwhile, and one event of maximum
/// size, this is below the 32 MB at which Redis disconnects a subscriber.
pub const UNHEARD_BYTES_MAX: usize = 8 << 20;

/// Longest wait before the next attempt to connect.
pub const RECONNECT_WAIT_MAX: Duration = Duration::from_secs(2);

/// How often a probe is sent through Pub/Sub, and how soon what Redis refused is subscribed to
/// again. Together with [`REDIS_RESPONSE_TIMEOUT`], twice if both connections are dead, it bounds
/// how long a node takes to notice and to replace them: less than 10 s.
pub const PROBE_INTERVAL: Duration = Duration::from_secs(2);

/// How soon the next probe is sent while the last one failed.
pub const PROBE_RETRY: Duration = Duration::from_secs(1);

/// How often a node compares what Redis has with what it needs.
pub const RECONCILE_INTERVAL: Duration = Duration::from_secs(5);

/// How soon what Redis lacks is tried again.
pub const RECONCILE_RETRY: Duration = Duration::from_secs(1);

/// How often a session looks for what it must repeat.
pub const SESSION_TICK: Duration = Duration::from_millis(500);

/// Timeout for connecting, and how long Redis may send nothing at all while a command waits for its
/// answer, or while a confirmation or a probe is due on the subscriber connection. A slow answer
/// that arrives in pieces is not cut off by it.
pub const REDIS_RESPONSE_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a SUBSCRIBE may be unconfirmed while nothing arrives at all, before the connection
/// counts as dead: longer than most scripts and slow commands block Redis.
pub const CONFIRM_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest wait for the answer to a command, however slowly bytes arrive: enough for the largest
/// answers, of 1 MiB, over a link of 35 KB/s.
pub const COMMAND_WAIT_MAX: Duration = Duration::from_secs(30);

/// Shortest time between two command connections if the first leads to a replica. A demoted primary
/// costs a node one connection in this time, and a failover is noticed within it.
pub const REPLACE_INTERVAL: Duration = Duration::from_millis(500);

/// Maximum number of commands that wait for an answer; further ones wait for room. Allows 40,000
/// per second at a round trip of 100 ms.
pub const COMMANDS_WAITING_MAX: usize = 4096;

/// Maximum number of replaced command connections that still wait for answers.
pub const RETIRED_CONNECTIONS_MAX: usize = 8;

/// Largest message accepted on the subscriber connection, in bytes. Redis itself allows 512 MB in a
/// value; a larger length means that the peer does not speak Redis' protocol.
pub const REDIS_MESSAGE_BYTES_MAX: usize = 512 << 20;

const _: () = {
    assert!(2 * UNHEARD_BYTES_MAX + EVENT_DATA_BYTES_MAX < 32_000_000);
    assert!(DECISION_AGE_MAX.as_secs() < REVOCATION_KEPT.as_secs());
    assert!(REDIS_RESPONSE_TIMEOUT.as_secs() < COMMAND_WAIT_MAX.as_secs());
    assert!(REPLACE_INTERVAL.as_millis() <= RECONNECT_WAIT_MAX.as_millis());
    assert!(EPHEMERAL_NOTE_INTERVAL.as_secs() * 2 < EPHEMERAL_NOTE_AGE.as_secs());
    assert!(SUBSCRIBE_BATCH_MAX * SUBSCRIBE_UNCONFIRMED_MAX * (CHANNEL_BYTES_MAX + 64) < 8 << 20);
};
