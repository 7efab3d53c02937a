//! The state that a node's sessions share, and the state that is carried from one to the next. Look
//! here for what survives a lost connection.

use std::collections::HashSet;
use std::sync::Arc;

use headwater_core::Channel;
use headwater_core::broker::Sink;
use headwater_core::clock::now_ms;
use headwater_core::limits::DECISION_AGE_MAX;
use headwater_core::log::Epoch;

use crate::commands::Commands;
use crate::connect::Address;
use crate::desired::Desired;
use crate::ephemeral::{EphemeralChannels, KnownEphemeral};
use crate::library::{Heard, LogMode};

/// A node on a Redis server.
pub(crate) struct Node {
    pub(crate) address: Address,
    pub(crate) commands: Commands,
    pub(crate) desired: Arc<Desired>,
    /// The retention rules in the function's text form; `None` leaves the rules in Redis unchanged.
    pub(crate) rules: Option<String>,
    /// The plain Redis channels that the node subscribes to.
    pub(crate) ephemeral: EphemeralChannels,
    pub(crate) sink: Sink,
}

impl Node {
    /// The position of the log that the node has heard of; not that of the node alone.
    pub(crate) fn heard(&self) -> Option<Heard> {
        let heard = self.sink.heard().filter(|_| self.desired.log_mode() != LogMode::Denied)?;
        let (epoch, offset) = (heard.epoch(), heard.offset());
        Some(Heard { epoch, offset, ended: self.desired.ended_epochs(), accepted: Vec::new() })
    }

    /// Goes without the log, since Redis denies it. A node that has used the log waits for the
    /// permission instead: without the log, all its streams would get a gap event.
    pub(crate) fn deny_log(&self) {
        if self.sink.heard().is_none() {
            self.desired.set_log_mode(LogMode::Denied);
        }
    }
}

/// What is carried from one session to the next.
#[derive(Default)]
pub(crate) struct Carried {
    /// The epoch of this node alone, if it may not use the log in Redis.
    pub(crate) local_epoch: Option<Epoch>,
    /// Since when revocations may have been missed, in milliseconds since 1970: since the end of
    /// the last session that knew all before. At the start, as long ago as anything was decided
    /// that may still be shown here.
    pub(crate) missed_since_ms: u64,
    /// Channels that are known to receive ephemeral events.
    pub(crate) ephemeral: KnownEphemeral,
    /// Channels for which that is not noted in Redis yet.
    pub(crate) unnoted: HashSet<Channel>,
    /// Channels of which ephemeral events were dropped during a restore that is not finished.
    pub(crate) dropped_ephemeral: HashSet<Channel>,
}

impl Carried {
    pub(crate) fn new() -> Self {
        let age_ms = u64::try_from(DECISION_AGE_MAX.as_millis()).unwrap_or(u64::MAX);
        Self { missed_since_ms: now_ms().saturating_sub(age_ms), ..Self::default() }
    }
}
