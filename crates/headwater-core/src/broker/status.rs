//! The state of a broker, as health checks and metrics show it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// The state of a broker.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct BrokerStatus {
    /// Whether events arrive: for a broker that probes its connection, whether the last probe made
    /// its round trip in time.
    pub delivers: Part,
    /// Whether events can be published and, where retention is configured, are retained.
    pub keeps: Part,
    /// Whether retained events can be read.
    pub reads: Part,
    /// Whether the node knows all revocations that the broker retains, and receives new ones.
    pub access: Part,
    /// How long the last probe's round trip through the broker took; `None` if the broker is in
    /// this process.
    pub lag: Option<Duration>,
    /// How many times the connection to the broker was lost.
    pub reconnects: u64,
    /// How many channels the node is known to receive.
    pub channels_confirmed: usize,
    /// How many channels the node should receive.
    pub channels_wanted: usize,
}

/// One part of what a broker does: it works, it is off, or it fails.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Part {
    is_failed: bool,
    reason: Option<Arc<str>>,
}

impl BrokerStatus {
    /// A broker of which every part works. Set the other fields where they mean something.
    pub fn ready() -> Self {
        Self::default()
    }

    /// Whether every part works.
    pub fn is_ready(&self) -> bool {
        [&self.delivers, &self.keeps, &self.reads, &self.access].iter().all(|part| part.is_ok())
    }
}

impl Part {
    /// A part that works.
    pub fn ok() -> Self {
        Self::default()
    }

    /// A part that is not in use, with the reason. That is no failure.
    pub fn off(reason: impl Into<Arc<str>>) -> Self {
        Self { is_failed: false, reason: Some(reason.into()) }
    }

    /// A part that does not work, with the reason: what failed, and what to do about it.
    pub fn failed(reason: impl Into<Arc<str>>) -> Self {
        Self { is_failed: true, reason: Some(reason.into()) }
    }

    /// Whether it does not fail.
    pub fn is_ok(&self) -> bool {
        !self.is_failed
    }

    /// Whether it is not in use.
    pub fn is_off(&self) -> bool {
        !self.is_failed && self.reason.is_some()
    }

    /// Why it fails or is off; `None` if it works.
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    /// Why it does not work; `None` if it does not fail.
    pub fn failure(&self) -> Option<&str> {
        self.reason().filter(|_| self.is_failed)
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason().unwrap_or("ok"))
    }
}
