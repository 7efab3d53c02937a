//! Gaps: events that a stream missed and that are no longer available. Look here for the event that
//! reports one to clients.

use std::fmt;

use crate::channel::Channel;
use crate::event::Event;

/// The name of the event that reports a gap.
pub const GAP_EVENT: &str = "headwater-gap";

/// Why events are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GapReason {
    /// They are no longer retained.
    Trimmed,
    /// The client's last event ID is unknown.
    UnknownId,
    /// The client's last event ID is from another epoch of the log, or is the number of another
    /// node.
    Epoch,
    /// The connection to the broker was lost, and events published meanwhile were not retained.
    BrokerLost,
}

/// Events of a channel that a stream missed and that are no longer available. Clients receive an
/// event named `headwater-gap`, whose data is JSON: `{"channel": "news", "reason": "trimmed"}`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Gap {
    /// The channel whose events are missing.
    pub channel: Channel,
    /// Why they are missing.
    pub reason: GapReason,
}

impl GapReason {
    /// Every reason, in the order of declaration.
    pub fn all() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter()
    }

    pub(crate) const ALL: [Self; 4] =
        [Self::Trimmed, Self::UnknownId, Self::Epoch, Self::BrokerLost];

    /// The reason as one word, as used in the event and in metrics.
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
