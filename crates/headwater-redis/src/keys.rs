//! Every key and Redis channel that a node uses. Look here for what Headwater writes to Redis.
//!
//! `{0}` names the log in Redis Cluster's hash tag, so that all keys of a log are in one slot.

use headwater_core::Channel;

/// The log: the prefix of all its keys and Redis channels.
pub(crate) const LOG: &str = "headwater:{0}";

/// The epoch of the log.
pub(crate) const EPOCH: &str = "headwater:{0}:epoch";

/// The prefix of the Redis channels for events in an envelope.
pub(crate) const ENVELOPES: &str = "headwater:{0}:";

/// The Redis channel on which nodes send each other revocations. It cannot collide with a channel's
/// envelopes.
pub(crate) const REVOCATIONS_CHANNEL: &str = "headwater:revoked:{0}";

/// The revocations, as a sorted set by the time until which each is retained, in milliseconds since
/// 1970.
pub(crate) const REVOCATIONS: &str = "headwater:{0}:revoked";

/// The retention rules that the function reads.
pub(crate) const RULES: &str = "headwater:{0}:rules";

/// The note that a channel receives ephemeral events.
pub(crate) fn ephemeral(channel: &Channel) -> String {
    format!("{LOG}:plain:{channel}")
}

/// The Redis channel for a channel's envelopes.
pub(crate) fn envelopes(channel: &Channel) -> String {
    format!("{ENVELOPES}{channel}")
}

/// The Redis channel for the probes of one node.
pub(crate) fn probe(node: u64) -> String {
    format!("headwater:probe:{node:016x}")
}
