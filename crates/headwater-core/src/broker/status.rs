//! The state of a broker, as health checks and metrics show it.

use std::time::Duration;

/// The state of a broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct BrokerStatus {
    /// Whether events are known to arrive: for a broker that probes its connection, whether the
    /// last probe made its round trip in time.
    pub ready: bool,
    /// How long the last probe's round trip through the broker took; `None` if the broker is in
    /// this process.
    pub lag: Option<Duration>,
    /// How many times the connection to the broker was lost.
    pub reconnects: u64,
    /// How many channels the node is known to receive.
    pub channels_confirmed: usize,
    /// How many channels the node should receive.
    pub channels_wanted: usize,
    /// How many missing events were read again and delivered in order.
    pub healed: u64,
}

impl BrokerStatus {
    /// A broker that delivers events. Set the other fields where they mean something.
    pub fn ready() -> Self {
        Self { ready: true, ..Self::default() }
    }
}
