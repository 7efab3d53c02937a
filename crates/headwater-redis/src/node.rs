//! What the sessions of a node share, and what is remembered from one to the next.

use std::collections::HashMap;
use std::sync::Arc;

use headwater_core::Channel;
use headwater_core::broker::Sink;
use headwater_core::log::Epoch;
use redis::aio::ConnectionManager;

use crate::connect::Address;
use crate::ephemeral::{EphemeralChannels, KnownEphemeral};
use crate::wanted::Wanted;

/// A node on a Redis.
pub(crate) struct Node {
    pub(crate) address: Address,
    pub(crate) commands: ConnectionManager,
    pub(crate) wanted: Arc<Wanted>,
    /// The retention rules as the function reads them; `None` leaves those that are there.
    pub(crate) rules: Option<String>,
    /// Which plain Redis channels are listened to.
    pub(crate) ephemeral: EphemeralChannels,
    pub(crate) sink: Sink,
}

/// What is remembered from one session to the next: where the log was, and where each channel was that
/// the node has received without a hole.
#[derive(Default)]
pub(crate) struct Known {
    pub(crate) epoch: Option<Epoch>,
    pub(crate) lasts: HashMap<Channel, u64>,
    /// When the last session ended, in milliseconds since 1970.
    pub(crate) lost_ms: Option<u64>,
    /// Channels that are known to get ephemeral events.
    pub(crate) ephemeral: KnownEphemeral,
    /// Channels of which that is still to be noted in Redis. Bounded by the channels that are
    /// subscribed, each of which is noted once a day.
    pub(crate) unnoted: Vec<Channel>,
}
