//! Events that a stream should have had and cannot get. Look here for what clients are told then.

use std::fmt;

use crate::channel::Channel;
use crate::event::Event;

/// The name of the event that announces a gap.
pub const GAP_EVENT: &str = "headwater-gap";

/// Why events are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GapReason {
    /// They are older than what is kept.
    Trimmed,
    /// The client's last id is not known.
    UnknownId,
    /// The client's last id is from another life of the log, or was numbered by another node.
    Epoch,
    /// The connection to the broker was lost, and what was published meanwhile is kept nowhere.
    BrokerLost,
}

/// Events of a channel that a stream should have had and cannot get. Clients get it as an event named
/// `headwater-gap`, whose data is JSON: `{"channel": "news", "reason": "trimmed"}`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Gap {
    /// The channel that misses events.
    pub channel: Channel,
    /// Why.
    pub reason: GapReason,
}

impl GapReason {
    /// Every reason, in the order of their declaration.
    pub const ALL: [Self; 4] = [Self::Trimmed, Self::UnknownId, Self::Epoch, Self::BrokerLost];

    /// The reason as it stands in the event and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Trimmed => "trimmed",
            Self::UnknownId => "unknown-id",
            Self::Epoch => "epoch",
            Self::BrokerLost => "broker-lost",
        }
    }
}

impl fmt::Display for GapReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Gap {
    pub(crate) fn to_event(&self) -> Event {
        let data = serde_json::json!({
            "channel": self.channel.as_str(),
            "reason": self.reason.as_str(),
        });
        let event = Event::new(data.to_string());
        event.clone().with_name(GAP_EVENT).unwrap_or(event)
    }
}
