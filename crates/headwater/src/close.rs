//! Why a stream ended. One enum for log fields, metric labels and test expectations.

use std::fmt;

/// Why a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloseReason {
    /// The client went away.
    ClientGone,
    /// The stream of events came to its end.
    Finished,
    /// The stream of events gave an error.
    SourceError,
    /// More was waiting for the client than its queue holds.
    Overflow,
    /// A write to the client made no progress for the send timeout.
    Stalled,
    /// The stream reached its maximum lifetime.
    Lifetime,
    /// The node ends its streams because it stops.
    Drain,
    /// Something of ours failed, which is a bug and in the log.
    Internal,
    /// What its client was allowed is over: see [`EventSourceResponse::expires_at`](crate::EventSourceResponse::expires_at).
    Expired,
    /// It was ended from outside: see [`Hub::revoke`](crate::Hub::revoke).
    Revoked,
}

impl CloseReason {
    /// Every reason, in the order of the declaration.
    pub fn all() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter()
    }

    pub(crate) const ALL: [Self; 10] = [
        Self::ClientGone,
        Self::Finished,
        Self::SourceError,
        Self::Overflow,
        Self::Stalled,
        Self::Lifetime,
        Self::Drain,
        Self::Internal,
        Self::Expired,
        Self::Revoked,
    ];

    /// The reason as one word, as it stands in logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ClientGone => "client",
            Self::Finished => "finished",
            Self::SourceError => "source",
            Self::Overflow => "overflow",
            Self::Stalled => "stalled",
            Self::Lifetime => "lifetime",
            Self::Drain => "drain",
            Self::Internal => "failed",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
