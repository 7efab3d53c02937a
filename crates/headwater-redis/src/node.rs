//! The state that a node's sessions share, and the state that is carried from one to the next. Look
//! here for what survives a lost connection.

use std::collections::HashMap;
use std::sync::Arc;

use headwater_core::Channel;
use headwater_core::broker::Sink;
use headwater_core::log::Epoch;

use crate::commands::Commands;
use crate::connect::Address;
use crate::ephemeral::{EphemeralChannels, KnownEphemeral};
use crate::wanted::Wanted;

/// A node on a Redis server.
pub(crate) struct Node {
    pub(crate) address: Address,
    pub(crate) commands: Commands,
    pub(crate) wanted: Arc<Wanted>,
    /// The retention rules in the function's text form; `None` leaves the rules in Redis unchanged.
    pub(crate) rules: Option<String>,
    /// The plain Redis channels that the node subscribes to.
    pub(crate) ephemeral: EphemeralChannels,
    pub(crate) sink: Sink,
}

/// What is carried from one session to the next: the position of the log, and of each channel that
/// the node has received without a hole.
#[derive(Default)]
pub(crate) struct Known {
    pub(crate) epoch: Option<Epoch>,
    pub(crate) last_offsets: HashMap<Channel, u64>,
    /// When the last session ended, in milliseconds since 1970.
    pub(crate) lost_ms: Option<u64>,
    /// Channels that are known to receive ephemeral events.
    pub(crate) ephemeral: KnownEphemeral,
    /// Channels for which that is not noted in Redis yet. The number of subscribed channels bounds
    /// the list, since each is noted once a day.
    pub(crate) unnoted: Vec<Channel>,
}
