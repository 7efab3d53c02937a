//! Every key and Redis channel that a node uses. Look here for what Headwater writes in a Redis.
//!
//! `{0}` is the log, in Redis Cluster's hash tag, so that all keys of a log are in one slot.

use headwater_core::Channel;

/// The log: what all its keys and Redis channels begin with.
pub(crate) const LOG: &str = "headwater:{0}";

/// Redis channels of events that travel in an envelope.
pub(crate) const ENVELOPES: &str = "headwater:{0}:";

/// The Redis channel over which nodes send each other revocations. No channel has an envelope of this
/// name.
pub(crate) const REVOCATIONS_CHANNEL: &str = "headwater:revoked:{0}";

/// What was revoked, as a sorted set by the time until which it is retained, in milliseconds since 1970.
pub(crate) const REVOCATIONS: &str = "headwater:{0}:revoked";

/// The epoch of the log.
pub(crate) const EPOCH: &str = "headwater:{0}:epoch";

/// The last offset of the log.
pub(crate) const SEQUENCE: &str = "headwater:{0}:seq";

/// The retention rules that the function reads.
pub(crate) const RULES: &str = "headwater:{0}:rules";

/// The last offset of a channel, and whether it has ended.
pub(crate) fn last(channel: &Channel) -> String {
    format!("{LOG}:last:{channel}")
}

/// Whether a channel gets events that are in no log.
pub(crate) fn ephemeral(channel: &Channel) -> String {
    format!("{LOG}:plain:{channel}")
}

/// The Redis channel of a channel's envelopes.
pub(crate) fn envelopes(channel: &Channel) -> String {
    format!("{ENVELOPES}{channel}")
}

/// A Redis channel for the probes of one node.
pub(crate) fn probe(node: u64) -> String {
    format!("headwater:probe:{node:016x}")
}
