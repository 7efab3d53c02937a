//! Why a stream ended. One enum for log fields, metric labels and test expectations.

use std::fmt;

/// Why a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Closed {
    /// The client went away.
    Client,
    /// The stream of events came to its end.
    Finished,
    /// The stream of events gave an error.
    Source,
    /// More was waiting for the client than its queue holds.
    Overflow,
    /// A write to the client made no progress for the send timeout.
    Stalled,
    /// The stream reached its maximum lifetime.
    Lifetime,
    /// The node ends its streams because it stops.
    Drain,
    /// Something of ours failed, which is a bug and in the log.
    Failed,
}

impl Closed {
    /// Every reason, in the order of their declaration.
    pub const ALL: [Self; 8] = [
        Self::Client,
        Self::Finished,
        Self::Source,
        Self::Overflow,
        Self::Stalled,
        Self::Lifetime,
        Self::Drain,
        Self::Failed,
    ];

    /// The reason as one word, as it stands in logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Finished => "finished",
            Self::Source => "source",
            Self::Overflow => "overflow",
            Self::Stalled => "stalled",
            Self::Lifetime => "lifetime",
            Self::Drain => "drain",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
